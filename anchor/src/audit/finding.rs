//! What an audit has to say.

use std::fmt;

use serde::{Serialize, Serializer};
use wire::digest::to_hex;
use wire::{At, Digest, Epoch, Intervals, RecordKey, Series};

/// Who a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The edge agent's database.
    Terminal,
    /// The cloud's.
    Cloud,
    /// Neither can be blamed alone: both stand to what they anchored, and it differs; or it was lost between them.
    Between,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminal => "terminal",
            Self::Cloud => "cloud",
            Self::Between => "between",
        })
    }
}

/// What happened to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// Content, time or place in the series is another one than was anchored.
    Changed,
    /// It was there and is not any more.
    Deleted,
    /// It is there and was not.
    Added,
    /// The content of another record of the series stands at its place.
    Reordered,
    /// The ledger's rows are not what the chain has: proofs made from them don't hold.
    Rewritten,
    /// The two sides anchored different things under one key.
    Disagrees,
    /// The terminal anchored it long ago, and neither the cloud nor a relay says that it has it.
    Withheld,
    /// It can't be read.
    Damaged,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Changed => "changed",
            Self::Deleted => "deleted",
            Self::Added => "added",
            Self::Reordered => "reordered",
            Self::Rewritten => "rewritten",
            Self::Disagrees => "disagrees",
            Self::Withheld => "withheld",
            Self::Damaged => "damaged",
        })
    }
}

/// Why a record is on one side only, or not on chain, though nobody did anything wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The terminal anchored it a short while ago; it is on its way to the cloud.
    NotYetArrived,
    /// A relay has stated that it keeps it, until it is asked for.
    AtRelay,
    /// It is newer than its side's last batch on chain.
    NotYetAnchored,
    /// The terminal gave it up after a final refusal, and says so.
    Tombstoned,
    /// The terminal never took it: there was no room, and it says so.
    Dropped,
    /// The chain has its batch, and the ledger has not noted it yet.
    Behind,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotYetArrived => "not yet arrived",
            Self::AtRelay => "at a relay",
            Self::NotYetAnchored => "not yet anchored",
            Self::Tombstoned => "tombstoned",
            Self::Dropped => "dropped",
            Self::Behind => "behind",
        })
    }
}

/// What a finding is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// One record.
    Record(RecordKey),
    /// Some or all records of a stretch.
    Records {
        /// Their series.
        series: Series,
        /// Their epoch.
        epoch: Epoch,
        /// The first sequence number.
        first: u64,
        /// The last one.
        last: u64,
    },
    /// A batch of the side's ledger.
    Batch(u64),
    /// A chunk of the side's database whose series can't be told.
    Chunk(i64),
    /// The side's ledger as a whole.
    Ledger,
    /// The side's database as a whole.
    Database,
}

impl Subject {
    /// A stretch; of one record if it is one.
    pub(super) fn stretch(series: &Series, epoch: Epoch, first: u64, last: u64) -> Self {
        let series = series.clone();
        if first == last {
            Self::Record(RecordKey { series, epoch, seq: first })
        } else {
            Self::Records { series, epoch, first, last }
        }
    }

    /// From the first to the last of a set.
    pub(super) fn ends(series: &Series, epoch: Epoch, seqs: &Intervals) -> Self {
        Self::stretch(series, epoch, seqs.first().unwrap_or_default(), seqs.last().unwrap_or_default())
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record(key) => write!(f, "{key}"),
            Self::Records { series, epoch, first, last } => write!(f, "{series}@{epoch}.{first}..{last}"),
            Self::Batch(number) => write!(f, "batch {number}"),
            Self::Chunk(id) => write!(f, "chunk {id}"),
            Self::Ledger => f.write_str("the ledger"),
            Self::Database => f.write_str("the database"),
        }
    }
}

impl Serialize for Subject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// In words.
    #[serde(rename = "evidence")]
    pub words: String,
    /// The digest that was anchored.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "hex")]
    pub expected: Option<Digest>,
    /// The digest of what is there.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "hex")]
    pub found: Option<Digest>,
    /// The batch that the expected one is anchored in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<u64>,
    /// Its transaction, where the chain's log names it.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "hex")]
    pub tx: Option<Digest>,
    /// The generation time: of the record, or the earliest and latest of the stretch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<(At, At)>,
}

fn hex<S: Serializer>(digest: &Option<Digest>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("0x{}", digest.map(|digest| to_hex(&digest)).unwrap_or_default()))
}

impl Evidence {
    /// Words alone.
    pub(super) fn of(words: impl Into<String>) -> Self {
        Self { words: words.into(), ..Self::default() }
    }

    pub(super) fn digests(self, expected: Digest, found: Digest) -> Self {
        Self { expected: Some(expected), found: Some(found), ..self }
    }

    pub(super) fn batch(self, batch: u64, tx: Option<Digest>) -> Self {
        Self { batch: Some(batch), tx, ..self }
    }

    pub(super) fn time(self, from: At, to: At) -> Self {
        Self { time: Some((from, to)), ..self }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Who.
    pub side: Side,
    /// The party whose database or ledger it is.
    pub party: String,
    /// What happened.
    pub what: What,
    /// To what.
    pub subject: Subject,
    /// What shows it.
    #[serde(flatten)]
    pub evidence: Evidence,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}: {}", self.side, self.what, self.subject, self.evidence.words)
    }
}

/// Something that is no finding, and that an auditor may ask about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// The side that has it.
    pub side: Side,
    /// The party.
    pub party: String,
    /// Why it is so.
    pub class: Class,
    /// What it is about.
    pub subject: Subject,
    /// What shows it.
    #[serde(flatten)]
    pub evidence: Evidence,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "note: {}: {} is {}: {}", self.side, self.subject, self.class, self.evidence.words)
    }
}

/// What was compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Batches of both sides that the chain has as the ledgers say.
    pub batches: u64,
    /// Chunks of both sides that make their anchored roots.
    pub chunks: u64,
    /// Records of both sides that were looked at.
    pub records: u64,
    /// Records that both sides anchored alike.
    pub agreed: u64,
    /// Records that only the terminal anchored: at the cloud and not anchored there, at a relay, on their way, or withheld.
    pub terminal_only: u64,
    /// Records of a terminal that was audited that only the cloud anchored: the terminal's turn comes, or it gave up their leaves.
    pub cloud_only: u64,
    /// Records that are not anchored yet, on either side.
    pub open: u64,
}

/// Takes what is found, as it is found: there may be more of it than memory.
pub trait Sink {
    /// Something is not as it was anchored.
    fn finding(&mut self, finding: Finding);
    /// Something is worth a look.
    fn notice(&mut self, notice: Notice);
}

/// A sink that keeps everything: for tests and small audits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Everything that is not as it was anchored.
    pub findings: Vec<Finding>,
    /// What is worth a look.
    pub notices: Vec<Notice>,
}

impl Sink for Report {
    fn finding(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    fn notice(&mut self, notice: Notice) {
        self.notices.push(notice);
    }
}
