//! Keeps what others say up to date: the issuer's keys, the directory, and whose token has ended.

use std::path::Path;
use std::time::{Duration, SystemTime};

use chassis::Stop;
use tokio::time::Instant;
use wire::At;

use super::registrar::{Registrar, Shown};

/// How often files and ends are looked at; what is looked at more rarely can't bite within a second.
const LOOK_INTERVAL: Duration = Duration::from_millis(300);
/// Least time between two questions for the keys, whatever tokens name: an attacker must not make us ask all the time.
const ASK_DISTANCE: Duration = Duration::from_secs(30);
/// The same while no key is known at all.
const FIRST_DISTANCE: Duration = Duration::from_secs(2);

/// What tells one state of a file from another without reading it. `None`: it is not there.
type Mark = Option<(SystemTime, u64, u64)>;

fn mark(path: Option<&Path>) -> Mark {
    use std::os::unix::fs::MetadataExt;
    let facts = std::fs::metadata(path?).ok()?;
    Some((facts.modified().ok()?, facts.len(), facts.ino()))
}

/// Runs until told to stop.
pub(crate) async fn watch(registrar: Registrar, refresh: Duration, stop: Stop) {
    let work = async { tokio::join!(files(&registrar), address(&registrar, refresh)) };
    tokio::select! {
        () = stop.stopped() => {}
        _ = work => {}
    }
}

async fn files(registrar: &Registrar) {
    let authorities = registrar.authorities();
    // The first look reads once more, so that nothing falls between the start and here.
    let (mut keys, mut directory, mut next_end) = (None, None, None);
    let mut waits = false;
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = registrar.now();
        registrar.policy().retire(now);
        let marked = mark(authorities.keys_file());
        if marked != keys {
            keys = marked;
            renew_keys(registrar).await;
        }
        let marked = mark(authorities.directory_file());
        if marked != directory {
            directory = marked;
            match authorities.renew_directory() {
                Ok(()) => waits = true,
                Err(fault) => tracing::error!(error = %Shown(&fault), "the directory stays as it was; correct the file"),
            }
        }
        if next_end.is_some_and(|end: At| end <= now) {
            waits = true;
        }
        if waits {
            match registrar.put_in_force().await {
                Ok(()) => (waits, next_end) = (false, authorities.next_end(now)),
                Err(fault) => tracing::error!(?fault, "what is granted stays as it was; tried again at once"),
            }
        }
    }
}

async fn address(registrar: &Registrar, refresh: Duration) {
    let authorities = registrar.authorities();
    let mut asked = Instant::now();
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let missed = authorities.missed_a_key();
        let (since, none) = (asked.elapsed(), authorities.has_no_keys());
        let due = since >= refresh || (missed && since >= ASK_DISTANCE) || (none && since >= FIRST_DISTANCE);
        if authorities.keys_file().is_none() && due {
            asked = Instant::now();
            renew_keys(registrar).await;
        }
    }
}

/// Gets the keys. Whoever came by a key that is gone has to come again.
async fn renew_keys(registrar: &Registrar) {
    match registrar.authorities().renew_keys().await {
        Ok(true) => {
            tracing::info!("a key of the issuer is gone; whoever came by a token has to show it again");
            registrar.policy().dismiss();
        }
        Ok(false) => {}
        Err(fault) => tracing::error!(error = %Shown(&fault), "the issuer's keys stay as they were"),
    }
}
