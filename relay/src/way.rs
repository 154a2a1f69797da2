//! Which way frames take to the cloud, as a pure state machine (A7, C11).
//!
//! A member of a group goes through the holder of the lease, the proxy, and directly when there is none that works. Three rules:
//!
//! - A way is left at once when its link fails, when it refuses frames as out of date, or when heartbeats stay unanswered and nothing
//!   else comes either. What is left is a proxy; without one there is only the direct way, which is dialled anew.
//! - A proxy is tried beside the way in force, which goes on until the other one stands. So a lease that names somebody dead or
//!   out of reach costs nothing but the trying.
//! - A proxy that failed is not tried again before a pause, which doubles; another holder may be tried at once.
//!
//! Whether a lease still holds decides who may be *gone to*. It does not end a way: that takes a sign that the way does not
//! work, or another lease. The cloud refuses frames of a term that is over, so being late with that hurts nobody.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use wire::RelayId;
use wire::group::{Lease, TermLimits};

/// Heartbeats without an answer that are remembered.
const BEATS_MAX: usize = 32;
/// Holders that failed and are remembered.
const SHUNNED_MAX: usize = 64;

/// A way to the cloud.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// The relay's own connection.
    Direct {
        /// The term of the relay's own lease, by which it is the proxy of the others; 0 if it is not.
        term: u64,
    },
    /// Through the proxy.
    Proxied {
        /// The proxy.
        holder: RelayId,
        /// Where it listens.
        address: String,
        /// The term of its lease.
        term: u64,
    },
}

impl Way {
    /// What frames by this way are stamped with.
    #[must_use]
    pub fn term(&self) -> u64 {
        match self {
            Self::Direct { term } | Self::Proxied { term, .. } => *term,
        }
    }

    /// Whether this is the relay's own connection.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        matches!(self, Self::Direct { .. })
    }
}

/// Why the way changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// A lease says so.
    Lease,
    /// Heartbeats stayed unanswered.
    Unanswered,
    /// Its link failed.
    Lost,
    /// It refused frames.
    Refused,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Frames take this way from now on, from the oldest without receipt. A candidate for it is connected already.
    Go(Way, Why),
    /// Connect to this proxy beside the way in force, instead of any other candidate.
    Try {
        /// The proxy.
        holder: RelayId,
        /// Where it listens.
        address: String,
    },
    /// Give the candidate up.
    GiveUp,
    /// Dial the way in force anew: its link shows no sign of life.
    Redial,
    /// Send no frame until the way changes.
    Hold,
    /// Send a heartbeat at once.
    Beat,
}

/// What can be set.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// A way is dead when a heartbeat is unanswered, and nothing else has come, for so long.
    pub silence_max: Duration,
    /// A proxy that is tried must stand after this time.
    pub trying_max: Duration,
    /// A way that refused frames may tell of a newer lease for so long.
    pub hold_max: Duration,
    /// First and longest pause before a proxy that failed is tried again.
    pub pause_min: Duration,
    /// See `pause_min`.
    pub pause_max: Duration,
}

impl Patience {
    /// What suits heartbeats at this distance: a dead proxy is left within `interval` and a second and a half.
    #[must_use]
    pub fn of(interval: Duration) -> Self {
        Self {
            silence_max: interval + Duration::from_secs(1),
            trying_max: Duration::from_secs(2),
            hold_max: interval.min(Duration::from_millis(500)),
            pause_min: Duration::from_secs(2),
            pause_max: Duration::from_secs(60),
        }
    }
}

/// A lease as this relay knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    term: u64,
    holder: Option<RelayId>,
    address: String,
    until: Instant,
    limits: TermLimits,
}

#[derive(Debug, Clone)]
struct Trying {
    holder: RelayId,
    address: String,
    term: u64,
    since: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Shunned {
    until: Instant,
    pause: Duration,
}

/// The decision.
#[derive(Debug)]
pub struct Machine {
    me: RelayId,
    patience: Patience,
    way: Way,
    connected: bool,
    lease: Option<Known>,
    /// Heartbeats by this connection that have no answer, oldest first.
    beats: VecDeque<(u64, Instant)>,
    /// The last sign of life of this connection.
    alive: Instant,
    trying: Option<Trying>,
    /// Frames were refused; nothing is sent.
    held_since: Option<Instant>,
    shunned: BTreeMap<RelayId, Shunned>,
}

impl Machine {
    /// Directly, until a lease comes.
    #[must_use]
    pub fn new(me: RelayId, patience: Patience, now: Instant) -> Self {
        Self {
            me,
            patience,
            way: Way::Direct { term: 0 },
            connected: false,
            lease: None,
            beats: VecDeque::new(),
            alive: now,
            trying: None,
            held_since: None,
            shunned: BTreeMap::new(),
        }
    }

    /// The way in force.
    #[must_use]
    pub fn way(&self) -> &Way {
        &self.way
    }

    /// The term of the newest lease known, for heartbeats; 0 for none.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.lease.as_ref().map_or(0, |lease| lease.term)
    }

    /// When this relay's own term ends, if it is the proxy.
    #[must_use]
    pub fn limits(&self) -> Option<TermLimits> {
        let own = |lease: &&Known| lease.holder.as_ref() == Some(&self.me) && self.way == Way::Direct { term: lease.term };
        self.lease.as_ref().filter(own).map(|lease| lease.limits)
    }

    /// Heartbeats without an answer, overdue or not.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.beats.len()
    }

    /// A heartbeat was sent by the way in force.
    pub fn beat(&mut self, number: u64, now: Instant) {
        if self.beats.len() < BEATS_MAX {
            self.beats.push_back((number, now));
        }
    }

    /// The way in force works: something came by it that only the cloud can have caused.
    pub fn alive(&mut self, now: Instant) {
        self.alive = now;
    }

    /// The cloud told the lease by the way in force.
    pub fn lease(&mut self, told: &Lease, now: Instant) -> Vec<Action> {
        let sent = self.beats.iter().find(|(beat, _)| *beat == told.beat).map(|(_, sent)| *sent);
        if sent.is_some() {
            self.beats.retain(|(beat, _)| *beat > told.beat);
            self.alive = now;
        } else if self.lease.as_ref().is_some_and(|known| known.term > told.term) {
            // Said before what is known already.
            return Vec::new();
        }
        let mut until = sent.unwrap_or(now) + told.ttl;
        if let Some(known) = self.lease.as_ref().filter(|known| known.term == told.term && known.holder == told.holder) {
            until = until.max(known.until);
        }
        self.lease = Some(Known {
            term: told.term,
            holder: told.holder.clone(),
            address: told.address.clone(),
            until,
            limits: told.until,
        });
        self.follow_lease(now)
    }

    /// The link of the way in force came up or went down.
    pub fn connected(&mut self, connected: bool, now: Instant) -> Vec<Action> {
        self.connected = connected;
        self.beats.clear();
        self.alive = now;
        if connected || self.way.is_direct() {
            return Vec::new();
        }
        self.leave(Why::Lost, now)
    }

    /// The candidate's link came up (`true`), or failed.
    pub fn tried(&mut self, connected: bool, now: Instant) -> Vec<Action> {
        let Some(Trying { holder, address, term, .. }) = self.trying.take() else { return Vec::new() };
        if !connected {
            self.shun(holder, now);
            return vec![Action::GiveUp];
        }
        let way = Way::Proxied { holder, address, term };
        self.enter(way, true, Why::Lease, now)
    }

    /// The way in force refused a frame that is stamped with a term: the term is over, or the proxy can't pass it on.
    pub fn refused(&mut self, now: Instant) -> Vec<Action> {
        if self.way.term() == 0 || self.held_since.is_some() {
            return Vec::new();
        }
        // What is known of the lease led here.
        if self.lease.as_ref().is_some_and(|known| known.term <= self.way.term()) {
            self.lease = None;
        }
        if self.way.is_direct() {
            let connected = self.connected;
            let mut actions = self.enter(Way::Direct { term: 0 }, connected, Why::Refused, now);
            actions.push(Action::Beat);
            return actions;
        }
        self.held_since = Some(now);
        vec![Action::Hold, Action::Beat]
    }

    /// The way in force refused a heartbeat: a proxy passes nothing on any more, so it can't tell of another lease either.
    pub fn beat_refused(&mut self, now: Instant) -> Vec<Action> {
        if self.way.is_direct() { Vec::new() } else { self.leave(Why::Refused, now) }
    }

    /// Looks at the time.
    pub fn tick(&mut self, now: Instant) -> Vec<Action> {
        if self.held_since.is_some_and(|since| now >= since + self.patience.hold_max) {
            return self.leave(Why::Refused, now);
        }
        if self.silent_at().is_some_and(|silent| now >= silent) {
            if !self.way.is_direct() {
                return self.leave(Why::Unanswered, now);
            }
            self.connected = false;
            self.beats.clear();
            return vec![Action::Redial];
        }
        if self.trying.as_ref().is_some_and(|trying| now >= trying.since + self.patience.trying_max) {
            return self.tried(false, now);
        }
        self.follow_lease(now)
    }

    /// When to look at the time next.
    #[must_use]
    pub fn next_tick(&self, now: Instant) -> Option<Instant> {
        let hold = self.held_since.map(|since| since + self.patience.hold_max);
        let trying = self.trying.as_ref().map(|trying| trying.since + self.patience.trying_max);
        let again = self.wanted_proxy().and_then(|(lease, holder)| {
            let until = self.shunned.get(holder)?.until;
            (self.trying.is_none() && until < lease.until && now < lease.until).then_some(until)
        });
        [hold, self.silent_at(), trying, again].into_iter().flatten().min()
    }

    /// When the way in force is dead, if nothing comes before.
    fn silent_at(&self) -> Option<Instant> {
        let (_, first) = self.beats.front().filter(|_| self.connected)?;
        Some((*first).max(self.alive) + self.patience.silence_max)
    }

    /// The lease of another relay that frames don't take yet.
    fn wanted_proxy(&self) -> Option<(&Known, &RelayId)> {
        let lease = self.lease.as_ref()?;
        let holder = lease.holder.as_ref().filter(|holder| **holder != self.me)?;
        let there = matches!(&self.way, Way::Proxied { holder: other, term, .. } if other == holder && *term == lease.term);
        (!there && !lease.address.is_empty()).then_some((lease, holder))
    }

    fn follow_lease(&mut self, now: Instant) -> Vec<Action> {
        let Some(lease) = self.lease.clone().filter(|lease| now < lease.until) else { return Vec::new() };
        if lease.holder.as_ref().is_none_or(|holder| *holder == self.me) || lease.address.is_empty() {
            let term = if lease.holder.as_ref() == Some(&self.me) { lease.term } else { 0 };
            let way = Way::Direct { term };
            if self.way == way {
                return self.give_up();
            }
            let connected = self.way.is_direct() && self.connected;
            return self.enter(way, connected, Why::Lease, now);
        }
        let Some((_, holder)) = self.wanted_proxy() else { return self.give_up() };
        let holder = holder.clone();
        let mut actions = Vec::new();
        if self.way.is_direct() && self.way.term() != 0 {
            // Another one's lease: this relay's term is over.
            let connected = self.connected;
            actions = self.enter(Way::Direct { term: 0 }, connected, Why::Lease, now);
        }
        let same = |trying: &Trying| trying.holder == holder && trying.term == lease.term && trying.address == lease.address;
        let shunned = self.shunned.get(&holder).is_some_and(|shunned| now < shunned.until);
        if shunned || self.trying.as_ref().is_some_and(same) {
            return actions;
        }
        let address = lease.address;
        self.trying = Some(Trying { holder: holder.clone(), address: address.clone(), term: lease.term, since: now });
        actions.push(Action::Try { holder, address });
        actions
    }

    /// Leaves a proxy that does not work.
    fn leave(&mut self, why: Why, now: Instant) -> Vec<Action> {
        if let Way::Proxied { holder, .. } = &self.way {
            self.shun(holder.clone(), now);
        }
        self.enter(Way::Direct { term: 0 }, false, why, now)
    }

    /// A candidate stays what it is, unless it has become the way.
    fn enter(&mut self, way: Way, connected: bool, why: Why, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        if way.is_direct() && way.term() != 0 && self.trying.take().is_some() {
            actions.push(Action::GiveUp);
        }
        let same_link = way.is_direct() && self.way.is_direct();
        self.way = way.clone();
        self.held_since = None;
        if !same_link {
            self.connected = connected;
            self.beats.clear();
            self.alive = now;
        }
        actions.push(Action::Go(way, why));
        actions
    }

    fn give_up(&mut self) -> Vec<Action> {
        if self.trying.take().is_some() { vec![Action::GiveUp] } else { Vec::new() }
    }

    fn shun(&mut self, holder: RelayId, now: Instant) {
        let Patience { pause_min, pause_max, .. } = self.patience;
        // Long after its pause a holder has a clean slate.
        self.shunned.retain(|_, shunned| now < shunned.until + pause_max);
        if self.shunned.len() >= SHUNNED_MAX {
            self.shunned.clear();
        }
        let pause = self.shunned.get(&holder).map_or(pause_min, |shunned| (shunned.pause * 2).min(pause_max));
        self.shunned.insert(holder, Shunned { until: now + pause, pause });
    }
}

#[cfg(test)]
mod tests;
