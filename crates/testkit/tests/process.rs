//! Real processes: read, paused, killed with all they started.
#![allow(clippy::unwrap_used, reason = "a test has nothing better to do with an error")]

use std::time::Duration;

use testkit::{Child, wait_until};

const SOON: Duration = Duration::from_secs(5);

fn shell(script: &str) -> Child {
    Child::spawn("/bin/sh", ["-c", script], &[("GREETING", "hello")])
}

/// Neither running nor a zombie.
fn is_gone(id: &str) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{id}/stat")) else {
        return true;
    };
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
}

async fn gone(id: &str) {
    wait_until(SOON, "the process is gone", async || if is_gone(id) { Ok(()) } else { Err(id.to_owned()) }).await;
}

#[tokio::test]
async fn its_ready_line_is_read() {
    let mut child = shell("echo starting; echo \"$GREETING port 4711\"; sleep 60");
    let port: u16 = child.line(SOON, "the port", |line| line.strip_prefix("hello port ")?.parse().ok()).await;
    assert_eq!(port, 4711);
    assert!(child.ended().is_none());
}

#[tokio::test]
#[should_panic(expected = "no luck today")]
async fn a_process_that_ends_early_shows_its_last_lines() {
    let mut child = shell("echo no luck today >&2; exit 3");
    child.line(SOON, "ready", |line| (line == "ready").then_some(())).await;
}

#[tokio::test]
async fn kill_9_takes_the_whole_group() {
    let mut child = shell("sleep 60 & echo $!; wait");
    let grandchild: String = child.line(SOON, "the id", |line| Some(line.to_owned())).await;
    assert!(!is_gone(&grandchild));
    child.kill_9().await;
    gone(&grandchild).await;
    assert!(child.ended().is_some());
}

#[tokio::test]
async fn dropping_kills_the_whole_group() {
    let mut child = shell("sleep 60 & echo $!; wait");
    let grandchild: String = child.line(SOON, "the id", |line| Some(line.to_owned())).await;
    let id = child.id().to_string();
    drop(child);
    gone(&grandchild).await;
    gone(&id).await;
}

#[tokio::test]
async fn terminate_lets_it_say_how_it_ends() {
    let mut child = shell("trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done");
    child.line(SOON, "ready", |line| (line == "ready").then_some(())).await;
    child.terminate();
    assert_eq!(child.wait(SOON).await.code(), Some(7));
}

#[tokio::test]
async fn a_paused_process_stands_still() {
    let mut child = shell("n=0; while :; do n=$((n+1)); echo $n; sleep 0.005; done");
    child.line(SOON, "a number", |line| (line == "3").then_some(())).await;
    child.pause();
    let standing = wait_until(SOON, "the output stands still", async || {
        let before = child.stdout().len();
        tokio::time::sleep(Duration::from_millis(60)).await;
        let after = child.stdout().len();
        if before == after { Ok(after) } else { Err(after) }
    })
    .await;
    child.resume();
    wait_until(SOON, "the output goes on", async || {
        let now = child.stdout().len();
        if now > standing { Ok(()) } else { Err(now) }
    })
    .await;
}
