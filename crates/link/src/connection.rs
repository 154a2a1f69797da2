//! One connection, from TCP to its end. Each gets an event loop of its own, so that nothing of the MQTT client's state
//! (unacknowledged packets it would send again, collisions, packet ids) gets from one connection to the next.

use std::sync::Arc;
use std::time::Duration;

use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::v5::{ConnAck, Packet, PubAck};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, Request, StateError};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, warn};

use crate::PublishError;
use crate::fault::reason_text;
use crate::inbox::{Inbox, Overfull};
use crate::message::Qos;
use crate::mqtt;
use crate::session::Session;
use crate::settings::LinkConfig;
use crate::shared::{Closing, Shared};

/// Requests that wait in the client's channel beside a full window: subscriptions and the goodbye.
const SPARE_REQUESTS: usize = 64;
/// Filters in one SUBSCRIBE.
pub(crate) const FILTERS_MAX: usize = 100;
const GOODBYE_DEADLINE: Duration = Duration::from_secs(1);

/// Why a connection, or the attempt at one, ended.
#[derive(Debug)]
pub(crate) enum End {
    /// Trying again soon may help.
    Down(String),
    /// The peer does not want us as we are.
    Refused(String),
    /// The owner closed the link.
    Closed,
}

impl End {
    fn down(why: impl Into<String>) -> Self {
        Self::Down(why.into())
    }
}

/// How a connection went.
#[derive(Debug)]
pub(crate) struct Course {
    pub(crate) end: End,
    /// It did some good: an acknowledgement or a message came.
    pub(crate) useful: bool,
}

/// Connects, subscribes, and serves until the end.
pub(crate) async fn run(config: Arc<LinkConfig>, shared: Arc<Shared>, inbox: Inbox, mut closing: Closing) -> Course {
    let requests = usize::from(config.inflight_max) + SPARE_REQUESTS;
    let (client, events) = AsyncClient::new(mqtt::options(&config), requests);
    let attempt = Instant::now() + config.connect_timeout;
    let connecting = Connection::open(&config, client, events, inbox);
    let opened = tokio::select! {
        opened = timeout_at(attempt, connecting) => opened,
        () = closing.asked() => return Course { end: End::Closed, useful: false },
    };
    let mut connection = match opened {
        Ok(Ok(connection)) => connection,
        Ok(Err(end)) => return Course { end, useful: false },
        Err(_) => return Course { end: late(&config), useful: false },
    };
    let end = match connection.serve(&shared, &mut closing, attempt).await {
        Ok(never) => match never {},
        Err(end) => end,
    };
    Course { end, useful: connection.useful }
}

fn late(config: &LinkConfig) -> End {
    End::Down(format!("{} did not let us in within {:?}", config.address(), config.connect_timeout))
}

enum Never {}

struct Connection<'a> {
    config: &'a LinkConfig,
    events: EventLoop,
    session: Arc<Session>,
    inbox: Inbox,
    keep_alive: Duration,
    /// When the peer last said anything.
    heard: Instant,
    /// When it last acknowledged, or had nothing to acknowledge.
    acknowledged: Instant,
    useful: bool,
}

impl<'a> Connection<'a> {
    async fn open(config: &'a LinkConfig, client: AsyncClient, mut events: EventLoop, inbox: Inbox) -> Result<Self, End> {
        let connack = match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(connack))) => connack,
            Ok(other) => return Err(End::Down(format!("no CONNACK came first, but {other:?}"))),
            Err(fault) => return Err(end_of(&fault)),
        };
        let ConnAck { properties, .. } = connack;
        let receive_max = properties.as_ref().and_then(|p| p.receive_max);
        let packet_max = properties.as_ref().and_then(|p| p.max_packet_size);
        if events.options.keep_alive().is_zero() {
            // The peer wants none; the client underneath would ping without a pause.
            let ours = mqtt::options(config).keep_alive();
            events.options.set_keep_alive(ours);
        }
        let window = config.inflight_max.min(receive_max.unwrap_or(u16::MAX)).max(1);
        let packet_max = packet_max.map_or(mqtt::PACKET_BYTES_MAX, |max| max as usize);
        let now = Instant::now();
        Ok(Self {
            config,
            keep_alive: events.options.keep_alive(),
            events,
            session: Arc::new(Session::new(client, window, packet_max)),
            inbox,
            heard: now,
            acknowledged: now,
            useful: false,
        })
    }

    async fn serve(&mut self, shared: &Shared, closing: &mut Closing, attempt: Instant) -> Result<Never, End> {
        // Whatever ends this, a panic of the client included, the tickets resolve.
        let _end = EndOfSession(shared, self.session.clone());
        let subscribing = self.subscribe_all(shared);
        tokio::select! {
            subscribed = timeout_at(attempt, subscribing) => match subscribed {
                Ok(subscribed) => subscribed?,
                Err(_) => return Err(late(self.config)),
            },
            () = closing.asked() => return Err(End::Closed),
        }
        debug!(peer = self.config.address(), "connected");
        loop {
            tokio::select! {
                biased;
                () = closing.asked() => break,
                stepped = self.step() => stepped?,
            }
        }
        self.session.disconnect();
        // Dropping the poll above may have lost its event; what was handed to the socket is still whole packets.
        let goodbye = async {
            while let Ok(event) = self.events.poll().await {
                if matches!(event, Event::Outgoing(Outgoing::Disconnect)) {
                    break;
                }
            }
        };
        let _ = timeout(GOODBYE_DEADLINE, goodbye).await;
        Err(End::Closed)
    }

    /// Subscribes everything remembered, also what is added meanwhile, then tells the world that we are connected.
    async fn subscribe_all(&mut self, shared: &Shared) -> Result<(), End> {
        let mut done: Vec<(String, Qos)> = Vec::new();
        let mut refused = Vec::new();
        while let Some(more) = shared.publish_session(&done, &refused, &self.session) {
            for some in more.chunks(FILTERS_MAX) {
                let answer = self.session.subscribe(some);
                let answer = answer.map_err(|_| End::down("the MQTT client is gone"))?;
                let codes = self.until_answered(answer).await?;
                for ((filter, _), code) in some.iter().zip(codes) {
                    if code >= 0x80 {
                        warn!(filter, reason = reason_text(code), "the peer refused a remembered filter");
                        refused.push(filter.clone());
                    }
                }
            }
            done.extend(more);
        }
        Ok(())
    }

    async fn until_answered(&mut self, mut answer: oneshot::Receiver<Vec<u8>>) -> Result<Vec<u8>, End> {
        loop {
            match answer.try_recv() {
                Ok(codes) => return Ok(codes),
                Err(oneshot::error::TryRecvError::Empty) => self.step().await?,
                Err(oneshot::error::TryRecvError::Closed) => {
                    return Err(End::down("a SUBSCRIBE was not answered"));
                }
            }
        }
    }

    /// Waits for one event and handles it. Not to be dropped in the middle, save at the end of the connection.
    async fn step(&mut self) -> Result<(), End> {
        let mut end = self.heard + mqtt::dead_after(self.keep_alive);
        let mut silent = "the peer is silent";
        if self.session.is_waiting() {
            let unacknowledged = self.acknowledged + self.config.ack_timeout;
            if unacknowledged < end {
                end = unacknowledged;
                silent = "the peer acknowledges nothing";
            }
        }
        match timeout_at(end, self.events.poll()).await {
            Err(_) => Err(End::down(silent)),
            Ok(Err(fault)) => Err(end_of(&fault)),
            Ok(Ok(Event::Incoming(packet))) => {
                self.heard = Instant::now();
                self.incoming(packet).await
            }
            Ok(Ok(Event::Outgoing(packet))) => {
                self.outgoing(&packet);
                // While there is always something to send, the deadline above is never looked at.
                if Instant::now() > end {
                    return Err(End::down(silent));
                }
                Ok(())
            }
        }
    }

    fn outgoing(&mut self, packet: &Outgoing) {
        match packet {
            Outgoing::Publish(pkid) => {
                if !self.session.is_waiting() {
                    self.acknowledged = Instant::now();
                }
                self.session.numbered(*pkid);
            }
            Outgoing::Subscribe(pkid) | Outgoing::Unsubscribe(pkid) => self.session.subscribe_numbered(*pkid),
            // `AwaitAck` is a collision: the id is still taken, its `Publish` comes when it is free.
            _ => {}
        }
    }

    async fn incoming(&mut self, packet: Packet) -> Result<(), End> {
        match packet {
            Packet::PubAck(ack) => self.puback(&ack),
            Packet::SubAck(ack) => {
                let codes = ack.return_codes.into_iter().map(mqtt::suback_code);
                self.session.subscribe_answered(ack.pkid, codes.collect());
            }
            Packet::UnsubAck(ack) => {
                let codes = ack.reasons.into_iter().map(|reason| reason as u8);
                self.session.subscribe_answered(ack.pkid, codes.collect());
            }
            Packet::Publish(publish) => {
                let Some(received) = mqtt::received(publish) else {
                    warn!("the peer sent a topic that is not text; the message is left out");
                    return Ok(());
                };
                self.useful = true;
                let room = timeout(self.keep_alive, self.inbox.put(received)).await;
                if let Err(_) | Ok(Err(Overfull)) = room {
                    let why = "what we subscribed to is not read, and its queue is full";
                    return Err(End::down(why));
                }
                self.heard = Instant::now();
            }
            _ => {}
        }
        Ok(())
    }

    fn puback(&mut self, ack: &PubAck) {
        let reason_code = mqtt::puback_code(ack.reason);
        self.acknowledged = self.heard;
        if reason_code < 0x80 {
            self.useful = true;
            self.session.answered(ack.pkid, Ok(()));
            return;
        }
        let refused = PublishError::Refused { reason_code };
        self.session.answered(ack.pkid, Err(refused));
        // The client lets a publish that waits for this very id go only after an ack that says success.
        let collision = &mut self.events.state.collision;
        if let Some(publish) = collision.take_if(|waiting| waiting.pkid == ack.pkid) {
            self.events.pending.push_back(Request::Publish(publish));
        }
    }
}

struct EndOfSession<'a>(&'a Shared, Arc<Session>);

impl Drop for EndOfSession<'_> {
    fn drop(&mut self) {
        self.0.withdraw_session();
        self.1.end();
    }
}

fn end_of(fault: &ConnectionError) -> End {
    match fault {
        ConnectionError::ConnectionRefused(code) => match mqtt::refusal(*code) {
            Some(code) => End::Refused(reason_text(code)),
            None => End::Down(format!("the peer refused the connection for now: {code:?}")),
        },
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, reason_string }) => {
            let code = *reason_code as u8;
            let mut why = reason_text(code);
            if let Some(text) = reason_string {
                why = format!("{why}: {text}");
            }
            if mqtt::is_refusal(code) { End::Refused(why) } else { End::Down(format!("the peer ended the connection: {why}")) }
        }
        other => End::Down(other.to_string()),
    }
}
