//! The anchor service in the cloud's process: signed roots come in on `anchor/{area}/{sensor}/roots`, receipts go out beside them. It has a key and a
//! ledger of its own; see [`anchor::sponsor`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anchor::Anchoring;
use anchor::sponsor::{Gather, Notice, OfferError, Sponsor, SponsorConfig};
use broker::{Hub, Message, Refusal};
use chassis::{Clock, Policy, Registry, Stop, Units};
use serde::Deserialize;
use tokio::sync::mpsc;
use wire::topics::{Anchor, SensorName};
use wire::{SensorId, Topic};

use crate::config::{Config, ConfigError};

/// The service's ledger within the data folder.
const LEDGER_FILE: &str = "sponsor.sqlite";

/// The anchor service; it writes to the chain and contract of the section that it stands in.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sponsoring {
    /// The service's own private key; its account pays.
    pub key_file: PathBuf,
    /// File whose first line is the key's passphrase; it goes before the one of the section.
    #[serde(default)]
    pub passphrase_file: Option<PathBuf>,
    /// When the roots that wait are written.
    #[serde(default)]
    pub gather: Gather,
}

/// The service, ready to run.
pub(crate) struct Service {
    anchoring: Anchoring,
    notices: mpsc::Receiver<Notice>,
}

/// What can be said of the section without a chain.
pub(crate) fn check(section: &crate::config::Anchoring) -> Result<(), ConfigError> {
    match &section.sponsor {
        Some(sponsoring) if !(1..=anchor::sponsor::CARGO_MAX).contains(&sponsoring.gather.parties_max) => {
            let fix = format!("must be 1 to {}", anchor::sponsor::CARGO_MAX);
            Err(ConfigError::Range { field: "anchor.sponsor.gather.parties_max", fix })
        }
        Some(sponsoring) if sponsoring.key_file == section.key_file => {
            let fix =
                "must be another file than anchor.key_file: two workers with one key would take each other's nonces".to_owned();
            Err(ConfigError::Range { field: "anchor.sponsor.key_file", fix })
        }
        _ => Ok(()),
    }
}

/// Opens the service if the configuration has it. It needs no chain for that.
pub(crate) fn open(
    config: &Config,
    clock: Arc<dyn Clock>,
    registry: &Registry,
) -> Result<Option<(Sponsor, Service)>, crate::StartError> {
    let Some((section, sponsoring)) = config.anchor.as_ref().and_then(|section| Some((section, section.sponsor.as_ref()?)))
    else {
        return Ok(None);
    };
    let told = settings(config, section, sponsoring, &config.data)?;
    let (sponsor, anchoring, notices) = Sponsor::start(told, clock, registry)?;
    Ok(Some((sponsor, Service { anchoring, notices })))
}

fn settings(
    config: &Config,
    section: &crate::config::Anchoring,
    sponsoring: &Sponsoring,
    data: &Path,
) -> Result<SponsorConfig, ConfigError> {
    let worker = section.config(&config.name, data)?;
    Ok(SponsorConfig {
        rpc: worker.rpc,
        contract: worker.contract,
        key_file: sponsoring.key_file.clone(),
        unlock: section.unlock(&sponsoring.passphrase_file),
        ledger: data.join(LEDGER_FILE),
        name: config.name.clone(),
        gather: sponsoring.gather,
        confirmation: worker.confirmation,
        poll: worker.poll,
        timeout: worker.timeout,
        fee_cap_gwei: worker.fee_cap_gwei,
    })
}

/// Lets a signed root in. The acknowledgement says that it will be looked at; what becomes of it the party sees on the chain.
pub(crate) fn take(sponsor: Option<&Sponsor>, party: SensorName<'_>, payload: &[u8]) -> Result<(), Refusal> {
    let sponsor = sponsor.ok_or(Refusal::TopicNameInvalid)?;
    sponsor.offer(party.as_str(), payload).map_err(|fault| match fault {
        OfferError::Malformed(_) => Refusal::PayloadFormatInvalid,
        OfferError::Full => Refusal::QuotaExceeded,
    })
}

impl Service {
    /// Adds what the service lives by. It may fail: nothing else waits for it.
    pub(crate) fn units(self, units: &mut Units, again: Policy, hub: Hub) {
        let Self { anchoring, notices } = self;
        units.add("sponsor", again, move |stop| {
            let anchoring = anchoring.clone();
            async move { anchoring.run(stop).await }
        });
        let notices = Arc::new(tokio::sync::Mutex::new(notices));
        units.add("sponsor receipts", again, move |stop| tell(notices.clone(), hub.clone(), stop));
    }
}

async fn tell(
    notices: Arc<tokio::sync::Mutex<mpsc::Receiver<Notice>>>,
    hub: Hub,
    stop: Stop,
) -> Result<(), std::convert::Infallible> {
    let mut notices = notices.lock().await;
    loop {
        let notice = tokio::select! {
            () = stop.stopped() => return Ok(()),
            notice = notices.recv() => notice,
        };
        let Some(Notice { name, receipt }) = notice else {
            stop.stopped().await;
            return Ok(());
        };
        if let Ok(party) = name.parse::<SensorId>() {
            let topic = Topic::Anchor { party: (&party).into(), kind: Anchor::Receipts }.to_string();
            hub.publish(Message::new(topic, receipt.encode()).qos(1)).await;
        }
    }
}
