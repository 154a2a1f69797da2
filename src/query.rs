//! `forebay query`: past readings, as a table, CSV or JSON lines; what relays keep is pulled for it.
//!
//! Exit code 0: all that was asked for, or as many as `--limit` says; 1: the answer is incomplete, and stderr says what is missing.

use std::io::Write;

use anyhow::Context;
use chassis::Exit;
use cloud::Unheard;
use cloud::completeness::{Completeness, Missing, Reason};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::host;
use crate::http::Cloud;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// One series, like cityA/meter-0017/power/active.
    #[arg(required_unless_present_any = ["filter", "tags"])]
    series: Option<wire::Series>,
    /// All series that a filter matches, like cityA/+/power/#, as far as you may query them.
    #[arg(long, conflicts_with = "series")]
    filter: Option<String>,
    /// The series of all sensors that have these tags, like residential,h0; with --filter only those that it matches.
    #[arg(long, conflicts_with = "series")]
    tags: Option<String>,
    /// Earliest time, RFC 3339, like 2016-01-01T00:00:00Z.
    #[arg(long)]
    from: Option<String>,
    /// First time that is no longer wanted, RFC 3339.
    #[arg(long)]
    to: Option<String>,
    /// End after this many readings.
    #[arg(long, default_value_t = 1000)]
    limit: u64,
    /// Go on where an answer that --limit ended had stopped.
    #[arg(long)]
    cursor: Option<String>,
    /// How the readings are printed.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    #[command(flatten)]
    cloud: Cloud,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Columns for people.
    Table,
    /// Comma-separated values with a header.
    Csv,
    /// One JSON object a line.
    Json,
}

/// One page of the answer.
#[derive(Debug, Deserialize)]
struct Page {
    records: Vec<Row>,
    next_cursor: Option<String>,
    completeness: Option<Completeness>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Row {
    key: String,
    series: String,
    at: String,
    operation: String,
    relay: String,
    payload: Value,
}

impl Row {
    fn payload_text(&self) -> String {
        match &self.payload {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }
}

/// Readings asked for in one request.
const PAGE_LIMIT: u64 = 1_000;

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    host::runtime()?.block_on(ask(args))
}

async fn ask(args: Args) -> anyhow::Result<Exit> {
    let mut printer = Printer::new(args.format);
    let series = args.series.as_ref().map(ToString::to_string);
    let mut cursor = args.cursor.clone();
    let mut left = args.limit;
    let mut exit = Exit::Ok;
    while left > 0 {
        let mut parameters = vec![("limit", left.min(PAGE_LIMIT).to_string())];
        let optional = [
            ("series", &series),
            ("filter", &args.filter),
            ("tags", &args.tags),
            ("from", &args.from),
            ("to", &args.to),
            ("cursor", &cursor),
        ];
        parameters.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
        let request = args.cloud.request(Method::GET, "/api/v1/records")?.query(&parameters);
        let page: Page = args.cloud.send(request).await?.json().await.context("the cloud's answer can't be read")?;
        left = left.saturating_sub(page.records.len() as u64);
        if !printer.print(&page.records)? {
            return Ok(Exit::Ok);
        }
        if let Some(warning) = page.completeness.as_ref().and_then(incomplete) {
            eprintln!("forebay: {warning}");
            exit = Exit::Negative;
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    if let Some(cursor) = cursor {
        eprintln!("forebay: more readings follow; go on with --cursor '{cursor}', or raise --limit");
    }
    Ok(exit)
}

/// What to say about an answer that lacks records.
fn incomplete(answer: &Completeness) -> Option<String> {
    /// Ranges that are named; the others are counted.
    const NAMED: usize = 5;
    if answer.complete {
        return None;
    }
    let mut ranges: Vec<String> = answer.missing.iter().take(NAMED).map(range).collect();
    let more = (answer.missing.len() - ranges.len()) as u64 + answer.more_gaps;
    if more > 0 {
        ranges.push(format!("{more} more ranges"));
    }
    ranges.extend(answer.unheard.iter().take(NAMED).map(unheard));
    if answer.unheard.len() > NAMED {
        ranges.push(format!("{} more relays", answer.unheard.len() - NAMED));
    }
    if answer.changed_meanwhile {
        ranges.push("records that came from relays behind the walk: ask again".to_owned());
    }
    Some(format!("warning: the answer is incomplete; missing: {}", ranges.join(", ")))
}

/// What is not known of one relay.
fn unheard(unheard: &Unheard) -> String {
    let relay = &unheard.relay;
    let of = unheard.series.as_ref().map_or(String::new(), |series| format!(" of {series}"));
    let since = unheard.since.as_ref().map_or(String::new(), |since| format!(" since {since}"));
    match unheard.reason {
        Reason::RelayRebuilt => format!("what {relay} took{since} and had in a database that is gone"),
        Reason::OnTheWay => format!("what is on the way from {relay}"),
        Reason::AtRelay => format!("what {relay} keeps{of} and did not bring in time"),
        _ => format!("what {relay} has taken{of}{since}: it can't be reached"),
    }
}

/// One range, and why it is missing.
fn range(missing: &Missing) -> String {
    let series = missing.series.as_ref().map_or(String::new(), |series| format!("{series}@"));
    let relay = || missing.relay.as_ref().map_or("a relay".to_owned(), ToString::to_string);
    let why = match missing.reason {
        Reason::Gap => "a gap".to_owned(),
        Reason::Tombstone => match &missing.tombstone {
            Some(tombstone) => format!("given up: {}", tombstone.why),
            None => "given up".to_owned(),
        },
        Reason::RelayUnreachable => format!("{} keeps them and can't be reached", relay()),
        Reason::AtRelay => format!("{} keeps them and did not bring them in time", relay()),
        Reason::OnTheWay => format!("on the way from {}", relay()),
        Reason::RelayRebuilt => format!("{} had them in a database that is gone", relay()),
        Reason::Mismatch => format!("{} brought them with another content than it had announced", relay()),
    };
    format!("{series}{}.{} to {} ({why})", missing.epoch, missing.from_seq, missing.to_seq)
}

/// Prints rows in one of the formats.
struct Printer {
    format: Format,
    headed: bool,
}

const COLUMNS: [&str; 5] = ["at", "key", "operation", "relay", "payload"];

impl Printer {
    fn new(format: Format) -> Self {
        Self { format, headed: false }
    }

    /// Whether somebody still reads: a closed pipe is no error.
    fn print(&mut self, rows: &[Row]) -> anyhow::Result<bool> {
        let mut text = Vec::new();
        match self.format {
            Format::Table => {
                if !std::mem::replace(&mut self.headed, true) {
                    writeln!(
                        text,
                        "{:<30}  {:<56}  {:<9}  {:<12}  {}",
                        COLUMNS[0], COLUMNS[1], COLUMNS[2], COLUMNS[3], COLUMNS[4]
                    )?;
                }
                for row in rows {
                    writeln!(
                        text,
                        "{:<30}  {:<56}  {:<9}  {:<12}  {}",
                        row.at,
                        row.key,
                        row.operation,
                        row.relay,
                        row.payload_text()
                    )?;
                }
            }
            Format::Csv => {
                let mut csv = csv::Writer::from_writer(&mut text);
                if !std::mem::replace(&mut self.headed, true) {
                    csv.write_record(COLUMNS)?;
                }
                for row in rows {
                    csv.write_record([&row.at, &row.key, &row.operation, &row.relay, &row.payload_text()])?;
                }
                csv.flush()?;
            }
            Format::Json => {
                for row in rows {
                    serde_json::to_writer(&mut text, row)?;
                    text.push(b'\n');
                }
            }
        }
        host::print(&String::from_utf8(text).context("a row is not UTF-8")?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c6_an_incomplete_answer_is_warned_of_and_a_complete_one_is_not() {
        let warning = |json: &str| incomplete(&serde_json::from_str(json).unwrap());
        assert_eq!(warning(r#"{"complete":true}"#), None);
        let gap = r#"{"epoch":"9f","from_seq":4,"to_seq":6,"reason":"gap"}"#;
        let one = warning(&format!(r#"{{"complete":false,"missing":[{gap}]}}"#)).unwrap();
        assert_eq!(one, "warning: the answer is incomplete; missing: 9f.4 to 6 (a gap)");
        let away = r#"{"series":"a/b/c","epoch":"9f","from_seq":4,"to_seq":6,"reason":"relay-unreachable","relay":"relay-2"}"#;
        let one = warning(&format!(r#"{{"complete":false,"missing":[{away}]}}"#)).unwrap();
        assert!(one.ends_with("a/b/c@9f.4 to 6 (relay-2 keeps them and can't be reached)"), "{one}");
        let unheard = r#"{"relay":"relay-2","reason":"relay-unreachable","since":"2026-11-22T08:00:00Z"}"#;
        let one = warning(&format!(r#"{{"complete":false,"unheard":[{unheard}]}}"#)).unwrap();
        assert!(one.ends_with("what relay-2 has taken since 2026-11-22T08:00:00Z: it can't be reached"), "{one}");
        assert!(warning(r#"{"complete":false,"changed_meanwhile":true}"#).unwrap().ends_with("ask again"));
        let many = warning(&format!(r#"{{"complete":false,"missing":[{gap},{gap},{gap},{gap},{gap},{gap}],"more_gaps":3}}"#));
        assert!(many.unwrap().contains("9f.4 to 6 (a gap), 4 more ranges"));
    }
}
