//! What the messages carry: a mark that a subscriber reads back, in raw readings or in the records of frames.

use wire::{At, Epoch, EpochSecret, Operation, RunBuilder, Series};

use crate::clock::Nanos;
use crate::mqtt::{Header, Version};

/// A payload at least this long carries its send time.
pub(crate) const STAMP_BYTES: usize = 8;
/// A payload at least this long also says which message of which publisher it is.
pub(crate) const MARK_BYTES: usize = 20;
const NUMBER_BITS: u32 = 48;

/// Which message this is: run (4 bytes), connection (2 bytes) and number (6 bytes), behind the send time (8 bytes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) at: Nanos,
    pub(crate) run: u32,
    pub(crate) connection: u16,
    pub(crate) number: u64,
}

impl Mark {
    /// Writes as much of the mark as fits.
    pub(crate) fn put(&self, payload: &mut [u8]) {
        let identity = u64::from(self.connection) << NUMBER_BITS | self.number & ((1 << NUMBER_BITS) - 1);
        let mut bytes = [0; MARK_BYTES];
        bytes[..8].copy_from_slice(&self.at.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.run.to_be_bytes());
        bytes[12..].copy_from_slice(&identity.to_be_bytes());
        if let Some(room) = payload.get_mut(..MARK_BYTES) {
            room.copy_from_slice(&bytes);
        } else if let Some(room) = payload.get_mut(..STAMP_BYTES) {
            room.copy_from_slice(&bytes[..STAMP_BYTES]);
        }
    }

    /// The mark of a payload that is long enough for all of it.
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let bytes: &[u8; MARK_BYTES] = payload.first_chunk()?;
        let [a, b, c, d, e, f, g, h, run @ .., i, j, k, l, m, n, o, p] = *bytes;
        let identity = u64::from_be_bytes([i, j, k, l, m, n, o, p]);
        Some(Self {
            at: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            run: u32::from_be_bytes(run),
            connection: (identity >> NUMBER_BITS) as u16,
            number: identity & ((1 << NUMBER_BITS) - 1),
        })
    }

    /// The send time alone, of a payload too short for more.
    pub(crate) fn stamp(payload: &[u8]) -> Option<Nanos> {
        payload.first_chunk::<STAMP_BYTES>().map(|bytes| u64::from_be_bytes(*bytes))
    }
}

/// Bytes that do not compress, the same for the same seed: a load of zeros would flatter whoever compresses.
pub(crate) fn filler(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_be_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// Writes the PUBLISH packets of one connection.
pub(crate) enum Source {
    Raw(Raw),
    Frames(Box<Frames>),
}

impl Source {
    /// Appends message `number` of this connection, sent at `at`.
    #[inline]
    pub(crate) fn put(&mut self, out: &mut Vec<u8>, id: u16, number: u64, at: Nanos) {
        match self {
            Self::Raw(raw) => raw.put(out, id, number, at),
            Self::Frames(frames) => frames.put(out, id, number, at),
        }
    }
}

/// One raw reading a message: a packet made once, of which only the packet id and the mark change.
pub(crate) struct Raw {
    packet: Vec<u8>,
    id_at: Option<usize>,
    payload_at: usize,
    run: u32,
    connection: u16,
}

impl Raw {
    pub(crate) fn new(header: &Header, size: usize, run: u32, connection: u16) -> Self {
        let mut packet = Vec::new();
        let id_at = header.put(&mut packet, size);
        let payload_at = packet.len();
        packet.extend_from_slice(&filler(u64::from(connection) + 1, size));
        Self { packet, id_at, payload_at, run, connection }
    }

    #[inline]
    fn put(&self, out: &mut Vec<u8>, id: u16, number: u64, at: Nanos) {
        let start = out.len();
        out.extend_from_slice(&self.packet);
        let packet = &mut out[start..];
        if let Some(at) = self.id_at {
            packet[at..at + 2].copy_from_slice(&id.to_be_bytes());
        }
        let mark = Mark { at, run: self.run, connection: self.connection, number };
        mark.put(&mut packet[self.payload_at..]);
    }
}

/// Frames as an edge agent sends them: one run of one series a frame, sequence numbers from 1 without a gap, the secret
/// of the epoch in the first.
pub(crate) struct Frames {
    header: Header,
    series: Series,
    operation: Operation,
    epoch: Epoch,
    /// What the first frame announces.
    secret: Option<EpochSecret>,
    count: u64,
    began: At,
    run: u32,
    connection: u16,
    payload: Vec<u8>,
    encoded: Vec<u8>,
    frame: Vec<u8>,
}

/// What the frames of one connection have in common.
pub(crate) struct FramePlan {
    pub(crate) version: Version,
    pub(crate) qos: u8,
    pub(crate) series: Series,
    pub(crate) operation: Operation,
    pub(crate) records: u64,
    pub(crate) size: usize,
    /// The wall clock at the zero of the run's clock.
    pub(crate) began: At,
    pub(crate) run: u32,
    pub(crate) connection: u16,
    /// Random: the epoch's id and secret.
    pub(crate) epoch: u64,
    pub(crate) secret: Option<[u8; 32]>,
}

impl Frames {
    pub(crate) fn new(plan: FramePlan) -> Self {
        let topic = format!("op/{}/{}/{}", plan.operation.as_str(), plan.series.area(), plan.series.sensor());
        Self {
            header: Header::new(plan.version, &topic, plan.qos),
            series: plan.series,
            operation: plan.operation,
            epoch: Epoch(plan.epoch),
            secret: plan.secret.map(EpochSecret::new),
            count: plan.records,
            began: plan.began,
            run: plan.run,
            connection: plan.connection,
            payload: filler(u64::from(plan.connection) + 1, plan.size),
            encoded: Vec::new(),
            frame: Vec::new(),
        }
    }

    fn put(&mut self, out: &mut Vec<u8>, id: u16, number: u64, at: Nanos) {
        let first = number * self.count;
        let taken = self.began.saturating_add_unsigned(at);
        let mut run = RunBuilder::new(self.series.clone(), self.operation);
        for record in 0..self.count {
            let mark = Mark { at, run: self.run, connection: self.connection, number: first + record };
            mark.put(&mut self.payload);
            // Refused only beyond limits that the plan has checked.
            let _ = run.push(taken.saturating_add_unsigned(record), &self.payload);
        }
        self.encoded.clear();
        run.write(self.epoch, first + 1, &mut self.encoded);
        let announced = self.secret.clone().filter(|_| number == 0).map(|secret| (self.epoch, secret));
        self.frame.clear();
        wire::encode_frame(announced.as_slice(), &[&self.encoded], &mut self.frame);
        let start = out.len();
        let id_at = self.header.put(out, self.frame.len());
        if let Some(id_at) = id_at {
            debug_assert!(id_at > start);
            out[id_at..id_at + 2].copy_from_slice(&id.to_be_bytes());
        }
        out.extend_from_slice(&self.frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::{incoming, split};

    #[test]
    fn a_mark_is_read_back_and_short_payloads_keep_the_time() {
        let mark = Mark { at: 0x0102_0304_0506_0708, run: 9, connection: 65_535, number: (1 << 48) - 1 };
        let mut payload = [0; MARK_BYTES];
        mark.put(&mut payload);
        assert_eq!(Mark::read(&payload), Some(mark));
        let mut short = [0; MARK_BYTES - 1];
        mark.put(&mut short);
        assert_eq!(Mark::read(&short), None);
        assert_eq!(Mark::stamp(&short), Some(mark.at));
        let mut tiny = [0; 3];
        mark.put(&mut tiny);
        assert_eq!(Mark::stamp(&tiny), None);
    }

    #[test]
    fn raw_packets_differ_in_id_and_mark_only() {
        let header = Header::new(Version::V5, "a/b", 1);
        let mut source = Source::Raw(Raw::new(&header, 100, 7, 3));
        let mut out = Vec::new();
        source.put(&mut out, 0x0102, 5, 77);
        let one = out.len();
        source.put(&mut out, 0x0304, 6, 78);
        let (packet, whole) = split(&out).unwrap().unwrap();
        assert_eq!(whole, one);
        let first = incoming(Version::V5, packet).unwrap();
        let (packet, _) = split(&out[one..]).unwrap().unwrap();
        let second = incoming(Version::V5, packet).unwrap();
        assert_eq!((first.id, second.id), (Some(0x0102), Some(0x0304)));
        assert_eq!(first.payload.len(), 100);
        assert_eq!(first.payload[MARK_BYTES..], second.payload[MARK_BYTES..]);
        let mark = Mark::read(second.payload).unwrap();
        assert_eq!((mark.at, mark.run, mark.connection, mark.number), (78, 7, 3, 6));
    }

    #[test]
    fn frames_are_canonical_and_number_their_records_without_a_gap() {
        for secret in [Some([9; 32]), None] {
            check_frames(secret);
        }
    }

    fn check_frames(secret: Option<[u8; 32]>) {
        let mut frames = Frames::new(FramePlan {
            version: Version::V5,
            qos: 1,
            series: Series::check("bench/meter-1/power").and_then(|()| "bench/meter-1/power".parse()).unwrap(),
            operation: Operation::Forward,
            records: 3,
            size: 40,
            began: 1_000,
            run: 1,
            connection: 2,
            epoch: 0xabc,
            secret,
        });
        let mut next = 1;
        for number in 0..200 {
            let mut out = Vec::new();
            frames.put(&mut out, 1, number, number);
            let (packet, whole) = split(&out).unwrap().unwrap();
            assert_eq!(whole, out.len());
            let message = incoming(Version::V5, packet).unwrap();
            let frame = wire::FrameView::parse(message.payload).unwrap();
            assert_eq!(frame.secrets.len(), usize::from(number == 0 && secret.is_some()));
            for record in frame.runs().flat_map(|run| run.records()) {
                assert_eq!(record.seq, next);
                assert_eq!(record.series, "bench/meter-1/power");
                assert_eq!(Mark::read(record.payload).unwrap().number, next - 1);
                next += 1;
            }
        }
        assert_eq!(next, 601);
    }
}
