//! Stores against ledgers, and the two sides against each other.

use std::collections::{BTreeMap, HashMap, HashSet};

use wire::digest::to_hex;
use wire::{ChunkHeader, Digest, Epoch, Intervals, Record, RecordKey, Series, merkle};

use super::ledger::{Anchored, Judged};
use super::{Account, AuditError, Content, Finding, Item, Piece, Report, Side, Store, Subject, What};
use crate::source::SourceError;

/// Records of one piece that are tried against each other when they don't stand to what was anchored.
const SHUFFLED_MAX: usize = 256;
/// Chunk ids that are looked through at once.
const IDS_PIECE: usize = 4_096;

/// How a piece stands to what its side anchored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It makes the root that the chain has.
    Sound,
    /// It does not, or the chain does not have the root.
    Unsound,
    /// It is not on chain yet.
    Open,
}

/// A piece that was looked at.
struct Examined {
    piece: Piece,
    anchored: Option<Anchored>,
    standing: Standing,
    /// Whether its batch is on chain as the ledger says; then it is the piece that was changed.
    batch_sound: bool,
}

/// One side, after its store was held against its ledger.
pub(super) struct Book<'a> {
    side: Side,
    store: &'a dyn Store,
    epoch: Epoch,
    pieces: Vec<Examined>,
    numbered: HashMap<Series, Intervals>,
    given_up: HashMap<Series, Intervals>,
}

impl<'a> Book<'a> {
    /// Holds the store against the ledger: every chunk that is in a batch, of whatever epoch, and whatever is in none of this one.
    pub(super) fn open(account: &Account<'a>, judged: Judged, epoch: Epoch, report: &mut Report) -> Result<Self, AuditError> {
        let Account { side, store, .. } = *account;
        let numbered = store.numbered(epoch)?.into_iter().collect();
        let given_up = store.given_up(epoch)?.into_iter().collect();
        let mut book = Self { side, store, epoch, pieces: Vec::new(), numbered, given_up };
        let loose = store.loose(epoch)?;
        let mut added = book.unbatched(&judged)?;
        let mut chunks: Vec<(i64, Anchored)> = judged.chunks.into_iter().collect();
        chunks.sort_unstable_by_key(|(id, _)| *id);
        let mut covered: HashMap<Series, Intervals> = HashMap::new();
        for (id, anchored) in chunks {
            if anchored.header.epoch == epoch {
                covered.entry(anchored.header.series.clone()).or_default().extend(&anchored.header.intervals);
            }
            if let Some(examined) = book.examine(id, anchored, report)?
                && examined.piece.epoch == epoch
            {
                book.pieces.push(examined);
            }
        }
        added.retain(|piece| piece.epoch == epoch);
        for piece in loose.into_iter().chain(added) {
            let twice = covered
                .get(&piece.series)
                .is_some_and(|held| piece.seqs.as_slice().iter().any(|(low, high)| held.overlaps(*low, *high)));
            if twice {
                let (first, last) = ends(&piece.seqs);
                let evidence = format!("{} has numbers that an anchored chunk has already", piece.place);
                book.find(report, What::Added, Subject::stretch(&piece.series, epoch, first, last), evidence);
            }
            if piece.chunk.is_some() && !twice {
                book.unnumbered(&piece, report)?;
            }
            covered.entry(piece.series.clone()).or_default().extend(&piece.seqs);
            book.pieces.push(Examined { piece, anchored: None, standing: Standing::Open, batch_sound: false });
        }
        book.missing(&covered, report);
        Ok(book)
    }

    fn find(&self, report: &mut Report, what: What, subject: Subject, evidence: String) {
        report.findings.push(Finding { side: self.side, what, subject, evidence });
    }

    /// Chunks that no batch has: those whose turn comes, and those that were put among the anchored ones.
    fn unbatched(&self, judged: &Judged) -> Result<Vec<Piece>, AuditError> {
        let (mut after, mut found) = (0, Vec::new());
        loop {
            let ids = self.store.chunks_after(after, IDS_PIECE)?;
            let Some(last) = ids.last() else { return Ok(found) };
            after = *last;
            for id in ids.into_iter().filter(|id| !judged.chunks.contains_key(id) && !judged.unheaded.contains(id)) {
                if let Some(Ok(mut piece)) = self.store.chunk(id)? {
                    if id <= judged.last_chunk {
                        piece.place = format!("{}, which no batch has though later ones are in batches,", piece.place);
                    }
                    found.push(piece);
                }
            }
        }
    }

    /// A chunk of the ledger, as the store has it now.
    fn examine(&self, id: i64, anchored: Anchored, report: &mut Report) -> Result<Option<Examined>, SourceError> {
        let header = &anchored.header;
        let (first, last) = ends(&header.intervals);
        let subject = || Subject::stretch(&header.series, header.epoch, first, last);
        let piece = match self.store.chunk(id)? {
            Some(Ok(piece)) => piece,
            Some(Err(fault)) => {
                self.find(report, What::Damaged, subject(), format!("chunk {id} of {}: {fault}", anchored.place()));
                return Ok(None);
            }
            None => {
                let evidence =
                    format!("{} anchored chunk {id} with these {} records, and it is gone", anchored.place(), header.count);
                self.find(report, What::Deleted, subject(), evidence);
                return Ok(None);
            }
        };
        for (column, is, was) in differing(&piece, header) {
            let evidence = format!("{column} of {} is {is}, {} anchored {was}", piece.place, anchored.place());
            self.find(report, What::Changed, subject(), evidence);
        }
        let batch_sound = anchored.sound == Some(true);
        let holds = match self.store.content(&piece)? {
            Content::Items(items) => {
                let leaves: Vec<Digest> = items.iter().map(|item| item.leaf).collect();
                merkle::root(&leaves) == header.root
                    && items.iter().map(|item| item.seq).eq(header
                        .intervals
                        .as_slice()
                        .iter()
                        .flat_map(|(low, high)| *low..=*high))
            }
            Content::Gone | Content::NoSecret => piece.root.is_none_or(|root| root == header.root),
            Content::Damaged(fault) => {
                self.find(report, What::Damaged, subject(), format!("{}: {fault}", piece.place));
                return Ok(None);
            }
        };
        let standing = match (anchored.sound, holds) {
            (Some(true), true) => Standing::Sound,
            (None, true) => Standing::Open,
            _ => Standing::Unsound,
        };
        match standing {
            Standing::Sound => report.chunks += 1,
            // Only this epoch's are looked into: for the others there is no second witness here.
            Standing::Unsound if !holds && header.epoch != self.epoch => {
                let evidence = format!("what {} holds does not make the root that {} has", piece.place, anchored.place());
                self.find(report, What::Changed, subject(), evidence);
            }
            _ => {}
        }
        Ok(Some(Examined { piece, anchored: Some(anchored), standing, batch_sound }))
    }

    /// A chunk that no batch has, with numbers that this side never had.
    fn unnumbered(&self, piece: &Piece, report: &mut Report) -> Result<(), SourceError> {
        // Asked again: what was read first may be older than the chunk.
        let now = self.store.numbered(self.epoch)?;
        let mut strange = piece.seqs.clone();
        if let Some((_, numbered)) = now.iter().find(|(series, _)| *series == piece.series) {
            numbered.as_slice().iter().for_each(|(low, high)| strange.remove(*low, *high));
        }
        let word = if self.side == Side::Terminal { "was given out" } else { "was received" };
        for &(first, last) in strange.as_slice() {
            let evidence = format!("{} holds what never {word}", piece.place);
            self.find(report, What::Added, Subject::stretch(&piece.series, self.epoch, first, last), evidence);
        }
        Ok(())
    }

    /// What this side says it had, and nothing holds.
    fn missing(&self, covered: &HashMap<Series, Intervals>, report: &mut Report) {
        let word = if self.side == Side::Terminal { "were given out" } else { "were received" };
        let mut series: Vec<_> = self.numbered.iter().collect();
        series.sort_unstable_by_key(|(series, _)| series.as_str());
        for (series, numbered) in series {
            let mut left = numbered.clone();
            for held in [covered.get(series), self.given_up.get(series)].into_iter().flatten() {
                held.as_slice().iter().for_each(|(low, high)| left.remove(*low, *high));
            }
            for &(first, last) in left.as_slice() {
                let evidence = format!("these numbers {word}, and neither a row, a chunk nor a tombstone has them");
                self.find(report, What::Deleted, Subject::stretch(series, self.epoch, first, last), evidence);
            }
        }
    }

    /// Pieces that stand to what was anchored and hold some of `seqs`.
    fn witnesses<'b>(&'b self, series: &'b Series, seqs: &'b Intervals) -> impl Iterator<Item = &'b Examined> {
        self.pieces.iter().filter(move |examined| {
            examined.standing == Standing::Sound
                && examined.piece.series == *series
                && examined.piece.seqs.as_slice().iter().any(|(low, high)| seqs.overlaps(*low, *high))
        })
    }
}

fn ends(seqs: &Intervals) -> (u64, u64) {
    (seqs.first().unwrap_or_default(), seqs.last().unwrap_or_default())
}

/// The columns of a chunk's row that are not what its header said.
fn differing(piece: &Piece, header: &ChunkHeader) -> Vec<(&'static str, String, String)> {
    let spell = |seqs: &Intervals| format!("{:?}", seqs.as_slice());
    let mut columns = vec![
        ("the series", piece.series.to_string(), header.series.to_string()),
        ("the epoch", piece.epoch.to_string(), header.epoch.to_string()),
        ("the sequence numbers", spell(&piece.seqs), spell(&header.intervals)),
        ("the earliest time", piece.at_min.to_string(), header.at_min.to_string()),
        ("the latest time", piece.at_max.to_string(), header.at_max.to_string()),
    ];
    if let Some(root) = piece.root {
        columns.push(("the root", to_hex(&root), to_hex(&header.root)));
    }
    columns.retain(|(_, is, was)| is != was);
    columns
}

/// The other side's word about the records of one piece: leaf and where it is anchored, by number.
type Words = BTreeMap<u64, (Digest, String)>;

/// Holds the sides against each other.
pub(super) fn compare(books: &[Book<'_>], report: &mut Report) -> Result<(), AuditError> {
    for (n, book) in books.iter().enumerate() {
        let other = books.iter().enumerate().find(|(m, _)| *m != n).map(|(_, other)| other);
        // By roots first: a chunk that both anchored needs no further look.
        let roots: HashSet<(&Series, Digest)> = other
            .into_iter()
            .flat_map(|other| &other.pieces)
            .filter(|examined| examined.standing == Standing::Sound)
            .filter_map(|examined| Some((&examined.piece.series, examined.anchored.as_ref()?.header.root)))
            .collect();
        for examined in &book.pieces {
            let root = examined.anchored.as_ref().map(|anchored| anchored.header.root);
            if examined.standing == Standing::Sound && root.is_some_and(|root| roots.contains(&(&examined.piece.series, root))) {
                if book.side == Side::Terminal {
                    report.agreed += examined.piece.seqs.count();
                }
                continue;
            }
            let mut words = Words::new();
            let mut speechless = Intervals::default();
            for witness in other.into_iter().flat_map(|other| other.witnesses(&examined.piece.series, &examined.piece.seqs)) {
                let place = witness.anchored.as_ref().map(Anchored::place).unwrap_or_default();
                match other.map(|other| other.store.content(&witness.piece)).transpose()? {
                    Some(Content::Items(items)) => {
                        words.extend(items.into_iter().map(|item| (item.seq, (item.leaf, place.clone()))));
                    }
                    // It stands for them by its root, and can't say anything about one of them.
                    _ => speechless.extend(&witness.piece.seqs),
                }
            }
            Look { book, other, examined, words, speechless }.into(report)?;
        }
    }
    Ok(())
}

/// One piece, record by record.
struct Look<'a, 'b> {
    book: &'a Book<'b>,
    other: Option<&'a Book<'b>>,
    examined: &'a Examined,
    words: Words,
    speechless: Intervals,
}

impl Look<'_, '_> {
    fn subject(&self, first: u64, last: u64) -> Subject {
        Subject::stretch(&self.examined.piece.series, self.book.epoch, first, last)
    }

    fn into(self, report: &mut Report) -> Result<(), AuditError> {
        let (book, examined) = (self.book, self.examined);
        let piece = &examined.piece;
        let items = match book.store.content(piece)? {
            Content::Items(items) => items,
            Content::Gone | Content::NoSecret if examined.standing != Standing::Unsound => return Ok(()),
            Content::Gone | Content::NoSecret => Vec::new(),
            Content::Damaged(fault) => {
                let (first, last) = ends(&piece.seqs);
                book.find(report, What::Damaged, self.subject(first, last), format!("{}: {fault}", piece.place));
                return Ok(());
            }
        };
        if examined.standing == Standing::Open {
            report.open += items.len() as u64;
        }
        let before = report.findings.len();
        let mut wrong = Vec::new();
        let mut unheard = Intervals::default();
        for item in &items {
            if item.kept.is_some_and(|kept| kept != item.leaf) {
                let evidence = format!(
                    "{} keeps leaf {} beside it, and it makes {}",
                    piece.place,
                    item.kept.map(|kept| to_hex(&kept)).unwrap_or_default(),
                    to_hex(&item.leaf)
                );
                book.find(report, What::Changed, self.subject(item.seq, item.seq), evidence);
            }
            self.unknown(item.seq, report);
            match (self.words.get(&item.seq), examined.standing) {
                (Some((leaf, _)), standing) if *leaf == item.leaf => {
                    report.agreed += u64::from(standing == Standing::Sound && book.side == Side::Terminal);
                }
                // Said once, from the terminal's side.
                (Some(_), Standing::Sound) if book.side != Side::Terminal => {}
                (Some((leaf, place)), Standing::Sound) => self.disagree(item, leaf, place, report),
                (Some(_), _) => wrong.push(item),
                (None, Standing::Sound) if !self.speechless.contains(item.seq) => match book.side {
                    Side::Terminal => report.terminal_only += 1,
                    _ => report.cloud_only += 1,
                },
                (None, _) => unheard.insert(item.seq, item.seq),
            }
        }
        self.wrong(&wrong, report);
        if examined.standing == Standing::Unsound {
            self.numbers(&items, report);
            let told = report.findings.len() > before;
            if examined.batch_sound && !told {
                self.untold(&unheard, report);
            }
        }
        Ok(())
    }

    /// The cloud has a number that the terminal never gave out.
    fn unknown(&self, seq: u64, report: &mut Report) {
        let (Side::Cloud, Some(terminal)) = (self.book.side, self.other) else { return };
        let series = &self.examined.piece.series;
        let last = terminal.numbered.get(series).and_then(Intervals::last).unwrap_or_default();
        if seq > last {
            let evidence = format!("{} has it, and the terminal gave out numbers up to {last} only", self.examined.piece.place);
            self.book.find(report, What::Added, self.subject(seq, seq), evidence);
        }
    }

    fn disagree(&self, item: &Item, leaf: &Digest, place: &str, report: &mut Report) {
        let ours = self.examined.anchored.as_ref().map(Anchored::place).unwrap_or_default();
        let evidence = format!(
            "the terminal anchored leaf {} in {ours}, the cloud anchored {} in {place}, and both hold what they anchored",
            to_hex(&item.leaf),
            to_hex(leaf)
        );
        let subject = self.subject(item.seq, item.seq);
        report.findings.push(Finding { side: Side::Between, what: What::Disagrees, subject, evidence });
    }

    /// Records that are not what the other side anchored, in a piece that is not what its own side anchored.
    fn wrong(&self, wrong: &[&Item], report: &mut Report) {
        let by_leaf: HashMap<Digest, u64> =
            wrong.iter().filter_map(|item| Some((self.words.get(&item.seq)?.0, item.seq))).collect();
        for item in wrong {
            let Some((leaf, place)) = self.words.get(&item.seq) else { continue };
            let witness = if self.book.side == Side::Terminal { "cloud" } else { "terminal" };
            let mut evidence = format!("its leaf is {}, the {witness} anchored {} in {place}", to_hex(&item.leaf), to_hex(leaf));
            if let Some(anchored) = &self.examined.anchored
                && self.examined.batch_sound
            {
                evidence.push_str(&format!(
                    "; {} no longer makes the root of its own {}",
                    self.examined.piece.place,
                    anchored.place()
                ));
            }
            if let Some(anchored) = self.examined.anchored.as_ref().filter(|_| self.examined.batch_sound)
                && let Some(record) = &item.record
                && !(anchored.header.at_min..=anchored.header.at_max).contains(&record.at)
            {
                let (from, to) = (anchored.header.at_min, anchored.header.at_max);
                evidence.push_str(&format!("; its time {} is outside of the anchored {from} to {to}", record.at));
            }
            let what = match self.moved(item, &by_leaf) {
                Some(from) => {
                    evidence.push_str(&format!("; it has the content of number {from}"));
                    What::Reordered
                }
                None => What::Changed,
            };
            self.book.find(report, what, self.subject(item.seq, item.seq), evidence);
        }
    }

    /// The number whose content stands at the place of `item`.
    fn moved(&self, item: &Item, by_leaf: &HashMap<Digest, u64>) -> Option<u64> {
        let Some(record) = &item.record else { return by_leaf.get(&item.leaf).copied() };
        if by_leaf.len() > SHUFFLED_MAX {
            return None;
        }
        by_leaf.iter().filter(|(_, seq)| **seq != item.seq).find_map(|(leaf, seq)| {
            let key = RecordKey { seq: *seq, ..record.key.clone() };
            let there = Record { key, ..record.clone() };
            (self.book.store.leaf(&there)? == *leaf).then_some(*seq)
        })
    }

    /// Numbers that a changed piece has lost or gained.
    fn numbers(&self, items: &[Item], report: &mut Report) {
        let Some(anchored) = &self.examined.anchored else { return };
        let held: Intervals = items.iter().map(|item| (item.seq, item.seq)).collect();
        let place = &self.examined.piece.place;
        if items.is_empty() {
            return;
        }
        let apart = |from: &Intervals, without: &Intervals| {
            let mut left = from.clone();
            without.as_slice().iter().for_each(|(low, high)| left.remove(*low, *high));
            left
        };
        for &(first, last) in apart(&anchored.header.intervals, &held).as_slice() {
            let evidence = format!("{} anchored it in a chunk, and {place} no longer has it", anchored.place());
            self.book.find(report, What::Deleted, self.subject(first, last), evidence);
        }
        for &(first, last) in apart(&held, &anchored.header.intervals).as_slice() {
            let evidence = format!("{place} has it, and {} anchored that chunk without it", anchored.place());
            self.book.find(report, What::Added, self.subject(first, last), evidence);
        }
    }

    /// The piece was changed, and nobody can say which of these records.
    fn untold(&self, unheard: &Intervals, report: &mut Report) {
        let Some(anchored) = &self.examined.anchored else { return };
        let of = if unheard.is_empty() { &anchored.header.intervals } else { unheard };
        let (first, last) = ends(of);
        let why = if unheard.is_empty() {
            "every record is as the other side anchored it, so this side anchored something else"
        } else {
            "the other side has anchored none of these, so which ones can't be told"
        };
        let evidence = format!("{} does not make the root that {} has; {why}", self.examined.piece.place, anchored.place());
        self.book.find(report, What::Changed, self.subject(first, last), evidence);
    }
}
