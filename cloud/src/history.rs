//! Past readings, page by page, for those who may see them (A11), from the archive and, through it, from relays (A12).
//!
//! Every read takes a [`Viewer`], and the verdict on it is asked here, for HTTP and MQTT alike: there is no way to the archive's
//! records beside it, and no viewer that means everyone.

use std::sync::Arc;

use archive::Archive;
use broker::Policy;
use chassis::Clock;
use tokio::sync::Semaphore;
use wire::grants::{Action, Subject};
use wire::{RecordKey, Series, Topic, filter};

use crate::completeness::{Completeness, Judge};
use crate::config;
use crate::index::{Index, LookFault};
use crate::problem::Problem;
use crate::pull::{Heard, Hearing, Pulls, Unheard};
use crate::question::{Ask, Query, Wanted};
use crate::reading::{Page, Reading};
use crate::walk::Walk;

/// Series whose records are pulled and read together, at most; the first of a page alone, then twice as many each time.
const SERIES_AT_ONCE: usize = 32;

/// Who asks: an identity that the MQTT or the HTTP face has verified. What it may see is asked of the grants at each read.
#[derive(Debug, Clone)]
pub struct Viewer {
    user: Option<String>,
    client: String,
}

impl Viewer {
    /// The one behind an MQTT connection.
    pub fn client(client: &broker::Client) -> Self {
        Self { user: client.user.clone(), client: client.id.clone() }
    }

    /// A user whose password was checked. `None` is nobody: only a policy that lets anybody in shows anything to nobody.
    pub fn user(user: Option<String>) -> Self {
        Self { user, client: String::new() }
    }

    /// The subject that grants are asked about.
    pub fn subject(&self) -> Subject<'_> {
        Subject { user: self.user.as_deref(), client: &self.client }
    }
}

/// Reads archive and index for viewers. Clones share the limit on readers.
#[derive(Clone)]
pub struct History {
    archive: Archive,
    index: Index,
    pulls: Pulls,
    hearing: Hearing,
    policy: Policy,
    clock: Arc<dyn Clock>,
    records_max: usize,
    page_bytes: usize,
    readers: Arc<Semaphore>,
}

impl History {
    /// History of what is in `archive`, and of what `index` knows to be at relays, under `policy`.
    pub(crate) fn new(
        archive: Archive,
        (index, pulls): (Index, Pulls),
        policy: Policy,
        clock: Arc<dyn Clock>,
        limits: &config::History,
    ) -> Self {
        let hearing = Hearing::new(pulls.clone(), index.clone(), clock.clone(), limits.late_max.duration());
        Self {
            archive,
            index,
            pulls,
            hearing,
            policy,
            clock,
            records_max: limits.page_records_max,
            page_bytes: usize::try_from(limits.page_bytes.bytes()).unwrap_or(usize::MAX),
            readers: Arc::new(Semaphore::new(limits.readers)),
        }
    }

    /// Checks a question of a viewer, and whether he may ask it. A question about one series needs a grant for it; one about many is
    /// answered as far as the grants go.
    ///
    /// # Errors
    /// The field that is wrong, or that no grant allows it. Touches no record.
    pub fn check(&self, viewer: &Viewer, ask: &Ask) -> Result<Query, Problem> {
        let query = Query::new(ask, self.records_max)?;
        if let Wanted::One(series) = &query.wanted {
            self.permit(viewer, series)?;
        }
        Ok(query)
    }

    /// Whether the viewer may ask for the past of `series`.
    ///
    /// # Errors
    /// That no grant allows it.
    pub fn permit(&self, viewer: &Viewer, series: &Series) -> Result<(), Problem> {
        let topic = Topic::Data { series: series.into() }.to_string();
        let verdict = self.policy.verdict(&viewer.subject(), Action::Query, &topic, self.clock.now());
        if verdict.is_allowed() { Ok(()) } else { Err(Problem::forbidden()) }
    }

    /// The page that answers a query, in order of series, then time, epoch and sequence number. Relays are asked what they hold beside what the
    /// index names, and when the walk comes to a series, what they keep of it is pulled first. Walking on with `next_cursor` shows everything
    /// that was held, or acknowledged by a relay that could be asked, when the walk came by, once.
    ///
    /// # Errors
    /// No grant (asked again here, so that a query that waited does not outlive its grant), or the archive can't answer.
    pub async fn page(&self, viewer: &Viewer, query: Query) -> Result<Page, Problem> {
        if let Wanted::One(series) = &query.wanted {
            self.permit(viewer, series)?;
        }
        let deadline = self.pulls.deadline();
        let mut heard = self.hear(query.range(), deadline).await?;
        let names = self.names(viewer, &query, &heard).await?;
        let mut unheard = std::mem::take(&mut heard.unheard);
        let entered = query.after.as_ref().map(|after| after.series.clone());
        let start = entered.as_ref().map_or(0, |entered| names.partition_point(|name| name < entered));
        let mut walk = Walk::new(query.clone(), self.page_bytes);
        let (mut rest, mut at_once) = (&names[start..], 1);
        while !rest.is_empty() {
            let (now, behind) = rest.split_at(rest.len().min(at_once));
            (rest, at_once) = (behind, SERIES_AT_ONCE.min(2 * at_once));
            // What the index names of a series that an earlier page began was pulled then.
            let begun = usize::from(now.first() == entered.as_ref());
            let brought = self.bring((now, begun), &heard, query.range(), deadline).await?;
            unheard.extend(brought.not_brought);
            if brought.is_lacking || !unheard.is_empty() {
                walk.passes();
            }
            let now = now.to_vec();
            let filled = self.read(move |archive| {
                let is_full = walk.fill(archive, &now)?;
                Ok::<_, archive::ReadError>((walk, is_full))
            });
            let is_full;
            (walk, is_full) = filled.await?;
            if is_full {
                return Ok(walk.full());
            }
        }
        let has_passed = query.after.is_some_and(|after| after.has_passed);
        let (before, received) = (names[..start].to_vec(), walk.take_received());
        let completeness = self.judge(query.wanted, (query.from, query.to), before, received, (has_passed, unheard)).await?;
        Ok(walk.last(completeness))
    }

    /// Series that a query is about and the viewer may see; sorted.
    async fn names(&self, viewer: &Viewer, query: &Query, heard: &Heard) -> Result<Vec<Series>, Problem> {
        let (pattern, tags) = match &query.wanted {
            Wanted::One(series) => {
                self.permit(viewer, series)?;
                return Ok(vec![series.clone()]);
            }
            Wanted::Like { filter, tags } => (filter.clone(), tags.clone()),
        };
        let open = heard.series(|name| filter::matches(&pattern, name));
        let (history, viewer) = (self.clone(), viewer.clone());
        self.read(move |archive| {
            let mut names = history.index.series(|name| filter::matches(&pattern, name))?;
            names.extend(open);
            names.extend(archive.series_like(&pattern));
            if !tags.is_empty() {
                let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
                let sensors = history.policy.sensors_tagged(&tags, None);
                names.retain(|name| sensors.binary_search(&name.sensor_id()).is_ok());
            }
            names.retain(|name| history.permit(&viewer, name).is_ok());
            Ok::<_, LookFault>(names.into_iter().collect())
        })
        .await
    }

    /// What is missing from an answer: of the series of earlier pages as things stand now, of those of this page by what was received
    /// before they were read.
    async fn judge(
        &self,
        wanted: Wanted,
        range: (wire::At, wire::At),
        before: Vec<Series>,
        received: Vec<(Series, crate::walk::Received)>,
        (has_passed, unheard): (bool, Vec<Unheard>),
    ) -> Result<Completeness, Problem> {
        let history = self.clone();
        self.read(move |archive| {
            let reaches = |relay: &wire::RelayId| history.pulls.reaches(relay);
            let names = matches!(wanted, Wanted::Like { .. });
            let mut judge = Judge::new((archive, &history.index), &reaches, range, names);
            for names in before.chunks(SERIES_AT_ONCE) {
                for (series, received) in names.iter().zip(archive.received(names)?) {
                    judge.series(series, &received)?;
                }
            }
            for (series, received) in received {
                judge.series(&series, &received)?;
            }
            Ok::<_, LookFault>(judge.end(has_passed, unheard))
        })
        .await
    }

    /// One record by its key, pulled from a relay if one has stated it; `None` when it is not to be had.
    ///
    /// # Errors
    /// No grant, or the archive can't answer.
    pub async fn record(&self, viewer: &Viewer, key: RecordKey) -> Result<Option<Reading>, Problem> {
        self.permit(viewer, &key.series)?;
        let get = |key: RecordKey| self.read(move |archive| archive.get(&key));
        let mut entry = get(key.clone()).await?;
        if entry.is_none() {
            self.bring_one(&key).await?;
            entry = get(key).await?;
        }
        Ok(entry.map(|entry| Reading::new(entry.record, entry.via)))
    }

    /// The archive, for numbers about it. Records are only shown through the methods that take a viewer.
    pub(crate) fn archive(&self) -> &Archive {
        &self.archive
    }

    /// The index.
    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    /// What asks relays for what the index does not name.
    pub(crate) fn hearing(&self) -> &Hearing {
        &self.hearing
    }

    /// What asks relays.
    pub(crate) fn pulls(&self) -> &Pulls {
        &self.pulls
    }

    /// Reads on a thread where waiting for the disk hurts nobody, so many at a time.
    pub(crate) async fn read<T: Send + 'static, E: std::error::Error + Send + 'static>(
        &self,
        read: impl FnOnce(&Archive) -> Result<T, E> + Send + 'static,
    ) -> Result<T, Problem> {
        let permit = self.readers.clone().acquire_owned().await.map_err(|_| Problem::unavailable())?;
        let archive = self.archive.clone();
        let read = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            read(&archive)
        });
        match read.await {
            Ok(Ok(read)) => Ok(read),
            Ok(Err(fault)) => {
                tracing::error!(error = %fault, "the archive did not answer a query");
                Err(Problem::unavailable())
            }
            Err(fault) => {
                tracing::error!(error = %fault, "a query ended without an answer");
                Err(Problem::unavailable())
            }
        }
    }
}
