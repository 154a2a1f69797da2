//! Where users and grants come from, and how they stay in force as their files change.
//!
//! [`Access`] is what a role's configuration says; [`Access::open`] gives the [`Policy`] together with the [`Watch`] that reloads
//! it. Whoever runs a broker runs the watch beside it, so that a revoked grant bites within a second (C9).

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use chassis::Stop;
use serde::Deserialize;

use crate::policy::{Policy, PolicyFault, PolicyFiles};

/// How often the files are looked at: three looks a second, each a `stat` a file.
const LOOK_INTERVAL: Duration = Duration::from_millis(300);

/// Who may connect and what they may do, as configured.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub enum Access {
    /// Everybody may do everything. Only with loopback addresses, which the role checks.
    Anonymous,
    /// Users with passwords, and what each is granted. What no grant names is denied.
    Files {
        /// `name:$argon2id$…` lines; `forebay user add` writes them.
        users: PathBuf,
        /// `[[grant]]` tables.
        grants: PathBuf,
        /// `[sensors]`: the tags of sensors, for grants and questions that name them.
        #[serde(default)]
        sensors: Option<PathBuf>,
    },
}

impl Access {
    /// The policy that this names, and the watch that keeps it in step with its files. A change made between the reading and the
    /// first look is seen by that look.
    ///
    /// # Errors
    /// A file can't be read or is faulty; the error names the file and the line or the field.
    pub fn open(&self) -> Result<(Policy, Watch), PolicyFault> {
        let files = match self.clone() {
            Access::Anonymous => None,
            Access::Files { users, grants, sensors } => Some(PolicyFiles { users, grants, sensors }),
        };
        let paths = files.as_ref().map(PolicyFiles::paths).unwrap_or_default();
        // Before the files are read, so that nothing falls in between.
        let seen = marks(&paths);
        let policy = files.map_or_else(|| Ok(Policy::anonymous()), Policy::open_files)?;
        Ok((policy.clone(), Watch { policy, files: paths, seen, faulty: None }))
    }
}

/// What tells one state of a file from another without reading it. `None`: it is not there.
type Mark = Option<(SystemTime, u64, u64)>;

fn mark(path: &Path) -> Mark {
    use std::os::unix::fs::MetadataExt;
    let facts = std::fs::metadata(path).ok()?;
    // The inode tells a file that was renamed into place from the one before, whatever their times.
    Some((facts.modified().ok()?, facts.len(), facts.ino()))
}

fn marks(files: &[PathBuf]) -> Vec<Mark> {
    files.iter().map(|file| mark(file)).collect()
}

/// Looks at the files of a policy and puts changes in force.
///
/// All files are put in force together or not at all. While one is faulty, or can't be read, the old state stays in force; the
/// fault is logged once, and reading is tried again at every look until it succeeds.
#[derive(Debug)]
pub struct Watch {
    policy: Policy,
    files: Vec<PathBuf>,
    seen: Vec<Mark>,
    /// The fault that was told last, while it lasts.
    faulty: Option<String>,
}

impl Watch {
    /// Reloads the policy if a file has changed; says whether new users and grants are in force. Reads files, so it blocks for as
    /// long as the disk does.
    pub fn look(&mut self) -> bool {
        let now = marks(&self.files);
        if now == self.seen && self.faulty.is_none() {
            return false;
        }
        self.seen = now;
        match self.policy.reload() {
            Ok(()) => {
                self.faulty = None;
                tracing::info!("users, grants and sensors were read again and are in force");
                true
            }
            Err(fault) => {
                let text = fault.to_string();
                if self.faulty.as_ref() != Some(&text) {
                    tracing::error!(error = %text, "users, grants and sensors stay as they were; correct the file");
                    self.faulty = Some(text);
                }
                false
            }
        }
    }

    /// Looks until told to stop.
    pub async fn run(mut self, stop: Stop) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use wire::grants::{Action, Subject};

    const OPEN: &str = "[[grant]]\nusers = [\"ana\"]\nactions = [\"query\"]\nareas = [\"cityA\"]\n";

    #[test]
    fn c9_a_changed_grant_is_in_force_after_one_look_and_a_faulty_file_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (users, grants) = (dir.path().join("users"), dir.path().join("grants.toml"));
        std::fs::write(&users, "").unwrap();
        std::fs::write(&grants, OPEN).unwrap();
        let (policy, mut watch) = Access::Files { users: users.clone(), grants: grants.clone(), sensors: None }.open().unwrap();
        let may = || {
            let ana = Subject { user: Some("ana"), client: "" };
            policy.verdict(&ana, Action::Query, "data/cityA/m/p", 0).is_allowed()
        };
        assert!(!watch.look() && may());
        std::fs::write(&grants, "[[grant]]\nusers = 7\n").unwrap();
        assert!(!watch.look() && may());
        std::fs::write(&grants, "").unwrap();
        assert!(watch.look() && !may());
        // A file renamed into place, as editors and provisioning do it.
        std::fs::write(dir.path().join("new"), OPEN).unwrap();
        std::fs::rename(dir.path().join("new"), &grants).unwrap();
        assert!(watch.look() && may() && !watch.look());
        // A file that is away for a while takes nobody's grants.
        std::fs::rename(&users, dir.path().join("aside")).unwrap();
        assert!(!watch.look() && !watch.look() && may());
        std::fs::rename(dir.path().join("aside"), &users).unwrap();
        assert!(watch.look() && may() && !watch.look());
    }

    #[test]
    fn c9_a_tag_that_is_taken_away_takes_the_sensor_with_it_after_one_look() {
        let dir = tempfile::tempdir().unwrap();
        let [users, grants, sensors] = ["users", "grants.toml", "sensors.toml"].map(|name| dir.path().join(name));
        std::fs::write(&users, "").unwrap();
        std::fs::write(&grants, "[[grant]]\nusers = [\"ana\"]\nactions = [\"query\"]\ntags = [\"home\"]\n").unwrap();
        std::fs::write(&sensors, "[sensors]\n\"cityA/m1\" = [\"home\"]\n\"cityA/m2\" = [\"home\", \"h0\"]\n").unwrap();
        let access = Access::Files { users, grants, sensors: Some(sensors.clone()) };
        let (policy, mut watch) = access.open().unwrap();
        let may = |sensor: &str| {
            let ana = Subject { user: Some("ana"), client: "" };
            policy.verdict(&ana, Action::Query, &format!("data/{sensor}/p"), 0).is_allowed()
        };
        assert!(may("cityA/m1") && may("cityA/m2") && !may("cityA/m3"));
        assert_eq!(policy.sensors_tagged(&["home"], Some("cityA")).len(), 2);
        assert_eq!(policy.tags_of(&"cityA/m2".parse().unwrap()), ["h0", "home"]);
        let before = policy.version();
        std::fs::write(&sensors, "[sensors]\n\"cityA/m2\" = [\"home\"]\n").unwrap();
        assert!(watch.look() && policy.version() > before && !may("cityA/m1") && may("cityA/m2"));
        std::fs::write(&sensors, "[sensors]\n\"cityA/m2\" = [\"ho me\"]\n").unwrap();
        assert!(!watch.look() && may("cityA/m2"), "a faulty file changes nothing");
        let fault = policy.reload().unwrap_err().to_string();
        assert!(fault.contains("sensors.toml") && fault.contains("\"ho me\" is not a tag"), "{fault}");
    }

    #[test]
    fn a_change_between_the_reading_and_the_first_look_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let (users, grants) = (dir.path().join("users"), dir.path().join("grants.toml"));
        std::fs::write(&users, "").unwrap();
        std::fs::write(&grants, OPEN).unwrap();
        let (_, mut watch) = Access::Files { users, grants: grants.clone(), sensors: None }.open().unwrap();
        std::fs::write(&grants, "").unwrap();
        assert!(watch.look() && !watch.look());
    }

    #[test]
    fn anonymous_access_has_no_files_to_look_at() {
        let (policy, mut watch) = Access::Anonymous.open().unwrap();
        assert!(!watch.look() && policy.knows(None));
    }
}
