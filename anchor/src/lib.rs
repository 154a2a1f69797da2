//! Digests on a chain: batches, ledger, chain client, proofs and audit.
