//! Which frames and heartbeats of a group's members may come which way (C11), and who was seen to live by them.
//!
//! Asked for every frame, before the append, at the cost of two look-ups and a few atomics. Without verified users nobody can
//! tell whose connection it is, so then only the term is looked at.
//!
//! Frames are signs of life beside heartbeats: where a way is full, a heartbeat waits behind megabytes of frames, and a proxy that works hard
//! must not be taken for dead. As long as a frame that it brought waits for its commit, it is we who keep it waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rustc_hash::FxHashMap;
use wire::RelayId;

/// Term and holder that frames are judged by.
#[derive(Debug, Default)]
struct Standing {
    term: u64,
    holder: Option<RelayId>,
}

/// One group's standing, exchanged as a whole, and the signs of life of its members. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    standing: ArcSwap<Standing>,
    started: Instant,
    /// When a frame came through the holder with its term, in nanoseconds since `started`; 0 is never.
    carried: AtomicU64,
    /// Frames that came so and wait for their commit.
    waiting: AtomicU64,
    /// When a frame of a member was let through.
    seen: FxHashMap<RelayId, AtomicU64>,
}

impl Gate {
    /// A gate for these members that lets nothing with a term through yet.
    pub(crate) fn new(members: &[RelayId], started: Instant) -> Self {
        let seen = members.iter().map(|name| (name.clone(), AtomicU64::new(0))).collect();
        Self(Arc::new(Inner {
            standing: ArcSwap::default(),
            started,
            carried: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            seen,
        }))
    }

    /// From now on only frames of this term come through its holder.
    pub(crate) fn set(&self, term: u64, holder: Option<&RelayId>) {
        self.0.standing.store(Arc::new(Standing { term, holder: holder.cloned() }));
        self.0.carried.store(0, Ordering::Relaxed);
    }

    /// When the holder last brought a frame with its term.
    pub(crate) fn carried(&self) -> Option<Instant> {
        self.moment(&self.0.carried)
    }

    /// Whether frames that a holder brought wait for their commit.
    pub(crate) fn is_waiting(&self) -> bool {
        self.0.waiting.load(Ordering::Relaxed) > 0
    }

    /// Members whose frames came, and when the last one did.
    pub(crate) fn seen(&self) -> impl Iterator<Item = (&RelayId, Instant)> {
        self.0.seen.iter().filter_map(|(name, seen)| Some((name, self.moment(seen)?)))
    }

    fn moment(&self, mark: &AtomicU64) -> Option<Instant> {
        match mark.load(Ordering::Relaxed) {
            0 => None,
            nanos => self.0.started.checked_add(Duration::from_nanos(nanos)),
        }
    }

    fn mark(&self, relay: &RelayId, carried: bool, now: Instant) {
        let nanos = u64::try_from(now.saturating_duration_since(self.0.started).as_nanos()).unwrap_or(u64::MAX).max(1);
        if let Some(seen) = self.0.seen.get(relay) {
            seen.store(nanos, Ordering::Relaxed);
        }
        if carried {
            self.0.carried.store(nanos, Ordering::Relaxed);
            self.0.waiting.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Leave for one frame to go on; to be kept until its commit has ended.
#[derive(Debug)]
pub(crate) struct Pass(Option<Gate>);

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(gate) = &self.0 {
            gate.0.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// How a member's heartbeat came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaker {
    /// Through its own connection, or nobody can tell.
    Itself,
    /// Through the proxy.
    Proxy,
}

/// The gates of all groups, by member. Clones share the gates.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fence {
    /// Whether users are verified.
    verified: bool,
    gates: Arc<FxHashMap<RelayId, Gate>>,
}

impl Fence {
    /// A fence with these gates. `verified`: users are who they say.
    pub(crate) fn new<'a>(verified: bool, gates: impl IntoIterator<Item = &'a Gate>) -> Self {
        let member = |gate: &'a Gate| gate.0.seen.keys().map(move |name| (name.clone(), gate.clone()));
        Self { verified, gates: Arc::new(gates.into_iter().flat_map(member).collect()) }
    }

    fn is(&self, relay: &str, user: Option<&str>) -> bool {
        !self.verified || user == Some(relay)
    }

    /// Lets a frame of `relay` with this term come through the connection of `user`, or not. Without a term it comes from the relay itself;
    /// with one the term is its group's last one, and the connection its holder's or the relay's own. A relay without a group has no
    /// term, and the grants alone decide who speaks for it.
    pub(crate) fn admit(&self, relay: &RelayId, term: u64, user: Option<&str>, now: Instant) -> Option<Pass> {
        let Some(gate) = self.gates.get(relay) else { return (term == 0).then_some(Pass(None)) };
        let direct = self.is(relay.as_str(), user);
        let (admits, carried) = if term == 0 {
            (direct, false)
        } else {
            let standing = gate.0.standing.load();
            let through = standing.holder.as_ref().is_some_and(|holder| self.is(holder.as_str(), user));
            (term == standing.term && (direct || through), through)
        };
        if !admits {
            return None;
        }
        gate.mark(relay, carried, now);
        Some(Pass(carried.then(|| gate.clone())))
    }

    /// Whether what `relay` says beside frames and heartbeats may come through the connection of `user`: its own, or its proxy's. Who speaks for
    /// a relay without a group the grants alone decide.
    pub(crate) fn may_say(&self, relay: &RelayId, user: Option<&str>) -> bool {
        !self.gates.contains_key(relay) || self.speaker(relay, user).is_some()
    }

    /// Who speaks when a heartbeat of `relay` comes through the connection of `user`; `None`: somebody who may not.
    pub(crate) fn speaker(&self, relay: &RelayId, user: Option<&str>) -> Option<Speaker> {
        if self.is(relay.as_str(), user) {
            return Some(Speaker::Itself);
        }
        let standing = self.gates.get(relay)?.0.standing.load();
        let holds = standing.holder.as_ref().is_some_and(|holder| user == Some(holder.as_str()));
        holds.then_some(Speaker::Proxy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(name: &str) -> RelayId {
        name.parse().unwrap()
    }

    fn fence(verified: bool) -> (Fence, Gate, Instant) {
        let start = Instant::now();
        let members = [relay("a"), relay("b"), relay("c")];
        let gate = Gate::new(&members, start);
        let fence = Fence::new(verified, [&gate]);
        gate.set(4, Some(&members[0]));
        (fence, gate, start)
    }

    #[test]
    fn c11_a_term_is_the_last_one_and_comes_through_its_holder() {
        let (fence, gate, now) = fence(true);
        let admits = |name: &str, term, user: &str| fence.admit(&relay(name), term, Some(user), now).is_some();
        assert!(admits("b", 0, "b") && !admits("b", 0, "a"), "without a term: itself");
        assert!(admits("b", 4, "a") && admits("a", 4, "a") && admits("b", 4, "b"));
        assert!(!admits("b", 3, "a") && !admits("b", 5, "a"), "stale, and made up");
        assert!(!admits("b", 4, "c") && !admits("b", 4, "operator"), "not the holder");
        assert!(admits("lone", 0, "lone") && admits("lone", 0, "gateway") && !admits("lone", 4, "a"), "without a group");
        assert!(fence.admit(&relay("b"), 4, None, now).is_none());
        gate.set(5, Some(&relay("b")));
        assert!(!admits("c", 4, "a") && !admits("c", 5, "a") && admits("c", 5, "b"));
    }

    #[test]
    fn a7_frames_show_who_lives_and_what_is_refused_shows_nothing() {
        let (fence, gate, start) = fence(true);
        let now = start + Duration::from_secs(3);
        let seen = || gate.seen().map(|(name, at)| (name.to_string(), at)).collect::<Vec<_>>();
        assert!(fence.admit(&relay("b"), 3, Some("a"), now).is_none() && fence.admit(&relay("b"), 4, Some("c"), now).is_none());
        assert_eq!((gate.carried(), seen()), (None, vec![]));
        let own = fence.admit(&relay("c"), 0, Some("c"), start);
        assert_eq!((own.is_some(), gate.carried(), gate.is_waiting(), seen().len()), (true, None, false, 1), "not by the holder");
        let pass = fence.admit(&relay("b"), 4, Some("a"), now);
        assert_eq!((gate.carried(), gate.is_waiting()), (Some(now), true));
        drop(pass);
        assert!(!gate.is_waiting(), "its commit has ended");
        assert!(seen().contains(&("b".into(), now)) && seen().len() == 2, "who passes it on is not its relay");
        gate.set(5, Some(&relay("b")));
        assert_eq!(gate.carried(), None, "another holder has shown nothing yet");
    }

    #[test]
    fn c11_without_verified_users_the_term_decides() {
        let (fence, _gate, now) = fence(false);
        for user in [None, Some("a"), Some("anybody")] {
            let admits = |term| fence.admit(&relay("b"), term, user, now).is_some();
            assert!(admits(0) && admits(4) && !admits(3));
            assert_eq!(fence.speaker(&relay("b"), user), Some(Speaker::Itself));
        }
    }

    #[test]
    fn c11_a_heartbeat_comes_from_the_member_or_through_the_proxy() {
        let (fence, gate, _) = fence(true);
        let speaker = |name: &str, user: &str| fence.speaker(&relay(name), Some(user));
        assert_eq!(speaker("b", "b"), Some(Speaker::Itself));
        assert_eq!(speaker("b", "a"), Some(Speaker::Proxy));
        assert_eq!(speaker("b", "c"), None);
        assert_eq!((speaker("lone", "lone"), speaker("lone", "a")), (Some(Speaker::Itself), None));
        let may_say = |name: &str, user: &str| fence.may_say(&relay(name), Some(user));
        assert!(may_say("b", "b") && may_say("b", "a") && !may_say("b", "c") && may_say("lone", "gateway"));
        gate.set(5, Some(&relay("c")));
        assert_eq!(speaker("b", "a"), None);
    }
}
