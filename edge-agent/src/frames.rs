//! Packing outbox rows into frames: one frame an operation, neighbouring rows of a series joined into one run.
//!
//! Pure. The records are the same bytes whatever frame they are in, so a record may travel in another frame when it is sent again.

use wire::{Epoch, EpochSecret, Fault, Operation, RunBuilder, RunView, encode_frame};

use crate::outbox::Row;

/// Rows that travel together.
#[derive(Debug)]
pub(crate) struct Frame {
    operation: Operation,
    rows: Vec<i64>,
    records: u64,
    runs: Vec<Run>,
}

#[derive(Debug)]
struct Run {
    epoch: Epoch,
    first_seq: u64,
    builder: RunBuilder,
}

impl Run {
    fn next_seq(&self) -> u64 {
        self.first_seq + self.builder.len()
    }
}

impl Frame {
    fn new(operation: Operation) -> Self {
        Self { operation, rows: Vec::new(), records: 0, runs: Vec::new() }
    }

    /// What the relay shall do with its records.
    pub(crate) fn operation(&self) -> Operation {
        self.operation
    }

    /// How many records it holds.
    pub(crate) fn records(&self) -> u64 {
        self.records
    }

    /// How many rows it holds.
    pub(crate) fn row_count(&self) -> usize {
        self.rows.len()
    }

    /// The outbox rows that it answers for.
    pub(crate) fn into_rows(self) -> Vec<i64> {
        self.rows
    }

    fn bytes(&self) -> usize {
        self.runs.iter().map(|run| run.builder.bytes()).sum()
    }

    fn holds(&self, series: &str) -> bool {
        self.runs.iter().any(|run| run.builder.series().as_str() == series)
    }

    fn push(&mut self, id: i64, view: &RunView<'_>) -> Result<(), Fault> {
        let joins = |run: &&mut Run| {
            run.builder.series().as_str() == view.series() && run.epoch == view.epoch() && run.next_seq() == view.first_seq()
        };
        let run = match self.runs.iter_mut().find(joins) {
            Some(run) => run,
            None => {
                let series = view.series().parse().map_err(|_| Fault::Rule { field: "series", rule: "is not a valid name" })?;
                let builder = RunBuilder::new(series, view.operation());
                self.runs.push(Run { epoch: view.epoch(), first_seq: view.first_seq(), builder });
                self.runs.last_mut().ok_or(Fault::Rule { field: "runs", rule: "are missing" })?
            }
        };
        for record in view.records() {
            run.builder.push(record.at, record.payload)?;
        }
        self.rows.push(id);
        self.records += view.count();
        Ok(())
    }

    /// The payload of the PUBLISH.
    pub(crate) fn encode(&self, secrets: &[(Epoch, EpochSecret)]) -> Vec<u8> {
        let mut runs = Vec::with_capacity(self.bytes());
        for run in &self.runs {
            run.builder.write(run.epoch, run.first_seq, &mut runs);
        }
        let mut out = Vec::with_capacity(runs.len() + 64 + 48 * secrets.len());
        encode_frame(secrets, &[&runs], &mut out);
        out
    }
}

/// Packs rows, in the order of taking, into frames of at most `records_max` records and `bytes_max` bytes (a row that is larger goes alone).
///
/// The records of a series stay in order: frames are to be sent in the order in which they come.
///
/// # Errors
/// [`Fault`] when a row's body is not the canonical run that was written: the database is damaged.
pub(crate) fn pack(rows: &[Row], records_max: u64, bytes_max: usize) -> Result<Vec<Frame>, Fault> {
    let mut frames = Vec::new();
    let mut open: Vec<Frame> = Vec::new();
    for row in rows {
        let (view, rest) = RunView::parse(&row.run)?;
        if !rest.is_empty() {
            return Err(Fault::Trailing { at: view.raw().len(), bytes: rest.len() });
        }
        // When the rules have changed, a series may stand in the frame of the other operation: that one goes first.
        let full = |frame: &Frame| frame.records + view.count() > records_max || frame.bytes() + view.raw().len() > bytes_max;
        let closes = |frame: &Frame| match frame.operation == view.operation() {
            true => full(frame),
            false => frame.holds(view.series()),
        };
        frames.extend(open.extract_if(.., |frame| closes(frame)));
        let frame = match open.iter_mut().find(|frame| frame.operation == view.operation()) {
            Some(frame) => frame,
            None => {
                open.push(Frame::new(view.operation()));
                open.last_mut().ok_or(Fault::Rule { field: "frame", rule: "is missing" })?
            }
        };
        frame.push(row.id, &view)?;
    }
    frames.append(&mut open);
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::FrameView;

    fn row(id: i64, series: &str, operation: Operation, first_seq: u64, payloads: &[&str]) -> Row {
        let mut builder = RunBuilder::new(series.parse().unwrap(), operation);
        for (index, payload) in payloads.iter().enumerate() {
            builder.push(1000 + index as i64, payload.as_bytes()).unwrap();
        }
        let mut run = Vec::new();
        builder.write(Epoch(7), first_seq, &mut run);
        Row { id, count: payloads.len() as u64, run }
    }

    fn content(frame: &Frame) -> Vec<String> {
        let bytes = frame.encode(&[]);
        let view = FrameView::parse(&bytes).unwrap();
        view.runs()
            .flat_map(|run| run.records())
            .map(|r| format!("{}.{}={}", r.series, r.seq, String::from_utf8_lossy(r.payload)))
            .collect()
    }

    #[test]
    fn neighbouring_rows_become_one_run() {
        let rows = [
            row(1, "a/b/p", Operation::Store, 1, &["x"]),
            row(2, "a/b/q", Operation::Store, 9, &["y"]),
            row(3, "a/b/p", Operation::Store, 2, &["z", "w"]),
            row(4, "a/b/p", Operation::Store, 7, &["after a hole"]),
        ];
        let frames = pack(&rows, 100, 10_000).unwrap();
        assert_eq!(frames.len(), 1);
        assert_eq!((frames[0].records(), frames[0].row_count(), frames[0].runs.len()), (5, 4, 3));
        assert_eq!(content(&frames[0]), ["a/b/p.1=x", "a/b/p.2=z", "a/b/p.3=w", "a/b/q.9=y", "a/b/p.7=after a hole"]);
    }

    #[test]
    fn a2_operation_is_one_for_all_records_of_a_frame() {
        let rows = [
            row(1, "a/b/p", Operation::Store, 1, &["1"]),
            row(2, "a/b/q", Operation::Forward, 1, &["2"]),
            row(3, "a/b/p", Operation::Store, 2, &["3"]),
            // The rules have changed: p is forwarded from here on.
            row(4, "a/b/p", Operation::Forward, 3, &["4"]),
            row(5, "a/b/q", Operation::Forward, 2, &["5"]),
        ];
        let frames = pack(&rows, 100, 10_000).unwrap();
        let seen: Vec<_> = frames.iter().map(|frame| (frame.operation(), content(frame))).collect();
        assert_eq!(seen[0], (Operation::Store, vec!["a/b/p.1=1".to_owned(), "a/b/p.2=3".to_owned()]));
        assert_eq!(seen[1].0, Operation::Forward);
        assert_eq!(seen[1].1, ["a/b/q.1=2", "a/b/q.2=5", "a/b/p.3=4"]);
    }

    #[test]
    fn frames_are_closed_by_count_and_by_bytes() {
        let rows: Vec<_> = (1..=10).map(|seq| row(seq, "a/b/p", Operation::Store, seq as u64, &["0123456789"])).collect();
        let by_count: Vec<_> = pack(&rows, 3, 1 << 20).unwrap().iter().map(Frame::records).collect();
        assert_eq!(by_count, [3, 3, 3, 1]);
        let by_bytes = pack(&rows, 1000, 160).unwrap();
        assert!(by_bytes.len() > 1);
        // However small the limit, a row goes.
        let alone = pack(&rows, 1000, 1).unwrap();
        assert_eq!(alone.len(), 10);
        let order: Vec<_> = alone.into_iter().flat_map(Frame::into_rows).collect();
        assert_eq!(order, (1..=10).collect::<Vec<_>>());
    }
}
