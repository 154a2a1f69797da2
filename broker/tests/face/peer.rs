//! A client that says exactly the bytes it is told to.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub const PATIENCE: Duration = Duration::from_secs(5);

pub struct Peer {
    pub stream: TcpStream,
    buffer: Vec<u8>,
    pub v5: bool,
}

/// A packet from the broker.
#[derive(Debug, PartialEq, Eq)]
pub struct Packet {
    pub first: u8,
    pub body: Vec<u8>,
}

impl Packet {
    /// Topic, QoS, packet id, properties and payload of a PUBLISH.
    pub fn publish(&self, v5: bool) -> (String, u8, u16, Vec<u8>, Vec<u8>) {
        assert_eq!(self.first >> 4, 3, "{self:?} is no PUBLISH");
        let qos = (self.first >> 1) & 3;
        let length = usize::from(u16::from_be_bytes([self.body[0], self.body[1]]));
        let topic = String::from_utf8(self.body[2..2 + length].to_vec()).unwrap();
        let mut rest = &self.body[2 + length..];
        let mut id = 0;
        if qos > 0 {
            id = u16::from_be_bytes([rest[0], rest[1]]);
            rest = &rest[2..];
        }
        let mut properties = vec![];
        if v5 {
            assert!(rest[0] < 128);
            let length = usize::from(rest[0]);
            properties = rest[1..=length].to_vec();
            rest = &rest[1 + length..];
        }
        (topic, qos, id, properties, rest.to_vec())
    }
}

pub fn text(value: &str) -> Vec<u8> {
    let mut bytes = u16::try_from(value.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(value.as_bytes());
    bytes
}

pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut length = body.len();
    loop {
        let byte = (length & 127) as u8;
        length >>= 7;
        bytes.push(if length > 0 { byte | 128 } else { byte });
        if length == 0 {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

pub struct Hello<'a> {
    pub v5: bool,
    pub id: &'a str,
    pub login: Option<(&'a str, &'a str)>,
    pub keep_alive: u16,
    pub properties: &'a [u8],
    pub will: Option<(&'a str, &'a str)>,
}

pub fn hello(v5: bool, id: &str) -> Hello<'_> {
    Hello { v5, id, login: None, keep_alive: 60, properties: &[], will: None }
}

impl Hello<'_> {
    pub fn bytes(&self) -> Vec<u8> {
        let mut body = text("MQTT");
        let mut flags = 0x02;
        if self.login.is_some() {
            flags |= 0xC0;
        }
        if self.will.is_some() {
            flags |= 0x04;
        }
        body.extend_from_slice(&[if self.v5 { 5 } else { 4 }, flags]);
        body.extend_from_slice(&self.keep_alive.to_be_bytes());
        if self.v5 {
            body.push(u8::try_from(self.properties.len()).unwrap());
            body.extend_from_slice(self.properties);
        }
        body.extend(text(self.id));
        if let Some((topic, payload)) = self.will {
            if self.v5 {
                body.push(0);
            }
            body.extend(text(topic));
            body.extend(text(payload));
        }
        if let Some((user, password)) = self.login {
            body.extend(text(user));
            body.extend(text(password));
        }
        packet(0x10, &body)
    }
}

impl Peer {
    pub async fn dial(address: SocketAddr) -> Peer {
        Peer { stream: TcpStream::connect(address).await.unwrap(), buffer: vec![], v5: false }
    }

    /// Connects and expects to be let in.
    pub async fn join(address: SocketAddr, hello: Hello<'_>) -> Peer {
        let mut peer = Peer::dial(address).await;
        let code = peer.knock(&hello).await;
        assert_eq!(code, 0, "CONNACK of {}", hello.id);
        peer
    }

    /// Sends CONNECT and returns the code of the CONNACK.
    pub async fn knock(&mut self, hello: &Hello<'_>) -> u8 {
        self.v5 = hello.v5;
        self.send(&hello.bytes()).await;
        let connack = self.recv().await;
        assert_eq!(connack.first, 0x20);
        assert_eq!(connack.body[0], 0, "no session is ever present");
        connack.body[1]
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next packet; `None` when the broker has closed the connection.
    pub async fn next(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = self.take() {
                return Some(packet);
            }
            let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await;
            match read.unwrap_or_else(|_| panic!("nothing came; held: {:x?}", self.buffer)) {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    fn take(&mut self) -> Option<Packet> {
        let (mut length, mut shift) = (0, 0);
        for (place, byte) in self.buffer.iter().enumerate().skip(1) {
            length |= usize::from(byte & 127) << shift;
            shift += 7;
            if byte & 128 == 0 {
                let end = place + 1 + length;
                if self.buffer.len() < end {
                    return None;
                }
                let packet = Packet { first: self.buffer[0], body: self.buffer[place + 1..end].to_vec() };
                self.buffer.drain(..end);
                return Some(packet);
            }
        }
        None
    }

    pub async fn recv(&mut self) -> Packet {
        self.next().await.expect("the broker has closed the connection")
    }

    pub async fn publish(&mut self, topic: &str, payload: &str, qos: u8, id: u16) {
        let bytes = publish(self.v5, topic, payload.as_bytes(), qos, id, &[]);
        self.send(&bytes).await;
    }

    /// Subscribes to one filter and returns the code.
    pub async fn subscribe(&mut self, filter: &str, options: u8) -> u8 {
        let mut body = vec![0, 77];
        if self.v5 {
            body.push(0);
        }
        body.extend(text(filter));
        body.push(options);
        self.send(&packet(0x82, &body)).await;
        let suback = self.recv().await;
        assert_eq!((suback.first, &suback.body[..2]), (0x90, &[0, 77][..]));
        *suback.body.last().unwrap()
    }

    /// A round trip: whatever came before it would be in front of the answer.
    pub async fn expect_silence(&mut self) {
        self.send(&[0xC0, 0]).await;
        assert_eq!(self.recv().await, Packet { first: 0xD0, body: vec![] });
    }

    /// Expects PUBACK (or with `first` PUBREC, …) with this id and reason.
    pub async fn expect_ack(&mut self, first: u8, id: u16, reason: u8) {
        let mut body = id.to_be_bytes().to_vec();
        if reason > 0 {
            body.push(reason);
        }
        assert_eq!(self.recv().await, Packet { first, body });
    }

    /// Expects the end, with this DISCONNECT code for MQTT 5.
    pub async fn expect_end(&mut self, code: u8) {
        let mut last = None;
        while let Some(packet) = self.next().await {
            last = Some(packet);
        }
        if self.v5 {
            assert_eq!(last, Some(Packet { first: 0xE0, body: vec![code] }));
        } else {
            assert!(last.is_none_or(|packet| packet.first >> 4 != 14), "3.1.1 has no DISCONNECT from the server");
        }
    }
}

pub fn publish(v5: bool, topic: &str, payload: &[u8], qos: u8, id: u16, properties: &[u8]) -> Vec<u8> {
    let mut body = text(topic);
    if qos > 0 {
        body.extend_from_slice(&id.to_be_bytes());
    }
    if v5 {
        body.push(u8::try_from(properties.len()).unwrap());
        body.extend_from_slice(properties);
    }
    body.extend_from_slice(payload);
    packet(0x30 | (qos << 1), &body)
}
