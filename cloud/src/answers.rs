//! Questions over MQTT: a publish to `query/{client}` with a response topic is answered there, with its correlation data.
//!
//! The answer is a [`crate::reading::Page`] as JSON (content type `application/json`), or a [`Problem`] (`application/problem+json`).
//! It goes only to a response topic that the asker may subscribe to himself, and never to a topic of Forebay's own: otherwise a
//! question could make the cloud say things on `data/…` that no sensor measured.

use std::sync::Arc;

use broker::{Client, Hub, Message, Offer, Policy, Refusal};
use bytes::Bytes;
use chassis::{Clock, Stop};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use wire::Topic;
use wire::grants::Action;

use crate::history::{History, Viewer};
use crate::metrics::{Face, Metrics, Outcome};
use crate::problem::{PROBLEM_TYPE, Problem};
use crate::question::{Ask, Query};

/// A question that is accepted, or the problem with it, on the way to its answer.
pub(crate) struct Question {
    viewer: Viewer,
    asked: Result<Query, Problem>,
    response_topic: String,
    correlation: Option<Bytes>,
}

/// Takes questions in, on the connection's task: no question touches the archive here.
pub(crate) struct Desk {
    history: History,
    policy: Policy,
    clock: Arc<dyn Clock>,
    questions: mpsc::Sender<Question>,
}

impl Desk {
    /// A desk with room for `waiting_max` questions, and the queue that [`answer`] works on.
    pub(crate) fn new(
        history: History,
        policy: Policy,
        clock: Arc<dyn Clock>,
        waiting_max: usize,
    ) -> (Self, mpsc::Receiver<Question>) {
        let (questions, waiting) = mpsc::channel(waiting_max);
        (Self { history, policy, clock, questions }, waiting)
    }

    /// Takes one question, or refuses it. Where an answer may be sent, the problem is sent there too.
    pub(crate) fn take(&self, client: &Client, offer: &Offer<'_>) -> Result<(), Refusal> {
        let viewer = Viewer::client(client);
        let response_topic = offer.response_topic.ok_or(Refusal::PayloadFormatInvalid)?;
        self.permit_response(&viewer, response_topic)?;
        let asked = serde_json::from_slice::<Ask>(offer.payload)
            .map_err(|fault| Problem::malformed(format!("the question is not JSON of the documented form: {fault}")))
            .and_then(|ask| self.history.check(&viewer, &ask));
        let refusal = match &asked {
            Ok(_) => None,
            Err(problem) if problem.status == 403 => Some(Refusal::NotAuthorized),
            Err(_) => Some(Refusal::PayloadFormatInvalid),
        };
        let correlation = offer.correlation_data.map(Bytes::copy_from_slice);
        let question = Question { viewer, asked, response_topic: response_topic.to_owned(), correlation };
        let queued = self.questions.try_send(question).map_err(|_| Refusal::QuotaExceeded);
        refusal.map_or(queued, Err)
    }

    fn permit_response(&self, viewer: &Viewer, topic: &str) -> Result<(), Refusal> {
        if !wire::filter::valid_topic(topic) {
            return Err(Refusal::TopicNameInvalid);
        }
        let verdict = self.policy.verdict(&viewer.subject(), Action::Subscribe, topic, self.clock.now());
        if Topic::parse(topic).is_ok() || !verdict.is_allowed() {
            return Err(Refusal::NotAuthorized);
        }
        Ok(())
    }
}

/// Answers questions until told to stop, `at_once` of them at the same time.
pub(crate) async fn answer(
    mut waiting: mpsc::Receiver<Question>,
    at_once: usize,
    history: History,
    hub: Hub,
    metrics: Metrics,
    stop: Stop,
) {
    let mut working = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.stopped() => break,
            Some(_) = working.join_next() => {}
            question = waiting.recv(), if working.len() < at_once => match question {
                Some(question) => {
                    working.spawn(answer_one(question, history.clone(), hub.clone(), metrics.clone()));
                }
                None => break,
            },
        }
    }
    while working.join_next().await.is_some() {}
}

async fn answer_one(question: Question, history: History, hub: Hub, metrics: Metrics) {
    let Question { viewer, asked, response_topic, correlation } = question;
    let answer = match asked {
        Ok(query) => history.page(&viewer, query).await,
        Err(problem) => Err(problem),
    };
    let (outcome, kind, body) = match &answer {
        Ok(page) => (Outcome::Answered, "application/json", serde_json::to_vec(page)),
        Err(problem) => (Outcome::Refused, PROBLEM_TYPE, serde_json::to_vec(problem)),
    };
    metrics.asked(Face::Mqtt, outcome);
    let body = match body {
        Ok(body) => body,
        Err(fault) => {
            tracing::error!(error = %fault, "an answer can't be written as JSON");
            return;
        }
    };
    let mut message = Message::new(response_topic, body).content_type(kind);
    if let Some(correlation) = correlation {
        message = message.correlation_data(&correlation);
    }
    hub.publish(message).await;
}
