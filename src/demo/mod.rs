//! `forebay demo`: everything together on real data, ending by itself with a table.
//!
//! A month of 27 measured load profiles is replayed in half a minute: each profile is a meter with an edge agent of its own, three
//! relays and a cloud are real processes, and a development chain takes the digests of both sides. The relays share one way up and
//! take turns as proxy; in the middle the proxy of the moment gets kill -9 and is started again. Their storage areas are so small that they
//! spill, and a question brings what one of them keeps. At the end everything is read back and compared with the data set, value by value,
//! and a byte is changed that an audit finds.

mod audits;
mod batches;
mod group;
mod homes;
mod meters;
mod plan;
mod process;
mod proofs;
mod readers;
mod report;
mod town;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use chassis::Exit;
use cloud::gaps::LedgerPage;
use reqwest::{Method, StatusCode};

use crate::host;
use homes::Homes;
use meters::Meters;
use plan::Plan;
use readers::{Reader, Subscription, compare};
use report::Report;
use town::{RELAYS, Town, relay_name};
use wire::{Operation, Series};

/// How long a killed relay stays away at least.
const ABSENCE: Duration = Duration::from_secs(1);
/// How long anything may take that is waited for after the replay.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often progress is shown.
const TICK: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The data set: SimBench load profiles as CSV, first column time.
    #[arg(long, value_name = "FILE", default_value = "data/simbench-loads-2016-01.csv")]
    readings: PathBuf,
    /// How many days of it.
    #[arg(long, default_value_t = 31)]
    days: usize,
    /// How many seconds the replay takes.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// One JSON object at the end instead of a table.
    #[arg(long)]
    json: bool,
    /// Keep the town's files and logs in this folder, which must not exist yet.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// The anvil binary.
    #[arg(long, value_name = "FILE", env = "FOREBAY_ANVIL", default_value = "anvil")]
    anvil: PathBuf,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    host::runtime()?.block_on(async {
        let mut stop = chassis::Signals::of_process().context("signals")?;
        tokio::select! {
            outcome = demonstrate(&args) => outcome,
            () = stop.next() => bail!("interrupted; everything was stopped"),
        }
    })
}

async fn demonstrate(args: &Args) -> anyhow::Result<Exit> {
    ensure!(args.days > 0 && args.seconds > 0, "--days and --seconds must be at least 1");
    let started = Instant::now();
    let folder = Folder::make(args.keep.clone())?;
    let plan = Plan::read(&args.readings, args.days, &folder.path)?;
    let expected = plan.readings();
    say(&format!(
        "{} meters, {expected} readings, replayed in {} s; files in {}",
        plan.meters.len(),
        args.seconds,
        folder.path.display()
    ));
    let mut town = Town::build(&folder.path, &plan, &args.anvil).await?;
    say(&format!("chain {}, cloud mqtt {} http {}, {RELAYS} relays", town.rpc, town.cloud_mqtt, town.cloud_http));

    let mut report = Report::default();
    let analyst = Reader::new(&town, "analyst")?;
    let operator = Reader::new(&town, "operator")?;
    let subscription = Subscription::start(&town).await?;
    let mut homes = Homes::start(&town).await?;
    let meters = Meters::start(&town, &plan, Duration::from_secs(args.seconds)).await?;

    replay(&mut town, &operator, &meters, &subscription, expected, &mut report).await?;
    report.demand = Some(homes.settled(&operator).await?);
    report.pulled = pull(&operator, &plan).await?;
    flush(&operator).await?;
    say(&format!("{RELAYS} relays were asked to hand over what they still store"));
    wait_for_the_cloud(&operator, &meters, &homes).await?;
    report.spills = town.relays_count("relay_spills_total").await?;
    (report.proxy_terms, report.proxies) = group::served(&operator).await?;
    wait_for_the_chain(&operator, &meters).await?;

    let progress = meters.progress();
    (report.taken, report.relay_durable, report.anchored_terminal) = (progress.taken, progress.accepted, progress.anchored);
    report.about_themselves = progress.taken.saturating_sub(expected);
    report.targets_mirrored = targets(&operator).await?;
    (report.anchored_cloud, report.held) = (anchored(&operator).await?, held(&operator).await?);
    report.batches = batches::count(&town, &plan)?;
    let comparison = compare(&operator, &plan).await?;
    (report.cloud_durable, report.lost, report.duplicated) = (comparison.held, comparison.lost, comparison.duplicated);
    report.live_received = subscription.received();
    report.relay_moves = meters.moves(&town, &plan)?;
    report.foreign_read_refused = subscription.foreign_refused && foreign_query_refused(&analyst, &plan).await?;
    let key = subscription.some_key().await.context("the analyst received nothing to ask about")?;
    match proofs::verify_and_tamper(&town, &analyst, &key).await {
        Ok(checks) => (report.proof_verified, report.tampered_proof_refused) = checks,
        Err(error) => report.failures.push(format!("the proof of {key}: {error:#}")),
    }

    subscription.stop().await;
    for stopped in [meters.stop().await, homes.stop().await, town.stop().await] {
        report.failures.extend(stopped.err().map(|error| format!("{error:#}")));
    }
    match audits::audit_and_tamper(&town, &plan).await {
        Ok(audits) => (report.audit_clean, report.audit_caught) = (audits.clean, audits.finding),
        Err(error) => report.failures.push(format!("the audits: {error:#}")),
    }
    report.failures.extend(town.stop_chain().await.err().map(|error| format!("{error:#}")));
    report.seconds = started.elapsed().as_secs_f64();
    let live: usize = plan.meters.iter().filter(|meter| is_live(meter)).map(|meter| meter.readings.len()).sum();
    report.judge(expected, live as u64, plan.meters.len() as u64);
    host::print(&if args.json { serde_json::to_string(&report)? + "\n" } else { format!("\n{report}") })?;
    Ok(if report.is_well() { Exit::Ok } else { Exit::Negative })
}

/// Whether the analyst of city A sees a meter's readings as they come.
fn is_live(meter: &plan::Meter) -> bool {
    meter.sensor.area() == "cityA" && meter.operation == Operation::Forward
}

/// Follows the replay to its end; kills the proxy halfway and starts it again.
async fn replay(
    town: &mut Town,
    operator: &Reader,
    meters: &Meters,
    live: &Subscription,
    expected: u64,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut shown = Line::new();
    loop {
        ensure!(!meters.have_ended(), "an agent has failed; see the log above");
        let progress = meters.progress();
        shown.show(&format!(
            "taken {:>6} of {expected}   durable at relays {:>6}   live to the analyst {:>6}   anchored by meters {:>6}",
            progress.taken,
            progress.accepted,
            live.received(),
            progress.anchored
        ));
        if progress.taken >= expected && progress.accepted >= progress.taken {
            shown.end();
            return Ok(());
        }
        if report.relay_kills == 0 && progress.taken * 2 >= expected {
            shown.end();
            kill_the_proxy(town, operator, report).await?;
        }
        tokio::time::sleep(TICK).await;
    }
}

/// The proxy of the moment gets kill -9, and comes back after another one has taken over.
async fn kill_the_proxy(town: &mut Town, operator: &Reader, report: &mut Report) -> anyhow::Result<()> {
    let dead = group::wait_for_proxy(operator, 0, None).await?;
    say(&format!("{}, proxy of term {}, gets kill -9", relay_name(dead.relay), dead.term));
    let killed = Instant::now();
    town.kill_relay(dead.relay).await?;
    let next = group::wait_for_proxy(operator, dead.term, Some(dead.relay)).await?;
    report.proxy_replaced_ms = u64::try_from(killed.elapsed().as_millis()).unwrap_or(u64::MAX);
    say(&format!("{} is the proxy, {} ms later", relay_name(next.relay), report.proxy_replaced_ms));
    tokio::time::sleep(ABSENCE.saturating_sub(killed.elapsed())).await;
    town.revive_relay(dead.relay).await?;
    report.relay_kills += 1;
    say(&format!("{} is back", relay_name(dead.relay)));
    Ok(())
}

/// Asks for the past of a meter whose readings are stored at relays; gives how many the question brought to the cloud.
async fn pull(operator: &Reader, plan: &Plan) -> anyhow::Result<u64> {
    let mut pulled = 0;
    for meter in plan.meters.iter().filter(|meter| meter.operation == Operation::Store) {
        let before = held_of(operator, &meter.series()).await?;
        let records = operator.records(meter).await?;
        let brought = (records.len() as u64).saturating_sub(before);
        pulled += brought;
        if brought > 0 {
            say(&format!("a question for {} brought {brought} of its {} readings from the relays", meter.sensor, records.len()));
            break;
        }
    }
    Ok(pulled)
}

/// Asks every relay to hand over what it stores: a meter may have used any of them.
async fn flush(operator: &Reader) -> anyhow::Result<()> {
    for relay in 0..RELAYS {
        let path = format!("/api/v1/relays/{}/flush", relay_name(relay));
        let (status, answer) = operator.ask(Method::POST, &path).await?;
        ensure!(status.is_success(), "{path}: {status}: {answer}");
    }
    Ok(())
}

async fn wait_for_the_cloud(operator: &Reader, meters: &Meters, homes: &Homes) -> anyhow::Result<()> {
    wait("the cloud", async || {
        let (held, taken) = (held(operator).await?, meters.progress().taken + homes.taken());
        Ok((held >= taken, format!("durable at the cloud {held:>6} of {taken}")))
    })
    .await
}

async fn wait_for_the_chain(operator: &Reader, meters: &Meters) -> anyhow::Result<()> {
    wait("the chain", async || {
        let (progress, cloud, held) = (meters.progress(), anchored(operator).await?, held(operator).await?);
        let (terminal, taken) = (progress.anchored, progress.taken);
        Ok((
            terminal >= taken && cloud >= held,
            format!("final on chain: by meters {terminal:>6} of {taken}, by the cloud {cloud:>6} of {held}"),
        ))
    })
    .await
}

/// Records that the cloud's archive holds.
async fn held(operator: &Reader) -> anyhow::Result<u64> {
    operator.get("/api/v1/status").await?["records"]["held"].as_u64().context("records.held of the status")
}

/// Records of a series that the cloud's archive holds, whatever relays keep of it.
async fn held_of(operator: &Reader, series: &Series) -> anyhow::Result<u64> {
    let ledger: LedgerPage = serde_json::from_value(operator.get(&format!("/api/v1/gaps?series={series}")).await?)?;
    Ok(ledger.holdings.iter().map(|holding| holding.held).sum())
}

/// Sensors whose target the cloud mirrors.
async fn targets(operator: &Reader) -> anyhow::Result<u64> {
    let answer = operator.get("/api/v1/targets?limit=1000").await?;
    Ok(answer["targets"].as_array().context("targets of the answer")?.len() as u64)
}

/// Records whose digest the cloud has on chain for good.
async fn anchored(operator: &Reader) -> anyhow::Result<u64> {
    operator.get("/api/v1/status").await?["batches"]["records_final"].as_u64().context("batches.records_final of the status")
}

/// The analyst of city A asks for the past of city B.
async fn foreign_query_refused(analyst: &Reader, plan: &Plan) -> anyhow::Result<bool> {
    let foreign = plan.meters.iter().find(|meter| meter.sensor.area() != "cityA").context("a meter elsewhere")?;
    let own = plan.meters.iter().find(|meter| meter.sensor.area() == "cityA").context("a meter in city A")?;
    let (refused, _) = analyst.ask(Method::GET, &format!("/api/v1/records?series={}&limit=1", foreign.series())).await?;
    let (granted, _) = analyst.ask(Method::GET, &format!("/api/v1/records?series={}&limit=1", own.series())).await?;
    Ok(refused == StatusCode::FORBIDDEN && granted == StatusCode::OK)
}

/// Asks until the answer is yes, showing the state; gives up with the last state. What is missing then shows in the table.
async fn wait(what: &str, mut ask: impl AsyncFnMut() -> anyhow::Result<(bool, String)>) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut shown = Line::new();
    loop {
        let (done, state) = ask().await?;
        shown.show(&state);
        if done || Instant::now() > deadline {
            shown.end();
            if !done {
                say(&format!("{what} did not get there within {PATIENCE:?}"));
            }
            return Ok(());
        }
        tokio::time::sleep(TICK).await;
    }
}

/// One line of progress on stderr.
fn say(text: &str) {
    eprintln!("{text}");
}

/// A line that is written over on a terminal, and written rarely elsewhere.
struct Line {
    terminal: bool,
    last: String,
    written: Option<Instant>,
}

/// How often progress is written where lines can't be written over.
const LOG_EVERY: Duration = Duration::from_secs(5);

impl Line {
    fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), last: String::new(), written: None }
    }

    fn show(&mut self, text: &str) {
        self.last = text.to_owned();
        if self.terminal {
            eprint!("\r\x1b[K{text}");
        } else if self.written.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
            say(text);
            self.written = Some(Instant::now());
        }
    }

    fn end(&mut self) {
        if self.terminal {
            eprintln!();
        } else {
            say(&self.last);
        }
    }
}

/// The town's folder: a temporary one is removed at the end.
struct Folder {
    path: PathBuf,
    temporary: bool,
}

impl Folder {
    fn make(keep: Option<PathBuf>) -> anyhow::Result<Self> {
        let temporary = keep.is_none();
        let name = format!("forebay-demo-{:016x}", rand::random::<u64>());
        let path = keep.unwrap_or_else(|| std::env::temp_dir().join(name));
        std::fs::create_dir(&path).with_context(|| format!("{}: the folder can't be made", path.display()))?;
        Ok(Self { path, temporary })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.temporary {
            // Best effort: the system clears its temporary folder anyway.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
