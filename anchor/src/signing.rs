//! Signs EIP-1559 transactions. What is signed is decided elsewhere; here it becomes bytes.

use alloy::consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy::eips::eip2718::Encodable2718;
use alloy::primitives::{Address, Bytes, TxKind, U256};
use wire::{At, Digest};

use crate::chain::Fees;
use crate::keys::Key;

/// What a transaction says.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub chain_id: u64,
    pub nonce: u64,
    /// `None` creates a contract.
    pub to: Option<Address>,
    pub input: Bytes,
    pub gas: u64,
    pub fees: Fees,
}

/// A transaction as it is sent, and its hash.
#[derive(Debug, Clone)]
pub(crate) struct Signed {
    pub raw: Vec<u8>,
    pub hash: Digest,
}

impl Draft {
    /// The signed bytes; `None` if the key does not sign.
    pub fn sign(&self, key: &Key) -> Option<Signed> {
        let transaction = TxEip1559 {
            chain_id: self.chain_id,
            nonce: self.nonce,
            gas_limit: self.gas,
            max_fee_per_gas: self.fees.cap,
            max_priority_fee_per_gas: self.fees.tip,
            to: self.to.map_or(TxKind::Create, TxKind::Call),
            value: U256::ZERO,
            access_list: Default::default(),
            input: self.input.clone(),
        };
        let signature = key.sign(transaction.signature_hash())?;
        let envelope = TxEnvelope::from(transaction.into_signed(signature));
        Some(Signed { raw: envelope.encoded_2718(), hash: **envelope.tx_hash() })
    }

    /// The transaction as the ledger keeps it.
    pub fn transaction(&self, signed: Signed, batch: u64, now: At) -> crate::rows::Transaction {
        crate::rows::Transaction {
            hash: signed.hash,
            batch,
            nonce: self.nonce,
            raw: signed.raw,
            fees: self.fees,
            gas: self.gas,
            signed_at: now,
        }
    }
}
