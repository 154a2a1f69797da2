//! `forebay targets`: which relay an agent sends to, how far each relay is, and why.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use chassis::Exit;
use cloud::moment;
use cloud::registry::TargetsPage;
use edge_agent::Terminal;
use edge_agent::terminal::{Measured, Moved};
use reqwest::Method;
use serde_json::{Value, json};

use crate::host;
use crate::http::{Cloud, Trust};
use crate::user::Login;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An agent's data folder; the agent may be running. Without it the cloud is asked about all agents.
    data: Option<PathBuf>,
    /// How many of the last moves are shown.
    #[arg(long, value_name = "N", default_value_t = 10)]
    moves: usize,
    /// One JSON object instead of text; of the cloud's answer one a line for each sensor.
    #[arg(long)]
    json: bool,
    /// Only sensors of this area; asks the cloud.
    #[arg(long, conflicts_with = "data")]
    area: Option<String>,
    /// The cloud's HTTP address, like http://127.0.0.1:8080.
    #[arg(long, value_name = "URL", env = "FOREBAY_CLOUD")]
    cloud: Option<String>,
    #[command(flatten)]
    trust: Trust,
    #[command(flatten)]
    login: Login,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    match (&args.data, &args.cloud) {
        (Some(data), _) => of_folder(data, &args),
        (None, Some(cloud)) => {
            let cloud = Cloud { cloud: cloud.clone(), trust: args.trust.clone(), login: args.login.clone() };
            host::runtime()?.block_on(of_cloud(&cloud, &args))
        }
        (None, None) => anyhow::bail!("name an agent's data folder, or give the cloud's address with --cloud"),
    }
}

/// What the agents have told the cloud.
async fn of_cloud(cloud: &Cloud, args: &Args) -> anyhow::Result<Exit> {
    let (mut cursor, mut sensors, mut is_read) = (None::<String>, 0_usize, true);
    loop {
        let optional = [("area", args.area.clone()), ("cursor", cursor)];
        let parameters: Vec<_> = optional.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let request = cloud.request(Method::GET, "/api/v1/targets")?.query(&parameters);
        let page: TargetsPage = cloud.send(request).await?.json().await.context("the cloud's answer can't be read")?;
        let mut text = String::new();
        if sensors == 0 && !page.targets.is_empty() && !args.json {
            row(&mut text, ["sensor", "relay", "round trip", "since", "why"])?;
        }
        for target in &page.targets {
            if args.json {
                writeln!(text, "{}", serde_json::to_string(target)?)?;
                continue;
            }
            let rtt = millis(target.rtt_ns.map(Duration::from_nanos));
            row(&mut text, [target.sensor.as_str(), target.relay.as_str(), &rtt, &target.since, &target.why])?;
        }
        sensors += page.targets.len();
        is_read = is_read && host::print(&text)?;
        cursor = page.next_cursor;
        if cursor.is_none() || !is_read {
            break;
        }
    }
    Ok(if sensors > 0 { Exit::Ok } else { Exit::Negative })
}

fn row(text: &mut String, columns: [&str; 5]) -> std::fmt::Result {
    let [sensor, relay, rtt, since, why] = columns;
    writeln!(text, "{sensor:<30}  {relay:<20}  {rtt:>10}  {since:<30}  {why}")
}

fn of_folder(data: &Path, args: &Args) -> anyhow::Result<Exit> {
    let terminal = Terminal::open(data)?;
    let relays = terminal.relays()?;
    let mut moves = terminal.moves(args.moves.max(1))?;
    let target = moves.first().cloned();
    moves.truncate(args.moves);
    let text = match args.json {
        true => format!("{}\n", json(terminal.sensor(), target.as_ref(), &relays, &moves)),
        false => table(terminal.sensor(), target.as_ref(), &relays, &moves)?,
    };
    host::print(&text)?;
    Ok(if target.is_some() { Exit::Ok } else { Exit::Negative })
}

fn json(sensor: &str, target: Option<&Moved>, relays: &[Measured], moves: &[Moved]) -> Value {
    let nanos = |rtt: Option<Duration>| rtt.map(|rtt| u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX));
    let relay = |measured: &Measured| {
        json!({
            "relay": measured.relay.as_str(),
            "rtt_ns": nanos(measured.rtt),
            "at": moment::format(measured.at),
            "target": target.is_some_and(|target| target.to == measured.relay),
        })
    };
    let moved = |moved: &Moved| {
        json!({
            "from": moved.from.as_ref().map(|from| from.as_str()),
            "to": moved.to.as_str(),
            "at": moment::format(moved.at),
            "why": moved.why.as_str(),
            "rtt_before_ns": nanos(moved.before),
            "rtt_after_ns": nanos(moved.after),
        })
    };
    json!({
        "type": "targets",
        "sensor": sensor,
        "target": target.map(|target| target.to.as_str()),
        "since": target.map(|target| moment::format(target.at)),
        "why": target.map(|target| target.why.as_str()),
        "relays": relays.iter().map(relay).collect::<Vec<_>>(),
        "moves": moves.iter().map(moved).collect::<Vec<_>>(),
    })
}

fn table(sensor: &str, target: Option<&Moved>, relays: &[Measured], moves: &[Moved]) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let Some(target) = target else {
        writeln!(text, "{sensor} has no target yet")?;
        return Ok(text);
    };
    writeln!(text, "{sensor} sends to {} since {} ({})", target.to, moment::format(target.at), target.why.as_str())?;
    if !relays.is_empty() {
        writeln!(text, "\n  {:<20}  {:>10}  measured", "relay", "round trip")?;
    }
    for measured in relays {
        let mark = if measured.relay == target.to { '*' } else { ' ' };
        let at = moment::format(measured.at);
        writeln!(text, "{mark} {:<20}  {:>10}  {at}", measured.relay.as_str(), millis(measured.rtt))?;
    }
    if !moves.is_empty() {
        let heads = ["at", "from", "to", "why", "before", "after"];
        writeln!(
            text,
            "\n{:<30}  {:<20}  {:<20}  {:<8}  {:>10}  {:>10}",
            heads[0], heads[1], heads[2], heads[3], heads[4], heads[5]
        )?;
    }
    for moved in moves {
        let from = moved.from.as_ref().map_or("-", |from| from.as_str());
        let (at, to, why) = (moment::format(moved.at), moved.to.as_str(), moved.why.as_str());
        writeln!(text, "{at:<30}  {from:<20}  {to:<20}  {why:<8}  {:>10}  {:>10}", millis(moved.before), millis(moved.after))?;
    }
    Ok(text)
}

fn millis(rtt: Option<Duration>) -> String {
    rtt.map_or_else(|| "-".to_owned(), |rtt| format!("{:.1} ms", rtt.as_secs_f64() * 1e3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use edge_agent::Why;

    fn shown() -> (Vec<Measured>, Vec<Moved>) {
        let measured =
            |relay: &str, rtt| Measured { sensor: "cityA/m".parse().unwrap(), relay: relay.parse().unwrap(), rtt, at: 1 };
        let ms = |n| Some(Duration::from_millis(n));
        let first =
            Moved { from: None, to: "relay-1".parse().unwrap(), at: 1_000_000_000, why: Why::First, before: None, after: ms(4) };
        let to = "relay-2".parse().unwrap();
        let gone = Moved { from: Some(first.to.clone()), to, at: 2_000_000_000, why: Why::Gone, before: None, after: ms(20) };
        (vec![measured("relay-1", None), measured("relay-2", ms(20))], vec![gone, first])
    }

    #[test]
    fn a3_target_times_and_reasons_are_shown() {
        let (relays, moves) = shown();
        let text = table("cityA/m", moves.first(), &relays, &moves).unwrap();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0].join(" "), "cityA/m sends to relay-2 since 1970-01-01T00:00:02.000000000Z (gone)");
        assert_eq!(lines[3], ["relay-1", "-", "1970-01-01T00:00:00.000000001Z"]);
        assert_eq!(lines[4], ["*", "relay-2", "20.0", "ms", "1970-01-01T00:00:00.000000001Z"]);
        assert_eq!(lines[7], ["1970-01-01T00:00:02.000000000Z", "relay-1", "relay-2", "gone", "-", "20.0", "ms"]);
        assert_eq!(lines[8], ["1970-01-01T00:00:01.000000000Z", "-", "relay-1", "first", "-", "4.0", "ms"]);
        assert_eq!(table("cityA/m", None, &[], &[]).unwrap(), "cityA/m has no target yet\n");
    }

    #[test]
    fn a3_target_times_and_reasons_are_json() {
        let (relays, moves) = shown();
        let shown = json("cityA/m", moves.first(), &relays, &moves);
        assert_eq!(
            (&shown["target"], &shown["why"], &shown["relays"][1]["target"]),
            (&json!("relay-2"), &json!("gone"), &json!(true))
        );
        assert_eq!((&shown["relays"][1]["rtt_ns"], &shown["relays"][0]["rtt_ns"]), (&json!(20_000_000), &Value::Null));
        assert_eq!(
            shown["moves"][1],
            json!({ "from": null, "to": "relay-1", "at": "1970-01-01T00:00:01.000000000Z", "why": "first",
            "rtt_before_ns": null, "rtt_after_ns": 4_000_000 })
        );
    }
}
