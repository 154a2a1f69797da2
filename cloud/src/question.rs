//! Questions about the past: as they are asked, and as they make sense.

use std::fmt;
use std::str::FromStr;

use archive::{Cursor, CursorFault};
use serde::Deserialize;
use wire::{At, Series, filter};

use crate::moment;
use crate::problem::Problem;

/// Tags of one question, at most.
const TAGS_MAX: usize = 16;

/// A question as it was asked: `{"series", "filter", "tags", "from", "to", "limit", "cursor"}`. It names one series, or all that a filter
/// matches, or those of the sensors that have all of some tags, or of both.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ask {
    /// One series, `area/sensor/stream`.
    pub series: Option<String>,
    /// A filter of series as MQTT has them for topics, like `cityA/+/power/#`.
    pub filter: Option<String>,
    /// Tags, all of which a sensor must have: a list, or text with commas between.
    pub tags: Option<Tags>,
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

/// Tags as a list, or as text with commas between them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Tags {
    /// A list.
    List(Vec<String>),
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

impl Tags {
    fn read(&self) -> Result<Vec<String>, Problem> {
        let tags: Vec<String> = match self {
            Self::List(tags) => tags.clone(),
            Self::Text(text) => text.split(',').map(|tag| tag.trim().to_owned()).collect(),
        };
        if tags.is_empty() || tags.iter().any(String::is_empty) {
            return Err(Problem::field("tags", "holds an empty tag; write them like residential,h0"));
        }
        if tags.len() > TAGS_MAX {
            return Err(Problem::field("tags", format!("are more than {TAGS_MAX}")));
        }
        Ok(tags)
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
                "filter" => ask.filter.replace(value).is_some(),
                "tags" => ask.tags.replace(Tags::Text(value)).is_some(),
                "from" => ask.from.replace(Scalar::Text(value)).is_some(),
                "to" => ask.to.replace(Scalar::Text(value)).is_some(),
                "limit" => ask.limit.replace(Scalar::Text(value)).is_some(),
                "cursor" => ask.cursor.replace(value).is_some(),
                _ => {
                    let known = "is unknown; there are series, filter, tags, from, to, limit and cursor";
                    return Err(Problem::field(&name, known));
                }
            };
            if before {
                return Err(Problem::field(&name, "is given twice"));
            }
        }
        Ok(ask)
    }
}

/// Which series a question is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// This one.
    One(Series),
    /// All that the filter matches and whose sensor has all of the tags, as far as the asker may see them.
    Like {
        /// The filter.
        filter: String,
        /// The tags.
        tags: Vec<String>,
    },
}

/// A question that makes sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    pub(crate) wanted: Wanted,
    pub(crate) from: At,
    pub(crate) to: At,
    pub(crate) limit: usize,
    pub(crate) after: Option<Place>,
}

impl Query {
    /// Checks a question; pages hold at most `records_max` records.
    ///
    /// # Errors
    /// A problem that names the field and the fix.
    pub fn new(ask: &Ask, records_max: usize) -> Result<Self, Problem> {
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
        let after = after.map_err(|fault: CursorFault| Problem::field("cursor", fault.to_string()))?;
        Ok(Self { wanted: wanted(ask)?, from, to, limit, after })
    }

    /// The range of generation times.
    pub(crate) fn range(&self) -> (At, At) {
        (self.from, self.to)
    }
}

fn wanted(ask: &Ask) -> Result<Wanted, Problem> {
    let Some(series) = &ask.series else {
        let filter = ask.filter.as_deref().or(ask.tags.is_some().then_some("#"));
        let filter = filter.ok_or_else(|| {
            Problem::field("series", "is missing; name one, like cityA/meter-1/power, or a filter, like cityA/+/power/#, or tags")
        })?;
        if !filter::valid_filter(filter) || filter.starts_with('$') {
            return Err(Problem::field("filter", "is not a filter of series like cityA/+/power/#"));
        }
        let tags = ask.tags.as_ref().map_or(Ok(Vec::new()), Tags::read)?;
        return Ok(Wanted::Like { filter: filter.to_owned(), tags });
    };
    if ask.filter.is_some() || ask.tags.is_some() {
        return Err(Problem::field("series", "stands beside filter or tags; give the one or the others"));
    }
    series.parse().map(Wanted::One).map_err(|fault: wire::IdFault| Problem::field("series", fault.to_string()))
}

/// Where a walk stopped: behind one record of one series. Answers are in order of series, then time, epoch and sequence number. As text
/// it is opaque, needs no escaping in a URL, and holds across restarts. It carries no right: whoever changes one only reads from another
/// place of what he may read anyway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The series that the walk is in.
    pub(crate) series: Series,
    /// How far it has come there.
    pub(crate) cursor: Cursor,
    /// Whether the walk has passed records that were known to be elsewhere: they may have arrived behind it.
    pub(crate) has_passed: bool,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "2~{}~{}~{}", u8::from(self.has_passed), self.series, self.cursor)
    }
}

impl FromStr for Place {
    type Err = CursorFault;

    fn from_str(text: &str) -> Result<Self, CursorFault> {
        let mut parts = text.splitn(4, '~');
        let mut next = || parts.next().ok_or(CursorFault);
        if next()? != "2" {
            return Err(CursorFault);
        }
        let has_passed = match next()? {
            "0" => false,
            "1" => true,
            _ => return Err(CursorFault),
        };
        let series = next()?.parse().map_err(|_| CursorFault)?;
        Ok(Self { series, cursor: next()?.parse()?, has_passed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(json: &str) -> Result<Query, Problem> {
        Query::new(&serde_json::from_str(json).unwrap(), 100)
    }

    #[test]
    fn a12_a_question_that_makes_sense() {
        let place = "2~0~a/b/c~1~5~9f~3";
        let query =
            ask(&format!(r#"{{"series":"a/b/c","from":"1970-01-01T00:00:01Z","to":2000000000,"limit":7,"cursor":"{place}"}}"#))
                .unwrap();
        assert_eq!((query.range(), query.limit), ((1_000_000_000, 2_000_000_000), 7));
        assert_eq!(query.after.map(|after| after.to_string()).as_deref(), Some(place));
        let query = ask(r#"{"series":"a/b/c","limit":100000}"#).unwrap();
        assert_eq!((query.range(), query.limit), ((0, At::MAX), 100));
        let pairs = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            Query::new(&Ask::from_pairs(pairs.collect()).unwrap(), 100).unwrap()
        };
        assert_eq!(pairs(&[("series", "a/b/c"), ("limit", "7")]).limit, 7);
        let like = |filter: &str, tags: &[&str]| Wanted::Like {
            filter: filter.to_owned(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        };
        assert_eq!(pairs(&[("filter", "a/+/c/#")]).wanted, like("a/+/c/#", &[]));
        assert_eq!(pairs(&[("tags", "home, h0")]).wanted, like("#", &["home", "h0"]));
        assert_eq!(ask(r#"{"filter":"+/+/power","tags":["home"]}"#).unwrap().wanted, like("+/+/power", &["home"]));
    }

    #[test]
    fn a12_each_problem_names_its_field() {
        for (json, field) in [
            ("{}", "series"),
            (r#"{"series":"a/#"}"#, "series"),
            (r#"{"series":"a/b/c","filter":"a/#"}"#, "series"),
            (r#"{"filter":"a/#/c"}"#, "filter"),
            (r#"{"filter":"$SYS/#"}"#, "filter"),
            (r#"{"tags":"a,,b"}"#, "tags"),
            (r#"{"tags":[]}"#, "tags"),
            (r#"{"series":"a/b/c","from":"noon"}"#, "from"),
            (r#"{"series":"a/b/c","from":5,"to":5}"#, "to"),
            (r#"{"series":"a/b/c","to":"-1"}"#, "to"),
            (r#"{"series":"a/b/c","limit":0}"#, "limit"),
            (r#"{"series":"a/b/c","limit":"many"}"#, "limit"),
            (r#"{"series":"a/b/c","cursor":"2~0~a/b/c~1~5~09f~3"}"#, "cursor"),
            (r#"{"series":"a/b/c","cursor":"2~0~a/b~1~5~9f~3"}"#, "cursor"),
            (r#"{"series":"a/b/c","cursor":"2~2~a/b/c~1~5~9f~3"}"#, "cursor"),
            (r#"{"series":"a/b/c","cursor":"1~5~9f~3"}"#, "cursor"),
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
