//! Stands between a worker and its chain, and can lose an answer: the request is carried out, the answer never comes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub struct Proxy {
    pub rpc: String,
    /// How many more answers to `eth_sendRawTransaction` are lost.
    pub lose: Arc<AtomicU32>,
    asked: Arc<AtomicU32>,
}

impl Proxy {
    pub async fn start(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let rpc = format!("http://{}", listener.local_addr().unwrap());
        let lose = Arc::new(AtomicU32::new(0));
        let asked = Arc::new(AtomicU32::new(0));
        let (server, losing, counting) = (SocketAddr::from(([127, 0, 0, 1], port)), lose.clone(), asked.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, server, losing.clone(), counting.clone()));
            }
        });
        Self { rpc, lose, asked }
    }

    /// Requests so far.
    pub fn asked(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }
}

async fn carry(mut client: TcpStream, server: SocketAddr, lose: Arc<AtomicU32>, asked: Arc<AtomicU32>) -> std::io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    loop {
        let request = message(&mut client).await?;
        asked.fetch_add(1, Ordering::SeqCst);
        let sends = String::from_utf8_lossy(&request).contains("eth_sendRawTransaction");
        server.write_all(&request).await?;
        let answer = message(&mut server).await?;
        let lost = sends && lose.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if lost {
            return Ok(());
        }
        client.write_all(&answer).await?;
    }
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
