//! A node of the chain: where it is asked, and how. Its address may carry a password or a key, so only its place is ever shown.

use std::fmt;
use std::path::PathBuf;
use std::task::{Context, Poll};
use std::time::Duration;

use alloy::rpc::json_rpc::{RequestPacket, ResponsePacket};
use alloy::transports::{TransportError, TransportErrorKind, TransportFut};
use chassis::web;
use reqwest::{Client, Response, Url};
use serde::Deserialize;
use tower_service::Service;

use crate::limits;

/// Where the chain is asked, by JSON-RPC. Shows as scheme, host and port.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct Node {
    address: String,
    ca: Option<PathBuf>,
}

impl Node {
    /// A node at `address`, `http://…` or `https://…`. It is looked at when it is used.
    #[must_use]
    pub fn new(address: impl Into<String>) -> Self {
        Self { address: address.into(), ca: None }
    }

    /// The same, whose certificate must be of an authority in this file (PEM). Without it the authorities of the machine are trusted.
    #[must_use]
    pub fn trusting(mut self, ca: Option<PathBuf>) -> Self {
        self.ca = ca;
        self
    }

    pub(crate) fn url(&self) -> Result<Url, AddressFault> {
        let url: Url = self.address.parse().map_err(|_| AddressFault::Scheme)?;
        match (url.scheme(), &self.ca) {
            ("http", Some(_)) => Err(AddressFault::UselessCa),
            ("http" | "https", _) if url.has_host() => Ok(url),
            _ => Err(AddressFault::Scheme),
        }
    }

    pub(crate) fn wire(&self, timeout: Duration) -> Result<Wire, AddressFault> {
        let url = self.url()?;
        let client = web::client(&url, self.ca.as_deref())?
            .connect_timeout(timeout.min(limits::CONNECT_TIMEOUT))
            .timeout(timeout)
            .build()
            .map_err(|fault| web::TrustFault::Client(web::explain(fault)))?;
        Ok(Wire { client, url })
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&web::place_of(&self.address))
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({self})")
    }
}

impl From<String> for Node {
    fn from(address: String) -> Self {
        Self::new(address)
    }
}

impl From<&String> for Node {
    fn from(address: &String) -> Self {
        Self::new(address)
    }
}

impl From<&str> for Node {
    fn from(address: &str) -> Self {
        Self::new(address)
    }
}

impl From<&Node> for Node {
    fn from(node: &Node) -> Self {
        node.clone()
    }
}

/// A node that can't be asked. None of these carries the address.
#[derive(Debug, thiserror::Error)]
pub enum AddressFault {
    /// It is no address of a node.
    #[error("rpc must be an http:// or https:// address")]
    Scheme,
    /// An authority for an address without TLS.
    #[error("rpc_ca (--ca) is for https://; rpc is an http:// address, whose answers anybody on the way can change")]
    UselessCa,
    /// Nobody can be trusted.
    #[error(transparent)]
    Trust(#[from] web::TrustFault),
}

/// Carries requests to one node. It logs nothing and puts the address into no error; alloy's own does both.
#[derive(Clone)]
pub(crate) struct Wire {
    client: Client,
    url: Url,
}

impl Wire {
    /// Whether the node is on this machine.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self.url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"))
    }

    async fn ask(self, packet: RequestPacket) -> Result<ResponsePacket, TransportError> {
        let place = web::place(&self.url);
        let failed = |fault| TransportErrorKind::custom_str(&format!("{place}: {}", web::explain(fault)));
        let request = self.client.post(self.url.clone()).headers(packet.headers()).json(&packet);
        let response = request.send().await.map_err(failed)?;
        let status = response.status();
        let body = match bounded(response).await.map_err(failed)? {
            Some(body) => body,
            None => return Err(TransportErrorKind::custom_str(&format!("{place}: its answer is too long"))),
        };
        match serde_json::from_slice::<ResponsePacket>(&body) {
            Ok(answer) if status.is_success() || answer.as_error().is_some() => Ok(answer),
            // What else stands there may repeat the address.
            _ if !status.is_success() => Err(TransportErrorKind::custom_str(&format!("{place} answered HTTP {status}"))),
            _ => Err(TransportErrorKind::custom_str(&format!("{place}: its answer is not JSON-RPC"))),
        }
    }
}

/// The body, unless it is longer than any answer that is asked for.
async fn bounded(mut response: Response) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await? {
        if body.len() + piece.len() > limits::ANSWER_BYTES_MAX {
            return Ok(None);
        }
        body.extend_from_slice(&piece);
    }
    Ok(Some(body))
}

impl Service<RequestPacket> for Wire {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, packet: RequestPacket) -> Self::Future {
        Box::pin(self.clone().ask(packet))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_shows_its_place_and_keeps_the_rest_to_itself() {
        let node = Node::new("https://user:secret@node.example.net:8443/v3/secret?key=secret");
        assert_eq!(
            (node.to_string(), format!("{node:?}")),
            ("https://node.example.net:8443".to_owned(), "Node(https://node.example.net:8443)".to_owned())
        );
        for address in ["127.0.0.1:8545", "ws://user:secret@node.example.net", "secret", "", "https://", "file:///secret"] {
            let fault = Node::new(address).wire(Duration::from_secs(1)).err().unwrap();
            assert!(matches!(fault, AddressFault::Scheme) && !fault.to_string().contains("secret"), "{address}: {fault}");
        }
        let useless = Node::new("http://127.0.0.1:8545").trusting(Some("ca.pem".into()));
        assert!(matches!(useless.url(), Err(AddressFault::UselessCa)));
    }
}
