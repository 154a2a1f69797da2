//! How many QoS 1 publishes a second one link reaches against a peer that only acknowledges:
//! `cargo run --release -p link --example publish_rate [payload bytes] [window] [seconds]`.
#![allow(clippy::print_stdout, reason = "its output is its purpose")]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use link::{Link, LinkConfig, Ticket};
use testkit::{Peer, Script};

fn argument(place: usize, otherwise: u64) -> u64 {
    let given = std::env::args().nth(place);
    given.and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[tokio::main]
async fn main() -> Result<(), link::PublishError> {
    let payload = Bytes::from(vec![7; argument(1, 1_000) as usize]);
    let window = argument(2, 200) as u16;
    let time = Duration::from_secs(argument(3, 3));
    // A peer on a thread of its own, as it is in another process.
    let (say, hear) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        runtime.block_on(async {
            let script = Script { remembers: false, ..Script::default() };
            let peer = Peer::start(script).await;
            let _ = say.send(peer.address());
            std::future::pending::<()>().await;
        });
    });
    let Ok(address) = hear.recv() else {
        return Err(link::PublishError::Closed);
    };
    let (link, _incoming) =
        Link::start(LinkConfig { inflight_max: window, ..LinkConfig::new(address.ip().to_string(), address.port(), "rate") });
    link.publish("up/relay/frames", payload.clone()).await?;

    let started = Instant::now();
    let mut tickets: VecDeque<Ticket> = VecDeque::new();
    let mut acknowledged = 0u64;
    while started.elapsed() < time {
        tickets.push_back(link.enqueue("up/relay/frames", payload.clone()).await?);
        if tickets.len() >= usize::from(window)
            && let Some(oldest) = tickets.pop_front()
        {
            oldest.await?;
            acknowledged += 1;
        }
    }
    for ticket in tickets {
        ticket.await?;
        acknowledged += 1;
    }
    let rate = acknowledged as f64 / started.elapsed().as_secs_f64();
    println!("{rate:.0} publishes/s ({} bytes, window {window})", payload.len());
    Ok(())
}
