//! The publishing loop: all connections on one thread, no allocation a message.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mio::{Events, Interest, Poll, Token};

use crate::alarm::Alarm;
use crate::clock::{Nanos, RunClock, nanos};
use crate::flow::Flow;
use crate::lane::{Lane, Lost, Score};
use crate::pace::Lead;
use crate::session::PING_EVERY;

/// Token of the waker of [`Publisher`]'s poll.
pub(crate) const WAKE: Token = Token(usize::MAX - 1);
const ALARM: Token = Token(usize::MAX - 2);
/// How long the loop sleeps at most: the grain of its phases.
const NAP: Duration = Duration::from_millis(10);

/// When the loop counts and when it ends.
pub(crate) struct Phases {
    pub(crate) warmup: Duration,
    /// How long to send after the warm-up.
    pub(crate) seconds: Duration,
    /// Whether the run ends with its messages instead: then the rate is over the time to the last acknowledgement.
    pub(crate) counted: bool,
    /// How long to wait for acknowledgements after the last message.
    pub(crate) drain: Duration,
}

pub(crate) struct Publisher {
    poll: Poll,
    alarm: Alarm,
    clock: RunClock,
    lanes: Vec<Lane>,
    flow: Arc<Flow>,
    lead: Option<Lead>,
    records_a_message: u64,
    subscribers: u64,
    paced: bool,
}

/// What the loop leaves behind.
pub(crate) struct Published {
    pub(crate) score: Score,
    pub(crate) measured: Duration,
    /// Messages sent, by number of the connection.
    pub(crate) sent: Vec<(u16, u64)>,
    pub(crate) unacknowledged: u64,
}

/// What is the same for all connections.
pub(crate) struct PublisherSettings {
    pub(crate) lead: u64,
    pub(crate) records_a_message: u64,
    pub(crate) subscribers: u64,
    pub(crate) paced: bool,
}

impl Publisher {
    pub(crate) fn new(
        poll: Poll,
        clock: RunClock,
        mut lanes: Vec<Lane>,
        flow: Arc<Flow>,
        settings: &PublisherSettings,
    ) -> io::Result<Self> {
        let alarm = Alarm::new(poll.registry(), ALARM)?;
        for (index, lane) in lanes.iter_mut().enumerate() {
            poll.registry().register(lane.stream(), Token(index), Interest::READABLE | Interest::WRITABLE)?;
        }
        Ok(Self {
            poll,
            alarm,
            clock,
            lanes,
            flow,
            lead: Lead::new(settings.lead),
            records_a_message: settings.records_a_message,
            subscribers: settings.subscribers,
            paced: settings.paced,
        })
    }

    /// Sends until the time or the messages are over, and waits for the acknowledgements.
    pub(crate) fn run(mut self, start: Nanos, phases: &Phases, mut score: Score) -> io::Result<Published> {
        score.from = start + nanos(phases.warmup);
        let stop_at = score.from + nanos(phases.seconds);
        score.until = if phases.counted { Nanos::MAX } else { stop_at };
        self.flow.measure(score.from, score.until);
        let mut events = Events::with_capacity(1024);
        let mut next_ping = start + nanos(PING_EVERY);
        let mut give_up = None;
        loop {
            let now = self.clock.now();
            if give_up.is_none() && (now >= stop_at || self.lanes.iter().all(Lane::done)) {
                give_up = Some(now + nanos(phases.drain));
            }
            if let Some(give_up) = give_up
                && (now >= give_up || self.lanes.iter().all(|lane| !lane.is_open() || lane.outstanding() == 0))
            {
                break;
            }
            if now >= next_ping {
                next_ping = now + nanos(PING_EVERY);
                for lane in self.lanes.iter_mut().filter(|lane| lane.is_open()) {
                    lane.ping().unwrap_or_else(|lost| end(lane, lost, &mut score));
                }
            }
            let sending = give_up.is_none();
            let hungry = if sending { self.send_all(&mut score) } else { self.send_none(&mut score) };
            let timeout = if hungry { Duration::ZERO } else { self.nap(sending)? };
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                outcome => outcome?,
            }
            for event in &events {
                let Some(lane) = self.lanes.get_mut(event.token().0) else {
                    continue;
                };
                if lane.is_open() && event.is_readable() {
                    lane.receive(self.clock, &mut score).unwrap_or_else(|lost| end(lane, lost, &mut score));
                }
            }
        }
        Ok(self.finish(score))
    }

    /// One turn over all connections, starting at another one each time so that a bounded lead is shared fairly.
    fn send_all(&mut self, score: &mut Score) -> bool {
        let mut room = match &mut self.lead {
            None => u64::MAX,
            Some(lead) => {
                let sent = score.sent * self.records_a_message;
                let mut left =
                    || lead.room(sent, self.flow.delivered() / self.subscribers, self.clock.now()) / self.records_a_message;
                match left() {
                    0 => {
                        // A delivery between the two looks is seen by the second, a later one wakes us.
                        self.flow.wait_for_delivery();
                        left()
                    }
                    room => room,
                }
            }
        };
        let mut hungry = false;
        let turn = score.sent as usize % self.lanes.len().max(1);
        let (late, early) = self.lanes.split_at_mut(turn);
        for lane in early.iter_mut().chain(late).filter(|lane| lane.is_open()) {
            match lane.send(self.clock, score, &mut room) {
                Ok(more) => hungry |= more,
                Err(lost) => end(lane, lost, score),
            }
        }
        hungry && room > 0
    }

    /// Writes only what was begun.
    fn send_none(&mut self, score: &mut Score) -> bool {
        for lane in self.lanes.iter_mut().filter(|lane| lane.is_open()) {
            if let Err(lost) = lane.send(self.clock, score, &mut 0) {
                end(lane, lost, score);
            }
        }
        false
    }

    fn nap(&self, sending: bool) -> io::Result<Duration> {
        if !(sending && self.paced) {
            return Ok(NAP);
        }
        match self.lanes.iter().filter_map(Lane::due).min() {
            Some(due) => {
                let after = due.saturating_sub(self.clock.now());
                if after == 0 { Ok(Duration::ZERO) } else { self.alarm.set(after, NAP) }
            }
            None => Ok(NAP),
        }
    }

    fn finish(mut self, score: Score) -> Published {
        let now = self.clock.now();
        let end = if score.until != Nanos::MAX {
            score.until.min(now)
        } else if score.last_acknowledged > 0 {
            score.last_acknowledged
        } else {
            now
        };
        for lane in self.lanes.iter_mut().filter(|lane| lane.is_open()) {
            lane.goodbye();
        }
        Published {
            measured: Duration::from_nanos(end.saturating_sub(score.from)),
            sent: self.lanes.iter().map(|lane| (lane.number(), lane.sent())).collect(),
            unacknowledged: score.sent.saturating_sub(score.acknowledged + score.refused),
            score,
        }
    }
}

fn end(lane: &mut Lane, lost: Lost, score: &mut Score) {
    lane.close();
    score.faults.count(lost.to_string());
}
