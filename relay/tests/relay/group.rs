//! Members of a group: through the proxy, past a dead one, and as the proxy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use broker::Refusal;
use chassis::Size;
use testkit::Way;
use wire::Operation::Forward;
use wire::group::TermLimits;

use crate::region::{Cloud, Member, members};
use crate::town::{DEADLINE, eventually, frame, run};

/// Frames flow again after so long, whatever happened to the proxy.
const GAP_MAX: Duration = Duration::from_secs(3);

/// `r1` is the proxy and the others go through it.
async fn settled(cloud: &Cloud, members: &[Member]) -> u64 {
    let term = cloud.grant("r1", members[0].address(), TermLimits::default());
    for member in &members[1..] {
        eventually("a member behind the proxy", async || member.town.metric("relay_way_proxied") == 1).await;
    }
    eventually("the proxy", async || members[0].town.metric("relay_proxy_term") == term).await;
    term
}

async fn stop(members: Vec<Member>) {
    for member in members {
        member.town.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a7_members_send_through_the_proxy_and_only_it_talks_to_the_cloud() {
    let cloud = Cloud::start().await;
    let members = members(&cloud, 3).await;
    let term = settled(&cloud, &members).await;
    eventually("one connection", async || cloud.connected().len() == 1).await;
    for round in 0..20 {
        for member in &members {
            member.publish(round.to_string()).await;
        }
    }
    for member in &members {
        eventually("receipts", async || member.town.waiting() == 0).await;
        assert_eq!(cloud.in_order(&member.series()), (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
    }
    let proxy = cloud.connected().remove(0);
    assert!(proxy.starts_with("relay-r1-"), "{proxy}");
    assert!(cloud.came().iter().all(|came| came.by == proxy && came.term == term && !came.refused));
    let passed = members[0].town.metric("relay_proxy_frames_passed_total");
    let own = cloud.came().iter().filter(|came| came.relay == "r1").count() as u64;
    assert_eq!(passed, cloud.came().len() as u64 - own);
    assert_eq!(members[0].town.metric("relay_proxy_members"), 2);
    // The proxy keeps nothing of the others'.
    assert_eq!(members[0].town.metric("relay_records_taken_total"), 20);
    assert_eq!(cloud.connected().len(), 1);
    stop(members).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a8_the_proxy_says_when_its_term_is_done_and_serves_on_until_another_lease_comes() {
    let cloud = Cloud::start().await;
    let members = members(&cloud, 2).await;
    let until = TermLimits { frames: 5, ..TermLimits::default() };
    cloud.grant("r1", members[0].address(), until);
    eventually("behind the proxy", async || members[1].town.metric("relay_way_proxied") == 1).await;
    for n in 0..4 {
        members[1].publish(n.to_string()).await;
    }
    eventually("four frames", async || members[1].town.waiting() == 0).await;
    let beats = cloud.beats("r1").len();
    eventually("two heartbeats", async || cloud.beats("r1").len() >= beats + 2).await;
    assert!(cloud.beats("r1").iter().all(|beat| !beat.done));
    members[0].publish("own").await;
    eventually("done", async || cloud.beats("r1").iter().any(|beat| beat.done && beat.term == 1)).await;
    members[1].publish("4").await;
    eventually("served on", async || members[1].town.waiting() == 0).await;
    assert!(cloud.came().iter().all(|came| came.term == 1 && came.by.starts_with("relay-r1-")));
    // Its successor carries everybody's.
    cloud.grant("r2", members[1].address(), until);
    eventually("behind the successor", async || members[0].town.metric("relay_way_proxied") == 1).await;
    for (n, member) in members.iter().enumerate() {
        member.publish(format!("after {n}")).await;
        eventually("receipts", async || member.town.waiting() == 0).await;
    }
    let last: Vec<_> = cloud.came().into_iter().rev().take(2).collect();
    assert!(last.iter().all(|came| came.term == 2 && came.by.starts_with("relay-r2-")), "{last:?}");
    assert_eq!(cloud.in_order(&members[0].series()), ["own", "after 0"]);
    assert_eq!(cloud.in_order(&members[1].series()), ["0", "1", "2", "3", "4", "after 1"]);
    stop(members).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a9_heartbeats_tell_what_was_collected_from_sensors_and_not_what_was_passed_on() {
    let cloud = Cloud::start().await;
    let members = members(&cloud, 2).await;
    settled(&cloud, &members).await;
    for _ in 0..10 {
        members[1].publish(vec![b'x'; 100]).await;
    }
    members[1].sensor.publish("op/store/city/r2/energy", vec![b'y'; 50]).await.unwrap();
    let told = |relay: &str| cloud.beats(relay).last().unwrap().collected.iter().map(|(_, bytes)| bytes).sum::<u64>();
    eventually("told", async || told("r2") == 1_050).await;
    let beats = cloud.beats("r1").len();
    eventually("another heartbeat", async || cloud.beats("r1").len() > beats + 1).await;
    assert_eq!(told("r1"), 0);
    stop(members).await;
}

/// What happens to the way between `r2` and its proxy, while readings come.
async fn the_way_is_mended(fault: impl FnOnce(&[Member])) {
    let cloud = Cloud::start().await;
    let members = Arc::new(members(&cloud, 2).await);
    settled(&cloud, &members).await;
    let stop_publishing = Arc::new(AtomicBool::new(false));
    let published = Arc::new(AtomicUsize::new(0));
    let publishing = tokio::spawn({
        let (members, stop_publishing, published) = (members.clone(), stop_publishing.clone(), published.clone());
        async move {
            while !stop_publishing.load(Ordering::SeqCst) {
                let n = published.load(Ordering::SeqCst);
                members[1].publish(n.to_string()).await;
                published.store(n + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    });
    eventually("under way", async || published.load(Ordering::SeqCst) > 50).await;
    eventually("by the proxy", async || cloud.taken(|came| came.relay == "r2" && came.by.starts_with("relay-r1-"))).await;
    assert_eq!(members[1].town.metric("relay_way_proxied"), 1);
    fault(&members);
    let start = Instant::now();
    let at_fault = published.load(Ordering::SeqCst);
    // A reading that was published after the fault.
    let later = (at_fault + 5).to_string();
    eventually("frames flow again", async || cloud.taken(|came| came.records.iter().any(|(_, _, p)| *p == later))).await;
    let arrived = cloud.came().into_iter().find(|came| came.records.iter().any(|(_, _, p)| *p == later)).unwrap();
    let gap = arrived.at.saturating_duration_since(start);
    assert!(gap < GAP_MAX, "{gap:?}");
    stop_publishing.store(true, Ordering::SeqCst);
    publishing.await.unwrap();
    let all: Vec<String> = (0..published.load(Ordering::SeqCst)).map(|n| n.to_string()).collect();
    eventually("receipts", async || members[1].town.waiting() == 0).await;
    assert_eq!(cloud.in_order(&members[1].series()), all);
    let Ok(members) = Arc::try_unwrap(members) else { panic!("nobody publishes any more") };
    stop(members).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c11_a_proxy_that_dies_is_passed_by() {
    the_way_is_mended(|members| members[0].near.refuse()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c11_a_proxy_that_stands_still_is_passed_by() {
    the_way_is_mended(|members| members[0].near.cut(Way::Both)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c11_a_way_that_is_cut_upwards_only_is_left() {
    the_way_is_mended(|members| members[0].near.cut(Way::Up)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c11_a_way_that_is_cut_downwards_only_is_left() {
    the_way_is_mended(|members| members[0].near.cut(Way::Down)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c11_a_proxy_that_is_cut_off_from_the_cloud_is_passed_by() {
    the_way_is_mended(|members| members[0].far.cut(Way::Both)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c11_a_proxy_that_the_cloud_does_not_reach_is_passed_by() {
    the_way_is_mended(|members| members[0].far.cut(Way::Down)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c11_a_proxy_whose_connection_to_the_cloud_breaks_is_passed_by() {
    the_way_is_mended(|members| members[0].far.refuse()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c11_frames_of_a_term_that_is_over_are_sent_again_in_order_and_nothing_is_put_aside() {
    let cloud = Cloud::start().await;
    let members = members(&cloud, 3).await;
    settled(&cloud, &members).await;
    for round in 0..5 {
        for n in 0..20 {
            for member in &members {
                member.publish(format!("{round} {n}")).await;
            }
            if n == 10 && round == 2 {
                // Before anybody is told.
                cloud.fence();
            }
            if n == 10 {
                let next = &members[(round + 1) % 3];
                cloud.grant(&next.name, next.address(), TermLimits::default());
            }
        }
    }
    let all: Vec<String> = (0..5).flat_map(|round| (0..20).map(move |n| format!("{round} {n}"))).collect();
    for member in &members {
        eventually("receipts", async || member.town.waiting() == 0).await;
        assert_eq!(cloud.in_order(&member.series()), all, "{}", member.name);
        assert_eq!(member.town.metric("relay_pages_aside"), 0);
        assert_eq!(member.town.metric("relay_frames_refused_total{reason=\"ForGood\"}"), 0);
    }
    assert!(cloud.came().iter().any(|came| came.refused), "nothing was stale");
    stop(members).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c11_what_the_cloud_refuses_for_good_is_refused_through_the_proxy_and_holds_nobody_up() {
    let cloud = Cloud::start().await;
    let members = members(&cloud, 2).await;
    settled(&cloud, &members).await;
    cloud.verdict(
        |came| if came.records.iter().any(|(_, _, p)| p == "bad") { Err(Refusal::PayloadFormatInvalid) } else { Ok(()) },
    );
    for payload in ["0", "bad", "1", "2"] {
        members[1].publish(payload).await;
    }
    eventually("the three others", async || members[1].town.waiting() == 1).await;
    eventually("put aside", async || members[1].town.metric("relay_pages_aside") == 1).await;
    assert_eq!(members[1].town.metric("relay_way_proxied"), 1, "that is no fault of the way");
    assert_eq!(cloud.in_order(&members[1].series()), ["0", "1", "2"]);
    stop(members).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a7_a_proxy_that_was_passed_by_is_tried_again_when_it_stands() {
    let cloud = Cloud::start().await;
    let members = members(&cloud, 2).await;
    settled(&cloud, &members).await;
    members[0].near.refuse();
    eventually("directly", async || members[1].town.metric("relay_way_proxied") == 0).await;
    eventually("two connections", async || cloud.connected().len() == 2).await;
    members[1].publish("directly").await;
    eventually("its receipt", async || members[1].town.waiting() == 0).await;
    assert!(cloud.came().iter().all(|came| came.term == 0 && came.by.starts_with("relay-r2-")));
    members[0].near.heal();
    eventually("through the proxy again", async || members[1].town.metric("relay_way_proxied") == 1).await;
    eventually("no idle connection", async || cloud.connected().len() == 1).await;
    stop(members).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a7_who_is_not_the_proxy_passes_nothing_on_and_nobody_speaks_for_another() {
    let cloud = Cloud::start().await;
    let members = members(&cloud, 1).await;
    let member = members[0].town.client("r9").await;
    eventually("heartbeats", async || !cloud.beats("r1").is_empty()).await;
    assert_eq!(member.refused("up/r9/frames", "frame").await, 0x83, "it is not the proxy");
    settled(&cloud, &members).await;
    assert_eq!(member.refused("up/r9/frames", "frame").await, 0x83, "a connection is over when it was refused once");
    assert_eq!(member.refused("up/r1/stats", "its own").await, 0x87);
    assert_eq!(member.refused("down/r1/receipts", "forged").await, 0x87);
    assert!(cloud.came().is_empty());
    let refused = |reason: &str| members[0].town.metric(&format!("relay_proxy_refused_total{{reason=\"{reason}\"}}"));
    assert_eq!((refused("NotProxy"), refused("Over"), refused("Member")), (1, 1, 1));
    stop(members).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_takes_no_larger_frames_of_agents_than_it_is_told_to() {
    let cloud = Cloud::start().await;
    let member = Member::start("r1", &cloud, |config| config.broker.packet_bytes_max = Size(32 << 10)).await;
    let payload = "x".repeat(20 << 10);
    let small = frame(&[], &[&run("city/r1/power", Forward, 7, 1, &[&payload])]);
    let large = frame(&[], &[&run("city/r1/power", Forward, 7, 2, &[&payload, &payload])]);
    member.sensor.publish("op/forward/city/r1", small).await.unwrap();
    assert_eq!(member.sensor.refused("op/forward/city/r1", large).await, 0x99);
    member.town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a7_a_relay_without_a_group_says_nothing_of_leases_and_passes_nothing_on() {
    let cloud = Cloud::start().await;
    let alone = Member::start("r1", &cloud, |config| config.group = None).await;
    alone.publish("1").await;
    tokio::time::timeout(DEADLINE, async {
        eventually("its receipt", async || alone.town.waiting() == 0).await;
    })
    .await
    .unwrap();
    assert!(cloud.beats("r1").is_empty());
    assert_eq!(cloud.came()[0].term, 0);
    alone.town.stop().await;
}
