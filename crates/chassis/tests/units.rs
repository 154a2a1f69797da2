//! Units: who stops when, who is started again, and what the result says.
#![allow(clippy::unwrap_used, reason = "a test has nothing better to do with an error")]

use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chassis::{Cause, Policy, Signals, Stop, Units, UnitsFault};
use tokio::sync::mpsc;
use tokio::time::sleep;

const RESTART: Policy = Policy::Restart { times: 3, within: Duration::from_secs(60) };

type Log = Arc<Mutex<Vec<String>>>;

/// A unit that runs until it is told to stop, and notes when it does.
fn patient(
    log: &Log,
    name: &'static str,
) -> impl FnMut(Stop) -> std::pin::Pin<Box<dyn Future<Output = Result<(), Infallible>> + Send>> + use<> {
    let log = log.clone();
    move |stop| {
        let log = log.clone();
        Box::pin(async move {
            stop.stopped().await;
            log.lock().unwrap().push(name.to_owned());
            Ok(())
        })
    }
}

fn logged(log: &Log) -> Vec<String> {
    log.lock().unwrap().clone()
}

fn signals() -> (mpsc::Sender<()>, Signals) {
    let (send, heard) = mpsc::channel(4);
    (send, Signals::from_channel(heard))
}

#[tokio::test(start_paused = true)]
async fn a_signal_stops_units_in_reverse_order() {
    let log = Log::default();
    let mut units = Units::new();
    for name in ["store", "uplink", "listener"] {
        units.add(name, Policy::Fatal, patient(&log, name));
    }
    let (send, signals) = signals();
    let running = tokio::spawn(units.run_until(signals));
    sleep(Duration::from_secs(5)).await;
    assert!(logged(&log).is_empty());
    send.send(()).await.unwrap();
    assert_eq!(running.await.unwrap().unwrap(), Cause::Signal);
    assert_eq!(logged(&log), ["listener", "uplink", "store"]);
}

#[tokio::test(start_paused = true)]
async fn somebody_inside_may_ask() {
    let log = Log::default();
    let mut units = Units::new();
    units.add("store", Policy::Fatal, patient(&log, "store"));
    let stopper = units.stopper();
    let running = tokio::spawn(units.run_until(Signals::none()));
    stopper.stop();
    assert_eq!(running.await.unwrap().unwrap(), Cause::Asked);
}

#[tokio::test(start_paused = true)]
async fn a_failure_of_a_fatal_unit_stops_the_others_and_is_named() {
    let log = Log::default();
    let mut units = Units::new();
    units.add("uplink", Policy::Fatal, patient(&log, "uplink"));
    units.add("journal", Policy::Fatal, |_| async {
        sleep(Duration::from_secs(1)).await;
        Err(io::Error::other("disk is gone"))
    });
    let fault = units.run_until(Signals::none()).await.unwrap_err();
    assert_eq!(fault.to_string(), "unit journal failed: disk is gone");
    assert_eq!(logged(&log), ["uplink"]);
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failure_wherever_it_happens() {
    for early in [true, false] {
        let mut units = Units::new();
        units.add("journal", Policy::Fatal, move |_| {
            assert!(!early, "no {}", "luck");
            async {
                if !early_false() {
                    panic!("no luck");
                }
                Ok::<(), Infallible>(())
            }
        });
        let fault = units.run_until(Signals::none()).await.unwrap_err();
        assert_eq!(fault.to_string(), "unit journal failed: panicked: no luck");
    }
}

fn early_false() -> bool {
    false
}

#[tokio::test(start_paused = true)]
async fn a_fatal_unit_that_just_ends_is_a_failure() {
    let mut units = Units::new();
    units.add("journal", Policy::Fatal, |_| async { Ok::<(), Infallible>(()) });
    let fault = units.run_until(Signals::none()).await.unwrap_err();
    assert!(fault.to_string().contains("without being asked"), "{fault}");
}

#[tokio::test(start_paused = true)]
async fn a_restarted_unit_is_started_again_with_growing_pauses_until_it_fails_too_often() {
    let starts = Arc::new(Mutex::new(Vec::new()));
    let mut units = Units::new();
    let noted = starts.clone();
    units.add("uplink", RESTART, move |_| {
        let noted = noted.clone();
        async move {
            noted.lock().unwrap().push(tokio::time::Instant::now());
            Err::<(), _>(io::Error::other("refused"))
        }
    });
    let fault = units.run_until(Signals::none()).await.unwrap_err();
    assert!(
        matches!(&fault, UnitsFault::Failed { unit, why } if unit == "uplink" && why.contains("refused") && why.contains("failure 4")),
        "{fault}"
    );
    let starts = starts.lock().unwrap();
    let pauses: Vec<_> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(pauses.len(), 3);
    assert!(pauses.windows(2).all(|pair| pair[1] > pair[0]), "{pauses:?}");
}

#[tokio::test(start_paused = true)]
async fn failures_far_apart_are_forgiven() {
    let starts = Arc::new(AtomicU32::new(0));
    let mut units = Units::new();
    let counted = starts.clone();
    units.add("uplink", RESTART, move |_| {
        let nth = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            sleep(Duration::from_secs(30)).await;
            if nth < 20 { Err(io::Error::other("refused")) } else { Ok(()) }
        }
    });
    let ended = units.run_until(Signals::none()).await.unwrap();
    assert_eq!(ended, Cause::Done("uplink".to_owned()));
    assert_eq!(starts.load(Ordering::SeqCst), 21);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_lead_is_the_end_of_all() {
    let log = Log::default();
    let mut units = Units::new();
    units.add("store", Policy::Fatal, patient(&log, "store"));
    units.add("helper", RESTART, |_| async { Ok::<(), Infallible>(()) });
    units.add("replay", Policy::Lead, |_| async {
        sleep(Duration::from_secs(9)).await;
        Ok::<(), Infallible>(())
    });
    let ended = units.run_until(Signals::none()).await.unwrap();
    assert_eq!(ended, Cause::Done("replay".to_owned()));
    assert_eq!(logged(&log), ["store"]);
}

#[tokio::test(start_paused = true)]
async fn a_unit_that_does_not_stop_is_cut_off_and_named_and_the_rest_still_stops() {
    let log = Log::default();
    let mut units = Units::new();
    units.add("store", Policy::Fatal, patient(&log, "store"));
    let deadline = Duration::from_secs(2);
    units.add_with_deadline("deaf", Policy::Fatal, deadline, |_| std::future::pending::<Result<(), Infallible>>());
    let (send, signals) = signals();
    send.send(()).await.unwrap();
    let fault = units.run_until(signals).await.unwrap_err();
    assert!(matches!(&fault, UnitsFault::Overran { units } if units[..] == ["deaf"]), "{fault}");
    assert_eq!(logged(&log), ["store"]);
}

#[tokio::test(start_paused = true)]
async fn the_second_signal_ends_at_once_and_names_what_was_left() {
    let log = Log::default();
    let mut units = Units::new();
    units.add("store", Policy::Fatal, patient(&log, "store"));
    units.add("deaf", Policy::Fatal, |_| std::future::pending::<Result<(), Infallible>>());
    let (send, signals) = signals();
    send.send(()).await.unwrap();
    send.send(()).await.unwrap();
    let fault = units.run_until(signals).await.unwrap_err();
    assert!(matches!(&fault, UnitsFault::Hurried { left } if left[..] == ["deaf", "store"]), "{fault}");
    assert!(logged(&log).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_failure_while_stopping_is_told() {
    let mut units = Units::new();
    units.add("store", Policy::Fatal, |stop: Stop| async move {
        stop.stopped().await;
        Err::<(), _>(io::Error::other("could not flush"))
    });
    let (send, signals) = signals();
    send.send(()).await.unwrap();
    let fault = units.run_until(signals).await.unwrap_err();
    assert_eq!(fault.to_string(), "unit store failed: could not flush");
}
