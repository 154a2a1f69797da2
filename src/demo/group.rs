//! Who is the proxy: what the cloud says about the relays' group while the demonstration goes on.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use cloud::groups::view::{GroupView, GroupsView};

use super::readers::Reader;
use super::town::{GROUP, RELAYS, relay_name};

/// How often it is asked who is the proxy.
const LOOK: Duration = Duration::from_millis(50);
/// How long a group may be without the proxy that is waited for.
const PATIENCE: Duration = Duration::from_secs(15);
/// Terms that are read back; in half a minute there are few.
const TERMS: usize = 1_000;

/// The group as it stands.
async fn look(operator: &Reader) -> anyhow::Result<GroupView> {
    let answer = operator.get(&format!("/api/v1/groups?terms={TERMS}")).await?;
    let groups: GroupsView = serde_json::from_value(answer).context("the groups")?;
    groups.groups.into_iter().find(|group| group.group.as_str() == GROUP).context("the town's group")
}

/// A proxy and its term.
#[derive(Debug, Clone, Copy)]
pub(super) struct Proxy {
    /// Which relay it is.
    pub relay: usize,
    /// Its term.
    pub term: u64,
}

/// Waits for a proxy of a term above `term` that is not `other`.
pub(super) async fn wait_for_proxy(operator: &Reader, term: u64, other: Option<usize>) -> anyhow::Result<Proxy> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let group = look(operator).await?;
        let relay = group.holder.as_ref().and_then(|holder| (0..RELAYS).find(|index| relay_name(*index) == holder.as_str()));
        if let Some(relay) = relay.filter(|relay| group.term > term && Some(*relay) != other) {
            return Ok(Proxy { relay, term: group.term });
        }
        if Instant::now() > deadline {
            bail!("the group has no such proxy after {PATIENCE:?}: {group:?}");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// How many terms there were, and how many relays were proxy in them.
pub(super) async fn served(operator: &Reader) -> anyhow::Result<(u64, u64)> {
    let group = look(operator).await?;
    let holders: BTreeSet<_> = group.terms.iter().map(|term| &term.holder).collect();
    Ok((group.term, holders.len() as u64))
}
