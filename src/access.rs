//! `forebay access`: ask for access to data, decide about requests, read the audit trail.

use std::fmt::Write;

use anyhow::Context;
use chassis::Exit;
use cloud::access::audit::{self, Entry};
use cloud::access::{Ask, Bounds, Narrowed, State};
use cloud::access_api::{Requests, Shown, Trail, Verdict};
use reqwest::Method;
use serde::Serialize;
use wire::grants::Action;

use crate::host;
use crate::http::Cloud;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Ask for data. A rule may approve at once; otherwise the request waits for the operator.
    Request(RequestArgs),
    /// Show requests: your own, or all for an operator.
    List(ListArgs),
    /// Approve a request that waits, as it is or for less.
    Approve(ApproveArgs),
    /// Reject a request that waits.
    Reject(DecideArgs),
    /// Take away what was approved. It is gone when the command returns, from open subscriptions within a second.
    Revoke(DecideArgs),
    /// Withdraw a request of your own that waits.
    Withdraw(DecideArgs),
    /// Show the audit trail, and check that it hangs together. Exit code 1 if it does not.
    Log(LogArgs),
}

/// Which data.
#[derive(Debug, clap::Args)]
struct What {
    /// An area, like cityA; may be given several times.
    #[arg(long = "area", value_name = "AREA")]
    areas: Vec<String>,
    /// A tag that the sensors must have, like residential; all that are given must hold.
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Streams of the sensors, like power/active or power/#; may be given several times.
    #[arg(long = "stream", value_name = "FILTER")]
    streams: Vec<String>,
    /// subscribe or query; may be given several times.
    #[arg(long = "action", value_name = "ACTION", value_parser = action)]
    actions: Vec<Action>,
}

fn action(text: &str) -> Result<Action, String> {
    Action::try_from(text.to_owned())
}

#[derive(Debug, clap::Args)]
struct RequestArgs {
    #[command(flatten)]
    what: What,
    /// From when on, RFC 3339; at once, if left out.
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Until when, RFC 3339, like 2027-01-01T00:00:00Z.
    #[arg(long, value_name = "TIME")]
    until: String,
    /// What for, in a sentence.
    #[arg(long, value_name = "WORDS")]
    purpose: String,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cloud: Cloud,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Only those that are waiting, approved, rejected, withdrawn or revoked.
    #[arg(long, value_parser = state)]
    state: Option<State>,
    /// One JSON object a line instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cloud: Cloud,
}

fn state(text: &str) -> Result<State, String> {
    State::named(text).ok_or_else(|| "there are waiting, approved, rejected, withdrawn and revoked".to_owned())
}

#[derive(Debug, clap::Args)]
struct ApproveArgs {
    #[command(flatten)]
    decide: DecideArgs,
    /// Give only these areas, tags, streams or actions; what is left out stays as it was asked for.
    #[command(flatten)]
    what: What,
    /// An earlier end, RFC 3339.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

#[derive(Debug, clap::Args)]
struct DecideArgs {
    /// The number of the request.
    id: u64,
    /// Why, in a sentence; for whoever asked, and for the audit trail.
    #[arg(long, value_name = "WORDS")]
    reason: String,
    #[command(flatten)]
    cloud: Cloud,
}

#[derive(Debug, clap::Args)]
struct LogArgs {
    /// One JSON object a line instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cloud: Cloud,
}

const REQUESTS: &str = "/api/v1/access/requests";

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    host::runtime()?.block_on(async {
        match args.command {
            Command::Request(args) => request(args).await,
            Command::List(args) => list(args).await,
            Command::Approve(args) => approve(args).await,
            Command::Reject(args) => decide(&args, "reject", Narrowed::default()).await,
            Command::Revoke(args) => decide(&args, "revoke", Narrowed::default()).await,
            Command::Withdraw(args) => decide(&args, "withdraw", Narrowed::default()).await,
            Command::Log(args) => log(args).await,
        }
    })
}

async fn request(args: RequestArgs) -> anyhow::Result<Exit> {
    let What { areas, tags, streams, actions } = args.what;
    let actions = if actions.is_empty() { vec![Action::Subscribe, Action::Query] } else { actions };
    let ask = Ask { areas, tags, streams, actions, from: args.from, until: args.until, purpose: args.purpose };
    let shown = post(&args.cloud, REQUESTS, &ask).await?;
    let text = if args.json { format!("{}\n", serde_json::to_string(&shown)?) } else { format!("{}\n", outcome(&shown)) };
    host::print(&text)?;
    Ok(Exit::Ok)
}

async fn list(args: ListArgs) -> anyhow::Result<Exit> {
    let (mut before, mut headed) = (None::<u64>, false);
    loop {
        let optional = [("state", args.state.map(|state| state.to_string())), ("before", before.map(|id| id.to_string()))];
        let parameters: Vec<_> = optional.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let request = args.cloud.request(Method::GET, REQUESTS)?.query(&parameters);
        let page: Requests = args.cloud.send(request).await?.json().await.context("the cloud's answer can't be read")?;
        let mut text = String::new();
        for shown in &page.requests {
            if args.json {
                writeln!(text, "{}", serde_json::to_string(shown)?)?;
                continue;
            }
            if !std::mem::replace(&mut headed, true) {
                row(&mut text, ["id", "state", "user", "until", "what", "purpose"])?;
            }
            let granted = shown.granted.as_ref();
            let state = match granted {
                Some(granted) if !granted.holds => "over",
                _ => shown.state.as_str(),
            };
            let until = granted.map_or(&shown.asked.until, |granted| &granted.until);
            let bounds = granted.map_or(&shown.asked.bounds, |granted| &granted.bounds);
            row(&mut text, [&shown.id.to_string(), state, &shown.user, minutes(until), &words(bounds), &shown.asked.purpose])?;
        }
        let is_read = host::print(&text)?;
        before = page.next_before;
        if before.is_none() || !is_read {
            return Ok(Exit::Ok);
        }
    }
}

async fn approve(args: ApproveArgs) -> anyhow::Result<Exit> {
    let What { areas, tags, streams, actions } = args.what;
    let narrowed = Narrowed {
        areas: (!areas.is_empty()).then_some(areas),
        tags: (!tags.is_empty()).then_some(tags),
        streams: (!streams.is_empty()).then_some(streams),
        actions: (!actions.is_empty()).then_some(actions),
        until: args.until,
    };
    decide(&args.decide, "approve", narrowed).await
}

async fn decide(args: &DecideArgs, what: &str, narrowed: Narrowed) -> anyhow::Result<Exit> {
    let verdict = Verdict { reason: args.reason.clone(), narrowed };
    let shown = post(&args.cloud, &format!("{REQUESTS}/{}/{what}", args.id), &verdict).await?;
    host::print(&format!("{}\n", outcome(&shown)))?;
    Ok(Exit::Ok)
}

async fn post(cloud: &Cloud, path: &str, body: &impl Serialize) -> anyhow::Result<Shown> {
    let request = cloud.request(Method::POST, path)?.json(body);
    cloud.send(request).await?.json().await.context("the cloud's answer can't be read")
}

async fn log(args: LogArgs) -> anyhow::Result<Exit> {
    let (mut after, mut before, mut is_read) = (0_u64, audit::FIRST, true);
    loop {
        let request = args.cloud.request(Method::GET, "/api/v1/access/log")?.query(&[("after", after)]);
        let page: Trail = args.cloud.send(request).await?.json().await.context("the cloud's answer can't be read")?;
        let mut text = String::new();
        for entry in &page.entries {
            let Some(link) = entry.follows(after + 1, before) else {
                host::print(&text)?;
                eprintln!("forebay: entry {} does not follow from the one before: the audit trail was changed", after + 1);
                return Ok(Exit::Negative);
            };
            (after, before) = (entry.seq, link);
            if args.json {
                writeln!(text, "{}", serde_json::to_string(entry)?)?;
            } else {
                let Entry { seq, at, who, what, request, reason, .. } = entry;
                writeln!(text, "{seq:>6}  {}  {who}  {what} request {request}: {reason}", minutes(at))?;
            }
        }
        // Who stops reading still gets the exit code.
        is_read = is_read && host::print(&text)?;
        if page.next_after.is_none() {
            break;
        }
    }
    if !args.json {
        let head: String = before.iter().map(|byte| format!("{byte:02x}")).collect();
        eprintln!(
            "forebay: {after} entries hang together; note the last hash elsewhere to see later that none was changed: {head}"
        );
    }
    Ok(Exit::Ok)
}

/// What became of a request, in one line.
fn outcome(shown: &Shown) -> String {
    let Shown { id, user, state, .. } = shown;
    match (&shown.granted, &shown.decision) {
        (Some(granted), _) => {
            format!("request {id} of {user} is {state}: {} until {}", words(&granted.bounds), minutes(&granted.until))
        }
        (None, Some(decision)) => format!("request {id} of {user} is {state} by {}: {}", decision.by, decision.reason),
        (None, None) => format!("request {id} of {user} is {state}: {}", words(&shown.asked.bounds)),
    }
}

/// Bounds in a few words: `subscribe+query cityA [residential] power/active`.
fn words(bounds: &Bounds) -> String {
    let actions: Vec<_> = bounds.actions.iter().map(ToString::to_string).collect();
    let areas = if bounds.areas.is_empty() { "all areas".to_owned() } else { bounds.areas.join(",") };
    let mut text = format!("{} {areas}", actions.join("+"));
    if !bounds.tags.is_empty() {
        text.push_str(&format!(" [{}]", bounds.tags.join(" ")));
    }
    if !bounds.streams.is_empty() {
        text.push(' ');
        text.push_str(&bounds.streams.join(","));
    }
    text
}

/// A time without what nobody reads of it.
fn minutes(time: &str) -> &str {
    time.get(..16).unwrap_or(time)
}

fn row(text: &mut String, columns: [&str; 6]) -> std::fmt::Result {
    let [id, state, user, until, what, purpose] = columns;
    writeln!(text, "{id:>6}  {state:<9}  {user:<24}  {until:<16}  {what:<44}  {purpose}")
}
