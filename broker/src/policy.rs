//! Who may come in, and what they may say and hear.
//!
//! Users come from a file, or from an [`Authority`] that vouches for them with tokens; grants from a file, and from whoever approves
//! requests ([`Policy::put_approved`]). All of it is one state, exchanged as a whole, and one verdict.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use wire::grants::{
    Action, Denial, Grant, GrantFaults, Grants, GrantsFile, SensorFaults, Sensors, SensorsFile, Subject, Verdict,
};
use wire::{At, SensorId};

use crate::users::{Users, UsersFault};
use crate::vouched::{Authority, Guests, Vouched};

/// Passwords checked at the same time; the others wait. Each takes a core and 19 MiB for some 20 ms.
const PASSWORD_CHECKS_MAX: usize = 2;

/// What can be wrong with the files of a policy.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFault {
    /// The file of users.
    #[error(transparent)]
    Users(#[from] UsersFault),
    /// The file of grants, or of sensors, can't be read.
    #[error("{file} file {path}: {source}")]
    Io {
        /// `grants` or `sensors`.
        file: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file of grants, or of sensors, is not TOML, or has other fields.
    #[error("{file} file {path}: {source}")]
    Toml {
        /// `grants` or `sensors`.
        file: &'static str,
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// Grants that make no sense.
    #[error("grants file {path}: {source}")]
    Grants {
        /// The file.
        path: PathBuf,
        /// Every fault.
        source: GrantFaults,
    },
    /// Sensors that make no sense.
    #[error("sensors file {path}: {source}")]
    Sensors {
        /// The file.
        path: PathBuf,
        /// Every fault.
        source: SensorFaults,
    },
}

/// Why somebody is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// There is no such user, or the password is another. Which of the two is not told.
    #[error("wrong user or password")]
    WrongCredentials,
    /// The token does not hold. The log has the reason.
    #[error(
        "the token does not hold: it must be signed by the configured issuer for this audience, not be expired, and be its user's own"
    )]
    WrongToken,
    /// The policy wants a user and a password.
    #[error("user and password are needed")]
    NoCredentials,
    /// The check could not be made.
    #[error("the password can't be checked now")]
    Unavailable,
}

/// The files of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyFiles {
    /// `name:$argon2id$…` lines (see [`crate::users`]).
    pub users: PathBuf,
    /// `[[grant]]` tables.
    pub grants: PathBuf,
    /// `[sensors]`: the tags of sensors. Without it no sensor has tags.
    pub sensors: Option<PathBuf>,
}

impl PolicyFiles {
    /// Every file.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        [&self.users, &self.grants].into_iter().chain(&self.sensors).cloned().collect()
    }
}

/// Users and grants, exchanged as a whole by [`Policy::reload`]. Clones share one state.
#[derive(Debug, Clone)]
pub struct Policy(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rules: Rules,
    version: AtomicU64,
    checks: Semaphore,
    guests: Guests,
}

#[derive(Debug)]
enum Rules {
    Anonymous,
    Files {
        files: PolicyFiles,
        loaded: ArcSwap<Loaded>,
        /// Grants beside the file. Held while `loaded` is exchanged, so that one exchange does not undo another.
        approved: Mutex<Grants>,
    },
}

#[derive(Debug)]
struct Loaded {
    users: Arc<Users>,
    /// Those of the file alone.
    written: Grants,
    /// All.
    grants: Grants,
    sensors: Arc<Sensors>,
}

impl Loaded {
    fn with(self, approved: &Grants) -> Loaded {
        Loaded { grants: self.written.clone().and(approved), ..self }
    }

    fn read(files: &PolicyFiles) -> Result<Loaded, PolicyFault> {
        let sensors = Arc::new(files.sensors.as_deref().map(read_sensors).transpose()?.unwrap_or_default());
        let grants = read_grants(&files.grants)?.with_sensors(sensors.clone());
        let unknown = grants.unknown_tags();
        if !unknown.is_empty() {
            tracing::warn!(tags = ?unknown, grants = %files.grants.display(), "grants name tags that no sensor has");
        }
        Ok(Loaded { written: grants.clone(), grants, users: Arc::new(Users::read(&files.users)?), sensors })
    }
}

/// Reads a file of grants.
///
/// # Errors
/// The file can't be read or is faulty; the error names the grant and the field.
pub fn read_grants(path: &Path) -> Result<Grants, PolicyFault> {
    let file: GrantsFile = read_toml("grants", path)?;
    Grants::new(&file).map_err(|source| PolicyFault::Grants { path: path.into(), source })
}

/// Reads a file of sensors.
///
/// # Errors
/// The file can't be read or is faulty; the error names the sensor.
pub fn read_sensors(path: &Path) -> Result<Sensors, PolicyFault> {
    let file: SensorsFile = read_toml("sensors", path)?;
    Sensors::new(&file).map_err(|source| PolicyFault::Sensors { path: path.into(), source })
}

fn read_toml<T: serde::de::DeserializeOwned>(file: &'static str, path: &Path) -> Result<T, PolicyFault> {
    let text = std::fs::read_to_string(path).map_err(|source| PolicyFault::Io { file, path: path.into(), source })?;
    toml::from_str(&text).map_err(|source| PolicyFault::Toml { file, path: path.into(), source: Box::new(source) })
}

impl Policy {
    /// Users from an argon2id file (see [`crate::users`]), grants from a TOML file. What no grant names is denied.
    ///
    /// # Errors
    /// A file can't be read or is faulty; the error names the line or the field.
    pub fn open(users: &Path, grants: &Path) -> Result<Policy, PolicyFault> {
        Policy::open_files(PolicyFiles { users: users.into(), grants: grants.into(), sensors: None })
    }

    /// The same, with the tags of sensors.
    ///
    /// # Errors
    /// As [`Policy::open`].
    pub fn open_files(files: PolicyFiles) -> Result<Policy, PolicyFault> {
        let loaded = ArcSwap::from_pointee(Loaded::read(&files)?);
        Ok(Policy::with(Rules::Files { files, loaded, approved: Mutex::default() }))
    }

    /// Everybody may do everything, with or without a password. For development on the loopback address only; the caller
    /// refuses others.
    #[must_use]
    pub fn anonymous() -> Policy {
        Policy::with(Rules::Anonymous)
    }

    fn with(rules: Rules) -> Policy {
        let checks = Semaphore::new(PASSWORD_CHECKS_MAX);
        Policy(Arc::new(Inner { rules, version: AtomicU64::new(1), checks, guests: Guests::default() }))
    }

    /// From now on `authority` vouches for users too. The first one stays.
    pub fn trust(&self, authority: Arc<dyn Authority>) {
        self.0.guests.trust(authority);
    }

    /// Puts grants in force beside those of the file, in place of the ones that were there by an earlier call, for live
    /// connections and subscriptions too. Without files there is nothing to put them beside, because everything is allowed.
    ///
    /// # Errors
    /// Every fault of every grant; then nothing changes.
    pub fn put_approved(&self, grants: Vec<Grant>) -> Result<(), GrantFaults> {
        let grants = Grants::new(&GrantsFile { grants })?;
        if let Rules::Files { loaded, approved, .. } = &self.0.rules {
            let mut approved = approved.lock();
            *approved = grants;
            let held = loaded.load_full();
            let (users, written, sensors) = (held.users.clone(), held.written.clone(), held.sensors.clone());
            loaded.store(Arc::new(Loaded { users, grants: Grants::default(), written, sensors }.with(&approved)));
            self.changed();
        }
        Ok(())
    }

    /// Forgets whom no token vouches for any more; whoever is connected as one of them is sent away. To be called now and then.
    pub fn retire(&self, now: At) {
        if self.0.guests.retire(now) {
            self.changed();
        }
    }

    /// Forgets everybody for whom a token vouches: the authority's word has changed, and they have to show their tokens again.
    pub fn dismiss(&self) {
        self.0.guests.dismiss();
        self.changed();
    }

    fn changed(&self) {
        self.0.version.fetch_add(1, Ordering::Release);
    }

    /// Reads all files again and puts them in force together, for live connections and subscriptions too. On a fault the
    /// old state stays in force.
    ///
    /// # Errors
    /// As [`Policy::open`].
    pub fn reload(&self) -> Result<(), PolicyFault> {
        if let Rules::Files { files, loaded, approved } = &self.0.rules {
            let read = Loaded::read(files)?;
            let approved = approved.lock();
            loaded.store(Arc::new(read.with(&approved)));
            self.changed();
        }
        Ok(())
    }

    /// Grows with every change; whoever keeps verdicts throws them away when it does.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.0.version.load(Ordering::Acquire)
    }

    /// Checks who somebody is and returns the verified user (`None`: let in without one). A password that is a token is checked
    /// as one, and `user` must be its subject. Passwords are checked off the runtime's threads, a few at a time.
    ///
    /// # Errors
    /// Why not.
    pub async fn authenticate(&self, user: Option<&str>, password: Option<&[u8]>, now: At) -> Result<Option<String>, Denied> {
        let Rules::Files { loaded, .. } = &self.0.rules else { return Ok(user.map(str::to_owned)) };
        let (Some(user), Some(password)) = (user, password) else { return Err(Denied::NoCredentials) };
        if let Some(checked) = std::str::from_utf8(password).ok().and_then(|token| self.0.guests.check(token, now)) {
            let vouched = checked?;
            if user != vouched.subject && user != vouched.user {
                return Err(Denied::WrongToken);
            }
            return self.0.guests.welcome(vouched, now).map(Some);
        }
        let _permit = self.0.checks.acquire().await.map_err(|_| Denied::Unavailable)?;
        let loaded = loaded.load_full();
        let (name, password) = (user.to_owned(), password.to_vec());
        let right = tokio::task::spawn_blocking(move || loaded.users.check(&name, &password).then_some(name));
        right.await.map_err(|_| Denied::Unavailable)?.ok_or(Denied::WrongCredentials).map(Some)
    }

    /// Checks a token that came without a user name, and returns whom it vouches for.
    ///
    /// # Errors
    /// It is none, or nobody is trusted to make any.
    pub fn identify(&self, token: &str, now: At) -> Result<Vouched, Denied> {
        let vouched = self.0.guests.check(token, now).ok_or(Denied::WrongToken)??;
        self.0.guests.welcome(vouched.clone(), now)?;
        Ok(vouched)
    }

    /// Whether a user's password holds until the policy changes: not so for whom a token vouches.
    #[must_use]
    pub fn is_lasting(&self, user: &str) -> bool {
        !self.0.guests.knows(user)
    }

    /// Whether a user that was let in earlier still exists.
    #[must_use]
    pub fn knows(&self, user: Option<&str>) -> bool {
        match &self.0.rules {
            Rules::Anonymous => true,
            Rules::Files { loaded, .. } => {
                user.is_some_and(|user| self.0.guests.knows(user) || loaded.load().users.contains(user))
            }
        }
    }

    /// Whether `subject` may do `action` on `name` (a topic, or for [`Action::Subscribe`] a filter) at `now`.
    #[must_use]
    pub fn verdict(&self, subject: &Subject<'_>, action: Action, name: &str, now: At) -> Verdict {
        match &self.0.rules {
            Rules::Anonymous => Verdict::Allowed,
            Rules::Files { .. } if !self.0.guests.vouches(subject.user, now) => Verdict::Denied(Denial::NoUser),
            Rules::Files { loaded, .. } => loaded.load().grants.verdict(subject, action, name, now),
        }
    }

    /// Whether `subject` may do `action` on everything that `filter` matches at `now`; tags are asked for each topic.
    #[must_use]
    pub fn covers(&self, subject: &Subject<'_>, action: Action, filter: &str, now: At) -> bool {
        match &self.0.rules {
            Rules::Anonymous => true,
            Rules::Files { loaded, .. } => {
                self.0.guests.vouches(subject.user, now) && loaded.load().grants.covers(subject, action, filter, now)
            }
        }
    }

    /// Whether a message to `topic` may be handed to `subject` at `now`.
    #[must_use]
    pub fn delivers(&self, subject: &Subject<'_>, topic: &str, now: At) -> bool {
        match &self.0.rules {
            Rules::Anonymous => true,
            Rules::Files { loaded, .. } => {
                self.0.guests.vouches(subject.user, now) && loaded.load().grants.delivers(subject, topic, now)
            }
        }
    }

    /// The sensors that have all of `tags`, in order of their names; with `area`, only those in it. Without tags: all that the
    /// registry knows. Says nothing of what anybody may see: ask the verdict for each series.
    #[must_use]
    pub fn sensors_tagged(&self, tags: &[&str], area: Option<&str>) -> Vec<SensorId> {
        match &self.0.rules {
            Rules::Anonymous => Vec::new(),
            Rules::Files { loaded, .. } => loaded.load().sensors.tagged(tags, area),
        }
    }

    /// The tags of a sensor, in order of their text; none when the registry does not know it.
    #[must_use]
    pub fn tags_of(&self, sensor: &SensorId) -> Vec<String> {
        match &self.0.rules {
            Rules::Anonymous => Vec::new(),
            Rules::Files { loaded, .. } => loaded.load().sensors.tags_of(sensor.as_str()).map(str::to_owned).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a11_the_shipped_grants_and_sensors_hold_together() {
        let config = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../config"));
        let sensors = read_sensors(&config.join("sensors.toml")).unwrap();
        let grants = read_grants(&config.join("grants.toml")).unwrap().with_sensors(Arc::new(sensors));
        assert_eq!(grants.unknown_tags(), [""; 0]);
        let researcher = Subject { user: Some("researcher"), client: "" };
        let may = |topic| grants.verdict(&researcher, Action::Query, topic, 0).is_allowed();
        assert!(may("data/cityA/meter-0017/power/active") && !may("data/cityA/meter-0101/power/active"));
    }
}
