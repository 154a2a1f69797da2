//! The subscribing loop: counts, dates and numbers what arrives.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::clock::{Nanos, RunClock, nanos};
use crate::faults::Faults;
use crate::flow::Flow;
use crate::inbox::{Arrival, Inbox};
use crate::lane::Lost;
use crate::latency::Latencies;
use crate::ledger::Ledger;
use crate::mqtt::{self, Version};
use crate::payload::Mark;
use crate::session::PING_EVERY;

const NAP: Duration = Duration::from_millis(10);
/// Bounds the largest packet that a subscriber takes.
const INBOX_BYTES: usize = 2 * 1024 * 1024;

/// All subscribers of a run, on one thread.
pub(crate) struct Subscribers {
    poll: Poll,
    clock: RunClock,
    flow: Arc<Flow>,
    seats: Vec<Seat>,
    tally: Received,
    run: u32,
}

struct Seat {
    stream: TcpStream,
    version: Version,
    inbox: Inbox,
    acks: Vec<u8>,
    ledgers: Vec<Ledger>,
    open: bool,
}

/// What arrived.
pub(crate) struct Received {
    pub(crate) all: u64,
    pub(crate) measured: u64,
    /// Messages that are not of this run.
    pub(crate) foreign: u64,
    pub(crate) latencies: Latencies,
    pub(crate) faults: Faults,
    /// By subscriber and publisher.
    pub(crate) ledgers: Vec<Vec<Ledger>>,
}

impl Subscribers {
    pub(crate) fn new(
        clock: RunClock,
        flow: Arc<Flow>,
        streams: Vec<TcpStream>,
        version: Version,
        publishers: usize,
        run: u32,
        latencies: Latencies,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut seats = Vec::with_capacity(streams.len());
        for (index, mut stream) in streams.into_iter().enumerate() {
            poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
            let ledgers = (0..publishers).map(|_| Ledger::default()).collect();
            let inbox = Inbox::new(INBOX_BYTES);
            seats.push(Seat { stream, version, inbox, acks: Vec::new(), ledgers, open: true });
        }
        let tally = Received { all: 0, measured: 0, foreign: 0, latencies, faults: Faults::default(), ledgers: Vec::new() };
        Ok(Self { poll, clock, flow, seats, tally, run })
    }

    /// Receives until the flow is stopped.
    pub(crate) fn run(mut self) -> io::Result<Received> {
        let mut events = Events::with_capacity(256);
        let mut next_ping = self.clock.now() + nanos(PING_EVERY);
        while !self.flow.stopped() {
            match self.poll.poll(&mut events, Some(NAP)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                outcome => outcome?,
            }
            for event in &events {
                let Some(seat) = self.seats.get_mut(event.token().0).filter(|seat| seat.open) else {
                    continue;
                };
                let outcome = if event.is_readable() {
                    seat.receive(self.clock, &self.flow, &mut self.tally, self.run)
                } else {
                    seat.flush()
                };
                if let Err(lost) = outcome {
                    seat.open = false;
                    self.tally.faults.count(format!("subscriber: {lost}"));
                }
            }
            let now = self.clock.now();
            if now >= next_ping {
                next_ping = now + nanos(PING_EVERY);
                for seat in self.seats.iter_mut().filter(|seat| seat.open) {
                    seat.acks.extend_from_slice(&mqtt::PINGREQ);
                    // A broken connection shows at its next event.
                    let _ = seat.flush();
                }
            }
        }
        for seat in &mut self.seats {
            seat.acks.extend_from_slice(&mqtt::GOODBYE);
            let _ = seat.flush();
        }
        self.tally.ledgers = self.seats.into_iter().map(|seat| seat.ledgers).collect();
        Ok(self.tally)
    }
}

impl Seat {
    fn receive(&mut self, clock: RunClock, flow: &Flow, tally: &mut Received, run: u32) -> Result<(), Lost> {
        loop {
            let drained = match self.inbox.read(&mut self.stream)? {
                Arrival::Nothing => break,
                Arrival::Closed => return Err(Lost::Closed),
                Arrival::Bytes { drained } => drained,
            };
            let now = clock.now();
            let (from, until) = flow.measured();
            let mut count = 0;
            while let Some(packet) = self.inbox.next()? {
                if mqtt::is_publish(packet.first) {
                    let message = mqtt::incoming(self.version, packet)?;
                    if let Some(id) = message.id {
                        mqtt::put_puback(&mut self.acks, id);
                    }
                    match place(message.payload, run, &mut self.ledgers) {
                        Some(at) => {
                            count += 1;
                            if at >= from && at != 0 {
                                tally.latencies.record(now.saturating_sub(at));
                            }
                        }
                        None => tally.foreign += 1,
                    }
                } else if packet.first == mqtt::DISCONNECT {
                    let code = packet.body.first().copied().unwrap_or(0);
                    return Err(Lost::Disconnect(mqtt::reason(self.version, code), code));
                } else if packet.first != mqtt::PINGRESP {
                    return Err(mqtt::Malformed("packet for a subscriber").into());
                }
            }
            tally.all += count;
            if now >= from && now < until {
                tally.measured += count;
            }
            flow.deliver(count, now);
            if drained {
                break;
            }
            self.flush()?;
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), Lost> {
        let mut written = 0;
        while written < self.acks.len() {
            match self.stream.write(&self.acks[written..]) {
                Ok(0) => return Err(Lost::Closed),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.acks.drain(..written);
        Ok(())
    }
}

/// Enters a message into its ledger; the answer is its send time (0 when it carries none), `None` for a foreign one.
fn place(payload: &[u8], run: u32, ledgers: &mut [Ledger]) -> Option<Nanos> {
    match Mark::read(payload) {
        Some(mark) if mark.run == run => {
            ledgers.get_mut(usize::from(mark.connection))?.got(mark.number);
            Some(mark.at)
        }
        Some(_) => None,
        None => Some(Mark::stamp(payload).unwrap_or(0)),
    }
}
