//! A TCP link that can be cut, slowed and healed: a proxy on loopback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
    /// Both.
    Both,
}

#[derive(Debug, Clone, Copy, Default)]
struct Condition {
    up_cut: bool,
    down_cut: bool,
    delay: Duration,
    refuses: bool,
    /// Grows at each reset; older connections end.
    generation: u64,
}

/// A proxy from a port, on loopback if nothing else is said, to a server. Clients connect to [`CutLink::address`].
pub struct CutLink {
    address: SocketAddr,
    condition: watch::Sender<Condition>,
    counts: Arc<Counts>,
    accepting: AbortHandle,
}

#[derive(Default)]
struct Counts {
    up: AtomicU64,
    down: AtomicU64,
    accepted: AtomicU64,
}

/// A piece of bytes and the moment it may be passed on.
type Piece = (Instant, Bytes);
const PIECES_MAX: usize = 256;
const PIECE_BYTES_MAX: usize = 64 * 1024;

impl CutLink {
    /// A healthy link to `server`.
    ///
    /// # Panics
    /// When there is no free loopback port.
    pub async fn start(server: SocketAddr) -> Self {
        Self::between(SocketAddr::from(([127, 0, 0, 1], 0)), server).await
    }

    /// A healthy link from `listen` to `server`.
    ///
    /// # Panics
    /// When it can't listen there.
    pub async fn between(listen: SocketAddr, server: SocketAddr) -> Self {
        let listener = TcpListener::bind(listen).await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        let condition = watch::Sender::new(Condition::default());
        let counts = Arc::new(Counts::default());
        let task = accept(listener, server, condition.subscribe(), counts.clone());
        let accepting = tokio::spawn(task).abort_handle();
        Self { address, condition, counts, accepting }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resolves when the link is dropped.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut condition = self.condition.subscribe();
        async move { while condition.changed().await.is_ok() {} }
    }

    /// Bytes stop going this way, without a word: they wait in the sockets. New connections are taken and see the same.
    pub fn cut(&self, way: Way) {
        self.condition.send_modify(|c| {
            c.up_cut |= way != Way::Down;
            c.down_cut |= way != Way::Up;
        });
    }

    /// Each byte takes this much longer, both ways.
    pub fn delay(&self, by: Duration) {
        self.condition.send_modify(|c| c.delay = by);
    }

    /// Closes all connections; new ones are taken as before.
    pub fn reset(&self) {
        self.condition.send_modify(|c| c.generation += 1);
    }

    /// Closes all connections, and new ones at once, until [`CutLink::heal`].
    pub fn refuse(&self) {
        self.condition.send_modify(|c| {
            c.generation += 1;
            c.refuses = true;
        });
    }

    /// Bytes go both ways at once again; what waited goes first.
    pub fn heal(&self) {
        self.condition.send_modify(|c| {
            *c = Condition { generation: c.generation, ..Condition::default() };
        });
    }

    /// Bytes passed on so far, `(up, down)`.
    pub fn bytes(&self) -> (u64, u64) {
        let of = |count: &AtomicU64| count.load(Ordering::SeqCst);
        (of(&self.counts.up), of(&self.counts.down))
    }

    /// Connections taken so far.
    pub fn accepted(&self) -> u64 {
        self.counts.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for CutLink {
    fn drop(&mut self) {
        self.accepting.abort();
        self.reset();
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, condition: watch::Receiver<Condition>, counts: Arc<Counts>) {
    while let Ok((client, _)) = listener.accept().await {
        counts.accepted.fetch_add(1, Ordering::SeqCst);
        if condition.borrow().refuses {
            continue;
        }
        let (condition, counts) = (condition.clone(), counts.clone());
        tokio::spawn(async move {
            // A server that isn't there closes the client's connection.
            if let Ok(upstream) = TcpStream::connect(server).await {
                carry(client, upstream, condition, counts).await;
            }
        });
    }
}

async fn carry(client: TcpStream, server: TcpStream, mut condition: watch::Receiver<Condition>, counts: Arc<Counts>) {
    let generation = condition.borrow().generation;
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let up = pass(from_client, to_server, condition.clone(), &counts.up, |c| c.up_cut);
    let down = pass(from_server, to_client, condition.clone(), &counts.down, |c| c.down_cut);
    tokio::select! {
        _ = async { tokio::join!(up, down) } => {}
        _ = condition.wait_for(|c| c.generation != generation) => {}
    }
}

/// One way, until its reader ends; then the writer is shut, as TCP does.
async fn pass(
    mut reader: OwnedReadHalf,
    mut writer: OwnedWriteHalf,
    condition: watch::Receiver<Condition>,
    count: &AtomicU64,
    is_cut: impl Fn(&Condition) -> bool,
) {
    let (hand, mut take) = mpsc::channel::<Piece>(PIECES_MAX);
    let mut heard = condition.clone();
    let reading = async move {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(PIECE_BYTES_MAX);
            match reader.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    let due = Instant::now() + condition.borrow().delay;
                    if hand.send((due, buffer.split().freeze())).await.is_err() {
                        return;
                    }
                }
            }
        }
    };
    let writing = async move {
        while let Some((due, bytes)) = take.recv().await {
            sleep_until(due).await;
            if heard.wait_for(|c| !is_cut(c)).await.is_err() {
                return;
            }
            count.fetch_add(bytes.len() as u64, Ordering::SeqCst);
            if writer.write_all(&bytes).await.is_err() {
                return;
            }
        }
        // The end of a stream doesn't get through a cut either.
        let _ = heard.wait_for(|c| !is_cut(c)).await;
        let _ = writer.shutdown().await;
    };
    tokio::join!(reading, writing);
}
