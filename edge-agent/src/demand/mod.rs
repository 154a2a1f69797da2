//! A user terminal (B4): hears of events at the cloud, decides by its policy, and says so with records like any other.
//!
//! Promise and result are taken by the outbox in the transaction that remembers the response, so an event is answered once, over restarts.
//! While an event runs, the set-point says what may be taken: whoever drives the load follows [`crate::Agent::setpoint`].

pub(crate) mod gauge;
pub(crate) mod policy;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chassis::{Clock, Stop};
use link::{Incoming, Link, LinkConfig, Qos};
use rand::SeedableRng;
use rand::rngs::StdRng;
use store::Fault;
use tokio::sync::watch;
use wire::openadr::{Event, ReportRequest};
use wire::system::demand_stream;
use wire::topics::{Demand as Way, SegmentName};
use wire::{At, Operation, SensorId, Series, Topic};

use self::gauge::Gauge;
use self::policy::{Duty, Policy, Response};
use crate::metrics::Metrics;
use crate::outbox::{Noted, Outbox, TakeError};
use crate::reading::Reading;

/// How often it is looked what a response needs now.
const LOOK: Duration = Duration::from_millis(200);
/// Pause after the cloud did not let us subscribe: only its operator can change that.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// What may be taken while an event runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Setpoint {
    /// The event.
    pub event: String,
    /// At most so much, kilowatts.
    pub max_kw: f64,
    /// Until then, nanoseconds since 1970.
    pub until: At,
}

/// What responding needs.
#[derive(Clone)]
pub(crate) struct Responder {
    pub(crate) outbox: Outbox,
    pub(crate) sensor: SensorId,
    /// How the cloud is connected to.
    pub(crate) link: LinkConfig,
    pub(crate) programs: Vec<String>,
    /// Events with targets are for it if they name one of these.
    pub(crate) targets: Vec<String>,
    /// While there is such a file, the user takes no part.
    pub(crate) opt_out_file: Option<PathBuf>,
    pub(crate) policy: Policy,
    pub(crate) gauge: Arc<Gauge>,
    /// How far back readings count as the load of now, nanoseconds.
    pub(crate) baseline: i64,
    pub(crate) setpoint: Arc<watch::Sender<Option<Setpoint>>>,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Arc<dyn Clock>,
    /// Seeds when it begins within the spread of an event.
    pub(crate) seed: u64,
}

/// What ends a look.
#[derive(Debug, thiserror::Error)]
enum LookFault {
    #[error("it can't be kept: {0}")]
    Take(#[from] TakeError),
    #[error("it makes no record: {0}")]
    Record(String),
}

impl Responder {
    /// Works until stopped.
    pub(crate) async fn run(self, stop: Stop) -> Result<(), Fault> {
        let mut open = match self.outbox.open_responses() {
            Ok(open) => open,
            Err(fault) => return Err(Fault::Work(fault.to_string().into())),
        };
        let (link, mut incoming) = Link::start(self.link.clone());
        let subscribing = tokio::spawn(subscribe(link.clone(), self.programs.clone()));
        let mut rng = StdRng::seed_from_u64(self.seed);
        let ended = self.follow(&mut incoming, &mut open, &mut rng, &stop).await;
        subscribing.abort();
        link.close().await;
        ended
    }

    async fn follow(
        &self,
        incoming: &mut Incoming,
        open: &mut Vec<Response>,
        rng: &mut StdRng,
        stop: &Stop,
    ) -> Result<(), Fault> {
        loop {
            let heard = tokio::select! {
                () = stop.stopped() => return Ok(()),
                heard = incoming.next() => match heard {
                    Some(heard) => serde_json::from_slice::<Event>(&heard.payload).ok(),
                    None => return Ok(()),
                },
                () = tokio::time::sleep(LOOK) => None,
            };
            let now = self.clock.now();
            let looked = async {
                if let Some(event) = heard {
                    self.hear(&event, open, rng, now).await?;
                }
                self.tend(open, now).await
            };
            match looked.await {
                Ok(()) => {}
                Err(LookFault::Take(TakeError::Commit(fault @ (Fault::Stopped | Fault::Panicked(_))))) => return Err(fault),
                Err(fault) => tracing::warn!(sensor = %self.sensor, %fault, "a response was not written, it is tried again"),
            }
        }
    }

    /// Answers an event that was not answered yet, or has changed since. Without a reading of its own the terminal does not know its load,
    /// and waits.
    async fn hear(&self, event: &Event, open: &mut Vec<Response>, rng: &mut StdRng, now: At) -> Result<(), LookFault> {
        if !self.programs.contains(&event.program_id) || !self.is_meant(event) {
            return Ok(());
        }
        let known = open.iter().position(|response| response.event == event.id);
        if let Some(index) = known {
            if event.is_withdrawn() {
                return self.withdraw(index, open, now).await;
            }
            if policy::modified(event) <= open[index].modified {
                return Ok(());
            }
        }
        // While something is held, the load without it is what the first of the promises was measured from.
        let held = open.iter().find(|response| response.duty(now) == Duty::Hold).map(|response| response.baseline_kw);
        let known_kw = known.map(|index| open[index].baseline_kw).or(held);
        let Some(load) = known_kw.or_else(|| self.gauge.load(now, self.baseline)) else { return Ok(()) };
        let Some(response) = Response::to(event, load, now, rng) else { return Ok(()) };
        let response = Response { opted_out: self.is_opted_out(), ..response };
        let mut all = open.clone();
        match known {
            Some(index) => all[index] = response,
            None => all.push(response),
        }
        self.promise(all, known.unwrap_or(open.len()), open, now).await
    }

    /// Promises to each of `all` what the policy allows, and says what is new: of the response at `fresh` in any case.
    async fn promise(&self, all: Vec<Response>, fresh: usize, open: &mut Vec<Response>, now: At) -> Result<(), LookFault> {
        let shares = policy::share(self.policy, &all, now);
        let said = (0..all.len()).filter(|index| *index == fresh || shares[*index] != all[*index].promised_kw);
        // What is lowered is said first: never is more promised than there is.
        let more = |index: &usize| {
            let before = open.iter().find(|known| known.event == all[*index].event).map_or(0.0, |known| known.promised_kw);
            shares[*index] - before
        };
        let mut said: Vec<usize> = said.collect();
        said.sort_by(|one, other| more(one).total_cmp(&more(other)));
        for index in said {
            let response = Response { promised_kw: shares[index], ..all[index].clone() };
            let reading = self.record(&response, &response.promise(self.sensor.as_str()), now)?;
            if !self.outbox.respond(reading, Noted::Promised(response.clone())).await? {
                continue;
            }
            self.metrics.promised();
            let (event, promised, load) = (&response.event, response.promised_kw, response.baseline_kw);
            tracing::info!(sensor = %self.sensor, event, promised, load, opted_out = response.opted_out, "an event is answered");
            match open.iter_mut().find(|known| known.event == response.event) {
                Some(known) => *known = response,
                None => open.push(response),
            }
        }
        Ok(())
    }

    /// An event is cancelled: what runs ends now and is reported, what has not begun is taken back.
    async fn withdraw(&self, index: usize, open: &mut Vec<Response>, now: At) -> Result<(), LookFault> {
        let response = &mut open[index];
        response.ends = response.ends.min(now.max(response.begins));
        if response.duty(now) != Duty::Wait {
            // It is reported with the next look.
            return Ok(());
        }
        let withdrawn = Response { promised_kw: 0.0, ..response.clone() };
        let reading = self.record(&withdrawn, &withdrawn.promise(self.sensor.as_str()), now)?;
        self.outbox.respond(reading, Noted::Reported(withdrawn.event)).await?;
        open.remove(index);
        Ok(())
    }

    /// Whether an event is for this terminal: one with targets names it or one of its own.
    fn is_meant(&self, event: &Event) -> bool {
        let targets = event.targets.as_deref().unwrap_or_default();
        let own = |target: &String| self.targets.contains(target) || target == self.sensor.as_str();
        targets.is_empty() || targets.iter().any(own)
    }

    fn is_opted_out(&self) -> bool {
        self.opt_out_file.as_ref().is_some_and(|file| file.exists())
    }

    /// Holds set-points, and reports what is over.
    async fn tend(&self, open: &mut Vec<Response>, now: At) -> Result<(), LookFault> {
        if open.iter().any(|response| !response.opted_out) && self.is_opted_out() {
            let out = |response: &Response| match response.duty(now) {
                Duty::Report => response.clone(),
                _ => Response { opted_out: true, ..response.clone() },
            };
            let all: Vec<Response> = open.iter().map(out).collect();
            for index in 0..all.len() {
                if all[index].opted_out && !open[index].opted_out {
                    self.promise(all.clone(), index, open, now).await?;
                }
            }
        }
        let wanted =
            policy::setpoint(open, now).map(|(first, max_kw, until)| Setpoint { event: first.event.clone(), max_kw, until });
        self.setpoint.send_if_modified(|shown| {
            let changes = *shown != wanted;
            *shown = wanted;
            changes
        });
        while let Some(index) = open.iter().position(|response| response.duty(now) == Duty::Report) {
            let response = &open[index];
            let mean = self.gauge.mean(response.begins, response.ends);
            let reading = self.record(response, &response.result(self.sensor.as_str(), mean), now)?;
            self.outbox.respond(reading, Noted::Reported(response.event.clone())).await?;
            self.metrics.reported();
            open.remove(index);
        }
        Ok(())
    }

    fn record(&self, response: &Response, report: &ReportRequest, now: At) -> Result<Reading, LookFault> {
        let refused = |fault: &dyn std::fmt::Display| LookFault::Record(fault.to_string());
        let series = Series::new(&self.sensor, &demand_stream(&response.program)).map_err(|fault| refused(&fault))?;
        let payload = serde_json::to_vec(report).map_err(|fault| refused(&fault))?;
        Reading::new(series, Operation::Forward, now.max(0), payload).map_err(|fault| refused(&fault))
    }
}

/// Subscribes every program's events; the link does so again after each break. A refusal is repeated: it is a matter of grants.
async fn subscribe(link: Link, programs: Vec<String>) {
    for name in programs {
        // Checked with the configuration.
        let Ok(program) = SegmentName::new(&name) else { continue };
        let topic = Topic::Demand { program, kind: Way::Events }.to_string();
        while let Err(fault) = link.subscribe(topic.clone(), Qos::One).await {
            tracing::error!(topic, %fault, "can't subscribe to events; add a grant for this terminal at the cloud");
            tokio::time::sleep(REFUSED_PAUSE).await;
        }
    }
}
