//! Opening a connection: TCP, CONNECT, SUBSCRIBE, each with a deadline. Blocking, because it is not what is measured.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::mqtt::{self, Granted, Malformed, Version};

const DEADLINE: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Seconds; a PINGREQ goes out well before, whatever else was said.
const KEEP_ALIVE: u16 = 60;
/// How often a connection says PINGREQ.
pub(crate) const PING_EVERY: Duration = Duration::from_secs(15);

/// A broker and how to introduce oneself there.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) version: Version,
    pub(crate) login: Option<Login>,
}

/// User name and password.
#[derive(Clone)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// An accepted connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) stream: TcpStream,
    pub(crate) granted: Granted,
}

/// Why a connection or subscription was not to be had; the name under which it is counted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("connect: {}", .0.kind())]
    Connect(io::Error),
    #[error("handshake: {}", .0.kind())]
    Handshake(io::Error),
    #[error("handshake: {0}")]
    Nonsense(#[from] Malformed),
    #[error("connection refused: {0} (0x{1:02x})")]
    Refused(&'static str, u8),
    #[error("subscription refused: {0} (0x{1:02x})")]
    Subscription(&'static str, u8),
}

/// Connects and waits for the CONNACK. `source` is the local address, for more connections than one address has ports.
pub(crate) fn open(endpoint: &Endpoint, client_id: &str, source: Option<IpAddr>) -> Result<Session, Refusal> {
    let mut stream = dial(endpoint.address, source).map_err(Refusal::Connect)?;
    let login = endpoint.login.as_ref();
    let login = login.map(|login| (login.user.as_str(), login.password.as_str()));
    let hello = mqtt::connect(endpoint.version, client_id, KEEP_ALIVE, login);
    let answer = ask(&mut stream, &hello).map_err(Refusal::Handshake)?;
    match mqtt::connack(endpoint.version, packet(&answer)?)? {
        Ok(granted) => Ok(Session { stream, granted }),
        Err(code) => Err(Refusal::Refused(mqtt::reason(endpoint.version, code), code)),
    }
}

impl Session {
    /// Subscribes to one filter and waits for the SUBACK.
    pub(crate) fn subscribe(&mut self, version: Version, filter: &str, qos: u8) -> Result<(), Refusal> {
        let request = mqtt::subscribe(version, filter, qos);
        let answer = ask(&mut self.stream, &request).map_err(Refusal::Handshake)?;
        mqtt::suback(packet(&answer)?)?.map_err(|code| Refusal::Subscription(mqtt::reason(version, code), code))
    }

    /// The socket for an event loop.
    pub(crate) fn into_nonblocking(self) -> io::Result<mio::net::TcpStream> {
        self.stream.set_nonblocking(true)?;
        Ok(mio::net::TcpStream::from_std(self.stream))
    }
}

fn dial(address: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    socket.connect_timeout(&address.into(), DEADLINE)?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    Ok(stream)
}

/// Sends a request and reads exactly one packet, so that what follows stays in the socket.
fn ask(stream: &mut TcpStream, request: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(request)?;
    let mut answer = vec![0; 2];
    stream.read_exact(&mut answer)?;
    let mut length = usize::from(answer[1] & 0x7f);
    let mut shift = 0;
    while answer.last().is_some_and(|byte| byte & 0x80 != 0) && shift < 21 {
        shift += 7;
        let mut digit = [0];
        stream.read_exact(&mut digit)?;
        length |= usize::from(digit[0] & 0x7f) << shift;
        answer.push(digit[0]);
    }
    if length > ANSWER_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let head = answer.len();
    answer.resize(head + length, 0);
    stream.read_exact(&mut answer[head..])?;
    Ok(answer)
}

fn packet(answer: &[u8]) -> Result<mqtt::Packet<'_>, Malformed> {
    match mqtt::split(answer)? {
        Some((packet, _)) => Ok(packet),
        None => Err(Malformed("answer")),
    }
}
