//! `forebay tail`: readings as they arrive at the cloud, over plain MQTT.

use anyhow::Context;
use chassis::Exit;
use link::{Link, LinkConfig, LinkState, Qos, Received};

use crate::host;
use crate::user::Login;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which readings: a topic filter below data/, like cityA/# or +/+/power/active.
    #[arg(default_value = "#")]
    filter: String,
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
    link.subscribe(format!("data/{}", args.filter), Qos::One).await.with_context(|| format!("data/{}", args.filter))?;
    let mut left = args.count;
    while left != Some(0) {
        let Some(message) = incoming.next().await else { break };
        let line = if args.json { json_line(&message) } else { text_line(&message) };
        if !host::print(&format!("{line}\n"))? {
            break;
        }
        left = left.map(|left| left - 1);
    }
    link.close().await;
    Ok(Exit::Ok)
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
