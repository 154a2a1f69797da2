//! Waiting for a condition with a deadline, never sleeping and hoping.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// Asks `condition` until it gives `Ok`. `Err` is the state so far; when the deadline passes, the last one is in the panic.
///
/// # Panics
/// When the deadline passes.
#[track_caller]
pub fn wait_until<T, S: Debug>(
    deadline: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> Result<T, S>,
) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        let end = Instant::now() + deadline;
        let mut pause = PAUSE_MIN;
        let mut last: Option<S> = None;
        loop {
            match timeout_at(end, condition()).await {
                Ok(Ok(value)) => return value,
                Ok(Err(state)) => last = Some(state),
                Err(_) => {
                    panic!(
                        "{caller}: {deadline:?} passed before: {what}; the condition itself did not return; last state: {last:?}"
                    )
                }
            }
            if Instant::now() >= end {
                panic!("{caller}: {deadline:?} passed before: {what}; last state: {last:?}");
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn gives_the_value_when_it_comes() {
        let mut asked = 0;
        let value = wait_until(Duration::from_secs(5), "the third time", async || {
            asked += 1;
            if asked == 3 { Ok("here") } else { Err(asked) }
        })
        .await;
        assert_eq!(value, "here");
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "passed before: rain; last state: Some(\"sun\")")]
    async fn shows_the_last_state_when_it_does_not() {
        wait_until(Duration::from_secs(1), "rain", async || Err::<(), _>("sun")).await;
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "the condition itself did not return")]
    async fn a_condition_that_hangs_is_told() {
        wait_until(Duration::from_secs(1), "an answer", async || std::future::pending::<Result<(), ()>>().await).await;
    }
}
