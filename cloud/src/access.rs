//! Keeps the policy in step with its files, so that a revoked grant bites within a second.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use broker::{Policy, PolicyFault};
use chassis::Stop;

use crate::config::Access;

/// How often the files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(300);

/// The policy that the configuration names.
///
/// # Errors
/// A file can't be read or is faulty.
pub(crate) fn open(access: &Access) -> Result<Policy, PolicyFault> {
    match access {
        Access::Anonymous => Ok(Policy::anonymous()),
        Access::Files { users, grants } => Policy::open(users, grants),
    }
}

/// What tells one state of a file from another without reading it.
type Mark = Option<(SystemTime, u64, u64)>;

fn mark(path: &Path) -> Mark {
    use std::os::unix::fs::MetadataExt;
    let facts = std::fs::metadata(path).ok()?;
    // The inode tells a file that was renamed into place from the one before, whatever their times.
    Some((facts.modified().ok()?, facts.len(), facts.ino()))
}

/// Looks at the files of a policy and puts changes in force. A faulty file changes nothing, and is told once.
pub(crate) struct Watch {
    policy: Policy,
    files: Vec<PathBuf>,
    seen: Vec<Mark>,
}

impl Watch {
    /// A watch over the files that `access` names. Make it before the policy is opened: a change in between is then seen.
    pub(crate) fn before_opening(access: &Access) -> impl FnOnce(Policy) -> Self {
        let files = match access {
            Access::Anonymous => Vec::new(),
            Access::Files { users, grants } => vec![users.clone(), grants.clone()],
        };
        let seen = marks(&files);
        move |policy| Self { policy, files, seen }
    }

    /// Reloads the policy if a file has changed; says whether it did so.
    pub(crate) fn look(&mut self) -> bool {
        let now = marks(&self.files);
        if now == self.seen {
            return false;
        }
        self.seen = now;
        match self.policy.reload() {
            Ok(()) => {
                tracing::info!("users and grants were read again and are in force");
                true
            }
            Err(fault) => {
                tracing::error!(error = %fault, "users and grants stay as they were; correct the file");
                false
            }
        }
    }

    /// Looks until told to stop.
    pub(crate) async fn run(mut self, stop: Stop) {
        let mut ticks = tokio::time::interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.stopped() => return,
                _ = ticks.tick() => {}
            }
            self.look();
        }
    }
}

fn marks(files: &[PathBuf]) -> Vec<Mark> {
    files.iter().map(|file| mark(file)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::grants::{Action, Subject};

    const OPEN: &str = "[[grant]]\nusers = [\"ana\"]\nactions = [\"query\"]\nareas = [\"cityA\"]\n";

    #[test]
    fn a_changed_grant_is_in_force_after_one_look_and_a_faulty_file_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let access = Access::Files { users: dir.path().join("users"), grants: dir.path().join("grants.toml") };
        let Access::Files { users, grants } = &access else { unreachable!() };
        std::fs::write(users, "").unwrap();
        std::fs::write(grants, OPEN).unwrap();
        let watch = Watch::before_opening(&access);
        let policy = open(&access).unwrap();
        let mut watch = watch(policy.clone());
        let may = || {
            let ana = Subject { user: Some("ana"), client: "" };
            policy.verdict(&ana, Action::Query, "data/cityA/m/p", 0).is_allowed()
        };
        assert!(!watch.look() && may());
        std::fs::write(grants, "[[grant]]\nusers = 7\n").unwrap();
        assert!(!watch.look() && may());
        std::fs::write(grants, "").unwrap();
        assert!(watch.look() && !may());
        // A file renamed into place, as editors and provisioning do it.
        std::fs::write(dir.path().join("new"), OPEN).unwrap();
        std::fs::rename(dir.path().join("new"), grants).unwrap();
        assert!(watch.look() && may() && !watch.look());
    }
}
