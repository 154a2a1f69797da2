//! Chunks: one series' readings of one epoch through one relay, in order, compressed, under one Merkle root.

mod build;
mod codec;
mod decimal;
mod readings;
mod varint;

pub(crate) use build::{Builder, ChunkRow, Origin, leaves_of};
pub(crate) use codec::decode;
pub(crate) use readings::Readings;
