//! Mutations of what is right, for decoders: deterministic from a seed, which a failure tells.

use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;

use crate::Seed;

/// The variable that says how many seconds one target is fuzzed.
pub const VARIABLE: &str = "FOREBAY_FUZZ_SECONDS";
/// How long without it: a look with every test run.
const A_LOOK: Duration = Duration::from_millis(1_500);

fn budget() -> Duration {
    match std::env::var(VARIABLE) {
        Ok(text) => text.parse().map(Duration::from_secs).unwrap_or_else(|_| panic!("{VARIABLE}={text} is not a whole number")),
        Err(_) => A_LOOK,
    }
}

fn below(rng: &mut StdRng, end: usize) -> usize {
    (rng.next_u64() % end.max(1) as u64) as usize
}

/// Heads of CBOR items and ends of numbers, where decoders err.
const EDGES: [u8; 16] = [0x00, 0x01, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1f, 0x3b, 0x5b, 0x5f, 0x7b, 0x7f, 0x9b, 0x9f, 0xff];

fn mutate(input: &mut Vec<u8>, seeds: &[Vec<u8>], rng: &mut StdRng) {
    for _ in 0..=below(rng, 4) {
        let at = below(rng, input.len() + 1);
        match below(rng, 8) {
            0 => input.truncate(at),
            1 if at < input.len() => input[at] ^= 1 << below(rng, 8),
            2 if at < input.len() => input[at] = EDGES[below(rng, EDGES.len())],
            3 => input.insert(at, EDGES[below(rng, EDGES.len())]),
            4 if at < input.len() => drop(input.remove(at)),
            5 => input.splice(at..at, rng.next_u64().to_be_bytes()).for_each(drop),
            6 => {
                let end = (at + below(rng, 32)).min(input.len());
                let copy = input[at..end].to_vec();
                input.splice(at..at, copy).for_each(drop);
            }
            _ => {
                let other = &seeds[below(rng, seeds.len())];
                let from = below(rng, other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }
}

/// Gives the seeds and then mutations of them to `judge` until the time is over.
///
/// # Panics
/// When `judge` does; the number that leads to the same input again is printed then.
pub fn fuzz(seeds: &[Vec<u8>], mut judge: impl FnMut(&[u8])) {
    let seed = Seed::new();
    let rng = &mut seed.rng();
    seeds.iter().for_each(|input| judge(input));
    let until = Instant::now() + budget();
    while Instant::now() < until {
        for _ in 0..64 {
            let mut input = seeds[below(rng, seeds.len())].clone();
            mutate(&mut input, seeds, rng);
            judge(&input);
        }
    }
}
