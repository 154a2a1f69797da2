//! `forebay tail`: readings as they arrive at the cloud, over plain MQTT; with `--from`, those before first.

use std::collections::HashMap;

use anyhow::Context;
use chassis::Exit;
use link::{Link, LinkConfig, LinkState, Qos, Received};
use tokio::sync::watch;
use wire::{Epoch, Intervals, RecordKey, Series};

use crate::host;
use crate::user::Login;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which readings: a topic filter below data/, like cityA/# or +/+/power/active.
    #[arg(default_value = "#")]
    filter: String,
    /// Begin with the readings since this time, RFC 3339, like 2016-01-01T00:00:00Z; those that come follow, each once.
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// The cloud's MQTT address.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:1884")]
    address: String,
    /// One JSON object a line instead of text.
    #[arg(long)]
    json: bool,
    /// End after this many readings.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    login: Login,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    host::runtime()?.block_on(follow(args))
}

async fn follow(args: Args) -> anyhow::Result<Exit> {
    let filter = match &args.from {
        None => format!("data/{}", args.filter),
        Some(time) => {
            let since = cloud::moment::parse(time).with_context(|| format!("--from {time}"))?;
            // In UTC: the sign of an offset means something else in a filter.
            format!("$from/{}/data/{}", cloud::moment::format(since), args.filter)
        }
    };
    let (host, port) = args.address.rsplit_once(':').with_context(|| format!("--address {}: give HOST:PORT", args.address))?;
    let port = port.parse().with_context(|| format!("--address {}: {port:?} is not a port", args.address))?;
    let mut config = LinkConfig::new(host.trim_matches(['[', ']']), port, format!("tail-{:08x}", rand::random::<u32>()));
    if let Some((user, password)) = args.login.credentials()? {
        config = config.with_credentials(user, password);
    }
    let (link, mut incoming) = Link::start(config);
    let mut state = link.state();
    let reached = state.wait_for(|state| !matches!(state, LinkState::Connecting)).await?.clone();
    if let LinkState::Refused { reason } | LinkState::Down { reason } = reached {
        anyhow::bail!("{}: {reason}", args.address);
    }
    link.subscribe(&filter, Qos::One).await.with_context(|| filter.clone())?;
    let mut seen = args.from.is_some().then(Seen::default);
    let mut left = args.count;
    while left != Some(0) {
        let message = tokio::select! {
            message = incoming.next() => message,
            reason = ended(&mut state) => anyhow::bail!("{filter}: {reason}"),
        };
        let Some(message) = message else { break };
        if seen.as_mut().is_some_and(|seen| !seen.is_first(&message)) {
            continue;
        }
        let line = if args.json { json_line(&message) } else { text_line(&message) };
        if !host::print(&format!("{line}\n"))? {
            break;
        }
        left = left.map(|left| left - 1);
    }
    link.close().await;
    Ok(Exit::Ok)
}

/// Resolves when the cloud does not let us go on: the connection, or the filter after a new connection, is refused.
async fn ended(state: &mut watch::Receiver<LinkState>) -> String {
    let gone = |state: &LinkState| match state {
        LinkState::Refused { reason } => Some(reason.clone()),
        LinkState::Connected { refused_filters } if !refused_filters.is_empty() => Some("the filter is refused now".to_owned()),
        _ => None,
    };
    let reason = state.wait_for(|state| gone(state).is_some()).await;
    match reason.ok().and_then(|state| gone(&state)) {
        Some(reason) => reason,
        // The link was closed; then the messages end too.
        None => std::future::pending().await,
    }
}

/// What was printed. After a connection that was lost the feed begins again where it began, and each reading is printed once.
#[derive(Default)]
struct Seen(HashMap<(Series, Epoch), Intervals>);

impl Seen {
    fn is_first(&mut self, message: &Received) -> bool {
        let Some(key) = property(message, "key").and_then(|key| key.parse::<RecordKey>().ok()) else { return true };
        let seen = self.0.entry((key.series, key.epoch)).or_default();
        let first = !seen.contains(key.seq);
        seen.insert(key.seq, key.seq);
        first
    }
}

fn property<'a>(message: &'a Received, name: &str) -> Option<&'a str> {
    message.user_properties.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

fn text_line(message: &Received) -> String {
    let value = String::from_utf8_lossy(&message.payload);
    let key = property(message, "key").unwrap_or(message.topic.trim_start_matches("data/"));
    format!("{}  {key}  {value}", property(message, "at").unwrap_or("-"))
}

fn json_line(message: &Received) -> String {
    serde_json::json!({
        "key": property(message, "key"),
        "series": message.topic.trim_start_matches("data/"),
        "at": property(message, "at"),
        "relay": property(message, "relay"),
        "operation": property(message, "operation"),
        "historical": property(message, "historical").is_some_and(|value| value == "true"),
        "payload": String::from_utf8_lossy(&message.payload),
    })
    .to_string()
}
