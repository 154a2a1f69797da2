//! Measures the face alone: `cargo run --release -p broker --example measure -- intake|routed|hub|idle`.
//!
//! - `intake`: 10 connections with 200 QoS 1 publishes of 100 bytes in flight, to an intake that commits at once: what the face
//!   costs a message, both sides of the sockets included.
//! - `routed`: the same to a topic that one subscriber wants.
//! - `hub`: `publish_all` of small messages with user properties to one subscriber.
//! - `idle`: resident memory of 10,000 connections that do nothing. The clients are a process of their own.
#![allow(clippy::print_stdout, reason = "a program whose output is its result")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use broker::{Broker, Client, Commit, Intake, IntakeSession, Message, Offer, Parts, Policy, Refusal, Settings};

const CONNECTIONS: usize = 10;
const WINDOW: usize = 200;
const SECONDS: u64 = 5;

#[derive(Clone, Default)]
struct Instantly(Arc<AtomicU64>);

impl Intake for Instantly {
    fn claims(&self, topic: &str) -> bool {
        topic.starts_with("op/")
    }
    fn open(&self, _client: &Client) -> Box<dyn IntakeSession> {
        Box::new(self.clone())
    }
}

impl IntakeSession for Instantly {
    fn offer(&mut self, offer: Offer<'_>) -> Result<(), Refusal> {
        self.0.fetch_add(offer.payload.len() as u64, Ordering::Relaxed);
        Ok(())
    }
    fn commit(&mut self) -> Option<Commit> {
        Some(Box::pin(std::future::ready(Ok(()))))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let what = std::env::args().nth(1).unwrap_or_default();
    if what == "clients" {
        return idle_clients(&std::env::args().nth(2).unwrap_or_default());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let settings = Settings { listen: vec!["127.0.0.1:0".parse()?], ..Settings::default() };
    let intake = Instantly::default();
    let parts = Parts {
        policy: Policy::anonymous(),
        intake: Arc::new(intake),
        feeds: None,
        clock: Arc::new(chassis::SystemClock),
        registry: chassis::Registry::new(),
    };
    let before = resident()?;
    let broker = runtime.block_on(Broker::start(settings, parts))?;
    let address = broker.addresses()[0];
    match what.as_str() {
        "intake" => published(address, "op/store/cityA/meter-0017/power", false)?,
        "routed" => published(address, "data/cityA/meter-0017/power", true)?,
        "hub" => hub(&runtime, &broker, address)?,
        "idle" => idle(&broker, address, before)?,
        other => return Err(format!("{other:?}: say intake, routed, hub or idle").into()),
    }
    Ok(())
}

fn connect(address: SocketAddr, id: &str) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut packet = vec![0x10, u8::try_from(13 + id.len()).unwrap_or(0), 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0, 0, 0];
    packet.push(u8::try_from(id.len()).unwrap_or(0));
    packet.extend_from_slice(id.as_bytes());
    stream.write_all(&packet)?;
    let mut head = [0; 2];
    stream.read_exact(&mut head)?;
    let mut rest = vec![0; usize::from(head[1])];
    stream.read_exact(&mut rest)?;
    if rest[1] != 0 {
        return Err(std::io::Error::other(format!("CONNACK {:#x}", rest[1])));
    }
    Ok(stream)
}

fn subscribe(stream: &mut TcpStream, filter: &str) -> std::io::Result<()> {
    let length = u8::try_from(filter.len()).unwrap_or(0);
    let mut packet = vec![0x82, length + 6, 0, 1, 0, 0, length];
    packet.extend_from_slice(filter.as_bytes());
    packet.push(0);
    stream.write_all(&packet)?;
    stream.read_exact(&mut [0; 6])
}

/// Seconds of processor time of one thread.
fn thread_seconds() -> std::io::Result<f64> {
    seconds_of(&std::fs::read_to_string("/proc/thread-self/stat")?)
}

fn process_seconds() -> std::io::Result<f64> {
    seconds_of(&std::fs::read_to_string("/proc/self/stat")?)
}

fn seconds_of(stat: &str) -> std::io::Result<f64> {
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: Vec<f64> = fields.skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

fn resident() -> std::io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    Ok(line.trim().trim_end_matches(" kB").parse().unwrap_or(0))
}

fn published(address: SocketAddr, topic: &str, routed: bool) -> Result<(), Box<dyn std::error::Error>> {
    let delivered = Arc::new(AtomicU64::new(0));
    if routed {
        let mut sink = connect(address, "sink")?;
        subscribe(&mut sink, topic)?;
        let delivered = delivered.clone();
        std::thread::spawn(move || drain(sink, &delivered));
    }
    let started = Instant::now();
    let process = process_seconds()?;
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|number| {
            let topic = topic.to_owned();
            std::thread::spawn(move || -> std::io::Result<(u64, f64)> { publish_for(address, number, &topic) })
        })
        .collect();
    let (mut count, mut own) = (0, 0.0);
    for client in clients {
        let (acks, seconds) = client.join().map_err(|_| "a client panicked")??;
        count += acks;
        own += seconds;
    }
    let (took, used) = (started.elapsed().as_secs_f64(), process_seconds()? - process);
    println!("{:.0} acknowledged a second", count as f64 / took);
    println!(
        "{:.0} ns of processor time a message in the broker, {:.0} ns in the clients",
        (used - own) * 1e9 / count as f64,
        own * 1e9 / count as f64
    );
    if routed {
        println!("{:.0} delivered a second", delivered.load(Ordering::Relaxed) as f64 / took);
    }
    Ok(())
}

fn publish_for(address: SocketAddr, number: usize, topic: &str) -> std::io::Result<(u64, f64)> {
    let mut stream = connect(address, &format!("source-{number}"))?;
    let length = u8::try_from(topic.len()).unwrap_or(0);
    let mut one = vec![0x32, 98, 0, length];
    one.extend_from_slice(topic.as_bytes());
    one.extend_from_slice(&[0, 1, 0]);
    one.resize(100, b'x');
    let all = one.repeat(WINDOW);
    stream.write_all(&all)?;
    let until = Instant::now() + Duration::from_secs(SECONDS);
    let mut answers = vec![0; 4 * WINDOW];
    let (mut acks, mut part) = (0, 0);
    while Instant::now() < until {
        let read = stream.read(&mut answers)?;
        let bytes = read + part;
        part = bytes % 4;
        let fresh = bytes / 4;
        acks += fresh as u64;
        stream.write_all(&all[..fresh * 100])?;
    }
    Ok((acks, thread_seconds()?))
}

/// Counts PUBLISH packets of one size below 128 bytes.
fn drain(mut stream: TcpStream, count: &AtomicU64) {
    let mut bytes = vec![0; 1 << 18];
    let (mut size, mut left) = (0, 0);
    while let Ok(read) = stream.read(&mut bytes) {
        if read == 0 {
            return;
        }
        if size == 0 {
            size = usize::from(bytes[1]) + 2;
        }
        left += read;
        count.fetch_add((left / size) as u64, Ordering::Relaxed);
        left %= size;
    }
}

fn hub(runtime: &tokio::runtime::Runtime, broker: &Broker, address: SocketAddr) -> Result<(), Box<dyn std::error::Error>> {
    let mut sink = connect(address, "sink")?;
    subscribe(&mut sink, "data/#")?;
    let delivered = Arc::new(AtomicU64::new(0));
    let counter = delivered.clone();
    std::thread::spawn(move || drain(sink, &counter));
    let hub = broker.hub();
    let topics: Vec<Arc<str>> = (0..100).map(|number| format!("data/cityA/m-{number:02}/p").into()).collect();
    let started = Instant::now();
    let process = process_seconds()?;
    let sent = runtime.block_on(runtime.spawn(async move {
        let mut sent = 0_u64;
        while started.elapsed() < Duration::from_secs(SECONDS) {
            let batch = (0..500).map(|number| {
                Message::new(topics[number % 100].clone(), "230.1 V")
                    .user_property("key", "cityA/m-01/p@9f3c.1029")
                    .user_property("at", "1700000000000000000")
                    .user_property("relay", "r1")
            });
            let batch: Vec<Message> = batch.collect();
            sent += batch.len() as u64;
            hub.publish_all(batch).await;
        }
        sent
    }))?;
    let (took, used) = (started.elapsed().as_secs_f64(), process_seconds()? - process);
    std::thread::sleep(Duration::from_secs(1));
    let (delivered, lost) = (delivered.load(Ordering::Relaxed), broker.metrics().messages_lost());
    println!(
        "{:.0} published a second, {:.0} ns of processor time each (client included)",
        sent as f64 / took,
        used * 1e9 / sent as f64
    );
    println!("{:.0} delivered a second, {lost} lost of {sent}", delivered as f64 / took);
    Ok(())
}

const IDLE: usize = 10_000;

fn idle(broker: &Broker, address: SocketAddr, before: u64) -> Result<(), Box<dyn std::error::Error>> {
    let empty = resident()?;
    let mut clients = std::process::Command::new(std::env::current_exe()?)
        .args(["clients", &address.to_string()])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::inherit())
        .spawn()?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while broker.metrics().connections() < i64::try_from(IDLE)? && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_secs(1));
    let (count, full) = (broker.metrics().connections(), resident()?);
    println!(
        "{count} connections, {before} kB before, {empty} kB without, {full} kB with: {:.2} KiB each",
        (full - empty) as f64 / count as f64
    );
    drop(clients.stdin.take());
    clients.wait()?;
    Ok(())
}

/// Opens the connections, says one publish on each, and waits for its input to end.
fn idle_clients(address: &str) -> Result<(), Box<dyn std::error::Error>> {
    let address = address.parse()?;
    let mut held = Vec::with_capacity(IDLE);
    for number in 0..IDLE {
        let mut stream = connect(address, &format!("meter-{number}"))?;
        stream.write_all(b"\x32\x0c\0\x06op/x/y\0\x01\0x")?;
        stream.read_exact(&mut [0; 4])?;
        held.push(stream);
    }
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
