//! Anchoring against a real anvil: one chain a test, real files, real processes.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, which is its purpose")]

mod artifact;
mod audit;
mod batches;
mod faults;
mod fuzz;
mod gas;
mod independent;
mod kill;
mod known;
mod nodes;
mod nonces;
mod proofs;
mod proxy;
mod pruned;
mod queue;
mod reorg;
mod sponsor;
mod stated;
mod town;
