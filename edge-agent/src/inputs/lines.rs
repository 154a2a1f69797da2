//! Lines of stdin: `<stream> <value>`, with an optional RFC 3339 time as third field.
//!
//! Promise: a line is taken when it is committed. While the outbox is full nothing more is read, so the writer at the other end of the
//! pipe waits. What was read and not committed when the process dies is lost, as with any pipe: at most what fits in the channel.

use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;

use chassis::Stop;
use tokio::sync::{Mutex, mpsc};
use wire::At;

use super::{BadLine, Desk, InputError, parse_time};
use crate::limits::{INPUT_BATCH_MAX, LINE_BYTES_MAX};
use crate::reading::Reading;
use crate::rules::Rules;

/// Lines that wait between the reader thread and the outbox.
const CHANNEL_LINES: usize = 1024;

enum Line {
    Text(u64, Vec<u8>),
    TooLong(u64),
    Failed(std::io::Error),
}

/// Lines from a reader that can't be asked to stop, like stdin: read by a thread that nobody waits for.
#[derive(Clone)]
pub(crate) struct Lines {
    queue: Arc<Mutex<mpsc::Receiver<Line>>>,
}

impl Lines {
    pub(crate) fn of(reader: Box<dyn Read + Send>) -> std::io::Result<Self> {
        let (sender, queue) = mpsc::channel(CHANNEL_LINES);
        std::thread::Builder::new().name("lines".to_owned()).spawn(move || read(reader, &sender))?;
        Ok(Self { queue: Arc::new(Mutex::new(queue)) })
    }
}

fn read(reader: Box<dyn Read + Send>, queue: &mpsc::Sender<Line>) {
    let mut reader = BufReader::new(reader);
    for number in 1.. {
        let mut text = Vec::new();
        let line = match (&mut reader).take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut text) {
            Ok(0) => return,
            Ok(bytes) if bytes == LINE_BYTES_MAX && text.last() != Some(&b'\n') => match skip_line(&mut reader) {
                Ok(()) => Line::TooLong(number),
                Err(fault) => Line::Failed(fault),
            },
            Ok(_) => Line::Text(number, text),
            Err(fault) => Line::Failed(fault),
        };
        let last = matches!(line, Line::Failed(_));
        if queue.blocking_send(line).is_err() || last {
            return;
        }
    }
}

fn skip_line(reader: &mut impl BufRead) -> std::io::Result<()> {
    loop {
        let buffer = reader.fill_buf()?;
        let (used, found) = match buffer.iter().position(|byte| *byte == b'\n') {
            Some(place) => (place + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        reader.consume(used);
        if found {
            return Ok(());
        }
    }
}

/// Takes lines until there are no more.
pub(crate) async fn run(input: String, lines: Lines, desk: Desk, stop: Stop) -> Result<(), InputError> {
    let mut queue = lines.queue.lock().await;
    let mut batch = Vec::new();
    loop {
        let received = tokio::select! {
            biased;
            () = stop.stopped() => return Ok(()),
            received = queue.recv_many(&mut batch, INPUT_BATCH_MAX) => received,
        };
        if received == 0 {
            return Ok(());
        }
        let mut readings = Vec::with_capacity(received);
        let mut ended = None;
        for line in batch.drain(..) {
            let (number, parsed) = match line {
                Line::Text(number, text) => (number, parse(&desk.rules, &text, desk.clock.now())),
                Line::TooLong(number) => {
                    (number, Err(BadLine::new("line", format_args!("is longer than {LINE_BYTES_MAX} bytes"))))
                }
                Line::Failed(fault) => {
                    ended = Some(fault.to_string());
                    break;
                }
            };
            match parsed {
                Ok(reading) => readings.extend(reading),
                Err(bad) => desk.skip(&input, number, &bad),
            }
        }
        if !readings.is_empty() && !desk.take(readings, None, &stop).await? {
            return Ok(());
        }
        if let Some(why) = ended {
            return Err(InputError::Reader { input, why });
        }
    }
}

/// One line; `None` for an empty one.
fn parse(rules: &Rules, line: &[u8], now: At) -> Result<Option<Reading>, BadLine> {
    let text = std::str::from_utf8(line).map_err(|_| BadLine::new("line", "is not UTF-8"))?;
    let mut fields = text.split_ascii_whitespace();
    let Some(stream) = fields.next() else { return Ok(None) };
    let (series, operation) = rules.of(stream).map_err(|fault| BadLine::new("field 1 (stream)", fault))?;
    let value = fields.next().ok_or_else(|| BadLine::new("field 2 (value)", "is missing"))?;
    let at = fields.next().map_or(Ok(now.max(0)), |time| parse_time("field 3 (time)", time))?;
    if fields.next().is_some() {
        return Err(BadLine::new("field 4", "is one too many; a line is <stream> <value> [<time>]"));
    }
    Reading::new(series, operation, at, value).map(Some).map_err(|fault| BadLine::new("field 2 (value)", fault))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StreamRule;
    use wire::Operation;

    fn rules() -> Rules {
        let forward = StreamRule { filter: "power/#".to_owned(), operation: Operation::Forward };
        Rules::new("a/b".parse().unwrap(), vec![forward])
    }

    #[test]
    fn a2_operation_is_given_to_every_line() {
        let reading = parse(&rules(), b"power/active 0.25 2016-01-01T00:15:00+01:00\r\n", 5).unwrap().unwrap();
        assert_eq!((reading.series().as_str(), reading.operation()), ("a/b/power/active", Operation::Forward));
        assert_eq!((reading.at(), reading.payload()), (1_451_603_700_000_000_000, &b"0.25"[..]));
        let reading = parse(&rules(), b"door open", 5).unwrap().unwrap();
        assert_eq!((reading.operation(), reading.at()), (Operation::Store, 5));
        assert_eq!(parse(&rules(), b"  \n", 5), Ok(None));
    }

    #[test]
    fn bad_lines_name_the_field() {
        for (line, field) in [
            (&b"power/active"[..], "field 2 (value)"),
            (b"power/+ 1", "field 1 (stream)"),
            (b"power/active 1 yesterday", "field 3 (time)"),
            (b"power/active 1 1969-12-31T23:59:59Z", "field 3 (time)"),
            (b"power/active 1 2016-01-01T00:00:00Z more", "field 4"),
            (b"power/active \xff", "line"),
        ] {
            let bad = parse(&rules(), line, 5).unwrap_err();
            assert_eq!(bad.field, field, "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn a_line_without_end_is_left_out_and_the_next_one_is_read() {
        let mut text = vec![b'x'; 3 * LINE_BYTES_MAX];
        text.extend_from_slice(b"\ndoor open\n");
        let (sender, mut queue) = mpsc::channel(4);
        read(Box::new(std::io::Cursor::new(text)), &sender);
        assert!(matches!(queue.try_recv(), Ok(Line::TooLong(1))));
        assert!(matches!(queue.try_recv(), Ok(Line::Text(2, line)) if line == b"door open\n"));
    }
}
