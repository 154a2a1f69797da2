//! A scripted MQTT server on a real socket: it answers as its [`Script`] says and remembers what it saw.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::task::AbortHandle;

use crate::packet::{self, Connect, Limits, Packet, Publish};

/// What a peer does with one QoS 1 publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// PUBACK, success.
    Ack,
    /// PUBACK with this reason code (a 3.1.1 client sees a plain one).
    Refuse(u8),
    /// No PUBACK until [`Peer::release`].
    Hold,
    /// Close the connection without a word.
    Drop,
}

/// From the number of a publish and the publish to its answer.
pub type OnPublish = Arc<dyn Fn(usize, &Publish) -> Answer + Send + Sync>;
/// From a filter to its SUBACK code.
pub type OnSubscribe = Arc<dyn Fn(&str) -> u8 + Send + Sync>;

/// How a peer behaves; changed at any time with [`Peer::script`].
#[derive(Clone)]
pub struct Script {
    /// Reason code of the CONNACK; 0 lets the client in.
    pub connack: u8,
    /// The only user name and password that are let in; others get 0x86 (0x04 at 3.1.1).
    pub login: Option<(String, String)>,
    /// Limits told in the CONNACK.
    pub limits: Limits,
    /// Whether CONNECT is answered at all.
    pub answers_connect: bool,
    /// Whether PINGREQ is answered.
    pub answers_ping: bool,
    /// Whether the peer reads from its sockets at all.
    pub reads: bool,
    /// Whether what was seen is remembered; off for measurements.
    pub remembers: bool,
    /// What a publish gets; set it with [`Script::publishes`] or [`Script::on_publish`].
    pub on_publish: OnPublish,
    /// What a filter gets; set it with [`Script::on_subscribe`].
    pub on_subscribe: OnSubscribe,
}

impl Default for Script {
    /// Lets everybody in and acknowledges everything.
    fn default() -> Self {
        Self {
            connack: 0,
            login: None,
            limits: Limits::default(),
            answers_connect: true,
            answers_ping: true,
            reads: true,
            remembers: true,
            on_publish: Arc::new(|_, _| Answer::Ack),
            on_subscribe: Arc::new(|_| 1),
        }
    }
}

impl Script {
    /// Every publish gets this answer.
    #[must_use]
    pub fn publishes(self, answer: Answer) -> Self {
        self.on_publish(move |_, _| answer)
    }

    /// `answer` gets the number of the publish (from 0, over all connections) and the publish.
    #[must_use]
    pub fn on_publish(mut self, answer: impl Fn(usize, &Publish) -> Answer + Send + Sync + 'static) -> Self {
        self.on_publish = Arc::new(answer);
        self
    }

    /// `code` gives the SUBACK code for a filter: 0 to 2 is the granted QoS, 0x80 and above refuses.
    #[must_use]
    pub fn on_subscribe(mut self, code: impl Fn(&str) -> u8 + Send + Sync + 'static) -> Self {
        self.on_subscribe = Arc::new(code);
        self
    }
}

/// One packet that the peer saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Number of the connection, from 0.
    pub connection: usize,
    /// What came.
    pub packet: Packet,
}

/// A running peer; it ends with its last handle.
pub struct Peer {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

struct Shared {
    script: watch::Sender<Script>,
    seen: Mutex<Vec<Seen>>,
    held: Mutex<Vec<Held>>,
    publishes: AtomicUsize,
    accepted: AtomicUsize,
    open: AtomicUsize,
    words: broadcast::Sender<Word>,
}

/// A PUBACK that waits, with the connection it belongs to.
struct Held {
    connection: usize,
    pkid: u16,
}

#[derive(Debug, Clone)]
enum Word {
    Hang,
    Say(Publish),
    Ack { connection: usize, pkid: u16, code: u8 },
    Disconnect(u8),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peer {
    /// Listens on a free loopback port.
    ///
    /// # Panics
    /// When there is none.
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free loopback port");
        Self::on(listener, script)
    }

    /// Listens on a given address: a peer that comes back where another one was.
    ///
    /// # Panics
    /// When the address can't be had.
    pub async fn start_at(address: SocketAddr, script: Script) -> Self {
        let listener = TcpListener::bind(address).await.unwrap_or_else(|fault| panic!("can't listen on {address}: {fault}"));
        Self::on(listener, script)
    }

    fn on(listener: TcpListener, script: Script) -> Self {
        let address = listener.local_addr().expect("a bound listener");
        let shared = Arc::new(Shared {
            script: watch::Sender::new(script),
            seen: Mutex::default(),
            held: Mutex::default(),
            publishes: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            words: broadcast::Sender::new(65_536),
        });
        let accepting = tokio::spawn(accept(listener, shared.clone())).abort_handle();
        Self { address, shared, accepting }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the behaviour from now on.
    pub fn script(&self, change: impl FnOnce(Script) -> Script) {
        self.shared.script.send_modify(|script| *script = change(script.clone()));
    }

    /// Everything seen so far.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// The publishes seen so far, sent-again ones included.
    pub fn publishes(&self) -> Vec<Publish> {
        let of = |seen: &Seen| match &seen.packet {
            Packet::Publish(publish) => Some(publish.clone()),
            _ => None,
        };
        lock(&self.shared.seen).iter().filter_map(of).collect()
    }

    /// How many publishes came, also when they are not remembered.
    pub fn publish_count(&self) -> usize {
        self.shared.publishes.load(Ordering::SeqCst)
    }

    /// The filters subscribed on connection `n`, in order.
    pub fn filters(&self, n: usize) -> Vec<String> {
        let of = |seen: &Seen| match &seen.packet {
            Packet::Subscribe { filters, .. } if seen.connection == n => Some(filters.clone()),
            _ => None,
        };
        let seen = lock(&self.shared.seen);
        seen.iter().filter_map(of).flatten().map(|(filter, _)| filter).collect()
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// How many PUBACKs are held back.
    pub fn held(&self) -> usize {
        lock(&self.shared.held).len()
    }

    /// Lets the `places`-th held PUBACKs go (0 is the oldest, after the removals before it), in this order, with `code`.
    ///
    /// # Panics
    /// When there is none at such a place.
    pub fn release(&self, places: &[usize], code: u8) {
        for place in places {
            let held = lock(&self.shared.held).remove(*place);
            self.say(Word::Ack { connection: held.connection, pkid: held.pkid, code });
        }
    }

    /// Lets all held PUBACKs go, the oldest first.
    pub fn release_all(&self) {
        self.release(&vec![0; self.held()], 0);
    }

    /// Closes every connection without a word. The listener goes on.
    pub fn hang_up(&self) {
        lock(&self.shared.held).clear();
        self.say(Word::Hang);
    }

    /// Sends a DISCONNECT with this code to every connection (5.0) and closes them.
    pub fn disconnect(&self, code: u8) {
        self.say(Word::Disconnect(code));
    }

    /// Sends a publish to every connection.
    pub fn publish(&self, publish: Publish) {
        self.say(Word::Say(publish));
    }

    fn say(&self, word: Word) {
        // Without a connection there is nobody to hear it.
        let _ = self.shared.words.send(word);
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.accepting.abort();
        self.hang_up();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((socket, _)) = listener.accept().await {
        let connection = shared.accepted.fetch_add(1, Ordering::SeqCst);
        shared.open.fetch_add(1, Ordering::SeqCst);
        let words = shared.words.subscribe();
        let shared = shared.clone();
        tokio::spawn(async move {
            let talk = Talk {
                connection,
                level: 5,
                let_in: false,
                script: shared.script.subscribe(),
                out: BytesMut::new(),
                shared: &shared,
            };
            // A connection that breaks is what tests are about.
            let _ = talk.run(socket, words).await;
            shared.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

struct Talk<'a> {
    connection: usize,
    level: u8,
    let_in: bool,
    script: watch::Receiver<Script>,
    out: BytesMut,
    shared: &'a Shared,
}

impl Talk<'_> {
    async fn run(mut self, mut socket: TcpStream, mut words: broadcast::Receiver<Word>) -> std::io::Result<()> {
        socket.set_nodelay(true)?;
        let (mut reader, mut writer) = socket.split();
        let mut buffer = BytesMut::with_capacity(256 * 1024);
        loop {
            let reads = self.script.borrow_and_update().reads;
            tokio::select! {
                _ = self.script.changed() => {}
                word = words.recv() => match word {
                    Ok(word) => {
                        let go_on = self.hear(word);
                        writer.write_all(&self.out.split()).await?;
                        if !go_on {
                            return Ok(());
                        }
                    }
                    Err(_) => return Ok(()),
                },
                read = reader.read_buf(&mut buffer), if reads => {
                    if read? == 0 {
                        return Ok(());
                    }
                    let script = self.script.borrow().clone();
                    while let Ok(Some(packet)) = packet::take(&mut buffer, self.level) {
                        if !self.answer(packet, &script) {
                            writer.write_all(&self.out.split()).await?;
                            return Ok(());
                        }
                    }
                    writer.write_all(&self.out.split()).await?;
                    buffer.reserve(64 * 1024);
                }
            }
        }
    }

    fn hear(&mut self, word: Word) -> bool {
        match word {
            Word::Hang => return false,
            Word::Say(publish) if self.let_in => {
                packet::put_publish(&mut self.out, self.level, &publish);
            }
            Word::Ack { connection, pkid, code } if connection == self.connection => {
                packet::puback(&mut self.out, self.level, pkid, code);
            }
            Word::Disconnect(code) => {
                if self.level == 5 {
                    packet::disconnect(&mut self.out, code);
                }
                return false;
            }
            Word::Say(_) | Word::Ack { .. } => {}
        }
        true
    }

    /// False ends the connection.
    fn answer(&mut self, packet: Packet, script: &Script) -> bool {
        if script.remembers {
            lock(&self.shared.seen).push(Seen { connection: self.connection, packet: packet.clone() });
        }
        match packet {
            Packet::Connect(connect) => return self.connect(&connect, script),
            Packet::Publish(publish) => return self.publish(&publish, script),
            Packet::Subscribe { pkid, filters } => {
                let codes: Vec<u8> = filters.iter().map(|(filter, _)| (script.on_subscribe)(filter)).collect();
                packet::suback(&mut self.out, self.level, pkid, &codes, false);
            }
            Packet::Unsubscribe { pkid, filters } => {
                let codes = vec![0; filters.len()];
                packet::suback(&mut self.out, self.level, pkid, &codes, true);
            }
            Packet::PingReq if script.answers_ping => packet::pingresp(&mut self.out),
            Packet::Disconnect => return false,
            Packet::PingReq | Packet::PubAck { .. } | Packet::Other(_) => {}
        }
        true
    }

    fn connect(&mut self, connect: &Connect, script: &Script) -> bool {
        self.level = connect.level;
        if !script.answers_connect {
            return true;
        }
        let given = (connect.user.as_deref(), connect.password.as_deref());
        let code = match &script.login {
            Some((user, password)) if given != (Some(user), Some(password.as_bytes())) => {
                if self.level == 5 {
                    0x86
                } else {
                    4
                }
            }
            _ => script.connack,
        };
        self.let_in = code == 0;
        packet::connack(&mut self.out, self.level, code, script.limits);
        self.let_in
    }

    fn publish(&mut self, publish: &Publish, script: &Script) -> bool {
        let number = self.shared.publishes.fetch_add(1, Ordering::SeqCst);
        if publish.qos == 0 {
            return true;
        }
        match (script.on_publish)(number, publish) {
            Answer::Ack => packet::puback(&mut self.out, self.level, publish.pkid, 0),
            Answer::Refuse(code) => {
                packet::puback(&mut self.out, self.level, publish.pkid, code);
            }
            Answer::Hold => lock(&self.shared.held).push(Held { connection: self.connection, pkid: publish.pkid }),
            Answer::Drop => return false,
        }
        true
    }
}
