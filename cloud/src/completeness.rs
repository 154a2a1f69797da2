//! Whether an answer about the past holds all that the cloud knows to exist (C6).

use std::collections::BTreeMap;

use archive::{Archive, ReadError};
use serde::{Deserialize, Serialize};
use wire::{At, Epoch, Intervals, RelayId, Series};

use crate::gaps::{OfSensor, with_graves};
use crate::graves::Tombstone;
use crate::index::{Index, Known, LookFault, Standing, without};
use crate::pull::Unheard;

/// Ranges of one answer that are looked at; the others are counted.
const LISTED_MAX: usize = 1_000;

/// Why a record is missing from an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Later records of the same epoch are here, and it is not; no relay has said that it holds it.
    Gap,
    /// It was given up on purpose.
    Tombstone,
    /// A relay holds it that can't be reached, or does not answer.
    RelayUnreachable,
    /// A relay holds it that can be reached, and did not bring it in time: ask again.
    AtRelay,
    /// A relay has handed it over, and it has not arrived.
    OnTheWay,
    /// It was at a relay whose database is gone.
    RelayRebuilt,
    /// It came with another content than its relay had announced. What came is in the answer, and not to be trusted.
    Mismatch,
}

/// Records that an answer lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Their series; only in answers about several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub series: Option<Series>,
    /// The epoch, as in a record key.
    pub epoch: String,
    /// The first sequence number that is missing.
    pub from_seq: u64,
    /// The last one.
    pub to_seq: u64,
    /// Why.
    pub reason: Reason,
    /// The relay that holds them, or had them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<RelayId>,
    /// Of a tombstone: why and where they were given up.
    #[serde(default, flatten, skip_serializing_if = "Option::is_none")]
    pub tombstone: Option<Tombstone>,
}

/// Whether an answer holds all that the cloud knows to exist (C6): the state at the time when its last page was read.
///
/// The generation time of a missing record is unknown. Times are taken to rise with sequence numbers, so a gap counts for a question if
/// the stretch from its neighbour before to its neighbour behind touches the time asked for; on a side where no neighbour is here, the
/// stretch has no end. What relays keep is known from the index, in chunks with times of their own: all of a chunk that touches the time
/// asked for counts. What relays have taken and not stated they are asked for ([`crate::pull::Hearing`]); who does not answer is named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completeness {
    /// Nothing is missing.
    pub complete: bool,
    /// What is missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
    /// Ranges that are not listed because there are very many; the times of gaps among them were not looked at.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_gaps: u64,
    /// Records were elsewhere when an earlier page passed their place, and may have arrived since: ask again from the beginning.
    #[serde(default, skip_serializing_if = "is_false")]
    pub changed_meanwhile: bool,
    /// Relays that may hold more, which nobody has heard of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unheard: Vec<Unheard>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// Judges an answer, series by series.
pub(crate) struct Judge<'a> {
    /// What is here.
    pub(crate) archive: &'a Archive,
    /// What is elsewhere.
    pub(crate) index: &'a Index,
    /// Whether a relay can be asked.
    pub(crate) reaches: &'a dyn Fn(&RelayId) -> bool,
    /// The time asked for.
    pub(crate) range: (At, At),
    /// Whether ranges name their series.
    pub(crate) names: bool,
    /// Tombstones of the sensor at hand: series come in order, so those of one sensor come together.
    graves: OfSensor,
    missing: Vec<Missing>,
    more: u64,
}

impl<'a> Judge<'a> {
    pub(crate) fn new(
        (archive, index): (&'a Archive, &'a Index),
        reaches: &'a dyn Fn(&RelayId) -> bool,
        range: (At, At),
        names: bool,
    ) -> Self {
        Self { archive, index, reaches, range, names, graves: OfSensor::default(), missing: Vec::new(), more: 0 }
    }

    /// Looks at one series, of which `received` was here before its records were read.
    pub(crate) fn series(&mut self, series: &Series, received: &[(Epoch, Intervals)]) -> Result<(), LookFault> {
        let known = self.index.of_series(series, self.range)?;
        let mut elsewhere = self.elsewhere(series, received, &known);
        let mut of_sensor = std::mem::take(&mut self.graves);
        let graves = of_sensor.graves(self.archive, series)?;
        for (epoch, (held, known_to)) in &with_graves(series, received.to_vec(), graves) {
            let mut gaps = held.missing(1, held.last().unwrap_or(0).max(*known_to));
            if let Some(elsewhere) = elsewhere.get(epoch) {
                gaps = without(&gaps.into_iter().collect(), elsewhere).as_slice().to_vec();
            }
            let listed = gaps.len().min(LISTED_MAX.saturating_sub(self.missing.len()));
            self.more += gaps.split_off(listed).len() as u64;
            if self.range != (0, At::MAX) {
                gaps = touching(self.archive, series, *epoch, gaps, self.range)?;
            }
            if !gaps.is_empty() && self.range != (0, At::MAX) {
                // Chunks of another time may fill what looks like a gap of this one.
                let all = self.index.of_series(series, (At::MIN, At::MAX))?;
                let stated = elsewhere.entry(*epoch).or_default();
                all.iter().filter(|known| known.epoch == *epoch).for_each(|known| stated.extend(&known.seqs));
                gaps = without(&gaps.into_iter().collect(), stated).as_slice().to_vec();
            }
            for stretch in graves.explain(series, *epoch, &gaps) {
                let reason = if stretch.tombstone.is_some() { Reason::Tombstone } else { Reason::Gap };
                self.add(series, *epoch, (stretch.from_seq, stretch.to_seq), (reason, None, stretch.tombstone));
            }
        }
        self.graves = of_sensor;
        for mismatch in self.index.mismatches(series, self.range)? {
            self.list(series, mismatch.epoch, &mismatch.seqs, Reason::Mismatch, Some(&mismatch.relay));
        }
        Ok(())
    }

    /// Lists what the index knows and the archive lacks; gives it by epoch.
    fn elsewhere(&mut self, series: &Series, received: &[(Epoch, Intervals)], known: &[Known]) -> BTreeMap<Epoch, Intervals> {
        let held: BTreeMap<Epoch, &Intervals> = received.iter().map(|(epoch, held)| (*epoch, held)).collect();
        let mut elsewhere: BTreeMap<Epoch, Intervals> = BTreeMap::new();
        let mut reasons: BTreeMap<(Epoch, Reason, &RelayId), Intervals> = BTreeMap::new();
        // Chunks at hand come first: what two relays have is missing for the better reason.
        for known in known {
            let stated = elsewhere.entry(known.epoch).or_default();
            let mut lacking = without(&known.seqs, stated);
            if let Some(held) = held.get(&known.epoch) {
                lacking = without(&lacking, held);
            }
            if lacking.is_empty() {
                continue;
            }
            stated.extend(&lacking);
            let reason = match known.standing {
                Standing::Stated if (self.reaches)(&known.relay) => Reason::AtRelay,
                Standing::Stated => Reason::RelayUnreachable,
                Standing::Left => Reason::OnTheWay,
                Standing::Lost => Reason::RelayRebuilt,
            };
            reasons.entry((known.epoch, reason, &known.relay)).or_default().extend(&lacking);
        }
        for ((epoch, reason, relay), lacking) in reasons {
            self.list(series, epoch, &lacking, reason, Some(relay));
        }
        elsewhere
    }

    fn list(&mut self, series: &Series, epoch: Epoch, ranges: &Intervals, reason: Reason, relay: Option<&RelayId>) {
        for range in ranges.as_slice() {
            self.add(series, epoch, *range, (reason, relay.cloned(), None));
        }
    }

    fn add(
        &mut self,
        series: &Series,
        epoch: Epoch,
        (from_seq, to_seq): (u64, u64),
        (reason, relay, tombstone): (Reason, Option<RelayId>, Option<Tombstone>),
    ) {
        if self.missing.len() >= LISTED_MAX {
            self.more += 1;
            return;
        }
        let series = self.names.then(|| series.clone());
        self.missing.push(Missing { series, epoch: epoch.to_string(), from_seq, to_seq, reason, relay, tombstone });
    }

    /// The statement.
    pub(crate) fn end(mut self, changed_meanwhile: bool, mut unheard: Vec<Unheard>) -> Completeness {
        unheard.dedup();
        self.more += unheard.len().saturating_sub(LISTED_MAX) as u64;
        unheard.truncate(LISTED_MAX);
        let complete = self.missing.is_empty() && self.more == 0 && !changed_meanwhile && unheard.is_empty();
        Completeness { complete, missing: self.missing, more_gaps: self.more, changed_meanwhile, unheard }
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
