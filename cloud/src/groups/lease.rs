//! The lease of one group as a state machine: what is heard goes in, the change that is due comes out, and nothing changes before it was
//! kept. Time and randomness are arguments.
//!
//! A term ends when its holder is not heard for the lease's life and carries no frame, says that it lost the lease, can't be reached, or left the group: then
//! nobody is told that it is the proxy any more. It ends too when the holder says that it is done (A8) or its time is up: then it serves on
//! until another live member can take over. Every term, that of a replacement too, counts as the service of its holder in the round (A10).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use wire::group::{Heartbeat, Lease};
use wire::{At, RelayId};

use super::collected::Collected;
use super::rounds::{Candidate, choose};
use super::score::Histogram;
use super::settings::Group as Settings;

/// How far a member's term may be ahead of ours and still be believed: a relay must not use the numbers up.
const AHEAD_MAX: u64 = 1 << 32;

/// Why a term ended, or why the group's first one began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, prometheus_client::encoding::EncodeLabelValue)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// There was no term before.
    First,
    /// The holder said that its condition is met.
    Done,
    /// The time limit was reached.
    Time,
    /// The holder was not heard for the life of the lease.
    Silent,
    /// The holder said that it has no lease any more: it did not hear the cloud, or was started again.
    Lost,
    /// The holder has no address that others could use.
    Unreachable,
    /// The holder left the group's configuration.
    Removed,
    /// A member knows a later term: the cloud's own record was lost.
    Forgotten,
}

impl Reason {
    /// The word that is kept and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Done => "done",
            Self::Time => "time",
            Self::Silent => "silent",
            Self::Lost => "lost",
            Self::Unreachable => "unreachable",
            Self::Removed => "removed",
            Self::Forgotten => "forgotten",
        }
    }

    /// Whether the holder serves on until somebody takes over.
    const fn is_gentle(self) -> bool {
        matches!(self, Self::Done | Self::Time)
    }
}

/// A moment: expiry goes by the steady clock, what is shown and kept by the time of day.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) steady: Instant,
    pub(crate) at: At,
}

/// A member's part in a term that has ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scored {
    pub(crate) relay: RelayId,
    /// `None` for the holder and for those who had served already (A10).
    pub(crate) score: Option<f64>,
    pub(crate) histogram: Histogram,
}

/// The next term. It holds from the moment when it is kept and applied.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Change {
    pub(crate) term: u64,
    pub(crate) holder: RelayId,
    pub(crate) address: String,
    /// When it begins and the one before ends.
    pub(crate) at: At,
    /// Why the one before ends.
    pub(crate) reason: Reason,
    pub(crate) round: u64,
    /// Who has served in the round, the new holder included.
    pub(crate) served: BTreeSet<RelayId>,
    /// What the members collected in the term that ends.
    pub(crate) scored: Vec<Scored>,
}

/// What a restart finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) term: u64,
    pub(crate) holder: RelayId,
    pub(crate) address: String,
    pub(crate) since: At,
    pub(crate) round: u64,
    pub(crate) served: BTreeSet<RelayId>,
}

/// The term that goes on.
#[derive(Debug, Clone)]
struct Serving {
    holder: RelayId,
    address: String,
    since: Now,
    /// When the holder was heard; at first, when the term was told.
    heard: Instant,
    /// The holder has said that it knows its term.
    confirmed: bool,
    /// The lease is over for this reason, whatever the holder says from now on.
    over: Option<Reason>,
    done: bool,
}

/// What is known of a member.
#[derive(Debug, Clone, Default)]
pub(crate) struct Member {
    pub(crate) heard: Option<Now>,
    /// When a frame of it came.
    seen: Option<Instant>,
    /// Whether it was heard last through its own connection.
    pub(crate) direct: bool,
    address: String,
    pub(crate) collected: Collected,
}

/// One group.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    settings: Settings,
    term: u64,
    /// The latest term that any member knows.
    known: u64,
    serving: Option<Serving>,
    members: BTreeMap<RelayId, Member>,
    round: u64,
    served: BTreeSet<RelayId>,
}

impl Group {
    /// A group of which `kept` is remembered. The lease goes on if its holder is heard within its life from now on.
    pub(crate) fn new(settings: Settings, kept: Option<Kept>, now: Now) -> Self {
        let collected = kept.as_ref().map(|kept| Collected::resumed(kept.since)).unwrap_or_default();
        let member = |name: &RelayId| (name.clone(), Member { collected: collected.clone(), ..Member::default() });
        let members = settings.members.iter().map(member).collect();
        let mut group = Self { settings, term: 0, known: 0, serving: None, members, round: 1, served: BTreeSet::new() };
        if let Some(Kept { term, holder, address, since, round, served }) = kept {
            let served_for = Duration::from_nanos(u64::try_from(now.at.saturating_sub(since)).unwrap_or(0));
            let steady = now.steady.checked_sub(served_for).unwrap_or(now.steady);
            let since = Now { steady, at: since };
            let heard = now.steady;
            group.serving = Some(Serving { holder, address, since, heard, confirmed: false, over: None, done: false });
            (group.term, group.known, group.round, group.served) = (term, term, round, served);
        }
        group
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn members(&self) -> &BTreeMap<RelayId, Member> {
        &self.members
    }

    pub(crate) fn served(&self) -> (u64, &BTreeSet<RelayId>) {
        (self.round, &self.served)
    }

    /// When the term began.
    pub(crate) fn since(&self) -> Option<At> {
        self.serving.as_ref().map(|serving| serving.since.at)
    }

    /// Term and holder by which frames are judged; it stays the last one while there is no new one.
    pub(crate) fn standing(&self) -> (u64, Option<&RelayId>) {
        (self.term, self.serving.as_ref().map(|serving| &serving.holder))
    }

    fn ttl(&self) -> Duration {
        self.settings.ttl.duration()
    }

    /// Whether a member was heard, or a frame of it came, within the life of a lease.
    pub(crate) fn is_live(&self, member: &Member, now: Instant) -> bool {
        let last = member.heard.map(|heard| heard.steady).max(member.seen);
        last.is_some_and(|last| now.saturating_duration_since(last) < self.ttl())
    }

    /// A member's heartbeat; `direct` if it came through the member's own connection. Whether it renewed the lease. A relay that is no member
    /// changes nothing.
    pub(crate) fn hear(&mut self, relay: &RelayId, direct: bool, beat: &Heartbeat, now: Now) -> bool {
        let (ttl, term) = (self.ttl(), self.term);
        let Some(member) = self.members.get_mut(relay) else { return false };
        member.heard = Some(now);
        member.direct = direct;
        member.address.clone_from(&beat.address);
        member.collected.take(beat);
        if beat.term > self.known && beat.term - self.term < AHEAD_MAX {
            self.known = beat.term;
        }
        let Some(serving) = self.serving.as_mut().filter(|serving| serving.holder == *relay && direct) else { return false };
        if serving.over.is_none() {
            if now.steady.saturating_duration_since(serving.heard) >= ttl {
                serving.over = Some(Reason::Silent);
            } else if beat.address.is_empty() {
                serving.over = Some(Reason::Unreachable);
            } else if beat.term == term {
                serving.heard = now.steady;
                serving.confirmed = true;
                serving.done |= beat.done;
                serving.address.clone_from(&beat.address);
                return true;
            } else if serving.confirmed {
                serving.over = Some(Reason::Lost);
            }
        }
        false
    }

    /// A frame of a member came.
    pub(crate) fn seen(&mut self, relay: &RelayId, at: Instant) {
        if let Some(member) = self.members.get_mut(relay) {
            member.seen = member.seen.max(Some(at));
        }
    }

    /// A frame came through the holder with its term: it lives, though its heartbeat may wait behind what it carries.
    pub(crate) fn carried(&mut self, at: Instant) {
        let ttl = self.ttl();
        if let Some(serving) = self.serving.as_mut().filter(|serving| serving.over.is_none() && at > serving.heard) {
            if at.duration_since(serving.heard) >= ttl {
                serving.over = Some(Reason::Silent);
            } else {
                serving.heard = at;
            }
        }
    }

    /// Frames that the holder brought wait for their commit: a silence is our fault.
    pub(crate) fn kept_waiting(&mut self, now: Instant) {
        if let Some(serving) = self.serving.as_mut().filter(|serving| serving.over.is_none()) {
            serving.heard = serving.heard.max(now);
        }
    }

    /// Why the term is over, if it is.
    fn over(&self, now: Instant) -> Option<Reason> {
        let Some(serving) = &self.serving else { return Some(Reason::First) };
        let limit = self.settings.term.limits().time;
        if serving.over.is_some() {
            serving.over
        } else if !self.members.contains_key(&serving.holder) {
            Some(Reason::Removed)
        } else if now.saturating_duration_since(serving.heard) >= self.ttl() {
            Some(Reason::Silent)
        } else if self.known > self.term {
            Some(Reason::Forgotten)
        } else if serving.done {
            Some(Reason::Done)
        } else if !limit.is_zero() && now.saturating_duration_since(serving.since.steady) >= limit {
            Some(Reason::Time)
        } else {
            None
        }
    }

    /// The change that is due, if there is one. `random` decides between equal scores.
    pub(crate) fn due(&self, now: Now, random: u64) -> Option<Change> {
        let reason = self.over(now.steady)?;
        let holder = self.serving.as_ref().map(|serving| &serving.holder);
        let able = |(relay, member): &(&RelayId, &Member)| {
            Some(*relay) != holder && !member.address.is_empty() && self.is_live(member, now.steady)
        };
        let candidate = |(relay, member): (&RelayId, &Member)| Candidate {
            relay: relay.clone(),
            score: member.collected.histogram().score(),
        };
        let candidates: Vec<Candidate> = self.members.iter().filter(able).map(candidate).collect();
        let (relay, new_round) = match choose(&candidates, &self.served, random) {
            Some(choice) => (choice.relay, choice.new_round),
            // Nobody else is there: who lost the lease may have a new one, and who is done goes on.
            None if !reason.is_gentle() => {
                let alone = self.members.iter().find(|(relay, member)| {
                    Some(*relay) == holder && !member.address.is_empty() && self.is_live(member, now.steady)
                });
                (alone?.0.clone(), false)
            }
            None => return None,
        };
        let mut served = if new_round { BTreeSet::new() } else { self.served.clone() };
        let scored = self.scored(&candidates, new_round);
        served.insert(relay.clone());
        Some(Change {
            term: self.known.max(self.term).saturating_add(1),
            address: self.members.get(&relay)?.address.clone(),
            holder: relay,
            at: now.at,
            reason,
            round: self.round.saturating_add(u64::from(new_round)),
            served,
            scored,
        })
    }

    fn scored(&self, candidates: &[Candidate], new_round: bool) -> Vec<Scored> {
        let score = |relay: &RelayId| {
            let counts = new_round || !self.served.contains(relay);
            candidates.iter().find(|candidate| counts && candidate.relay == *relay).map(|candidate| candidate.score)
        };
        let part = |(relay, member): (&RelayId, &Member)| Scored {
            relay: relay.clone(),
            score: score(relay),
            histogram: member.collected.histogram(),
        };
        self.members.iter().map(part).collect()
    }

    /// The change was kept: from now on it holds.
    pub(crate) fn apply(&mut self, change: Change, now: Now) {
        let Change { term, holder, address, at, round, served, .. } = change;
        (self.term, self.known, self.round, self.served) = (term, term, round, served);
        let since = Now { steady: now.steady, at };
        // It has the lease's life to say that it knows.
        let heard = now.steady;
        self.serving = Some(Serving { holder, address, since, heard, confirmed: false, over: None, done: false });
        for member in self.members.values_mut() {
            member.collected.begin();
        }
    }

    /// When a change may be due though nothing is heard.
    pub(crate) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let serving = self.serving.as_ref()?;
        let limit = self.settings.term.limits().time;
        let ends = if limit.is_zero() { None } else { serving.since.steady.checked_add(limit) };
        serving.heard.checked_add(self.ttl()).into_iter().chain(ends).filter(|deadline| *deadline > now).min()
    }

    /// The answer to heartbeat number `beat` of `relay`, which renewed the lease or not. What the holder is told is never longer than
    /// what it has here: by its own count its lease ends first, whenever it is replaced.
    pub(crate) fn answer(&self, relay: &RelayId, beat: u64, renewed: bool, now: Instant) -> Lease {
        let lease = self.lease(beat, now);
        match &self.serving {
            Some(serving) if !renewed && serving.holder == *relay => {
                let left = self.ttl().saturating_sub(now.saturating_duration_since(serving.heard));
                Lease { ttl: left, ..lease }
            }
            _ => lease,
        }
    }

    /// The lease as it stands; number 0 is said unasked.
    pub(crate) fn lease(&self, beat: u64, now: Instant) -> Lease {
        let holds = self.over(now).is_none_or(Reason::is_gentle);
        let serving = self.serving.as_ref().filter(|_| holds);
        Lease {
            group: self.settings.name.clone(),
            beat,
            term: self.term,
            holder: serving.map(|serving| serving.holder.clone()),
            address: serving.map(|serving| serving.address.clone()).unwrap_or_default(),
            ttl: self.ttl(),
            until: self.settings.term.limits(),
        }
    }
}
