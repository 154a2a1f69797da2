//! A run of publishers and subscribers, put together from a plan.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use chassis::{Clock, SystemClock};
use mio::{Poll, Waker};
use wire::At;

use crate::Error;
use crate::args::{self, Traffic};
use crate::clock::{Nanos, RunClock, nanos};
use crate::faults::Faults;
use crate::flow::Flow;
use crate::lane::{Lane, LaneSettings, Score};
use crate::latency::Latencies;
use crate::ledger::Ledger;
use crate::mqtt::{Header, Version};
use crate::pace::Pace;
use crate::payload::{FramePlan, Frames, MARK_BYTES, Raw, STAMP_BYTES, Source};
use crate::publisher::{Phases, Published, Publisher, PublisherSettings, WAKE};
use crate::report::{DeliveryReport, TrafficReport};
use crate::session::{self, Session};
use crate::subscriber::{Received, Subscribers};

/// However lively deliveries still are, nothing is waited for longer than this after the last message.
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// Where one run's payloads come from.
struct Origin {
    run: u32,
    began: At,
    start: Nanos,
}

pub(crate) fn run(plan: &Traffic) -> Result<TrafficReport, Error> {
    let clock = RunClock::start();
    let began = SystemClock.now();
    let [a, b, c, d] = random()?;
    let run = u32::from_be_bytes([a, b, c, d]);
    let poll = Poll::new().map_err(system)?;
    let flow = Arc::new(Flow::new(Waker::new(poll.registry(), WAKE).map_err(system)?));
    let mut faults = Faults::default();

    let streams = subscribe(plan, run)?;
    let seats = Subscribers::new(
        clock,
        Arc::clone(&flow),
        streams,
        plan.subscribe_to.version,
        plan.connections.into(),
        run,
        latencies()?,
    );
    let seats = seats.map_err(system)?;
    let sessions = connect(plan, run, &mut faults)?;
    let start = clock.now();
    let origin = Origin { run, began, start };
    let connections = sessions.len();
    let window =
        sessions.iter().map(|(_, session)| session.granted.receive_maximum.min(plan.window)).min().unwrap_or(plan.window);
    let mut lanes = Vec::with_capacity(connections);
    for (number, session) in sessions {
        lanes.push(lane(plan, number, session, &origin)?);
    }
    let settings = PublisherSettings {
        lead: plan.lead,
        records_a_message: plan.frames.unwrap_or(1),
        subscribers: plan.subscribers.max(1) as u64,
        paced: plan.rate > 0,
    };
    let publisher = Publisher::new(poll, clock, lanes, Arc::clone(&flow), &settings).map_err(system)?;
    let phases = Phases { warmup: plan.warmup, seconds: plan.seconds, counted: plan.messages.is_some(), drain: plan.drain };

    let (published, received) = thread::scope(|scope| {
        let subscribers = (plan.subscribers > 0).then(|| scope.spawn(|| seats.run()));
        let published = publisher.run(start, &phases, score(faults)?).map_err(system);
        if let (Some(_), Ok(published)) = (&subscribers, &published) {
            let expected = published.score.sent * settings.records_a_message * settings.subscribers;
            await_deliveries(&flow, clock, expected, plan.drain);
        }
        flow.stop();
        let received = subscribers.map(|thread| thread.join().map_err(|_| Error::Panicked)?.map_err(system)).transpose()?;
        Ok::<_, Error>((published?, received))
    })?;
    Ok(report(plan, connections, window, published, received, flow.last_arrival()))
}

fn system(source: io::Error) -> Error {
    Error::io("the event loop", source)
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|fault| Error::io("random numbers", io::Error::other(fault)))?;
    Ok(bytes)
}

fn latencies() -> Result<Latencies, Error> {
    Latencies::new().map_err(|fault| Error::io("the histogram", io::Error::other(fault)))
}

fn score(faults: Faults) -> Result<Score, Error> {
    Ok(Score {
        from: 0,
        until: Nanos::MAX,
        sent: 0,
        sent_measured: 0,
        acknowledged: 0,
        acknowledged_measured: 0,
        refused: 0,
        last_acknowledged: 0,
        latencies: latencies()?,
        faults,
    })
}

fn subscribe(plan: &Traffic, run: u32) -> Result<Vec<mio::net::TcpStream>, Error> {
    let address = plan.subscribe_to.address;
    let mut streams = Vec::with_capacity(plan.subscribers);
    for number in 0..plan.subscribers {
        let opened = session::open(&plan.subscribe_to, &format!("load-{run:08x}-s{number}"), None);
        let subscribed = opened.and_then(|mut session| {
            session.subscribe(plan.subscribe_to.version, &plan.filter, plan.subscribe_qos)?;
            Ok(session)
        });
        let session =
            subscribed.map_err(|refusal| Error::NoConnection { address: address.to_string(), reason: refusal.to_string() })?;
        streams.push(session.into_nonblocking().map_err(system)?);
    }
    Ok(streams)
}

/// Opens the publishing connections; some may be refused, but not all.
fn connect(plan: &Traffic, run: u32, faults: &mut Faults) -> Result<Vec<(u16, Session)>, Error> {
    let mut sessions = Vec::with_capacity(plan.connections.into());
    let mut first_refusal = None;
    for number in 0..plan.connections {
        match session::open(plan.endpoint(number), &format!("load-{run:08x}-p{number}"), None) {
            Ok(session) => sessions.push((number, session)),
            Err(refusal) => {
                faults.count(refusal.to_string());
                first_refusal.get_or_insert(refusal);
                if sessions.is_empty() {
                    break;
                }
            }
        }
    }
    match first_refusal {
        Some(refusal) if sessions.is_empty() => {
            Err(Error::NoConnection { address: addresses(plan), reason: refusal.to_string() })
        }
        _ => Ok(sessions),
    }
}

fn addresses(plan: &Traffic) -> String {
    plan.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect::<Vec<_>>().join(",")
}

fn lane(plan: &Traffic, number: u16, session: Session, origin: &Origin) -> Result<Lane, Error> {
    let version = plan.endpoint(number).version;
    let granted = session.granted;
    let mut source = source(plan, version, number, origin)?;
    let mut sample = Vec::new();
    source.put(&mut sample, 1, 0, 0);
    if sample.len() > granted.packet_bytes_max as usize {
        let reason = format!("gives packets of {} bytes, and the broker takes {}", sample.len(), granted.packet_bytes_max);
        return Err(Error::option("size", &reason));
    }
    let lanes = u64::from(plan.connections);
    let settings = LaneSettings {
        number,
        version,
        qos: plan.qos,
        window: plan.window.min(granted.receive_maximum),
        quota: plan.messages.map(|messages| messages / lanes + u64::from(u64::from(number) < messages % lanes)),
        pace: Pace::new(plan.rate, origin.start, number, plan.connections),
    };
    Ok(Lane::new(session.into_nonblocking().map_err(system)?, settings, source))
}

fn source(plan: &Traffic, version: Version, connection: u16, origin: &Origin) -> Result<Source, Error> {
    let number = usize::from(connection);
    let Some(records) = plan.frames else {
        let header = Header::new(version, &args::topic_of(&plan.topic, number), plan.qos);
        return Ok(Source::Raw(Raw::new(&header, plan.size, origin.run, connection)));
    };
    let (operation, series) = args::series(&plan.topic, number)?;
    Ok(Source::Frames(Box::new(Frames::new(FramePlan {
        version,
        qos: plan.qos,
        series,
        operation,
        records,
        size: plan.size,
        began: origin.began,
        run: origin.run,
        connection,
        epoch: u64::from_be_bytes(random()?),
        secret: plan.announced.then(random).transpose()?,
    }))))
}

/// Waits until everything has arrived, or nothing has for `quiet`.
fn await_deliveries(flow: &Flow, clock: RunClock, expected: u64, quiet: Duration) {
    let began = clock.now();
    let end = began + nanos(DRAIN_MAX);
    loop {
        let now = clock.now();
        let silent = now.saturating_sub(flow.last_arrival().max(began));
        if flow.delivered() >= expected || silent >= nanos(quiet) || now >= end {
            return;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn report(
    plan: &Traffic,
    connections: usize,
    window: u16,
    published: Published,
    received: Option<Received>,
    last_arrival: Nanos,
) -> TrafficReport {
    let Published { mut score, measured, sent, unacknowledged } = published;
    let records = plan.frames.unwrap_or(1);
    let seconds = measured.as_secs_f64();
    let per_second = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
    let delivery = received.map(|received| {
        let lost = |ledgers: &Vec<_>| lost(ledgers, &sent, records);
        let numbered = plan.size >= MARK_BYTES;
        let span = if plan.messages.is_some() {
            Duration::from_nanos(last_arrival.saturating_sub(score.from)).as_secs_f64()
        } else {
            seconds
        };
        score.faults.merge(received.faults);
        let ledgers = received.ledgers.iter().flatten();
        DeliveryReport {
            subscribers: plan.subscribers,
            received: received.all,
            received_per_second: if span > 0.0 { received.measured as f64 / span } else { 0.0 },
            end_to_end_us: (plan.size >= STAMP_BYTES).then(|| received.latencies.percentiles()).flatten(),
            numbered,
            lost: if numbered { received.ledgers.iter().map(lost).sum() } else { 0 },
            duplicate: ledgers.clone().map(Ledger::duplicate).sum(),
            reordered: ledgers.map(Ledger::reordered).sum(),
            foreign: received.foreign,
        }
    });
    TrafficReport {
        address: addresses(plan),
        protocol: if plan.endpoint(0).version == Version::V5 { "5.0" } else { "3.1.1" },
        connections,
        window,
        qos: plan.qos,
        size: plan.size,
        records_per_message: records,
        rate_asked: plan.rate,
        seconds,
        sent: score.sent,
        acknowledged: score.acknowledged,
        refused: score.refused,
        unacknowledged: if plan.qos == 0 { 0 } else { unacknowledged },
        sent_per_second: per_second(score.sent_measured),
        messages_per_second: per_second(score.acknowledged_measured),
        records_per_second: per_second(score.acknowledged_measured * records),
        puback_us: score.latencies.percentiles(),
        delivery,
        errors: score.faults.into_counts(),
    }
}

/// What one subscriber never got. Publishers that were refused sent nothing, so their ledgers owe nothing.
fn lost(ledgers: &[Ledger], sent: &[(u16, u64)], records: u64) -> u64 {
    let owed = |(connection, messages): &(u16, u64)| {
        ledgers.get(usize::from(*connection)).map_or(0, |ledger| ledger.lost(messages * records))
    };
    sent.iter().map(owed).sum()
}
