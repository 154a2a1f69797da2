//! Uplink frames compressed for the way: neighbours in a frame share names, epochs and times, so that most of what would be sent is said
//! already.
//!
//! A payload on `up/{relay}/frames` is a frame or one Zstandard frame (RFC 8878) of it. They can't be mistaken for each other: a frame
//! begins with 0x88, a CBOR array, and Zstandard with 0x28. Packing is the sender's choice for each frame, and says nothing about the
//! bytes that digests are over.

use std::borrow::Cow;

use crate::cbor::Fault;

/// Below this a frame is sent as it is: there is nothing to share in it.
const PACKED_FROM: usize = 256;
/// The fastest level that finds repeated names; higher ones cost more than the way is worth.
const LEVEL: i32 = 1;
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Packs frames; keeps its working memory from one to the next.
pub struct Packer {
    /// `None`: there was no memory for it, and everything goes as it is.
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

impl Packer {
    /// A packer.
    #[must_use]
    pub fn new() -> Self {
        Self { zstd: zstd::bulk::Compressor::new(LEVEL).ok() }
    }

    /// The payload for a frame: packed if that spares at least an eighth of it, otherwise the frame itself.
    #[must_use]
    pub fn pack(&mut self, frame: Vec<u8>) -> Vec<u8> {
        let Some(zstd) = self.zstd.as_mut().filter(|_| frame.len() >= PACKED_FROM) else { return frame };
        // A target that is too small makes it give up early instead of writing what nobody wants.
        let mut packed = vec![0; frame.len() - frame.len() / 8];
        match zstd.compress_to_buffer(&frame, &mut packed) {
            Ok(length) => {
                packed.truncate(length);
                packed
            }
            Err(_) => frame,
        }
    }
}

impl Default for Packer {
    fn default() -> Self {
        Self::new()
    }
}

/// The frame of a payload; at most `bytes_max` long, whatever a packed one may claim.
///
/// # Errors
/// [`Fault`] if a packed payload is damaged, does not tell its length, or is longer than allowed.
pub fn unpack(payload: &[u8], bytes_max: usize) -> Result<Cow<'_, [u8]>, Fault> {
    if !payload.starts_with(&MAGIC) {
        return Ok(Cow::Borrowed(payload));
    }
    let fault = |rule| Fault::Rule { field: "packed frame", rule };
    let length = zstd::zstd_safe::get_frame_content_size(payload).ok().flatten();
    let length = length.ok_or(fault("does not tell its length"))?;
    let length = usize::try_from(length).ok().filter(|length| *length <= bytes_max).ok_or(fault("is longer than allowed"))?;
    let frame = zstd::bulk::decompress(payload, length).map_err(|_| fault("is damaged"))?;
    match frame.len() == length {
        true => Ok(Cow::Owned(frame)),
        false => Err(fault("is shorter than it says")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of one reading each of many meters, as agents send them all day.
    fn frame() -> Vec<u8> {
        use crate::{Epoch, Operation, RunBuilder, UpFrame};
        let mut runs = Vec::new();
        for meter in 0..200_u64 {
            let mut run = RunBuilder::new(format!("cityA/meter-{meter:04}/power/active").parse().unwrap(), Operation::Forward);
            run.push(1_767_225_600_000_000_000 + meter as i64 * 1_000_003, format!("{}.{meter}", meter % 7).as_bytes()).unwrap();
            run.write(Epoch(meter.wrapping_mul(0x9e37_79b9_7f4a_7c15)), 17, &mut runs);
        }
        let mut bytes = Vec::new();
        let frame = UpFrame {
            relay: "relay-1",
            relay_epoch: Epoch(9),
            number: 77,
            term: 0,
            historical: false,
            secrets: vec![],
            runs: &runs,
        };
        frame.encode(&mut bytes);
        bytes
    }

    #[test]
    fn a_frame_of_many_meters_takes_less_than_half_of_the_way_and_comes_back_as_it_was() {
        let frame = frame();
        let payload = Packer::new().pack(frame.clone());
        assert!(payload.len() * 2 < frame.len(), "{} of {}", payload.len(), frame.len());
        assert_eq!(unpack(&payload, frame.len()).unwrap(), frame);
        assert!(matches!(unpack(&payload, frame.len() - 1), Err(Fault::Rule { rule: "is longer than allowed", .. })));
    }

    #[test]
    fn what_is_short_or_does_not_shrink_goes_as_it_is() {
        let mut packer = Packer::new();
        let mut state = 1_u64;
        let mut noise = vec![0x88];
        noise.resize_with(4_096, || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        });
        for frame in [vec![0x88; 255], noise] {
            assert_eq!(packer.pack(frame.clone()), frame);
            assert!(
                matches!(unpack(&frame, 0), Ok(Cow::Borrowed(same)) if same == frame),
                "a plain frame is limited by its packet"
            );
        }
    }

    #[test]
    fn c10_a_damaged_payload_is_refused_and_never_believed_about_its_length() {
        let frame = frame();
        let payload = Packer::new().pack(frame.clone());
        for at in 0..payload.len() {
            let mut damaged = payload.clone();
            damaged[at] ^= 1 << (at % 8);
            if let Ok(read) = unpack(&damaged, 1 << 20) {
                assert!(read.len() <= 1 << 20, "byte {at}");
            }
            if at > 4 {
                assert!(unpack(&payload[..at], 1 << 20).is_err(), "cut at {at}");
            }
        }
        // Zeros that claim and hold 64 MiB take a few kilobytes on the way.
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], LEVEL).unwrap();
        assert!(bomb.len() < 64 << 10);
        assert!(unpack(&bomb, 16 << 20).is_err());
    }
}
