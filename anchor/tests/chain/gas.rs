//! What a batch costs.

use alloy::network::TransactionBuilder;
use alloy::primitives::{Address, B256};
use alloy::providers::Provider;
use alloy::rpc::types::TransactionRequest;
use alloy::sol_types::SolCall;
use anchor::machine::State;
use anchor::registry::Entry;
use serde_json::json;

use crate::town::{Chunks, Running, Town};

#[tokio::test]
async fn b2_a_batch_costs_at_most_40000_gas_in_steady_state() {
    let town = Town::start().await;
    let chunks = Chunks::of(1);
    let worker = Running::start(town.terminal(), chunks.clone());
    let mut gas = Vec::new();
    for number in 1..=4 {
        let batch = worker.reaches(number, State::Mined).await;
        gas.push(batch.progress.mined.unwrap().gas_used);
        chunks.add(50);
    }
    eprintln!("gas: first {}, then {:?}", gas[0], &gas[1..]);
    assert!(gas[0] <= 60_000, "{gas:?}");
    assert!(gas[1..].iter().all(|gas| *gas <= 40_000), "{gas:?}");
}

alloy::sol! {
    struct Batch { bytes32 stream; bytes32 prev; bytes32 root; uint64 firstSeq; uint64 count; }
    function anchorMany(Batch[] calldata batches) external;
}

/// The sponsored way: one account writes many parties' batches.
#[tokio::test]
async fn b2_ten_parties_in_one_transaction_cost_at_most_15000_gas_each() {
    let town = Town::start().await;
    let sponsor: Address = town.anvil.addresses()[2].parse().unwrap();
    let chain = anchor::chain::Chain::new(town.anvil.rpc(), crate::town::DEADLINE).unwrap();
    let mut heads = [[0u8; 32]; 10];
    for round in 1..=2u8 {
        let entries: Vec<Entry> = (0..10u8)
            .map(|n| Entry {
                prev: heads[usize::from(n)],
                root: B256::repeat_byte(round * 16 + n).0,
                first_seq: u64::from(round),
                count: 1,
            })
            .collect();
        let batches = entries.iter().zip(0u8..).map(|(entry, n)| Batch {
            stream: B256::repeat_byte(n + 1),
            prev: entry.prev.into(),
            root: entry.root.into(),
            firstSeq: entry.first_seq,
            count: entry.count,
        });
        let call = anchorManyCall { batches: batches.collect() }.abi_encode();
        let request = TransactionRequest::default().with_from(sponsor).with_to(town.contract).with_input(call);
        let tx: B256 = serde_json::from_value(town.ask("eth_sendTransaction", json!([request])).await).unwrap();
        let receipt = testkit::wait_until(crate::town::DEADLINE, "it is mined", async || {
            town.rpc.get_transaction_receipt(tx).await.unwrap().ok_or(tx)
        })
        .await;
        assert!(receipt.status());
        assert_eq!(receipt.logs().len(), 10);
        for (n, entry) in entries.iter().enumerate() {
            heads[n] = entry.head();
            let stream = B256::repeat_byte(n as u8 + 1).0;
            assert_eq!(chain.head_of(town.contract, sponsor, &stream).await.unwrap(), heads[n]);
        }
        if round == 2 {
            eprintln!("gas of ten: {}", receipt.gas_used);
            assert!(receipt.gas_used <= 150_000, "{}", receipt.gas_used);
        }
    }
}
