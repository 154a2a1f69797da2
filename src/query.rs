//! `forebay query`: past readings, as a table, CSV or JSON lines.

use std::io::Write;

use anyhow::Context;
use chassis::Exit;
use cloud::completeness::Completeness;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::host;
use crate::http::Cloud;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The series, like cityA/meter-0017/power/active.
    series: wire::Series,
    /// Earliest time, RFC 3339, like 2016-01-01T00:00:00Z.
    #[arg(long)]
    from: Option<String>,
    /// First time that is no longer wanted, RFC 3339.
    #[arg(long)]
    to: Option<String>,
    /// End after this many readings.
    #[arg(long, default_value_t = 1000)]
    limit: u64,
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
    let mut cursor: Option<String> = None;
    let mut left = args.limit;
    while left > 0 {
        let mut parameters = vec![("series", args.series.to_string()), ("limit", left.min(PAGE_LIMIT).to_string())];
        let optional = [("from", &args.from), ("to", &args.to), ("cursor", &cursor)];
        parameters.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
        let request = args.cloud.request(Method::GET, "/api/v1/records")?.query(&parameters);
        let page: Page = args.cloud.send(request).await?.json().await.context("the cloud's answer can't be read")?;
        left = left.saturating_sub(page.records.len() as u64);
        if !printer.print(&page.records)? {
            return Ok(Exit::Ok);
        }
        if let Some(warning) = page.completeness.as_ref().and_then(incomplete) {
            eprintln!("forebay: {warning}");
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    Ok(Exit::Ok)
}

/// What to say about an answer that lacks records.
fn incomplete(answer: &Completeness) -> Option<String> {
    /// Gaps that are named; the others are counted.
    const NAMED: usize = 5;
    if answer.complete {
        return None;
    }
    let mut gaps: Vec<String> =
        answer.missing.iter().take(NAMED).map(|gap| format!("{}.{} to {}", gap.epoch, gap.from_seq, gap.to_seq)).collect();
    let more = (answer.missing.len() - gaps.len()) as u64 + answer.more_gaps;
    if more > 0 {
        gaps.push(format!("{more} more gaps"));
    }
    Some(format!("warning: the answer is incomplete; missing: {}; forebay gaps shows all", gaps.join(", ")))
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
        assert_eq!(one, "warning: the answer is incomplete; missing: 9f.4 to 6; forebay gaps shows all");
        let many = warning(&format!(r#"{{"complete":false,"missing":[{gap},{gap},{gap},{gap},{gap},{gap}],"more_gaps":3}}"#));
        assert!(many.unwrap().contains("9f.4 to 6, 4 more gaps;"));
    }
}
