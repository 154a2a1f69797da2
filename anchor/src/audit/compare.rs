//! The two sides of a group against each other, like the halves of a merge.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use wire::digest::to_hex;
use wire::{At, Digest, Intervals, RecordKey, RecordView};

use super::books::{Anchored, Book, Seen, Standing};
use super::finding::{Class, Evidence, Finding, Notice, Side, Sink, Subject, Tally, What};
use super::lane::{Lane, apart, common};
use super::store::{After, Content, Group, Item};
use super::{Account, AuditError, Terms};

/// Records of one piece that are tried against each other when they don't stand to what was anchored.
const SHUFFLED_MAX: usize = 256;
/// Rows that are read at once.
const ROWS_MAX: usize = 128;

/// The other side's word about one record.
struct Word {
    leaf: Digest,
    at: Option<At>,
    witness: Rc<Seen>,
}

impl Word {
    fn place(&self) -> String {
        self.witness.anchored.as_ref().map(Anchored::place).unwrap_or_default()
    }
}

/// Says if the two sides don't have the same secret for an epoch: then they can't make the same leaves.
pub(super) fn secrets(terminal: &Account<'_>, cloud: Option<&Book<'_>>, group: &Group, is_first: bool, sink: &mut dyn Sink) {
    let (Some(ours), Some(theirs)) = (terminal.store.secret(group), cloud.and_then(|cloud| cloud.account.store.secret(group)))
    else {
        return;
    };
    if is_first && ours != theirs {
        let words = format!("the secret of epoch {} at the cloud is not the terminal's: one of them was changed", group.epoch);
        let (party, evidence) = (terminal.name.clone(), Evidence::of(words));
        sink.finding(Finding { side: Side::Between, party, what: What::Changed, subject: Subject::Database, evidence });
    }
}

/// A series of a terminal's epoch that the terminal does not know.
pub(super) fn unknown_series(cloud: &Account<'_>, group: &Group, sink: &mut dyn Sink) -> Result<(), AuditError> {
    let mut seqs = cloud.store.numbered(group)?;
    let mut after = After::START;
    loop {
        let rows = cloud.store.chunks(group, after, ROWS_MAX)?;
        let Some((last, _)) = rows.last() else { break };
        after = *last;
        rows.into_iter().filter_map(|(_, row)| row.ok()).for_each(|piece| seqs.extend(&piece.seqs));
    }
    for &(first, last) in seqs.as_slice() {
        sink.finding(Finding {
            side: Side::Cloud,
            party: cloud.name.clone(),
            what: What::Added,
            subject: Subject::stretch(&group.series, group.epoch, first, last),
            evidence: Evidence::of("the terminal of this epoch has no such series"),
        });
    }
    Ok(())
}

/// Holds the two sides of a group against each other; or one alone against what it anchored.
pub(super) fn group<'a>(
    mut this: Lane<'a>,
    mut that: Option<Lane<'a>>,
    terms: Terms,
    sink: &mut dyn Sink,
    tally: &mut Tally,
) -> Result<(), AuditError> {
    loop {
        let here = this.front(sink, tally)?;
        let there = match &mut that {
            Some(that) => that.front(sink, tally)?,
            None => None,
        };
        let (seen, is_here) = match (here, there) {
            (None, None) => break,
            (Some(here), Some(there)) if there.first < here.first => (there, false),
            (Some(here), _) => (here, true),
            (None, Some(there)) => (there, false),
        };
        match (&mut that, is_here) {
            (None, _) => {
                judge(&mut this, None, &seen, terms, sink, tally)?;
                seen.judged.set(true);
                this.pass(u64::MAX);
            }
            (Some(that), _) => {
                let (own, other) = if is_here { (&mut this, that) } else { (that, &mut this) };
                other.reach(seen.last, sink, tally)?;
                judge(own, Some(&mut *other), &seen, terms, sink, tally)?;
                seen.judged.set(true);
                let next = own.front(sink, tally)?.map_or(u64::MAX, |next| next.first);
                other.pass(next);
                let next = other.front(sink, tally)?.map_or(u64::MAX, |next| next.first);
                own.pass(next);
            }
        }
    }
    let cut = this.book.judged.is_cut;
    close(&this, sink);
    if let Some(cloud) = &that {
        close(cloud, sink);
        beyond(&this, cloud, cut, sink);
    }
    Ok(())
}

/// What a side says that it had, and nothing holds; and what it holds, and never had.
fn close(lane: &Lane<'_>, sink: &mut dyn Sink) {
    let side = lane.book.account.side;
    let is_terminal = side == Side::Terminal;
    let mut told = lane.covered();
    told.extend(&lane.lost);
    for grave in &lane.graves {
        for (first, last) in common(&told, grave.first, grave.last) {
            let words = format!("a tombstone ({}) says that it was given up, and it is there or anchored", grave.reason);
            lane.find(sink, What::Changed, (first, last), Evidence::of(words));
        }
        let class = if grave.taken { Class::Tombstoned } else { Class::Dropped };
        let evidence = Evidence::of(format!("{} at {}", grave.reason, grave.at));
        notice(lane, class, (grave.first, grave.last), evidence, sink);
    }
    lane.graves.iter().for_each(|grave| told.insert(grave.first, grave.last));
    let word = if is_terminal { "were given out" } else { "were received" };
    for &(first, last) in apart(&lane.numbered, &told).as_slice() {
        let words = format!("these numbers {word}, and neither a row, a chunk nor a tombstone has them");
        lane.find(sink, What::Deleted, (first, last), Evidence::of(words));
    }
    // A cloud counts what is in open pages when their segment is closed.
    let held = if is_terminal { lane.covered() } else { lane.in_chunks().clone() };
    let word = if is_terminal { "was given out" } else { "was received" };
    for &(first, last) in apart(&held, &lane.numbered).as_slice() {
        let words = format!("the database holds what, by its own count, never {word}");
        lane.find(sink, What::Added, (first, last), Evidence::of(words));
    }
}

/// The cloud has numbers that the terminal never gave out.
fn beyond(terminal: &Lane<'_>, cloud: &Lane<'_>, is_cut: bool, sink: &mut dyn Sink) {
    let last = terminal.numbered.last().unwrap_or_default();
    // What it holds itself was found with it.
    let mut known = terminal.covered();
    known.extend(&terminal.lost);
    known.insert(1, last);
    for &(first, end) in apart(&cloud.covered(), &known).as_slice() {
        if is_cut {
            let words = format!(
                "the cloud has it, the terminal gave out numbers up to {last} only, and its ledger lacks batches that the chain has: its \
                 database is an older copy"
            );
            terminal.find(sink, What::Deleted, (first, end), Evidence::of(words));
        } else {
            let words = format!("the cloud has it, and the terminal gave out numbers up to {last} only");
            cloud.find(sink, What::Added, (first, end), Evidence::of(words));
        }
    }
}

fn notice(lane: &Lane<'_>, class: Class, (first, last): (u64, u64), evidence: Evidence, sink: &mut dyn Sink) {
    let (side, party) = (lane.book.account.side, lane.book.account.name.clone());
    sink.notice(Notice { side, party, class, subject: lane.subject(first, last), evidence });
}

/// One piece against everything that the other side has of its numbers.
fn judge<'b>(
    own: &mut Lane<'b>,
    other: Option<&mut Lane<'b>>,
    seen: &Rc<Seen>,
    terms: Terms,
    sink: &mut dyn Sink,
    tally: &mut Tally,
) -> Result<(), AuditError> {
    if seen.is_misplaced() {
        // Its row stands under another series: that was said, and its numbers are none of this series'.
        return Ok(());
    }
    let is_terminal = own.book.account.side == Side::Terminal;
    let Some(other) = other else { return Look::new(own, None, seen).alone(sink) };
    let witnesses: Vec<Rc<Seen>> =
        other.window.iter().filter(|witness| overlap(seen, witness) && !witness.is_misplaced()).cloned().collect();
    let root = |seen: &Seen| seen.anchored.as_ref().map(|anchored| anchored.header.root);
    let is_twin = |witness: &Rc<Seen>| {
        witness.standing == Standing::Sound && root(witness) == root(seen) && witness.piece.seqs == seen.piece.seqs
    };
    if seen.standing == Standing::Sound && witnesses.iter().any(is_twin) {
        tally.agreed += if is_terminal { seen.piece.seqs.count() } else { 0 };
        return Ok(());
    }
    let mut look = Look::new(own, Some(other), seen);
    look.hear(&witnesses)?;
    look.compare(terms, sink, tally)
}

fn overlap(one: &Seen, other: &Seen) -> bool {
    one.first <= other.last
        && other.first <= one.last
        && one.piece.seqs.as_slice().iter().any(|(low, high)| other.piece.seqs.overlaps(*low, *high))
}

/// One piece, record by record.
struct Look<'a, 'b> {
    own: &'a mut Lane<'b>,
    other: Option<&'a mut Lane<'b>>,
    seen: Rc<Seen>,
    words: BTreeMap<u64, Word>,
    /// The other side stands for them by a root, and can't say anything about one of them.
    speechless: Intervals,
    /// The other side has them in whatever state, and on chain or not.
    present: Intervals,
}

impl<'a, 'b> Look<'a, 'b> {
    fn new(own: &'a mut Lane<'b>, other: Option<&'a mut Lane<'b>>, seen: &Rc<Seen>) -> Self {
        let (words, none) = (BTreeMap::new(), Intervals::new());
        Self { own, other, seen: Rc::clone(seen), words, speechless: none.clone(), present: none }
    }
}

impl Look<'_, '_> {
    fn subject(&self, first: u64, last: u64) -> Subject {
        self.own.subject(first, last)
    }

    fn find(&self, sink: &mut dyn Sink, what: What, (first, last): (u64, u64), evidence: Evidence) {
        self.own.find(sink, what, (first, last), evidence);
    }

    /// Where this piece is anchored.
    fn anchored(&self, evidence: Evidence) -> Evidence {
        let evidence = Evidence { time: evidence.time.or(self.seen.piece.times), ..evidence };
        match &self.seen.anchored {
            Some(anchored) if evidence.batch.is_none() => evidence.batch(anchored.batch, anchored.tx),
            _ => evidence,
        }
    }

    /// Nobody else can speak: a piece that does not stand to its root was changed somewhere.
    fn alone(mut self, sink: &mut dyn Sink) -> Result<(), AuditError> {
        if self.seen.standing != Standing::Unsound {
            return self.kept(sink).map(drop);
        }
        let said = self.kept(sink)?;
        self.unsound(said, &Intervals::new(), false, sink)
    }

    /// Leaves that are kept beside records, and are not theirs. Says whether there are any.
    fn kept(&mut self, sink: &mut dyn Sink) -> Result<bool, AuditError> {
        let content = self.own.content(&self.seen)?;
        let Content::Items(items) = &*content else { return Ok(false) };
        let mut found = false;
        for item in items {
            if let Some(kept) = item.kept.filter(|kept| *kept != item.leaf) {
                let words = format!(
                    "{} keeps leaf {} beside it, and it makes {}",
                    self.seen.piece.place,
                    to_hex(&kept),
                    to_hex(&item.leaf)
                );
                let evidence = Evidence { time: item.at.map(|at| (at, at)), ..Evidence::of(words).digests(kept, item.leaf) };
                self.find(sink, What::Changed, (item.seq, item.seq), evidence);
                found = true;
            }
        }
        Ok(found)
    }

    /// What the other side has of these numbers.
    fn hear(&mut self, witnesses: &[Rc<Seen>]) -> Result<(), AuditError> {
        let Some(other) = &mut self.other else { return Ok(()) };
        for witness in witnesses {
            self.present.extend(&witness.piece.seqs);
            if witness.standing != Standing::Sound {
                continue;
            }
            match &*other.content(witness)? {
                Content::Items(items) => {
                    let from = items.partition_point(|item| item.seq < self.seen.first);
                    for item in items[from..].iter().take_while(|item| item.seq <= self.seen.last) {
                        self.words.insert(item.seq, Word { leaf: item.leaf, at: item.at, witness: Rc::clone(witness) });
                    }
                }
                _ => self.speechless.extend(&witness.piece.seqs),
            }
        }
        Ok(())
    }

    fn compare(mut self, terms: Terms, sink: &mut dyn Sink, tally: &mut Tally) -> Result<(), AuditError> {
        let standing = self.seen.standing;
        let is_terminal = self.own.book.account.side == Side::Terminal;
        let mut said = self.kept(sink)?;
        let content = self.own.content(&self.seen)?;
        let items: &[Item] = match &*content {
            Content::Items(items) => items,
            // If the root is another one that was said.
            _ => return Ok(()),
        };
        let (mut wrong, mut unheard, mut only) = (Vec::new(), Intervals::new(), Intervals::new());
        for item in items {
            match (self.words.get(&item.seq), standing) {
                (Some(word), standing) if word.leaf == item.leaf => {
                    tally.agreed += u64::from(standing == Standing::Sound && is_terminal);
                }
                (Some(word), Standing::Sound) => {
                    // Said once, from the terminal's side.
                    if is_terminal {
                        self.disagree(item, word, sink);
                    }
                }
                (Some(_), _) => wrong.push(*item),
                (None, Standing::Sound) if !self.speechless.contains(item.seq) => {
                    *if is_terminal { &mut tally.terminal_only } else { &mut tally.cloud_only } += 1;
                    only.insert(item.seq, item.seq);
                }
                (None, _) => unheard.insert(item.seq, item.seq),
            }
        }
        said |= !wrong.is_empty();
        self.wrong(&wrong, sink)?;
        if is_terminal {
            self.only_terminal(&only, terms, sink)?;
        } else {
            self.only_cloud(&only, sink);
        }
        if standing == Standing::Unsound {
            said |= self.numbers(items, sink);
            self.unsound(said, &unheard, true, sink)?;
        }
        Ok(())
    }

    fn disagree(&self, item: &Item, word: &Word, sink: &mut dyn Sink) {
        let ours = self.seen.anchored.as_ref().map(Anchored::place).unwrap_or_default();
        let words = format!(
            "the terminal anchored leaf {} in {ours}, the cloud anchored {} in {}, and both hold what they anchored",
            to_hex(&item.leaf),
            to_hex(&word.leaf),
            word.place()
        );
        let evidence = self.anchored(Evidence {
            time: word.at.or(item.at).map(|at| (at, at)),
            ..Evidence::of(words).digests(item.leaf, word.leaf)
        });
        let party = self.own.book.account.name.clone();
        let subject = self.subject(item.seq, item.seq);
        sink.finding(Finding { side: Side::Between, party, what: What::Disagrees, subject, evidence });
    }

    /// Records that are not what the other side anchored, in a piece that is not what its own side anchored.
    fn wrong(&mut self, wrong: &[Item], sink: &mut dyn Sink) -> Result<(), AuditError> {
        let came_from = self.moved(wrong)?;
        for item in wrong {
            let Some(word) = self.words.get(&item.seq) else { continue };
            let witness = if self.own.book.account.side == Side::Terminal { "cloud" } else { "terminal" };
            let mut words =
                format!("its leaf is {}, the {witness} anchored {} in {}", to_hex(&item.leaf), to_hex(&word.leaf), word.place());
            if let Some(anchored) = self.seen.anchored.as_ref().filter(|_| self.seen.batch_sound) {
                words.push_str(&format!("; {} no longer makes the root of its own {}", self.seen.piece.place, anchored.place()));
                let (from, to) = (anchored.header.at_min, anchored.header.at_max);
                if let Some(at) = item.at.filter(|at| !(from..=to).contains(at)) {
                    words.push_str(&format!("; its time {at} is outside of the anchored {from} to {to}"));
                }
            }
            let what = match came_from.get(&item.seq) {
                Some(from) => {
                    words.push_str(&format!("; it has the content of number {from}"));
                    What::Reordered
                }
                None => What::Changed,
            };
            let time = item.at.or(word.at).map(|at| (at, at));
            let evidence = self.anchored(Evidence { time, ..Evidence::of(words).digests(word.leaf, item.leaf) });
            self.find(sink, what, (item.seq, item.seq), evidence);
        }
        Ok(())
    }

    /// The numbers whose content stands at the places of others.
    fn moved(&self, wrong: &[Item]) -> Result<HashMap<u64, u64>, AuditError> {
        let mut came_from = HashMap::new();
        if wrong.len() < 2 {
            return Ok(came_from);
        }
        let by_leaf: HashMap<Digest, u64> =
            wrong.iter().filter_map(|item| Some((self.words.get(&item.seq)?.leaf, item.seq))).collect();
        let leaves = wrong.iter().filter_map(|item| Some((item.seq, *by_leaf.get(&item.leaf)?)));
        came_from.extend(leaves.filter(|(at, from)| at != from));
        let store = self.own.book.account.store;
        let (false, Some(secret)) = (wrong.len() > SHUFFLED_MAX, store.secret(&self.own.group)) else { return Ok(came_from) };
        for record in store.records(&self.seen.piece)? {
            let at = record.key.seq;
            if wrong.binary_search_by_key(&at, |item| item.seq).is_err() {
                continue;
            }
            let there = |seq: u64| {
                let key = RecordKey { seq, ..record.key.clone() };
                let view = record.view();
                secret.leaf(&RecordView { series: key.series.as_str(), seq: key.seq, ..view })
            };
            let from = wrong
                .iter()
                .map(|item| item.seq)
                .find(|seq| *seq != at && self.words.get(seq).is_some_and(|word| word.leaf == there(*seq)));
            came_from.extend(from.map(|from| (at, from)));
        }
        Ok(came_from)
    }

    /// Records that the terminal anchored, and the cloud has not anchored: where are they?
    fn only_terminal(&mut self, only: &Intervals, terms: Terms, sink: &mut dyn Sink) -> Result<(), AuditError> {
        let (Some(cloud), Some(anchored)) = (&self.other, &self.seen.anchored) else { return Ok(()) };
        for (first, last) in inside(only, &self.present) {
            let words = format!("{} of the terminal has it, and the cloud's turn comes", anchored.place());
            notice(cloud, Class::NotYetAnchored, (first, last), self.anchored(Evidence::of(words)), sink);
        }
        // What the cloud says that it received, or once anchored, and has not any more is a finding of its own.
        let mut left = apart(&apart(only, &self.present), &cloud.numbered);
        left = apart(&left, &cloud.lost);
        for (relay, kept) in &cloud.elsewhere {
            for (first, last) in inside(&left, kept) {
                let evidence = Evidence::of(format!("{relay} has stated that it keeps it, until it is asked for"));
                notice(self.own, Class::AtRelay, (first, last), self.anchored(evidence), sink);
            }
            left = apart(&left, kept);
        }
        if left.is_empty() {
            return Ok(());
        }
        let closed_at = self.own.book.account.ledger.closed_at(anchored.batch)?.unwrap_or_default();
        let age = u64::try_from(terms.now.saturating_sub(closed_at)).unwrap_or_default();
        let is_young = u128::from(age) <= terms.grace.as_nanos();
        for &(first, last) in left.as_slice() {
            let words = format!(
                "{} of the terminal has it for {} s, and neither the cloud nor a relay says that it does",
                anchored.place(),
                age / 1_000_000_000
            );
            let evidence = self.anchored(Evidence { expected: Some(anchored.header.root), ..Evidence::of(words) });
            if is_young {
                notice(self.own, Class::NotYetArrived, (first, last), evidence, sink);
            } else {
                let party = self.own.book.account.name.clone();
                let subject = self.subject(first, last);
                sink.finding(Finding { side: Side::Between, party, what: What::Withheld, subject, evidence });
            }
        }
        Ok(())
    }

    /// Records that the cloud anchored, and the terminal has not.
    fn only_cloud(&self, only: &Intervals, sink: &mut dyn Sink) {
        let Some(terminal) = &self.other else { return };
        let mut left = only.clone();
        for grave in &terminal.graves {
            let class = if grave.taken { Class::Tombstoned } else { Class::Dropped };
            for (first, last) in common(&left, grave.first, grave.last) {
                let words = format!("the cloud anchored it, and the terminal gave it up: {}", grave.reason);
                notice(self.own, class, (first, last), self.anchored(Evidence::of(words)), sink);
            }
            left.remove(grave.first, grave.last);
        }
        for (first, last) in inside(&left, &self.present) {
            let words = "the cloud anchored it, and the terminal's turn comes";
            notice(terminal, Class::NotYetAnchored, (first, last), self.anchored(Evidence::of(words)), sink);
        }
    }

    /// Numbers that a changed piece has lost or gained. Says whether there are any.
    fn numbers(&self, items: &[Item], sink: &mut dyn Sink) -> bool {
        let Some(anchored) = self.seen.anchored.as_ref().filter(|_| !items.is_empty()) else { return false };
        let held: Intervals = items.iter().map(|item| (item.seq, item.seq)).collect();
        let place = self.seen.piece.place;
        let (lost, gained) = (apart(&anchored.header.intervals, &held), apart(&held, &anchored.header.intervals));
        for &(first, last) in lost.as_slice() {
            let words = format!("{} anchored it in a chunk, and {place} no longer has it", anchored.place());
            self.find(sink, What::Deleted, (first, last), self.anchored(Evidence::of(words)));
        }
        for &(first, last) in gained.as_slice() {
            let words = format!("{place} has it, and {} anchored that chunk without it", anchored.place());
            self.find(sink, What::Added, (first, last), self.anchored(Evidence::of(words)));
        }
        !lost.is_empty() || !gained.is_empty()
    }

    /// The piece was changed, and nobody can say which of these records.
    fn unsound(&self, said: bool, unheard: &Intervals, has_witness: bool, sink: &mut dyn Sink) -> Result<(), AuditError> {
        let Some(anchored) = self.seen.anchored.as_ref().filter(|_| self.seen.batch_sound && !said) else { return Ok(()) };
        let of = if unheard.is_empty() { &anchored.header.intervals } else { unheard };
        let why = match (has_witness, unheard.is_empty()) {
            (false, _) => "there is no second witness here, so which ones can't be told",
            (true, true) => "every record is as the other side anchored it, so this side anchored something else",
            (true, false) => "the other side has anchored none of these, so which ones can't be told",
        };
        let words = format!("{} does not make the root that {} has; {why}", self.seen.piece.place, anchored.place());
        let evidence = self.anchored(Evidence { expected: Some(anchored.header.root), ..Evidence::of(words) });
        let ends = (of.first().unwrap_or_default(), of.last().unwrap_or_default());
        self.find(sink, What::Changed, ends, evidence);
        Ok(())
    }
}

/// What both sets have.
fn inside(one: &Intervals, other: &Intervals) -> Vec<(u64, u64)> {
    one.as_slice().iter().flat_map(|(low, high)| common(other, *low, *high)).collect()
}
