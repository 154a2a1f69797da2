//! The way of a batch when nothing goes wrong.

use anchor::machine::State;
use anchor::{Health, Party};
use chassis::Span;

use crate::town::{Chunks, Running, Town, depth};

#[tokio::test]
async fn b2_what_the_server_accepted_comes_on_chain() {
    let town = Town::start().await;
    let worker = Running::start(town.terminal(), Chunks::of(1));
    worker.reaches(1, State::Mined).await;
    let states = states(&town.terminal().ledger);
    assert_eq!(states, [(1, "SentToChain".to_owned())], "mined, and could still vanish");
    town.mine(2).await;
    let batch = worker.reaches(1, State::Final).await;
    assert_eq!(states_of(&town), [(1, "OnChain".to_owned())]);
    assert_eq!(town.written(worker.anchoring.address()).await, [(1, 1)]);
    let target = worker.anchoring.ledger().target().unwrap().unwrap();
    let chain = anchor::chain::Chain::new(town.anvil.rpc(), crate::town::DEADLINE).unwrap();
    let head = chain.head_of(target.contract, target.submitter, &target.stream).await.unwrap();
    assert_eq!(head, batch.entry().unwrap().head());
    worker.feels("all is well", |health| *health == Health::Fine).await;
}

fn states_of(town: &Town) -> Vec<(i64, String)> {
    states(&town.terminal().ledger)
}

fn states(ledger: &std::path::Path) -> Vec<(i64, String)> {
    let connection = rusqlite::Connection::open(ledger).unwrap();
    let mut statement = connection.prepare("SELECT chunk, state FROM chunk_states ORDER BY chunk").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

#[tokio::test]
async fn b3_terminal_and_server_anchor_the_same_with_keys_and_streams_of_their_own() {
    let town = Town::start().await;
    let chunks = Chunks::of(3);
    let terminal = Running::start(town.terminal(), chunks.clone());
    let server = Running::start(town.config(Party::server("cloud"), 1), chunks);
    let (a, b) = tokio::join!(terminal.reaches(1, State::Mined), server.reaches(1, State::Mined));
    assert_eq!(a.root, b.root, "both hold the same chunks");
    assert_eq!(a.count, 3, "what was there at the start is one batch");
    assert_ne!(terminal.anchoring.address(), server.anchoring.address());
    town.mine(2).await;
    tokio::join!(terminal.reaches(1, State::Final), server.reaches(1, State::Final));
    assert_eq!(town.written(terminal.anchoring.address()).await, [(1, 3)]);
    assert_eq!(town.written(server.anchoring.address()).await, [(1, 3)]);
}

#[tokio::test]
async fn b2_batches_close_by_count_and_follow_each_other_without_a_gap() {
    let town = Town::start().await;
    let chunks = Chunks::of(7);
    let mut config = depth(town.terminal(), 1);
    config.batch.chunks_max = 2;
    config.batch.age = Span::seconds(3_600);
    let worker = Running::start(config, chunks.clone());
    // Those of the start wait no more: 2 + 2 + 2 full, 1 for its age.
    worker.reaches(4, State::Mined).await;
    chunks.add(1);
    worker.reaches(4, State::Mined).await;
    assert_eq!(worker.state(5), None, "one new chunk waits for its age");
    chunks.add(1);
    worker.reaches(5, State::Mined).await;
    town.mine(1).await;
    worker.reaches(5, State::Final).await;
    assert_eq!(town.written(worker.anchoring.address()).await, [(1, 2), (3, 2), (5, 2), (7, 1), (8, 2)]);
    let standing = worker.anchoring.ledger().standing().unwrap();
    assert_eq!((standing.counts.fin, standing.chunks_final, standing.counts.open()), (5, 9, 0));
}

#[tokio::test]
async fn b2_a_ledger_goes_on_where_it_was() {
    let town = Town::start().await;
    let chunks = Chunks::of(1);
    let worker = Running::start(town.terminal(), chunks.clone());
    worker.reaches(1, State::Mined).await;
    let second = anchor::Ledger::open(&town.terminal().ledger, &Party::terminal("cityA/meter-0017"), wire::Epoch(0));
    assert!(second.unwrap_err().to_string().contains("in use"), "one worker a ledger");
    worker.stop().await;
    let other = anchor::Ledger::open(&town.terminal().ledger, &Party::server("cloud"), wire::Epoch(0));
    assert!(other.unwrap_err().to_string().contains("belongs to terminal cityA/meter-0017"));
    chunks.add(1);
    let worker = Running::start(town.terminal(), chunks);
    worker.reaches(2, State::Mined).await;
    assert_eq!(town.written(worker.anchoring.address()).await, [(1, 1), (2, 1)]);
}
