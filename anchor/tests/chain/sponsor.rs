//! The anchor service: one transaction for many parties, none of whose roots it can make up.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use alloy::primitives::{Address, B256};
use alloy::providers::Provider;
use anchor::machine::State;
use anchor::pledge::{Pledge, Receipt, Said, Venue};
use anchor::sponsor::{Gather, Notice, Sponsor, SponsorConfig};
use anchor::verify::{Options, Reason};
use anchor::{Anchoring, Confirmation, Evidence, Health, Party, Post, PostError, VerifyError, Worker, keys, prove};
use chassis::{ManualClock, Registry, Span, Stopper, SystemClock};
use tokio::sync::mpsc;
use wire::Digest;

use crate::town::{Chunks, Running, Town, leaves, records, secret};

/// The service with its worker, and everything that it said.
struct Service {
    sponsor: Sponsor,
    anchoring: Anchoring,
    said: Arc<Mutex<HashMap<(String, Digest), Said>>>,
    stopper: Stopper,
}

fn settings(town: &Town, parties_max: usize) -> SponsorConfig {
    let base = town.config(Party::server("cloud/sponsor"), 2);
    SponsorConfig {
        rpc: base.rpc,
        contract: base.contract,
        key_file: base.key_file,
        unlock: base.unlock,
        ledger: base.ledger,
        name: "cloud".to_owned(),
        gather: Gather { age: Span::millis(300), parties_max },
        confirmation: Confirmation::Depth(1),
        poll: Span::millis(20),
        timeout: Span::seconds(2),
        fee_cap_gwei: 500,
    }
}

impl Service {
    fn start(config: SponsorConfig) -> Self {
        let (sponsor, anchoring, heard) = Sponsor::start(config, Arc::new(SystemClock), &Registry::new()).unwrap();
        let said = Arc::new(Mutex::new(HashMap::new()));
        tokio::spawn(listen(heard, said.clone()));
        let stopper = Stopper::new();
        tokio::spawn(anchoring.run(stopper.token()));
        Self { sponsor, anchoring, said, stopper }
    }

    fn account(&self) -> Address {
        self.anchoring.address()
    }

    /// The way of one party to the service.
    fn door(&self, name: &str) -> Arc<Door> {
        Arc::new(Door {
            name: name.to_owned(),
            sponsor: self.sponsor.clone(),
            said: self.said.clone(),
            shut: AtomicBool::new(false),
        })
    }
}

async fn listen(mut heard: mpsc::Receiver<Notice>, said: Arc<Mutex<HashMap<(String, Digest), Said>>>) {
    while let Some(Notice { name, receipt }) = heard.recv().await {
        // As it comes over the wire.
        let receipt = Receipt::parse(&receipt.encode()).unwrap();
        said.lock().unwrap().insert((name, receipt.root), receipt.said);
    }
}

struct Door {
    name: String,
    sponsor: Sponsor,
    said: Arc<Mutex<HashMap<(String, Digest), Said>>>,
    shut: AtomicBool,
}

impl Post for Door {
    fn send<'a>(&'a self, pledge: Vec<u8>) -> Pin<Box<dyn Future<Output = Result<(), PostError>> + Send + 'a>> {
        let sent = if self.shut.load(Ordering::SeqCst) {
            Err(PostError::Away("the door is shut".into()))
        } else {
            self.sponsor.offer(&self.name, &pledge).map_err(|fault| PostError::Refused(fault.to_string()))
        };
        Box::pin(async move { sent })
    }

    fn said(&self, root: &Digest) -> Option<Said> {
        self.said.lock().unwrap().get(&(self.name.clone(), *root)).cloned()
    }
}

/// A party without funds: its account is none of anvil's.
fn party(town: &Town, service: &Service, n: usize, chunks: Arc<Chunks>) -> (Running, Arc<Door>) {
    let name = format!("cityA/meter-{n}");
    let key_file = town.place.path().join(format!("meter-{n}.key"));
    let mut config = town.config(Party::terminal(name.as_str()), 0);
    if !key_file.exists() {
        keys::create(&key_file).unwrap();
    }
    config.key_file = key_file;
    config.ledger = town.place.path().join(format!("meter-{n}.sqlite"));
    config.confirmation = Confirmation::Depth(1);
    config.sponsor = Some(service.account());
    let door = service.door(&name);
    let clock = Arc::new(ManualClock::new(1_700_000_000_000_000_000));
    let anchoring = Worker::start_sponsored(config, door.clone(), chunks, clock.clone(), &Registry::new()).unwrap();
    (Running::of(anchoring, clock), door)
}

#[tokio::test]
async fn b2_ten_parties_without_funds_share_transactions_at_most_15000_gas_a_root() {
    let town = Town::start().await;
    let service = Service::start(settings(&town, 10));
    let chunks: Vec<_> = (0..10).map(|_| Chunks::of(1)).collect();
    let parties: Vec<_> = (0..10).map(|n| party(&town, &service, n, chunks[n].clone()).0).collect();
    for number in 1..=3 {
        for party in &parties {
            party.reaches(number, State::Mined).await;
        }
        chunks.iter().for_each(|chunks| chunks.add(1));
    }
    for party in &parties {
        assert_eq!(town.rpc.get_balance(party.anchoring.address()).await.unwrap(), alloy::primitives::U256::ZERO);
        assert_eq!(town.nonce(party.anchoring.address()).await, 0);
    }
    // Whole groups of a steady state: every party once.
    let ledger = service.anchoring.ledger();
    let mut whole = 0;
    for number in 2..=ledger.last_batch().unwrap() {
        let (batch, cargo) = (ledger.batch(number).unwrap().unwrap(), ledger.cargo(number).unwrap());
        let steady = cargo.iter().all(|freight| freight.entry.first_seq > 1);
        if let (10, true, Some(mined)) = (cargo.len(), steady, batch.progress.mined) {
            let each = mined.gas_used / 10;
            eprintln!("{each} gas a party's root");
            assert!(each <= 15_000, "{each}");
            whole += 1;
        }
    }
    assert!(whole > 0, "the parties gathered at least once");
    service.stopper.stop();
}

#[tokio::test]
async fn c4_a_sponsored_proof_carries_the_partys_signature() {
    let town = Town::start().await;
    let service = Service::start(settings(&town, 10));
    let (meter, _) = party(&town, &service, 1, Chunks::of(3));
    meter.reaches(1, State::Mined).await;
    town.mine(3).await;
    meter.reaches(1, State::Final).await;
    let record = &records(2)[4];
    let salt = secret().salt(&record.view());
    let evidence = Evidence { chunk: 2, leaves: &leaves(2), index: 4, record, salt };
    let proof = prove(meter.anchoring.ledger(), &evidence).unwrap();
    let rpc = town.anvil.rpc();
    let verified = proof.verify(&rpc, &Options::default()).await.unwrap();
    assert_eq!((verified.signer, verified.submitter), (meter.anchoring.address(), service.account()));
    assert!(verified.signer != verified.submitter && verified.record == *record);
    let demanded = |signer| Options { signer: Some(signer), ..Options::default() };
    assert!(proof.verify(&rpc, &demanded(meter.anchoring.address())).await.is_ok());
    let other = proof.verify(&rpc, &demanded(service.account())).await.unwrap_err();
    assert!(matches!(other, VerifyError::NotVerified(Reason::Signer { .. })), "{other}");
    let text: serde_json::Value = serde_json::from_str(&proof.to_json()).unwrap();
    // Without the signature it is the service's own word, and says so.
    let mut bare = text.clone();
    bare.as_object_mut().unwrap().remove("pledge");
    let bare = anchor::Proof::parse(bare.to_string().as_bytes()).unwrap();
    assert_eq!(bare.verify(&rpc, &Options::default()).await.unwrap().signer, service.account());
    for place in ["/pledge/account", "/pledge/signature"] {
        let mut forged = text.clone();
        let value = forged.pointer_mut(place).unwrap();
        let digits = value.as_str().unwrap().to_owned();
        let (rest, last) = digits.split_at(digits.len() - 3);
        let flip = if last.starts_with('0') { "1" } else { "0" };
        *value = format!("{rest}{flip}{}", &last[1..]).into();
        let forged = anchor::Proof::parse(forged.to_string().as_bytes()).unwrap();
        assert!(matches!(forged.check(), Err(Reason::Signature)), "{place}");
    }
    service.stopper.stop();
}

#[tokio::test]
async fn b2_the_service_takes_nothing_that_the_party_did_not_sign() {
    let town = Town::start().await;
    let service = Service::start(settings(&town, 10));
    let (meter, door) = party(&town, &service, 1, Chunks::of(1));
    meter.reaches(1, State::Mined).await;
    let thief = keys::create(&town.place.path().join("thief")).unwrap();
    let party = Party::terminal("cityA/meter-1");
    let head = meter.batch(1).unwrap().entry().unwrap().head();
    let entry = anchor::registry::Entry { prev: head, root: [9; 32], first_seq: 2, count: 1 };
    let venue = Venue { chain_id: 31_337, contract: town.contract, submitter: service.account() };
    let honest = Pledge::sign(venue, &party, entry, &keys::load(&town.place.path().join("meter-1.key")).unwrap()).unwrap();
    let mut broken = honest;
    broken.signature[40] ^= 1;
    let stolen = Pledge::sign(venue, &party, entry, &thief).unwrap();
    let elsewhere = Pledge::sign(Venue { contract: Address::ZERO, ..venue }, &party, entry, &thief).unwrap();
    for (pledge, why) in [(broken, "signed by"), (stolen, "is known by"), (elsewhere, "this service writes")] {
        service.said.lock().unwrap().clear();
        door.sponsor.offer(&door.name, &pledge.encode()).unwrap();
        let reason = testkit::wait_until(crate::town::DEADLINE, "a refusal", async || match door.said(&[9; 32]) {
            Some(Said::Refused(reason)) => Ok(reason),
            other => Err(other),
        })
        .await;
        assert!(reason.contains(why) || reason.contains("nobody"), "{reason}");
    }
    // Signed, and on top of another head than the stream's.
    service.said.lock().unwrap().clear();
    let entry = anchor::registry::Entry { prev: [7; 32], ..entry };
    let astray = Pledge::sign(venue, &party, entry, &keys::load(&town.place.path().join("meter-1.key")).unwrap()).unwrap();
    door.sponsor.offer(&door.name, &astray.encode()).unwrap();
    testkit::wait_until(crate::town::DEADLINE, "a refusal", async || match door.said(&[9; 32]) {
        Some(Said::Refused(reason)) if reason.contains("the stream's head is") => Ok(()),
        other => Err(other),
    })
    .await;
    assert!(door.sponsor.offer(&door.name, b"nonsense").is_err());
    assert_eq!(town.streams(service.account()).await[&B256::from(party.stream())], [(1, 1)]);
    service.stopper.stop();
}

/// The party believes the chain alone: neither a service that says what is not so, nor one that writes what was not signed.
#[tokio::test]
async fn b2_a_party_believes_the_chain_and_not_the_service() {
    let town = Town::start().await;
    let service = Service::start(settings(&town, 10));
    let chunks = Chunks::of(1);
    let (meter, door) = party(&town, &service, 1, chunks.clone());
    meter.reaches(1, State::Mined).await;
    // It says that it has written, and has not.
    door.shut.store(true, Ordering::SeqCst);
    chunks.add(1);
    meter.feels("the service is away", |health| matches!(health, Health::Away(_))).await;
    let root = meter.batch(2).unwrap().root;
    let tx = meter.batch(1).unwrap().progress.mined.unwrap().tx;
    service.said.lock().unwrap().insert((door.name.clone(), root), Said::Written(tx));
    testkit::wait_until(crate::town::DEADLINE, "it has looked", async || {
        let batch = meter.batch(2).unwrap();
        if batch.prev.is_some() && batch.progress.mined.is_none() { Ok(()) } else { Err(batch.progress) }
    })
    .await;
    service.said.lock().unwrap().clear();
    door.shut.store(false, Ordering::SeqCst);
    meter.reaches(2, State::Mined).await;
    service.stopper.stop();
    // The service's key writes into the party's stream by itself.
    let mut forger = town.config(Party::terminal("cityA/meter-1"), 2);
    forger.ledger = town.place.path().join("forger.sqlite");
    forger.confirmation = Confirmation::Depth(1);
    let forger = Running::start(forger, Chunks::of(7));
    forger.reaches(1, State::Mined).await;
    chunks.add(1);
    meter.feels("the head is none of ours", |health| *health == Health::ForeignHead).await;
    assert_ne!(meter.state(3), Some(State::Mined));
}

#[tokio::test]
async fn b2_a_service_that_starts_over_neither_loses_nor_doubles_a_root() {
    let town = Town::start().await;
    town.ask("anvil_setAutomine", serde_json::json!([false])).await;
    let config = settings(&town, 10);
    let service = Service::start(config.clone());
    let chunks = Chunks::of(1);
    let (meter, _) = party(&town, &service, 1, chunks.clone());
    testkit::wait_until(crate::town::DEADLINE, "it is sent", async || {
        let batch = service.anchoring.ledger().batch(1).unwrap();
        batch.filter(|batch| batch.progress.state == State::Sent).map(drop).ok_or(())
    })
    .await;
    service.stopper.stop();
    drop(service);
    let service = restarted(config).await;
    town.mine(1).await;
    meter.reaches(1, State::Mined).await;
    town.ask("anvil_setAutomine", serde_json::json!([true])).await;
    // The party's way is to the service that is gone; it starts over too.
    meter.stop().await;
    chunks.add(1);
    let (meter, _) = party(&town, &service, 1, chunks);
    meter.reaches(2, State::Mined).await;
    let streams = town.streams(service.account()).await;
    assert_eq!(streams[&B256::from(Party::terminal("cityA/meter-1").stream())], [(1, 1), (2, 1)]);
    assert_eq!(town.nonce(service.account()).await, 2);
    service.stopper.stop();
}

/// Starts the service once the one before has let go of its ledger.
async fn restarted(config: SponsorConfig) -> Service {
    testkit::wait_until(crate::town::DEADLINE, "the ledger is free", async || {
        let started = Sponsor::start(config.clone(), Arc::new(SystemClock), &Registry::new());
        started.map(drop).map_err(|fault| fault.to_string())
    })
    .await;
    Service::start(config)
}
