//! What the chain has of one party's stream.

use std::time::Duration;

use alloy::primitives::Address;
use wire::Digest;

use crate::chain::{AddressFault, Chain, ChainError, Logged};
use crate::ledger::{LedgerError, Target};
use crate::registry;
use crate::view::LedgerView;

/// What the auditor knows without the party: who writes where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pinned {
    /// The contract.
    pub contract: Option<Address>,
    /// The account that writes the party's stream.
    pub submitter: Option<Address>,
}

/// Why the chain can't be asked about a party.
#[derive(Debug, thiserror::Error)]
pub enum GatherError {
    /// The ledger has never met a chain.
    #[error("the ledger of {0} has met no chain yet: nothing is anchored")]
    NoTarget(String),
    /// The ledger names another chain.
    #[error("{0}")]
    OtherChain(String),
    /// The ledger can't be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The address can't be used.
    #[error(transparent)]
    Address(#[from] AddressFault),
    /// The chain gave no answer.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

/// How often logs and head are asked for until they fit, while somebody writes.
const LOOKS_MAX: usize = 3;

/// What the chain has of one party's stream, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnChain {
    /// Where the ledger says that it writes.
    pub(crate) target: Target,
    /// What of that is not as the auditor knows it.
    pub(crate) unlike: Vec<String>,
    /// The stream's head in the contract's state.
    pub(crate) head: Digest,
    /// Every batch of the stream since the ledger began, in order; `None` if the node has not kept the logs. Then the head is
    /// compared alone: it commits to all of them, but can't say which one differs.
    pub(crate) logs: Option<Vec<Logged>>,
    /// The last batch that the ledger called on chain, before the chain was asked.
    pub(crate) claimed: u64,
}

impl OnChain {
    /// Asks the node at `rpc`. The node is believed: ask one of your own, or several.
    ///
    /// # Errors
    /// [`GatherError`].
    pub async fn gather(rpc: &str, timeout: Duration, ledger: &LedgerView, pinned: &Pinned) -> Result<Self, GatherError> {
        let party = ledger.party();
        let target = ledger.target()?.ok_or_else(|| GatherError::NoTarget(format!("{} {}", party.kind.as_str(), party.name)))?;
        let claimed = ledger.last_on_chain()?;
        let mut unlike = Vec::new();
        if target.stream != party.stream() {
            unlike.push("its stream is not that of its party".to_owned());
        }
        for (what, known, found) in
            [("contract", pinned.contract, target.contract), ("account", pinned.submitter, target.submitter)]
        {
            if let Some(known) = known.filter(|known| *known != found) {
                unlike.push(format!("it names {what} {found}, and not {known}"));
            }
        }
        // Asked where the auditor knows the truth to be, not where the ledger says.
        let contract = pinned.contract.unwrap_or(target.contract);
        let submitter = pinned.submitter.unwrap_or(target.submitter);
        let stream = party.stream();
        let chain = Chain::new(rpc, timeout)?;
        let identity = chain.identity(contract).await?;
        if (identity.chain_id, identity.genesis) != (target.identity.chain_id, target.identity.genesis) {
            let name = &party.name;
            return Err(GatherError::OtherChain(format!(
                "the node is on another chain than the ledger of {name} was written for"
            )));
        }
        if identity.code_hash != registry::code_hash() {
            return Err(GatherError::OtherChain(format!("{contract} does not hold AnchorRegistry on this chain")));
        }
        let (mut head, mut logs) = (chain.head_of(contract, submitter, &stream).await?, None);
        for _ in 0..LOOKS_MAX {
            logs = match chain.logged(contract, submitter, &stream).await {
                Ok(logged) => since(logged, &target.base_head, &head),
                Err(ChainError::Refused(refusal)) => {
                    tracing::warn!(%refusal, "the node gives no logs; the head in the contract's state stands for them");
                    break;
                }
                Err(away) => return Err(away.into()),
            };
            // What was written between the two questions: ask again.
            let now = chain.head_of(contract, submitter, &stream).await?;
            if logs.is_some() || now == head {
                break;
            }
            head = now;
        }
        Ok(Self { target, unlike, head, logs, claimed })
    }
}

/// The logs behind the head that the ledger began on, if they lead from there to the head in the state without a hole: a node that
/// pruned some of them answers with the rest.
fn since(logs: Vec<Logged>, base_head: &Digest, head: &Digest) -> Option<Vec<Logged>> {
    let begin = if *base_head == Digest::default() { 0 } else { logs.iter().position(|log| log.entry.head() == *base_head)? + 1 };
    let ours = logs.get(begin..)?.to_vec();
    let mut last = *base_head;
    for log in &ours {
        if log.entry.prev != last {
            return None;
        }
        last = log.entry.head();
    }
    (last == *head).then_some(ours)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Entry;

    #[test]
    fn c4_logs_with_a_hole_or_without_an_end_are_none() {
        let mut prev = Digest::default();
        let logs: Vec<Logged> = (1..=4u8)
            .map(|n| {
                let entry = Entry { prev, root: [n; 32], first_seq: n.into(), count: 1 };
                prev = entry.head();
                Logged { entry, tx: [n; 32], block_hash: [n; 32] }
            })
            .collect();
        let zero = Digest::default();
        assert_eq!(since(logs.clone(), &zero, &prev), Some(logs.clone()));
        assert_eq!(since(logs.clone(), &logs[1].entry.head(), &prev), Some(logs[2..].to_vec()));
        assert_eq!(since(vec![], &zero, &zero), Some(vec![]));
        assert_eq!(since(vec![], &zero, &prev), None);
        assert_eq!(since(logs[1..].to_vec(), &zero, &prev), None);
        assert_eq!(since(logs[..3].to_vec(), &zero, &prev), None);
        let mut hole = logs.clone();
        hole.remove(2);
        assert_eq!(since(hole, &zero, &prev), None);
        assert_eq!(since(logs, &[9; 32], &prev), None);
    }
}
