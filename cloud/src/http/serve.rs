//! Accepting HTTP connections: so many at once, each with a deadline for its request, all told when the cloud stops.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use chassis::Stop;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// From the end of an answer (or from accepting) to a complete request head: a silent or dripping client is closed then.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);
/// How long a connection may take to finish the answer in hand when the cloud stops.
const GOODBYE: Duration = Duration::from_secs(2);
/// Pause after an accept that failed, for example because no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until told to stop; then every connection finishes the answer in hand.
pub(crate) async fn serve(listener: Arc<TcpListener>, connections_max: usize, routes: Router, stop: Stop) {
    let room = Arc::new(Semaphore::new(connections_max));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.stopped() => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &room) => accepted,
        };
        match accepted {
            Ok((stream, permit)) => {
                let (routes, stop) = (routes.clone(), stop.clone());
                connections.spawn(async move {
                    connection(stream, routes, stop).await;
                    drop(permit);
                });
            }
            Err(fault) => {
                tracing::warn!(error = %fault, "an HTTP connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = room.clone().acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

async fn connection(stream: TcpStream, routes: Router, stop: Stop) {
    // An answer is written at once; without this its last part may wait for an acknowledgement.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_DEADLINE)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.stopped() => {
            serving.as_mut().graceful_shutdown();
            // A request that never ends is not waited for.
            tokio::time::timeout(GOODBYE, serving).await.unwrap_or(Ok(()))
        }
    };
    if let Err(fault) = ended {
        tracing::debug!(error = %fault, "an HTTP connection ended badly");
    }
}
