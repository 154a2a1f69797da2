//! `forebay gaps`: what the cloud has not received, although later records have come.

use std::fmt::Write;

use anyhow::Context;
use chassis::Exit;
use cloud::gaps::{Holding, LedgerPage};
use reqwest::Method;

use crate::host;
use crate::http::Cloud;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// One series, like cityA/meter-0017/power/active; without it all that you may query.
    series: Option<wire::Series>,
    /// One JSON object a line for each series and epoch, those without gaps too, instead of a table of gaps.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cloud: Cloud,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    host::runtime()?.block_on(ask(args))
}

async fn ask(args: Args) -> anyhow::Result<Exit> {
    let (mut epochs, mut held, mut missing, mut given_up) = (0_u64, 0_u64, 0_u64, 0_u64);
    let (mut cursor, mut is_read) = (None::<String>, true);
    loop {
        let optional = [("series", args.series.as_ref().map(ToString::to_string)), ("cursor", cursor)];
        let parameters: Vec<_> = optional.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let request = args.cloud.request(Method::GET, "/api/v1/gaps")?.query(&parameters);
        let page: LedgerPage = args.cloud.send(request).await?.json().await.context("the cloud's answer can't be read")?;
        let mut text = String::new();
        for holding in &page.holdings {
            if missing == 0 && holding.missing > 0 && !args.json {
                line(&mut text, ["series", "epoch", "from", "to", "records", "why"])?;
            }
            epochs += 1;
            held = held.saturating_add(holding.held);
            missing = missing.saturating_add(holding.missing);
            given_up = given_up.saturating_add(holding.given_up);
            write_holding(&mut text, holding, args.json)?;
        }
        // Who stops reading still gets the exit code.
        is_read = is_read && host::print(&text)?;
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    if !args.json {
        eprintln!(
            "forebay: {held} records held in {epochs} series and epochs, {missing} missing, {given_up} of them given up on purpose"
        );
    }
    Ok(if missing == 0 { Exit::Ok } else { Exit::Negative })
}

fn write_holding(text: &mut String, holding: &Holding, json: bool) -> anyhow::Result<()> {
    if json {
        writeln!(text, "{}", serde_json::to_string(holding)?)?;
        return Ok(());
    }
    for gap in &holding.gaps {
        let (from, to) = (gap.from_seq.to_string(), gap.to_seq.to_string());
        let records = (gap.to_seq - gap.from_seq).saturating_add(1).to_string();
        let why = match &gap.tombstone {
            None => "gap".to_owned(),
            Some(tombstone) => format!("tombstone, at the {}: {}", tombstone.place.as_str(), tombstone.why),
        };
        line(text, [holding.series.as_str(), &holding.epoch, &from, &to, &records, &why])?;
    }
    if holding.more_gaps > 0 {
        writeln!(text, "{}  and {} more gaps", holding.series, holding.more_gaps)?;
    }
    Ok(())
}

fn line(text: &mut String, columns: [&str; 6]) -> std::fmt::Result {
    let [series, epoch, from, to, records, why] = columns;
    writeln!(text, "{series:<40}  {epoch:<16}  {from:>12}  {to:>12}  {records:>12}  {why}")
}
