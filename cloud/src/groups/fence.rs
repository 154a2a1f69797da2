//! Which frames and heartbeats of a group's members may come which way (C11).
//!
//! Asked for every frame, before the append, at the cost of a look-up and an atomic load. Without verified users nobody can
//! tell whose connection it is, so then only the term is looked at.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustc_hash::FxHashMap;
use wire::RelayId;

/// Term and holder that frames are judged by.
#[derive(Debug, Default)]
struct Standing {
    term: u64,
    holder: Option<RelayId>,
}

/// One group's standing; exchanged as a whole.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate(Arc<ArcSwap<Standing>>);

impl Gate {
    /// From now on only frames of this term come through its holder.
    pub(crate) fn set(&self, term: u64, holder: Option<&RelayId>) {
        self.0.store(Arc::new(Standing { term, holder: holder.cloned() }));
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
    /// A fence with one gate a group. `verified`: users are who they say.
    pub(crate) fn new<'a>(verified: bool, groups: impl IntoIterator<Item = (&'a [RelayId], Gate)>) -> Self {
        let member = |(members, gate): (&'a [RelayId], Gate)| members.iter().map(move |name| (name.clone(), gate.clone()));
        Self { verified, gates: Arc::new(groups.into_iter().flat_map(member).collect()) }
    }

    fn is(&self, relay: &str, user: Option<&str>) -> bool {
        !self.verified || user == Some(relay)
    }

    /// Whether a frame of `relay` with this term may come through the connection of `user`. Without a term it comes from the relay itself;
    /// with one the term is its group's last one, and the connection its holder's or the relay's own. A relay without a group has no
    /// term, and the grants alone decide who speaks for it.
    pub(crate) fn admits(&self, relay: &RelayId, term: u64, user: Option<&str>) -> bool {
        let Some(gate) = self.gates.get(relay) else { return term == 0 };
        let direct = self.is(relay.as_str(), user);
        if term == 0 {
            return direct;
        }
        let standing = gate.0.load();
        let through = || standing.holder.as_ref().is_some_and(|holder| user == Some(holder.as_str()));
        term == standing.term && (direct || through())
    }

    /// Who speaks when a heartbeat of `relay` comes through the connection of `user`; `None`: somebody who may not.
    pub(crate) fn speaker(&self, relay: &RelayId, user: Option<&str>) -> Option<Speaker> {
        if self.is(relay.as_str(), user) {
            return Some(Speaker::Itself);
        }
        let standing = self.gates.get(relay)?.0.load();
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

    fn fence(verified: bool) -> (Fence, Gate) {
        let gate = Gate::default();
        let members = [relay("a"), relay("b"), relay("c")];
        let fence = Fence::new(verified, [(&members[..], gate.clone())]);
        gate.set(4, Some(&members[0]));
        (fence, gate)
    }

    #[test]
    fn c11_a_term_is_the_last_one_and_comes_through_its_holder() {
        let (fence, gate) = fence(true);
        let admits = |name: &str, term, user: &str| fence.admits(&relay(name), term, Some(user));
        assert!(admits("b", 0, "b") && !admits("b", 0, "a"), "without a term: itself");
        assert!(admits("b", 4, "a") && admits("a", 4, "a") && admits("b", 4, "b"));
        assert!(!admits("b", 3, "a") && !admits("b", 5, "a"), "stale, and made up");
        assert!(!admits("b", 4, "c") && !admits("b", 4, "operator"), "not the holder");
        assert!(admits("lone", 0, "lone") && admits("lone", 0, "gateway") && !admits("lone", 4, "a"), "without a group");
        assert!(!fence.admits(&relay("b"), 4, None));
        gate.set(5, Some(&relay("b")));
        assert!(!admits("c", 4, "a") && !admits("c", 5, "a") && admits("c", 5, "b"));
    }

    #[test]
    fn c11_without_verified_users_the_term_decides() {
        let (fence, _gate) = fence(false);
        for user in [None, Some("a"), Some("anybody")] {
            let admits = |term| fence.admits(&relay("b"), term, user);
            assert!(admits(0) && admits(4) && !admits(3));
            assert_eq!(fence.speaker(&relay("b"), user), Some(Speaker::Itself));
        }
    }

    #[test]
    fn c11_a_heartbeat_comes_from_the_member_or_through_the_proxy() {
        let (fence, gate) = fence(true);
        let speaker = |name: &str, user: &str| fence.speaker(&relay(name), Some(user));
        assert_eq!(speaker("b", "b"), Some(Speaker::Itself));
        assert_eq!(speaker("b", "a"), Some(Speaker::Proxy));
        assert_eq!(speaker("b", "c"), None);
        assert_eq!((speaker("lone", "lone"), speaker("lone", "a")), (Some(Speaker::Itself), None));
        gate.set(5, Some(&relay("c")));
        assert_eq!(speaker("b", "a"), None);
    }
}
