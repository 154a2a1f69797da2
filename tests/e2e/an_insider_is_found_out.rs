//! A clever insider has all rights on a database and a compiler, and not the chain nor the other side's database. He is found out.

use std::path::Path;

use rusqlite::Connection;

use crate::estate::{Estate, Folders, SMALL, Said, Size, add_chunk, audit, copy_all, forge};

const SIDES: [&str; 2] = ["cloud", "terminal"];

async fn estate() -> Estate {
    let estate = Estate::build(SMALL).await;
    estate.is_clean(&estate.copy());
    estate
}

fn found(estate: &Estate, folders: &Folders) -> Said {
    let said = estate.audit(folders, &[]);
    assert_eq!(said.code, 1, "{}{}", said.text, said.errors);
    said
}

/// Changes one record of the first series on one side: what the side keeps of it, and the chunk's root.
fn change(folders: &Folders, side: &str, seq: u64) -> i64 {
    if side == "cloud" {
        let (id, mut records) = folders.chunk(0, seq);
        records.iter_mut().find(|record| record.key.seq == seq).unwrap().payload = b"0.1".to_vec();
        folders.rewrite(id, &records);
        return id;
    }
    let (id, first, _) = folders.terminal_chunk(0, seq);
    let outbox = folders.outbox();
    let mut leaves: Vec<u8> = outbox.query_row("SELECT leaves FROM chunks WHERE id = ?1", [id], |row| row.get(0)).unwrap();
    leaves[(seq - first) as usize * 32] ^= 1;
    let (split, _) = leaves.as_chunks::<32>();
    outbox.execute("UPDATE chunks SET leaves = ?2, root = ?3 WHERE id = ?1", (id, &leaves, wire::merkle::root(split))).unwrap();
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn c4_a_row_that_was_changed_up_to_the_batch_root_is_found_on_either_side() {
    let estate = estate().await;
    for side in SIDES {
        // Up to the chunk's root, and up to the batch's.
        let folders = estate.copy();
        let chunk = change(&folders, side, 7);
        found(&estate, &folders).finds(&format!("{side}: changed {}:", estate.key(0, 7))).tells("the root of chunk");
        folders.recompute(side, chunk);
        let wanted = [format!("{side}: changed {}:", estate.key(0, 7)), format!("{side}: rewritten batch")];
        found(&estate, &folders).finds_only(&[&wanted[0], &wanted[1]]);
        let said = estate.audit(&folders, &["--json"]);
        let finding = said.objects("finding").into_iter().find(|found| found["what"] == "changed").unwrap();
        for field in ["side", "party", "subject", "expected", "found", "batch", "tx", "time", "evidence"] {
            assert!(!finding[field].is_null(), "{field} is not in {finding}");
        }
        assert_eq!(said.objects("summary")[0]["findings"], 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c4_a_chunk_that_is_gone_with_its_row_in_the_ledger_is_missed() {
    let estate = estate().await;
    for side in SIDES {
        let folders = estate.copy();
        let (id, first, last) = match side {
            "cloud" => {
                let (id, records) = folders.chunk(1, 20);
                (id, records[0].key.seq, records[records.len() - 1].key.seq)
            }
            _ => folders.terminal_chunk(1, 20),
        };
        let database = if side == "cloud" { folders.archive() } else { folders.outbox() };
        database.execute("DELETE FROM chunks WHERE id = ?1", [id]).unwrap();
        let ledger = folders.ledger(side);
        let batch: i64 = ledger.query_row("SELECT batch FROM leaves WHERE chunk = ?1", [id], |row| row.get(0)).unwrap();
        ledger.execute("DELETE FROM leaves WHERE chunk = ?1", [id]).unwrap();
        folders.reroot(side, batch);
        let gone = format!("{side}: deleted {}..{last}:", estate.key(1, first));
        found(&estate, &folders).finds(&gone).finds(&format!("{side}: rewritten batch {batch}:"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c4_a_last_batch_that_is_gone_is_missed() {
    let estate = estate().await;
    for side in SIDES {
        let folders = estate.copy();
        let ledger = folders.ledger(side);
        let last: i64 = ledger.query_row("SELECT max(number) FROM batches", [], |row| row.get(0)).unwrap();
        for table in ["leaves", "transactions"] {
            ledger.execute(&format!("DELETE FROM {table} WHERE batch = ?1"), [last]).unwrap();
        }
        ledger.execute("DELETE FROM batches WHERE number = ?1", [last]).unwrap();
        let said = found(&estate, &folders);
        said.finds(&format!("{side}: deleted the ledger: its last batch is {}", last - 1)).tells("older copy");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c4_two_series_in_each_others_place_are_found() {
    let estate = estate().await;
    for side in SIDES {
        let folders = estate.copy();
        let database = if side == "cloud" { folders.archive() } else { folders.outbox() };
        let names: Vec<(i64, String)> = {
            let mut statement = database.prepare("SELECT id, name FROM series ORDER BY id").unwrap();
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
        };
        let set = |id: i64, name: &str| {
            assert_eq!(database.execute("UPDATE series SET name = ?2 WHERE id = ?1", (id, name)).unwrap(), 1);
        };
        set(names[0].0, "cityA/meter-1/aside");
        set(names[1].0, &names[0].1);
        set(names[0].0, &names[1].1);
        found(&estate, &folders).finds(&format!("{side}: changed ")).tells("the series of chunk");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c4_every_column_of_a_batch_and_its_transaction_is_held_to_the_chain() {
    let estate = estate().await;
    let columns = [
        "root = zeroblob(32)",
        "first_seq = first_seq + 1",
        "count = count + 1",
        "records = records + 1",
        "prev = zeroblob(32)",
        "head = randomblob(32)",
        "tx = zeroblob(32)",
        "block_number = block_number + 1",
        "block_hash = zeroblob(32)",
        "log_index = log_index + 1",
        "record_state = 'SentToChain'",
    ];
    for (side, column) in SIDES.iter().flat_map(|side| columns.map(|column| (*side, column))) {
        let folders = estate.copy();
        folders.ledger(side).execute(&format!("UPDATE batches SET {column} WHERE number = 2"), []).unwrap();
        let said = found(&estate, &folders);
        assert!(
            said.lines().iter().all(|line| line.starts_with(&format!("{side}: rewritten batch 2:"))),
            "{column}: {}",
            said.text
        );
    }
    let folders = estate.copy();
    folders.ledger("cloud").execute("UPDATE transactions SET raw = CAST(raw || x'00' AS BLOB) WHERE batch = 2", []).unwrap();
    found(&estate, &folders).finds_only(&["cloud: rewritten batch 2: the bytes of its transaction"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn c4_states_that_say_more_than_the_chain_are_found_and_those_that_lag_are_noted() {
    let estate = estate().await;
    let back = "UPDATE batches SET state = 'BATCHED', record_state = 'SentToChain', tx = NULL, block_number = NULL, block_hash = NULL WHERE number = 1";
    for side in SIDES {
        // Signed, and not noted as mined: so it is after a crash. A note, and no finding.
        let folders = estate.copy();
        folders.ledger(side).execute(back, []).unwrap();
        estate.is_clean(&folders);
        let notes = estate.audit(&folders, &["--json"]).objects("notice");
        assert!(notes.iter().any(|note| note["class"] == "behind" && note["subject"] == "batch 1"), "{notes:?}");
        // Never signed, and mined.
        folders.ledger(side).execute("DELETE FROM transactions WHERE batch = 1", []).unwrap();
        found(&estate, &folders).finds_only(&[&format!("{side}: rewritten batch 1: the ledger says BATCHED")]);
        // A batch that nobody wrote, called final.
        let folders = estate.copy();
        let ledger = folders.ledger(side);
        let last: i64 = ledger.query_row("SELECT max(number) FROM batches", [], |row| row.get(0)).unwrap();
        let copy = "INSERT INTO batches SELECT number + 1, root, first_seq + count, 0, 0, closed_at, NULL, NULL, state, since, offered_at,
                    unseen, reverts, failure, tx, block_number, block_hash, log_index, gas_used, record_state, record_since,
                    change + 1000 FROM batches WHERE number = ?1";
        ledger.execute(copy, [last]).unwrap();
        found(&estate, &folders).finds(&format!("{side}: rewritten batch {}: ", last + 1)).tells("the chain does not have it");
    }
    // A chunk that is in no batch, or in one that is not on chain, called OnChain.
    let folders = estate.copy();
    folders.outbox().execute("UPDATE series SET next_seq = next_seq + 12 WHERE id = 1", []).unwrap();
    add_chunk(&folders.outbox(), 1, 0, (49, 60));
    estate.is_clean(&folders);
    folders.outbox().execute("UPDATE chunks SET state = 5 WHERE seq_first = 49", []).unwrap();
    found(&estate, &folders).finds("terminal: changed ").tells("says OnChain, and no batch has it");
}

#[tokio::test(flavor = "multi_thread")]
async fn c4_a_tombstone_over_what_is_there_and_one_that_is_gone_are_found() {
    let estate = estate().await;
    let bury = "INSERT INTO tombstones (series, seq_first, seq_last, reason, taken, at) VALUES (1, ?1, ?2, 'no room', 0, 9)";
    // Honest ones: numbers that nobody has. Noted, and no finding.
    let folders = estate.copy();
    folders.outbox().execute("UPDATE series SET next_seq = 60 WHERE id = 1", []).unwrap();
    folders.outbox().execute(bury, [49, 59]).unwrap();
    estate.is_clean(&folders);
    let notes = estate.audit(&folders, &["--json"]).objects("notice");
    assert!(
        notes.iter().any(|note| note["class"] == "dropped" && note["subject"] == format!("{}..59", estate.key(0, 49))),
        "{notes:?}"
    );
    // Gone.
    folders.outbox().execute("DELETE FROM tombstones", []).unwrap();
    found(&estate, &folders).finds_only(&[&format!("terminal: deleted {}..59:", estate.key(0, 49))]);
    // Over a chunk that is there, and instead of one that was deleted, with all traces at the terminal but the chain's.
    let folders = estate.copy();
    folders.outbox().execute(bury, [3, 5]).unwrap();
    found(&estate, &folders).finds_only(&[&format!("terminal: changed {}..5: a tombstone", estate.key(0, 3))]);
    let folders = estate.copy();
    let (id, first, last) = folders.terminal_chunk(0, 20);
    folders.outbox().execute("DELETE FROM chunks WHERE id = ?1", [id]).unwrap();
    folders.outbox().execute(bury, [first as i64, last as i64]).unwrap();
    found(&estate, &folders).finds(&format!("terminal: deleted {}..{last}: batch", estate.key(0, first)));
}

#[tokio::test(flavor = "multi_thread")]
async fn c4_a_time_that_was_moved_within_its_chunk_is_found() {
    let estate = estate().await;
    let folders = estate.copy();
    let (id, mut records) = folders.chunk(0, 7);
    // Neither the earliest nor the latest time changes.
    records.iter_mut().find(|record| record.key.seq == 7).unwrap().at += 1;
    folders.rewrite(id, &records);
    found(&estate, &folders).finds(&format!("cloud: changed {}:", estate.key(0, 7)));
    let folders = estate.copy();
    let (id, ..) = folders.terminal_chunk(0, 7);
    folders.outbox().execute("UPDATE chunks SET at_max = at_max - 1 WHERE id = ?1", [id]).unwrap();
    found(&estate, &folders).finds_only(&["terminal: changed "]).tells("the latest time of chunk");
}

#[tokio::test(flavor = "multi_thread")]
async fn c4_rows_that_were_put_into_a_purged_range_are_found() {
    let estate = estate().await;
    let row = "INSERT INTO outbox (series, operation, seq_first, seq_last, at_min, at_max, state, cost, leaves)
               VALUES (1, 1, 3, 4, 0, 0, ?1, 0, zeroblob(64))";
    for (state, wanted) in [(2, "terminal: added "), (3, "terminal: changed ")] {
        let folders = estate.copy();
        folders.outbox().execute(row, [state]).unwrap();
        found(&estate, &folders).finds(&format!("{wanted}{}..4:", estate.key(0, 3)));
    }
    // At the cloud, a second chunk over the same numbers.
    let folders = estate.copy();
    let (id, mut records) = folders.chunk(0, 7);
    records.iter_mut().for_each(|record| record.payload = b"9".to_vec());
    let forged = forge(&records);
    let sql = "INSERT INTO chunks (id, series, epoch, via, seq_first, seq_last, at_min, at_max, records, seqs, root, body)
               SELECT (SELECT max(id) + 1 FROM chunks), series, epoch, via, seq_first, seq_last, at_min, at_max, records, seqs, ?2, ?3
               FROM chunks WHERE id = ?1";
    folders.archive().execute(sql, (id, &forged.root, &forged.body)).unwrap();
    // It is beyond the mark: nobody has published it, and nobody reads it.
    estate.is_clean(&folders);
    folders.archive().execute("UPDATE marks SET chunks_published = chunks_published + 1", []).unwrap();
    found(&estate, &folders).finds("cloud: added ").finds(&format!("cloud: changed {}:", estate.key(0, 7)));
}

#[tokio::test(flavor = "multi_thread")]
async fn c4_a_database_that_was_put_back_from_an_older_copy_is_found() {
    let estate = estate().await;
    let older = estate.copy();
    // The terminal goes on, and so does the chain.
    let outbox = Connection::open(estate.terminal(1).join("outbox.sqlite")).unwrap();
    outbox.execute("UPDATE series SET next_seq = 61 WHERE id = 1", []).unwrap();
    add_chunk(&outbox, 1, 0, (49, 60));
    drop(outbox);
    estate.anchor_terminal(1).await;
    let newer = estate.copy();
    let young = estate.audit(&newer, &[]);
    assert_eq!((young.code, young.text.as_str()), (0, ""), "what only the terminal has is young");
    let only = |file: &str| {
        let folders = estate.copy();
        let from = older.terminal.join(file);
        std::fs::copy(from, folders.terminal.join(file)).unwrap();
        folders
    };
    // All of it, the ledger alone, the outbox alone.
    found(&estate, &older).finds_only(&["terminal: deleted the ledger: its last batch is"]);
    found(&estate, &only("anchor.sqlite")).finds("terminal: deleted the ledger: its last batch is");
    found(&estate, &only("outbox.sqlite")).finds(&format!("terminal: deleted {}..60: batch", estate.key(0, 49)));
}

#[tokio::test(flavor = "multi_thread")]
async fn c4_what_the_audit_goes_by_can_not_be_bent_either() {
    let estate = estate().await;
    let cases: [(&str, &str, &str, &str); 14] = [
        ("cloud", "archive", "DELETE FROM epochs", "cloud: deleted "),
        ("cloud", "archive", "UPDATE epochs SET secret = zeroblob(32)", "cloud: changed "),
        ("cloud", "archive", "DELETE FROM held", "cloud: added "),
        ("cloud", "archive", "UPDATE marks SET chunks_published = chunks_published - 1", "cloud: deleted "),
        ("cloud", "archive", "UPDATE chunks SET seq_first = seq_first + 1 WHERE id = 2", "cloud: changed "),
        ("cloud", "archive", "UPDATE chunks SET records = records - 1 WHERE id = 2", "cloud: changed "),
        ("cloud", "archive", "DELETE FROM series WHERE id = 1", "cloud: damaged chunk"),
        ("cloud", "anchor", "UPDATE leaves SET source = 77 WHERE batch = 2", "cloud: deleted the ledger:"),
        ("cloud", "anchor", "UPDATE party SET name = 'elsewhere'", "cloud: rewritten the ledger:"),
        ("terminal", "anchor", "UPDATE party SET name = 'cityA/meter-9'", "terminal: rewritten the ledger:"),
        ("terminal", "anchor", "UPDATE batches SET number = -2 WHERE number = 2", "terminal: "),
        ("terminal", "outbox", "UPDATE series SET next_seq = 40", "terminal: added "),
        ("terminal", "outbox", "UPDATE series SET next_seq = 90", "terminal: deleted "),
        ("terminal", "outbox", "UPDATE origin SET secret = zeroblob(32)", "between: changed the database:"),
    ];
    for (side, file, change, wanted) in cases {
        let folders = estate.copy();
        let folder: &Path = if side == "cloud" { &folders.cloud } else { &folders.terminal };
        let database = Connection::open(folder.join(format!("{file}.sqlite"))).unwrap();
        database.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
        assert!(database.execute(change, []).unwrap() > 0, "{change}");
        found(&estate, &folders).finds(wanted);
    }
    // The first batches cut off, and the rest numbered anew from where they begin.
    let folders = estate.copy();
    let ledger = folders.ledger("cloud");
    let cut = "PRAGMA foreign_keys = OFF; DELETE FROM leaves WHERE batch = 1; DELETE FROM transactions WHERE batch = 1;
               UPDATE target SET base_head = (SELECT head FROM batches WHERE number = 1); DELETE FROM batches WHERE number = 1;
               UPDATE batches SET number = number - 1; UPDATE transactions SET batch = batch - 1; UPDATE leaves SET batch = batch - 1;";
    ledger.execute_batch(cut).unwrap();
    found(&estate, &folders).finds("cloud: deleted the ledger: the chain had batches of this stream before it began");
    // An index that hides a row from whoever asks by series.
    let folders = estate.copy();
    let archive = folders.archive();
    let hide =
        "DROP INDEX chunks_by_seq; CREATE INDEX chunks_by_seq ON chunks (series, epoch, seq_first, seq_last) WHERE id <> 2;
                PRAGMA writable_schema = ON;
                UPDATE sqlite_schema SET sql = 'CREATE INDEX chunks_by_seq ON chunks (series, epoch, seq_first, seq_last)'
                 WHERE name = 'chunks_by_seq';";
    archive.execute_batch(hide).unwrap();
    found(&estate, &folders).finds("cloud: damaged the database:");
}

#[tokio::test(flavor = "multi_thread")]
async fn c4_what_is_on_one_side_only_is_told_apart() {
    let estate = Estate::build(Size { arrived: 30, ..SMALL }).await;
    let notices = |folders: &Folders, class: &str| {
        let said = estate.audit(folders, &["--json"]);
        assert_eq!(said.code, 0, "{}", said.text);
        said.objects("notice").into_iter().filter(|note| note["class"] == class).count()
    };
    // Young: on its way. Old: withheld. The cloud says that it received it: deleted there.
    let folders = estate.copy();
    estate.is_clean(&folders);
    assert!(notices(&folders, "not-yet-arrived") >= 2);
    let said = estate.audit(&folders, &["--grace", "0s"]);
    said.finds(&format!("between: withheld {}..36:", estate.key(0, 31)));
    said.finds_only(&["between: withheld cityA/meter-1/power/active@", "between: withheld cityA/meter-1/power/reactive@"]);
    let held = |last: u64| {
        let mut bytes = Vec::new();
        wire::Intervals::of(1, last).encode(&mut bytes);
        bytes
    };
    folders.archive().execute("UPDATE held SET seqs = ?1", [held(48)]).unwrap();
    found(&estate, &folders).finds(&format!("cloud: deleted {}..48:", estate.key(0, 31)));
    // A relay has stated that it keeps it.
    let folders = estate.copy();
    let index = Connection::open(folders.cloud.join("index.sqlite")).unwrap();
    index.execute_batch(include_str!("../../cloud/src/index/sql/001_index.sql")).unwrap();
    let stated = "INSERT INTO relays VALUES (1, 'relay-1', 5, 1);
                  INSERT INTO series VALUES (1, 'cityA/meter-1/power/active'), (2, 'cityA/meter-1/power/reactive');";
    index.execute_batch(stated).unwrap();
    let mut seqs = Vec::new();
    wire::Intervals::of(31, 48).encode(&mut seqs);
    let entry = "INSERT INTO entries (relay, chunk, series, epoch, at_min, at_max, seqs, root) VALUES (1, ?1, ?1, ?2, 0, 0, ?3, zeroblob(32))";
    for series in [1, 2] {
        index.execute(entry, (series, crate::estate::epoch(1).0 as i64, &seqs)).unwrap();
    }
    drop(index);
    let said = estate.audit(&folders, &["--json", "--grace", "0s"]);
    assert_eq!(said.code, 0, "{}", said.text);
    assert!(said.objects("notice").iter().any(|note| note["class"] == "at-relay"), "{}", said.text);
    // The terminal gave it up, and says so.
    let folders = estate.copy();
    let outbox = folders.outbox();
    outbox.execute("UPDATE series SET next_seq = 50 WHERE id = 1", []).unwrap();
    let bury = "INSERT INTO tombstones (series, seq_first, seq_last, reason, taken, at) VALUES (1, 49, 49, 'refused', 1, 9)";
    outbox.execute(bury, []).unwrap();
    assert_eq!(notices(&folders, "tombstoned"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn c4_many_terminals_are_audited_at_once_and_one_that_can_not_be_is_said() {
    let size = Size { sensors: 3, series: 1, ..SMALL };
    let estate = Estate::build(size).await;
    let folders = estate.copy();
    let rpc = estate.anvil.rpc();
    let all = |folders: &Folders, more: &[&str]| audit(&rpc, &[&folders.agents], Some(&folders.cloud), more);
    let clean = all(&folders, &["--json"]);
    assert_eq!(clean.code, 0, "{}", clean.text);
    assert_eq!(clean.objects("summary")[0]["agreed"], 3 * 48);
    // A change at the second one is his.
    let second = Connection::open(folders.agents.join("meter-2/outbox.sqlite")).unwrap();
    second.execute("UPDATE chunks SET at_min = at_min - 1 WHERE id = 1", []).unwrap();
    let said = all(&folders, &["--json"]);
    assert_eq!((said.code, said.objects("finding")[0]["party"].as_str()), (1, Some("cityA/meter-2")));
    // One that can't be opened is no finding, and not clean.
    let folders = estate.copy();
    std::fs::write(folders.agents.join("meter-3/anchor.sqlite"), b"not a database").unwrap();
    let said = all(&folders, &["--json"]);
    assert_eq!((said.code, said.objects("summary")[0]["unchecked"].as_u64()), (2, Some(1)), "{}", said.text);
    assert!(said.errors.contains("meter-3 was not checked"), "{}", said.errors);
    // The same database twice, and a chain that is away.
    let folders = estate.copy();
    copy_all(&folders.agents.join("meter-1"), &folders.agents.join("meter-4"));
    assert_eq!(all(&folders, &[]).code, 2);
    assert_eq!(audit("http://127.0.0.1:9", &[&folders.terminal], Some(&folders.cloud), &[]).code, 2);
}
