//! What clients want to be told, and which of them a change concerns.

use archive::ReadError;
use serde::Serialize;
use serde_json::Value;
use store::rusqlite::{OptionalExtension, Row, params};
use wire::openadr::{self, Notification, ObjectType, Operation, Subscription, SubscriptionRequest};
use wire::{At, Epoch, Intervals, Series};

use super::{ClientsFault, Desk, Whose, client_id, number_of};

/// Subscriptions of one user.
const SUBSCRIPTIONS_MAX: i64 = 50;
/// Notifications that wait for one subscription. One more is dropped and counted.
const CALLS_MAX: i64 = 1_000;
const SELECT: &str = "SELECT id, user, content, created, modified FROM subscriptions";

/// A change of an object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Notice {
    pub(crate) kind: ObjectType,
    pub(crate) operation: Operation,
    /// The program that it belongs to, if it belongs to one.
    pub(crate) program: Option<String>,
    /// The user whose object it is; none of programs and events.
    pub(crate) owner: Option<String>,
    /// The object's targets.
    pub(crate) targets: Vec<String>,
    /// The object.
    pub(crate) object: Value,
}

/// What a user may see of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    /// Nothing.
    None,
    /// Where a target was granted, or there is none.
    Targeted,
    /// Everything.
    All,
}

/// What came of telling.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// Notifications that wait to be delivered.
    pub(crate) queued: u64,
    /// Notifications that found no room.
    pub(crate) dropped: u64,
}

impl Notice {
    /// Of an object that is a user's.
    pub(crate) fn owned(
        kind: ObjectType,
        operation: Operation,
        owner: String,
        targets: Vec<String>,
        object: &impl Serialize,
    ) -> Self {
        let object = serde_json::to_value(object).unwrap_or_default();
        Self { kind, operation, program: None, owner: Some(owner), targets, object }
    }

    /// What is posted about it to who wants `request`, may see it as `sight` says and was granted `granted`; with the indices of the
    /// request's operations that ask for it.
    pub(crate) fn to(
        &self,
        request: &SubscriptionRequest,
        sight: Sight,
        granted: &[String],
    ) -> Option<(Notification, Vec<usize>)> {
        if request.program_id.is_some() && request.program_id != self.program {
            return None;
        }
        let wanted = request.targets.as_deref().unwrap_or_default();
        let shown: Vec<String> = match sight {
            Sight::None => return None,
            Sight::All => self.targets.clone(),
            Sight::Targeted => self.targets.iter().filter(|target| granted.contains(target)).cloned().collect(),
        };
        let hidden = !self.targets.is_empty() && shown.is_empty();
        if hidden || (!wanted.is_empty() && !shown.iter().any(|target| wanted.contains(target))) {
            return None;
        }
        let asks = |index: &usize| {
            let operation = &request.object_operations[*index];
            operation.objects.contains(&self.kind) && operation.operations.contains(&self.operation)
        };
        let indices: Vec<usize> = (0..request.object_operations.len()).filter(asks).collect();
        if indices.is_empty() {
            return None;
        }
        let mut object = self.object.clone();
        if matches!(self.kind, ObjectType::Event | ObjectType::Program)
            && let Some(targets) = object.get_mut("targets")
        {
            *targets = shown.clone().into();
        }
        let targets = (!shown.is_empty()).then_some(shown);
        Some((Notification { object_type: self.kind, operation: self.operation, object, targets }, indices))
    }
}

impl Desk<'_> {
    /// Subscriptions and their users, the oldest first.
    pub(crate) fn subscriptions(&self, whose: Whose<'_>) -> Result<Vec<(Subscription, String)>, ClientsFault> {
        let mut select = self.0.prepare_cached(&format!("{SELECT} WHERE ?1 IS NULL OR user = ?1 ORDER BY id"))?;
        let rows = select.query_map([whose.user()], |row| Ok((subscription(row)?, row.get(1)?)))?;
        let known = |row: store::rusqlite::Result<(Option<Subscription>, String)>| {
            let (subscription, user) = row?;
            Ok((subscription.ok_or(ClientsFault::Damaged("a subscription"))?, user))
        };
        rows.map(known).collect()
    }

    /// Begins to make notifications of a program's reports when somebody wants them, from `held` on, and ends it when nobody does.
    pub(crate) fn keep_up_with_reports(
        &self,
        program: &str,
        held: impl FnOnce() -> Result<Vec<(Series, Epoch, Intervals)>, ReadError>,
    ) -> Result<(), ClientsFault> {
        let wants = |(subscription, _): &(Subscription, String)| {
            let content = &subscription.content;
            let mut operations = content.object_operations.iter();
            content.program_id.as_deref().is_none_or(|id| id == program)
                && operations.any(|operation| operation.objects.contains(&ObjectType::Report))
        };
        match (self.subscriptions(Whose::All)?.iter().any(wants), self.reports_are_wanted(program)?) {
            (true, false) => self.want_reports(program, &held()?),
            (false, true) => self.forget_reports(program),
            _ => Ok(()),
        }
    }

    /// One subscription and its user.
    pub(crate) fn subscription(&self, whose: Whose<'_>, id: &str) -> Result<Option<(Subscription, String)>, ClientsFault> {
        let Some(number) = number_of(id, "subscription") else { return Ok(None) };
        let mut select = self.0.prepare_cached(&format!("{SELECT} WHERE id = ?1 AND (?2 IS NULL OR user = ?2)"))?;
        let found = select.query_row(params![number, whose.user()], |row| Ok((subscription(row)?, row.get(1)?))).optional()?;
        found.map(|(shown, user)| Ok((shown.ok_or(ClientsFault::Damaged("a subscription"))?, user))).transpose()
    }

    /// Makes a subscription of `user`.
    pub(crate) fn subscribe(&self, user: &str, wanted: &SubscriptionRequest, now: At) -> Result<Subscription, ClientsFault> {
        let count = "SELECT count(*) FROM subscriptions WHERE user = ?1";
        let count: i64 = self.0.query_row(count, [user], |row| row.get(0))?;
        if count >= SUBSCRIPTIONS_MAX {
            return Err(ClientsFault::TooMany("subscriptions", SUBSCRIPTIONS_MAX));
        }
        let content = serde_json::to_string(wanted).map_err(|_| ClientsFault::Damaged("the subscription"))?;
        let insert = "INSERT INTO subscriptions (user, content, created, modified) VALUES (?1, ?2, ?3, ?3)";
        self.0.execute(insert, params![user, content, now])?;
        let id = format!("subscription-{}", self.0.last_insert_rowid());
        self.subscription(Whose::User(user), &id)?.map(|(made, _)| made).ok_or(ClientsFault::Damaged("a subscription"))
    }

    /// Changes a subscription; `None` if there is none of this id. What waits to be told goes where it was to go.
    pub(crate) fn resubscribe(
        &self,
        whose: Whose<'_>,
        id: &str,
        wanted: &SubscriptionRequest,
        now: At,
    ) -> Result<Option<(Subscription, String)>, ClientsFault> {
        let (Some(number), Some(_)) = (number_of(id, "subscription"), self.subscription(whose, id)?) else { return Ok(None) };
        let content = serde_json::to_string(wanted).map_err(|_| ClientsFault::Damaged("the subscription"))?;
        let update = "UPDATE subscriptions SET content = ?2, modified = ?3 WHERE id = ?1";
        self.0.execute(update, params![number, content, now])?;
        self.subscription(whose, id)
    }

    /// Removes a subscription with what waits to be told, and gives what it was.
    pub(crate) fn unsubscribe(&self, whose: Whose<'_>, id: &str) -> Result<Option<(Subscription, String)>, ClientsFault> {
        let found = self.subscription(whose, id)?;
        if let (Some(_), Some(number)) = (&found, number_of(id, "subscription")) {
            self.0.execute("DELETE FROM calls WHERE subscription = ?1", [number])?;
            self.0.execute("DELETE FROM subscriptions WHERE id = ?1", [number])?;
        }
        Ok(found)
    }

    /// Queues a change for everybody whom it concerns; `sees` says what a user may see of it.
    pub(crate) fn tell(&self, notice: &Notice, sees: &dyn Fn(&str) -> Sight, now: At) -> Result<Told, ClientsFault> {
        let mut told = Told::default();
        let mut select = self.0.prepare_cached(&format!("{SELECT} ORDER BY id"))?;
        let rows = select.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?)))?;
        for row in rows {
            let (number, user, content) = row?;
            let request: SubscriptionRequest =
                serde_json::from_str(&content).map_err(|_| ClientsFault::Damaged("a subscription"))?;
            let sight = sees(&user);
            let granted = if sight == Sight::Targeted { self.granted(&user)? } else { Vec::new() };
            let Some((notification, indices)) = notice.to(&request, sight, &granted) else { continue };
            let body = serde_json::to_string(&notification).map_err(|_| ClientsFault::Damaged("a notification"))?;
            for index in indices {
                let operation = &request.object_operations[index];
                let waiting = "SELECT count(*) FROM calls WHERE subscription = ?1";
                let waiting: i64 = self.0.prepare_cached(waiting)?.query_row([number], |row| row.get(0))?;
                if waiting >= CALLS_MAX {
                    told.dropped += 1;
                    continue;
                }
                let insert = "INSERT INTO calls (subscription, url, bearer, body, made, due) VALUES (?1, ?2, ?3, ?4, ?5, ?5)";
                let values = params![number, operation.callback_url, operation.bearer_token, body, now];
                self.0.prepare_cached(insert)?.execute(values)?;
                told.queued += 1;
            }
        }
        Ok(told)
    }
}

/// `None` if its content can't be read.
fn subscription(row: &Row<'_>) -> store::rusqlite::Result<Option<Subscription>> {
    let (user, content): (String, String) = (row.get(1)?, row.get(2)?);
    let (id, created, modified): (i64, At, At) = (row.get(0)?, row.get(3)?, row.get(4)?);
    Ok(serde_json::from_str(&content).ok().map(|content| Subscription {
        id: format!("subscription-{id}"),
        created_date_time: openadr::time_text(created),
        modification_date_time: openadr::time_text(modified),
        object_type: "SUBSCRIPTION".to_owned(),
        client_id: client_id(&user),
        content,
    }))
}
