//! A database is opened with every promise kept, or not at all.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use store::rusqlite::Connection;
use store::{Lock, LockError, OpenError, Options, Readers, Step, check_steps, open, open_reader, quarantine};

const STEPS: &[Step] = &[
    Step { name: "notes", sql: "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;" },
    Step { name: "notes have an author", sql: "ALTER TABLE notes ADD COLUMN author TEXT NOT NULL DEFAULT '';" },
];

fn pragma(connection: &Connection, name: &str) -> String {
    connection
        .query_row(&format!("PRAGMA {name}"), [], |row| {
            Ok(row.get::<_, i64>(0).map(|number| number.to_string()).or_else(|_| row.get::<_, String>(0)).unwrap())
        })
        .unwrap()
}

#[test]
fn c1_a_commit_is_synced_because_the_pragmas_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sqlite");
    let connection = open(&path, STEPS, &Options::default()).unwrap();
    for (name, value) in [
        ("journal_mode", "wal"),
        ("synchronous", "2"),
        ("foreign_keys", "1"),
        ("busy_timeout", "5000"),
        ("wal_autocheckpoint", "16384"),
        ("mmap_size", "0"),
        ("user_version", "2"),
        ("page_size", "4096"),
    ] {
        assert_eq!(pragma(&connection, name), value, "{name}");
    }
    let reader = open_reader(&path, &Options::default()).unwrap();
    assert_eq!(pragma(&reader, "query_only"), "1");
    assert!(reader.execute("INSERT INTO notes (text) VALUES ('x')", []).is_err());
}

#[test]
fn only_the_owner_can_read_a_database() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sqlite");
    let connection = open(&path, STEPS, &Options::default()).unwrap();
    connection.execute("INSERT INTO notes (text) VALUES ('x')", []).unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let mode = fs::metadata(format!("{}{suffix}", path.display())).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{suffix}");
    }
    drop(connection);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    open(&path, STEPS, &Options::default()).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn an_older_database_grows_and_keeps_its_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sqlite");
    open(&path, &STEPS[..1], &Options::default()).unwrap().execute("INSERT INTO notes (text) VALUES ('old')", []).unwrap();
    let connection = open(&path, STEPS, &Options::default()).unwrap();
    let row: (String, String) =
        connection.query_row("SELECT text, author FROM notes", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!(row, ("old".into(), String::new()));
}

#[test]
fn a_newer_database_than_the_program_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sqlite");
    drop(open(&path, STEPS, &Options::default()).unwrap());
    let before = fs::read(&path).unwrap();
    let error = open(&path, &STEPS[..1], &Options::default()).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 2, known: 1 }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_step_that_fails_leaves_the_step_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sqlite");
    let broken = [STEPS[0], Step { name: "broken", sql: "CREATE TABLE other (id INTEGER); INSERT INTO nowhere VALUES (1);" }];
    assert!(matches!(open(&path, &broken, &Options::default()).unwrap_err(), OpenError::Step { name: "broken", .. }));
    assert!(check_steps(&broken).is_err());
    let connection = open(&path, STEPS, &Options::default()).unwrap();
    assert_eq!(pragma(&connection, "user_version"), "2");
    assert!(connection.prepare("SELECT * FROM other").is_err());
}

fn filled(path: &Path) {
    let mut connection = open(path, STEPS, &Options::default()).unwrap();
    let tx = connection.transaction().unwrap();
    for _ in 0..500 {
        tx.execute("INSERT INTO notes (text) VALUES (hex(randomblob(100)))", []).unwrap();
    }
    tx.commit().unwrap();
}

#[test]
fn c10_a_damaged_database_is_told_apart_and_put_aside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sqlite");
    for (number, damage) in [(1, 0usize), (2, 4096 * 3)] {
        filled(&path);
        let mut bytes = fs::read(&path).unwrap();
        assert!(bytes.len() > damage + 4096);
        bytes[damage..damage + 4096].fill(0xa5);
        fs::write(&path, bytes).unwrap();
        let error = open(&path, STEPS, &Options::default()).unwrap_err();
        assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
        let aside = quarantine(&path).unwrap();
        assert_eq!(aside, folder.path().join(format!("a.sqlite.damaged-{number}")));
        assert!(aside.exists() && !path.exists());
    }
    filled(&path);
}

#[test]
fn readers_see_one_state_and_never_wait_for_the_writer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sqlite");
    let mut connection = open(&path, STEPS, &Options::default()).unwrap();
    connection.execute("INSERT INTO notes (text) VALUES ('1')", []).unwrap();
    let readers = Readers::new(path, Options::default(), 2);
    let count = |tx: &store::rusqlite::Transaction<'_>| {
        tx.query_row("SELECT count(*) FROM notes", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    let tx = connection.transaction().unwrap();
    tx.execute("INSERT INTO notes (text) VALUES ('2')", []).unwrap();
    // The writer's transaction is open, and a second reader comes while the first one reads.
    let seen = readers.read(|outer| {
        let inner = readers.read(|inner| Ok::<_, store::ReadError>(count(inner)))?;
        let before = count(outer);
        tx.commit().unwrap();
        Ok::<_, store::ReadError>((inner, before, count(outer)))
    });
    assert_eq!(seen.unwrap(), (1, 1, 1));
    assert_eq!(readers.read(|tx| Ok::<_, store::ReadError>(count(tx))).unwrap(), 2);
}

#[test]
fn a_folder_has_one_owner_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.lock");
    let first = Lock::take(&path).unwrap();
    assert!(matches!(Lock::take(&path).unwrap_err(), LockError::InUse(_)));
    drop(first);
    Lock::take(&path).unwrap();
}
