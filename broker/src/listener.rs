//! Accepting connections: one task each, so that no peer holds up another.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chassis::Stop;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::core::Core;
use crate::handshake;
use crate::metrics::Reason;

/// Connections that are being told that there is no room. Beyond, they are closed without a word.
const REFUSING_MAX: usize = 256;
/// After accept has failed (no file descriptors, mostly): wait for some to come free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Listens until told to stop, then waits for its connections to end. When it is dropped they end at once.
pub(crate) async fn listen(core: Arc<Core>, listener: TcpListener, stop: Stop) {
    let mut tasks = JoinSet::new();
    let stopped = stop.stopped();
    tokio::pin!(stopped);
    loop {
        let accepted = tokio::select! {
            () = &mut stopped => break,
            Some(ended) = tasks.join_next() => {
                if let Err(fault) = ended {
                    tracing::error!(%fault, "a connection's task failed");
                }
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => take(&core, stream, peer, &mut tasks),
            Err(fault) => {
                tracing::warn!(%fault, "can't accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while tasks.join_next().await.is_some() {}
}

fn take(core: &Arc<Core>, stream: TcpStream, peer: SocketAddr, tasks: &mut JoinSet<()>) {
    if let Err(fault) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %fault, "the connection is gone already");
        return;
    }
    let place = Place::take(core);
    let max = core.settings.connections_max;
    if place.rank > max.saturating_add(REFUSING_MAX) {
        core.metrics.refused(Reason::ConnectionsMax);
        return;
    }
    let full = place.rank > max;
    tasks.spawn(serve(core.clone(), stream, peer, full, place));
}

async fn serve<S>(core: Arc<Core>, stream: S, peer: SocketAddr, full: bool, place: Place)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    // Boxed, so that what shaking hands needs is gone while the session runs.
    let session = Box::pin(handshake::shake(&core, stream, peer, full)).await;
    if let Some(session) = session {
        session.run().await;
    }
    drop(place);
}

/// One of the places that `connections_max` counts; given back when it is dropped.
struct Place {
    core: Arc<Core>,
    /// How many are taken, this one included.
    rank: usize,
}

impl Place {
    fn take(core: &Arc<Core>) -> Place {
        core.metrics.opened();
        Place { rank: core.open.fetch_add(1, Ordering::AcqRel) + 1, core: core.clone() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.core.open.fetch_sub(1, Ordering::AcqRel);
        self.core.metrics.ended();
    }
}
