//! Chunks at rest that somebody has changed.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use archive::{Archive, Lane, Unsound, Why, examine};
use common::{open, raw};
use rusqlite::Connection;

fn filled(folder: &Path) -> Archive {
    let archive = open(folder, "relay-1");
    for at in 0..120 {
        raw(&archive, Lane::Store, "a/b/c", &[(at, "230.1"), (at, "some text")]);
        raw(&archive, Lane::Store, "a/b/d", &[(at, "50.02")]);
    }
    archive.close_now().unwrap();
    archive
}

fn change(folder: &Path, sql: &str) {
    let database = Connection::open(folder.join("archive.sqlite")).unwrap();
    assert_eq!(database.execute(sql, []).unwrap(), 1, "{sql}");
}

#[test]
fn c5_an_archive_that_nobody_touched_is_sound_while_it_is_in_use_and_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let archive = filled(folder.path());
    let sound = examine(folder.path()).unwrap();
    assert_eq!((sound.chunks, sound.records, sound.without_root, sound.unsound), (8, 360, 0, 0));
    // What is not published yet is not looked at.
    raw(&archive, Lane::Store, "a/b/c", &[(900, "x")]);
    assert_eq!(examine(folder.path()).unwrap(), sound);
    drop(archive);
    assert_eq!(examine(folder.path()).unwrap(), sound);
    assert!(examine(&folder.path().join("nothing")).is_err());
}

#[test]
fn c5_a_changed_byte_of_any_chunk_is_seen_and_the_chunk_named() {
    let folder = tempfile::tempdir().unwrap();
    let archive = filled(folder.path());
    let database = Connection::open(folder.path().join("archive.sqlite")).unwrap();
    let body: Vec<u8> = database.query_row("SELECT body FROM chunks WHERE id = 3", [], |row| row.get(0)).unwrap();
    let put = |body: &[u8]| assert_eq!(database.execute("UPDATE chunks SET body = ?1 WHERE id = 3", [body]).unwrap(), 1);
    for place in 0..body.len() {
        let mut changed = body.clone();
        changed[place] ^= 0x01;
        put(&changed);
        let found = examine(folder.path()).unwrap();
        assert_eq!((found.chunks, found.unsound, found.faults.len()), (8, 1, 1), "byte {place} of {}", body.len());
        assert_eq!((found.faults[0].chunk, found.faults[0].series.as_str()), (3, "a/b/c"), "byte {place}");
    }
    put(&body);
    assert_eq!(examine(folder.path()).unwrap().unsound, 0);
    drop(archive);
}

#[test]
fn c5_a_body_that_was_replaced_by_a_valid_one_gives_another_root() {
    let folder = tempfile::tempdir().unwrap();
    let archive = filled(folder.path());
    // The same sequence numbers and times, made by another archive that was told other values.
    let other = tempfile::tempdir().unwrap();
    let forger = open(other.path(), "relay-1");
    for at in 0..120 {
        raw(&forger, Lane::Store, "a/b/c", &[(at, "999.9"), (at, "some text")]);
        raw(&forger, Lane::Store, "a/b/d", &[(at, "50.02")]);
    }
    forger.close_now().unwrap();
    drop(forger);
    let attach = format!("ATTACH '{}' AS other", other.path().join("archive.sqlite").display());
    let database = Connection::open(folder.path().join("archive.sqlite")).unwrap();
    database.execute(&attach, []).unwrap();
    let forged = "UPDATE chunks SET body = (SELECT body FROM other.chunks AS o WHERE o.id = chunks.id) WHERE id = 2";
    assert_eq!(database.execute(forged, []).unwrap(), 1);
    let found = examine(folder.path()).unwrap().faults;
    assert!(matches!(&found[..], [Unsound { chunk: 2, why: Why::Root { written, found }, .. }] if written != found), "{found:?}");
    drop(archive);
}

#[test]
fn c5_a_header_that_was_changed_is_seen() {
    for (column, value) in [("records", "7"), ("at_min", "-1"), ("at_max", "5000"), ("epoch", "epoch + 1"), ("root", "x'00'")] {
        let folder = tempfile::tempdir().unwrap();
        drop(filled(folder.path()));
        change(folder.path(), &format!("UPDATE chunks SET {column} = {value} WHERE id = 4"));
        let found = examine(folder.path()).unwrap();
        assert_eq!((found.unsound, found.faults[0].chunk), (1, 4), "{column}");
    }
    // Another series' records under this one's name: the leaves are over the name, too.
    let folder = tempfile::tempdir().unwrap();
    drop(filled(folder.path()));
    change(folder.path(), "UPDATE chunks SET series = 1 - series WHERE id = 1");
    assert!(matches!(examine(folder.path()).unwrap().faults[0].why, Why::Root { .. }));
}
