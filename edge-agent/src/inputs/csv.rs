//! Replays a CSV file: each row at its time, scaled; each mapped column a stream.
//!
//! Promise: the position in the file is committed together with the readings of the rows before it, so a restart goes on exactly where
//! the outbox ends: no row twice, none left out. While the outbox is full the replay waits. A row that can't be read is told and left out.

use std::collections::VecDeque;
use std::fs::File;
use std::time::Duration;

use chassis::Stop;
use tokio::time::{Instant, sleep_until};
use wire::{At, Operation, Series};

use super::{BadLine, Desk, InputError, parse_time};
use crate::config::CsvConfig;
use crate::limits::INPUT_BATCH_MAX;
use crate::reading::{Position, Reading};

/// How fast the rows follow each other.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Pace {
    /// As fast as the outbox takes them.
    Free,
    /// So many times faster than their times say.
    Times(f64),
}

/// A row that was read.
struct Row {
    /// How many rows are done with once this one is taken.
    done: u64,
    at: At,
    readings: Vec<Reading>,
}

/// What comes next in a file.
enum Next {
    Row(Row),
    /// On this line.
    Bad(u64, BadLine),
    End,
}

/// A file with its mapping. Moved to a blocking thread to read, and back.
struct Source {
    reader: ::csv::Reader<File>,
    config: CsvConfig,
    time: usize,
    columns: Vec<(usize, String, Series, Operation)>,
    header: String,
    rows: u64,
}

impl Source {
    fn open(config: &CsvConfig, desk: &Desk) -> Result<Self, InputError> {
        let file_fault = |source| InputError::File { input: config.name.clone(), path: config.path.clone(), source };
        let mut reader = ::csv::ReaderBuilder::new().from_path(&config.path).map_err(file_fault)?;
        let headers = reader.headers().map_err(file_fault)?.clone();
        let place = |column: &str| {
            headers.iter().position(|name| name == column).ok_or_else(|| InputError::Column {
                input: config.name.clone(),
                path: config.path.clone(),
                column: column.to_owned(),
            })
        };
        let mut columns = Vec::new();
        for (column, stream) in &config.columns {
            // Checked with the configuration.
            let Ok((series, operation)) = desk.rules.of(stream) else { continue };
            columns.push((place(column)?, column.clone(), series, operation));
        }
        let time = place(&config.time)?;
        let header = headers.iter().collect::<Vec<_>>().join(",");
        Ok(Self { reader, config: config.clone(), time, columns, header, rows: 0 })
    }

    /// What a position in this file counts in: rows, under these columns.
    fn identity(&self) -> String {
        let columns: Vec<_> = self.config.columns.iter().map(|(column, stream)| format!("{column}={stream}")).collect();
        format!("{} | {} | {}", self.header, self.config.time, columns.join(","))
    }

    fn next(&mut self) -> Result<Next, InputError> {
        let mut record = ::csv::StringRecord::new();
        let read = self.reader.read_record(&mut record);
        let line = record.position().map_or(0, ::csv::Position::line);
        self.rows += 1;
        match read {
            Ok(true) => Ok(self.row(&record).map_or_else(|bad| Next::Bad(line, bad), Next::Row)),
            Ok(false) => Ok(Next::End),
            Err(fault) if fault.is_io_error() => {
                Err(InputError::File { input: self.config.name.clone(), path: self.config.path.clone(), source: fault })
            }
            Err(fault) => {
                let line = fault.position().map_or(line, ::csv::Position::line);
                Ok(Next::Bad(line, BadLine::new("row", fault)))
            }
        }
    }

    fn row(&self, record: &::csv::StringRecord) -> Result<Row, BadLine> {
        let at = parse_time(&format!("column {:?}", self.config.time), record.get(self.time).unwrap_or_default())?;
        let mut readings = Vec::with_capacity(self.columns.len());
        for (place, column, series, operation) in &self.columns {
            let value = record.get(*place).unwrap_or_default();
            if value.is_empty() {
                continue;
            }
            let reading = Reading::new(series.clone(), *operation, at, value)
                .map_err(|fault| BadLine::new(format!("column {column:?}"), fault))?;
            readings.push(reading);
        }
        Ok(Row { done: self.rows, at, readings })
    }

    /// Reads some rows on a thread that may block.
    async fn read(mut self, desk: &Desk) -> Result<(Self, Vec<Row>), InputError> {
        let input = self.config.name.clone();
        let desk = desk.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut rows = Vec::new();
            while rows.len() < INPUT_BATCH_MAX {
                match self.next()? {
                    Next::End => break,
                    Next::Row(row) => rows.push(row),
                    Next::Bad(line, bad) => desk.skip(&self.config.name, line, &bad),
                }
            }
            Ok((self, rows))
        });
        read.await.map_err(|why| InputError::Reader { input, why: why.to_string() })?
    }
}

/// The time from the first row to the last one.
fn span(mut source: Source) -> Result<Duration, InputError> {
    let mut ends: Option<(At, At)> = None;
    loop {
        match source.next()? {
            Next::End => break,
            Next::Row(row) => ends = Some(ends.map_or((row.at, row.at), |(low, high)| (low.min(row.at), high.max(row.at)))),
            Next::Bad(..) => {}
        }
    }
    let nanos = ends.map_or(0, |(low, high)| high.saturating_sub(low));
    Ok(Duration::from_nanos(nanos.cast_unsigned()))
}

async fn pace(config: &CsvConfig, desk: &Desk) -> Result<Pace, InputError> {
    if let Some(speed) = config.speed {
        return Ok(Pace::Times(speed));
    }
    let Some(duration) = config.duration else { return Ok(Pace::Free) };
    let source = Source::open(config, desk)?;
    let read = tokio::task::spawn_blocking(move || span(source));
    let span = read.await.map_err(|why| InputError::Reader { input: config.name.clone(), why: why.to_string() })??;
    let wanted = duration.duration().as_secs_f64();
    if span.is_zero() || wanted == 0.0 {
        return Ok(Pace::Free);
    }
    Ok(Pace::Times(span.as_secs_f64() / wanted))
}

/// Opens the file and tells how many of its rows are done with.
fn resume(config: &CsvConfig, desk: &Desk) -> Result<(Source, u64), InputError> {
    let source = Source::open(config, desk)?;
    let input = || config.name.clone();
    let done = desk
        .outbox
        .position(&config.name, &source.identity())
        .map_err(|source| InputError::Position { input: input(), source })?
        .ok_or_else(|| InputError::Source { input: input() })?;
    Ok((source, done))
}

/// Finds out before anything runs whether the file can be replayed.
pub(crate) fn check(config: &CsvConfig, desk: &Desk) -> Result<(), InputError> {
    resume(config, desk).map(drop)
}

/// Replays the file from where the outbox ends, to its end.
pub(crate) async fn run(config: CsvConfig, desk: Desk, stop: Stop) -> Result<(), InputError> {
    let pace = pace(&config, &desk).await?;
    let (mut source, done) = resume(&config, &desk)?;
    let identity = source.identity();
    let input = config.name.clone();
    while source.rows < done {
        if matches!(source.next()?, Next::End) {
            break;
        }
    }
    let mut start: Option<(Instant, At)> = None;
    let mut rows = VecDeque::new();
    loop {
        if rows.is_empty() {
            let (back, read) = source.read(&desk).await?;
            source = back;
            rows.extend(read);
        }
        let Some(first) = rows.front() else { return Ok(()) };
        let start = *start.get_or_insert((Instant::now(), first.at));
        tokio::select! {
            biased;
            () = stop.stopped() => return Ok(()),
            () = sleep_until(due(pace, start, first.at)) => {}
        }
        let now = Instant::now();
        let (mut readings, mut taken) = (Vec::new(), done);
        while readings.len() < INPUT_BATCH_MAX
            && let Some(row) = rows.pop_front_if(|row| due(pace, start, row.at) <= now)
        {
            taken = row.done;
            readings.extend(row.readings);
        }
        let position = Position { input: input.clone(), source: identity.clone(), taken };
        if taken > done && !desk.take(readings, Some(position), &stop).await? {
            return Ok(());
        }
    }
}

/// When a row is to be taken.
fn due(pace: Pace, (start, first): (Instant, At), at: At) -> Instant {
    match pace {
        Pace::Free => start,
        Pace::Times(times) => {
            let ahead = Duration::from_nanos(at.saturating_sub(first).max(0).cast_unsigned());
            start + Duration::try_from_secs_f64(ahead.as_secs_f64() / times).unwrap_or(Duration::ZERO)
        }
    }
}
