//! Whether an answer about the past holds all that the cloud knows to exist (C6).

use archive::{Archive, ReadError};
use serde::{Deserialize, Serialize};
use wire::{At, Epoch, Intervals, Series};

use crate::gaps::with_graves;
use crate::graves::{Graves, Tombstone};

/// Gaps of one answer that are looked at; the others are counted.
const LISTED_MAX: usize = 1_000;

/// Why a record is missing from an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Later records of the same epoch are here, and it is not.
    Gap,
    /// It was given up on purpose.
    Tombstone,
}

/// Records that an answer lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// The epoch, as in a record key.
    pub epoch: String,
    /// The first sequence number that is missing.
    pub from_seq: u64,
    /// The last one.
    pub to_seq: u64,
    /// Why.
    pub reason: Reason,
    /// Of a tombstone: why and where they were given up.
    #[serde(default, flatten, skip_serializing_if = "Option::is_none")]
    pub tombstone: Option<Tombstone>,
}

/// Whether an answer holds all that the cloud knows to exist (C6): the state at the time when its last page was read.
///
/// The generation time of a missing record is unknown. Times are taken to rise with sequence numbers, so a gap counts for a question if
/// the stretch from its neighbour before to its neighbour behind touches the time asked for; on a side where no neighbour is here, the
/// stretch has no end. What was never heard of can't be known: records beyond the last one received of an epoch, and whole epochs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completeness {
    /// Nothing is missing.
    pub complete: bool,
    /// What is missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
    /// Gaps of the series that are not listed because there are very many; their times were not looked at.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_gaps: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Completeness {
    /// Judges an answer about `from..to` of a series. `held` must have been read before the records of the answer: what has arrived in
    /// between is then at worst called missing, and never the other way round.
    pub(crate) fn judge(
        archive: &Archive,
        series: &Series,
        (from, to): (At, At),
        held: &[(Epoch, Intervals)],
    ) -> Result<Self, ReadError> {
        let (mut missing, mut more_gaps) = (Vec::new(), 0);
        let graves = Graves::of(archive, &series.sensor_id())?;
        for (epoch, (held, known_to)) in &with_graves(series, held.to_vec(), &graves) {
            let mut gaps = held.missing(1, held.last().unwrap_or(0).max(*known_to));
            let listed = gaps.len().min(LISTED_MAX.saturating_sub(missing.len()));
            more_gaps += gaps.split_off(listed).len() as u64;
            if (from, to) != (0, At::MAX) {
                gaps = touching(archive, series, *epoch, gaps, (from, to))?;
            }
            missing.extend(graves.explain(series, *epoch, &gaps).into_iter().map(|stretch| Missing {
                epoch: epoch.to_string(),
                from_seq: stretch.from_seq,
                to_seq: stretch.to_seq,
                reason: if stretch.tombstone.is_some() { Reason::Tombstone } else { Reason::Gap },
                tombstone: stretch.tombstone,
            }));
        }
        Ok(Self { complete: missing.is_empty() && more_gaps == 0, missing, more_gaps })
    }
}

/// Those of `gaps` whose neighbours' times leave room for a record within `from..to`.
fn touching(
    archive: &Archive,
    series: &Series,
    epoch: Epoch,
    mut gaps: Vec<(u64, u64)>,
    (from, to): (At, At),
) -> Result<Vec<(u64, u64)>, ReadError> {
    let neighbours = |(low, high): &(u64, u64)| [low - 1, high.saturating_add(1)];
    let mut seqs: Vec<u64> = gaps.iter().flat_map(neighbours).collect();
    // A record between two gaps is a neighbour of both.
    seqs.dedup();
    let times = archive.times(series, epoch, &seqs)?;
    gaps.retain(|gap| {
        let [before, behind] = neighbours(gap).map(|seq| times.get(&seq).copied());
        let (before, behind) = (before.unwrap_or(At::MIN), behind.unwrap_or(At::MAX));
        before.min(behind) < to && from <= before.max(behind)
    });
    Ok(gaps)
}
