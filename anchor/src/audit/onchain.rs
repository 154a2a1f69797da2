//! What the chain has of one party's stream.
//!
//! The party may be at work. So the chain is looked at twice: before its databases are read, when whatever is on chain must be in its
//! ledger, and behind that, when whatever its ledger calls written must be on chain.

use std::time::Duration;

use alloy::primitives::Address;
use wire::Digest;

use super::notes::Notes;
use crate::chain::{AddressFault, Chain, ChainError};
use crate::ledger::{LedgerError, Target};
use crate::limits;
use crate::node::Node;
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

/// The chain before the party's databases were read.
#[derive(Debug)]
pub struct Before {
    chain: Chain,
    pinned: Pinned,
    head: Digest,
    block: u64,
}

/// What the chain has of one party's stream, at one moment.
#[derive(Debug)]
pub struct OnChain {
    /// Where the ledger says that it writes.
    pub(crate) target: Target,
    /// What of that is not as the auditor knows it.
    pub(crate) unlike: Vec<String>,
    /// The stream's head in the contract's state, before the ledger was read.
    pub(crate) head_before: Digest,
    /// And behind it.
    pub(crate) head: Digest,
    /// The newest block before the ledger was read.
    pub(crate) block_before: u64,
    /// Whether the node has kept all logs since the ledger began; they are in the notes. If not, the head is compared alone: it
    /// commits to all batches, but can't say which one differs.
    pub(crate) has_logs: bool,
    /// What the audit notes about this party.
    pub(crate) notes: Notes,
}

impl Before {
    /// Asks the node at `rpc`, before the party's databases are held: `ledger` is only read to learn where the party writes. The node is
    /// believed: ask one of your own, or several.
    ///
    /// # Errors
    /// [`GatherError`].
    pub async fn look(rpc: impl Into<Node>, timeout: Duration, ledger: &LedgerView, pinned: Pinned) -> Result<Self, GatherError> {
        let target = target(ledger)?;
        let chain = Chain::new(rpc, timeout)?;
        let (contract, submitter) = (pinned.contract.unwrap_or(target.contract), pinned.submitter.unwrap_or(target.submitter));
        let head = chain.head_of(contract, submitter, &ledger.party().stream()).await?;
        let block = chain.latest().await?.number;
        Ok(Self { chain, pinned, head, block })
    }

    /// Asks again, behind the moment at which the party's databases were held. `ledger` is the one that is held.
    ///
    /// # Errors
    /// [`GatherError`].
    pub async fn gather(self, ledger: &LedgerView) -> Result<OnChain, GatherError> {
        let Self { chain, pinned, head: head_before, block: block_before } = self;
        let party = ledger.party();
        let target = target(ledger)?;
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
        let stream = Stream {
            chain: &chain,
            contract: pinned.contract.unwrap_or(target.contract),
            submitter: pinned.submitter.unwrap_or(target.submitter),
            stream: party.stream(),
        };
        let identity = chain.identity(stream.contract).await?;
        if (identity.chain_id, identity.genesis) != (target.identity.chain_id, target.identity.genesis) {
            let name = &party.name;
            return Err(GatherError::OtherChain(format!(
                "the node is on another chain than the ledger of {name} was written for"
            )));
        }
        if identity.code_hash != registry::code_hash() {
            return Err(GatherError::OtherChain(format!("{} does not hold AnchorRegistry on this chain", stream.contract)));
        }
        let notes = Notes::new()?;
        let (mut head, mut has_logs) = (stream.head().await?, false);
        for _ in 0..LOOKS_MAX {
            match stream.read(&notes, &target.base_head, &head, ledger.first_block()?).await {
                Ok(linked) => has_logs = linked,
                Err(GatherError::Chain(ChainError::Refused(refusal))) => {
                    tracing::warn!(%refusal, "the node gives no logs; the head in the contract's state stands for them");
                    break;
                }
                Err(away) => return Err(away),
            }
            // What was written between the two questions: ask again.
            let now = stream.head().await?;
            if has_logs || now == head {
                break;
            }
            head = now;
        }
        if !has_logs {
            notes.forget_logs()?;
        }
        Ok(OnChain { target, unlike, head_before, head, block_before, has_logs, notes })
    }
}

fn target(ledger: &LedgerView) -> Result<Target, GatherError> {
    let party = ledger.party();
    ledger.target()?.ok_or_else(|| GatherError::NoTarget(format!("{} {}", party.kind.as_str(), party.name)))
}

/// One party's stream on the chain.
struct Stream<'a> {
    chain: &'a Chain,
    contract: Address,
    submitter: Address,
    stream: Digest,
}

impl Stream<'_> {
    async fn head(&self) -> Result<Digest, ChainError> {
        self.chain.head_of(self.contract, self.submitter, &self.stream).await
    }

    /// Notes every batch behind the head `base`, in order. Says whether they lead from there to `head` without a hole: a node that pruned
    /// some of the logs answers with the rest. `hint` is a block before which there should be none.
    async fn read(&self, notes: &Notes, base: &Digest, head: &Digest, hint: u64) -> Result<bool, GatherError> {
        let top = self.chain.latest().await?.number;
        if self.read_from(notes, hint, top, base, head).await? {
            return Ok(true);
        }
        if hint == 0 { Ok(false) } else { self.read_from(notes, 0, top, base, head).await }
    }

    async fn read_from(&self, notes: &Notes, from: u64, top: u64, base: &Digest, head: &Digest) -> Result<bool, GatherError> {
        notes.forget_logs()?;
        let mut link = Link::new(*base);
        let (mut next, mut window) = (from, limits::LOG_BLOCKS_MAX);
        while next <= top {
            let last = next.saturating_add(window - 1).min(top);
            match self.chain.logged(self.contract, self.submitter, &self.stream, next..=last).await {
                Ok(logs) => {
                    for log in &logs {
                        match link.follow(log.entry.prev, log.entry.head()) {
                            Followed::Batch(number) => notes.add_log(number, log)?,
                            Followed::Earlier => {}
                            Followed::Hole => return Ok(false),
                        }
                    }
                    next = last + 1;
                }
                // Nodes limit how many blocks they look through, or how much they answer.
                Err(ChainError::Refused(_)) if window > 1 => window = (window / 4).max(1),
                Err(other) => return Err(other.into()),
            }
        }
        Ok(link.head == *head)
    }
}

/// Follows logs from head to head.
struct Link {
    head: Digest,
    number: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Followed {
    /// The batch of that number.
    Batch(u64),
    /// From before the ledger began.
    Earlier,
    /// There should be one before it.
    Hole,
}

impl Link {
    fn new(base: Digest) -> Self {
        Self { head: base, number: 0 }
    }

    fn follow(&mut self, prev: Digest, head: Digest) -> Followed {
        if prev != self.head {
            return if self.number == 0 { Followed::Earlier } else { Followed::Hole };
        }
        self.head = head;
        self.number += 1;
        Followed::Batch(self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c4_logs_with_a_hole_or_without_an_end_are_none() {
        let heads: Vec<(Digest, Digest)> = (0..4u8).map(|n| ([n; 32], [n + 1; 32])).collect();
        let reaches = |base: u8, logs: &[(Digest, Digest)]| {
            let mut link = Link::new([base; 32]);
            for (prev, head) in logs {
                if link.follow(*prev, *head) == Followed::Hole {
                    return None;
                }
            }
            (link.head == [4; 32]).then_some(link.number)
        };
        assert_eq!(reaches(0, &heads), Some(4));
        assert_eq!(reaches(2, &heads), Some(2));
        assert_eq!(reaches(4, &heads), Some(0));
        assert_eq!(reaches(0, &[]), None);
        assert_eq!(reaches(0, &heads[1..]), None);
        assert_eq!(reaches(0, &heads[..3]), None);
        assert_eq!(reaches(0, &[heads[0], heads[1], heads[3]]), None);
        assert_eq!(reaches(9, &heads), None);
    }
}
