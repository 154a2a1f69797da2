//! The MQTT face: listeners, sessions, authentication, grants and durable acknowledgement over rumqttd's router.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use broker::{Broker, Message, NoIntake, Parts, Policy, Settings};
//!
//! let settings = Settings { listen: vec!["127.0.0.1:0".parse()?], ..Settings::default() };
//! let parts = Parts {
//!     policy: Policy::anonymous(),
//!     intake: Arc::new(NoIntake),              // yours: claims topics, takes offers, says when they are durable
//!     feeds: None,                             // yours: subscriptions that begin in the past
//!     clock: Arc::new(chassis::SystemClock),
//!     registry: chassis::Registry::new(),
//! };
//! let broker = Broker::start(settings, parts).await?;
//! println!("listening at {}", broker.addresses()[0]);
//!
//! let hub = broker.hub();                      // clone it to wherever something is published
//! if hub.wanted("data/cityA/meter-1/power") {
//!     let message = Message::new("data/cityA/meter-1/power", "230.1").user_property("key", "cityA/meter-1/power@1.1");
//!     hub.publish(message).await;              // or publish_all(vec![…]): one hand-over for many
//! }
//!
//! tokio::select! {
//!     failure = broker.failed() => return Err(failure.into()),
//!     _ = tokio::signal::ctrl_c() => {}
//! }
//! broker.stop(std::time::Duration::from_secs(5)).await;
//! # Ok(())
//! # }
//! ```
//!
//! A publish goes one of two ways. A topic that the [`Intake`] claims is offered to it, and only to it: the acknowledgement is
//! written when the intake's commit has resolved. Every other topic goes to the subscribers, if there are any, through
//! rumqttd's router, and is acknowledged when it was handed over.
//!
//! Set the log level of target `rumqttd` to `off`: its spans and messages cost time for every packet.

mod access;
mod broker;
mod codec;
mod core;
mod feeds;
mod handshake;
mod hub;
mod index;
mod intake;
mod listener;
mod message;
mod metrics;
mod policy;
mod router;
mod session;
mod settings;
pub mod users;
mod vouched;
mod watchdog;

pub use access::{Access, Watch};
pub use broker::{Broker, Failure, Parts, StartError};
pub use feeds::{Feed, FeedEnd, FeedRefusal, Feeds};
pub use hub::Hub;
pub use intake::{Client, Commit, Intake, IntakeSession, NoIntake, Offer, Refusal};
pub use message::Message;
pub use metrics::Metrics;
pub use policy::{Denied, Policy, PolicyFault, PolicyFiles, read_grants, read_sensors};
pub use settings::Settings;
pub use vouched::{Authority, Vouched};
