//! What clients may publish to the cloud: frames and heartbeats of relays, and questions about the past.
//!
//! A frame is checked, handed to the archive and acknowledged after the commit that keeps it, together with its verdicts: new,
//! duplicate or conflict for each record (B8). A conflict, the same key with another content, is kept aside by the archive, counted and
//! logged as an alarm; the frame is acknowledged like any other, because sending it again would change nothing.
//!
//! Before the append the fence looks at the term that the frame carries, and at the connection it came through (C11). What a stale
//! proxy brings is refused as unavailable, never acknowledged: its relay keeps it and sends it by the new way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use archive::{APPEND_BYTES_MAX, Append, AppendError, Appended, Appending, Archive, FrameRef};
use broker::{Client, Commit, Intake, IntakeSession, Offer, Refusal};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use wire::group::Heartbeat;
use wire::topics::{Anchor, SegmentName, TopicFault, Up};
use wire::{Fault, RelayId, Topic, UpFrame};

use crate::answers::Desk;
use crate::groups::{Fence, Heard, Pass, Speaker};
use crate::index::{Index, Noting};
use crate::late::{Late, LateRuns};
use crate::live::Live;
use crate::metrics::{Beat, Metrics, Reason};
use crate::proving::Proving;
use crate::pull::Pulls;
use crate::receipts::Committed;

/// First levels of the topics that nobody may use freely at a cloud: what is published there comes here.
const CLAIMED: [&str; 8] = ["op", "probe", "up", "down", "data", "query", "demand", "anchor"];

/// Relays that are listed; where anybody may be a relay, anybody could make the list longer.
const SEEN_MAX: usize = 10_000;

/// The cloud's intake.
pub(crate) struct CloudIntake {
    shared: Arc<Shared>,
}

/// What the intake hands things to.
pub(crate) struct Shared {
    /// Records.
    pub(crate) archive: Archive,
    /// Questions.
    pub(crate) desk: Desk,
    /// Frames that are committed.
    pub(crate) receipts: mpsc::Sender<Committed>,
    /// Runs of historical frames, from before their append on ...
    pub(crate) late: Late,
    /// ... until live delivery has seen them.
    pub(crate) live: Live,
    /// Which frames and heartbeats may come which way.
    pub(crate) fence: Fence,
    /// Heartbeats.
    pub(crate) heard: mpsc::Sender<Heard>,
    /// What relays keep.
    pub(crate) index: Index,
    /// What they were asked for.
    pub(crate) pulls: Pulls,
    /// Those who wait for a record to be shown.
    pub(crate) proving: Proving,
    /// The anchor service, if it works here.
    pub(crate) sponsor: Option<anchor::sponsor::Sponsor>,
    /// Relays that have sent frames.
    pub(crate) seen: Seen,
    /// Counters.
    pub(crate) metrics: Metrics,
}

impl CloudIntake {
    /// An intake that hands on to `shared`.
    pub(crate) fn new(shared: Shared) -> Self {
        Self { shared: Arc::new(shared) }
    }
}

impl Intake for CloudIntake {
    fn claims(&self, topic: &str) -> bool {
        let first = topic.split('/').next().unwrap_or(topic);
        CLAIMED.contains(&first)
    }

    fn open(&self, client: &Client) -> Box<dyn IntakeSession> {
        Box::new(Session { shared: self.shared.clone(), client: client.clone(), offered: Vec::new(), noted: Vec::new() })
    }
}

/// One connection's frames between offer and commit.
struct Session {
    shared: Arc<Shared>,
    client: Client,
    offered: Vec<Offered>,
    noted: Vec<Noting>,
}

/// A frame on its way into the archive.
struct Offered {
    from: FrameRef,
    late: Option<LateRuns>,
    appending: Appending,
    /// Held until the commit has ended.
    pass: Pass,
}

/// A refusal, and what it counts as: what the fence refuses sounds like a store that fails, so that it is sent again, and is none.
struct No(Refusal, Reason);

impl From<Refusal> for No {
    fn from(refusal: Refusal) -> Self {
        Self(refusal, reason(refusal))
    }
}

/// What comes by a way that is not its relay's.
const FENCED: No = No(Refusal::Unavailable, Reason::Fence);

impl Session {
    fn frame(&mut self, relay: SegmentName<'_>, payload: &[u8]) -> Result<(), No> {
        let malformed = |fault: Fault| {
            tracing::debug!(client = self.client.id, error = %fault, "a frame was refused");
            Refusal::PayloadFormatInvalid
        };
        let payload = wire::packed::unpack(payload, APPEND_BYTES_MAX).map_err(malformed)?;
        let frame = check_frame(relay, &payload).map_err(malformed)?;
        // The frame's relay name was checked when the frame was parsed.
        let name: RelayId = frame.relay.parse().map_err(|_| Refusal::PayloadFormatInvalid)?;
        let Some(pass) = self.shared.fence.admit(&name, frame.term, self.client.user.as_deref(), Instant::now()) else {
            tracing::debug!(client = self.client.id, relay = %name, term = frame.term, "a frame was fenced");
            self.shared.metrics.frames_fenced.inc();
            return Err(FENCED);
        };
        let from = FrameRef { relay: name, relay_epoch: frame.relay_epoch, number: frame.number };
        let shared = &self.shared;
        let late = shared.late.remember(&frame);
        let append = Append::Ingest { from: from.clone(), runs: Bytes::copy_from_slice(frame.runs), secrets: frame.secrets };
        match shared.archive.append(append) {
            Ok(appending) => {
                self.offered.push(Offered { from, late, appending, pass });
                Ok(())
            }
            Err(error) => {
                if let Some(runs) = &late {
                    shared.late.forget(runs);
                }
                Err(refusal(&from, &error).into())
            }
        }
    }

    /// Lets a heartbeat in. Its answer comes on `down/{relay}/lease`, and waits for no commit.
    fn heartbeat(&self, relay: SegmentName<'_>, payload: &[u8]) -> Result<(), No> {
        let read = || Some((relay.as_str().parse::<RelayId>().ok()?, Heartbeat::parse(payload).ok()?));
        let (relay, beat) = read().ok_or(Refusal::PayloadFormatInvalid)?;
        let heard = match self.shared.fence.speaker(&relay, self.client.user.as_deref()) {
            Some(speaker) => Heard { relay, direct: speaker == Speaker::Itself, beat },
            None => return Err(self.unheard(FENCED)),
        };
        // Too many wait; another one comes soon.
        self.shared.heard.try_send(heard).map_err(|_| self.unheard(No(Refusal::Unavailable, Reason::Quota)))
    }

    fn unheard(&self, no: No) -> No {
        self.shared.metrics.heartbeat(Beat::Refused);
        no
    }

    /// What a relay says of its chunks; acknowledged after the commit of the index.
    fn index(&mut self, relay: SegmentName<'_>, payload: &[u8]) -> Result<(), No> {
        let relay = self.speaker(relay)?;
        self.noted.push(self.shared.index.note(&relay, payload)?);
        self.shared.pulls.heard(&relay);
        Ok(())
    }

    /// How an order went. It waits for no commit: what it tells is kept nowhere.
    fn reply(&self, relay: SegmentName<'_>, payload: &[u8]) -> Result<(), No> {
        let relay = self.speaker(relay)?;
        if self.shared.proving.takes(&relay, payload) {
            return Ok(());
        }
        Ok(self.shared.pulls.replied(&relay, payload)?)
    }

    /// The relay that speaks on a topic, if this connection is its own or its proxy's. Who speaks for a relay without a group the grants
    /// alone decide.
    fn speaker(&self, relay: SegmentName<'_>) -> Result<RelayId, No> {
        let relay = relay.as_str().parse().map_err(|_| Refusal::TopicNameInvalid)?;
        let (fence, user) = (&self.shared.fence, self.client.user.as_deref());
        if fence.may_say(&relay, user) { Ok(relay) } else { Err(FENCED) }
    }
}

impl IntakeSession for Session {
    fn offer(&mut self, offer: Offer<'_>) -> Result<(), Refusal> {
        let taken = match Topic::parse(offer.topic) {
            Ok(Topic::Up { relay, kind: Up::Frames }) => self.frame(relay, offer.payload),
            Ok(Topic::Up { relay, kind: Up::Stats }) => self.heartbeat(relay, offer.payload),
            Ok(Topic::Up { relay, kind: Up::Index }) => self.index(relay, offer.payload),
            Ok(Topic::Up { relay, kind: Up::Reply }) => self.reply(relay, offer.payload),
            Ok(Topic::Query { .. }) => self.shared.desk.take(&self.client, &offer).map_err(No::from),
            Ok(Topic::Anchor { party, kind: Anchor::Roots }) => {
                crate::sponsor::take(self.shared.sponsor.as_ref(), party, offer.payload).map_err(No::from)
            }
            // Sensors talk to relays, and on data, down, demand and the receipts only the cloud itself speaks.
            Ok(
                Topic::Reading { .. }
                | Topic::Frame { .. }
                | Topic::Probe { .. }
                | Topic::Data { .. }
                | Topic::Down { .. }
                | Topic::Demand { .. }
                | Topic::Anchor { kind: Anchor::Receipts, .. },
            ) => Err(Refusal::NotAuthorized.into()),
            Err(TopicFault::Foreign | TopicFault::Form { .. } | TopicFault::Name { .. }) => Err(Refusal::TopicNameInvalid.into()),
        };
        taken.map_err(|No(refusal, reason)| {
            self.shared.metrics.refused(reason);
            refusal
        })
    }

    fn commit(&mut self) -> Option<Commit> {
        if self.offered.is_empty() && self.noted.is_empty() {
            return None;
        }
        let (offered, noted) = (std::mem::take(&mut self.offered), std::mem::take(&mut self.noted));
        // A task of its own, because verdicts are counted, conflicts alarmed and receipts sent even if the relay hangs up now. It ends
        // with the writer's answer.
        let verdicts = tokio::spawn(self.shared.clone().verdicts(offered, noted));
        Some(Box::pin(async move { verdicts.await.unwrap_or(Err(Refusal::Unavailable)) }))
    }
}

impl Shared {
    /// Waits for the commits, in the order of the appends.
    async fn verdicts(self: Arc<Self>, offered: Vec<Offered>, noted: Vec<Noting>) -> Result<(), Refusal> {
        let mut answer = Ok(());
        for Offered { from, late, appending, pass } in offered {
            let appended = appending.await;
            drop(pass);
            if let Some(runs) = late {
                self.live.committed(runs);
            }
            match appended {
                Ok(appended) => self.committed(from, appended),
                Err(error) => {
                    let refusal = refusal(&from, &error);
                    self.metrics.refused(reason(refusal));
                    answer = Err(refusal);
                }
            }
        }
        for noting in noted {
            if let Err(refusal) = noting.settle().await {
                self.metrics.refused(reason(refusal));
                answer = Err(refusal);
            }
        }
        answer
    }

    /// A frame is durable: count its verdicts and let its relay know.
    fn committed(&self, from: FrameRef, appended: Appended) {
        self.metrics.frames_committed.inc();
        self.metrics.records_ingested.inc_by(appended.new);
        self.metrics.records_duplicate.inc_by(appended.duplicate);
        if appended.conflict > 0 {
            self.metrics.records_conflict.inc_by(appended.conflict);
            tracing::error!(
                relay = %from.relay, frame = from.number, records = appended.conflict,
                "ALARM: records came whose keys are held with another content; they were kept aside"
            );
        }
        self.seen.count(&from.relay);
        self.pulls.committed(&from.relay, from.relay_epoch, from.number);
        let FrameRef { relay, relay_epoch, number } = from;
        let again = appended.repeated || appended.new == 0;
        if self.receipts.try_send(Committed { relay, relay_epoch, number, again }).is_err() {
            self.metrics.receipts_dropped.inc();
        }
    }
}

/// Relays that have sent frames since the start, and how many. Clones share the list.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<BTreeMap<RelayId, u64>>>);

impl Seen {
    fn count(&self, relay: &RelayId) {
        let mut seen = self.0.lock();
        if let Some(frames) = seen.get_mut(relay) {
            *frames += 1;
        } else if seen.len() < SEEN_MAX {
            seen.insert(relay.clone(), 1);
        }
    }

    /// The list.
    pub(crate) fn list(&self) -> BTreeMap<RelayId, u64> {
        self.0.lock().clone()
    }
}

/// Reads a frame and checks what only the cloud can: it is from the relay whose topic it came on, and an epoch that is announced as a sensor's
/// has only that sensor's series.
fn check_frame<'a>(relay: SegmentName<'_>, payload: &'a [u8]) -> Result<UpFrame<'a>, Fault> {
    let frame = UpFrame::parse(payload)?;
    if frame.relay != relay.as_str() {
        return Err(Fault::Rule { field: "relay", rule: "is not the relay of the topic" });
    }
    for announced in &frame.secrets {
        let Some(sensor) = &announced.scope else { continue };
        if frame.runs().any(|run| run.epoch() == announced.epoch && !sensor.owns(run.series())) {
            return Err(Fault::Rule { field: "scope", rule: "is another sensor than that of the epoch's series" });
        }
    }
    Ok(frame)
}

fn refusal(from: &FrameRef, error: &AppendError) -> Refusal {
    match error {
        AppendError::Full { .. } | AppendError::Busy => Refusal::QuotaExceeded,
        AppendError::Malformed(_) => Refusal::PayloadFormatInvalid,
        AppendError::NotKept(_) => {
            tracing::error!(relay = %from.relay, frame = from.number, %error, "a frame could not be kept");
            Refusal::Unavailable
        }
    }
}

fn reason(refusal: Refusal) -> Reason {
    match refusal {
        Refusal::NotAuthorized => Reason::Grant,
        Refusal::TopicNameInvalid => Reason::Topic,
        Refusal::PayloadFormatInvalid => Reason::Payload,
        Refusal::QuotaExceeded => Reason::Quota,
        Refusal::Unavailable => Reason::Archive,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::{Announcement, Epoch, EpochSecret, Operation, RunBuilder};

    fn check(topic_relay: &str, relay: &str, scope: Option<&str>) -> Result<(), String> {
        let mut run = RunBuilder::new("cityA/meter-1/power".parse().unwrap(), Operation::Forward);
        run.push(1, b"1").unwrap();
        let mut runs = Vec::new();
        run.write(Epoch(7), 1, &mut runs);
        let scope = scope.map(|sensor| sensor.parse().unwrap());
        let secrets = vec![Announcement { epoch: Epoch(7), scope, secret: EpochSecret::new([1; 32]) }];
        let mut payload = Vec::new();
        UpFrame { relay, relay_epoch: Epoch(1), number: 1, term: 0, historical: false, secrets, runs: &runs }
            .encode(&mut payload);
        let checked = check_frame(SegmentName::new(topic_relay).unwrap(), &payload);
        checked.map(drop).map_err(|fault| fault.to_string())
    }

    #[test]
    fn a_relay_speaks_for_itself_and_a_sensor_epoch_holds_only_its_series() {
        assert_eq!(check("relay-1", "relay-1", None), Ok(()));
        assert_eq!(check("relay-1", "relay-1", Some("cityA/meter-1")), Ok(()));
        assert!(check("relay-1", "relay-2", None).unwrap_err().contains("relay"));
        assert!(check("relay-1", "relay-1", Some("cityA/meter-2")).unwrap_err().contains("scope"));
    }
}
