//! A topic of a local MQTT broker: what `#` stands for is the stream, the payload is the reading, now is its time.
//!
//! Promise, and it is the weakest of the inputs: the local broker gets its acknowledgement when the message is in this process' memory,
//! before the commit. A message is taken when it is committed; those that came in the last instants before a crash are lost, and so is
//! what was published while the agent was not connected. While the outbox is full messages are not waited for: each is counted and
//! given a number and a tombstone, so that the gap shows at the cloud and has a name here. Retained messages are old news
//! that would come again with every connection; they are left out. A device that needs more publishes to the relay itself.

use chassis::Stop;
use link::{Incoming, Link, LinkConfig, Qos, Received};

use super::{BadLine, Desk, InputError};
use crate::config::MqttConfig;
use crate::limits::INPUT_BATCH_MAX;
use crate::metrics::Skip;
use crate::outbox::TakeError;
use crate::reading::Reading;

/// Reason of the tombstones of what did not fit.
pub(crate) const OUTBOX_FULL: &str = "outbox full";

/// Takes messages until stopped.
pub(crate) async fn run(config: &MqttConfig, desk: Desk, stop: Stop) -> Result<(), InputError> {
    let client = format!("agent-input-{}", config.name);
    let mut settings = LinkConfig::new(&config.address.host, config.address.port, client);
    if let Some(user) = &config.user {
        settings = settings.with_credentials(user, config.password.as_ref().map_or("", |password| password.expose()));
    }
    let (link, mut incoming) = Link::start(settings);
    let ended = take_all(config, &desk, &link, &mut incoming, &stop).await;
    link.close().await;
    ended
}

async fn take_all(config: &MqttConfig, desk: &Desk, link: &Link, incoming: &mut Incoming, stop: &Stop) -> Result<(), InputError> {
    link.subscribe(config.filter.clone(), Qos::One).await.map_err(|source| InputError::Subscribe {
        input: config.name.clone(),
        filter: config.filter.clone(),
        source,
    })?;
    let prefix = config.filter.trim_end_matches('#');
    let mut number = 0;
    loop {
        let first = tokio::select! {
            biased;
            () = stop.stopped() => return Ok(()),
            first = incoming.next() => first,
        };
        let Some(first) = first else { return Ok(()) };
        let mut readings = Vec::new();
        let mut next = Some(first);
        while let Some(message) = next {
            number += 1;
            match parse(desk, prefix, message) {
                Ok(reading) => readings.extend(reading),
                Err(bad) => desk.skip(&config.name, number, &bad),
            }
            next = match readings.len() < INPUT_BATCH_MAX {
                true => waiting(incoming).await,
                false => None,
            };
        }
        if !readings.is_empty() && !take_or_bury(config, desk, readings, stop).await? {
            return Ok(());
        }
    }
}

/// The next message, if it is there already.
async fn waiting(incoming: &mut Incoming) -> Option<Received> {
    tokio::select! {
        biased;
        message = incoming.next() => message,
        () = std::future::ready(()) => None,
    }
}

/// `None` for a retained message.
fn parse(desk: &Desk, prefix: &str, message: Received) -> Result<Option<Reading>, BadLine> {
    if message.retain {
        return Ok(None);
    }
    let fault = |problem: &dyn std::fmt::Display| BadLine::new(format!("topic {:?}", message.topic), problem);
    let stream = message.topic.strip_prefix(prefix).ok_or_else(|| fault(&"names no stream"))?;
    let (series, operation) = desk.rules.of(stream).map_err(|why| fault(&why))?;
    let reading = Reading::new(series, operation, desk.clock.now().max(0), message.payload.to_vec());
    reading.map(Some).map_err(|why| fault(&why))
}

/// False when it was stopped before the readings were settled one way or the other.
async fn take_or_bury(config: &MqttConfig, desk: &Desk, readings: Vec<Reading>, stop: &Stop) -> Result<bool, InputError> {
    match desk.outbox.try_take(readings.clone()).await {
        Ok(()) => {
            desk.metrics.took(readings.len());
            return Ok(true);
        }
        // Not a matter of room: it is offered again, and messages wait in the link meanwhile.
        Err(TakeError::Commit(fault)) => {
            desk.after_fault(fault)?;
            return Ok(desk.take(readings, None, stop).await?);
        }
        Err(TakeError::Full) => {}
    }
    let mut counts = std::collections::BTreeMap::new();
    for reading in &readings {
        *counts.entry(reading.series().clone()).or_insert(0) += 1;
    }
    desk.metrics.skipped(Skip::Full, readings.len() as u64);
    tracing::warn!(input = config.name, messages = readings.len(), "the outbox is full, messages leave tombstones");
    Ok(desk.bury(counts.into_iter().collect(), OUTBOX_FULL, stop).await?)
}
