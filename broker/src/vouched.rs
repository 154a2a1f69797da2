//! Users that somebody outside vouches for, by tokens that he signs.
//!
//! Such a user is called `{authority}:{subject}`. No user of the users file has a colon in his name, so a token can never stand for
//! one of those. What a token says holds until it ends: its user is then granted nothing, and his connections are closed.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;
use wire::At;

use crate::policy::Denied;

/// Users with tokens that are known at once. One more is told to come again.
const GUESTS_MAX: usize = 100_000;
/// What parts the authority from the subject in a user's name.
const PART: char = ':';

/// Somebody who vouches for users.
pub trait Authority: Send + Sync + fmt::Debug {
    /// Whom a token vouches for at `now`; `None` when the text is no token at all, but perhaps a password.
    fn check(&self, token: &str, now: At) -> Option<Result<Vouched, Denied>>;
}

/// A user whose token holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vouched {
    /// The name that grants know him by, `{authority}:{subject}`.
    pub user: String,
    /// The name that the authority knows him by.
    pub subject: String,
    /// When the token ends.
    pub until: At,
}

impl Vouched {
    /// The user that `authority` calls `subject`.
    #[must_use]
    pub fn new(authority: &str, subject: String, until: At) -> Self {
        Self { user: format!("{authority}{PART}{subject}"), subject, until }
    }
}

/// Those who are vouched for at the moment.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    authority: OnceLock<Arc<dyn Authority>>,
    /// When the last token of each one ends.
    until: RwLock<HashMap<String, At>>,
}

impl Guests {
    pub(crate) fn trust(&self, authority: Arc<dyn Authority>) {
        if self.authority.set(authority).is_err() {
            tracing::error!("an authority is trusted already; the second one is not");
        }
    }

    pub(crate) fn check(&self, token: &str, now: At) -> Option<Result<Vouched, Denied>> {
        self.authority.get()?.check(token, now)
    }

    /// Lets somebody in, and returns his name.
    pub(crate) fn welcome(&self, vouched: Vouched, now: At) -> Result<String, Denied> {
        if !vouched.user.contains(PART) {
            return Err(Denied::WrongToken);
        }
        let mut known = self.until.write();
        if known.len() >= GUESTS_MAX && !known.contains_key(&vouched.user) {
            known.retain(|_, until| now < *until);
            if known.len() >= GUESTS_MAX {
                return Err(Denied::Unavailable);
            }
        }
        let until = known.entry(vouched.user.clone()).or_insert(vouched.until);
        *until = vouched.until.max(*until);
        Ok(vouched.user)
    }

    pub(crate) fn knows(&self, user: &str) -> bool {
        user.contains(PART) && self.until.read().contains_key(user)
    }

    /// Whether a user may be granted anything: a guest only while a token of his holds.
    pub(crate) fn vouches(&self, user: Option<&str>, now: At) -> bool {
        match user {
            Some(user) if user.contains(PART) => self.until.read().get(user).is_some_and(|until| now < *until),
            _ => true,
        }
    }

    pub(crate) fn dismiss(&self) {
        self.until.write().clear();
    }

    /// Forgets those whose last token has ended; says whether there were any.
    pub(crate) fn retire(&self, now: At) -> bool {
        if self.until.read().values().all(|until| now < *until) {
            return false;
        }
        self.until.write().retain(|_, until| now < *until);
        true
    }
}

#[cfg(test)]
mod tests {
    use wire::grants::{Action, Grant, Subject};

    use super::*;
    use crate::Policy;

    /// Takes `token:{subject}:{until}`.
    #[derive(Debug)]
    struct Town;

    impl Authority for Town {
        fn check(&self, token: &str, now: At) -> Option<Result<Vouched, Denied>> {
            let mut parts = token.strip_prefix("token:")?.split(':');
            let (subject, until) = (parts.next()?.to_owned(), parts.next()?.parse().ok()?);
            Some(if now < until { Ok(Vouched::new("town", subject, until)) } else { Err(Denied::WrongToken) })
        }
    }

    fn policy(dir: &std::path::Path) -> Policy {
        let (users, grants) = (dir.join("users"), dir.join("grants.toml"));
        crate::users::set_password(&users, "ana", b"secret").unwrap();
        std::fs::write(&grants, "[[grant]]\nusers = [\"ana\"]\nactions = [\"query\"]\nareas = [\"cityA\"]\n").unwrap();
        let policy = Policy::open(&users, &grants).unwrap();
        policy.trust(Arc::new(Town));
        policy
    }

    #[tokio::test]
    async fn a11_a_token_stands_for_its_subject_and_never_for_a_user_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let policy = policy(dir.path());
        let login = async |user: &str, password: &str, now| policy.authenticate(Some(user), Some(password.as_bytes()), now).await;
        assert_eq!(login("ana", "secret", 1).await, Ok(Some("ana".into())));
        assert_eq!(login("ana", "token:ana:9", 1).await, Ok(Some("town:ana".into())), "the name that grants know is another");
        assert_eq!(login("town:ana", "token:ana:9", 1).await, Ok(Some("town:ana".into())));
        assert_eq!(login("bob", "token:ana:9", 1).await, Err(Denied::WrongToken));
        assert_eq!(login("ana", "token:ana:9", 9).await, Err(Denied::WrongToken));
        assert_eq!(login("town:ana", "secret", 1).await, Err(Denied::WrongCredentials));
        assert_eq!(policy.identify("secret", 1), Err(Denied::WrongToken));
        let guest = Subject { user: Some("town:ana"), client: "" };
        let may = |now| policy.verdict(&guest, Action::Query, "data/cityA/m/p", now).is_allowed();
        assert!(!may(1), "the grant is the other ana's");
        let grant = Grant {
            users: vec!["town:ana".into()],
            actions: vec![Action::Query],
            areas: vec!["cityA".into()],
            ..Grant::default()
        };
        policy.put_approved(vec![grant]).unwrap();
        assert!(may(8) && !may(9), "a token that has ended is worth nothing");
        let covers = |now| policy.covers(&guest, Action::Query, "data/cityA/#", now);
        assert!(covers(8) && !covers(9));
    }

    #[tokio::test]
    async fn c9_a_token_that_ends_takes_its_user_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let policy = policy(dir.path());
        policy.identify("token:eve:9", 1).unwrap();
        policy.identify("token:eve:5", 1).unwrap();
        let version = policy.version();
        policy.retire(8);
        assert!(policy.knows(Some("town:eve")) && policy.version() == version, "the later one counts");
        policy.retire(9);
        assert!(!policy.knows(Some("town:eve")) && policy.version() > version);
    }

    #[test]
    fn c9_approved_grants_stay_over_a_reload_and_go_when_they_are_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let policy = policy(dir.path());
        let bob = Subject { user: Some("bob"), client: "" };
        let may = || policy.verdict(&bob, Action::Query, "data/cityB/m/p", 0).is_allowed();
        let grant =
            Grant { users: vec!["bob".into()], actions: vec![Action::Query], areas: vec!["cityB".into()], ..Grant::default() };
        policy.put_approved(vec![grant.clone()]).unwrap();
        assert!(may());
        policy.reload().unwrap();
        assert!(may());
        assert!(policy.put_approved(vec![Grant { areas: vec!["../cityA".into()], ..grant }]).is_err());
        assert!(may(), "a faulty list changes nothing");
        let version = policy.version();
        policy.put_approved(Vec::new()).unwrap();
        assert!(!may() && policy.version() > version);
    }
}
