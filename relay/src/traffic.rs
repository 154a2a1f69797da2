//! What kind of page goes up: the two lanes of C8, and which of them a page is in from the sender's point of view.

use archive::Lane;

/// Kinds of pages on their way to the cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// Of the live lane, and young.
    Live,
    /// Of the live lane, and waited for too long, for example through an outage.
    Late,
    /// Of the backlog lane: handed over from the storage area.
    Backlog,
}

impl Traffic {
    /// The archive's lane that holds such pages.
    #[must_use]
    pub fn lane(self) -> Lane {
        match self {
            Self::Live | Self::Late => Lane::Live,
            Self::Backlog => Lane::Backlog,
        }
    }

    /// Whether it stands back behind what is live, and is marked historical.
    #[must_use]
    pub fn is_old(self) -> bool {
        self != Self::Live
    }
}

impl std::fmt::Display for Traffic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Live => "live",
            Self::Late => "late",
            Self::Backlog => "backlog",
        })
    }
}
