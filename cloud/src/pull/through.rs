//! The way of a question through to the relays: what the archive lacks is looked up in the index, pulled, and compared.

use std::collections::BTreeMap;
use std::time::Instant;

use wire::{At, Epoch, Intervals, RecordKey, RelayId, Series};

use super::hearing::Open;
use super::{Ask, Heard, Unheard};
use crate::history::History;
use crate::index::{Known, LookFault, Standing, compare, without};
use crate::problem::Problem;

/// A chunk that the index knows and of which the archive lacks records.
type Lacking = Vec<Known>;

impl History {
    /// What relays hold beside what the index names, see [`super::Hearing::hear`].
    ///
    /// # Errors
    /// The index can't answer.
    pub(crate) async fn hear(&self, range: (At, At), deadline: Instant) -> Result<Heard, Problem> {
        self.hearing().hear(range, deadline).await.map_err(|error| {
            tracing::error!(%error, "the index does not say which relays there are");
            Problem::unavailable()
        })
    }

    /// Has relays bring what they hold of these series within the range and the archive lacks, and compares what came with what was
    /// announced; of the first `begun` of them what the index does not name only. Waits until `deadline` at the latest. Says whether anything
    /// that the index names is still lacking, and what else did not come.
    pub(crate) async fn bring(
        &self,
        (names, begun): (&[Series], usize),
        heard: &Heard,
        range: (At, At),
        deadline: Instant,
    ) -> Result<Brought, Problem> {
        let lacking = {
            let (history, names) = (self.clone(), names[begun..].to_vec());
            self.read(move |_| history.lacking(&names, range)).await?
        };
        let (asks, open) = asks(&lacking, (names, heard), range);
        if asks.is_empty() && lacking.is_empty() {
            return Ok(Brought::default());
        }
        let arrived = self.pulls().fetch(asks.clone(), deadline).await;
        let mut not_brought = Vec::new();
        for (place, open) in open {
            if !arrived.get(place).copied().unwrap_or(false) {
                let Ask { relay, series, .. } = &asks[place];
                not_brought.push(open.not_brought(series, self.pulls().reaches(relay)));
            }
        }
        if lacking.is_empty() {
            return Ok(Brought { is_lacking: false, not_brought });
        }
        let history = self.clone();
        let is_lacking = self.read(move |archive| {
            // What has come is compared before it is shown; what has not is found out below, when it is lacking again.
            for known in &lacking {
                compare(history.index(), archive, known)?;
            }
            let mut names: Vec<_> = lacking.into_iter().map(|known| known.series).collect();
            names.dedup();
            Ok::<_, LookFault>(!history.lacking(&names, range)?.is_empty())
        });
        Ok(Brought { is_lacking: is_lacking.await?, not_brought })
    }

    /// Has relays bring the record under `key`, if one has stated it, or what they hold of its series beside what they have stated.
    pub(crate) async fn bring_one(&self, key: &RecordKey) -> Result<(), Problem> {
        let deadline = self.pulls().deadline();
        let (history, wanted) = (self.clone(), key.clone());
        let lacking = self.read(move |_| history.index().of_series(&wanted.series, (At::MIN, At::MAX))).await?;
        let holds = |known: &Known| known.epoch == key.epoch && known.seqs.contains(key.seq);
        let lacking: Lacking = lacking.into_iter().filter(holds).collect();
        let heard = if lacking.is_empty() { self.hear((At::MIN, At::MAX), deadline).await? } else { Heard::default() };
        let (asks, _) = asks(&lacking, (std::slice::from_ref(&key.series), &heard), (At::MIN, At::MAX));
        self.pulls().fetch(asks, deadline).await;
        let index = self.index().clone();
        self.read(move |archive| lacking.iter().try_for_each(|known| compare(&index, archive, known).map(drop))).await
    }

    fn lacking(&self, names: &[Series], range: (At, At)) -> Result<Lacking, LookFault> {
        let mut lacking = Vec::new();
        for series in names {
            let mut known = self.index().of_series(series, range)?;
            if known.is_empty() {
                continue;
            }
            let received = self.archive().received(std::slice::from_ref(series))?.pop().unwrap_or_default();
            let received: BTreeMap<Epoch, Intervals> = received.into_iter().collect();
            known.retain(|known| received.get(&known.epoch).is_none_or(|held| !without(&known.seqs, held).is_empty()));
            lacking.extend(known);
        }
        Ok(lacking)
    }
}

/// What bringing has left out.
#[derive(Debug, Default)]
pub(crate) struct Brought {
    /// Something that the index names is still lacking.
    pub(crate) is_lacking: bool,
    /// What relays hold beside that, and did not bring.
    pub(crate) not_brought: Vec<Unheard>,
}

/// One ask a relay and series, over all of its chunks that are lacking and what it holds beside them. Whole chunks come, so no ask is
/// wider than the question. Also says which of the asks are for something that the index does not name.
fn asks<'h>(
    lacking: &[Known],
    (names, heard): (&[Series], &'h Heard),
    (from, to): (At, At),
) -> (Vec<Ask>, Vec<(usize, &'h Open)>) {
    let mut ranges: BTreeMap<(&RelayId, &Series), (At, At, Option<&Open>)> = BTreeMap::new();
    for known in lacking.iter().filter(|known| known.standing == Standing::Stated) {
        let range = ranges.entry((&known.relay, &known.series)).or_insert((At::MAX, At::MIN, None));
        range.0 = range.0.min(known.at_min.max(from));
        range.1 = range.1.max(known.at_max.saturating_add(1).min(to));
    }
    for open in &heard.open {
        for series in names.iter().filter(|series| open.holds(series)) {
            let range = ranges.entry((&open.relay, series)).or_insert((At::MAX, At::MIN, None));
            range.0 = range.0.min(open.at.0.max(from));
            range.1 = range.1.max(open.at.1.saturating_add(1).min(to));
            range.2 = Some(open);
        }
    }
    let mut asks = Vec::with_capacity(ranges.len());
    let mut opens = Vec::new();
    for ((relay, series), (from, to, open)) in ranges {
        opens.extend(open.map(|open| (asks.len(), open)));
        let since = open.map_or(0, |open| open.order);
        asks.push(Ask { relay: relay.clone(), series: series.clone(), from, to, since });
    }
    (asks, opens)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(relay: &str, series: &str, standing: Standing, (at_min, at_max): (At, At)) -> Known {
        Known {
            row: 1,
            relay: relay.parse().unwrap(),
            standing,
            chunk: 1,
            series: series.parse().unwrap(),
            epoch: Epoch(1),
            at_min,
            at_max,
            seqs: Intervals::of(1, 2),
            root: [0; 32],
            is_checked: false,
            statement: None,
        }
    }

    #[test]
    fn a12_a_relay_is_asked_once_a_series_and_for_no_more_than_the_question() {
        let lacking = [
            known("r1", "a/b/c", Standing::Stated, (5, 9)),
            known("r1", "a/b/c", Standing::Stated, (20, 99)),
            known("r1", "a/b/d", Standing::Stated, (0, 30)),
            known("r2", "a/b/c", Standing::Left, (5, 9)),
            known("r3", "a/b/c", Standing::Lost, (5, 9)),
        ];
        let asked: Vec<_> = asks(&lacking, (&[], &Heard::default()), (7, 50))
            .0
            .into_iter()
            .map(|ask| (ask.relay.to_string(), ask.series.to_string(), ask.from, ask.to))
            .collect();
        let one = |series: &str, from, to| ("r1".to_owned(), series.to_owned(), from, to);
        assert_eq!(asked, [one("a/b/c", 7, 50), one("a/b/d", 7, 31)]);
    }
}
