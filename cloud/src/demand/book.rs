//! The book of a cloud's programs: events that were made, and everything about them that the archive holds.

use std::collections::BTreeMap;
use std::iter::repeat;
use std::sync::Arc;

use archive::{Append, AppendError, Archive, Entry, Lane, ReadError};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use wire::openadr::{self, EventRequest, Operation, ReportRequest};
use wire::system::demand_stream;
use wire::{At, Epoch, Intervals, RecordKey, RunBuilder, SensorId, Series};

use super::config::{Demand, Program};
use super::events::{self, RequestFault};
use super::logic::{Heard, Rules, Settlement, Watch, Window};
use super::made::{EventRecord, Made};
use super::records::{on_thread, read};
use super::sums::Sum;

/// Reports on one event that are looked at, for each who reports.
const REPORTS_MAX: usize = 100;

/// A settlement as its record holds it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SettlementRecord {
    object_type: SettlementType,
    #[serde(rename = "eventID")]
    event_id: String,
    /// The event's record.
    event: RecordKey,
    settlement: Settlement,
}

#[derive(Serialize, Deserialize)]
enum SettlementType {
    #[serde(rename = "FOREBAY_SETTLEMENT")]
    Settlement,
}

/// A cancellation as its record holds it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CancellationRecord {
    object_type: CancellationType,
    #[serde(rename = "eventID")]
    event_id: String,
    /// The event's record.
    event: RecordKey,
}

#[derive(Serialize, Deserialize)]
enum CancellationType {
    #[serde(rename = "FOREBAY_CANCELLATION")]
    Cancellation,
}

/// Why something could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteFault {
    #[error("the archive did not take it: {0}")]
    Append(#[from] AppendError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("it does not make a record: {0}")]
    Record(String),
}

/// Why a report is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReportFault {
    /// There is no such event.
    #[error("there is no such event")]
    NoEvent,
    /// The name of who reports can't be a sensor's.
    #[error("the user's name can't be the name of a sensor, which is what reports are kept under")]
    Name,
    /// There are enough.
    #[error("there are {REPORTS_MAX} reports of this user on the event already")]
    TooMany,
    /// It could not be kept.
    #[error(transparent)]
    Write(#[from] WriteFault),
}

/// Why an event is not made or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PostFault {
    /// The request is wrong.
    #[error(transparent)]
    Request(#[from] RequestFault),
    /// There is no such event, or it was cancelled.
    #[error("there is no such event")]
    NoEvent,
    /// It can't be changed any more.
    #[error("the event is over; make another one")]
    Over,
    /// It could not be kept.
    #[error(transparent)]
    Write(#[from] WriteFault),
}

/// Reports are looked for until so long after an event: a day.
const REPORTS_UNTIL: i64 = 86_400_000_000_000;

struct Page {
    watch: Watch,
    /// By time.
    made: Vec<Made>,
}

struct Inner {
    cloud: String,
    settings: Demand,
    archive: Archive,
    pages: Mutex<BTreeMap<String, Page>>,
    /// Records of the cloud's own are written one after the other: the last number of a series is then that of the one just written.
    writing: tokio::sync::Mutex<()>,
    /// Events are made, changed and cancelled one after the other.
    changing: tokio::sync::Mutex<()>,
}

/// The book. Clones share it.
#[derive(Clone)]
pub(crate) struct Book(Arc<Inner>);

impl Book {
    /// Reads back what was asked and settled since `now` less what is kept.
    pub(crate) fn open(cloud: &str, settings: Demand, archive: Archive, now: At) -> Result<Self, ReadError> {
        let mut pages = BTreeMap::new();
        let kept = i64::try_from(settings.kept.duration().as_nanos()).unwrap_or(i64::MAX);
        for program in &settings.programs {
            let mut page = Page { watch: Watch::default(), made: Vec::new() };
            if let Some(series) = program.series(cloud) {
                for entry in read(&archive, &series, Window { from: now.saturating_sub(kept).max(0), to: At::MAX })? {
                    page.take(entry);
                }
            }
            page.settle_watch();
            pages.insert(program.name.clone(), page);
        }
        let inner = Inner {
            cloud: cloud.to_owned(),
            settings,
            archive,
            pages: Mutex::new(pages),
            writing: tokio::sync::Mutex::default(),
            changing: tokio::sync::Mutex::default(),
        };
        Ok(Self(Arc::new(inner)))
    }

    pub(crate) fn settings(&self) -> &Demand {
        &self.0.settings
    }

    pub(crate) fn program(&self, name: &str) -> Option<&Program> {
        self.0.settings.programs.iter().find(|program| program.name == name)
    }

    /// Events of a program, the oldest first.
    pub(crate) fn events(&self, program: &str) -> Vec<Made> {
        self.0.pages.lock().get(program).map_or_else(Vec::new, |page| page.made.clone())
    }

    /// One event and its program.
    pub(crate) fn event(&self, id: &str) -> Option<(&Program, Made)> {
        let pages = self.0.pages.lock();
        let found = pages.iter().find_map(|(name, page)| Some((name, page.made.iter().find(|made| made.event.id == id)?)));
        let (name, made) = found?;
        Some((self.program(name)?, made.clone()))
    }

    /// The interval that is to be judged now.
    pub(crate) fn due(&self, program: &Program, now: At) -> Option<Window> {
        self.0.pages.lock().get(&program.name)?.watch.due(&Rules::of(program), now)
    }

    /// Judges an interval's load. An event is known, here and in other runs, once its record is durable.
    pub(crate) async fn judge(
        &self,
        program: &Program,
        interval: Window,
        area: &Sum,
        now: At,
    ) -> Result<Option<Made>, WriteFault> {
        let _changing = self.0.changing.lock().await;
        let Some(mut watch) = self.0.pages.lock().get(&program.name).map(|page| page.watch) else { return Ok(None) };
        let asked = watch.judge(&Rules::of(program), interval, area, now);
        let made = match asked {
            None => None,
            Some(ask) => {
                let record = EventRecord { event: events::of_ask(program, &ask, now), forebay: ask };
                Some(self.write_event(program, record, now).await?)
            }
        };
        if let Some(page) = self.0.pages.lock().get_mut(&program.name) {
            page.watch = watch;
            page.made.extend(made.clone());
        }
        Ok(made)
    }

    /// Makes an event that an operator wants; `baseline` is the interval before, in which the area took `area`.
    pub(crate) async fn post(
        &self,
        program: &Program,
        request: EventRequest,
        (baseline, area): (Window, &Sum),
        now: At,
    ) -> Result<Made, PostFault> {
        let _changing = self.0.changing.lock().await;
        let ask = events::ask(program, &request, (baseline, (area.kw, area.coverage)), now)?;
        let id = (0_u32..).map(|count| events::posted_id(program, now, count)).find(|id| self.event(id).is_none());
        let id = id.ok_or_else(|| WriteFault::Record("it has no id".to_owned()))?;
        let record = EventRecord { event: events::of_request(program, request, id, (now, now)), forebay: ask };
        let made = self.write_event(program, record, now).await?;
        if let Some(page) = self.0.pages.lock().get_mut(&program.name) {
            page.made.push(made.clone());
            page.settle_watch();
        }
        Ok(made)
    }

    /// Changes an event that is not over.
    pub(crate) async fn change(&self, id: &str, request: EventRequest, now: At) -> Result<Made, PostFault> {
        let _changing = self.0.changing.lock().await;
        let (program, made) = self.event(id).filter(|(_, made)| made.cancelled.is_none()).ok_or(PostFault::NoEvent)?;
        if now >= made.ends() || made.settled.is_some() {
            return Err(PostFault::Over);
        }
        if request.program_id != program.name {
            return Err(RequestFault::new("programID", "is another one than that of the event; make a new event").into());
        }
        let ask = events::ask(program, &request, (made.ask.baseline, (made.ask.area_kw, made.ask.coverage)), now)?;
        let created = openadr::time_nanos(&made.event.created_date_time).unwrap_or(now);
        let record = EventRecord { event: events::of_request(program, request, id.to_owned(), (created, now)), forebay: ask };
        let written = self.write_event(program, record, now).await?;
        self.update(program, id, |known| {
            known.change(EventRecord { event: written.event, forebay: written.ask }, written.key);
        })
        .ok_or(PostFault::NoEvent)
    }

    /// Cancels an event that is not over.
    pub(crate) async fn cancel(&self, id: &str, now: At) -> Result<Made, PostFault> {
        let _changing = self.0.changing.lock().await;
        let (program, made) = self.event(id).filter(|(_, made)| made.cancelled.is_none()).ok_or(PostFault::NoEvent)?;
        if now >= made.ends() || made.settled.is_some() {
            return Err(PostFault::Over);
        }
        let record =
            CancellationRecord { object_type: CancellationType::Cancellation, event_id: id.to_owned(), event: made.key.clone() };
        let series = program.series(&self.0.cloud).ok_or_else(|| WriteFault::Record("its series".to_owned()))?;
        let key = self.write(&series, now, &record).await?;
        self.update(program, id, |known| known.cancelled = Some((now, key))).ok_or(PostFault::NoEvent)
    }

    async fn write_event(&self, program: &Program, record: EventRecord, now: At) -> Result<Made, WriteFault> {
        let series = program.series(&self.0.cloud).ok_or_else(|| WriteFault::Record("its series".to_owned()))?;
        let key = self.write(&series, now, &record).await?;
        Ok(Made::new(record, key))
    }

    fn update(&self, program: &Program, id: &str, change: impl FnOnce(&mut Made)) -> Option<Made> {
        let mut pages = self.0.pages.lock();
        let page = pages.get_mut(&program.name)?;
        let known = page.made.iter_mut().find(|made| made.event.id == id)?;
        change(known);
        let changed = known.clone();
        page.settle_watch();
        Some(changed)
    }

    /// What was done with the events of a program, after the record `seq` of this run's epoch: in order of their records. Of an event that
    /// was changed since only its last state is left.
    pub(crate) fn changes_after(&self, program: &str, seq: u64) -> Vec<(u64, Operation, Made)> {
        let epoch = self.epoch();
        let mut changes = Vec::new();
        for made in self.events(program) {
            let made_by =
                made.earlier.iter().chain([&made.key]).zip([Operation::Create].into_iter().chain(repeat(Operation::Update)));
            let ended_by = made.cancelled.as_ref().map(|(_, key)| (key, Operation::Delete));
            let after = made_by.chain(ended_by).filter(|(key, _)| key.epoch == epoch && key.seq > seq);
            changes.extend(after.map(|(key, operation)| (key.seq, operation, made.clone())));
        }
        changes.sort_by_key(|(seq, ..)| *seq);
        changes
    }

    /// The epoch of the cloud's own records.
    pub(crate) fn epoch(&self) -> Epoch {
        self.0.archive.epoch()
    }

    /// One report, if it is one.
    pub(crate) fn report_of(&self, key: &RecordKey) -> Result<Option<Heard>, ReadError> {
        let Some(entry) = self.0.archive.get(key)? else { return Ok(None) };
        let report = serde_json::from_slice(&entry.record.payload).ok();
        Ok(report.map(|report| Heard { key: entry.record.key, at: entry.record.at, report }))
    }

    /// Events that are over since their grace and have no settlement.
    pub(crate) fn unsettled(&self, program: &Program, now: At) -> Vec<Made> {
        let grace = Rules::of(program).grace;
        let over = |made: &Made| made.settled.is_none() && !made.is_void() && now >= made.ends().saturating_add(grace);
        self.events(&program.name).into_iter().filter(over).collect()
    }

    /// Events that have not ended, or were cancelled before they would have.
    pub(crate) fn running(&self, program: &Program, now: At) -> Vec<Made> {
        self.events(&program.name).into_iter().filter(|made| now < made.ask.over()).collect()
    }

    /// Writes what came of an event.
    pub(crate) async fn settle(
        &self,
        program: &Program,
        made: &Made,
        settlement: Settlement,
        now: At,
    ) -> Result<RecordKey, WriteFault> {
        let record = SettlementRecord {
            object_type: SettlementType::Settlement,
            event_id: made.event.id.clone(),
            event: made.key.clone(),
            settlement,
        };
        let series = program.series(&self.0.cloud).ok_or_else(|| WriteFault::Record("its series".to_owned()))?;
        let key = self.write(&series, now, &record).await?;
        if let Some(page) = self.0.pages.lock().get_mut(&program.name)
            && let Some(known) = page.made.iter_mut().find(|known| known.event.id == record.event_id)
        {
            known.settled = Some((record.settlement, key.clone()));
        }
        Ok(key)
    }

    /// Forgets events that are no longer shown. Their records stay.
    pub(crate) fn forget(&self, now: At) {
        let kept = i64::try_from(self.0.settings.kept.duration().as_nanos()).unwrap_or(i64::MAX);
        for page in self.0.pages.lock().values_mut() {
            page.made.retain(|made| {
                let is_open = made.settled.is_none() && !made.is_void();
                is_open || made.ask.over() >= now.saturating_sub(kept)
            });
        }
    }

    /// Keeps a report that `user` has sent over HTTP, as a record of the cloud's own under the user's name.
    pub(crate) async fn report(&self, user: &str, report: &ReportRequest, now: At) -> Result<RecordKey, ReportFault> {
        let (program, made) = self.event(&report.event_id).ok_or(ReportFault::NoEvent)?;
        let sensor = SensorId::new(&program.area, user).map_err(|_| ReportFault::Name)?;
        let series = Series::new(&sensor, &demand_stream(&program.name)).map_err(|_| ReportFault::Name)?;
        let (book, of) = (self.clone(), series.clone());
        let known = on_thread(move || book.heard_in(&of, &made)).await.map_err(WriteFault::from)?;
        if known.len() >= REPORTS_MAX {
            return Err(ReportFault::TooMany);
        }
        Ok(self.write(&series, now, report).await?)
    }

    pub(super) fn archive(&self) -> &Archive {
        &self.0.archive
    }

    /// Where the cloud's own records of a program are.
    pub(super) fn own(&self, program: &Program) -> Option<Series> {
        program.series(&self.0.cloud)
    }

    /// Reports on an event, of everybody.
    pub(crate) fn heard(&self, program: &Program, made: &Made) -> Result<Vec<Heard>, ReadError> {
        let mut heard = Vec::new();
        for series in self.0.archive.series_like(&format!("{}/+/{}", program.area, demand_stream(&program.name))) {
            heard.extend(self.heard_in(&series, made)?.into_iter().take(REPORTS_MAX));
        }
        Ok(heard)
    }

    /// Which records of reports on a program are held.
    pub(crate) fn reports_held(&self, program: &Program) -> Result<Vec<(Series, Epoch, Intervals)>, ReadError> {
        let own = program.series(&self.0.cloud);
        let mut series = self.0.archive.series_like(&format!("{}/+/{}", program.area, demand_stream(&program.name)));
        series.retain(|series| Some(series) != own.as_ref());
        let held = self.0.archive.received(&series)?;
        let of = |(series, epochs): (Series, Vec<(Epoch, Intervals)>)| {
            epochs.into_iter().map(move |(epoch, seqs)| (series.clone(), epoch, seqs))
        };
        Ok(series.into_iter().zip(held).flat_map(of).collect())
    }

    fn heard_in(&self, series: &Series, made: &Made) -> Result<Vec<Heard>, ReadError> {
        // From before the event: a terminal's clock may be late.
        let window = Window { from: made.ask.baseline.from, to: made.ask.over().saturating_add(REPORTS_UNTIL) };
        let entries = read(&self.0.archive, series, window)?;
        let report = |entry: Entry| {
            let report: ReportRequest = serde_json::from_slice(&entry.record.payload).ok()?;
            (report.event_id == made.event.id).then_some(Heard { key: entry.record.key, at: entry.record.at, report })
        };
        Ok(entries.into_iter().filter_map(report).collect())
    }

    /// Writes a record of the cloud's own, and says which it is.
    async fn write(&self, series: &Series, at: At, content: &impl Serialize) -> Result<RecordKey, WriteFault> {
        let refused = |fault: &dyn std::fmt::Display| WriteFault::Record(fault.to_string());
        let payload = serde_json::to_vec(content).map_err(|fault| refused(&fault))?;
        let mut run = RunBuilder::new(series.clone(), wire::Operation::Store);
        run.push(at, &payload).map_err(|fault| refused(&fault))?;
        let _writing = self.0.writing.lock().await;
        self.0.archive.append_waiting(Append::Raw { lane: Lane::Store, runs: vec![run] }).await?.await?;
        let (archive, series) = (self.0.archive.clone(), series.clone());
        let epoch = archive.epoch();
        let (series, held) =
            on_thread(move || archive.received(std::slice::from_ref(&series)).map(|held| (series, held))).await?;
        let of_epoch = held.into_iter().flatten().find(|(of, _)| *of == epoch);
        let seq = of_epoch.and_then(|(_, numbers)| numbers.last()).ok_or_else(|| refused(&"it is not held"))?;
        Ok(RecordKey { series, epoch, seq })
    }
}

impl Page {
    fn take(&mut self, entry: Entry) {
        let (payload, at, key) = (&entry.record.payload, entry.record.at, entry.record.key);
        if let Ok(record) = serde_json::from_slice::<EventRecord>(payload) {
            match self.of(&record.event.id) {
                Some(known) => known.change(record, key),
                None => {
                    self.watch.has_asked(&record.forebay);
                    self.made.push(Made::new(record, key));
                }
            }
        } else if let Ok(record) = serde_json::from_slice::<SettlementRecord>(payload) {
            if let Some(made) = self.of(&record.event_id) {
                made.settled = Some((record.settlement, key));
            }
        } else if let Ok(record) = serde_json::from_slice::<CancellationRecord>(payload)
            && let Some(made) = self.of(&record.event_id)
        {
            made.cancelled = Some((at, key));
        }
    }

    fn of(&mut self, id: &str) -> Option<&mut Made> {
        self.made.iter_mut().find(|made| made.event.id == id)
    }

    /// The watch goes by the events as they are now.
    fn settle_watch(&mut self) {
        self.watch.is_busy_until(self.made.iter().map(Made::ends).max().unwrap_or_default());
    }
}
