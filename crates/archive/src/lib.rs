//! What is kept: pages, chunks and range scans over one store.
