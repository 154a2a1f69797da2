//! Stands between a worker and its chain. It can lose an answer (the request is carried out, the answer never comes), talk nonsense
//! instead, lead to another chain without closing a connection, and hold a question or its answer back for as long as it is told to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub struct Proxy {
    pub rpc: String,
    /// How many more answers to `eth_sendRawTransaction` are lost.
    pub lose: Arc<AtomicU32>,
    shared: Arc<Shared>,
}

struct Shared {
    lose: Arc<AtomicU32>,
    asked: AtomicU32,
    /// The port of the chain.
    server: AtomicU16,
    /// What every answer is instead, as it stands on the wire.
    nonsense: Mutex<Option<Vec<u8>>>,
    /// Methods that the node has forgotten the answers to: it answers `null`, or refuses if it is told to.
    forgotten: Mutex<Vec<(&'static str, bool)>>,
    /// What becomes of results on their way, by method.
    rewrite: Mutex<Option<Rewrite>>,
    /// The method that is held, and whether the chain is asked before.
    held: watch::Sender<Option<(&'static str, bool)>>,
    /// How often one was.
    stood: watch::Sender<u32>,
}

impl Shared {
    /// Stands still while this method is held at this place.
    async fn gate(&self, method: &str, asked: bool) {
        let mut held = self.held.subscribe();
        let is_here = |held: &Option<(&'static str, bool)>| held.is_some_and(|(held, place)| held == method && place == asked);
        let stands = is_here(&held.borrow());
        if stands {
            self.stood.send_modify(|times| *times += 1);
            let _end_of_test = held.wait_for(|held| !is_here(held)).await;
        }
    }
}

/// Changes the result of a method.
pub type Rewrite = Box<dyn Fn(&str, &mut serde_json::Value) + Send>;

impl Proxy {
    pub async fn start(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let rpc = format!("http://{}", listener.local_addr().unwrap());
        let lose = Arc::new(AtomicU32::new(0));
        let shared = Arc::new(Shared {
            lose: lose.clone(),
            asked: AtomicU32::new(0),
            server: AtomicU16::new(port),
            nonsense: Mutex::new(None),
            forgotten: Mutex::new(Vec::new()),
            rewrite: Mutex::new(None),
            held: watch::Sender::new(None),
            stood: watch::Sender::new(0),
        });
        let carrying = shared.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, carrying.clone()));
            }
        });
        Self { rpc, lose, shared }
    }

    /// Leads to another chain from the next request on.
    pub fn lead_to(&self, port: u16) {
        self.shared.server.store(port, Ordering::SeqCst);
    }

    /// A node that prunes: `null` to these methods, or a refusal.
    pub fn forget(&self, methods: &[(&'static str, bool)]) {
        *self.shared.forgotten.lock().unwrap() = methods.to_vec();
    }

    /// Lies about results, or says again what the chain says.
    pub fn rewrite(&self, rewrite: Option<Rewrite>) {
        *self.shared.rewrite.lock().unwrap() = rewrite;
    }

    /// Answers everything with these bytes, or with the chain's answers again.
    pub fn say(&self, answer: Option<&[u8]>) {
        *self.shared.nonsense.lock().unwrap() = answer.map(<[u8]>::to_vec);
    }

    /// Holds every request of this method: before the chain gets it, or its answer once the chain has given it.
    pub fn hold(&self, method: &'static str, asked: bool) {
        self.shared.stood.send_replace(0);
        self.shared.held.send_replace(Some((method, asked)));
    }

    /// Waits until a request stands, and says whether one came in time.
    pub async fn stands(&self, within: std::time::Duration) -> bool {
        let mut stood = self.shared.stood.subscribe();
        tokio::time::timeout(within, stood.wait_for(|times| *times > 0)).await.is_ok()
    }

    /// Lets everything pass again.
    pub fn release(&self) {
        self.shared.held.send_replace(None);
    }

    /// Requests so far.
    pub fn asked(&self) -> u32 {
        self.shared.asked.load(Ordering::SeqCst)
    }
}

async fn carry(mut client: TcpStream, shared: Arc<Shared>) -> std::io::Result<()> {
    loop {
        let request = message(&mut client).await?;
        shared.asked.fetch_add(1, Ordering::SeqCst);
        let nonsense = shared.nonsense.lock().unwrap().clone();
        if let Some(nonsense) = nonsense {
            client.write_all(&nonsense).await?;
            return Ok(());
        }
        let answer = forgotten(&request, &shared.forgotten.lock().unwrap());
        if let Some(answer) = answer {
            client.write_all(&answer).await?;
            continue;
        }
        let method = method(&request);
        shared.gate(&method, false).await;
        let sends = method == "eth_sendRawTransaction";
        let server = SocketAddr::from(([127, 0, 0, 1], shared.server.load(Ordering::SeqCst)));
        let mut server = TcpStream::connect(server).await?;
        server.write_all(&request).await?;
        let answer = message(&mut server).await?;
        let lost = sends && shared.lose.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if lost {
            return Ok(());
        }
        let answer = match &*shared.rewrite.lock().unwrap() {
            Some(rewrite) => rewritten(&request, &answer, rewrite),
            None => answer,
        };
        shared.gate(&method, true).await;
        client.write_all(&answer).await?;
    }
}

fn body(message: &[u8]) -> serde_json::Value {
    let head = message.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    serde_json::from_slice(&message[head + 4..]).unwrap()
}

fn rewritten(request: &[u8], answer: &[u8], rewrite: &Rewrite) -> Vec<u8> {
    let (asked, mut answer) = (body(request), body(answer));
    if !answer["result"].is_null() {
        rewrite(asked["method"].as_str().unwrap(), &mut answer["result"]);
    }
    written(&answer)
}

fn written(answer: &serde_json::Value) -> Vec<u8> {
    let body = answer.to_string();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    [head, body].concat().into_bytes()
}

fn method(request: &[u8]) -> String {
    let body = request.windows(4).position(|window| window == b"\r\n\r\n").map(|end| &request[end + 4..]);
    let asked = body.and_then(|body| serde_json::from_slice::<serde_json::Value>(body).ok());
    asked.and_then(|asked| asked["method"].as_str().map(str::to_owned)).unwrap_or_default()
}

fn forgotten(request: &[u8], methods: &[(&'static str, bool)]) -> Option<Vec<u8>> {
    let body = &request[request.windows(4).position(|window| window == b"\r\n\r\n")? + 4..];
    let asked: serde_json::Value = serde_json::from_slice(body).ok()?;
    let (_, refuses) = methods.iter().find(|(method, _)| asked["method"] == *method)?;
    let mut answer = serde_json::json!({ "jsonrpc": "2.0", "id": asked["id"] });
    match refuses {
        true => answer["error"] = serde_json::json!({ "code": 4444, "message": "pruned history unavailable" }),
        false => answer["result"] = serde_json::Value::Null,
    }
    Some(written(&answer))
}

/// One HTTP message with a content length, head and body.
async fn message(from: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut message = Vec::new();
    let head = loop {
        if let Some(end) = message.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        message.push(from.read_u8().await?);
    };
    let text = String::from_utf8_lossy(&message).to_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:")).expect("a content length");
    message.resize(head + length.trim().parse::<usize>().unwrap(), 0);
    from.read_exact(&mut message[head..]).await?;
    Ok(message)
}
