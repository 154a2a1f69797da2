//! What `GET /api/v1/groups` and `forebay groups` show.

use serde::{Deserialize, Serialize};
use wire::{At, RelayId};

use super::lease::{Reason, Scored};
use crate::moment;

/// Terms of the past that are shown of each group, unless asked for otherwise.
pub const TERMS_SHOWN: usize = 20;
/// Terms of the past that are kept of each group.
pub const TERMS_MAX: usize = 1_000;

/// All groups of the configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupsView {
    /// One a group, in the order of the configuration.
    pub groups: Vec<GroupView>,
}

/// One group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupView {
    /// Its name.
    pub group: RelayId,
    /// The lease's term; 0 while there was none.
    pub term: u64,
    /// The proxy; `None`: nobody, each member talks to the cloud directly.
    pub holder: Option<RelayId>,
    /// Where the members reach the proxy.
    pub address: String,
    /// When the term began.
    pub since: Option<String>,
    /// How long the lease lives without being renewed, in milliseconds.
    pub ttl_ms: u64,
    /// What ends the term; 0 is no limit.
    pub until: LimitsView,
    /// The round: in each, every member serves once.
    pub round: u64,
    /// The relays of the group.
    pub members: Vec<MemberView>,
    /// The last terms, the one that goes on first.
    pub terms: Vec<TermView>,
}

/// What ends a term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsView {
    /// Time served, in milliseconds.
    pub time_ms: u64,
    /// Bytes passed on.
    pub bytes: u64,
    /// Frames passed on.
    pub frames: u64,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberView {
    /// Its name.
    pub relay: RelayId,
    /// When its last heartbeat came; `None`: not since the cloud was started.
    pub heard: Option<String>,
    /// Whether that is within the life of a lease.
    pub live: bool,
    /// Whether that came through its own connection; where users are not verified, always.
    pub direct: bool,
    /// Whether it has served in this round.
    pub served: bool,
    /// What it has collected in this term so far.
    pub collected: ScoreView,
    /// What it collected in the term before; `None`: there was none.
    pub last: Option<ScoreView>,
}

/// A member's histogram in a term, and its score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoreView {
    /// The member.
    pub relay: RelayId,
    /// Area under the curve through the bars, in bytes; `None`: it was not scored, because it served or had served.
    pub score: Option<f64>,
    /// Width of a bar in milliseconds; 0: nothing was told.
    pub period_ms: u64,
    /// Number of the first period since 1970.
    pub first: u64,
    /// Bytes of each period.
    pub bars: Vec<u64>,
}

impl ScoreView {
    pub(crate) fn of(scored: &Scored) -> Self {
        let Scored { relay, score, histogram } = scored;
        let period_ms = u64::try_from(histogram.period.as_millis()).unwrap_or(u64::MAX);
        Self { relay: relay.clone(), score: *score, period_ms, first: histogram.first, bars: histogram.bars.clone() }
    }
}

/// One term.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TermView {
    /// Its number.
    pub term: u64,
    /// Who was the proxy.
    pub holder: RelayId,
    /// In which round.
    pub round: u64,
    /// When it began.
    pub since: String,
    /// When it ended; `None`: it goes on.
    pub until: Option<String>,
    /// Why it ended.
    pub ended: Option<Reason>,
}

impl TermView {
    pub(crate) fn new(term: u64, holder: RelayId, round: u64, since: At, until: Option<At>, ended: Option<Reason>) -> Self {
        Self { term, holder, round, since: moment::format(since), until: until.map(moment::format), ended }
    }
}
