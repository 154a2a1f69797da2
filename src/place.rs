//! `forebay where`: how far one record has come.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, bail};
use chassis::Exit;
use cloud::ladder::{Absent, Custody, Kept, Whereabouts};
use edge_agent::{State, Terminal, terminal};
use reqwest::Method;
use wire::RecordKey;

use crate::host;
use crate::http::{Cloud, Trust};
use crate::user::Login;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The record, like cityA/meter-0017/power/active@9f3c.1029.
    key: RecordKey,
    /// The cloud's answer as it is, instead of text.
    #[arg(long)]
    json: bool,
    /// Look into the data folder of the agent that took it, instead of asking the cloud.
    #[arg(long, value_name = "DIR", conflicts_with = "json")]
    terminal: Option<PathBuf>,
    /// The cloud's HTTP address, like http://127.0.0.1:8080.
    #[arg(long, value_name = "URL", env = "FOREBAY_CLOUD")]
    cloud: Option<String>,
    #[command(flatten)]
    trust: Trust,
    #[command(flatten)]
    login: Login,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    if let Some(folder) = &args.terminal {
        let terminal = Terminal::open(folder).with_context(|| folder.display().to_string())?;
        let found = terminal.whereabouts(&args.key)?;
        host::print(&at_terminal(&args.key, found.as_ref())?)?;
        return Ok(if found.is_some() { Exit::Ok } else { Exit::Negative });
    }
    let Some(cloud) = args.cloud.clone() else {
        bail!("give the cloud's address with --cloud, or an agent's data folder with --terminal");
    };
    let cloud = Cloud { cloud, trust: args.trust.clone(), login: args.login.clone() };
    host::runtime()?.block_on(ask(args, cloud))
}

async fn ask(args: Args, cloud: Cloud) -> anyhow::Result<Exit> {
    let request = cloud.request(Method::GET, &format!("/api/v1/where/{}", args.key))?;
    let answer = cloud.send(request).await?.text().await?;
    let found: Whereabouts = serde_json::from_str(&answer).context("the cloud's answer can't be read")?;
    host::print(&if args.json { format!("{answer}\n") } else { describe(&found)? })?;
    Ok(if found.archived { Exit::Ok } else { Exit::Negative })
}

/// The ladder, a rung a line.
fn describe(found: &Whereabouts) -> Result<String, std::fmt::Error> {
    let mut text = format!("{}\n", found.key);
    if let Some(absent) = &found.absent {
        writeln!(text, "  cloud   not held: {}", reason(absent))?;
        if !matches!(absent, Absent::Tombstone { .. } | Absent::AtRelay { .. }) {
            writeln!(text, "          no relay has stated it; an agent may have it, or a relay whose segment is open")?;
        }
        return Ok(text);
    }
    let (at, relay) = (found.at.as_deref().unwrap_or("?"), found.relay.as_ref().map_or("?", |relay| relay.as_str()));
    writeln!(text, "  taken   generated {at}")?;
    writeln!(text, "  relay   came through {relay}")?;
    let kept = match (found.kept, found.chunk) {
        (Some(Kept::Chunk), Some(chunk)) => format!("in chunk {chunk}"),
        _ => "in the open page".to_owned(),
    };
    writeln!(text, "  cloud   durable, {kept}")?;
    match &found.root {
        Some(root) => writeln!(text, "  root    {root}")?,
        None if found.kept == Some(Kept::Chunk) => {
            writeln!(text, "  root    not yet: the secret of the epoch was not announced")?
        }
        None => writeln!(text, "  root    not yet: its segment is open")?,
    }
    if let Some(state) = found.state {
        writeln!(text, "  state   {}", since(state.as_str(), found.since.as_deref()))?;
    }
    let Some(batch) = &found.batch else {
        writeln!(text, "  batch   not yet")?;
        return Ok(text);
    };
    writeln!(text, "  batch   {}", batch.number)?;
    let mined = batch.block.map_or_else(String::new, |block| format!(" in block {block}"));
    let transaction = batch.transaction.as_ref().map_or_else(String::new, |hash| format!(", transaction {hash}{mined}"));
    writeln!(text, "  chain   {}{transaction}", on_its_way(&batch.detail, batch.failure.as_deref()))?;
    Ok(text)
}

/// What an agent's own database says.
fn at_terminal(key: &RecordKey, found: Option<&terminal::Whereabouts>) -> Result<String, std::fmt::Error> {
    let mut text = format!("{key}\n");
    let Some(found) = found else {
        writeln!(text, "  agent   never took it")?;
        return Ok(text);
    };
    let why = match (found.state, &found.reason) {
        (State::ServerRejected, Some(reason)) => format!(": {reason}"),
        _ => String::new(),
    };
    writeln!(text, "  agent   {}{why}", since(found.state.as_str(), found.since.as_deref()))?;
    let (Some(batch), Some(detail)) = (found.batch, &found.detail) else { return Ok(text) };
    writeln!(text, "  batch   {batch}")?;
    let transaction = found.tx.as_ref().map_or_else(String::new, |hash| format!(", transaction {hash}"));
    writeln!(text, "  chain   {}{transaction}", on_its_way(detail, found.reason.as_deref()))?;
    Ok(text)
}

fn since(state: &str, since: Option<&str>) -> String {
    since.map_or_else(|| state.to_owned(), |since| format!("{state} since {since}"))
}

/// What the ledger's word for a batch means.
fn on_its_way(detail: &str, failure: Option<&str>) -> String {
    let told = match detail {
        "BATCHED" => "waits for a transaction",
        "SIGNED" => "pending: signed, not taken by a node",
        "SENT" => "pending: taken by a node, not mined",
        "MINED" => "pending: mined, not final",
        "FINAL" => "final",
        "FAILED" => return format!("failed, to be tried again: {} ({detail})", failure.unwrap_or("no reason kept")),
        other => other,
    };
    format!("{told} ({detail})")
}

fn reason(absent: &Absent) -> String {
    match absent {
        Absent::Tombstone { from_seq, to_seq, tombstone } => {
            format!("{from_seq} to {to_seq} were given up at the {}: {}", tombstone.place.as_str(), tombstone.why)
        }
        Absent::AtRelay { relay, custody, relay_chunk, .. } => match custody {
            Custody::Keeps => format!("{relay} keeps it in its chunk {relay_chunk}; forebay query brings it"),
            Custody::OnTheWay => format!("{relay} has handed it over with its chunk {relay_chunk}, and it has not arrived"),
            Custody::Lost => format!("{relay} had it in a database that is gone"),
        },
        Absent::Gap { from_seq, to_seq, last_seq } => {
            format!("missing in the gap {from_seq} to {to_seq}; the last one received is {last_seq}")
        }
        Absent::Beyond { last_seq: Some(last_seq) } => format!("the last one received of this epoch is {last_seq}"),
        Absent::Beyond { last_seq: None } => "nothing of this series and epoch was received".to_owned(),
        Absent::Gone => "it was received, and the archive does not have it any more".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(json: &str) -> String {
        describe(&serde_json::from_str(json).unwrap()).unwrap()
    }

    #[test]
    fn c2_the_ladder_is_told_in_words() {
        let absent = described(
            r#"{"key":"a/b/c@9f.5","rung":"not-held","archived":false,
                "absent":{"reason":"gap","from_seq":4,"to_seq":6,"last_seq":9},"state":null,"at":null,"relay":null,"kept":null,
                "chunk":null,"root":null,"batch":null}"#,
        );
        assert!(absent.contains("not held: missing in the gap 4 to 6; the last one received is 9"), "{absent}");
        let kept = described(
            r#"{"key":"a/b/c@9f.5","rung":"relay-durable","archived":false,
                "absent":{"reason":"at-relay","relay":"relay-2","custody":"keeps","relay_chunk":7,"relay_root":"ab"},"state":null,
                "at":null,"relay":null,"kept":null,"chunk":null,"root":null,"batch":null}"#,
        );
        assert!(kept.contains("not held: relay-2 keeps it in its chunk 7; forebay query brings it\n"), "{kept}");
        let given_up = described(
            r#"{"key":"a/b/c@9f.5","rung":"not-held","archived":false,
                "absent":{"reason":"tombstone","from_seq":4,"to_seq":6,"why":"outbox full","place":"agent"},"state":null,"at":null,
                "relay":null,"kept":null,"chunk":null,"root":null,"batch":null}"#,
        );
        assert!(given_up.contains("not held: 4 to 6 were given up at the agent: outbox full\n"), "{given_up}");
        let on_chain = described(
            r#"{"key":"a/b/c@9f.5","rung":"on-chain","archived":true,"absent":null,"state":"OnChain",
                "since":"1970-01-01T00:00:09.000000000Z",
                "at":"1970-01-01T00:00:02.000000000Z","relay":"relay-1","kept":"chunk","chunk":7,"root":"ab12",
                "batch":{"number":3,"detail":"FINAL","transaction":"0xcd","block":12}}"#,
        );
        for part in [
            "came through relay-1",
            "durable, in chunk 7",
            "root    ab12",
            "state   OnChain since 1970-01-01T00:00:09.000000000Z",
            "batch   3",
            "final (FINAL), transaction 0xcd in block 12",
        ] {
            assert!(on_chain.contains(part), "{part} in {on_chain}");
        }
        for (detail, failure, told) in [
            ("BATCHED", None, "waits for a transaction (BATCHED)"),
            ("SIGNED", None, "pending: signed, not taken by a node (SIGNED)"),
            ("SENT", None, "pending: taken by a node, not mined (SENT)"),
            ("MINED", None, "pending: mined, not final (MINED)"),
            ("FAILED", Some("foreign head"), "failed, to be tried again: foreign head (FAILED)"),
        ] {
            assert_eq!(on_its_way(detail, failure), told);
        }
    }

    #[test]
    fn c2_what_an_agent_says_of_a_record_is_told_in_words() {
        let key: RecordKey = "a/b/c@9f.5".parse().unwrap();
        let mut found = terminal::Whereabouts {
            state: State::ServerRejected,
            since: Some("1970-01-01T00:00:09.000000000Z".to_owned()),
            batch: None,
            tx: None,
            detail: None,
            reason: Some("payload format invalid (0x99)".to_owned()),
        };
        let told = |found: &terminal::Whereabouts| at_terminal(&key, Some(found)).unwrap();
        let rejected = "  agent   ServerRejected since 1970-01-01T00:00:09.000000000Z: payload format invalid (0x99)\n";
        assert_eq!(told(&found), format!("{key}\n{rejected}"));
        (found.state, found.reason, found.batch) = (State::SentToChain, Some("foreign head".to_owned()), Some(3));
        (found.detail, found.tx) = (Some("FAILED".to_owned()), Some("0xab".to_owned()));
        let failed = "  batch   3\n  chain   failed, to be tried again: foreign head (FAILED), transaction 0xab\n";
        assert!(told(&found).ends_with(failed), "{}", told(&found));
        assert!(at_terminal(&key, None).unwrap().contains("never took it"));
    }
}
