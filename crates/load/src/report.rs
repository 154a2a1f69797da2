//! What a run found out, for people and for programs.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::latency::Percentiles;

/// The outcome of one run; as JSON an object with its `type`.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Report {
    /// Messages were published.
    Traffic(Box<TrafficReport>),
    /// Connections were held.
    Idle(IdleReport),
    /// The disk was timed.
    Disk(DiskReport),
}

/// What publishing found. Latencies are in microseconds.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct TrafficReport {
    /// The broker.
    pub address: String,
    /// `3.1.1` or `5.0`.
    pub protocol: &'static str,
    /// Publishing connections that were opened.
    pub connections: usize,
    /// Messages in flight per connection: what was asked, or the receive maximum of the broker if that is smaller.
    pub window: u16,
    /// QoS of the publishes.
    pub qos: u8,
    /// Payload bytes of a reading.
    pub size: usize,
    /// Records in one message.
    pub records_per_message: u64,
    /// The timetable in messages a second; 0 = none.
    pub rate_asked: u64,
    /// The measured stretch of time.
    pub seconds: f64,
    /// Messages sent, warm-up included.
    pub sent: u64,
    /// Messages acknowledged with success, warm-up included.
    pub acknowledged: u64,
    /// Messages refused with a reason code.
    pub refused: u64,
    /// Messages still without an answer at the end.
    pub unacknowledged: u64,
    /// Messages sent a second, in the measured time.
    pub sent_per_second: f64,
    /// Messages acknowledged a second, in the measured time.
    pub messages_per_second: f64,
    /// Records acknowledged a second, in the measured time.
    pub records_per_second: f64,
    /// From sending (on a timetable: from when it was due) to PUBACK.
    pub puback_us: Option<Percentiles>,
    /// What the subscribers got, if there were any.
    pub delivery: Option<DeliveryReport>,
    /// What went wrong, counted by name.
    pub errors: BTreeMap<String, u64>,
}

/// What subscribers got. With several subscribers each one's share is counted.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct DeliveryReport {
    /// Subscribing connections.
    pub subscribers: usize,
    /// Records received by all, warm-up included.
    pub received: u64,
    /// Records received a second by all, in the measured time.
    pub received_per_second: f64,
    /// From sending (on a timetable: from when it was due) to arrival at the subscriber.
    pub end_to_end_us: Option<Percentiles>,
    /// Whether the payloads were long enough to be numbered, so that the next three mean something.
    pub numbered: bool,
    /// Records sent that never came.
    pub lost: u64,
    /// Records that came again.
    pub duplicate: u64,
    /// Records that came behind a later one of the same connection.
    pub reordered: u64,
    /// Messages that were not of this run.
    pub foreign: u64,
}

/// What idle connections cost.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct IdleReport {
    /// Connections asked for.
    pub asked: usize,
    /// Connections that got a CONNACK.
    pub connected: usize,
    /// Connections that the broker had not closed at the end.
    pub still_connected: usize,
    /// How long opening took.
    pub opening_seconds: f64,
    /// Resident memory of the process before.
    pub resident_bytes_before: Option<u64>,
    /// Resident memory of the process with all connections.
    pub resident_bytes_after: Option<u64>,
    /// Growth over connections.
    pub resident_bytes_per_connection: Option<f64>,
    /// What went wrong, counted by name.
    pub errors: BTreeMap<String, u64>,
}

/// What a 4 KiB write and `fdatasync` take, in microseconds.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct DiskReport {
    /// Inside a file that has its size already.
    pub in_place: Option<Percentiles>,
    /// At the end of a file, which grows.
    pub appended: Option<Percentiles>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Traffic(report) => report.fmt(f),
            Self::Idle(report) => report.fmt(f),
            Self::Disk(report) => report.fmt(f),
        }
    }
}

impl fmt::Display for TrafficReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} connections to {} (MQTT {}), {} in flight each, QoS {}, {} bytes x {} a message, {:.1} s",
            self.connections,
            self.address,
            self.protocol,
            self.window,
            self.qos,
            self.size,
            self.records_per_message,
            self.seconds
        )?;
        writeln!(
            f,
            "sent           {:>12}   acknowledged {}, refused {}, unanswered {}",
            self.sent, self.acknowledged, self.refused, self.unacknowledged
        )?;
        if self.qos == 0 {
            writeln!(f, "sent           {:>12.0} messages/s", self.sent_per_second)?;
        } else {
            writeln!(f, "acknowledged   {:>12.0} messages/s", self.messages_per_second)?;
            writeln!(f, "               {:>12.0} records/s", self.records_per_second)?;
        }
        row(f, "PUBACK", self.puback_us.as_ref())?;
        if let Some(delivery) = &self.delivery {
            writeln!(
                f,
                "received       {:>12.0} records/s at {} subscribers",
                delivery.received_per_second, delivery.subscribers
            )?;
            row(f, "end to end", delivery.end_to_end_us.as_ref())?;
            if delivery.numbered {
                writeln!(
                    f,
                    "lost           {:>12}   duplicate {}, reordered {}, foreign {}",
                    delivery.lost, delivery.duplicate, delivery.reordered, delivery.foreign
                )?;
            }
        }
        errors(f, &self.errors)
    }
}

impl fmt::Display for IdleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} of {} idle connections in {:.1} s, {} still open",
            self.connected, self.asked, self.opening_seconds, self.still_connected
        )?;
        if let Some(bytes) = self.resident_bytes_per_connection {
            writeln!(f, "resident       {:>12.1} KiB a connection", bytes / 1024.0)?;
        }
        errors(f, &self.errors)
    }
}

impl fmt::Display for DiskReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "4 KiB write and fdatasync")?;
        row(f, "in place", self.in_place.as_ref())?;
        row(f, "appended", self.appended.as_ref())
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, found: Option<&Percentiles>) -> fmt::Result {
    let Some(found) = found else { return Ok(()) };
    writeln!(
        f,
        "{name:<14} {:>12.0} us p50   p90 {:.0}, p99 {:.0}, p99.9 {:.0}, max {:.0}",
        found.p50, found.p90, found.p99, found.p999, found.max
    )
}

fn errors(f: &mut fmt::Formatter<'_>, errors: &BTreeMap<String, u64>) -> fmt::Result {
    errors.iter().try_for_each(|(name, count)| writeln!(f, "error          {count:>12}   {name}"))
}
