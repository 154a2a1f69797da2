//! Why something did not work, sorted by what the caller can do about it.

/// Why a publish was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The connection ended before the acknowledgement: the peer may or may not have it. Send it again from your own store.
    #[error("the connection ended before the acknowledgement")]
    Lost,
    /// The peer said no; it will say no again unless something changes there.
    #[error("the peer refused the publish: {}", reason_text(*reason_code))]
    Refused {
        /// MQTT 5 reason code, 0x80 or above.
        reason_code: u8,
    },
    /// It can't be said in MQTT; nothing was sent.
    #[error("the message can't be sent: {0}")]
    Invalid(&'static str),
    /// The peer takes no packet of this size; nothing was sent.
    #[error("the packet has {bytes} bytes, the peer takes {max}")]
    TooLarge {
        /// Size of the whole packet.
        bytes: usize,
        /// What the peer allows.
        max: usize,
    },
    /// The link was closed by its owner.
    #[error("the link is closed")]
    Closed,
}

impl PublishError {
    /// True when the peer said that it is full (`QuotaExceeded`): wait and send again.
    pub fn is_quota(&self) -> bool {
        matches!(self, Self::Refused { reason_code: 0x97 })
    }
}

/// Why a subscription does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// The peer refused the filter; it is not remembered.
    #[error("the peer refused the filter: {}", reason_text(*reason_code))]
    Refused {
        /// MQTT 5 reason code, 0x80 or above.
        reason_code: u8,
    },
    /// It is not a valid filter; nothing was sent.
    #[error("the filter is not valid: {0}")]
    Invalid(&'static str),
    /// The link was closed by its owner.
    #[error("the link is closed")]
    Closed,
}

/// The name that the MQTT 5 standard gives a reason code, with the code.
pub fn reason_text(code: u8) -> String {
    let name = match code {
        0x80 => "unspecified error",
        0x81 => "malformed packet",
        0x82 => "protocol error",
        0x83 => "implementation specific error",
        0x84 => "unsupported protocol version",
        0x85 => "client identifier not valid",
        0x86 => "bad user name or password",
        0x87 => "not authorized",
        0x88 => "server unavailable",
        0x89 => "server busy",
        0x8A => "banned",
        0x8B => "server shutting down",
        0x8C => "bad authentication method",
        0x8D => "keep alive timeout",
        0x8E => "session taken over",
        0x8F => "topic filter invalid",
        0x90 => "topic name invalid",
        0x91 => "packet identifier in use",
        0x93 => "receive maximum exceeded",
        0x95 => "packet too large",
        0x96 => "message rate too high",
        0x97 => "quota exceeded",
        0x98 => "administrative action",
        0x99 => "payload format invalid",
        0x9A => "retain not supported",
        0x9B => "QoS not supported",
        0x9C => "use another server",
        0x9D => "server moved",
        0x9E => "shared subscriptions not supported",
        0x9F => "connection rate exceeded",
        0xA1 => "subscription identifiers not supported",
        0xA2 => "wildcard subscriptions not supported",
        _ => "unknown reason",
    };
    format!("{name} (0x{code:02x})")
}
