//! Records that only a relay holds, shown for a proof (C5): the relay is asked for the record and its way to the root that it stated, and
//! keeps it. That what it shows leads to that root is found out where the proof is made.

use std::sync::Arc;
use std::time::Duration;

use anchor::machine::State;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::oneshot;
use wire::index::{Outcome, Reply};
use wire::{At, Command, Epoch, RecordKey, RelayId, Shown};

use crate::anchoring::Anchored;
use crate::commands::Commands;
use crate::history::History;
use crate::http::on_ledger;
use crate::index::{Known, Standing};
use crate::metrics::{Metrics, Showing};
use crate::problem::Problem;

/// Askers that wait for relays at the same time; more are refused.
const WAITING_MAX: usize = 256;

/// A record as a relay shows it, and what the relay had stated of its chunk.
pub(crate) struct AtRelay {
    /// The index, as a source of batches.
    pub(crate) source: Epoch,
    /// The statement there.
    pub(crate) statement: i64,
    /// What the relay shows.
    pub(crate) shown: Shown,
}

/// Asks relays to show records. Clones share who waits.
#[derive(Clone)]
pub(crate) struct Proving(Arc<Inner>);

struct Inner {
    commands: Commands,
    wait: Duration,
    metrics: Metrics,
    waiting: Mutex<FxHashMap<u64, Waiting>>,
}

struct Waiting {
    relay: RelayId,
    reply: oneshot::Sender<Outcome>,
}

impl Proving {
    /// Relays have `wait` to answer.
    pub(crate) fn new(commands: Commands, wait: Duration, metrics: Metrics) -> Self {
        Self(Arc::new(Inner { commands, wait, metrics, waiting: Mutex::default() }))
    }

    /// Takes a relay's reply if somebody here waits for it.
    pub(crate) fn takes(&self, relay: &RelayId, payload: &[u8]) -> bool {
        if self.0.waiting.lock().is_empty() {
            return false;
        }
        let Ok(reply) = Reply::parse(payload) else { return false };
        let mut waiting = self.0.waiting.lock();
        if waiting.get(&reply.command).is_none_or(|waiting| waiting.relay != *relay) {
            return false;
        }
        if let Some(waiting) = waiting.remove(&reply.command) {
            // Who waited may have gone.
            let _ = waiting.reply.send(reply.outcome);
        }
        true
    }

    /// Has the relay that keeps the record show it, if what it stated is on chain for good. Whoever calls this has asked the grants.
    ///
    /// # Errors
    /// What stands in the way, in words; each names the relay.
    pub(crate) async fn show(&self, history: &History, anchored: &Anchored, key: &RecordKey) -> Result<AtRelay, Problem> {
        let known = self.known(history, key).await?;
        let Known { relay, chunk, .. } = known;
        let statement = known.statement.ok_or_else(|| Problem::conflict(not_anchored(&relay)))?;
        let source = history.index().epoch();
        let looking = anchored.clone();
        let place = on_ledger(move || looking.place_stated(source, statement)).await?;
        if place.is_none_or(|place| place.batch.progress.state != State::Final) {
            return Err(Problem::conflict(not_anchored(&relay)));
        }
        match self.ask(&relay, chunk, key).await {
            Some(Outcome::Shown(shown)) => Ok(AtRelay { source, statement, shown: *shown }),
            Some(Outcome::Failed { reason }) => {
                self.0.metrics.relay_proof(Showing::Failed);
                tracing::error!(%relay, chunk, %key, reason, "a relay can't show a record that it stated");
                Err(Problem::conflict(format!("{relay} keeps this record, and can't show it: {reason}")))
            }
            Some(Outcome::Done { .. } | Outcome::Unstated { .. }) | None => {
                self.0.metrics.relay_proof(Showing::Unanswered);
                Err(Problem::conflict(format!("{relay} keeps this record, and does not answer; ask again later")))
            }
        }
    }

    /// The chunk that holds the record, as the index has it.
    async fn known(&self, history: &History, key: &RecordKey) -> Result<Known, Problem> {
        let (index, wanted) = (history.index().clone(), key.clone());
        let known = history.read(move |_| index.of_series(&wanted.series, (At::MIN, At::MAX))).await?;
        // Those at hand come first.
        let holds = |known: &Known| known.epoch == key.epoch && known.seqs.contains(key.seq);
        let known = known.into_iter().find(holds);
        let known =
            known.ok_or_else(|| Problem::not_found("the archive does not hold this record, and no relay has stated it"))?;
        let relay = &known.relay;
        match known.standing {
            Standing::Stated => Ok(known),
            Standing::Left => {
                Err(Problem::conflict(format!("{relay} has handed this record over, and it has not arrived; ask again later")))
            }
            Standing::Lost => Err(Problem::not_found(format!("{relay} had this record in a database that is gone"))),
        }
    }

    /// Asks, and waits for the reply. `None`: there is none.
    async fn ask(&self, relay: &RelayId, chunk: u64, key: &RecordKey) -> Option<Outcome> {
        let id = self.0.commands.next();
        let (reply, replied) = oneshot::channel();
        {
            let mut waiting = self.0.waiting.lock();
            if waiting.len() >= WAITING_MAX {
                return None;
            }
            waiting.insert(id, Waiting { relay: relay.clone(), reply });
        }
        // Also when the asker goes away before the answer.
        let _leave = Leave(self, id);
        if !self.0.commands.send(relay, &Command::Prove { id, chunk, key: key.clone() }).await {
            return None;
        }
        tokio::time::timeout(self.0.wait, replied).await.ok()?.ok()
    }
}

/// Takes a number off the list of those that are waited for.
struct Leave<'a>(&'a Proving, u64);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.0.waiting.lock().remove(&self.1);
    }
}

fn not_anchored(relay: &RelayId) -> String {
    format!("{relay} keeps this record, and what it stated of it is not on chain for good yet; ask again later")
}
