//! Makes chunks of sorted readings.

use wire::{At, Digest, Epoch, EpochSecret, Intervals, merkle};

use super::codec::Encoder;
use super::readings::Readings;

/// Payload bytes above which a chunk takes no further reading.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// A chunk on its way into its table.
#[derive(Debug)]
pub(crate) struct ChunkRow {
    pub(crate) series: u32,
    pub(crate) epoch: u64,
    pub(crate) via: u32,
    pub(crate) seqs: Intervals,
    pub(crate) at_min: At,
    pub(crate) at_max: At,
    pub(crate) root: Option<Digest>,
    pub(crate) body: Vec<u8>,
}

/// Where readings come from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin<'a> {
    pub(crate) series: u32,
    pub(crate) name: &'a str,
    pub(crate) epoch: u64,
    pub(crate) via: u32,
    pub(crate) secret: Option<&'a EpochSecret>,
}

/// Makes chunks, one after the other.
pub(crate) struct Builder {
    encoder: Encoder,
    records_max: usize,
}

impl Builder {
    pub(crate) fn new(records_max: usize) -> std::io::Result<Self> {
        Ok(Self { encoder: Encoder::new()?, records_max: records_max.max(1) })
    }

    /// Cuts readings, sorted and each there once, into chunks and hands each to `take`.
    pub(crate) fn build(
        &mut self,
        origin: Origin<'_>,
        readings: &Readings,
        mut take: impl FnMut(ChunkRow),
    ) -> std::io::Result<()> {
        let mut piece = Readings::default();
        for index in 0..readings.len() {
            piece.push(&readings.view(origin.name, Epoch(origin.epoch), index));
            if piece.len() >= self.records_max || piece.payloads.len() >= PAYLOAD_BYTES_MAX || index + 1 == readings.len() {
                take(self.row(origin, &piece)?);
                piece.clear();
            }
        }
        Ok(())
    }

    fn row(&mut self, origin: Origin<'_>, piece: &Readings) -> std::io::Result<ChunkRow> {
        Ok(ChunkRow {
            series: origin.series,
            epoch: origin.epoch,
            via: origin.via,
            seqs: piece.seqs.iter().map(|seq| (*seq, *seq)).collect(),
            at_min: piece.ats.iter().copied().min().unwrap_or_default(),
            at_max: piece.ats.iter().copied().max().unwrap_or_default(),
            root: origin.secret.map(|secret| merkle::root(&leaves_of(piece, origin.name, Epoch(origin.epoch), secret))),
            body: self.encoder.encode(piece)?,
        })
    }
}

/// The leaves of a chunk, in order.
pub(crate) fn leaves_of(readings: &Readings, series: &str, epoch: Epoch, secret: &EpochSecret) -> Vec<Digest> {
    secret.leaves((0..readings.len()).map(|index| readings.view(series, epoch, index)))
}
