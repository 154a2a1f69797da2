//! Beside a sensor: outbox, sending to a relay, and terminal-side anchoring.
