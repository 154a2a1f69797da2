//! The unit that looks: has an interval ended, is an event to be published again, is one to be settled?

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use archive::ReadError;
use broker::{Hub, Message, Policy};
use chassis::{Clock, Stop};
use tokio::time::Instant;
use wire::topics::{Demand as Way, SegmentName};
use wire::{At, RecordKey, Topic};

use super::book::WriteFault;
use super::clients::ClientsFault;
use super::config::Program;
use super::made::Made;
use super::notices;
use super::records::on_thread;
use super::service::Service;
use super::sight::Sees;
use crate::metrics::Metrics;

/// Works until told to stop. A look that fails is repeated at the next.
pub(crate) async fn run(service: Service, policy: Policy, hub: Hub, clock: Arc<dyn Clock>, metrics: Metrics, stop: Stop) {
    let desk = Desk { service, policy, hub, clock, metrics };
    let settings = desk.service.book.settings();
    let (poll, repeat) = (settings.poll.duration(), settings.repeat.duration());
    let mut published = BTreeMap::new();
    loop {
        tokio::select! {
            () = stop.stopped() => return,
            () = tokio::time::sleep(poll) => {}
        }
        for program in &settings.programs {
            if let Err(error) = desk.look(program, &mut published, repeat).await {
                desk.metrics.demand_failures.inc();
                tracing::error!(program = program.name, %error, "demand response could not look at a program; it tries again");
            }
        }
        let now = desk.clock.now();
        desk.service.book.forget(now);
        published.retain(|_, at: &mut Instant| at.elapsed() < repeat * 2);
    }
}

struct Desk {
    service: Service,
    policy: Policy,
    hub: Hub,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
}

#[derive(Debug, thiserror::Error)]
enum LookFault {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Write(#[from] WriteFault),
    #[error(transparent)]
    Clients(#[from] ClientsFault),
}

impl Desk {
    async fn look(
        &self,
        program: &Program,
        published: &mut BTreeMap<RecordKey, Instant>,
        repeat: Duration,
    ) -> Result<(), LookFault> {
        let now = self.clock.now();
        self.judge(program, now).await?;
        for made in self.service.book.running(program, now) {
            // A change is said at once.
            let last = made.cancelled.as_ref().map_or(&made.key, |(_, key)| key).clone();
            if published.get(&last).is_none_or(|at| at.elapsed() >= repeat) {
                self.publish(program, &made).await;
                published.insert(last, Instant::now());
            }
        }
        for made in self.service.book.unsettled(program, now) {
            let (book, of, event) = (self.service.book.clone(), program.clone(), made.clone());
            let settlement = on_thread(move || book.outcome(&of, &event, now)).await?;
            let (asked, promised, measured) = (settlement.asked_kw, settlement.promised_kw, settlement.measured_kw);
            let key = self.service.book.settle(program, &made, settlement, now).await?;
            self.metrics.demand_settled.inc();
            tracing::info!(event = made.event.id, asked, promised, measured, %key, "an event is settled");
        }
        self.tell(program, now).await
    }

    /// Queues notifications of what is new.
    async fn tell(&self, program: &Program, now: At) -> Result<(), LookFault> {
        let (Service { book, clients }, of) = (self.service.clone(), program.clone());
        let sees = Sees::at(&self.policy, &self.metrics, now);
        let told = tokio::task::spawn_blocking(move || notices::tell(&book, &clients, &of, &sees)).await;
        Ok(told.unwrap_or_else(|ended| std::panic::resume_unwind(ended.into_panic()))?)
    }

    async fn judge(&self, program: &Program, now: At) -> Result<(), LookFault> {
        let Some(interval) = self.service.book.due(program, now) else { return Ok(()) };
        let (book, of) = (self.service.book.clone(), program.clone());
        let area = on_thread(move || book.sum(&of, interval)).await?;
        let (area_kw, of) = (area.kw, area.coverage);
        tracing::debug!(program = program.name, area_kw, ?of, "an interval has ended");
        if let Some(made) = self.service.book.judge(program, interval, &area, now).await? {
            self.metrics.demand_events.inc();
            let (event, asked) = (&made.event.id, made.ask.asked_kw);
            tracing::info!(event, area_kw, asked, ?of, "an area is above its limit: less is asked for");
        }
        Ok(())
    }

    /// Its record is durable before anybody hears of it.
    async fn publish(&self, program: &Program, made: &Made) {
        let Ok(name) = SegmentName::new(&program.name) else { return };
        let topic = Topic::Demand { program: name, kind: Way::Events }.to_string();
        if !self.hub.wanted(&topic) {
            return;
        }
        let event = match &made.cancelled {
            None => made.event.clone(),
            Some((at, _)) => made.event.withdrawn(*at),
        };
        match serde_json::to_vec(&event) {
            Ok(payload) => {
                let message =
                    Message::new(topic, payload).content_type("application/json").user_property("key", &made.key.to_string());
                self.hub.publish(message).await;
            }
            Err(fault) => tracing::error!(%fault, "an event has no JSON form"),
        }
    }
}
