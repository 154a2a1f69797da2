//! Proofs on nodes that have thrown old receipts and logs away: the head in the contract's state stands for them.

use anchor::machine::State;
use anchor::verify::{Depth, Options, Reason, Shown};
use anchor::{Evidence, Proof, VerifyError, prove};
use serde_json::{Value, json};

use crate::proxy::Proxy;
use crate::town::{Chunks, Running, Town, leaves, records, secret};

fn proof(worker: &Running, chunk: i64) -> Proof {
    let record = &records(chunk)[2];
    let salt = secret().salt(&record.view());
    prove(worker.anchoring.ledger(), &Evidence { chunk, leaves: &leaves(chunk), index: 2, record, salt }).unwrap()
}

/// As nodes do it that keep no receipts, no bodies, or no history at all.
const PRUNED: [&[(&str, bool)]; 3] = [
    &[("eth_getTransactionReceipt", false), ("eth_getLogs", true)],
    &[("eth_getTransactionReceipt", false), ("eth_getLogs", true), ("eth_getBlockByHash", false)],
    &[("eth_getTransactionReceipt", true), ("eth_getLogs", true), ("eth_getBlockByHash", true)],
];

#[tokio::test]
async fn c4_a_proof_verifies_by_the_state_where_receipts_are_gone() {
    let town = Town::start().await;
    let proxy = Proxy::start(town.anvil.port()).await;
    let chunks = Chunks::of(1);
    let worker = Running::start(town.terminal(), chunks.clone());
    for number in 1..=3 {
        worker.reaches(number, State::Mined).await;
        chunks.add(1);
    }
    worker.reaches(4, State::Mined).await;
    town.mine(3).await;
    worker.reaches(4, State::Final).await;
    let options = Options::default();
    let short = proof(&worker, 2);
    let long = short.clone().up_to_head(worker.anchoring.ledger()).unwrap();
    assert_eq!(Proof::parse(long.to_json().as_bytes()).unwrap(), long);
    // A node that has everything needs no more than the short one, and does not mind the long one.
    for proof in [&short, &long] {
        assert_eq!(proof.verify(&proxy.rpc, &options).await.unwrap().shown, Shown::Log);
    }
    for pruned in PRUNED {
        proxy.forget(pruned);
        let by_state = long.verify(&proxy.rpc, &options).await.unwrap();
        assert_eq!((by_state.shown, by_state.depth), (Shown::State, Depth::Finalized));
        assert_eq!(by_state.record, records(2)[2]);
    }
    // The last batch is the head itself.
    assert_eq!(proof(&worker, 4).verify(&proxy.rpc, &options).await.unwrap().shown, Shown::State);
    // Without the later ones there is no answer, and certainly not a negative one.
    let refusal = short.verify(&proxy.rpc, &options).await.unwrap_err();
    assert!(matches!(&refusal, VerifyError::CouldNot(why) if why.contains("--up-to-head")), "{refusal}");
    // What leads to the head can't be changed.
    let text: Value = serde_json::from_str(&long.to_json()).unwrap();
    for (place, value) in [
        ("/batch/prev", json!(format!("0x{}", "11".repeat(32)))),
        ("/batch/first_seq", json!(9)),
        ("/later/0/root", json!(format!("0x{}", "11".repeat(32)))),
        ("/later/1/first_seq", json!(9)),
        ("/later/1/count", json!(9)),
        ("/later", json!([])),
    ] {
        let mut changed = text.clone();
        *changed.pointer_mut(place).unwrap() = value;
        let changed = Proof::parse(changed.to_string().as_bytes()).unwrap();
        assert!(changed.verify(&proxy.rpc, &options).await.is_err(), "{place}");
    }
    // One batch more, and the proof is to be made anew.
    chunks.add(1);
    proxy.forget(&[]);
    worker.reaches(5, State::Mined).await;
    proxy.forget(PRUNED[1]);
    let refusal = long.verify(&proxy.rpc, &options).await.unwrap_err();
    assert!(matches!(refusal, VerifyError::CouldNot(_)), "{refusal}");
    let anew = short.up_to_head(worker.anchoring.ledger()).unwrap();
    let early = anew.verify(&proxy.rpc, &options).await.unwrap_err();
    assert!(matches!(early, VerifyError::NotVerified(Reason::NotFinal { .. })), "the head is not final yet: {early}");
    town.mine(3).await;
    assert_eq!(anew.verify(&proxy.rpc, &options).await.unwrap().shown, Shown::State);
}

#[tokio::test]
async fn c4_a_transaction_that_never_was_is_not_taken_for_a_forgotten_one() {
    let town = Town::start().await;
    let worker = Running::start(town.terminal(), Chunks::of(1));
    worker.reaches(1, State::Mined).await;
    town.mine(3).await;
    worker.reaches(1, State::Final).await;
    let mut text: Value = serde_json::from_str(&proof(&worker, 1).to_json()).unwrap();
    text["transaction"]["hash"] = json!(format!("0x{}", "11".repeat(32)));
    let forged = Proof::parse(text.to_string().as_bytes()).unwrap();
    let refusal = forged.verify(&town.anvil.rpc(), &Options::default()).await.unwrap_err();
    assert!(matches!(refusal, VerifyError::NotVerified(Reason::NoTransaction)), "{refusal}");
}
