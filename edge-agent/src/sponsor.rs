//! The way to the anchor service: signed roots out to `anchor/{area}/{sensor}/roots`, receipts back. A link of its own, because the service is
//! at the cloud and not at a relay.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anchor::pledge::{Receipt, Said};
use anchor::{Post, PostError};
use chassis::Stop;
use link::{Link, LinkConfig, PublishError, Received};
use tokio::sync::{Mutex, mpsc, oneshot};
use wire::topics::Anchor;
use wire::{Digest, SensorId, Topic};

use crate::config::SponsorConfig;

/// How long one hand-over may take, from the queue to the acknowledgement.
const HAND_OVER: Duration = Duration::from_secs(15);
/// Receipts that are remembered; a party has one root under way.
const RECEIPTS_MAX: usize = 16;

/// A root on its way, and who waits for the answer.
struct Letter {
    pledge: Vec<u8>,
    answer: oneshot::Sender<Result<(), PostError>>,
}

/// The way of one sensor to the service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Mail {
    inner: Arc<Inner>,
}

struct Inner {
    settings: LinkConfig,
    roots: String,
    letters: mpsc::Sender<Letter>,
    waiting: Mutex<mpsc::Receiver<Letter>>,
    said: std::sync::Mutex<VecDeque<Receipt>>,
}

impl Mail {
    pub(crate) fn new(config: &SponsorConfig, sensor: &SensorId) -> Self {
        let client = format!("anchor-{}-{}", sensor.area(), sensor.sensor());
        let mut settings = LinkConfig::new(&config.address.host, config.address.port, client);
        if let Some(user) = &config.user {
            settings = settings.with_credentials(user, config.password.as_ref().map_or("", |password| password.expose()));
        }
        let topic = |kind| Topic::Anchor { party: sensor.into(), kind }.to_string();
        settings.filters = vec![topic(Anchor::Receipts)];
        let (letters, waiting) = mpsc::channel(1);
        let inner =
            Inner { settings, roots: topic(Anchor::Roots), letters, waiting: Mutex::new(waiting), said: Default::default() };
        Self { inner: Arc::new(inner) }
    }

    /// Keeps the link while it runs.
    pub(crate) async fn run(self, stop: Stop) -> Result<(), Infallible> {
        let mut waiting = self.inner.waiting.lock().await;
        let (link, mut incoming) = Link::start(self.inner.settings.clone());
        loop {
            tokio::select! {
                () = stop.stopped() => break,
                Some(Letter { pledge, answer }) = waiting.recv() => {
                    let (link, topic) = (link.clone(), self.inner.roots.clone());
                    tokio::spawn(async move {
                        let _gone = answer.send(hand_over(&link, topic, pledge).await);
                    });
                }
                Some(received) = incoming.next() => self.hear(&received),
            }
        }
        link.close().await;
        Ok(())
    }

    fn hear(&self, received: &Received) {
        match Receipt::parse(&received.payload) {
            Ok(receipt) => {
                tracing::debug!(root = wire::digest::to_hex(&receipt.root), said = ?receipt.said, "the anchor service");
                let mut said = self.inner.said.lock().unwrap_or_else(PoisonError::into_inner);
                said.retain(|known| known.root != receipt.root);
                said.push_back(receipt);
                if said.len() > RECEIPTS_MAX {
                    said.pop_front();
                }
            }
            Err(fault) => tracing::warn!(%fault, "what came on the receipts' topic is none"),
        }
    }
}

async fn hand_over(link: &Link, topic: String, pledge: Vec<u8>) -> Result<(), PostError> {
    match tokio::time::timeout(HAND_OVER, link.publish(topic, pledge)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(refused @ PublishError::Refused { .. })) if !refused.is_quota() => Err(PostError::Refused(refused.to_string())),
        Ok(Err(fault)) => Err(PostError::Away(fault.to_string())),
        Err(_) => Err(PostError::Away("no acknowledgement in time".to_owned())),
    }
}

impl Post for Mail {
    fn send<'a>(&'a self, pledge: Vec<u8>) -> Pin<Box<dyn Future<Output = Result<(), PostError>> + Send + 'a>> {
        Box::pin(async move {
            let away = || PostError::Away("there is no link".to_owned());
            let (answer, answered) = oneshot::channel();
            self.inner.letters.try_send(Letter { pledge, answer }).map_err(|_| away())?;
            match tokio::time::timeout(HAND_OVER * 2, answered).await {
                Ok(Ok(answer)) => answer,
                _ => Err(away()),
            }
        })
    }

    fn said(&self, root: &Digest) -> Option<Said> {
        let said = self.inner.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.iter().find(|receipt| receipt.root == *root).map(|receipt| receipt.said.clone())
    }
}
