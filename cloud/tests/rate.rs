//! How fast live delivery is. Measurements, not judged: `cargo test --release -p cloud --test rate -- --ignored --nocapture`.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod town;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use town::{Frame, Town, dev, folder};

/// A subscriber that only counts: CONNECT, SUBSCRIBE to everything with QoS 0, then the lengths of packets.
struct Counter {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
}

impl Counter {
    async fn connect(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(b"\x10\x14\0\x04MQTT\x05\x02\0\0\0\0\x07counter").await.unwrap();
        stream.write_all(b"\x82\x0c\0\x01\0\0\x06data/#\0").await.unwrap();
        let mut counter = Self { stream, buffer: vec![0; 1 << 20], filled: 0 };
        let mut answers = Vec::new();
        while answers.len() < 2 {
            answers.extend(counter.packets().await);
        }
        assert_eq!(answers, [0x20, 0x90]);
        counter
    }

    /// First bytes of the packets that one read brought.
    async fn packets(&mut self) -> Vec<u8> {
        let mut packets = Vec::new();
        while packets.is_empty() {
            let read = self.stream.read(&mut self.buffer[self.filled..]).await.unwrap();
            assert_ne!(read, 0, "the cloud closed the connection");
            self.filled += read;
            let mut start = 0;
            while let Some(length) = packet_length(&self.buffer[start..self.filled]) {
                packets.push(self.buffer[start]);
                start += length;
            }
            self.buffer.copy_within(start..self.filled, 0);
            self.filled -= start;
        }
        packets
    }
}

/// Length of the packet at the start of `bytes`, if it is there as a whole.
fn packet_length(bytes: &[u8]) -> Option<usize> {
    let (mut rest, mut header) = (0, 1);
    loop {
        let byte = usize::from(*bytes.get(header)?);
        rest |= (byte & 0x7f) << (7 * (header - 1));
        header += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    (bytes.len() >= header + rest).then_some(header + rest)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn records_a_second_to_one_subscriber() {
    const FRAMES: u64 = 1_000;
    const RECORDS: u64 = 1_000;
    const WINDOW: usize = 8;
    let (_dir, path) = folder();
    let town = Town::start(dev(&path)).await;
    let mut counter = Counter::connect(town.mqtt).await;
    let relay = town.client("relay-1").await;
    let payload = "x".repeat(100);
    let payloads: Vec<&str> = (0..RECORDS / 10).map(|_| payload.as_str()).collect();
    let frames: Vec<Vec<u8>> = (0..FRAMES)
        .map(|number| {
            let series = (0..10).map(|meter| format!("cityA/meter-{meter}/power"));
            let frame =
                series.fold(Frame::new(number + 1), |frame, series| frame.run(&series, number * RECORDS / 10 + 1, &payloads));
            frame.encode("relay-1")
        })
        .collect();
    let start = Instant::now();
    let sending = tokio::spawn(async move {
        let mut tickets = std::collections::VecDeque::new();
        for frame in frames {
            tickets.push_back(relay.link.enqueue("up/relay-1/frames", frame).await.unwrap());
            if tickets.len() >= WINDOW {
                tickets.pop_front().unwrap().await.unwrap();
            }
        }
        for ticket in tickets {
            ticket.await.unwrap();
        }
        Instant::now()
    });
    let mut received = 0;
    while received < FRAMES * RECORDS {
        match tokio::time::timeout(Duration::from_secs(5), counter.packets()).await {
            Ok(packets) => received += packets.len() as u64,
            Err(_) => break,
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let durable = (sending.await.unwrap() - start).as_secs_f64();
    let rate = |seconds: f64| (FRAMES * RECORDS) as f64 / seconds;
    eprintln!("durable {:.0}/s, delivered {received} at {:.0}/s", rate(durable), rate(seconds));
    eprintln!("dropped before the broker: {}", town.counter("cloud_live_records_dropped_total"));
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn latency_at_5000_records_a_second() {
    const RECORDS: u64 = 15_000;
    let (_dir, path) = folder();
    let town = Town::start(dev(&path)).await;
    let mut counter = Counter::connect(town.mqtt).await;
    let relay = town.client("relay-1").await;
    let (sent, mut times) = tokio::sync::mpsc::channel(RECORDS as usize);
    let sending = tokio::spawn(async move {
        let mut tickets = Vec::new();
        let start = tokio::time::Instant::now();
        for number in 1..=RECORDS {
            if number % 5 == 0 {
                tokio::time::sleep_until(start + Duration::from_micros(200) * number as u32).await;
            }
            let frame = Frame::new(number).run("cityA/meter-1/power", number, &["230.1"]).encode("relay-1");
            sent.send(Instant::now()).await.unwrap();
            tickets.push(relay.link.enqueue("up/relay-1/frames", frame).await.unwrap());
        }
        for ticket in tickets {
            ticket.await.unwrap();
        }
    });
    let mut latencies = Vec::new();
    while (latencies.len() as u64) < RECORDS {
        for _ in counter.packets().await {
            latencies.push(times.recv().await.unwrap().elapsed());
        }
    }
    sending.await.unwrap();
    latencies.sort();
    let at = |share: f64| latencies[(latencies.len() as f64 * share) as usize];
    eprintln!("p50 {:?}, p90 {:?}, p99 {:?}", at(0.5), at(0.9), at(0.99));
    town.stop().await;
}
