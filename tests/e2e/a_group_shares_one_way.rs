//! Three relays share one way up: one is the proxy for a term, then the one that collected least, and all take turns.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use testkit::wait_until;
use wire::RelayId;

use crate::group_town::{GroupTown, Load, RELAYS, Settings, summary};
use crate::town::{FOREBAY, PATIENCE};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a7_the_members_go_through_the_proxy_and_only_it_talks_to_the_cloud() {
    let folder = tempfile::tempdir().unwrap();
    let town = GroupTown::start(folder.path(), &Settings { term: "{}", ttl: "5s", period: "1s" }).await;
    let (proxy, _) = town.settled().await;
    let bytes = |relay: &RelayId| town.member(relay).link.bytes().0;
    let others: Vec<RelayId> = town.members.keys().filter(|relay| **relay != proxy).cloned().collect();
    let before: Vec<u64> = others.iter().map(&bytes).collect();
    let through = bytes(&proxy);
    let load = Load::start(&town, 2, |_| 20, Duration::from_millis(20)).await;
    wait_until(PATIENCE, "the proxy has carried something", async || {
        let carried = bytes(&proxy) - through;
        if carried > 100_000 { Ok(()) } else { Err(carried) }
    })
    .await;
    let readings = load.check(&town).await;
    // What is left on the others' own links is at most a connection's goodbye.
    let after: Vec<u64> = others.iter().map(&bytes).collect();
    for ((relay, before), after) in others.iter().zip(before).zip(after) {
        assert!(after - before < 2_000, "{relay} sent {} bytes past the proxy for {readings} readings", after - before);
    }
    assert_eq!(town.settled().await.0, proxy, "nobody else took over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a8_a9_a10_terms_end_by_their_limit_and_all_take_turns_the_least_loaded_first() {
    let folder = tempfile::tempdir().unwrap();
    let town = GroupTown::start(folder.path(), &Settings { term: "{ time = \"3s\" }", ttl: "1500ms", period: "500ms" }).await;
    town.settled().await;
    // relay-1 collects most, relay-3 least.
    let burst = |relay: &str| match relay {
        "relay-1" => 40,
        "relay-2" => 12,
        _ => 2,
    };
    let load = Load::start(&town, 1, burst, Duration::from_millis(50)).await;
    let group = wait_until(PATIENCE, "three rounds", async || {
        let group = town.group().await;
        if group.round > 3 { Ok(group) } else { Err(summary(&group)) }
    })
    .await;
    // Each relay once in each round that is complete.
    for round in 1..=3 {
        let served: Vec<_> = group.terms.iter().filter(|term| term.round == round).map(|term| term.holder.as_str()).collect();
        assert_eq!(served.len(), RELAYS.len(), "round {round}: {served:?}");
        assert_eq!(served.iter().copied().collect::<BTreeSet<_>>(), RELAYS.into(), "round {round}");
    }
    // Under load the order within a round is that of the loads, apart from who is left over from the round before.
    for round in 2..=3 {
        let mut of_round: Vec<_> =
            group.terms.iter().filter(|term| term.round == round).map(|term| term.holder.as_str()).collect();
        // The latest term is shown first.
        of_round.reverse();
        let by_load = of_round[1..].windows(2).all(|pair| pair[0] > pair[1]);
        assert!(by_load, "round {round}: {of_round:?}");
    }
    let ended: BTreeSet<_> = group.terms.iter().filter_map(|term| term.ended).map(cloud::groups::Reason::as_str).collect();
    assert!(ended.iter().all(|reason| ["time", "done"].contains(reason)), "{ended:?}");
    let scores = group.members.iter().filter_map(|member| member.last.as_ref()?.score).count();
    let bars = group.members.iter().filter(|member| member.last.as_ref().is_some_and(|last| last.bars.len() > 1)).count();
    assert!(scores >= 1 && bars == RELAYS.len(), "{group:?}");

    let password = folder.path().join("operator.password");
    let args = ["groups", "--cloud", &format!("http://{}", town.cloud.place("http")), "--user", "operator"];
    let shown = Command::new(FOREBAY).args(args).arg("--password-file").arg(&password).output().unwrap();
    let text = String::from_utf8(shown.stdout.clone()).unwrap();
    assert!(shown.status.success() && text.starts_with("north: proxy relay-"), "{shown:?}");
    assert!(RELAYS.iter().all(|relay| text.contains(relay)), "{text}");
    load.check(&town).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a8_a_proxy_that_has_passed_on_its_frames_hands_over_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let town = GroupTown::start(folder.path(), &Settings { term: "{ frames = 60 }", ttl: "1500ms", period: "1s" }).await;
    town.settled().await;
    let load = Load::start(&town, 2, |_| 3, Duration::from_millis(30)).await;
    let group = wait_until(PATIENCE, "two rounds", async || {
        let group = town.group().await;
        if group.round > 2 { Ok(group) } else { Err(summary(&group)) }
    })
    .await;
    let ended: BTreeSet<_> = group.terms.iter().filter_map(|term| term.ended).map(cloud::groups::Reason::as_str).collect();
    assert_eq!(ended, ["done"].into(), "{:?}", group.terms);
    let readings = load.check(&town).await;
    assert!(readings > 300, "{readings}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c11_a_cloud_that_is_killed_gives_no_term_twice_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut town = GroupTown::start(folder.path(), &Settings { term: "{ time = \"2s\" }", ttl: "1s", period: "1s" }).await;
    let load = Load::start(&town, 1, |_| 3, Duration::from_millis(30)).await;
    let mut terms: Vec<(u64, RelayId)> = Vec::new();
    for _ in 0..3 {
        let (holder, term) = town.settled().await;
        assert!(terms.iter().all(|(known, relay)| *known < term || (*known == term && *relay == holder)), "{terms:?} {term}");
        terms.push((term, holder));
        town.kill_cloud().await;
    }
    town.settled().await;
    let readings = load.check_history(&town).await;
    assert!(readings > 100, "{readings}");
}
