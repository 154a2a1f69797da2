//! The port for those who run us: is it alive, is it ready, what does it count, which version is it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::{Readiness, Registry, Stop};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the admin port shows.
pub struct AdminParts {
    /// Name of the role, e.g. `relay`.
    pub name: &'static str,
    /// Version of the program.
    pub version: &'static str,
    /// Metrics behind `/metrics`.
    pub registry: Registry,
    /// List behind `/ready`.
    pub readiness: Readiness,
    /// More routes, merged in; `Router::new()` for none.
    pub routes: Router,
}

/// Why there is no admin port.
#[derive(Debug, thiserror::Error)]
pub enum AdminFault {
    /// It would be open to the network.
    #[error("admin.listen is {0}, which others can reach; give a loopback address like 127.0.0.1:9090")]
    NotLoopback(SocketAddr),
    /// The address is taken or not ours.
    #[error("admin.listen: can't listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// Serving ended.
    #[error("the admin port failed: {0}")]
    Serve(#[source] io::Error),
}

/// A bound admin port. It answers once [`Admin::serve`] runs.
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
    routes: Router,
}

impl Admin {
    /// Binds `listen`, which must be a loopback address: nobody logs in here.
    pub async fn bind(listen: SocketAddr, parts: AdminParts) -> Result<Self, AdminFault> {
        if !listen.ip().is_loopback() {
            return Err(AdminFault::NotLoopback(listen));
        }
        let fault = |source| AdminFault::Bind { address: listen, source };
        let listener = TcpListener::bind(listen).await.map_err(fault)?;
        let address = listener.local_addr().map_err(fault)?;
        Ok(Self { listener, address, routes: routes(parts) })
    }

    /// The address, with the port that the system gave.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until told to stop. Add it as the first unit, so that it is the last to go.
    pub async fn serve(self, stop: Stop) -> Result<(), AdminFault> {
        // Connections that are kept alive are cut when the unit returns, not waited for.
        let serving = axum::serve(self.listener, self.routes).into_future();
        tokio::select! {
            ended = serving => ended.map_err(AdminFault::Serve),
            () = stop.stopped() => Ok(()),
        }
    }
}

fn routes(parts: AdminParts) -> Router {
    let AdminParts { name, version, registry, readiness, routes } = parts;
    let version = Arc::new(format!("{name} {version}\n"));
    Router::new()
        .route("/live", get(|| async { "alive\n" }))
        .route("/ready", get(ready).with_state(readiness))
        .route("/metrics", get(metrics).with_state(registry))
        .route("/version", get(|| async move { version.to_string() }))
        .merge(routes)
}

async fn ready(State(readiness): State<Readiness>) -> impl IntoResponse {
    let waiting = readiness.waiting_for();
    if waiting.is_empty() {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    let list = waiting.iter().map(|(part, why)| format!("{part}: {why}\n")).collect();
    (StatusCode::SERVICE_UNAVAILABLE, list)
}

async fn metrics(State(registry): State<Registry>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, OPENMETRICS)], registry.encode())
}
