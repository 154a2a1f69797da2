//! The intake's session by itself: what comes in one batch, deterministically.

use std::net::SocketAddr;
use std::sync::Arc;

use archive::{Archive, Budgets, Options};
use broker::{Client, Intake, IntakeSession, Offer, Refusal};
use chassis::ManualClock;
use relay::{Announcing, Metrics, RelayIntake, Room};
use wire::Operation::{Forward, Store};

use crate::town::{RELAY, frame, run, stored};

struct Bench {
    archive: Archive,
    intake: RelayIntake,
    room: Room,
    _folder: tempfile::TempDir,
}

fn bench(budgets: Budgets) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { budgets, ..Options::new(RELAY.parse().unwrap(), Arc::new(|| 0)) };
    let (archive, _) = Archive::open(folder.path(), options).unwrap();
    let metrics = Metrics::default();
    let room = Room::new(archive.clone(), budgets, metrics.clone());
    let clock = Arc::new(ManualClock::new(5));
    let intake = RelayIntake::new(archive.clone(), clock, metrics, room.clone(), Announcing::default());
    Bench { archive, intake, room, _folder: folder }
}

impl Bench {
    fn session(&self) -> Box<dyn IntakeSession> {
        let peer: SocketAddr = "127.0.0.1:1".parse().unwrap();
        self.intake.open(&Client { id: "c".to_owned(), user: None, peer, v5: true })
    }
}

fn offer(session: &mut Box<dyn IntakeSession>, topic: &str, payload: &[u8]) -> Result<(), Refusal> {
    session.offer(Offer {
        topic,
        payload,
        qos: 1,
        retain: false,
        response_topic: None,
        correlation_data: None,
        user_properties: &[],
    })
}

#[tokio::test]
async fn a_refused_reading_takes_none_of_its_batch_along() {
    let bench = bench(Budgets::default());
    let mut session = bench.session();
    let large = vec![0; (256 << 10) + 1];
    offer(&mut session, "op/store/a/b/good", b"1").unwrap();
    assert_eq!(offer(&mut session, "op/store/a/b/large", &large), Err(Refusal::PayloadFormatInvalid));
    assert_eq!(offer(&mut session, "op/forward/a/b/large", &large), Err(Refusal::PayloadFormatInvalid));
    assert_eq!(offer(&mut session, "op/store/a/b", b"nonsense"), Err(Refusal::PayloadFormatInvalid));
    session.commit().unwrap().await.unwrap();
    assert_eq!(stored(&bench.archive, "a/b/good"), ["1"]);
    // And alone it leaves nothing to commit.
    assert_eq!(offer(&mut session, "op/store/a/b/large", &large), Err(Refusal::PayloadFormatInvalid));
    assert!(session.commit().is_none());
}

#[tokio::test]
async fn a_full_lane_takes_nothing_of_the_other_lane_along() {
    let bench = bench(Budgets { store_bytes_max: 1, outgoing_bytes_max: 1 << 20 });
    let mut session = bench.session();
    offer(&mut session, "op/store/a/b/c", b"fits, because there was nothing").unwrap();
    session.commit().unwrap().await.unwrap();
    // The batch that finds out is refused as a whole: nothing of it is kept.
    offer(&mut session, "op/forward/a/b/d", b"1").unwrap();
    offer(&mut session, "op/store/a/b/c", b"1").unwrap();
    assert_eq!(session.commit().unwrap().await, Err(Refusal::QuotaExceeded));
    assert_eq!(bench.archive.stats().live.records, 0);
    // From then on only what is meant for the full lane is.
    for n in 0..3 {
        offer(&mut session, "op/forward/a/b/d", b"2").unwrap();
        assert_eq!(offer(&mut session, "op/store/a/b/c", b"2"), Err(Refusal::QuotaExceeded));
        assert_eq!(
            offer(&mut session, "op/store/a/b", &frame(&[], &[&run("a/b/c", Store, 7, 1, &["2"])])),
            Err(Refusal::QuotaExceeded)
        );
        session.commit().unwrap().await.unwrap();
        assert_eq!(bench.archive.stats().live.records, n + 1);
    }
    bench.archive.hand_over(&archive::Selection::All).unwrap();
    bench.room.look();
    offer(&mut session, "op/store/a/b/c", b"3").unwrap();
    session.commit().unwrap().await.unwrap();
}

#[tokio::test]
async fn a_gateway_with_many_series_keeps_their_order_and_numbers() {
    let bench = bench(Budgets::default());
    let mut session = bench.session();
    for batch in 0..3 {
        for reading in 0..2 {
            for series in 0..1_000 {
                offer(&mut session, &format!("op/store/a/gw/{series}"), format!("{batch}.{reading}").as_bytes()).unwrap();
            }
        }
        session.commit().unwrap().await.unwrap();
    }
    for series in [0, 255, 256, 999] {
        let series = format!("a/gw/{series}");
        assert_eq!(stored(&bench.archive, &series), ["0.0", "0.1", "1.0", "1.1", "2.0", "2.1"]);
        let held = bench.archive.held(&series.parse().unwrap()).unwrap();
        assert_eq!(held, [(bench.archive.epoch(), wire::Intervals::of(1, 6))]);
    }
}

#[tokio::test]
async fn one_series_over_several_connections_has_one_sequence_without_gaps() {
    let bench = bench(Budgets::default());
    let mut sessions: Vec<_> = (0..4).map(|_| bench.session()).collect();
    let mut commits = Vec::new();
    for n in 0..100 {
        let session = &mut sessions[n % 4];
        offer(session, "op/store/a/b/c", format!("{n}").as_bytes()).unwrap();
        commits.push(session.commit().unwrap());
    }
    // A connection that ends takes back nothing of what it had submitted.
    drop(sessions);
    for commit in commits.drain(..).step_by(2) {
        commit.await.unwrap();
    }
    let held = || bench.archive.held(&"a/b/c".parse().unwrap()).unwrap();
    crate::town::eventually("all", async || held() == [(bench.archive.epoch(), wire::Intervals::of(1, 100))]).await;
    assert_eq!(stored(&bench.archive, "a/b/c"), (0..100).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn secrets_go_with_the_frames_that_brought_them() {
    let bench = bench(Budgets { store_bytes_max: 1, outgoing_bytes_max: 1 << 20 });
    let mut session = bench.session();
    offer(&mut session, "op/store/a/b", &frame(&[(1, 1)], &[&run("a/b/c", Store, 1, 1, &["s"])])).unwrap();
    offer(&mut session, "op/forward/a/b", &frame(&[(2, 2)], &[&run("a/b/c", Forward, 2, 1, &["f"])])).unwrap();
    session.commit().unwrap().await.unwrap();
    let known = |after| bench.archive.announcements_after(after, 9).unwrap();
    assert_eq!(known(0).iter().map(|(_, known)| known.epoch.0).collect::<Vec<_>>(), [1, 2]);
    // The store lane is full now. Its secrets are refused with it and those of the other lane are not.
    bench.room.look();
    let refused = offer(&mut session, "op/store/a/b", &frame(&[(3, 3)], &[&run("a/b/c", Store, 3, 1, &["s"])]));
    assert_eq!(refused, Err(Refusal::QuotaExceeded));
    offer(&mut session, "op/forward/a/b", &frame(&[(4, 4)], &[&run("a/b/c", Forward, 4, 1, &["f"])])).unwrap();
    session.commit().unwrap().await.unwrap();
    assert_eq!(known(0).iter().map(|(_, known)| known.epoch.0).collect::<Vec<_>>(), [1, 2, 4]);
}

#[tokio::test]
async fn a_raw_reading_under_forebay_is_refused() {
    let bench = bench(Budgets::default());
    let mut session = bench.session();
    for topic in ["op/forward/a/b/forebay/targets", "op/store/a/b/forebay"] {
        assert_eq!(offer(&mut session, topic, b"1"), Err(Refusal::TopicNameInvalid), "{topic}");
    }
    offer(&mut session, "op/store/a/b/power/forebay", b"1").unwrap();
    session.commit().unwrap().await.unwrap();
}
