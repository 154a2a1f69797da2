//! What must hold for every input, tried on many.

mod filters;
mod frames;
mod sets;
mod topics;
mod trees;

use proptest::prelude::*;

/// A valid segment.
fn segment() -> impl Strategy<Value = String> {
    "[A-Za-z0-9_.-]{1,64}"
}

/// A valid series name.
fn series() -> impl Strategy<Value = String> {
    ("[A-Za-z0-9_.-]{1,20}", "[A-Za-z0-9_.-]{1,20}", prop::collection::vec("[A-Za-z0-9_.-]{1,20}", 1..=8))
        .prop_map(|(area, sensor, stream)| format!("{area}/{sensor}/{}", stream.join("/")))
}

/// Text with much of what means something in names, topics and filters.
fn hostile_text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "(op|probe|up|down|data|query|demand|anchor|store|forward|frames|receipts|roots|[a-z]|[+#$%*.é\u{0}]|/){0,12}",
        "(op/store|op/forward|probe|up|down|data|query|demand|anchor)(/[a-zA-Z0-9_.+#$-]{0,5}){0,11}",
    ]
}
