//! One client's connection, from CONNACK to the end: a task of its own.
//!
//! The task does one thing at a time: it works off what was read, hands what came of it to the intake and the router, and then waits for
//! whatever is first: a commit, a message for the client, the socket, an order, the timer. What the client sent is read on only
//! while the acknowledgements that wait are within their limits, so a slow store slows its clients and nothing else.

mod acks;
mod feeding;
mod inbound;
mod io;
mod outbound;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};
use wire::grants::Subject;

use crate::codec::connect::{Connect, Will};
use crate::codec::{Fault, write};
use crate::core::{Core, Order, Seat};
use crate::intake::{Client, IntakeSession};
use crate::metrics::Reason;
use crate::router::RouterFault;
use acks::{Acks, Settled};
use inbound::Inbound;
use io::{Done, Io};
use outbound::{Next, Outbound};

/// How long the last bytes of a connection may take.
const GOODBYE: Duration = Duration::from_secs(2);
/// Deliveries are written to the socket from this size on, before more are taken from the router.
const DELIVERY_BYTES: usize = 32 * 1024;

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// DISCONNECT: no will.
    Goodbye,
    /// DISCONNECT with reason 0x04, or the socket is gone.
    Gone,
    /// The broker ends it, with the code that MQTT 5 clients are told.
    Closed(u8, Reason),
}

impl From<Fault> for End {
    fn from(fault: Fault) -> End {
        let reason = if matches!(fault, Fault::Malformed(_)) { Reason::Malformed } else { Reason::Protocol };
        End::Closed(fault.reason_code(), reason)
    }
}

impl From<RouterFault> for End {
    fn from(fault: RouterFault) -> End {
        tracing::error!(%fault, "a connection is closed");
        End::Closed(0x88, Reason::Unavailable)
    }
}

pub(crate) struct Session<S> {
    core: Arc<Core>,
    client: Client,
    number: u64,
    seat: Seat,
    io: Io<S>,
    intake: Box<dyn IntakeSession>,
    acks: Acks,
    inbound: Inbound,
    /// Only for clients that have ever subscribed.
    outbound: Option<Box<Outbound>>,
    /// What MQTT 5 calls Receive Maximum and Maximum Packet Size of the client.
    window: u16,
    packet_bytes_max: usize,
    will: Option<Box<Will>>,
    /// One and a half times what the client promised; zero: never.
    silence_max: Duration,
    heard: Instant,
    /// When the socket last took something, or had nothing to take.
    took: Instant,
    timer: Pin<Box<Sleep>>,
    stopping: bool,
    /// Version of the policy that the client was last found to be known to.
    policy_version: u64,
}

/// What the task waited for.
enum Event {
    Settled(Settled),
    Next(Result<Next, RouterFault>),
    Socket(std::io::Result<Done>),
    Order(Option<Order>),
    Timer,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    #[allow(clippy::too_many_arguments, reason = "the one place where a session is put together")]
    pub(crate) fn new(
        core: Arc<Core>,
        stream: S,
        client: Client,
        connect: Connect,
        keep_alive: u16,
        seat: Seat,
        inbox: Vec<u8>,
        outbox: Vec<u8>,
    ) -> Session<S> {
        let now = Instant::now();
        let silence_max = Duration::from_millis(u64::from(keep_alive) * 1_500);
        let limits = &core.settings;
        let packet_bytes_max = connect.maximum_packet_size.map_or(usize::MAX, |size| size as usize);
        Session {
            number: core.number(),
            intake: core.intake.open(&client),
            io: Io::new(stream, inbox, outbox),
            acks: Acks::default(),
            inbound: Inbound::default(),
            outbound: None,
            window: connect.receive_maximum.min(limits.inflight_max).max(1),
            packet_bytes_max: packet_bytes_max.min(limits.packet_bytes_max),
            will: connect.will.map(Box::new),
            silence_max,
            heard: now,
            took: now,
            timer: Box::pin(tokio::time::sleep(if silence_max.is_zero() { limits.write_stall_max } else { silence_max })),
            stopping: false,
            policy_version: core.policy.version(),
            core,
            client,
            seat,
        }
    }

    /// Runs until the connection has ended and everything that it held is given back.
    pub(crate) async fn run(mut self) {
        let end = loop {
            if let Err(end) = self.turn().await {
                break end;
            }
        };
        self.end(end).await;
    }

    /// One turn: work off what is there, then wait for one event and take it in.
    async fn turn(&mut self) -> Result<(), End> {
        if self.policy_version != self.core.policy.version() {
            self.policy_version = self.core.policy.version();
            if !self.core.policy.knows(self.client.user.as_deref()) {
                return Err(End::Closed(0x87, Reason::NotAuthorized));
            }
        }
        let blocked = self.work_off().await?;
        if self.stopping && self.acks.is_empty() {
            return Err(End::Closed(0x8B, Reason::Stopping));
        }
        self.feed()?;
        match self.wait(!blocked && !self.stopping).await {
            Event::Settled(settled) => self.settle(&settled),
            Event::Next(next) => match next? {
                Next::Arrival(arrival) => self.arrive(arrival).await,
                Next::Batch(batch) => self.fed(batch),
            },
            Event::Socket(done) => self.socket(done),
            Event::Order(Some(Order::TakenOver)) => Err(End::Closed(0x8E, Reason::TakenOver)),
            Event::Order(Some(Order::Stop)) => {
                self.stopping = true;
                Ok(())
            }
            Event::Order(None) => Ok(()),
            Event::Timer => self.look_at_the_time(),
        }
    }

    /// Waits; takes from the socket only if `reading`.
    async fn wait(&mut self, reading: bool) -> Event {
        let reading = reading && self.io.unwritten() < self.core.settings.outbox_bytes_max;
        let delivering = self.io.unwritten() < DELIVERY_BYTES;
        let Session { io, acks, outbound, seat, timer, window, .. } = self;
        let ready = outbound.as_deref_mut().filter(|outbound| delivering && outbound.has_room(*window));
        let next = async {
            match ready {
                Some(outbound) => outbound.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            order = seat.told() => Event::Order(order),
            settled = std::future::poll_fn(|cx| acks.poll_settled(cx)) => Event::Settled(settled),
            next = next => Event::Next(next),
            done = std::future::poll_fn(|cx| io.poll(cx, reading)) => Event::Socket(done),
            () = timer => Event::Timer,
        }
    }

    fn settle(&mut self, settled: &Settled) -> Result<(), End> {
        let before = self.io.unwritten();
        let complete = settled.write(self.client.v5, self.io.out());
        if before == 0 {
            self.took = Instant::now();
        }
        self.core.metrics.acknowledged(settled.acks.len() as u64);
        if let Some(refusal) = settled.refusal {
            let offered = settled.acks.iter().filter(|ack| ack.offered && ack.reason == 0);
            self.core.metrics.publish_refused(inbound::reason_of(refusal), offered.clone().count() as u64);
            for ack in offered.filter(|ack| ack.first == acks::PUBREC) {
                self.inbound.release(ack.packet_id);
            }
        }
        if complete { Ok(()) } else { Err(End::Closed(0x80, Reason::Content)) }
    }

    fn socket(&mut self, done: std::io::Result<Done>) -> Result<(), End> {
        match done {
            Ok(Done::Read) => {
                self.heard = Instant::now();
                Ok(())
            }
            Ok(Done::Wrote) => {
                self.took = Instant::now();
                Ok(())
            }
            Ok(Done::Ended) => Err(End::Gone),
            Err(fault) => {
                tracing::debug!(client = self.client.id, %fault, "connection lost");
                Err(End::Gone)
            }
        }
    }

    fn look_at_the_time(&mut self) -> Result<(), End> {
        let now = Instant::now();
        let stall_max = self.core.settings.write_stall_max;
        // While acknowledgements wait for the store nothing may be read, pings included: that silence is ours.
        let waiting_for_us = !self.acks.is_empty();
        if !self.silence_max.is_zero() && now.duration_since(self.heard) >= self.silence_max && !waiting_for_us {
            return Err(End::Closed(0x8D, Reason::KeepAlive));
        }
        if self.io.unwritten() > 0 && now.duration_since(self.took) >= stall_max {
            return Err(End::Closed(0x88, Reason::WriteStall));
        }
        let mut next = now + stall_max;
        if !self.silence_max.is_zero() {
            next = next.min((self.heard + self.silence_max).max(now + Duration::from_millis(10)));
        }
        self.timer.as_mut().reset(next);
        Ok(())
    }

    fn subject(&self) -> Subject<'_> {
        Subject { user: self.client.user.as_deref(), client: &self.client.id }
    }

    async fn end(mut self, end: End) {
        tracing::debug!(client = self.client.id, ?end, "connection ends");
        if let End::Closed(code, reason) = end {
            self.core.metrics.closed(reason);
            if self.client.v5 {
                write::disconnect(self.io.out(), code);
            }
        }
        if end != End::Goodbye
            && let Some(will) = self.will.take()
        {
            self.say_will(*will).await;
        }
        // Before the last bytes are waited for: nothing is delivered to this client any more.
        self.outbound = None;
        if end != End::Gone
            && let Ok(Err(fault)) = tokio::time::timeout(GOODBYE, self.io.finish()).await
        {
            tracing::debug!(client = self.client.id, %fault, "the last bytes did not get through");
        }
    }
}
