//! The bytes that a socket brought and that are not parsed yet, in one buffer that is never reallocated.

use std::io::{self, Read};

use crate::mqtt::{self, Malformed, Packet};

pub(crate) struct Inbox {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

/// What one read brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Nothing is there now.
    Nothing,
    /// Bytes; `drained` when the socket had no more than the buffer took.
    Bytes { drained: bool },
    /// The peer has closed.
    Closed,
}

impl Inbox {
    /// `capacity` bounds the largest packet.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { bytes: vec![0; capacity].into_boxed_slice(), start: 0, end: 0 }
    }

    /// Reads once.
    pub(crate) fn read(&mut self, stream: &mut impl Read) -> io::Result<Arrival> {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let room = &mut self.bytes[self.end..];
        if room.is_empty() {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        let size = room.len();
        loop {
            match stream.read(room) {
                Ok(0) => return Ok(Arrival::Closed),
                Ok(count) => {
                    self.end += count;
                    return Ok(Arrival::Bytes { drained: count < size });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Arrival::Nothing);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes the next whole packet.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<Packet<'_>>, Malformed> {
        match mqtt::split(&self.bytes[self.start..self.end])? {
            Some((packet, whole)) => {
                self.start += whole;
                Ok(Some(packet))
            }
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_cut_anywhere_come_out_whole() {
        let stream: Vec<u8> = (0..100u8).flat_map(|id| [0x40, 2, 0, id]).collect();
        for chunk in 1..9 {
            let mut inbox = Inbox::new(16);
            let mut seen = Vec::new();
            for piece in stream.chunks(chunk) {
                let mut piece = piece;
                assert_eq!(inbox.read(&mut piece).unwrap(), Arrival::Bytes { drained: true });
                while let Some(packet) = inbox.next().unwrap() {
                    seen.push(packet.body[1]);
                }
            }
            assert_eq!(seen, (0..100).collect::<Vec<u8>>());
        }
    }

    #[test]
    fn a_packet_larger_than_the_buffer_is_an_error() {
        let mut inbox = Inbox::new(8);
        let bytes = [0x30, 100, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut source = &bytes[..];
        assert_eq!(inbox.read(&mut source).unwrap(), Arrival::Bytes { drained: false });
        assert_eq!(inbox.next().unwrap(), None);
        assert!(inbox.read(&mut source).is_err());
    }
}
