//! Who reads: an analyst of city A, and an operator who compares everything with the data set.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use link::{Link, LinkConfig, Qos};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tokio::sync::Mutex;

use super::plan::{Meter, Plan, STREAM};
use super::town::Town;

/// Records asked for in one request.
const PAGE: &str = "5000";
/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Somebody with a name and a password, at the cloud.
pub(super) struct Reader {
    user: &'static str,
    password: String,
    http: String,
    client: reqwest::Client,
}

impl Reader {
    /// A user of the town.
    pub(super) fn new(town: &Town, user: &'static str) -> anyhow::Result<Self> {
        Ok(Self {
            user,
            password: town.password(user)?,
            http: format!("http://{}", town.cloud_http),
            client: reqwest::Client::builder().timeout(TIMEOUT).build()?,
        })
    }

    /// Asks the cloud; gives the status and the answer.
    pub(super) async fn ask(&self, method: Method, path: &str) -> anyhow::Result<(StatusCode, Value)> {
        let url = format!("{}{path}", self.http);
        let response =
            self.client.request(method, &url).basic_auth(self.user, Some(&self.password)).send().await.with_context(|| url)?;
        let status = response.status();
        Ok((status, response.json().await.unwrap_or(Value::Null)))
    }

    /// Asks for something that must be there.
    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let (status, answer) = self.ask(Method::GET, path).await?;
        ensure!(status.is_success(), "{path}: the cloud answered {status}: {answer}");
        Ok(answer)
    }

    /// Every record of a meter, as (key, payload).
    pub(super) async fn records(&self, meter: &Meter) -> anyhow::Result<Vec<(String, String)>> {
        let mut records = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self.get(&format!("/api/v1/records?series={}&limit={PAGE}{cursor}", meter.series())).await?;
            for record in page["records"].as_array().context("records")? {
                let text =
                    |field: &str| record[field].as_str().map(str::to_owned).with_context(|| format!("{field} of {record}"));
                records.push((text("key")?, text("payload")?));
            }
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(records),
            }
        }
    }
}

/// What the cloud's archive holds, measured against the data set.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// Readings that are there, with the right value at the right place.
    pub held: u64,
    /// Readings of the data set that are not.
    pub lost: u64,
    /// Keys that came more than once, and records beyond the data set.
    pub duplicated: u64,
}

/// Reads everything back and compares it, value by value: a meter's n-th record must be the n-th value of its profile.
pub(super) async fn compare(operator: &Reader, plan: &Plan) -> anyhow::Result<Comparison> {
    let mut comparison = Comparison::default();
    for meter in &plan.meters {
        let records = operator.records(meter).await?;
        let mut keys = HashSet::new();
        let mut by_seq = HashMap::new();
        for (key, payload) in &records {
            let key: wire::RecordKey = key.parse().with_context(|| key.clone())?;
            by_seq.insert(key.seq, payload);
            keys.insert(key);
        }
        let right = (1..).zip(&meter.readings).filter(|(seq, value)| by_seq.get(seq) == Some(value)).count();
        comparison.held += right as u64;
        comparison.lost += (meter.readings.len() - right) as u64;
        comparison.duplicated += (records.len() - keys.len() + keys.len().saturating_sub(meter.readings.len())) as u64;
    }
    Ok(comparison)
}

/// The analyst's live subscription to city A.
pub(super) struct Subscription {
    link: Link,
    received: Arc<AtomicU64>,
    keys: Arc<Mutex<HashSet<String>>>,
    /// Whether the cloud refused a subscription to city B.
    pub foreign_refused: bool,
}

impl Subscription {
    /// Connects, subscribes to what is granted, and tries what is not.
    pub(super) async fn start(town: &Town) -> anyhow::Result<Self> {
        let config = LinkConfig::new(town.cloud_mqtt.ip().to_string(), town.cloud_mqtt.port(), "analyst")
            .with_credentials("analyst", town.password("analyst")?);
        let (link, mut incoming) = Link::start(config);
        link.connected().wait_for(|connected| *connected).await.context("the analyst's connection")?;
        link.subscribe("data/cityA/#", Qos::One).await.context("the analyst's own city")?;
        let foreign_refused = link.subscribe("data/cityB/#", Qos::One).await.is_err();
        let received = Arc::new(AtomicU64::new(0));
        let keys = Arc::new(Mutex::new(HashSet::new()));
        let (count, seen) = (Arc::clone(&received), Arc::clone(&keys));
        tokio::spawn(async move {
            while let Some(message) = incoming.next().await {
                let key = message.user_properties.into_iter().find(|(name, _)| name == "key");
                // Only what is new counts: a reading that came twice shows as one too few.
                if let Some((_, key)) = key
                    && message.topic.starts_with("data/cityA/")
                    && message.topic.ends_with(STREAM)
                    && seen.lock().await.insert(key)
                {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Ok(Self { link, received, keys, foreign_refused })
    }

    /// How many different readings came.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Any one key that came, to ask about.
    pub(super) async fn some_key(&self) -> Option<String> {
        self.keys.lock().await.iter().next().cloned()
    }

    /// Ends it.
    pub(super) async fn stop(self) {
        self.link.close().await;
    }
}
