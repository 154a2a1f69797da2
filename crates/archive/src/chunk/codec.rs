//! Readings as the compressed body of a chunk.
//!
//! ```text
//! body = varint length of what follows before compression, then zstd of
//!        version 1 | times: differences of differences | operations: (operation, how often) … | payloads
//! payloads = 0, lengths, bytes   or   1, decimals
//! ```
//! The sequence numbers stand beside the body, as intervals.

use wire::{Intervals, Operation};

use super::decimal::{Decimals, put_steps, read_steps};
use super::readings::Readings;
use super::varint::{Reader, put};
use crate::error::Damage;

const VERSION: u8 = 1;
const ZSTD_LEVEL: i32 = 3;
/// No chunk is larger before compression: 8192 payloads are cut long before.
const BODY_BYTES_MAX: u64 = 64 << 20;

/// Compresses chunks, one after the other, in one context.
pub(crate) struct Encoder {
    zstd: zstd::bulk::Compressor<'static>,
    plain: Vec<u8>,
}

impl Encoder {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { zstd: zstd::bulk::Compressor::new(ZSTD_LEVEL)?, plain: Vec::new() })
    }

    pub(crate) fn encode(&mut self, readings: &Readings) -> std::io::Result<Vec<u8>> {
        self.plain.clear();
        self.plain.push(VERSION);
        write_columns(readings, &mut self.plain);
        let mut body = Vec::new();
        put(&mut body, self.plain.len() as u64);
        body.extend_from_slice(&self.zstd.compress(&self.plain)?);
        Ok(body)
    }
}

fn write_columns(readings: &Readings, out: &mut Vec<u8>) {
    let mut previous = 0i64;
    put_steps(
        out,
        readings.ats.iter().map(|at| {
            let step = at.wrapping_sub(previous);
            previous = *at;
            step
        }),
    );
    let mut index = 0;
    while index < readings.len() {
        let operation = readings.operations[index];
        let same = readings.operations[index..].iter().take_while(|other| **other == operation).count();
        out.push(operation.code() as u8);
        put(out, same as u64);
        index += same;
    }
    match Decimals::from_texts((0..readings.len()).map(|index| readings.payload(index))) {
        Some(decimals) => {
            out.push(1);
            decimals.encode(out);
        }
        None => {
            out.push(0);
            for index in 0..readings.len() {
                put(out, readings.payload(index).len() as u64);
            }
            out.extend_from_slice(&readings.payloads);
        }
    }
}

/// Reads a chunk's body back; `seqs` stand beside it.
pub(crate) fn decode(body: &[u8], seqs: &Intervals) -> Result<Readings, Damage> {
    let mut head = Reader::new(body);
    let bytes = head.number()?;
    if bytes > BODY_BYTES_MAX {
        return Err(Damage::Chunk("it is larger than any chunk"));
    }
    let plain = zstd::bulk::decompress(head.rest(), bytes as usize).map_err(|_| Damage::Chunk("it can't be decompressed"))?;
    let count = seqs.count() as usize;
    if plain.len() as u64 != bytes || count > plain.len() {
        return Err(Damage::Chunk("it has another length"));
    }
    let mut r = Reader::new(&plain);
    if r.byte()? != VERSION {
        return Err(Damage::Chunk("an unknown version"));
    }
    let mut readings =
        Readings { seqs: seqs.as_slice().iter().flat_map(|(low, high)| *low..=*high).collect(), ..Readings::default() };
    let mut at = 0i64;
    readings.ats = read_steps(&mut r, count)?
        .into_iter()
        .map(|step| {
            at = at.wrapping_add(step);
            at
        })
        .collect();
    while readings.operations.len() < count {
        let operation = Operation::from_code(r.byte()?.into()).map_err(|_| Damage::Chunk("an unknown operation"))?;
        let same = r.number()? as usize;
        if same == 0 || same > count - readings.operations.len() {
            return Err(Damage::Chunk("operations do not add up"));
        }
        readings.operations.extend(std::iter::repeat_n(operation, same));
    }
    read_payloads(&mut r, &mut readings, count)?;
    r.end()?;
    Ok(readings)
}

fn read_payloads(r: &mut Reader<'_>, readings: &mut Readings, count: usize) -> Result<(), Damage> {
    match r.byte()? {
        0 => {
            let mut end = 0usize;
            for _ in 0..count {
                end = end.checked_add(r.number()? as usize).ok_or(Damage::Chunk("a length out of range"))?;
                readings.ends.push(end);
            }
            readings.payloads.extend_from_slice(r.take(end)?);
        }
        1 => {
            let decimals = Decimals::decode(r, count)?;
            for index in 0..count {
                decimals.write(index, &mut readings.payloads);
                readings.ends.push(readings.payloads.len());
            }
        }
        _ => return Err(Damage::Chunk("an unknown form of payloads")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn operation() -> impl Strategy<Value = Operation> {
        prop_oneof![Just(Operation::Store), Just(Operation::Forward)]
    }

    fn payload() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            3 => prop::collection::vec(any::<u8>(), 0..20),
            3 => (any::<i32>(), 0usize..4).prop_map(|(value, digits)| format!("{:.digits$}", f64::from(value) / 1000.0).into_bytes()),
            1 => (0u32..50).prop_map(|value| (f64::from(value) / 100.0).to_string().into_bytes()),
        ]
    }

    fn readings() -> impl Strategy<Value = Readings> {
        let any = prop::collection::vec((1u64..4, any::<i64>(), operation(), payload()), 1..60);
        let decimal = prop::collection::vec(
            (1u64..3, 0i64..100, operation(), (0u32..1000).prop_map(|v| (f64::from(v) / 100.0).to_string().into_bytes())),
            1..200,
        );
        prop_oneof![any, decimal].prop_map(|rows| {
            let mut readings = Readings::default();
            let mut seq = 0;
            for (step, at, operation, payload) in rows {
                seq += step;
                readings.push(&wire::RecordView {
                    series: "a/b/c",
                    epoch: wire::Epoch(1),
                    seq,
                    at,
                    operation,
                    payload: &payload,
                });
            }
            readings
        })
    }

    proptest! {
        #[test]
        fn a_chunk_is_read_back_as_it_was_written(readings in readings()) {
            let seqs: Intervals = readings.seqs.iter().map(|seq| (*seq, *seq)).collect();
            let body = Encoder::new().unwrap().encode(&readings).unwrap();
            prop_assert_eq!(decode(&body, &seqs).unwrap(), readings);
        }

        #[test]
        fn damaged_bytes_are_refused_or_read_but_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), count in 1u64..50) {
            let mut body = Vec::new();
            put(&mut body, bytes.len() as u64);
            body.extend_from_slice(&zstd::bulk::compress(&bytes, 1).unwrap());
            let _ = decode(&body, &Intervals::of(1, count));
            let _ = decode(&bytes, &Intervals::of(1, count));
        }
    }

    #[test]
    fn measured_loads_take_about_a_byte_a_reading() {
        let text =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/simbench-loads-2016-01.csv")).unwrap();
        let rows: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split(',').skip(1).collect()).collect();
        let (mut bytes, mut count) = (0, 0);
        for column in 0..rows[0].len() {
            let mut readings = Readings::default();
            for (index, row) in rows.iter().enumerate() {
                let at = 1_451_606_400_000_000_000 + index as i64 * 900_000_000_000;
                let payload = row[column].as_bytes();
                readings.push(&wire::RecordView {
                    series: "a/b/c",
                    epoch: wire::Epoch(1),
                    seq: index as u64 + 1,
                    at,
                    operation: Operation::Store,
                    payload,
                });
            }
            let body = Encoder::new().unwrap().encode(&readings).unwrap();
            assert_eq!(decode(&body, &Intervals::of(1, readings.len() as u64)).unwrap(), readings);
            bytes += body.len();
            count += readings.len();
        }
        let each = bytes as f64 / count as f64;
        assert!(each < 1.2, "{each} bytes a reading");
    }
}
