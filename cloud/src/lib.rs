//! The cloud: ingest, archive, live delivery, history and access.
