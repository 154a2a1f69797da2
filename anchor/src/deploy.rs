//! Puts the registry contract on a chain, and tells whether an address holds it.

use std::time::Duration;

use alloy::primitives::Address;

use crate::chain::{AddressFault, Chain, ChainError};
use crate::keys::Key;
use crate::limits;
use crate::node::Node;
use crate::registry;
use crate::signing::Draft;
use wire::Digest;

/// Why the contract is not on the chain.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The chain's address can't be used.
    #[error(transparent)]
    Address(#[from] AddressFault),
    /// The chain gave no answer, or refused.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The key does not sign.
    #[error("the key does not sign")]
    Key,
    /// The transaction was mined and made no contract.
    #[error("the transaction was mined, but made no contract")]
    Failed,
    /// The address holds something else.
    #[error("{contract} does not hold AnchorRegistry: its code hash is not {}", hex(.expected))]
    OtherCode {
        /// The address.
        contract: Address,
        /// The hash of the code that should be there.
        expected: Digest,
    },
}

fn hex(digest: &Digest) -> String {
    wire::digest::to_hex(digest)
}

/// A contract that was put on a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deployed {
    /// Where it is.
    pub contract: Address,
    /// The gas that it took.
    pub gas_used: u64,
}

/// Puts a new registry on the chain and waits until it is mined, for at most `within`.
///
/// # Errors
/// [`DeployError`]. A transaction that is sent and not mined in time may still be mined later; that costs its gas and
/// does no other harm.
pub async fn deploy(rpc: impl Into<Node>, key: &Key, within: Duration) -> Result<Deployed, DeployError> {
    let node = rpc.into();
    let chain = Chain::new(&node, within)?;
    let code = registry::creation_code();
    let submitter = key.address();
    let estimate = chain.estimate(submitter, None, code.clone()).await?;
    let draft = Draft {
        chain_id: chain.chain_id().await?,
        nonce: chain.nonce(submitter).await?,
        to: None,
        input: code,
        gas: estimate + estimate * limits::GAS_SPARE_PERCENT / 100,
        fees: chain.fees().await?,
    };
    let signed = draft.sign(key).ok_or(DeployError::Key)?;
    chain.send(&signed.raw).await?;
    let receipt = chain.mined(&signed.hash, within).await?;
    let contract = receipt.contract_address.filter(|_| receipt.status()).ok_or(DeployError::Failed)?;
    check(&node, contract, within).await?;
    Ok(Deployed { contract, gas_used: receipt.gas_used })
}

/// Makes sure that `contract` is the registry.
///
/// # Errors
/// [`DeployError::OtherCode`] if it is something else, or nothing.
pub async fn check(rpc: impl Into<Node>, contract: Address, within: Duration) -> Result<(), DeployError> {
    let expected = registry::code_hash();
    if Chain::new(rpc, within)?.identity(contract).await?.code_hash == expected {
        Ok(())
    } else {
        Err(DeployError::OtherCode { contract, expected })
    }
}
