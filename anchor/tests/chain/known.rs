//! A block hash that is known from elsewhere: then a node that lies is caught, whatever it lies about.

use anchor::machine::State;
use anchor::verify::{Believed, Depth, Options, Reason, Shown};
use anchor::{Evidence, Proof, VerifyError, prove};
use serde_json::{Value, json};
use wire::Digest;

use crate::proxy::Proxy;
use crate::town::{Chunks, Running, Town, leaves, records, secret};

fn proof(worker: &Running, chunk: i64) -> Proof {
    let record = &records(chunk)[2];
    let salt = secret().salt(&record.view());
    prove(worker.anchoring.ledger(), &Evidence { chunk, leaves: &leaves(chunk), index: 2, record, salt }).unwrap()
}

fn knowing(block: Digest) -> Options {
    Options { block: Some(block), ..Options::default() }
}

async fn hash_of(town: &Town, number: &str) -> Digest {
    let block = town.ask("eth_getBlockByNumber", json!([number, false])).await;
    wire::digest::from_hex(block["hash"].as_str().unwrap().trim_start_matches("0x")).unwrap()
}

/// A town whose terminal has written three batches, and its neighbours some more, so that state and receipts are more than one node.
async fn town() -> (Town, Running) {
    let town = Town::start().await;
    let chunks = Chunks::of(1);
    let worker = Running::start(town.terminal(), chunks.clone());
    for number in 1..=3 {
        worker.reaches(number, State::Mined).await;
        chunks.add(1);
    }
    worker.reaches(4, State::Mined).await;
    for account in 1..8 {
        let config = town.config(anchor::Party::terminal(format!("cityA/meter-{account}")), account);
        let other = Running::start(config, Chunks::of(1));
        other.reaches(1, State::Mined).await;
        other.stop().await;
    }
    town.mine(3).await;
    worker.reaches(4, State::Final).await;
    (town, worker)
}

#[tokio::test]
async fn c4_with_a_known_block_hash_the_node_is_believed_nothing() {
    let (town, worker) = town().await;
    let rpc = town.anvil.rpc();
    let short = proof(&worker, 2);
    let long = short.clone().up_to_head(worker.anchoring.ledger()).unwrap();
    // Without one it is told what was believed: of the node no more than that a block is on the chain.
    let plain = long.verify(&rpc, &Options::default()).await.unwrap();
    assert_eq!((plain.shown, &plain.believed), (Shown::Log, &Believed::Block));
    // The newest block: its state commits to the head, and the head to the batch.
    let newest = hash_of(&town, "latest").await;
    let verified = long.verify(&rpc, &knowing(newest)).await.unwrap();
    assert_eq!((verified.shown, verified.depth, &verified.believed), (Shown::State, Depth::Known, &Believed::Nothing));
    assert_eq!((verified.block_hash, verified.record), (newest, records(2)[2].clone()));
    // The batch's own block: its receipts say so, and when.
    let own = long.verify(&rpc, &knowing(plain.block_hash)).await.unwrap();
    assert_eq!((own.shown, own.block_hash, &own.believed), (Shown::Log, plain.block_hash, &Believed::Nothing));
    // A block between the batch and the last one that the proof carries will do as well.
    let third = worker.batch(3).unwrap().progress.mined.unwrap().block_hash;
    assert_eq!(long.verify(&rpc, &knowing(third)).await.unwrap().shown, Shown::State);
    // One that the proof does not reach, one before the batch, one that nobody has.
    let first = worker.batch(1).unwrap().progress.mined.unwrap().block_hash;
    for (proof, block, words) in [
        (&short, newest, "to which the proof does not lead"),
        (&long, first, "older than the batch"),
        (&long, [7; 32], "does not have block"),
    ] {
        let refusal = proof.verify(&rpc, &knowing(block)).await.unwrap_err();
        assert!(matches!(&refusal, VerifyError::CouldNot(why) if why.contains(words)), "{refusal}");
    }
    // What leads to the head can't be changed, and neither can what leads from the record to the root.
    let text: Value = serde_json::from_str(&long.to_json()).unwrap();
    for (place, value) in [
        ("/batch/prev", json!(format!("0x{}", "11".repeat(32)))),
        ("/later/0/root", json!(format!("0x{}", "11".repeat(32)))),
        ("/later/0/count", json!(9)),
        ("/record/payload", json!("0x31")),
    ] {
        let mut changed = text.clone();
        *changed.pointer_mut(place).unwrap() = value;
        let changed = Proof::parse(changed.to_string().as_bytes()).unwrap();
        assert!(changed.verify(&rpc, &knowing(newest)).await.is_err(), "{place}");
    }
}

/// Flips one digit of the hex string at `place` of an answer.
fn flip(answer: &mut Value, place: &str, digit: usize) {
    let value = answer.pointer_mut(place).unwrap_or_else(|| panic!("{place}"));
    let mut text = value.as_str().unwrap().to_owned().into_bytes();
    let at = 2 + digit % (text.len() - 2);
    text[at] = if text[at] == b'0' { b'1' } else { b'0' };
    *value = json!(String::from_utf8(text).unwrap());
}

#[tokio::test]
async fn c4_a_node_that_lies_about_a_known_block_is_caught() {
    let (town, worker) = town().await;
    let proxy = Proxy::start(town.anvil.port()).await;
    let long = proof(&worker, 2).up_to_head(worker.anchoring.ledger()).unwrap();
    let own = worker.batch(2).unwrap().progress.mined.unwrap().block_hash;
    let newest = hash_of(&town, "latest").await;
    let refused = async |block: Digest, words: &str| {
        let refusal = long.verify(&proxy.rpc, &knowing(block)).await.unwrap_err();
        let text = refusal.to_string();
        assert!(matches!(&refusal, VerifyError::CouldNot(_)) && text.contains(words), "{words:?} is not in {text}");
    };
    const LIAR: &str = "this node is not to be believed";
    // Any field of the header.
    for field in ["stateRoot", "receiptsRoot", "transactionsRoot", "parentHash", "timestamp", "gasUsed", "miner", "mixHash"] {
        for block in [own, newest] {
            proxy.rewrite(Some(Box::new(move |method, result| {
                if method == "eth_getBlockByHash" {
                    flip(result, &format!("/{field}"), 3);
                }
            })));
            refused(block, LIAR).await;
        }
    }
    // Every node of both proofs, left out, changed and out of order.
    for place in ["/accountProof", "/storageProof/0/proof"] {
        for what in 0..4 {
            proxy.rewrite(Some(Box::new(move |method, result| {
                if method == "eth_getProof" {
                    let nodes = result.pointer_mut(place).unwrap().as_array_mut().unwrap();
                    match what {
                        0 => drop(nodes.pop()),
                        1 => drop(nodes.remove(0)),
                        2 => nodes.push(nodes[0].clone()),
                        _ => nodes.clear(),
                    }
                }
            })));
            refused(newest, LIAR).await;
        }
        for digit in [0, 1, 7, 40, 64] {
            proxy.rewrite(Some(Box::new(move |method, result| {
                if method == "eth_getProof" {
                    let last = result.pointer(place).unwrap().as_array().unwrap().len() - 1;
                    flip(result, &format!("{place}/{last}"), digit);
                }
            })));
            refused(newest, LIAR).await;
        }
    }
    // What it says beside the nodes is not even looked at.
    proxy.rewrite(Some(Box::new(|method, result| {
        if method == "eth_getProof" {
            flip(result, "/storageProof/0/value", 5);
            flip(result, "/storageHash", 5);
        }
    })));
    assert!(long.verify(&proxy.rpc, &knowing(newest)).await.is_ok());
    // Receipts: one that is left out, a log that is another.
    for what in 0..3 {
        proxy.rewrite(Some(Box::new(move |method, result| {
            if method == "eth_getBlockReceipts" {
                match what {
                    0 => result.as_array_mut().unwrap().clear(),
                    1 => flip(result, "/0/logs/0/data", 9),
                    _ => result[0]["status"] = json!("0x0"),
                }
            }
        })));
        refused(own, LIAR).await;
    }
    // Nothing of it harms where nothing was changed.
    proxy.rewrite(None);
    assert!(long.verify(&proxy.rpc, &knowing(own)).await.is_ok());
    // Where nodes have no receipts the state stands for them, and where they can't prove, that is said.
    proxy.forget(&[("eth_getBlockReceipts", true)]);
    let by_state = long.verify(&proxy.rpc, &knowing(own)).await.unwrap();
    assert_eq!((by_state.shown, by_state.believed), (Shown::State, Believed::Nothing));
    let plain = long.verify(&proxy.rpc, &Options::default()).await.unwrap();
    assert!(matches!(&plain.believed, Believed::Node { why } if why.contains("pruned")), "{:?}", plain.believed);
    proxy.forget(&[("eth_getBlockReceipts", true), ("eth_getProof", true)]);
    refused(own, "pruned").await;
    // Without a known hash the same lie is believed, and it is said that it was.
    proxy.forget(&[]);
    proxy.rewrite(Some(Box::new(|method, result| {
        if method == "eth_getBlockReceipts" {
            result.as_array_mut().unwrap().clear();
        }
    })));
    let plain = long.verify(&proxy.rpc, &Options::default()).await.unwrap();
    assert!(matches!(&plain.believed, Believed::Node { why } if why.contains("receipts")), "{:?}", plain.believed);
}

#[tokio::test]
async fn c4_a_batch_that_is_not_in_the_known_block_is_not_verified() {
    let (town, worker) = town().await;
    let long = proof(&worker, 2).up_to_head(worker.anchoring.ledger()).unwrap();
    let other = worker.batch(3).unwrap().progress.mined.unwrap().block_hash;
    // A proof that names another block as its batch's.
    let mut text: Value = serde_json::from_str(&long.to_json()).unwrap();
    text["transaction"]["block_hash"] = json!(format!("0x{}", wire::digest::to_hex(&other)));
    let forged = Proof::parse(text.to_string().as_bytes()).unwrap();
    let refusal = forged.verify(&town.anvil.rpc(), &knowing(other)).await.unwrap_err();
    assert!(matches!(refusal, VerifyError::NotVerified(Reason::NoLog)), "{refusal}");
}
