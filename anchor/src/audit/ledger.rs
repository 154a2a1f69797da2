//! A ledger against the chain: do its rows make the roots that were written? Batch by batch, in their order.

use std::collections::BTreeMap;

use alloy::primitives::keccak256;
use wire::digest::to_hex;
use wire::{Digest, Epoch, merkle};

use super::finding::{Class, Evidence, Finding, Notice, Side, Sink, Subject, Tally, What};
use super::notes::Notes;
use super::{Account, AuditError};
use crate::chain::Logged;
use crate::content::Content;
use crate::ledger::LedgerError;
use crate::machine::State;
use crate::party::Party;
use crate::registry::Entry;
use crate::rows::{Batch, Leaf};
use crate::view::LedgerView;

/// Other databases that are told apart: a party has one, and one more for each that was put aside.
const SOURCES_MAX: usize = 64;

/// What the ledger came to.
#[derive(Debug, Default)]
pub(super) struct Judged {
    /// The highest id of a chunk that is in a batch.
    pub last_chunk: i64,
    /// Chunks of this database that are in a batch, with a header that can be believed, and in the store.
    pub present: u64,
    /// Whether the chain has batches that the ledger does not have: then it is no witness of what was not.
    pub is_cut: bool,
}

/// Whether an error is about what stands in a row, and not about the file.
pub(super) fn is_row_fault(error: &LedgerError) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error};
    match error {
        LedgerError::Damaged { .. } => true,
        LedgerError::Sqlite(error) => {
            matches!(error, FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) | Utf8Error(..))
        }
        _ => false,
    }
}

/// Reads a row; `None` if what stands in it is not what the program writes.
fn readable<T>(read: Result<T, LedgerError>) -> Result<Option<T>, LedgerError> {
    match read {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_row_fault(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn judge(account: &Account<'_>, sink: &mut dyn Sink, tally: &mut Tally) -> Result<Judged, AuditError> {
    let judge = Judge { account, ledger: account.ledger, notes: &account.onchain.notes };
    judge.head(sink)?;
    let mut walk = Walk::new(account);
    let mut judged = Judged::default();
    let mut others = BTreeMap::<u64, (u64, u64, u64)>::new();
    let logged = judge.notes.logged()?;
    let (mut row, mut last) = (i64::MIN, 0);
    while let Some(number) = account.ledger.number_after(row)? {
        row = number;
        if number <= 0 {
            judge.find(sink, What::Added, Subject::Ledger, Evidence::of(format!("it has a batch {number}, and they begin at 1")));
            continue;
        }
        let number = number.cast_unsigned();
        judge.hole(sink, &mut walk, last + 1, number - 1, logged)?;
        last = number;
        let log = judge.notes.log(number)?;
        let (Some(batch), Some(leaves)) =
            (readable(account.ledger.batch(number))?.flatten(), readable(account.ledger.leaves(number))?)
        else {
            let evidence = Evidence::of("a column of it or of its leaves is not what the program writes");
            judge.find(sink, What::Rewritten, Subject::Batch(number), evidence);
            judge.notes.judge(number, Some(false))?;
            walk.skip(log.as_ref());
            continue;
        };
        let entry = walk.step(&batch, &leaves, log.as_ref());
        let sound = judge.batch(sink, &batch, &leaves, &entry, log.as_ref())?;
        judge.notes.judge(number, sound)?;
        tally.batches += u64::from(sound == Some(true));
        for leaf in &leaves {
            judge.leaf(sink, leaf, log.as_ref(), &mut judged, &mut others)?;
        }
    }
    judged.is_cut = judge.tail(sink, last, logged)?;
    judge.others(sink, &others);
    if !account.onchain.has_logs {
        judge.by_head(sink, &walk, tally)?;
    }
    Ok(judged)
}

struct Judge<'a> {
    account: &'a Account<'a>,
    ledger: &'a LedgerView,
    notes: &'a Notes,
}

impl Judge<'_> {
    fn find(&self, sink: &mut dyn Sink, what: What, subject: Subject, evidence: Evidence) {
        sink.finding(Finding { side: self.account.side, party: self.account.name.clone(), what, subject, evidence });
    }

    fn rewritten(&self, sink: &mut dyn Sink, batch: u64, evidence: Evidence) {
        self.find(sink, What::Rewritten, Subject::Batch(batch), evidence);
    }

    /// What the ledger says of itself.
    fn head(&self, sink: &mut dyn Sink) -> Result<(), AuditError> {
        let Account { side, name, onchain, .. } = self.account;
        for unlike in &onchain.unlike {
            self.find(sink, What::Rewritten, Subject::Ledger, Evidence::of(unlike.clone()));
        }
        let party = self.ledger.party();
        let is_theirs = match side {
            Side::Terminal => *party == Party::terminal(name.clone()),
            _ => *party == Party::server(party.name.clone()),
        };
        if !is_theirs {
            let evidence =
                format!("it is that of {} {}, and the database is that of {side} {name}", party.kind.as_str(), party.name);
            self.find(sink, What::Rewritten, Subject::Ledger, Evidence::of(evidence));
        }
        if onchain.target.base_head != Digest::default() {
            let evidence = "the chain had batches of this stream before it began: an earlier ledger was lost, or its first batches \
                            were cut off";
            let evidence = Evidence { expected: Some(onchain.target.base_head), ..Evidence::of(evidence) };
            self.find(sink, What::Deleted, Subject::Ledger, evidence);
        }
        Ok(())
    }

    /// Batches that are not there, though later ones are.
    fn hole(&self, sink: &mut dyn Sink, walk: &mut Walk, first: u64, last: u64, logged: u64) -> Result<(), AuditError> {
        for number in first..=last.min(logged) {
            let Some(log) = self.notes.log(number)? else { continue };
            let evidence = format!("the chain has it with root 0x{}, the ledger has no such row", to_hex(&log.entry.root));
            let evidence = Evidence { expected: Some(log.entry.root), ..Evidence::of(evidence) };
            self.find(sink, What::Deleted, Subject::Batch(number), evidence.batch(number, Some(log.tx)));
            walk.skip(Some(&log));
        }
        if first.max(logged + 1) <= last {
            let evidence = format!("there are later ones, and not this one up to {last}");
            self.find(sink, What::Deleted, Subject::Batch(first.max(logged + 1)), Evidence::of(evidence));
        }
        Ok(())
    }

    /// Batches that the chain had before the ledger was read, behind the ledger's last one. Says whether there are any.
    fn tail(&self, sink: &mut dyn Sink, last: u64, logged: u64) -> Result<bool, AuditError> {
        let (mut first, mut count) = (None, 0);
        for number in last + 1..=logged {
            let Some(log) = self.notes.log(number)? else { break };
            if log.block_number > self.account.onchain.block_before {
                break;
            }
            count += 1;
            first.get_or_insert(log);
        }
        let Some(log) = first else { return Ok(false) };
        let evidence = format!(
            "its last batch is {last}, and the chain has {count} more, the first with root 0x{} in transaction 0x{}: the ledger is an \
             older copy, or its last batches were deleted",
            to_hex(&log.entry.root),
            to_hex(&log.tx)
        );
        let evidence = Evidence { expected: Some(log.entry.root), ..Evidence::of(evidence) }.batch(last + 1, Some(log.tx));
        self.find(sink, What::Deleted, Subject::Ledger, evidence);
        Ok(true)
    }

    /// One batch that is there. Says whether the chain has it as its rows make it; `None`: it has not, and nobody says that it has.
    fn batch(
        &self,
        sink: &mut dyn Sink,
        batch: &Batch,
        leaves: &[Leaf],
        entry: &Entry,
        log: Option<&Logged>,
    ) -> Result<Option<bool>, AuditError> {
        let number = batch.number;
        let rows = entry.root;
        if batch.root != rows {
            let words = format!("its leaves make root 0x{}, its row says 0x{}", to_hex(&rows), to_hex(&batch.root));
            self.rewritten(sink, number, Evidence::of(words).digests(batch.root, rows));
        }
        let positions = leaves.iter().zip(0u64..).all(|(leaf, place)| leaf.position == place);
        let Some((head, records)) = readable(self.ledger.beside(number))? else {
            self.rewritten(sink, number, Evidence::of("its head or its count of records is not what the program writes"));
            return Ok(Some(false));
        };
        let counts = leaves.iter().filter_map(|leaf| leaf.content().ok()).map(|content| content.records());
        let counted = counts.fold(0u64, u64::saturating_add);
        let beside = match (head, batch.entry()) {
            // With another root it is another head: that was said.
            (Some(head), Some(made)) => head == made.head() || batch.root != rows,
            (None, None) => true,
            _ => false,
        };
        let is_named = (batch.record == wire::state::Anchored::OnChain) == (batch.progress.state == State::Final);
        // One batch that differs is one finding.
        let is_said = log.is_some_and(|log| log.entry.root != rows);
        if !is_said && (!positions || !beside || !is_named || records.cast_unsigned() != counted) {
            self.rewritten(
                sink,
                number,
                Evidence::of("its columns contradict each other: head, states, count of records, or the order of leaves"),
            );
        }
        for transaction in readable(self.ledger.transactions(number))?.unwrap_or_default() {
            if *keccak256(&transaction.raw) != transaction.hash {
                let words = format!("the bytes of its transaction 0x{} have another hash", to_hex(&transaction.hash));
                self.rewritten(sink, number, Evidence::of(words).digests(transaction.hash, *keccak256(&transaction.raw)));
            }
        }
        if !self.account.onchain.has_logs {
            return Ok(None);
        }
        let claims = matches!(batch.progress.state, State::Mined | State::Final);
        match log {
            Some(log) => {
                let sound = self.by_log(sink, batch, entry, log);
                if sound && !claims {
                    self.unclaimed(sink, batch, log)?;
                }
                Ok(Some(sound))
            }
            None if claims => {
                self.rewritten(sink, number, Evidence::of("the ledger calls it on chain, and the chain does not have it"));
                Ok(Some(false))
            }
            None => Ok(None),
        }
    }

    /// Whether the chain's log says of the batch what its rows say.
    fn by_log(&self, sink: &mut dyn Sink, batch: &Batch, entry: &Entry, log: &Logged) -> bool {
        let (number, said, tx) = (batch.number, &log.entry, to_hex(&log.tx));
        let last = |entry: &Entry| entry.first_seq.saturating_add(entry.count.saturating_sub(1));
        if said.root != entry.root {
            let words =
                format!("its rows make root 0x{}, transaction 0x{tx} wrote 0x{}", to_hex(&entry.root), to_hex(&said.root));
            self.rewritten(sink, number, Evidence::of(words).digests(said.root, entry.root).batch(number, Some(log.tx)));
            return false;
        }
        if (said.first_seq, said.count) != (entry.first_seq, entry.count) {
            let words = format!(
                "its rows are leaves {} to {}, transaction 0x{tx} wrote {} to {}",
                entry.first_seq,
                last(entry),
                said.first_seq,
                last(said)
            );
            self.rewritten(sink, number, Evidence::of(words).batch(number, Some(log.tx)));
            return false;
        }
        let columns =
            batch.prev.is_none_or(|prev| prev == said.prev) && batch.first_seq == said.first_seq && batch.count == said.count;
        // What is not final may move to another block at any moment.
        let place = batch.progress.state != State::Final
            || batch.progress.mined.is_none_or(|mined| {
                (mined.tx, mined.block_hash, mined.block_number, mined.log_index)
                    == (log.tx, log.block_hash, log.block_number, log.log_index)
            });
        if !columns {
            let words = format!("its columns say another place in the stream than transaction 0x{tx} wrote");
            self.rewritten(sink, number, Evidence::of(words).batch(number, Some(log.tx)));
        } else if !place {
            let words = format!("it names another transaction or block than 0x{tx}, which wrote it");
            self.rewritten(sink, number, Evidence::of(words).batch(number, Some(log.tx)));
        }
        true
    }

    /// The chain has it, and the ledger does not say so: not noted yet, if it can have been written at all.
    fn unclaimed(&self, sink: &mut dyn Sink, batch: &Batch, log: &Logged) -> Result<(), AuditError> {
        let (number, state) = (batch.number, batch.progress.state.as_str());
        let evidence = |words: String| Evidence::of(words).batch(number, Some(log.tx));
        if log.block_number > self.account.onchain.block_before {
            return Ok(());
        }
        if !self.ledger.was_signed(number)? {
            let words =
                format!("the ledger says {state} and has never signed it, and transaction 0x{} wrote it", to_hex(&log.tx));
            self.rewritten(sink, number, evidence(words));
            return Ok(());
        }
        let words =
            format!("the ledger says {state}, and transaction 0x{} wrote it in block {}", to_hex(&log.tx), log.block_number);
        let (side, party, subject) = (self.account.side, self.account.name.clone(), Subject::Batch(number));
        sink.notice(Notice { side, party, class: Class::Behind, subject, evidence: evidence(words) });
        Ok(())
    }

    fn leaf(
        &self,
        sink: &mut dyn Sink,
        leaf: &Leaf,
        log: Option<&Logged>,
        judged: &mut Judged,
        others: &mut BTreeMap<u64, (u64, u64, u64)>,
    ) -> Result<(), AuditError> {
        let header = match leaf.content() {
            Ok(Content::Chunk(header)) => header,
            // What a relay keeps is none of this database's.
            Ok(Content::Statement(_)) => return Ok(()),
            Err(_) => {
                let words = format!("the header of chunk {} is not what its leaf was made from", leaf.chunk);
                self.rewritten(sink, leaf.batch, Evidence::of(words));
                return Ok(());
            }
        };
        if !self.ledger.is_source(leaf.source) {
            // The last ones are lumped together.
            let key = if others.len() < SOURCES_MAX { leaf.source.0 } else { u64::MAX };
            let (batch, chunks, records) = others.entry(key).or_insert((leaf.batch, 0, 0));
            (*chunks, *records) = (*chunks + 1, records.saturating_add(header.count));
            let _first = batch;
            return Ok(());
        }
        judged.last_chunk = judged.last_chunk.max(leaf.chunk);
        if self.account.store.holds(leaf.chunk)? {
            judged.present += 1;
            return Ok(());
        }
        let tx = log.map(|log| log.tx);
        let words = format!(
            "{} anchored chunk {} with these {} records, and it is gone",
            super::notes::place(leaf.batch, tx),
            leaf.chunk,
            header.count
        );
        let evidence = Evidence { expected: Some(header.root), ..Evidence::of(words) };
        let evidence = evidence.batch(leaf.batch, tx).time(header.at_min, header.at_max);
        self.find(sink, What::Deleted, Subject::ends(&header.series, header.epoch, &header.intervals), evidence);
        self.notes.lose(&header.series, header.epoch, &header.intervals)?;
        Ok(())
    }

    /// Chunks of databases that are not this one.
    fn others(&self, sink: &mut dyn Sink, others: &BTreeMap<u64, (u64, u64, u64)>) {
        for (source, (batch, chunks, records)) in others {
            let words = format!(
                "{chunks} chunks with {records} records, the first in batch {batch}, are of database {}, which is not this one: it was \
                 put aside, or somebody says so",
                Epoch(*source)
            );
            self.find(sink, What::Deleted, Subject::Ledger, Evidence::of(words));
        }
    }

    /// There are no logs: the batch whose head is the one in the state stands for all before it.
    fn by_head(&self, sink: &mut dyn Sink, walk: &Walk, tally: &mut Tally) -> Result<(), AuditError> {
        let claimed = self.ledger.last_on_chain()?;
        let onchain = self.account.onchain;
        // Between the two looks the party may have written more than the ledger that was read knows of.
        let moved = onchain.head != onchain.head_before;
        let sound = match (walk.reached, walk.reached_before) {
            (Some(reached), _) if reached >= claimed => Some(reached),
            (None, Some(reached)) if moved => Some(reached),
            _ => None,
        };
        if sound.is_none() {
            let words = format!(
                "its rows make head 0x{}, the contract's state has 0x{}; the node has no logs to tell which batch differs",
                to_hex(&walk.head),
                to_hex(&onchain.head)
            );
            self.find(sink, What::Rewritten, Subject::Ledger, Evidence::of(words).digests(onchain.head, walk.head));
        }
        tally.batches += sound.unwrap_or_default();
        let mut row = 0;
        while let Some(number) = self.ledger.number_after(row)? {
            row = number;
            let number = number.cast_unsigned();
            let verdict = match sound {
                Some(reached) => (number <= reached).then_some(true),
                None => Some(false),
            };
            self.notes.judge(number, verdict)?;
        }
        Ok(())
    }
}

fn digests(leaves: &[Leaf]) -> Vec<Digest> {
    leaves.iter().map(|leaf| leaf.digest).collect()
}

/// Heads and numbers from batch to batch.
struct Walk {
    head: Digest,
    next_seq: Option<u64>,
    /// The heads in the contract's state, and the last batches that make them.
    wanted: [Digest; 2],
    reached: Option<u64>,
    reached_before: Option<u64>,
}

impl Walk {
    fn new(account: &Account<'_>) -> Self {
        let wanted = [account.onchain.head, account.onchain.head_before];
        let mut walk =
            Self { head: account.onchain.target.base_head, next_seq: None, wanted, reached: None, reached_before: None };
        walk.look(0);
        walk
    }

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
        self.look(batch.number);
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

    fn look(&mut self, number: u64) {
        let [now, before] = self.wanted;
        if self.head == now {
            self.reached = Some(number);
        }
        if self.head == before {
            self.reached_before = Some(number);
        }
    }
}
