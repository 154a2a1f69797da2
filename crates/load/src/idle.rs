//! Many connections that say nothing: what each costs the broker in resident memory.

use std::fs;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use crate::Error;
use crate::faults::Faults;
use crate::report::IdleReport;
use crate::session::{self, Endpoint, PING_EVERY, Session};

/// Connections from one source address, well below its ephemeral ports.
const CONNECTIONS_A_SOURCE: usize = 10_000;
/// Opening takes at most this long.
const OPENING_MAX: Duration = Duration::from_secs(120);
/// A broker that refuses this many in a row will refuse the others too.
const REFUSALS_MAX: u32 = 20;

/// Opens the connections, lets them settle, and looks at the broker's memory before and after.
pub(crate) fn run(endpoint: &Endpoint, count: usize, pid: Option<u32>, settle: Duration) -> Result<IdleReport, Error> {
    let before = pid.map(resident_bytes).transpose()?;
    let began = Instant::now();
    let mut faults = Faults::default();
    let mut sessions = Vec::with_capacity(count);
    let mut refusals_in_a_row = 0;
    for number in 0..count {
        let id = format!("idle-{number}");
        match session::open(endpoint, &id, source(endpoint.address, number)) {
            Ok(session) => {
                sessions.push(session);
                refusals_in_a_row = 0;
            }
            Err(refusal) => {
                faults.count(refusal.to_string());
                refusals_in_a_row += 1;
            }
        }
        if refusals_in_a_row >= REFUSALS_MAX {
            faults.count("gave up after refusals in a row");
            break;
        }
        // Well inside the keep-alive of the first, so that nobody is thrown out while the others come.
        if began.elapsed() > OPENING_MAX.min(PING_EVERY * 3) {
            faults.count("gave up: opening takes too long");
            break;
        }
    }
    let opening = began.elapsed();
    thread::sleep(settle.min(PING_EVERY));
    let after = pid.map(resident_bytes).transpose()?;
    let connected = sessions.len();
    let alive = sessions.iter_mut().filter_map(|session| still_open(session).then_some(())).count();
    let grown = before.zip(after).map(|(before, after)| after.saturating_sub(before));
    Ok(IdleReport {
        asked: count,
        connected,
        still_connected: alive,
        opening_seconds: opening.as_secs_f64(),
        resident_bytes_before: before,
        resident_bytes_after: after,
        resident_bytes_per_connection: grown.filter(|_| connected > 0).map(|grown| grown as f64 / connected as f64),
        errors: faults.into_counts(),
    })
}

fn source(broker: SocketAddr, number: usize) -> Option<IpAddr> {
    let block = u8::try_from(number / CONNECTIONS_A_SOURCE).ok()?;
    (broker.is_ipv4() && block > 0).then(|| Ipv4Addr::new(127, 0, 1, block).into())
}

fn still_open(session: &mut Session) -> bool {
    if session.stream.set_nonblocking(true).is_err() {
        return false;
    }
    match session.stream.read(&mut [0]) {
        Ok(count) => count > 0,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

fn resident_bytes(pid: u32) -> Result<u64, Error> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).map_err(|source| Error::io(path.clone(), source))?;
    resident_in(&status).ok_or_else(|| Error::io(path, io::ErrorKind::InvalidData.into()))
}

fn resident_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resident_set_is_read_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t  9000 kB\nVmRSS:\t    1234 kB\nThreads:\t1\n";
        assert_eq!(resident_in(status), Some(1_234 * 1_024));
        assert_eq!(resident_in("Name:\tx\n"), None);
    }

    #[test]
    fn beyond_one_address_the_next_is_used() {
        let broker: SocketAddr = "127.0.0.1:1883".parse().unwrap();
        assert_eq!(source(broker, 9_999), None);
        assert_eq!(source(broker, 10_000), Some(Ipv4Addr::new(127, 0, 1, 1).into()));
        assert_eq!(source(broker, 29_999), Some(Ipv4Addr::new(127, 0, 1, 2).into()));
    }
}
