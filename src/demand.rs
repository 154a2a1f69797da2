//! `forebay demand`: what was asked of the areas, promised and measured, and how far the records of it have come.

use std::fmt::Write;

use anyhow::Context;
use chassis::Exit;
use cloud::demand::baseline::{Baseline, Method};
use cloud::{DemandView, EventView, Receipt, Status};

use crate::host;
use crate::http::Cloud;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only events of this program.
    program: Option<String>,
    /// How many of the newest events are shown.
    #[arg(long, default_value_t = 20)]
    limit: usize,
    /// The parts of each event, too: every terminal with its records.
    #[arg(long)]
    parts: bool,
    /// The cloud's answer as it is, instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cloud: Cloud,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    host::runtime()?.block_on(ask(args))
}

async fn ask(args: Args) -> anyhow::Result<Exit> {
    let mut parameters = vec![("limit", args.limit.to_string())];
    parameters.extend(args.program.clone().map(|program| ("program", program)));
    let request = args.cloud.request(reqwest::Method::GET, "/api/v1/demand")?.query(&parameters);
    let answer = args.cloud.send(request).await?.text().await?;
    let view: DemandView = serde_json::from_str(&answer).context("the cloud's answer can't be read")?;
    host::print(&if args.json { format!("{answer}\n") } else { table(&view.events, args.parts)? })?;
    Ok(if view.events.is_empty() { Exit::Negative } else { Exit::Ok })
}

fn table(events: &[EventView], parts: bool) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    if events.is_empty() {
        return Ok("nothing was asked\n".to_owned());
    }
    let heads = ["event", "start", "status", "asked kW", "promised kW", "measured kW", "area kW", "anchored"];
    line(&mut text, heads)?;
    for event in events {
        let parts_of = event.parts.iter().flat_map(|part| [part.promise.as_ref(), part.result.as_ref()]);
        let receipts: Vec<&Receipt> =
            [Some(&event.asked), event.settled.as_ref()].into_iter().chain(parts_of).flatten().collect();
        let anchored = receipts.iter().filter(|receipt| receipt.rung == cloud::Rung::OnChain).count();
        let columns = [
            event.event.clone(),
            event.start[..19].to_owned(),
            status(event.status).to_owned(),
            kw(Some(event.asked_kw)),
            kw(Some(event.promised_kw)),
            kw(Some(event.measured_kw)),
            format!("{:.3} > {:.3}", event.area_before_kw, event.area_during_kw),
            format!("{anchored} of {}", receipts.len()),
        ];
        line(&mut text, columns.each_ref().map(String::as_str))?;
        if !parts {
            continue;
        }
        let of = &event.coverage_during;
        let (reported, estimated, missing) = (of.reported, of.estimated, of.missing);
        writeln!(
            text,
            "  {} of {} meters reported during the event, {estimated} are estimated, {missing} missing: {}",
            reported, of.meters, event.quality
        )?;
        told(&mut text, "asked", Some(&event.asked))?;
        event.earlier.iter().try_for_each(|receipt| told(&mut text, "before", Some(receipt)))?;
        told(&mut text, "cancelled", event.cancelled.as_ref())?;
        for part in &event.parts {
            let (promised, measured) = (kw(part.promised_kw), kw(part.measured_kw));
            let opted = if part.opted_out { " (opted out)" } else { "" };
            let baseline = baseline(part.baseline.as_ref());
            writeln!(text, "  {:<30}  promised {promised} kW{opted}, measured {measured} kW{baseline}", part.sensor)?;
            told(&mut text, "promise", part.promise.as_ref())?;
            told(&mut text, "result", part.result.as_ref())?;
        }
        told(&mut text, "settled", event.settled.as_ref())?;
    }
    Ok(text)
}

/// What the measured reduction is measured from.
fn baseline(of: Option<&Baseline>) -> String {
    match of {
        None => String::new(),
        Some(Baseline { kw, method: Method::IntervalBefore }) => format!(" from {kw:.3} kW, the interval before"),
        Some(Baseline { kw, method: Method::HighDays { days, of, factor } }) => {
            format!(" from {kw:.3} kW, the {days} highest of the last {of} similar days times {factor:.3}")
        }
    }
}

fn told(text: &mut String, what: &str, receipt: Option<&Receipt>) -> std::fmt::Result {
    match receipt {
        Some(receipt) => writeln!(text, "    {what:<9} {}  {}", receipt.key, rung(receipt)),
        None => Ok(()),
    }
}

fn rung(receipt: &Receipt) -> String {
    // The word of the interface.
    serde_json::to_value(receipt.rung).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

const fn status(status: Status) -> &'static str {
    match status {
        Status::Pending => "pending",
        Status::Active => "active",
        Status::Ended => "ended",
        Status::Settled => "settled",
        Status::Cancelled => "cancelled",
    }
}

fn kw(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"))
}

fn line(text: &mut String, columns: [&str; 8]) -> std::fmt::Result {
    let [event, start, status, asked, promised, measured, area, anchored] = columns;
    writeln!(text, "{event:<32}  {start:<19}  {status:<8}  {asked:>12}  {promised:>12}  {measured:>12}  {area:>22}  {anchored}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c13_the_table_says_asked_promised_measured_and_how_much_is_anchored() {
        let view: DemandView = serde_json::from_str(
            r#"{"events":[{"event":"peak-10000","program":"peak","area":"cityA","status":"settled","start":"1970-01-01T00:00:11.000000000Z",
                "end":"1970-01-01T00:00:31.000000000Z","asked_kw":4.0,"promised_kw":3.5,"measured_kw":3.25,"area_before_kw":14.0,
                "area_during_kw":10.75,"asked":{"key":"cityA/cloud/forebay/demand/peak@1.1","rung":"on-chain"},
                "settled":{"key":"cityA/cloud/forebay/demand/peak@1.2","rung":"batched"},
                "coverage_during":{"meters":3,"reported":2,"estimated":0,"missing":1},"quality":"MISSING",
                "parts":[{"sensor":"cityA/u1","promised_kw":3.5,"measured_kw":3.25,
                    "baseline":{"kw":6.0,"method":"high-days","days":4,"of":5,"factor":1.1},"reported_kw":null,
                    "promise":{"key":"cityA/u1/forebay/demand/peak@2.1","rung":"on-chain"},"result":null}]}]}"#,
        )
        .unwrap();
        let text = table(&view.events, true).unwrap();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        let expected =
            ["peak-10000", "1970-01-01T00:00:11", "settled", "4.000", "3.500", "3.250", "14.000", ">", "10.750", "2", "of", "3"];
        assert_eq!(lines[1], expected);
        assert!(text.contains("2 of 3 meters reported during the event, 0 are estimated, 1 missing: MISSING"), "{text}");
        assert!(text.contains("from 6.000 kW, the 4 highest of the last 5 similar days times 1.100"), "{text}");
        assert_eq!(lines[5], ["promise", "cityA/u1/forebay/demand/peak@2.1", "on-chain"]);
        assert_eq!(table(&[], true).unwrap(), "nothing was asked\n");
    }
}
