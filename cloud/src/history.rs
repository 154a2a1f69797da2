//! Past readings, page by page, for those who may see them (A11).
//!
//! Every read takes a [`Viewer`], and the verdict on it is asked here, for HTTP and MQTT alike: there is no way to the archive's
//! records beside it, and no viewer that means everyone.

use std::sync::Arc;

use archive::{Archive, Cursor, Scan};
use broker::Policy;
use chassis::Clock;
use serde::Deserialize;
use tokio::sync::Semaphore;
use wire::grants::{Action, Subject};
use wire::{At, RecordKey, Series, Topic};

use crate::completeness::Completeness;
use crate::config;
use crate::moment;
use crate::problem::Problem;
use crate::reading::{Page, Reading};

/// Records that are read before it is known how large they are.
const FIRST_PIECE: usize = 256;

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

/// A question as it was asked: `{"series", "from", "to", "limit", "cursor"}`. Only `series` is needed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ask {
    /// The series, `area/sensor/stream`.
    pub series: Option<String>,
    /// Earliest generation time, RFC 3339 or nanoseconds since 1970.
    pub from: Option<Scalar>,
    /// First generation time that is no longer wanted, RFC 3339 or nanoseconds since 1970.
    pub to: Option<Scalar>,
    /// Records wanted, at most; what is above the limit of the cloud is cut to it.
    pub limit: Option<Scalar>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// A number, or text that may be one: JSON has both, a URL only text.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    /// A number.
    Number(u64),
    /// Text.
    Text(String),
}

impl Scalar {
    fn moment(&self) -> Result<At, String> {
        match self {
            Self::Number(nanos) => At::try_from(*nanos).map_err(|_| moment::MomentFault.to_string()),
            Self::Text(text) => moment::parse(text).map_err(|fault| fault.to_string()),
        }
    }

    fn number(&self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => text.parse().ok(),
        }
    }
}

impl Ask {
    /// The question of `name=value` pairs of a URL.
    ///
    /// # Errors
    /// A name that is unknown, or given twice.
    pub fn from_pairs(pairs: Vec<(String, String)>) -> Result<Self, Problem> {
        let mut ask = Self::default();
        for (name, value) in pairs {
            let before = match name.as_str() {
                "series" => ask.series.replace(value).is_some(),
                "from" => ask.from.replace(Scalar::Text(value)).is_some(),
                "to" => ask.to.replace(Scalar::Text(value)).is_some(),
                "limit" => ask.limit.replace(Scalar::Text(value)).is_some(),
                "cursor" => ask.cursor.replace(value).is_some(),
                _ => return Err(Problem::field(&name, "is unknown; there are series, from, to, limit and cursor")),
            };
            if before {
                return Err(Problem::field(&name, "is given twice"));
            }
        }
        Ok(ask)
    }
}

/// A question that makes sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    series: Series,
    from: At,
    to: At,
    limit: usize,
    after: Option<Cursor>,
}

impl Query {
    /// Checks a question; pages hold at most `records_max` records.
    ///
    /// # Errors
    /// A problem that names the field and the fix.
    pub fn new(ask: &Ask, records_max: usize) -> Result<Self, Problem> {
        let series =
            ask.series.as_deref().ok_or_else(|| Problem::field("series", "is missing; name one, like cityA/meter-1/power"))?;
        let series = series.parse().map_err(|fault: wire::IdFault| Problem::field("series", fault.to_string()))?;
        let time = |field: &str, value: &Option<Scalar>, otherwise| match value {
            Some(value) => value.moment().map_err(|problem| Problem::field(field, problem)),
            None => Ok(otherwise),
        };
        let (from, to) = (time("from", &ask.from, 0)?, time("to", &ask.to, At::MAX)?);
        if from >= to {
            return Err(Problem::field("to", "is not after from"));
        }
        let limit = match ask.limit.as_ref().map(Scalar::number) {
            None => records_max,
            Some(Some(limit)) if limit > 0 => usize::try_from(limit).unwrap_or(records_max).min(records_max),
            Some(_) => return Err(Problem::field("limit", "is not a whole number of at least 1")),
        };
        let after = ask.cursor.as_deref().map(str::parse).transpose();
        let after = after.map_err(|fault: archive::CursorFault| Problem::field("cursor", fault.to_string()))?;
        Ok(Self { series, from, to, limit, after })
    }

    /// The series asked for.
    pub fn series(&self) -> &Series {
        &self.series
    }
}

/// Reads the archive for viewers. Clones share the limit on readers.
#[derive(Clone)]
pub struct History {
    archive: Archive,
    policy: Policy,
    clock: Arc<dyn Clock>,
    records_max: usize,
    page_bytes: usize,
    readers: Arc<Semaphore>,
}

impl History {
    /// History of `archive` under `policy`.
    pub fn new(archive: Archive, policy: Policy, clock: Arc<dyn Clock>, limits: &config::History) -> Self {
        Self {
            archive,
            policy,
            clock,
            records_max: limits.page_records_max,
            page_bytes: usize::try_from(limits.page_bytes.bytes()).unwrap_or(usize::MAX),
            readers: Arc::new(Semaphore::new(limits.readers)),
        }
    }

    /// Checks a question of a viewer, and whether he may ask it.
    ///
    /// # Errors
    /// The field that is wrong, or that no grant allows it. Touches no record.
    pub fn check(&self, viewer: &Viewer, ask: &Ask) -> Result<Query, Problem> {
        let query = Query::new(ask, self.records_max)?;
        self.permit(viewer, &query.series)?;
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

    /// The page that answers a query. Walking on with `next_cursor` shows everything that was held when the walk began, once;
    /// a record that arrives meanwhile is shown if its time is not passed yet.
    ///
    /// # Errors
    /// No grant (asked again here, so that a query that waited does not outlive its grant), or the archive can't answer.
    pub async fn page(&self, viewer: &Viewer, query: Query) -> Result<Page, Problem> {
        self.permit(viewer, &query.series)?;
        let page_bytes = self.page_bytes;
        self.read(move |archive| fill(archive, &query, page_bytes)).await
    }

    /// One record by its key; `None` when it is not in the archive.
    ///
    /// # Errors
    /// No grant, or the archive can't answer.
    pub async fn record(&self, viewer: &Viewer, key: RecordKey) -> Result<Option<Reading>, Problem> {
        self.permit(viewer, &key.series)?;
        let entry = self.read(move |archive| archive.get(&key)).await?;
        Ok(entry.map(|entry| Reading::new(entry.record, entry.via)))
    }

    /// The archive, for numbers about it. Records are only shown through the methods that take a viewer.
    pub(crate) fn archive(&self) -> &Archive {
        &self.archive
    }

    /// Reads on a thread where waiting for the disk hurts nobody, so many at a time.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Archive) -> Result<T, archive::ReadError> + Send + 'static,
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

/// Reads a page, in pieces: whoever asks for many records does not know how large they are, and they must not all be in memory.
fn fill(archive: &Archive, query: &Query, page_bytes: usize) -> Result<Page, archive::ReadError> {
    // Before the records: see `Completeness::judge`.
    let held = archive.received(std::slice::from_ref(&query.series))?.pop().unwrap_or_default();
    let mut page = Page { records: Vec::new(), next_cursor: None, completeness: None };
    let (mut bytes, mut last, mut piece) = (0, query.after, FIRST_PIECE);
    loop {
        // One more than wanted shows whether anything follows.
        let limit = (query.limit + 1 - page.records.len()).min(piece);
        let scan = Scan { series: query.series.clone(), from: query.from, to: query.to, after: last, limit };
        let entries = archive.scan(&scan)?;
        let is_all = entries.len() < limit;
        for entry in entries {
            bytes += json_bytes(&entry.record);
            if page.records.len() == query.limit || (bytes > page_bytes && !page.records.is_empty()) {
                page.next_cursor = last.map(|last| last.to_string());
                return Ok(page);
            }
            last = Some(Cursor::after(&entry.record));
            page.records.push(Reading::new(entry.record, entry.via));
        }
        if is_all {
            page.completeness = Some(Completeness::judge(archive, &query.series, (query.from, query.to), &held)?);
            return Ok(page);
        }
        // As many as should fill the page, judged by those before.
        let mean = (bytes / page.records.len().max(1)).max(1);
        piece = page_bytes.saturating_sub(bytes) / mean + 1;
    }
}

/// At most so many bytes is a record in JSON: each byte of text takes at most two there (a quote or backslash), base64 fewer.
fn json_bytes(record: &wire::Record) -> usize {
    2 * record.payload.len() + 2 * record.key.series.as_str().len() + 256
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(json: &str) -> Result<Query, Problem> {
        Query::new(&serde_json::from_str(json).unwrap(), 100)
    }

    #[test]
    fn a_question_that_makes_sense() {
        let query =
            ask(r#"{"series":"a/b/c","from":"1970-01-01T00:00:01Z","to":2000000000,"limit":7,"cursor":"1~5~9f~3"}"#).unwrap();
        assert_eq!((query.from, query.to, query.limit), (1_000_000_000, 2_000_000_000, 7));
        assert_eq!(query.after.map(|after| after.to_string()).as_deref(), Some("1~5~9f~3"));
        let query = ask(r#"{"series":"a/b/c","limit":100000}"#).unwrap();
        assert_eq!((query.from, query.to, query.limit), (0, At::MAX, 100));
        let pairs = [("series", "a/b/c"), ("limit", "7")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(Query::new(&Ask::from_pairs(pairs.to_vec()).unwrap(), 100).unwrap().limit, 7);
    }

    #[test]
    fn each_problem_names_its_field() {
        for (json, field) in [
            ("{}", "series"),
            (r#"{"series":"a/#"}"#, "series"),
            (r#"{"series":"a/b/c","from":"noon"}"#, "from"),
            (r#"{"series":"a/b/c","from":5,"to":5}"#, "to"),
            (r#"{"series":"a/b/c","to":"-1"}"#, "to"),
            (r#"{"series":"a/b/c","limit":0}"#, "limit"),
            (r#"{"series":"a/b/c","limit":"many"}"#, "limit"),
            (r#"{"series":"a/b/c","cursor":"1~5~09f~3"}"#, "cursor"),
            (r#"{"series":"a/b/c","cursor":""}"#, "cursor"),
        ] {
            assert_eq!(ask(json).unwrap_err().field.as_deref(), Some(field), "{json}");
        }
        assert!(serde_json::from_str::<Ask>(r#"{"series":"a/b/c","form":1}"#).is_err());
        let pair = |name: &str| (name.to_owned(), "1".to_owned());
        assert_eq!(Ask::from_pairs(vec![pair("form")]).unwrap_err().field.as_deref(), Some("form"));
        assert_eq!(Ask::from_pairs(vec![pair("to"), pair("to")]).unwrap_err().field.as_deref(), Some("to"));
    }
}
