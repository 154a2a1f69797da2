//! From a fresh connection to a session, or to a refusal with the right code.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::codec::connect::{Connect, Rejected};
use crate::codec::{Fault, Framed, check_flags, frame, kind, write};
use crate::core::{Core, Seat};
use crate::intake::Client;
use crate::metrics::Reason;
use crate::policy::Denied;
use crate::session::Session;

/// A CONNECT with a will and a password fits; nobody who is not known yet may make us hold more.
const CONNECT_BYTES_MAX: usize = 192 * 1024;
/// How long a refusal may take to be written.
const GOODBYE: Duration = Duration::from_secs(2);

/// A refusal: the codes of both versions, and the reason for the metric.
struct Refused {
    v5: bool,
    code: u8,
    reason: Reason,
}

impl Refused {
    fn new(v5: bool, new: u8, old: u8, reason: Reason) -> Refused {
        Refused { v5, code: if v5 { new } else { old }, reason }
    }
}

/// Shakes hands. `None`: the connection is done with.
pub(crate) async fn shake<S>(core: &Arc<Core>, mut stream: S, peer: SocketAddr, full: bool) -> Option<Session<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let read = tokio::time::timeout(core.settings.handshake_deadline, read_connect(&mut stream)).await;
    let (connect, rest) = match read {
        Err(_) => {
            core.metrics.refused(Reason::HandshakeDeadline);
            return None;
        }
        Ok(None) => return None,
        Ok(Some(read)) => read,
    };
    let outcome = match connect {
        Ok(connect) if full => Err(Refused::new(connect.v5, 0x97, 3, Reason::ConnectionsMax)),
        Ok(connect) => admit(core, connect, peer).await,
        Err(Rejected::Version(level)) => Err(Refused::new(level >= 5, 0x84, 1, Reason::ProtocolVersion)),
        Err(Rejected::ClientId) => Err(Refused::new(false, 0x85, 2, Reason::Protocol)),
        Err(Rejected::Fault(fault)) => {
            tracing::debug!(%peer, %fault, "connect refused");
            core.metrics.refused(Reason::Malformed);
            return None;
        }
    };
    let mut answer = Vec::with_capacity(64);
    match outcome {
        Ok(admitted) => {
            let limits = &core.settings;
            let keep_alive_max = u16::try_from(limits.keep_alive_max.as_secs()).unwrap_or(u16::MAX);
            let asked = admitted.connect.keep_alive;
            let shortened = keep_alive_max > 0 && (asked == 0 || asked > keep_alive_max);
            let keep_alive = if shortened { keep_alive_max } else { asked };
            let welcome = write::Welcome {
                receive_maximum: limits.receive_maximum,
                maximum_packet_size: u32::try_from(limits.packet_bytes_max).unwrap_or(u32::MAX),
                assigned_client_id: admitted.assigned.then_some(&admitted.client.id),
                server_keep_alive: shortened.then_some(keep_alive),
                session_expiry_refused: admitted.connect.session_expiry > 0,
            };
            write::welcome(&mut answer, admitted.connect.v5, &welcome);
            core.metrics.accepted();
            tracing::debug!(%peer, client = admitted.client.id, "connected");
            Some(Session::new(core.clone(), stream, admitted.client, admitted.connect, keep_alive, admitted.seat, rest, answer))
        }
        Err(refused) => {
            core.metrics.refused(refused.reason);
            tracing::debug!(%peer, reason = ?refused.reason, "connect refused");
            write::turned_away(&mut answer, refused.v5, refused.code);
            let said = tokio::time::timeout(GOODBYE, async {
                stream.write_all(&answer).await?;
                stream.shutdown().await
            });
            if let Ok(Err(fault)) = said.await {
                tracing::debug!(%peer, %fault, "the refusal did not get through");
            }
            None
        }
    }
}

struct Admitted {
    connect: Connect,
    client: Client,
    seat: Seat,
    assigned: bool,
}

async fn admit(core: &Arc<Core>, mut connect: Connect, peer: SocketAddr) -> Result<Admitted, Refused> {
    let v5 = connect.v5;
    if connect.authentication_method {
        return Err(Refused::new(v5, 0x8C, 5, Reason::Unsupported));
    }
    if connect.will.as_ref().is_some_and(|will| will.retain) {
        return Err(Refused::new(v5, 0x9A, 5, Reason::Unsupported));
    }
    let password = connect.password.take();
    let user = match core.policy.authenticate(connect.user.as_deref(), password.as_deref(), core.clock.now()).await {
        Ok(user) => user,
        Err(Denied::WrongCredentials | Denied::WrongToken) => return Err(Refused::new(v5, 0x86, 4, Reason::BadCredentials)),
        Err(Denied::NoCredentials) => return Err(Refused::new(v5, 0x87, 5, Reason::BadCredentials)),
        Err(Denied::Unavailable) => return Err(Refused::new(v5, 0x88, 3, Reason::Unavailable)),
    };
    let assigned = connect.client_id.is_empty();
    let id =
        if assigned { format!("auto-{}-{}", core.clock.now(), core.number()) } else { std::mem::take(&mut connect.client_id) };
    let Ok(seat) = Seat::take(core, &id, user.clone()) else {
        return Err(Refused::new(v5, 0x85, 2, Reason::NotAuthorized));
    };
    let client = Client { id, user, peer, v5 };
    Ok(Admitted { connect, client, seat, assigned })
}

/// Reads until the first packet is whole. `None`: the peer went away, or sent what is not MQTT at all.
async fn read_connect<S: AsyncRead + Unpin>(stream: &mut S) -> Option<(Result<Connect, Rejected>, Vec<u8>)> {
    let mut bytes = Vec::with_capacity(256);
    loop {
        if bytes.first().is_some_and(|first| *first != kind::CONNECT << 4) {
            return Some((Err(Fault::Malformed("the first packet is not CONNECT").into()), Vec::new()));
        }
        match frame(&bytes, CONNECT_BYTES_MAX) {
            Ok(Framed::Partial(_)) => {}
            Ok(Framed::Whole { first, body, size }) => {
                let connect = check_flags(first).map_err(Rejected::from).and_then(|()| Connect::parse(body));
                bytes.drain(..size);
                bytes.shrink_to_fit();
                return Some((connect, bytes));
            }
            Err(fault) => return Some((Err(fault.into()), Vec::new())),
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}
