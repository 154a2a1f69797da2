//! A broker of one page: answers CONNECT, SUBSCRIBE and PUBLISH, and can be told to misbehave.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// How it treats its clients.
#[derive(Clone, Debug, Default)]
pub struct Manners {
    /// CONNACK with this reason code.
    pub connack: u8,
    /// The v5 receive maximum that it announces.
    pub receive_maximum: Option<u16>,
    /// PUBACK with this reason code.
    pub puback: u8,
    /// Close the connection at that publish.
    pub close_at: Option<u64>,
    /// Never acknowledge from that publish on.
    pub silent_from: Option<u64>,
    /// Sleep once, at that publish.
    pub stall: Option<(u64, Duration)>,
    /// Deliver these publishes not at all / twice.
    pub withhold: HashSet<u64>,
    pub repeat: HashSet<u64>,
}

#[derive(Clone)]
pub struct Broker {
    pub address: SocketAddr,
    inner: Arc<Inner>,
}

struct Inner {
    manners: Manners,
    publishes: AtomicU64,
    in_flight_most: AtomicU64,
    payloads: Mutex<Vec<Vec<u8>>>,
    subscribers: Mutex<Vec<TcpStream>>,
}

impl Broker {
    pub fn start(manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Inner {
            manners,
            publishes: AtomicU64::new(0),
            in_flight_most: AtomicU64::new(0),
            payloads: Mutex::default(),
            subscribers: Mutex::default(),
        });
        let broker = Self { address, inner };
        let accepting = broker.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let broker = accepting.clone();
                // Ends with its connection, by an error.
                thread::spawn(move || broker.serve(stream));
            }
        });
        broker
    }

    /// Publishes that came.
    pub fn publishes(&self) -> u64 {
        self.inner.publishes.load(Ordering::SeqCst)
    }

    /// Most messages that one read brought of one connection.
    pub fn in_flight_most(&self) -> u64 {
        self.inner.in_flight_most.load(Ordering::SeqCst)
    }

    pub fn payloads(&self) -> Vec<Vec<u8>> {
        self.inner.payloads.lock().unwrap().clone()
    }

    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut buffer = Vec::new();
        let mut chunk = vec![0; 64 * 1024];
        let mut v5 = true;
        loop {
            let count = stream.read(&mut chunk)?;
            if count == 0 {
                return Ok(());
            }
            buffer.extend_from_slice(&chunk[..count]);
            let mut answers = Vec::new();
            let mut in_this_read = 0;
            while let Some((first, body)) = take(&mut buffer) {
                match first >> 4 {
                    1 => {
                        v5 = body[6] == 5;
                        answers.extend(self.connack(v5));
                    }
                    8 => {
                        answers.extend_from_slice(if v5 { &[0x90, 4, 0, 1, 0, 1] } else { &[0x90, 3, 0, 1, 1] });
                        self.inner.subscribers.lock().unwrap().push(stream.try_clone()?);
                    }
                    3 => {
                        in_this_read += 1;
                        let number = self.inner.publishes.fetch_add(1, Ordering::SeqCst);
                        if !self.publish(number, first, &body, v5, &mut answers)? {
                            return Ok(());
                        }
                    }
                    12 => answers.extend_from_slice(&[0xd0, 0]),
                    _ => {}
                }
            }
            self.inner.in_flight_most.fetch_max(in_this_read, Ordering::SeqCst);
            stream.write_all(&answers)?;
        }
    }

    fn connack(&self, v5: bool) -> Vec<u8> {
        let code = self.inner.manners.connack;
        match (v5, self.inner.manners.receive_maximum) {
            (false, _) => vec![0x20, 2, 0, code],
            (true, None) => vec![0x20, 3, 0, code, 0],
            (true, Some(most)) => vec![0x20, 6, 0, code, 3, 0x21, (most >> 8) as u8, most as u8],
        }
    }

    fn publish(&self, number: u64, first: u8, body: &[u8], v5: bool, answers: &mut Vec<u8>) -> io::Result<bool> {
        let manners = &self.inner.manners;
        if manners.close_at == Some(number) {
            return Ok(false);
        }
        if let Some((at, pause)) = manners.stall
            && at == number
        {
            thread::sleep(pause);
        }
        let topic = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
        let qos = (first >> 1) & 3;
        let payload_at = topic + usize::from(qos > 0) * 2 + usize::from(v5);
        self.inner.payloads.lock().unwrap().push(body[payload_at..].to_vec());
        if qos > 0 && manners.silent_from.is_none_or(|from| number < from) {
            let id = &body[topic..topic + 2];
            answers.extend_from_slice(&[0x40, if manners.puback > 0 { 3 } else { 2 }, id[0], id[1]]);
            answers.extend((manners.puback > 0).then_some(manners.puback));
        }
        let mut packet = vec![first];
        let mut length = body.len();
        while length >= 128 {
            packet.push(length as u8 | 0x80);
            length >>= 7;
        }
        packet.push(length as u8);
        packet.extend_from_slice(body);
        let copies = match () {
            () if manners.withhold.contains(&number) => 0,
            () if manners.repeat.contains(&number) => 2,
            () => 1,
        };
        for subscriber in self.inner.subscribers.lock().unwrap().iter_mut() {
            for _ in 0..copies {
                subscriber.write_all(&packet)?;
            }
        }
        Ok(true)
    }
}

fn take(buffer: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let mut length = 0;
    let mut at = 1;
    loop {
        let byte = *buffer.get(at)?;
        length |= usize::from(byte & 0x7f) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let body = buffer.get(at..at + length)?.to_vec();
    let first = buffer[0];
    buffer.drain(..at + length);
    Some((first, body))
}
