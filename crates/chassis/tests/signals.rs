//! SIGTERM and SIGINT of a real process. The test binary starts itself again as the process.
#![allow(clippy::unwrap_used, reason = "a test has nothing better to do with an error")]
#![allow(clippy::print_stdout, reason = "the process under test speaks to the test")]

use std::convert::Infallible;
use std::time::Duration;

use chassis::{Cause, Policy, Stop, Units};
use testkit::Child;

const SOON: Duration = Duration::from_secs(10);
const CHILD: &str = "CHASSIS_TEST_CHILD";

/// Not a test: what the other tests start.
#[tokio::test]
async fn process_under_test() {
    let Ok(mode) = std::env::var(CHILD) else {
        return;
    };
    chassis::logging::init(chassis::logging::Format::Text, "info").unwrap();
    let deaf = mode == "deaf";
    let mut units = Units::new();
    units.add("store", Policy::Fatal, |stop: Stop| async move {
        stop.stopped().await;
        eprintln!("store is closed");
        Ok::<(), Infallible>(())
    });
    units.add("listener", Policy::Fatal, move |stop: Stop| async move {
        println!("\nready");
        stop.stopped().await;
        println!("\nstopping");
        if deaf {
            std::future::pending::<()>().await;
        }
        Ok::<(), Infallible>(())
    });
    assert_eq!(units.run().await.unwrap(), Cause::Signal);
    std::process::exit(0);
}

async fn started(mode: &str) -> Child {
    let me = std::env::current_exe().unwrap();
    let arguments = ["--exact", "process_under_test", "--nocapture"];
    let mut child = Child::spawn(me, arguments, &[(CHILD, mode)]);
    child.line(SOON, "ready", |line| (line == "ready").then_some(())).await;
    child
}

#[tokio::test]
async fn sigterm_stops_in_order_and_ends_well() {
    let mut child = started("good").await;
    child.terminate();
    assert_eq!(child.wait(SOON).await.code(), Some(0), "{}", child.output());
    assert!(child.output().contains("store is closed"), "{}", child.output());
}

#[tokio::test]
async fn the_second_signal_ends_at_once_and_names_what_was_left() {
    let mut child = started("deaf").await;
    child.terminate();
    child.line(SOON, "stopping", |line| (line == "stopping").then_some(())).await;
    child.terminate();
    assert_eq!(child.wait(SOON).await.code(), Some(2), "{}", child.output());
    let output = child.output();
    assert!(output.contains("still running: listener, store"), "{output}");
    assert!(!output.contains("store is closed"), "{output}");
}
