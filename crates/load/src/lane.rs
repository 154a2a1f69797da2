//! One publishing connection: a window of packet ids, a buffer to write, acknowledgements read in bulk.

use std::io::{self, Write};

use mio::net::TcpStream;

use crate::clock::{Nanos, RunClock};
use crate::faults::Faults;
use crate::inbox::{Arrival, Inbox};
use crate::latency::Latencies;
use crate::mqtt::{self, Version};
use crate::pace::Pace;
use crate::payload::Source;

/// Bytes handed to one write.
const CHUNK_BYTES: usize = 64 * 1024;
/// Chunks that one connection may write before others get their turn.
const CHUNKS_A_TURN: usize = 4;

/// What all connections of a run count together.
pub(crate) struct Score {
    /// Acknowledgements from here on are measured.
    pub(crate) from: Nanos,
    /// Acknowledgements from here on no longer count into the rate.
    pub(crate) until: Nanos,
    pub(crate) sent: u64,
    pub(crate) sent_measured: u64,
    pub(crate) acknowledged: u64,
    pub(crate) acknowledged_measured: u64,
    pub(crate) refused: u64,
    pub(crate) last_acknowledged: Nanos,
    pub(crate) latencies: Latencies,
    pub(crate) faults: Faults,
}

/// How a connection sends.
pub(crate) struct LaneSettings {
    pub(crate) number: u16,
    pub(crate) version: Version,
    pub(crate) qos: u8,
    pub(crate) window: u16,
    /// How many messages in all; `None` = until told to stop.
    pub(crate) quota: Option<u64>,
    pub(crate) pace: Option<Pace>,
}

/// Why a connection ended before its time; the name under which it is counted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    #[error("connection closed by the broker")]
    Closed,
    #[error("connection closed by the broker: {0} (0x{1:02x})")]
    Disconnect(&'static str, u8),
    #[error("connection lost: {}", .0.kind())]
    Io(#[from] io::Error),
    #[error("{0}")]
    Nonsense(#[from] mqtt::Malformed),
    #[error("PUBACK for a message that is not in flight")]
    UnknownId,
}

pub(crate) struct Lane {
    stream: TcpStream,
    inbox: Inbox,
    out: Vec<u8>,
    written: usize,
    settings: LaneSettings,
    source: Source,
    /// Packet ids that are free, the last one next.
    free: Vec<u16>,
    /// By packet id: when it was sent (or should have been); 0 when it is free.
    sent_at: Vec<Nanos>,
    next: u64,
    open: bool,
}

impl Lane {
    pub(crate) fn new(stream: TcpStream, settings: LaneSettings, source: Source) -> Self {
        let window = usize::from(settings.window);
        Self {
            stream,
            // An acknowledgement has at most a handful of bytes, unless the broker explains itself.
            inbox: Inbox::new((window * 8).clamp(4 * 1024, 64 * 1024)),
            out: Vec::with_capacity(2 * CHUNK_BYTES),
            written: 0,
            source,
            free: (1..=settings.window).rev().collect(),
            sent_at: vec![0; window + 1],
            settings,
            next: 0,
            open: true,
        }
    }

    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    pub(crate) fn number(&self) -> u16 {
        self.settings.number
    }

    /// How many messages were put on their way.
    pub(crate) fn sent(&self) -> u64 {
        self.next
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    pub(crate) fn close(&mut self) {
        self.open = false;
    }

    /// Messages without an acknowledgement, or at QoS 0 whether bytes are left to write.
    pub(crate) fn outstanding(&self) -> usize {
        match self.settings.qos {
            0 => usize::from(self.written < self.out.len()),
            _ => usize::from(self.settings.window) - self.free.len(),
        }
    }

    pub(crate) fn done(&self) -> bool {
        !self.open || self.settings.quota.is_some_and(|quota| self.next >= quota)
    }

    fn may_send(&self) -> bool {
        (self.settings.qos == 0 || !self.free.is_empty()) && !self.done()
    }

    /// When the next message is due, if only time is in its way.
    pub(crate) fn due(&self) -> Option<Nanos> {
        let pace = self.settings.pace?;
        (self.may_send() && self.out.is_empty()).then(|| pace.due(self.next))
    }

    /// Sends what window, timetable and `room` (in messages) allow. True when there was more to send than one turn takes.
    pub(crate) fn send(&mut self, clock: RunClock, score: &mut Score, room: &mut u64) -> Result<bool, Lost> {
        if self.out.is_empty() && !self.may_send() {
            return Ok(false);
        }
        for _ in 0..CHUNKS_A_TURN {
            if !self.flush()? {
                return Ok(false);
            }
            self.fill(clock.now(), score, room);
            if self.out.is_empty() {
                return Ok(false);
            }
        }
        self.flush()
    }

    fn fill(&mut self, now: Nanos, score: &mut Score, room: &mut u64) {
        let measured = u64::from(now >= score.from && now < score.until);
        while self.out.len() < CHUNK_BYTES && *room > 0 && self.may_send() {
            let at = match self.settings.pace.map(|pace| pace.due(self.next)) {
                Some(due) if due > now => return,
                Some(due) => due,
                None => now,
            };
            let id = match self.settings.qos {
                0 => 0,
                _ => match self.free.pop() {
                    Some(id) => id,
                    None => return,
                },
            };
            self.sent_at[usize::from(id)] = at.max(1);
            self.source.put(&mut self.out, id, self.next, at);
            self.next += 1;
            *room -= 1;
            score.sent += 1;
            score.sent_measured += measured;
        }
    }

    /// Writes what is left. True when nothing is.
    fn flush(&mut self) -> Result<bool, Lost> {
        while self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(0) => return Err(Lost::Closed),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(true)
    }

    /// Says PINGREQ, behind what is waiting.
    pub(crate) fn ping(&mut self) -> Result<(), Lost> {
        self.out.extend_from_slice(&mqtt::PINGREQ);
        self.flush().map(drop)
    }

    /// Says DISCONNECT if the socket takes it.
    pub(crate) fn goodbye(&mut self) {
        self.out.extend_from_slice(&mqtt::GOODBYE);
        // Only a courtesy: the broker sees the end of the connection anyway.
        let _ = self.flush();
    }

    /// Reads everything that has come.
    pub(crate) fn receive(&mut self, clock: RunClock, score: &mut Score) -> Result<(), Lost> {
        loop {
            let drained = match self.inbox.read(&mut self.stream)? {
                Arrival::Nothing => return Ok(()),
                Arrival::Closed => return Err(Lost::Closed),
                Arrival::Bytes { drained } => drained,
            };
            let now = clock.now();
            let counts = now >= score.from && now < score.until;
            while let Some(packet) = self.inbox.next()? {
                match packet.first {
                    mqtt::PUBACK => {
                        let (id, code) = mqtt::puback(packet.body)?;
                        let sent_at = self.sent_at.get_mut(usize::from(id)).ok_or(Lost::UnknownId)?;
                        let at = std::mem::take(sent_at);
                        if at == 0 {
                            return Err(Lost::UnknownId);
                        }
                        self.free.push(id);
                        if code >= 0x80 {
                            score.refused += 1;
                            let name = mqtt::reason(self.settings.version, code);
                            score.faults.count(format!("publish refused: {name} (0x{code:02x})"));
                            continue;
                        }
                        score.acknowledged += 1;
                        score.acknowledged_measured += u64::from(counts);
                        score.last_acknowledged = now;
                        if at >= score.from {
                            score.latencies.record(now.saturating_sub(at));
                        }
                    }
                    mqtt::DISCONNECT => {
                        let code = packet.body.first().copied().unwrap_or(0);
                        return Err(Lost::Disconnect(mqtt::reason(self.settings.version, code), code));
                    }
                    mqtt::PINGRESP => {}
                    _ => return Err(mqtt::Malformed("packet for a publisher").into()),
                }
            }
            if drained {
                return Ok(());
            }
        }
    }
}
