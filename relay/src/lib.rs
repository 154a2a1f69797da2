//! The relay: durable intake, storage area and uplink.
