//! Opening the agent's database: migrations, the origin's identity, and what the counts were.

use std::path::Path;

use store::rusqlite::{Connection, OptionalExtension, params};
use store::{OpenError, Options, Step};
use wire::{At, Epoch, EpochSecret, SensorId};

use crate::progress::Progress;

/// The migrations; a released one is never edited.
pub(crate) const STEPS: &[Step] = &[
    Step { name: "outbox", sql: include_str!("../sql/001_outbox.sql") },
    Step { name: "targets", sql: include_str!("../sql/002_targets.sql") },
    Step { name: "reports", sql: include_str!("../sql/003_reports.sql") },
    Step { name: "responses", sql: include_str!("../sql/004_responses.sql") },
    Step { name: "states", sql: include_str!("../sql/005_states.sql") },
    Step { name: "priorities", sql: include_str!("../sql/006_priorities.sql") },
];

/// Who gives the sequence numbers: this database.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Random, made when the database was.
    pub epoch: Epoch,
    /// Salts the leaves of this epoch's records.
    pub secret: EpochSecret,
}

/// A small device has a small cache, and commits of a few kilobytes.
pub(crate) fn options() -> Options {
    Options { cache_bytes: 2 << 20, wal_bytes: 4 << 20, ..Options::default() }
}

/// Why the outbox can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// The database can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The database belongs to another sensor.
    #[error(
        "the data folder belongs to sensor {found} but the configuration says {wanted}; give each sensor a folder of its own"
    )]
    Sensor {
        /// In the database.
        found: String,
        /// In the configuration.
        wanted: SensorId,
    },
    /// The database holds what this program never writes.
    #[error("the database holds an invalid {0}")]
    Invalid(&'static str),
    /// There is no database where one was looked for.
    #[error("no agent has worked in {}; give the agent's data folder", .0.display())]
    Missing(std::path::PathBuf),
    /// The writer thread can't be started.
    #[error("can't start the writer thread")]
    Thread(#[source] std::io::Error),
    /// The damaged database can't be put aside.
    #[error("can't put the damaged database aside")]
    Quarantine(#[source] std::io::Error),
}

impl From<store::rusqlite::Error> for OutboxError {
    fn from(error: store::rusqlite::Error) -> Self {
        Self::Open(error.into())
    }
}

/// What a new database is given; an old one keeps what it has.
pub(crate) struct Fresh {
    pub(crate) epoch: u64,
    pub(crate) secret: [u8; 32],
    pub(crate) now: At,
}

/// Opens the database for its one writer.
pub(crate) fn open(path: &Path, sensor: &SensorId, fresh: &Fresh) -> Result<(Connection, Origin), OutboxError> {
    let connection = store::open(path, STEPS, &options())?;
    connection.execute(
        "INSERT INTO origin (id, epoch, secret, sensor, made_at) VALUES (1, ?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
        params![fresh.epoch.cast_signed(), fresh.secret, sensor.as_str(), fresh.now],
    )?;
    let (origin, found) = read_origin(&connection)?;
    if found != sensor.as_str() {
        return Err(OutboxError::Sensor { found, wanted: sensor.clone() });
    }
    Ok((connection, origin))
}

/// The identity in the database, and the sensor's name.
pub(crate) fn read_origin(connection: &Connection) -> Result<(Origin, String), OutboxError> {
    let row = connection
        .query_row("SELECT epoch, secret, sensor FROM origin", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, [u8; 32]>(1)?, row.get::<_, String>(2)?))
        })
        .optional()?;
    let (epoch, secret, sensor) = row.ok_or(OutboxError::Invalid("origin"))?;
    Ok((Origin { epoch: Epoch(epoch.cast_unsigned()), secret: EpochSecret::new(secret) }, sensor))
}

/// Counts what the database holds; the writer goes on from there.
pub(crate) fn count(connection: &Connection) -> Result<Progress, OutboxError> {
    let one = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map(i64::cast_unsigned);
    let numbered = one("SELECT coalesce(sum(next_seq - 1), 0) FROM series")?;
    let dropped = one("SELECT coalesce(sum(seq_last - seq_first + 1), 0) FROM tombstones WHERE taken = 0")?;
    let given_up = one("SELECT coalesce(sum(seq_last - seq_first + 1), 0) FROM tombstones WHERE taken = 1")?;
    let rejected = given_up + one("SELECT coalesce(sum(seq_last - seq_first + 1), 0) FROM outbox WHERE state = 3")?;
    let open = "SELECT coalesce(sum(o.seq_last - o.seq_first + 1), 0) FROM bodies b JOIN outbox o USING (id)";
    let (pending, unsent) = (one(open)?, one(&format!("{open} WHERE o.state = 0"))?);
    let taken = numbered - dropped;
    Ok(Progress {
        taken,
        dropped,
        sent: taken - unsent,
        accepted: taken - pending - rejected,
        rejected,
        grouped: one("SELECT coalesce(sum(seq_last - seq_first + 1), 0) FROM chunks")?,
        anchored: one("SELECT coalesce(sum(seq_last - seq_first + 1), 0) FROM chunks WHERE state = 5")?,
        open_bytes: one("SELECT coalesce(sum(o.cost), 0) FROM bodies b JOIN outbox o USING (id)")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_sound() {
        store::check_steps(STEPS).unwrap();
    }

    #[test]
    fn a_database_of_the_first_version_gets_the_registry_and_keeps_its_readings() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox.sqlite");
        let old = store::open(&path, &STEPS[..1], &options()).unwrap();
        old.execute_batch(
            "INSERT INTO origin (id, epoch, secret, sensor, made_at) VALUES (1, 9, zeroblob(32), 'a/b', 0);
             INSERT INTO series (id, name, next_seq) VALUES (1, 'a/b/p', 8);",
        )
        .unwrap();
        drop(old);
        let (connection, origin) = open(&path, &"a/b".parse().unwrap(), &Fresh { epoch: 5, secret: [2; 32], now: 0 }).unwrap();
        assert_eq!((origin.epoch, count(&connection).unwrap().taken), (Epoch(9), 7));
        assert_eq!(crate::outbox::targets::current(&connection).unwrap(), None);
    }

    #[test]
    fn a_database_keeps_its_identity_and_its_sensor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox.sqlite");
        let sensor: SensorId = "a/b".parse().unwrap();
        let (_, first) = open(&path, &sensor, &Fresh { epoch: u64::MAX - 4, secret: [1; 32], now: 0 }).unwrap();
        let (_, second) = open(&path, &sensor, &Fresh { epoch: 5, secret: [2; 32], now: 0 }).unwrap();
        assert_eq!((first.epoch, second.epoch), (Epoch(u64::MAX - 4), Epoch(u64::MAX - 4)));
        assert_eq!(second.secret.expose(), &[1; 32]);
        let other = open(&path, &"a/c".parse().unwrap(), &Fresh { epoch: 5, secret: [2; 32], now: 0 });
        assert!(matches!(other, Err(OutboxError::Sensor { .. })));
    }
}
