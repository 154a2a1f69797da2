//! How we live: configuration, supervised units, ordered shutdown, the admin port, the clock and exit codes.
