//! `forebay where`: how far one record has come.

use std::fmt::Write;

use anyhow::Context;
use chassis::Exit;
use cloud::ladder::{Absent, Custody, Kept, Rung, Whereabouts};
use reqwest::Method;
use wire::RecordKey;

use crate::host;
use crate::http::Cloud;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The record, like cityA/meter-0017/power/active@9f3c.1029.
    key: RecordKey,
    /// The cloud's answer as it is, instead of text.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cloud: Cloud,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    host::runtime()?.block_on(ask(args))
}

async fn ask(args: Args) -> anyhow::Result<Exit> {
    let request = args.cloud.request(Method::GET, &format!("/api/v1/where/{}", args.key))?;
    let answer = args.cloud.send(request).await?.text().await?;
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
    match &found.batch {
        None => writeln!(text, "  batch   not yet")?,
        Some(batch) => {
            writeln!(text, "  batch   {} ({})", batch.number, batch.detail)?;
            let mined = batch.transaction.as_deref().zip(batch.block);
            let mined = mined.map_or_else(String::new, |(hash, block)| format!(", transaction {hash} in block {block}"));
            match found.rung {
                Rung::OnChain => writeln!(text, "  chain   OnChain{mined}")?,
                Rung::SentToChain => writeln!(text, "  chain   SentToChain, not final{mined}")?,
                _ => writeln!(text, "  chain   not yet")?,
            }
        }
    }
    Ok(text)
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
                "at":"1970-01-01T00:00:02.000000000Z","relay":"relay-1","kept":"chunk","chunk":7,"root":"ab12",
                "batch":{"number":3,"detail":"FINAL","transaction":"0xcd","block":12}}"#,
        );
        for part in ["came through relay-1", "durable, in chunk 7", "root    ab12", "OnChain, transaction 0xcd in block 12"] {
            assert!(on_chain.contains(part), "{part} in {on_chain}");
        }
    }
}
