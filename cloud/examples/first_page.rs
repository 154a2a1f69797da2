//! How long the first page of one series' day takes among many records, over HTTP, as `forebay query` asks.
//!
//! `cargo run --release -p cloud --example first_page [RECORDS] [FOLDER]` (10,000,000 records in target/ by default)
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use archive::{Append, Lane};
use chassis::{Registry, Signals, SystemClock, Units};
use cloud::{Cloud, Config, Page, Parts};
use tokio::sync::mpsc;
use wire::{Operation, RunBuilder};

const SERIES: u64 = 100;
const A_DAY: u64 = 1_000;
const DAY: i64 = 86_400_000_000_000;
const QUESTIONS: u64 = 200;
/// What issue and README promise.
const TARGET: Duration = Duration::from_millis(10);

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let records: u64 = arguments.next().map_or(10_000_000, |text| text.parse().unwrap());
    let folder = tempfile::tempdir_in(arguments.next().unwrap_or_else(|| "target".to_owned())).unwrap();
    let days = (records / SERIES / A_DAY).max(1);
    let local = "127.0.0.1:0".parse().unwrap();
    let config = Config::dev(local, local, folder.path().join("data"));
    let cloud = Cloud::start(config, Parts { clock: Arc::new(SystemClock), registry: Registry::new() }).await.unwrap();
    let (http, archive) = (cloud.http(), cloud.archive().clone());
    let mut units = Units::new();
    cloud.units(&mut units);
    let (signal, signals) = mpsc::channel(1);
    let running = tokio::spawn(units.run_until(Signals::from_channel(signals)));

    let filled = Instant::now();
    let filling = archive.clone();
    tokio::task::spawn_blocking(move || fill(&filling, days)).await.unwrap();
    let held = archive.stats().chunks;
    println!(
        "{} records of {SERIES} series in {:.0} s, {:.2} bytes a record in chunks",
        held.records,
        filled.elapsed().as_secs_f64(),
        held.bytes as f64 / held.records as f64
    );
    let client = reqwest::Client::new();
    let mut met = true;
    for limit in [100, 1_000] {
        let mut times = Vec::new();
        for question in 0..QUESTIONS {
            // Steps that share no factor with the counts walk over all of them in no order that a cache could like.
            let (meter, day) = (question * 37 % SERIES, (question * 61 % days) as i64);
            let query = format!("series={}&from={}&to={}&limit={limit}", series(meter), day * DAY, (day + 1) * DAY);
            let asked = Instant::now();
            let answer = client.get(format!("http://{http}/api/v1/records?{query}")).send().await.unwrap();
            let bytes = answer.bytes().await.unwrap();
            times.push(asked.elapsed());
            let page: Page = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(page.records.len(), limit);
        }
        // The first one opens the connection.
        times.remove(0);
        times.sort_unstable();
        let at = |share: usize| times[times.len() * share / 100];
        met &= at(99) < TARGET;
        println!("first page of {limit:<5} p50 {:>8.2?}  p99 {:>8.2?}  max {:>8.2?}", at(50), at(99), times[times.len() - 1]);
    }
    println!("p99 below {TARGET:?}: {}", if met { "met" } else { "missed" });
    signal.send(()).await.unwrap();
    running.await.unwrap().unwrap();
}

fn series(meter: u64) -> String {
    format!("cityA/meter-{meter}/power/active")
}

/// A number that nothing compresses (the finisher of splitmix64).
fn noise(seed: i64) -> u64 {
    let mut mixed = seed.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 27)
}

fn fill(archive: &archive::Archive, days: u64) {
    for day in 0..days as i64 {
        for meter in 0..SERIES {
            let mut run = RunBuilder::new(series(meter).parse().unwrap(), Operation::Store);
            for index in 0..A_DAY as i64 {
                let load = noise(meter as i64 * 1_000_003 + day * A_DAY as i64 + index) % 997;
                run.push(day * DAY + index * (DAY / A_DAY as i64), format!("0.{load:03}").as_bytes()).unwrap();
            }
            archive.append_blocking(Append::Raw { lane: Lane::Store, runs: vec![run] }).unwrap().wait().unwrap();
        }
    }
    archive.close_now().unwrap();
}
