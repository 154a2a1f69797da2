//! What the members of a group and the cloud say about who is the proxy.
//!
//! ```text
//! up/{relay}/stats     [1, group tstr, relay epoch uint, beat uint, term uint, address tstr, done bool, period uint, [[period number uint, bytes uint], …]]
//! down/{relay}/lease   [1, group tstr, beat uint, term uint, holder tstr, address tstr, ttl uint, [time uint, bytes uint, frames uint]]
//! ```
//!
//! Every member sends a heartbeat by the way that its frames take, and the cloud answers each with the lease as it stands. The holder's
//! own heartbeats renew the lease; a member whose heartbeats stay unanswered knows that its way up is broken.

use std::time::Duration;

use crate::cbor::{Fault, Strict, put_array, put_bool, put_text, put_uint};
use crate::frame::check_version;
use crate::ids::{Epoch, RelayId};

/// Periods that one heartbeat tells, at most.
pub const PERIODS_MAX: usize = 1_024;
/// Longest address, in bytes: a host name and a port.
pub const ADDRESS_BYTES_MAX: usize = 262;

/// A member's heartbeat, and what it collected (A9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// The group that the relay belongs to: one segment, like a relay's name.
    pub group: RelayId,
    /// The relay's database.
    pub relay_epoch: Epoch,
    /// Number of the heartbeat, growing while the relay runs; the answer repeats it.
    pub beat: u64,
    /// Term of the lease that the relay knows; 0 for none.
    pub term: u64,
    /// Where the other members reach this one, `host:port`; empty if they can't, and then it is never proxy.
    pub address: String,
    /// From the holder: the condition that ends its term is met (A8).
    pub done: bool,
    /// Length of a period.
    pub period: Duration,
    /// Bytes collected from sensors in each recent period, the current one included: number of the period since 1970, and its
    /// count so far. What was told before is told again with the same or a larger count.
    pub collected: Vec<(u64, u64)>,
}

/// The lease of a group as the cloud tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The group.
    pub group: RelayId,
    /// The heartbeat that this answers; 0 when the cloud speaks unasked.
    pub beat: u64,
    /// Grows by one with each lease of the group; 0 while there was none.
    pub term: u64,
    /// Who is the proxy; `None`: nobody, each member talks to the cloud directly.
    pub holder: Option<RelayId>,
    /// Where the members reach the holder.
    pub address: String,
    /// How long the lease holds from the moment when the heartbeat was sent.
    pub ttl: Duration,
    /// When the holder's term ends.
    pub until: TermLimits,
}

/// The preset condition that ends a term (A8): whichever limit is reached first. Zero is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TermLimits {
    /// Time served.
    pub time: Duration,
    /// Bytes of frames that were passed on, the holder's own included.
    pub bytes: u64,
    /// Frames that were passed on, the holder's own included.
    pub frames: u64,
}

impl TermLimits {
    /// Whether a holder that has served so long and passed on so much is done. Checked after each forward.
    #[must_use]
    pub fn reached(&self, served: Duration, bytes: u64, frames: u64) -> bool {
        (!self.time.is_zero() && served >= self.time)
            || (self.bytes != 0 && bytes >= self.bytes)
            || (self.frames != 0 && frames >= self.frames)
    }
}

fn name(text: &str, field: &'static str) -> Result<RelayId, Fault> {
    text.parse().map_err(|_| Fault::Rule { field, rule: "is not a valid name" })
}

fn address(text: &str) -> Result<String, Fault> {
    let plain = text.len() <= ADDRESS_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
    if plain { Ok(text.to_owned()) } else { Err(Fault::Rule { field: "address", rule: "is not host:port of at most 262 bytes" }) }
}

fn put_millis(out: &mut Vec<u8>, span: Duration) {
    put_uint(out, u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
}

impl Heartbeat {
    /// Reads a heartbeat.
    ///
    /// # Errors
    /// [`Fault`] for anything but a canonical heartbeat whose periods rise.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let mut r = Strict::new(bytes);
        r.array_of(9, "heartbeat")?;
        check_version(r.uint()?)?;
        let group = name(r.text()?, "group")?;
        let relay_epoch = Epoch(r.uint()?);
        let beat = r.uint()?;
        let term = r.uint()?;
        let address = address(r.text()?)?;
        let done = r.bool()?;
        let period = Duration::from_millis(r.uint()?);
        if period.is_zero() {
            return Err(Fault::Rule { field: "period", rule: "is zero" });
        }
        let count = r.array()?;
        if count > PERIODS_MAX as u64 {
            return Err(Fault::Rule { field: "collected", rule: "is of more than 1024 periods" });
        }
        let mut collected: Vec<(u64, u64)> = Vec::new();
        for _ in 0..count {
            r.array_of(2, "collected")?;
            let number = r.uint()?;
            if collected.last().is_some_and(|(last, _)| *last >= number) {
                return Err(Fault::Rule { field: "collected", rule: "has periods that do not rise" });
            }
            collected.push((number, r.uint()?));
        }
        r.end()?;
        Ok(Self { group, relay_epoch, beat, term, address, done, period, collected })
    }

    /// Writes the heartbeat.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + 12 * self.collected.len());
        put_array(&mut out, 9);
        put_uint(&mut out, 1);
        put_text(&mut out, self.group.as_str());
        put_uint(&mut out, self.relay_epoch.0);
        put_uint(&mut out, self.beat);
        put_uint(&mut out, self.term);
        put_text(&mut out, &self.address);
        put_bool(&mut out, self.done);
        put_millis(&mut out, self.period);
        put_array(&mut out, self.collected.len() as u64);
        for (number, bytes) in &self.collected {
            put_array(&mut out, 2);
            put_uint(&mut out, *number);
            put_uint(&mut out, *bytes);
        }
        out
    }
}

impl Lease {
    /// Reads a lease.
    ///
    /// # Errors
    /// [`Fault`] for anything but a canonical lease.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let mut r = Strict::new(bytes);
        r.array_of(8, "lease")?;
        check_version(r.uint()?)?;
        let group = name(r.text()?, "group")?;
        let beat = r.uint()?;
        let term = r.uint()?;
        let holder = match r.text()? {
            "" => None,
            text => Some(name(text, "holder")?),
        };
        let address = address(r.text()?)?;
        let ttl = Duration::from_millis(r.uint()?);
        r.array_of(3, "until")?;
        let until = TermLimits { time: Duration::from_millis(r.uint()?), bytes: r.uint()?, frames: r.uint()? };
        r.end()?;
        Ok(Self { group, beat, term, holder, address, ttl, until })
    }

    /// Writes the lease.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(96);
        put_array(&mut out, 8);
        put_uint(&mut out, 1);
        put_text(&mut out, self.group.as_str());
        put_uint(&mut out, self.beat);
        put_uint(&mut out, self.term);
        put_text(&mut out, self.holder.as_ref().map_or("", RelayId::as_str));
        put_text(&mut out, &self.address);
        put_millis(&mut out, self.ttl);
        put_array(&mut out, 3);
        put_millis(&mut out, self.until.time);
        put_uint(&mut out, self.until.bytes);
        put_uint(&mut out, self.until.frames);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heartbeat() -> Heartbeat {
        Heartbeat {
            group: "north".parse().unwrap(),
            relay_epoch: Epoch(7),
            beat: 12,
            term: 3,
            address: "10.0.0.7:1883".to_owned(),
            done: true,
            period: Duration::from_secs(60),
            collected: vec![(4, 1_000), (5, 0), (9, 70_000)],
        }
    }

    #[test]
    fn a_heartbeat_is_read_back_as_it_was_written() {
        let beat = heartbeat();
        assert_eq!(Heartbeat::parse(&beat.encode()), Ok(beat.clone()));
        for broken in [
            Heartbeat { collected: vec![(5, 1), (5, 2)], ..beat.clone() },
            Heartbeat { address: "a b".to_owned(), ..beat.clone() },
            Heartbeat { period: Duration::ZERO, ..beat.clone() },
            Heartbeat { collected: (0..=PERIODS_MAX as u64).map(|number| (number, 1)).collect(), ..beat },
        ] {
            assert!(matches!(Heartbeat::parse(&broken.encode()), Err(Fault::Rule { .. })), "{broken:?}");
        }
    }

    #[test]
    fn a_lease_is_read_back_as_it_was_written() {
        let until = TermLimits { time: Duration::from_secs(3_600), bytes: 0, frames: 9 };
        for holder in [None, Some("relay-2".parse().unwrap())] {
            let address = "relay-2.north:1883".to_owned();
            let ttl = Duration::from_millis(1_500);
            let lease = Lease { group: "north".parse().unwrap(), beat: 8, term: 4, holder, address, ttl, until };
            assert_eq!(Lease::parse(&lease.encode()), Ok(lease));
        }
    }

    #[test]
    fn a8_a_term_ends_at_the_first_limit_that_is_reached() {
        let limits = TermLimits { time: Duration::from_secs(10), bytes: 100, frames: 0 };
        assert!(!limits.reached(Duration::from_secs(9), 99, u64::MAX));
        assert!(limits.reached(Duration::from_secs(10), 0, 0));
        assert!(limits.reached(Duration::ZERO, 100, 0));
        assert!(!TermLimits::default().reached(Duration::MAX, u64::MAX, u64::MAX), "without a limit a term has no end");
    }
}
