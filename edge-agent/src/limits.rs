//! Every limit that is not configured, with its reason.

use std::time::Duration;

use wire::frame::PAYLOAD_BYTES_MAX;

const KIB: usize = 1024;

/// Most records of one outbox row. A row is what a state is kept for, and a chunk takes whole rows.
pub const RUN_RECORDS_MAX: u64 = 512;
/// Payload bytes at which a row is closed. One reading may be larger; it is then alone in its row.
pub const RUN_BYTES_MAX: usize = 32 * KIB;
/// Smallest frame that may be configured: one row with one reading of the largest size must fit.
pub const FRAME_BYTES_MIN: usize = PAYLOAD_BYTES_MAX + 4 * KIB;
/// What a reading costs in the outbox besides its payload: its leaf and its part of a row.
pub const READING_OVERHEAD_BYTES: u64 = 64;
/// Jobs that one commit may cover, and their bytes: bounds what a failed commit has to report and what a group holds in memory.
pub const GROUP_JOBS_MAX: usize = 4096;
/// See [`GROUP_JOBS_MAX`].
pub const GROUP_BYTES_MAX: usize = 4096 * KIB;
/// Bytes that may wait for the writer. When it is full, whoever takes readings waits.
pub const QUEUE_BYTES_MAX: usize = 8192 * KIB;
/// Chunks that one pass makes before it lets readings in again.
pub const CHUNKS_PER_PASS_MAX: usize = 64;
/// Rows that one pass purges before it lets readings in again: some milliseconds of the writer.
pub const PURGE_ROWS_MAX: usize = 1024;
/// Batches whose changes one commit takes over from the anchor ledger.
pub const CHANGES_PER_COMMIT_MAX: usize = 8;
/// Rows of a line or CSV input that are taken with one commit at most.
pub const INPUT_BATCH_MAX: usize = 512;
/// Longest line that is read from stdin; a longer one is a bad line.
pub const LINE_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + KIB;
/// Probes a relay and round that may be configured: more tell nothing new, and every sensor sends them.
pub const PROBES_MAX: u32 = 100;
/// How long a relay that refused our records is left alone while another one takes them: what an operator needs for a change.
pub const REFUSED_REST: Duration = Duration::from_secs(60);
/// Responses to demand-response events that are remembered, so that an event which is said again is known.
pub const RESPONSES_KEPT: usize = 1000;
/// Tombstones that one look tells of; the next look goes on.
pub const TOMBSTONES_PER_REPORT_MAX: usize = 64;
/// A relay that was left is looked for this many times more rarely, at most, than the first time.
pub const LOOK_AGAIN_STRETCH_MAX: u32 = 16;
/// Changes of the target that are remembered. A target that moves every ten seconds fills it in three hours.
pub const MOVES_KEPT: usize = 1000;

const _: () = assert!(RUN_BYTES_MAX + PAYLOAD_BYTES_MAX < GROUP_BYTES_MAX);
