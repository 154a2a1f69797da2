//! Three relays share one way up, with load on all, and the proxy fails: each kind of failure ten times at random moments.

use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;
use testkit::{Seed, Way, wait_until};
use wire::RelayId;

use crate::group_town::{GroupTown, Load, Settings, summary};
use crate::town::PATIENCE;

const FAULTS: usize = 10;
/// A new proxy is there after this time at the latest.
const REPLACED: Duration = Duration::from_secs(3);
/// A proxy serves until it fails; the times are the defaults.
const SETTINGS: Settings = Settings { term: "{}", ttl: "1s", period: "1s" };

#[derive(Debug, Clone, Copy)]
enum Fault {
    /// kill -9, and started again.
    Kill,
    /// SIGSTOP, and SIGCONT.
    Pause,
    /// The link between proxy and cloud.
    Cut(Way),
}

async fn begin(town: &mut GroupTown, fault: Fault, proxy: &RelayId) {
    match fault {
        Fault::Kill => town.kill(proxy).await,
        Fault::Pause => town.member(proxy).role.child.pause(),
        Fault::Cut(way) => town.member(proxy).link.cut(way),
    }
}

async fn end(town: &mut GroupTown, fault: Fault, proxy: &RelayId) {
    match fault {
        Fault::Kill => town.revive(proxy).await,
        Fault::Pause => town.member(proxy).role.child.resume(),
        Fault::Cut(_) => town.member(proxy).link.heal(),
    }
}

async fn wait_a_moment(random: &mut StdRng, millis: u32) {
    tokio::time::sleep(Duration::from_millis(u64::from(random.next_u32() % millis))).await;
}

/// Has the proxy fail again and again, and checks what the cloud has in the end.
async fn fail_the_proxy(fault: Fault) {
    let folder = tempfile::tempdir().unwrap();
    let seed = Seed::new();
    let mut random = seed.rng();
    let mut town = GroupTown::start(folder.path(), &SETTINGS).await;
    let load = Load::start(&town, 2, |_| 3, Duration::from_millis(30)).await;
    let mut slowest = Duration::ZERO;
    for round in 0..FAULTS {
        town.settled().await;
        // At another place of heartbeats, frames and commits each time.
        wait_a_moment(&mut random, 500).await;
        let (proxy, term) = town.settled().await;
        begin(&mut town, fault, &proxy).await;
        let began = Instant::now();
        wait_until(PATIENCE, "another relay is the proxy", async || {
            let group = town.group().await;
            let replaced = group.term > term && group.holder.as_ref().is_some_and(|holder| *holder != proxy);
            if replaced { Ok(()) } else { Err(format!("round {round}: {}", summary(&group))) }
        })
        .await;
        slowest = slowest.max(began.elapsed());
        // Sometimes it is back before the others have settled, sometimes after.
        wait_a_moment(&mut random, 800).await;
        end(&mut town, fault, &proxy).await;
    }
    assert!(slowest <= REPLACED, "a new proxy took {slowest:?}");
    let readings = load.check(&town).await;
    let terms = town.group().await.terms;
    assert!(terms.windows(2).all(|pair| pair[0].term == pair[1].term + 1), "terms grow by one: {terms:?}");
    assert!(terms.len() > FAULTS && readings > 1_000, "{} terms, {readings} readings", terms.len());
}

/// Any relay, any failure, also two at a time, while terms end by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c11_whoever_fails_whenever_nothing_is_lost_doubled_or_out_of_order() {
    const STEPS: usize = 25;
    let folder = tempfile::tempdir().unwrap();
    let seed = Seed::new();
    let mut random = seed.rng();
    let settings = Settings { term: "{ time = \"2s\", frames = 150 }", ..SETTINGS };
    let mut town = GroupTown::start(folder.path(), &settings).await;
    town.settled().await;
    let load = Load::start(&town, 2, |_| 3, Duration::from_millis(30)).await;
    let relays: Vec<RelayId> = town.members.keys().cloned().collect();
    let faults = [Fault::Kill, Fault::Pause, Fault::Cut(Way::Both), Fault::Cut(Way::Up), Fault::Cut(Way::Down)];
    let mut failed: Vec<(RelayId, Fault)> = Vec::new();
    for _ in 0..STEPS {
        wait_a_moment(&mut random, 700).await;
        let pick = |random: &mut StdRng, of: usize| random.next_u32() as usize % of;
        if failed.len() == 2 || (!failed.is_empty() && pick(&mut random, 2) == 0) {
            let (relay, fault) = failed.swap_remove(pick(&mut random, failed.len()));
            end(&mut town, fault, &relay).await;
            continue;
        }
        let relay = relays[pick(&mut random, relays.len())].clone();
        let fault = faults[pick(&mut random, faults.len())];
        if failed.iter().all(|(other, _)| *other != relay) {
            begin(&mut town, fault, &relay).await;
            failed.push((relay, fault));
        }
    }
    for (relay, fault) in failed {
        end(&mut town, fault, &relay).await;
    }
    let readings = load.check(&town).await;
    let terms = town.group().await.terms;
    assert!(terms.windows(2).all(|pair| pair[0].term == pair[1].term + 1), "terms grow by one: {terms:?}");
    assert!(terms.len() > 3 && readings > 300, "{} terms, {readings} readings", terms.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c11_a_proxy_that_is_killed_ten_times_loses_and_doubles_nothing() {
    fail_the_proxy(Fault::Kill).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c11_a_proxy_that_stands_still_ten_times_loses_and_doubles_nothing() {
    fail_the_proxy(Fault::Pause).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c11_a_proxy_cut_off_from_the_cloud_ten_times_loses_and_doubles_nothing() {
    fail_the_proxy(Fault::Cut(Way::Both)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c11_a_proxy_that_the_cloud_does_not_hear_ten_times_loses_and_doubles_nothing() {
    fail_the_proxy(Fault::Cut(Way::Up)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c11_a_proxy_that_does_not_hear_the_cloud_ten_times_loses_and_doubles_nothing() {
    fail_the_proxy(Fault::Cut(Way::Down)).await;
}
