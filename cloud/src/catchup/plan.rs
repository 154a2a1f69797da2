//! What a feed has still to send: the numbers that are held and were not sent, series by series. Knows no archive and no clock.

use std::collections::VecDeque;
use std::sync::Arc;

use archive::SeriesId;
use rustc_hash::FxHashMap;
use wire::{Epoch, Intervals};

/// What a series costs beside its intervals.
const SERIES_BYTES: usize = 192;
/// What an epoch of a series costs beside its intervals.
const EPOCH_BYTES: usize = 96;
/// What an interval costs.
const INTERVAL_BYTES: usize = 16;
/// Intervals that one walk is given; a series with more of them is walked in pieces.
const WALK_INTERVALS_MAX: usize = 256;

/// One feed's account of what it has sent and has to send.
#[derive(Debug, Default)]
pub(super) struct Plan {
    series: FxHashMap<SeriesId, Account>,
    /// Series of which something is due, in the order in which they are served.
    queue: VecDeque<SeriesId>,
    bytes: usize,
}

#[derive(Debug)]
struct Account {
    topic: Arc<str>,
    /// In the order in which they are sent.
    epochs: Vec<EpochAccount>,
    queued: bool,
    /// Nothing of it is sent yet: older records may be on their way here.
    held_back: bool,
}

#[derive(Debug)]
struct EpochAccount {
    epoch: Epoch,
    /// Sent, or older than what the feed is about.
    sent: Intervals,
    /// Held and not sent.
    due: Intervals,
    /// The last number that was held when the feed began.
    past: u64,
}

impl EpochAccount {
    fn new(epoch: Epoch) -> Self {
        Self { epoch, sent: Intervals::new(), due: Intervals::new(), past: 0 }
    }

    fn bytes(&self) -> usize {
        EPOCH_BYTES + INTERVAL_BYTES * (self.sent.as_slice().len() + self.due.as_slice().len())
    }
}

impl Account {
    fn bytes(&self) -> usize {
        SERIES_BYTES + self.topic.len() + self.epochs.iter().map(EpochAccount::bytes).sum::<usize>()
    }

    fn is_due(&self) -> bool {
        self.epochs.iter().any(|epoch| !epoch.due.is_empty())
    }

    fn epoch(&mut self, epoch: Epoch) -> &mut EpochAccount {
        let place = self.epochs.iter().position(|account| account.epoch == epoch).unwrap_or_else(|| {
            self.epochs.push(EpochAccount::new(epoch));
            self.epochs.len() - 1
        });
        &mut self.epochs[place]
    }
}

/// Part of one series that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) series: SeriesId,
    pub(super) epoch: Epoch,
    pub(super) wanted: Intervals,
}

impl Plan {
    /// What the plan costs, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.queue.capacity() * size_of::<SeriesId>()
    }

    /// The series that the feed is about.
    pub(super) fn series(&self) -> impl Iterator<Item = (SeriesId, &Arc<str>)> {
        self.series.iter().map(|(id, account)| (*id, &account.topic))
    }

    /// The topic of a series that the feed is about.
    pub(super) fn topic(&self, series: SeriesId) -> Option<&Arc<str>> {
        self.series.get(&series).map(|account| &account.topic)
    }

    /// Adds a series, or learns anew what is held of it: `held` by epoch, in the order in which the epochs are to be sent. What was
    /// not sent is due; with `skip` it is none of the feed's business.
    pub(super) fn hold(&mut self, series: SeriesId, topic: &Arc<str>, held: &[(Epoch, Intervals)], skip: bool) {
        let is_new = !self.series.contains_key(&series);
        self.change(series, topic, |account| {
            for (epoch, held) in held {
                let account = account.epoch(*epoch);
                if is_new {
                    account.past = held.last().unwrap_or(0);
                }
                let missing = |(low, high): &(u64, u64)| account.sent.missing(*low, *high);
                let fresh: Vec<(u64, u64)> = held.as_slice().iter().flat_map(missing).collect();
                for (low, high) in fresh {
                    if skip { account.sent.insert(low, high) } else { account.due.insert(low, high) }
                }
            }
        });
        self.enqueue(series);
    }

    /// Adds a series of which nothing is to be sent before [`Plan::release`].
    pub(super) fn hold_back(&mut self, series: SeriesId, topic: &Arc<str>) {
        self.change(series, topic, |account| account.held_back = true);
    }

    /// What has gathered of a series that was held back is due. It is of the past.
    pub(super) fn release(&mut self, series: SeriesId) {
        if let Some(account) = self.series.get_mut(&series).filter(|account| account.held_back) {
            account.held_back = false;
            for epoch in &mut account.epochs {
                epoch.past = epoch.past.max(epoch.due.last().unwrap_or(0));
            }
        }
        self.enqueue(series);
    }

    /// Numbers `first..=last` of a series of the feed were committed. `true`: they are next, and count as sent if the caller sends
    /// them now, which he does unless `room` is false. `false`: they are due later, or not at all.
    pub(super) fn committed(&mut self, series: SeriesId, epoch: Epoch, (first, last): (u64, u64), room: bool) -> bool {
        let Some(topic) = self.series.get(&series).map(|account| account.topic.clone()) else { return false };
        let mut now = false;
        self.change(series, &topic, |account| {
            now = room && !account.held_back && !account.is_due() && account.epoch(epoch).sent.last().unwrap_or(0) < first;
            let account = account.epoch(epoch);
            if now {
                account.sent.insert(first, last);
                return;
            }
            // What was committed as the feed began may be known already.
            for (low, high) in account.sent.missing(first, last) {
                account.due.insert(low, high);
            }
        });
        self.enqueue(series);
        now
    }

    /// What to send next.
    pub(super) fn next(&self) -> Option<Due> {
        let series = *self.queue.front()?;
        let account = self.series.get(&series)?.epochs.iter().find(|epoch| !epoch.due.is_empty())?;
        let wanted = account.due.as_slice().iter().take(WALK_INTERVALS_MAX).copied().collect();
        Some(Due { series, epoch: account.epoch, wanted })
    }

    /// Whether a record that is sent now is of the past: it was held when the feed began, or a later one has been sent.
    pub(super) fn is_past(&self, series: SeriesId, epoch: Epoch, seq: u64) -> bool {
        let account = self.series.get(&series).and_then(|account| account.epochs.iter().find(|other| other.epoch == epoch));
        account.is_some_and(|account| seq <= account.past || account.sent.last().is_some_and(|last| seq < last))
    }

    /// All that was due of this up to number `to` is sent. Another series is next.
    pub(super) fn walked(&mut self, due: &Due, to: u64) {
        let Some(topic) = self.series.get(&due.series).map(|account| account.topic.clone()) else { return };
        self.change(due.series, &topic, |account| {
            let account = account.epoch(due.epoch);
            for (low, high) in due.wanted.as_slice().iter().filter(|(low, _)| *low <= to) {
                let high = (*high).min(to);
                account.sent.insert(*low, high);
                account.due.remove(*low, high);
            }
        });
        self.queue.pop_front();
        if let Some(account) = self.series.get_mut(&due.series) {
            account.queued = false;
        }
        self.enqueue(due.series);
    }

    fn enqueue(&mut self, series: SeriesId) {
        if let Some(account) = self.series.get_mut(&series)
            && !account.queued
            && !account.held_back
            && account.is_due()
        {
            account.queued = true;
            self.queue.push_back(series);
        }
    }

    /// Changes an account, made if it is not there, and keeps the books.
    fn change(&mut self, series: SeriesId, topic: &Arc<str>, change: impl FnOnce(&mut Account)) {
        let account = self.series.entry(series).or_insert_with(|| {
            let account = Account { topic: topic.clone(), epochs: Vec::new(), queued: false, held_back: false };
            self.bytes += account.bytes();
            account
        });
        self.bytes -= account.bytes();
        change(account);
        self.bytes += account.bytes();
    }
}
