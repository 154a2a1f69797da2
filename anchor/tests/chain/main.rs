//! Anchoring against a real anvil: one chain a test, real files, real processes.

mod artifact;
mod batches;
mod faults;
mod gas;
mod kill;
mod proofs;
mod proxy;
mod reorg;
mod town;
