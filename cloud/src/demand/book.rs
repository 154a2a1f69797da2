//! The book of a cloud's programs: events that were made, and everything about them that the archive holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use archive::{Append, AppendError, Archive, Cursor, Entry, Lane, ReadError, Scan};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use wire::openadr::{self, Event, Interval, IntervalPeriod, PayloadDescriptor, ReportDescriptor, ReportRequest, ValuesMap};
use wire::system::demand_stream;
use wire::{At, Operation, RecordKey, RunBuilder, SensorId, Series};

use super::config::{Demand, Program};
use super::logic::{Ask, Heard, Means, Rules, Settlement, Watch, Window, settle};

/// Records that are read at once.
const PIECE: usize = 1_000;
/// Reports on one event that are looked at, for each who reports.
const REPORTS_MAX: usize = 100;

/// An event that was made.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Made {
    /// As it was published.
    pub(crate) event: Event,
    /// What it asks for.
    pub(crate) ask: Ask,
    /// Its record.
    pub(crate) key: RecordKey,
    /// What came of it, and the record that says so, once it is over.
    pub(crate) settled: Option<(Settlement, RecordKey)>,
}

/// An event as its record holds it: OpenADR, and one member more.
#[derive(Serialize, Deserialize)]
struct EventRecord {
    #[serde(flatten)]
    event: Event,
    forebay: Ask,
}

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
            pages.insert(program.name.clone(), page);
        }
        let inner = Inner {
            cloud: cloud.to_owned(),
            settings,
            archive,
            pages: Mutex::new(pages),
            writing: tokio::sync::Mutex::default(),
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
        area_kw: f64,
        now: At,
    ) -> Result<Option<Made>, WriteFault> {
        let Some(mut watch) = self.0.pages.lock().get(&program.name).map(|page| page.watch) else { return Ok(None) };
        let asked = watch.judge(&Rules::of(program), interval, area_kw, now);
        let made = match asked {
            None => None,
            Some(ask) => {
                let record = EventRecord { event: event_of(program, &ask, now), forebay: ask };
                let series = program.series(&self.0.cloud).ok_or_else(|| WriteFault::Record("its series".to_owned()))?;
                let key = self.write(&series, now, &record).await?;
                Some(Made { event: record.event, ask, key, settled: None })
            }
        };
        if let Some(page) = self.0.pages.lock().get_mut(&program.name) {
            page.watch = watch;
            page.made.extend(made.clone());
        }
        Ok(made)
    }

    /// Events that are over since their grace and have no settlement.
    pub(crate) fn unsettled(&self, program: &Program, now: At) -> Vec<Made> {
        let over = |made: &Made| made.settled.is_none() && now >= made.ask.over().saturating_add(Rules::of(program).grace);
        self.events(&program.name).into_iter().filter(over).collect()
    }

    /// Events that have not ended.
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
            page.made.retain(|made| made.settled.is_none() || made.ask.over() >= now.saturating_sub(kept));
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

    /// Mean power of every sensor of a program's area in the windows, kilowatts. Readings that are no numbers are left out.
    pub(crate) fn means<const N: usize>(
        &self,
        program: &Program,
        windows: [Window; N],
    ) -> Result<BTreeMap<SensorId, [Option<f64>; N]>, ReadError> {
        let mut means = BTreeMap::new();
        for series in self.0.archive.series_like(&format!("{}/+/{}", program.area, program.stream)) {
            let mut of = [None; N];
            for (mean, window) in of.iter_mut().zip(windows) {
                let (mut sum, mut count) = (0.0, 0_u64);
                walk(&self.0.archive, &series, window, |entry| {
                    let value = std::str::from_utf8(&entry.record.payload).ok().and_then(|text| text.trim().parse::<f64>().ok());
                    if let Some(value) = value.filter(|value| value.is_finite()) {
                        (sum, count) = (sum + program.unit.kilowatts(value), count + 1);
                    }
                })?;
                *mean = (count > 0).then(|| sum / count as f64);
            }
            means.insert(series.sensor_id(), of);
        }
        Ok(means)
    }

    /// Reports on an event, of everybody.
    pub(crate) fn heard(&self, program: &Program, made: &Made) -> Result<Vec<Heard>, ReadError> {
        let mut heard = Vec::new();
        for series in self.0.archive.series_like(&format!("{}/+/{}", program.area, demand_stream(&program.name))) {
            heard.extend(self.heard_in(&series, made)?.into_iter().take(REPORTS_MAX));
        }
        Ok(heard)
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

    /// What is known of an event now: its settlement, or what it would be if the event ended now.
    pub(crate) fn standing(&self, program: &Program, made: &Made, now: At) -> Result<Settlement, ReadError> {
        if let Some((settlement, _)) = &made.settled {
            return Ok(settlement.clone());
        }
        let Window { from, to } = made.ask.common();
        let during = Window { from, to: to.min(now).max(from) };
        let means: Means = self.means(program, [made.ask.baseline, during])?;
        Ok(settle(&made.ask, self.heard(program, made)?, &means))
    }

    /// Writes a record of the cloud's own, and says which it is.
    async fn write(&self, series: &Series, at: At, content: &impl Serialize) -> Result<RecordKey, WriteFault> {
        let refused = |fault: &dyn std::fmt::Display| WriteFault::Record(fault.to_string());
        let payload = serde_json::to_vec(content).map_err(|fault| refused(&fault))?;
        let mut run = RunBuilder::new(series.clone(), Operation::Store);
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
        let payload = &entry.record.payload;
        if let Ok(EventRecord { event, forebay: ask }) = serde_json::from_slice(payload) {
            self.watch.has_asked(&ask);
            self.made.push(Made { event, ask, key: entry.record.key, settled: None });
        } else if let Ok(record) = serde_json::from_slice::<SettlementRecord>(payload)
            && let Some(made) = self.made.iter_mut().find(|made| made.event.id == record.event_id)
        {
            made.settled = Some((record.settlement, entry.record.key));
        }
    }
}

/// Reads on a thread where waiting for the disk hurts nobody.
pub(super) async fn on_thread<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, ReadError> {
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|ended| std::panic::resume_unwind(ended.into_panic()))
}

fn read(archive: &Archive, series: &Series, window: Window) -> Result<Vec<Entry>, ReadError> {
    let mut all = Vec::new();
    walk(archive, series, window, |entry| all.push(entry))?;
    Ok(all)
}

/// Shows every record of a series within a window, in order of time.
fn walk(archive: &Archive, series: &Series, window: Window, mut show: impl FnMut(Entry)) -> Result<(), ReadError> {
    let mut after = None;
    loop {
        let scan = Scan { series: series.clone(), from: window.from, to: window.to, after, limit: PIECE };
        let entries = archive.scan(&scan)?;
        let is_all = entries.len() < PIECE;
        after = entries.last().map(|entry| Cursor::after(&entry.record));
        entries.into_iter().for_each(&mut show);
        if is_all {
            return Ok(());
        }
    }
}

fn event_of(program: &Program, ask: &Ask, now: At) -> Event {
    let made_at = openadr::time_text(now);
    let payloads = vec![
        ValuesMap::number(openadr::DISPATCH_SETPOINT_RELATIVE, -ask.asked_kw),
        ValuesMap::number(openadr::AREA_DEMAND, ask.area_kw),
        ValuesMap::number(openadr::AREA_LIMIT, ask.limit_kw),
    ];
    let kinds = [openadr::DISPATCH_SETPOINT_RELATIVE, openadr::AREA_DEMAND, openadr::AREA_LIMIT];
    let wanted = [
        (openadr::LOAD_SHED_DELTA_AVAILABLE, openadr::KW),
        (openadr::BASELINE, openadr::KW),
        (openadr::DEMAND, openadr::KW),
        (openadr::USAGE, openadr::KWH),
    ];
    let report = |(kind, units): (&str, &str)| ReportDescriptor { payload_type: kind.to_owned(), units: Some(units.to_owned()) };
    Event {
        // The interval that led to it: whoever judges it again gives the same name.
        id: format!("{}-{}", program.name, ask.baseline.to / 1_000_000),
        created_date_time: made_at.clone(),
        modification_date_time: made_at,
        object_type: "EVENT".to_owned(),
        program_id: program.name.clone(),
        event_name: Some(format!("{} takes {:.3} kW, {:.3} kW too many", program.area, ask.area_kw, ask.asked_kw)),
        priority: Some(program.priority),
        targets: Some(Vec::new()),
        report_descriptors: Some(wanted.into_iter().map(report).collect()),
        payload_descriptors: Some(kinds.map(|kind| PayloadDescriptor::of_event(kind, openadr::KW)).to_vec()),
        interval_period: Some(IntervalPeriod {
            start: openadr::time_text(ask.window.from),
            duration: Some(openadr::duration_text(ask.window.to - ask.window.from)),
            randomize_start: (ask.randomize > 0).then(|| openadr::duration_text(ask.randomize)),
        }),
        intervals: Some(vec![Interval { id: 0, interval_period: None, payloads }]),
    }
}
