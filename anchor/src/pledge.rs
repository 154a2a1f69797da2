//! A pledge: a batch's root that its party signed, for the anchor service to write. And what the service says of it.
//!
//! The signature is EIP-712, over the contract and the chain, the account that shall write it, the stream, and all that the contract
//! is told about the batch, the head before it included. Whoever writes something else has no signature for it.

use alloy::primitives::{Address, B256, Signature};
use alloy::sol_types::{SolStruct, eip712_domain};
use wire::Digest;
use wire::cbor::{Fault, Strict, put_array, put_bytes, put_text, put_uint};

use crate::keys::Key;
use crate::party::Party;
use crate::registry::Entry;

mod typed {
    alloy::sol! {
        struct Root {
            address submitter;
            bytes32 stream;
            bytes32 prev;
            bytes32 root;
            uint64 firstSeq;
            uint64 count;
        }
    }
}

/// The first version of both messages.
const VERSION: u64 = 1;
/// Bytes of a signature: r, s, and 27 or 28.
pub const SIGNATURE_BYTES: usize = 65;
/// Bytes of a refusal's reason.
const REASON_BYTES_MAX: usize = 256;

/// Where a batch shall be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Venue {
    /// The chain.
    pub chain_id: u64,
    /// The registry on it.
    pub contract: Address,
    /// The account that writes: the anchor service's.
    pub submitter: Address,
}

impl Venue {
    fn digest(&self, stream: &Digest, entry: &Entry) -> B256 {
        let domain = eip712_domain! {
            name: "Forebay",
            version: "1",
            chain_id: self.chain_id,
            verifying_contract: self.contract,
        };
        let root = typed::Root {
            submitter: self.submitter,
            stream: B256::from(*stream),
            prev: B256::from(entry.prev),
            root: B256::from(entry.root),
            firstSeq: entry.first_seq,
            count: entry.count,
        };
        root.eip712_signing_hash(&domain)
    }
}

/// A signed root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pledge {
    /// Where it shall be written.
    pub venue: Venue,
    /// The batch.
    pub entry: Entry,
    /// The party's signature.
    pub signature: [u8; SIGNATURE_BYTES],
}

impl Pledge {
    /// Signs a batch of `party`; `None` if the key does not sign.
    #[must_use]
    pub fn sign(venue: Venue, party: &Party, entry: Entry, key: &Key) -> Option<Self> {
        let signature = key.sign(venue.digest(&party.stream(), &entry))?;
        Some(Self { venue, entry, signature: signature.as_bytes() })
    }

    /// The account that signed it as a batch of `party`; `None` if nobody can have.
    #[must_use]
    pub fn signer(&self, party: &Party) -> Option<Address> {
        let signature = Signature::from_raw_array(&self.signature).ok()?;
        // The other half of the curve signs the same, and the parity has several spellings: one batch has one signature.
        if signature.normalize_s().is_some() || signature.as_bytes() != self.signature {
            return None;
        }
        signature.recover_address_from_prehash(&self.venue.digest(&party.stream(), &self.entry)).ok()
    }

    /// The message to the anchor service: `[1, chain, contract, submitter, prev, root, first_seq, count, signature]`. The party
    /// is in the topic.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_array(&mut out, 9);
        put_uint(&mut out, VERSION);
        put_uint(&mut out, self.venue.chain_id);
        put_bytes(&mut out, self.venue.contract.as_slice());
        put_bytes(&mut out, self.venue.submitter.as_slice());
        put_bytes(&mut out, &self.entry.prev);
        put_bytes(&mut out, &self.entry.root);
        put_uint(&mut out, self.entry.first_seq);
        put_uint(&mut out, self.entry.count);
        put_bytes(&mut out, &self.signature);
        out
    }

    /// Reads such a message.
    ///
    /// # Errors
    /// [`Fault`] for anything but a canonical one.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let mut r = Strict::new(bytes);
        r.array_of(9, "pledge")?;
        version(&mut r)?;
        let venue = Venue {
            chain_id: r.uint()?,
            contract: Address::from(r.array_of_bytes::<20>("contract")?),
            submitter: Address::from(r.array_of_bytes::<20>("submitter")?),
        };
        let entry =
            Entry { prev: r.array_of_bytes("prev")?, root: r.array_of_bytes("root")?, first_seq: r.uint()?, count: r.uint()? };
        let signature = r.array_of_bytes("signature")?;
        r.end()?;
        if entry.first_seq == 0 || entry.count == 0 || entry.first_seq.checked_add(entry.count).is_none_or(|end| end > 1 << 62) {
            return Err(Fault::Rule { field: "first_seq", rule: "and count are not a stretch of leaves from 1 on" });
        }
        Ok(Self { venue, entry, signature })
    }
}

fn version(r: &mut Strict<'_>) -> Result<(), Fault> {
    match r.uint()? {
        VERSION => Ok(()),
        _ => Err(Fault::Rule { field: "version", rule: "is not 1" }),
    }
}

/// What the service says of a root. A hint: a party believes the chain alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It waits for its transaction.
    Taken,
    /// It is not written, for this reason.
    Refused(String),
    /// This transaction wrote it.
    Written(Digest),
}

/// A receipt of the anchor service: `[1, root, 0]` taken, `[1, root, 1, reason]` refused, `[1, root, 2, transaction]` written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The root.
    pub root: Digest,
    /// What of it.
    pub said: Said,
}

impl Receipt {
    /// The message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let items = if self.said == Said::Taken { 3 } else { 4 };
        put_array(&mut out, items);
        put_uint(&mut out, VERSION);
        put_bytes(&mut out, &self.root);
        match &self.said {
            Said::Taken => put_uint(&mut out, 0),
            Said::Refused(reason) => {
                put_uint(&mut out, 1);
                put_text(&mut out, &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)]);
            }
            Said::Written(tx) => {
                put_uint(&mut out, 2);
                put_bytes(&mut out, tx);
            }
        }
        out
    }

    /// Reads such a message.
    ///
    /// # Errors
    /// [`Fault`] for anything but a canonical one.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let mut r = Strict::new(bytes);
        let items = r.array()?;
        version(&mut r)?;
        let root = r.array_of_bytes("root")?;
        let said = match (items, r.uint()?) {
            (3, 0) => Said::Taken,
            (4, 1) => {
                let reason = r.text()?;
                if reason.len() > REASON_BYTES_MAX {
                    return Err(Fault::Rule { field: "reason", rule: "has more than 256 bytes" });
                }
                Said::Refused(reason.to_owned())
            }
            (4, 2) => Said::Written(r.array_of_bytes("transaction")?),
            _ => return Err(Fault::Rule { field: "code", rule: "is not 0, 1 or 2 with what belongs to it" }),
        };
        r.end()?;
        Ok(Self { root, said })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pledge() -> (Pledge, Party, Key) {
        let key = Key::of_bytes(&[7; 32]).unwrap();
        let party = Party::terminal("cityA/meter-0017");
        let venue = Venue { chain_id: 31_337, contract: Address::repeat_byte(1), submitter: Address::repeat_byte(2) };
        let entry = Entry { prev: [3; 32], root: [4; 32], first_seq: 5, count: 6 };
        (Pledge::sign(venue, &party, entry, &key).unwrap(), party, key)
    }

    #[test]
    fn a_signature_is_over_every_field_and_the_party() {
        let (pledge, party, key) = pledge();
        assert_eq!(pledge.signer(&party), Some(key.address()));
        let Pledge { venue, entry, .. } = pledge;
        let others = [
            Pledge { venue: Venue { chain_id: 1, ..venue }, ..pledge },
            Pledge { venue: Venue { contract: Address::ZERO, ..venue }, ..pledge },
            Pledge { venue: Venue { submitter: Address::ZERO, ..venue }, ..pledge },
            Pledge { entry: Entry { prev: [0; 32], ..entry }, ..pledge },
            Pledge { entry: Entry { root: [0; 32], ..entry }, ..pledge },
            Pledge { entry: Entry { first_seq: 1, ..entry }, ..pledge },
            Pledge { entry: Entry { count: 1, ..entry }, ..pledge },
        ];
        assert!(others.iter().all(|other| other.signer(&party) != Some(key.address())));
        assert_ne!(pledge.signer(&Party::server("cityA/meter-0017")), Some(key.address()));
        assert_ne!(pledge.signer(&Party::terminal("cityA/meter-0018")), Some(key.address()));
        for place in 0..SIGNATURE_BYTES {
            let mut signature = pledge.signature;
            signature[place] ^= 1;
            assert_ne!(Pledge { signature, ..pledge }.signer(&party), Some(key.address()), "byte {place}");
        }
    }

    #[test]
    fn messages_are_read_as_they_were_written_and_nothing_else_is() {
        let (pledge, ..) = pledge();
        let bytes = pledge.encode();
        assert_eq!(Pledge::parse(&bytes), Ok(pledge));
        for end in 0..bytes.len() {
            assert!(Pledge::parse(&bytes[..end]).is_err());
        }
        assert!(Pledge::parse(&[&bytes[..], &[0]].concat()).is_err());
        for said in [Said::Taken, Said::Refused("é".repeat(200)), Said::Written([9; 32])] {
            let receipt = Receipt { root: [1; 32], said };
            let bytes = receipt.encode();
            let read = Receipt::parse(&bytes).unwrap();
            assert_eq!(read.encode(), bytes);
            assert!(read == receipt || matches!(read.said, Said::Refused(reason) if reason.len() == 256));
            assert!(Receipt::parse(&bytes[..bytes.len() - 1]).is_err());
        }
    }
}
