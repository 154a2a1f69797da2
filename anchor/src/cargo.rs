//! Roots of other parties, as the ledger of the anchor service keeps them; and a party's own pledges.

use alloy::primitives::{Address, B256, keccak256};
use alloy::sol_types::SolValue;
use rusqlite::{OptionalExtension, Row, params};
use wire::{At, Digest, merkle};

use crate::ledger::{Ledger, LedgerError};
use crate::machine::Progress;
use crate::party::Party;
use crate::pledge::{Pledge, SIGNATURE_BYTES, Venue};
use crate::registry::Entry;
use crate::rows::{self, Batch};
use crate::view::LedgerView;

/// A root that the anchor service carries for a party.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freight {
    /// The party's name, `area/sensor`.
    pub name: String,
    /// What is written.
    pub entry: Entry,
    /// The party's signature.
    pub signature: [u8; SIGNATURE_BYTES],
}

impl Freight {
    /// The party: a terminal.
    #[must_use]
    pub fn party(&self) -> Party {
        Party::terminal(self.name.as_str())
    }

    /// The leaf of the service's own batch that this makes: stream and head.
    fn leaf(&self) -> Digest {
        *keccak256((B256::from(self.party().stream()), B256::from(self.entry.head())).abi_encode())
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let entry = Entry {
            prev: row.get(1)?,
            root: row.get(2)?,
            first_seq: row.get::<_, i64>(3)? as u64,
            count: row.get::<_, i64>(4)? as u64,
        };
        Ok(Self { name: row.get(0)?, entry, signature: row.get(5)? })
    }
}

const FREIGHT: &str = "SELECT name, prev, root, first_seq, count, signature FROM ";

/// What became of an offered root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shelved {
    /// It waits for a transaction.
    Waiting,
    /// It is in a batch already, which this transaction wrote.
    Carried(Option<Digest>),
    /// The party has another account.
    OtherAccount(Address),
}

fn freights(tx: &rusqlite::Connection, wanted: &str, values: impl rusqlite::Params) -> Result<Vec<Freight>, LedgerError> {
    let mut statement = tx.prepare_cached(&[FREIGHT, wanted].concat())?;
    let found = statement.query_map(values, Freight::read)?.collect::<Result<_, _>>()?;
    Ok(found)
}

impl Ledger {
    /// Keeps a signed root of the party's own, the heads that it builds on and makes, and the progress, in one commit.
    pub(crate) fn pledge(&self, batch: u64, pledge: &Pledge, account: Address, progress: &Progress) -> Result<(), LedgerError> {
        self.write(|tx| {
            tx.execute(
                "INSERT INTO pledges (batch, account, signature) VALUES (?1, ?2, ?3)
                 ON CONFLICT (batch) DO UPDATE SET account = excluded.account, signature = excluded.signature",
                params![batch as i64, account.into_array(), pledge.signature],
            )?;
            let sql = "UPDATE batches SET prev = ?2, head = ?3 WHERE number = ?1";
            tx.execute(sql, params![batch as i64, pledge.entry.prev, pledge.entry.head()])?;
            rows::save(tx, batch, progress)
        })
    }

    /// Takes an offered root in: it replaces one of the same party that waits. The first account of a party is its account.
    pub(crate) fn shelve(&self, freight: &Freight, account: Address, now: At) -> Result<Shelved, LedgerError> {
        self.write(|tx| {
            let sql = "INSERT INTO sponsored (name, account) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
            tx.execute(sql, params![freight.name, account.into_array()])?;
            let sql = "SELECT account FROM sponsored WHERE name = ?1";
            let known = Address::from(tx.query_row(sql, params![freight.name], |row| row.get::<_, [u8; 20]>(0))?);
            if known != account {
                return Ok(Shelved::OtherAccount(known));
            }
            let sql = "SELECT b.tx FROM cargo c JOIN batches b ON b.number = c.batch
                       WHERE c.name = ?1 AND c.prev = ?2 AND c.root = ?3 AND c.first_seq = ?4";
            let Entry { prev, root, first_seq, count } = freight.entry;
            let carried = tx.query_row(sql, params![freight.name, prev, root, first_seq as i64], |row| row.get(0)).optional()?;
            if let Some(tx) = carried {
                return Ok(Shelved::Carried(tx));
            }
            tx.execute(
                "INSERT INTO waiting (name, prev, root, first_seq, count, signature, offered_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT (name) DO UPDATE SET prev = excluded.prev, root = excluded.root, first_seq = excluded.first_seq,
                     count = excluded.count, signature = excluded.signature",
                params![freight.name, prev, root, first_seq as i64, count as i64, freight.signature, now],
            )?;
            Ok(Shelved::Waiting)
        })
    }

    /// Takes roots out of those that wait: they can't be written.
    pub(crate) fn discard(&self, freights: &[Freight]) -> Result<(), LedgerError> {
        self.write(|tx| {
            for freight in freights {
                tx.execute("DELETE FROM waiting WHERE name = ?1 AND root = ?2", params![freight.name, freight.entry.root])?;
            }
            Ok(())
        })
    }

    /// Closes a batch that carries these roots; they wait no longer.
    pub(crate) fn load(&self, freights: &[Freight], now: At) -> Result<Batch, LedgerError> {
        let leaves: Vec<Digest> = freights.iter().map(Freight::leaf).collect();
        self.write(|tx| {
            let number = rows::insert(tx, &merkle::root(&leaves), freights.len() as u64, 0, now)?;
            for (position, freight) in freights.iter().enumerate() {
                let Entry { prev, root, first_seq, count } = freight.entry;
                tx.execute(
                    "INSERT INTO cargo (batch, position, name, prev, root, first_seq, count, signature)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                    params![
                        number as i64,
                        position as i64,
                        freight.name,
                        prev,
                        root,
                        first_seq as i64,
                        count as i64,
                        freight.signature
                    ],
                )?;
                tx.execute("DELETE FROM waiting WHERE name = ?1 AND root = ?2", params![freight.name, root])?;
            }
            rows::need(tx, number)
        })
    }

    /// Notes that the parties of a batch were told of its transaction.
    pub(crate) fn told(&self, batch: u64) -> Result<(), LedgerError> {
        self.write(|tx| {
            tx.execute("UPDATE cargo SET told = 1 WHERE batch = ?1", params![batch as i64])?;
            Ok(())
        })
    }
}

impl LedgerView {
    /// The pledge of a batch, if it was signed for the anchor service.
    pub(crate) fn pledge_of(&self, batch: u64) -> Result<Option<Pledge>, LedgerError> {
        Ok(self.signed_pledge(batch)?.map(|(pledge, _)| pledge))
    }

    /// The pledge of a batch, and the account that signed it.
    pub(crate) fn signed_pledge(&self, batch: u64) -> Result<Option<(Pledge, Address)>, LedgerError> {
        self.read(|tx| {
            let sql = "SELECT account, signature FROM pledges WHERE batch = ?1";
            let read = |row: &Row<'_>| Ok((row.get::<_, [u8; 20]>(0)?, row.get(1)?));
            let Some((account, signature)) = tx.query_row(sql, params![batch as i64], read).optional()? else { return Ok(None) };
            let (Some(target), Some(entry)) = (rows::target(tx)?, rows::need(tx, batch)?.entry()) else { return Ok(None) };
            let venue = Venue { chain_id: target.identity.chain_id, contract: target.contract, submitter: target.submitter };
            Ok(Some((Pledge { venue, entry, signature }, Address::from(account))))
        })
    }

    /// What a batch of the anchor service carries, in its order; nothing for anybody else's.
    ///
    /// # Errors
    /// [`LedgerError`], as all queries.
    pub fn cargo(&self, batch: u64) -> Result<Vec<Freight>, LedgerError> {
        self.read(|tx| freights(tx, "cargo WHERE batch = ?1 ORDER BY position", params![batch as i64]))
    }

    /// The roots that wait, at most `limit`, oldest first, and since when the oldest does.
    pub(crate) fn waiting(&self, limit: usize) -> Result<(Vec<Freight>, Option<At>), LedgerError> {
        self.read(|tx| {
            let found = freights(tx, "waiting ORDER BY offered_at, name LIMIT ?1", params![limit as i64])?;
            Ok((found, tx.query_row("SELECT min(offered_at) FROM waiting", [], |row| row.get(0))?))
        })
    }

    /// The last root that was carried for a party.
    pub(crate) fn last_carried(&self, name: &str) -> Result<Option<Freight>, LedgerError> {
        self.read(|tx| {
            let found = freights(tx, "cargo WHERE name = ?1 ORDER BY batch DESC LIMIT 1", params![name])?;
            Ok(found.into_iter().next())
        })
    }

    /// Batches on chain whose parties were not told, with their transactions.
    pub(crate) fn untold(&self) -> Result<Vec<(u64, Digest)>, LedgerError> {
        self.read(|tx| {
            let mut statement = tx.prepare_cached(
                "SELECT DISTINCT b.number, b.tx FROM cargo c JOIN batches b ON b.number = c.batch
                 WHERE c.told = 0 AND b.tx IS NOT NULL ORDER BY b.number",
            )?;
            let found =
                statement.query_map([], |row| Ok((row.get::<_, i64>(0)? as u64, row.get(1)?)))?.collect::<Result<_, _>>()?;
            Ok(found)
        })
    }
}
