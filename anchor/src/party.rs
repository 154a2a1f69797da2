//! Who anchors: each party has a key and a stream of its own.

use alloy::primitives::keccak256;
use serde::{Deserialize, Serialize};
use wire::Digest;

/// Which side of the business a party is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An edge agent, for the sensor beside it.
    Terminal,
    /// The cloud.
    Server,
}

impl Kind {
    /// The word that the stream is made from.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Terminal => "terminal",
            Self::Server => "server",
        }
    }
}

/// Who anchors. Two parties are two witnesses: they share neither key nor stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Party {
    /// Which side it is on.
    pub kind: Kind,
    /// Its name: a terminal's `area/sensor`, a server's own.
    pub name: String,
}

impl Party {
    /// An edge agent.
    #[must_use]
    pub fn terminal(name: impl Into<String>) -> Self {
        Self { kind: Kind::Terminal, name: name.into() }
    }

    /// A cloud.
    #[must_use]
    pub fn server(name: impl Into<String>) -> Self {
        Self { kind: Kind::Server, name: name.into() }
    }

    /// The stream of this party on chain: `keccak256("terminal" || name)` or `keccak256("server" || name)`.
    #[must_use]
    pub fn stream(&self) -> Digest {
        *keccak256([self.kind.as_str().as_bytes(), self.name.as_bytes()].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_party_has_a_stream_of_its_own() {
        let streams = [
            Party::terminal("cityA/meter-1").stream(),
            Party::terminal("cityA/meter-2").stream(),
            Party::server("cityA/meter-1").stream(),
        ];
        assert!(streams[0] != streams[1] && streams[0] != streams[2] && streams[1] != streams[2]);
        assert_eq!(streams[0], *keccak256("terminalcityA/meter-1"));
    }
}
