//! The choice of the target over real sockets: three relays behind links of different delays.
#![allow(clippy::unwrap_used, reason = "the tests' helpers may, like the tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chassis::Span;
use common::{Held, Running, SOON, config, relay};
use edge_agent::config::RelayConfig;
use edge_agent::terminal::Moved;
use edge_agent::{Config, Parts, Reading, Terminal, Why};
use rand::SeedableRng;
use testkit::{Answer, CutLink, Peer, Way, wait_until};
use wire::{Operation, Series};

const NOT_AUTHORIZED: u8 = 0x87;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn readings(numbers: std::ops::Range<i64>) -> Vec<Reading> {
    let series: Series = "cityA/meter-1/power".parse().unwrap();
    numbers.map(|n| Reading::new(series.clone(), Operation::Forward, n, n.to_string()).unwrap()).collect()
}

/// Relays behind links: relay-1, relay-2, …
struct Town {
    peers: Vec<Option<Peer>>,
    links: Vec<CutLink>,
    held: Vec<Arc<Mutex<Held>>>,
    folder: tempfile::TempDir,
}

impl Town {
    async fn new(delays: &[u64]) -> Self {
        let mut town = Self { peers: vec![], links: vec![], held: vec![], folder: tempfile::tempdir().unwrap() };
        for delay in delays {
            let (peer, held) = relay(|_| Answer::Ack).await;
            let link = CutLink::start(peer.address()).await;
            link.delay(ms(*delay));
            town.peers.push(Some(peer));
            town.links.push(link);
            town.held.push(held);
        }
        town
    }

    fn config(&self) -> Config {
        let mut config = config(self.folder.path(), self.links[0].address());
        let relay = |(index, link): (usize, &CutLink)| RelayConfig {
            name: format!("relay-{}", index + 1).parse().unwrap(),
            address: link.address().into(),
            user: None,
            password: None,
        };
        config.relays = self.links.iter().enumerate().map(relay).collect();
        config.probe.count = 3;
        config.probe.distance = Span::millis(100);
        config.probe.gone_after = Span::millis(100);
        config.probe.rtt_limit = Span::seconds(10);
        config
    }

    fn peer(&self, index: usize) -> &Peer {
        self.peers[index].as_ref().unwrap()
    }

    fn probes(&self, index: usize) -> usize {
        self.peer(index).publishes().iter().filter(|publish| publish.topic == "probe/cityA/meter-1").count()
    }

    /// Waits for a move to the relay, and gives it.
    async fn moved(&self, to: &str) -> Moved {
        let what = format!("a move to {to}");
        wait_until(SOON, &what, async || {
            let moves = moves(self.folder.path());
            match moves.first() {
                Some(moved) if moved.to.as_str() == to => Ok(moved.clone()),
                _ => Err(moves),
            }
        })
        .await
    }

    /// Every key with what it carries, over all relays. Panics when one has two payloads.
    fn union(&self) -> BTreeSet<u64> {
        let mut all = BTreeMap::new();
        for held in &self.held {
            let held = held.lock().unwrap();
            assert!(held.conflicts.is_empty(), "{:?}", held.conflicts);
            for (key, delivered) in &held.records {
                assert_eq!(all.entry(key.clone()).or_insert_with(|| delivered.clone()), delivered, "{key:?}");
            }
        }
        assert_eq!(all.keys().map(|(series, epoch, _)| (series, epoch)).collect::<BTreeSet<_>>().len(), 1);
        all.into_keys().map(|(_, _, seq)| seq).collect()
    }
}

fn moves(folder: &Path) -> Vec<Moved> {
    Terminal::open(folder).unwrap().moves(100).unwrap()
}

#[tokio::test]
async fn a1_the_nearest_relay_is_chosen_and_written_to_the_registry_with_its_time() {
    let town = Town::new(&[60, 2, 120]).await;
    let parts = Parts::default();
    let registry = parts.registry.clone();
    let running = Running::start_with(town.config(), parts).await;
    running.agent.outbox().take(readings(0..10), None).await.unwrap();
    running.until("accepted", |progress| progress.accepted == 10).await;
    running.stop().await;
    let sent: Vec<_> = town.held.iter().map(|held| held.lock().unwrap().records.len()).collect();
    assert_eq!(sent, [0, 10, 0]);
    let terminal = Terminal::open(town.folder.path()).unwrap();
    let relays = terminal.relays().unwrap();
    let names: Vec<_> = relays.iter().map(|measured| (measured.sensor.as_str(), measured.relay.as_str())).collect();
    assert_eq!(names, [("cityA/meter-1", "relay-1"), ("cityA/meter-1", "relay-2"), ("cityA/meter-1", "relay-3")]);
    // A link delays both ways.
    for (measured, at_least) in relays.iter().zip([120, 4, 240]) {
        let rtt = measured.rtt.unwrap();
        assert!(rtt >= ms(at_least) && rtt < ms(at_least + 1000), "{measured:?}");
    }
    let moves = terminal.moves(10).unwrap();
    assert_eq!((moves.len(), &moves[0].from, moves[0].to.as_str(), moves[0].why), (1, &None, "relay-2", Why::First));
    assert_eq!(moves[0].after, relays[1].rtt);
    // The connections of the round are gone, one is left for sending.
    assert_eq!([0, 1, 2].map(|index| town.peer(index).accepted()), [1, 2, 1]);
    assert_eq!([0, 1, 2].map(|index| town.probes(index)), [3, 3, 3]);
    let text = registry.encode();
    for line in ["agent_target_moves_total{why=\"First\"} 1", "agent_relays_probed_total{answer=\"Answered\"} 3"] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn a1_a_single_relay_is_not_probed() {
    let town = Town::new(&[0]).await;
    let mut config = town.config();
    config.probe.rtt_limit = Span::millis(1);
    let running = Running::start(config).await;
    town.links[0].delay(ms(20));
    running.agent.outbox().take(readings(0..10), None).await.unwrap();
    running.until("accepted", |progress| progress.accepted == 10).await;
    running.stop().await;
    assert_eq!((town.probes(0), town.peer(0).accepted()), (0, 1));
    assert_eq!(moves(town.folder.path())[0].why, Why::Only);
}

#[tokio::test]
async fn a2_sends_go_to_the_target_and_ties_are_broken_at_random() {
    let mut chosen = BTreeSet::new();
    for seed in 0..40 {
        let town = Town::new(&[0, 0]).await;
        let mut config = town.config();
        config.probe.tie = Span::seconds(5);
        let parts = Parts { rng: rand::rngs::StdRng::seed_from_u64(seed), ..Parts::default() };
        let running = Running::start_with(config, parts).await;
        running.agent.outbox().take(readings(0..3), None).await.unwrap();
        running.until("accepted", |progress| progress.accepted == 3).await;
        running.stop().await;
        let target = moves(town.folder.path())[0].to.clone();
        let index = usize::from(target.as_str() == "relay-2");
        let sent: Vec<_> = town.held.iter().map(|held| held.lock().unwrap().records.len()).collect();
        assert_eq!((sent[index], sent[1 - index]), (3, 0));
        chosen.insert(target);
        if chosen.len() == 2 {
            return;
        }
    }
    panic!("40 agents all chose {chosen:?}");
}

#[tokio::test]
async fn a2_the_target_is_looked_up_in_the_registry_after_a_restart() {
    let town = Town::new(&[40, 2]).await;
    let running = Running::start(town.config()).await;
    town.moved("relay-2").await;
    running.stop().await;
    // Nearly as fast now: no reason to leave the target, and no new choice.
    town.links[0].delay(ms(2));
    let mut config = town.config();
    config.probe.tie = Span::millis(50);
    let running = Running::start(config).await;
    running.agent.outbox().take(readings(0..5), None).await.unwrap();
    running.until("accepted", |progress| progress.accepted == 5).await;
    let probes = || (town.probes(0), town.probes(1));
    wait_until(SOON, "a second round", async || if probes() == (6, 6) { Ok(()) } else { Err(probes()) }).await;
    running.stop().await;
    assert_eq!((moves(town.folder.path()).len(), town.held[1].lock().unwrap().records.len()), (1, 5));
}

#[tokio::test]
async fn a3_a_send_above_the_limit_probes_again_and_the_next_goes_to_the_better_relay() {
    let town = Town::new(&[5, 40, 200]).await;
    let mut config = town.config();
    config.probe.rtt_limit = Span::millis(200);
    let running = Running::start(config).await;
    running.agent.outbox().take(readings(0..5), None).await.unwrap();
    running.until("accepted", |progress| progress.accepted == 5).await;
    assert_eq!(town.moved("relay-1").await.why, Why::First);
    assert_eq!(town.probes(0), 3, "below the limit nothing is probed");
    town.links[0].delay(ms(150));
    running.agent.outbox().take(readings(5..6), None).await.unwrap();
    let moved = town.moved("relay-2").await;
    assert_eq!((moved.from.unwrap().as_str(), moved.why), ("relay-1", Why::Faster));
    assert!(moved.before.unwrap() >= ms(300) && moved.after.unwrap() * 3 <= moved.before.unwrap() * 2, "{:?}", moved.after);
    running.until("accepted", |progress| progress.accepted == 6).await;
    running.agent.outbox().take(readings(6..20), None).await.unwrap();
    running.until("accepted", |progress| progress.accepted == 20).await;
    running.stop().await;
    assert!(town.held[1].lock().unwrap().seqs("cityA/meter-1/power").ends_with(&(7..=20).collect::<Vec<_>>()));
    assert_eq!(town.held[2].lock().unwrap().records.len(), 0);
    assert_eq!(town.union(), (1..=20).collect());
}

#[tokio::test]
async fn a3_a_small_gain_is_no_reason_to_move_and_a_slow_relay_is_not_probed_in_a_storm() {
    let town = Town::new(&[60, 80]).await;
    let mut config = town.config();
    config.probe.rtt_limit = Span::millis(20);
    config.probe.distance = Span::millis(600);
    let running = Running::start(config).await;
    town.moved("relay-1").await;
    town.links[0].delay(ms(90));
    let begun = std::time::Instant::now();
    for n in 0..20 {
        running.agent.outbox().take(readings(n..n + 1), None).await.unwrap();
        running.until("accepted", |progress| progress.accepted == n as u64 + 1).await;
    }
    let rounds = || town.probes(1) / 3;
    wait_until(SOON, "a second round", async || if rounds() >= 2 { Ok(()) } else { Err(rounds()) }).await;
    let most = 2 + begun.elapsed().as_millis() / 600;
    assert!(rounds() as u128 <= most, "{} rounds, at most {most}", rounds());
    running.stop().await;
    assert_eq!((moves(town.folder.path()).len(), town.held[0].lock().unwrap().records.len()), (1, 20));
}

/// Takes readings all the time while `fault` happens to the target, and checks what must hold.
async fn through(fault: impl AsyncFnOnce(&mut Town), rtt_limit: Span) {
    let mut town = Town::new(&[2, 20, 60]).await;
    let mut config = town.config();
    config.probe.rtt_limit = rtt_limit;
    config.probe.timeout = Span::millis(1500);
    config.send.frame_records_max = 8;
    config.send.inflight_max = 4;
    let running = Running::start(config).await;
    town.moved("relay-1").await;
    let outbox = running.agent.outbox().clone();
    let take = async move |range: std::ops::Range<i64>| {
        for n in range {
            outbox.take(readings(5 * n..5 * n + 5), None).await.unwrap();
        }
    };
    let before = tokio::spawn({
        let take = take.clone();
        async move { take(0..100).await }
    });
    running.until("some accepted", |progress| progress.accepted > 50).await;
    fault(&mut town).await;
    before.await.unwrap();
    // Whatever was answered before the fault, these were not.
    let after = tokio::spawn(async move { take(100..200).await });
    let moved = town.moved("relay-2").await;
    assert_eq!((moved.from.unwrap().as_str(), moved.why, moved.before), ("relay-1", Why::Gone, None));
    assert_eq!(town.probes(1), 6, "one round at the start and one for the failover");
    after.await.unwrap();
    running.until("accepted", |progress| progress.accepted == 1000).await;
    running.stop().await;
    assert_eq!(town.union(), (1..=1000).collect());
    for held in &town.held {
        let order: Vec<_> = held.lock().unwrap().order.iter().map(|(_, seq)| *seq).collect();
        assert!(order.is_sorted(), "a series is out of order: {order:?}");
    }
}

#[tokio::test]
async fn a3_a_killed_target_is_left_within_one_round_and_every_record_arrives() {
    let kill = async |town: &mut Town| {
        town.peers[0] = None;
        town.links[0].refuse();
    };
    through(kill, Span::seconds(10)).await;
}

#[tokio::test]
async fn a3_a_target_that_hangs_is_left_within_one_round_and_every_record_arrives() {
    through(async |town: &mut Town| town.links[0].cut(Way::Both), Span::millis(300)).await;
}

#[tokio::test]
async fn a3_a_target_that_refuses_us_is_left() {
    let town = Town::new(&[2, 30]).await;
    let running = Running::start(town.config()).await;
    town.moved("relay-1").await;
    town.peer(0).script(|script| {
        script.on_publish(|_, publish| match publish.topic.starts_with("probe/") {
            true => Answer::Ack,
            false => Answer::Refuse(NOT_AUTHORIZED),
        })
    });
    running.agent.outbox().take(readings(0..10), None).await.unwrap();
    assert_eq!(town.moved("relay-2").await.why, Why::Refused);
    running.until("accepted", |progress| progress.accepted == 10 && progress.rejected == 0).await;
    running.stop().await;
    assert_eq!(town.held[1].lock().unwrap().seqs("cityA/meter-1/power"), (1..=10).collect::<Vec<_>>());
}

#[tokio::test]
async fn when_no_relay_is_there_at_the_start_the_first_that_comes_is_taken() {
    let town = Town::new(&[0, 0]).await;
    town.links.iter().for_each(CutLink::refuse);
    let running = Running::start(town.config()).await;
    running.agent.outbox().take(readings(0..10), None).await.unwrap();
    assert_eq!(town.moved("relay-1").await.why, Why::Unprobed);
    town.links[1].heal();
    assert_eq!(town.moved("relay-2").await.why, Why::Gone);
    running.until("accepted", |progress| progress.accepted == 10).await;
    running.stop().await;
}
