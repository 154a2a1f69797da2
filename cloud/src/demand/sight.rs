//! What a user may see of a change, by the grants of the moment.

use broker::Policy;
use wire::At;
use wire::grants::{Action, Subject};
use wire::openadr::ObjectType;

use super::clients::subscriptions::{Notice, Sight, Told};
use super::clients::{ClientsFault, Desk};
use crate::http::Api;
use crate::metrics::Metrics;

/// What an operator needs a grant for, to query it or to publish on it: others' VENs, resources and subscriptions.
pub(crate) const CLIENTS: &str = "demand/clients";

/// Says what users may see.
#[derive(Clone)]
pub(crate) struct Sees {
    policy: Policy,
    metrics: Metrics,
    now: At,
}

impl Sees {
    /// By the grants of now.
    pub(crate) fn new(api: &Api) -> Self {
        Self::at(&api.policy, &api.metrics, api.clock.now())
    }

    /// By the grants of `now`.
    pub(crate) fn at(policy: &Policy, metrics: &Metrics, now: At) -> Self {
        Self { policy: policy.clone(), metrics: metrics.clone(), now }
    }

    /// Queues a change for everybody whom it concerns.
    pub(crate) fn tell(&self, desk: &Desk<'_>, notice: &Notice) -> Result<Told, ClientsFault> {
        let told = desk.tell(notice, &|user| self.of(user, notice), self.now)?;
        self.metrics.demand_calls_dropped.inc_by(told.dropped);
        Ok(told)
    }

    /// What `user` may see of it; an empty name is nobody.
    pub(crate) fn of(&self, user: &str, notice: &Notice) -> Sight {
        let subject = Subject { user: (!user.is_empty()).then_some(user), client: "" };
        let may = |action, topic: &str| self.policy.verdict(&subject, action, topic, self.now).is_allowed();
        let topic = |way: &str| notice.program.as_ref().map(|program| format!("demand/{program}/{way}"));
        let is_own = notice.owner.as_deref() == Some(user);
        match notice.kind {
            ObjectType::Program | ObjectType::Event => match topic("events") {
                Some(topic) if may(Action::Publish, &topic) => Sight::All,
                Some(topic) if may(Action::Subscribe, &topic) => Sight::Targeted,
                _ => Sight::None,
            },
            ObjectType::Report if is_own || topic("reports").is_some_and(|topic| may(Action::Query, &topic)) => Sight::All,
            ObjectType::Report => Sight::None,
            _ if is_own || may(Action::Query, CLIENTS) => Sight::All,
            _ => Sight::None,
        }
    }
}
