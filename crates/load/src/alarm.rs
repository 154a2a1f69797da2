//! Waking an event loop at a time finer than the millisecond of `epoll_wait`.

use std::io;
use std::time::Duration;

use mio::{Registry, Token};

use crate::clock::Nanos;

/// An alarm that is an event of the loop: a timer descriptor on Linux, elsewhere the poll's own timeout.
pub(crate) struct Alarm {
    #[cfg(target_os = "linux")]
    timer: std::os::fd::OwnedFd,
}

#[cfg(target_os = "linux")]
impl Alarm {
    pub(crate) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        use std::os::fd::AsRawFd;

        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
        let raw = timer.as_raw_fd();
        registry.register(&mut mio::unix::SourceFd(&raw), token, mio::Interest::READABLE)?;
        Ok(Self { timer })
    }

    /// Sets the alarm; the answer is the timeout to poll with, at most `most`.
    pub(crate) fn set(&self, after: Nanos, most: Duration) -> io::Result<Duration> {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
        if u128::from(after) < most.as_nanos() {
            let value = Timespec {
                tv_sec: (after / 1_000_000_000) as _,
                // Zero in both would disarm it.
                tv_nsec: (after % 1_000_000_000).max(1) as _,
            };
            let setting = Itimerspec { it_interval: Timespec::default(), it_value: value };
            timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &setting)?;
        }
        Ok(most)
    }
}

#[cfg(not(target_os = "linux"))]
impl Alarm {
    pub(crate) fn new(_: &Registry, _: Token) -> io::Result<Self> {
        Ok(Self {})
    }

    /// The timeout to poll with, at most `most`.
    pub(crate) fn set(&self, after: Nanos, most: Duration) -> io::Result<Duration> {
        Ok(most.min(Duration::from_nanos(after)))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::time::Instant;

    use mio::{Events, Poll};

    use super::*;

    #[test]
    fn wakes_before_the_timeout_each_time_it_is_set() {
        let mut poll = Poll::new().unwrap();
        let alarm = Alarm::new(poll.registry(), Token(5)).unwrap();
        let mut events = Events::with_capacity(4);
        for _ in 0..20 {
            let began = Instant::now();
            let timeout = alarm.set(100_000, Duration::from_millis(900)).unwrap();
            poll.poll(&mut events, Some(timeout)).unwrap();
            assert_eq!(events.iter().next().map(|event| event.token()), Some(Token(5)));
            assert!(began.elapsed() >= Duration::from_micros(100));
            assert!(began.elapsed() < Duration::from_millis(900));
        }
    }
}
