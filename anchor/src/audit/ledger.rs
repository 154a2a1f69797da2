//! A ledger against the chain: do its rows make the roots that were written?

use std::collections::{HashMap, HashSet};

use wire::digest::to_hex;
use wire::{ChunkHeader, Digest, merkle};

use super::{Account, AuditError, Finding, Report, Subject, What};
use crate::chain::Logged;
use crate::ledger::LedgerError;
use crate::machine::State;
use crate::registry::Entry;
use crate::rows::{Batch, Leaf};

/// A chunk as the ledger has it.
#[derive(Debug, Clone)]
pub(super) struct Anchored {
    pub batch: u64,
    pub header: ChunkHeader,
    /// Whether the chain has the batch as the ledger's rows make it. `None`: it is not on chain yet.
    pub sound: Option<bool>,
    /// The transaction, where the chain's log names it.
    pub tx: Option<Digest>,
}

impl Anchored {
    /// Where the anchored root stands, in words.
    pub(super) fn place(&self) -> String {
        match self.tx {
            Some(tx) => format!("batch {} (transaction 0x{})", self.batch, to_hex(&tx)),
            None => format!("batch {}", self.batch),
        }
    }
}

/// The ledger's chunks, by their ids in the store.
#[derive(Debug, Default)]
pub(super) struct Judged {
    pub chunks: HashMap<i64, Anchored>,
    /// The highest id of a chunk that is in a batch.
    pub last_chunk: i64,
    /// Chunks that are in a batch, and whose header can't be believed.
    pub unheaded: HashSet<i64>,
}

pub(super) fn judge(account: &Account<'_>, report: &mut Report) -> Result<Judged, AuditError> {
    let Account { side, ledger, onchain, .. } = *account;
    let mut findings = Vec::new();
    let mut find = |what, subject, evidence| findings.push(Finding { side, what, subject, evidence });
    for unlike in &onchain.unlike {
        find(What::Rewritten, Subject::Ledger, unlike.clone());
    }
    let mut judged = Judged::default();
    let mut walk = Walk { head: onchain.target.base_head, next_seq: None };
    // The last batch whose head is the one in the contract's state.
    let mut reached = (walk.head == onchain.head).then_some(0);
    let last = ledger.last_batch()?;
    let logged = onchain.logs.as_ref().map_or(0, |logs| logs.len() as u64);
    for number in 1..=last.max(logged) {
        let log = onchain.logs.as_ref().and_then(|logs| logs.get(number as usize - 1));
        let batch = match ledger.batch(number) {
            Ok(Some(batch)) => batch,
            Ok(None) => {
                find(What::Deleted, Subject::Batch(number), lost(log));
                walk.skip(log);
                continue;
            }
            Err(LedgerError::Damaged { what, .. }) => {
                find(What::Rewritten, Subject::Batch(number), format!("its {what} is not what the program writes"));
                walk.skip(log);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let leaves = ledger.leaves(number)?;
        let entry = walk.step(&batch, &leaves, log);
        if walk.head == onchain.head {
            reached = Some(number);
        }
        let sound = match &onchain.logs {
            Some(_) => by_log(&batch, &entry, log, onchain.claimed, &mut |evidence| {
                find(What::Rewritten, Subject::Batch(number), evidence);
            }),
            // Judged by the head, when all rows have been walked.
            None => None,
        };
        if batch.root != merkle::root(&digests(&leaves)) {
            let rows = merkle::root(&digests(&leaves));
            find(
                What::Rewritten,
                Subject::Batch(number),
                format!("its leaves make root 0x{}, its row says 0x{}", to_hex(&rows), to_hex(&batch.root)),
            );
        }
        report.batches += u64::from(sound == Some(true));
        for leaf in &leaves {
            let header = match leaf.header() {
                Ok(header) => header,
                Err(_) => {
                    let evidence = format!("the header of chunk {} is not what its leaf was made from", leaf.chunk);
                    find(What::Rewritten, Subject::Batch(number), evidence);
                    judged.unheaded.insert(leaf.chunk);
                    continue;
                }
            };
            if ledger.is_source(leaf.source) {
                judged.last_chunk = judged.last_chunk.max(leaf.chunk);
                judged.chunks.insert(leaf.chunk, Anchored { batch: number, header, sound, tx: log.map(|log| log.tx) });
            }
        }
    }
    if onchain.logs.is_none() {
        match reached.filter(|reached| *reached >= onchain.claimed) {
            Some(reached) => {
                report.batches += reached;
                for chunk in judged.chunks.values_mut().filter(|chunk| chunk.batch <= reached) {
                    chunk.sound = Some(true);
                }
            }
            None => {
                let evidence = format!(
                    "its rows make head 0x{}, the contract's state has 0x{}; the node has no logs to tell which batch differs",
                    to_hex(&walk.head),
                    to_hex(&onchain.head)
                );
                find(What::Rewritten, Subject::Ledger, evidence);
                judged.chunks.values_mut().for_each(|chunk| chunk.sound = Some(false));
            }
        }
    }
    report.findings.append(&mut findings);
    Ok(judged)
}

fn digests(leaves: &[Leaf]) -> Vec<Digest> {
    leaves.iter().map(|leaf| leaf.digest).collect()
}

fn lost(log: Option<&Logged>) -> String {
    match log {
        Some(log) => format!(
            "the chain has it with root 0x{} in transaction 0x{}, the ledger has no such row",
            to_hex(&log.entry.root),
            to_hex(&log.tx)
        ),
        None => "there are later ones, and not this".to_owned(),
    }
}

/// Heads and numbers from batch to batch.
struct Walk {
    head: Digest,
    next_seq: Option<u64>,
}

impl Walk {
    /// What the batch puts on chain by its rows, whatever its columns say. Behind it the walk goes on from what the chain has, so that
    /// one batch that differs is one finding.
    fn step(&mut self, batch: &Batch, leaves: &[Leaf], log: Option<&Logged>) -> Entry {
        let entry = Entry {
            prev: self.head,
            root: merkle::root(&digests(leaves)),
            first_seq: self.next_seq.unwrap_or(batch.first_seq),
            count: leaves.len() as u64,
        };
        self.follow(log.map_or(&entry, |log| &log.entry));
        entry
    }

    /// A batch that the ledger lost.
    fn skip(&mut self, log: Option<&Logged>) {
        if let Some(log) = log {
            self.follow(&log.entry);
        }
    }

    fn follow(&mut self, entry: &Entry) {
        self.head = entry.head();
        self.next_seq = entry.first_seq.checked_add(entry.count);
    }
}

/// Whether the chain's log says of the batch what its rows say.
fn by_log(batch: &Batch, entry: &Entry, log: Option<&Logged>, claimed: u64, find: &mut dyn FnMut(String)) -> Option<bool> {
    let Some(log) = log else {
        if batch.number > claimed {
            return None;
        }
        find("the ledger calls it on chain, and the chain does not have it".to_owned());
        return Some(false);
    };
    let said = &log.entry;
    let tx = to_hex(&log.tx);
    if said.root != entry.root {
        find(format!("its rows make root 0x{}, transaction 0x{tx} wrote 0x{}", to_hex(&entry.root), to_hex(&said.root)));
    } else if (said.first_seq, said.count) != (entry.first_seq, entry.count) {
        find(format!(
            "its rows are leaves {} to {}, transaction 0x{tx} wrote {} to {}",
            entry.first_seq,
            entry.first_seq + entry.count.saturating_sub(1),
            said.first_seq,
            said.first_seq.saturating_add(said.count.saturating_sub(1))
        ));
    } else {
        let columns =
            batch.prev.is_none_or(|prev| prev == said.prev) && batch.first_seq == said.first_seq && batch.count == said.count;
        // What is not final may move to another block at any moment.
        let place = batch.progress.state != State::Final
            || batch.progress.mined.is_none_or(|mined| (mined.tx, mined.block_hash) == (log.tx, log.block_hash));
        if !columns {
            find(format!("its columns say another place in the stream than transaction 0x{tx} wrote"));
        } else if !place {
            find(format!("it names another transaction or block than 0x{tx}, which wrote it"));
        }
        return Some(true);
    }
    Some(false)
}
