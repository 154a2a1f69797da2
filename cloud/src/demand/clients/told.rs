//! Of which records notifications were made. A record is durable before anybody is told of it; what was told is kept with what is queued,
//! so that nothing is left out over a restart.

use store::rusqlite::{OptionalExtension, params};
use wire::{Epoch, Intervals, Series};

use super::{ClientsFault, Desk};

fn epoch(text: &str) -> Result<Epoch, ClientsFault> {
    u64::from_str_radix(text, 16).map(Epoch).map_err(|_| ClientsFault::Damaged("what was told"))
}

impl Desk<'_> {
    /// The last record of a program's events that was told; of no use for another epoch.
    pub(crate) fn events_told(&self, program: &str) -> Result<Option<(Epoch, u64)>, ClientsFault> {
        let found: Option<(String, i64)> = self
            .0
            .prepare_cached("SELECT epoch, seq FROM told_events WHERE program = ?1")?
            .query_row([program], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        found.map(|(text, seq)| Ok((epoch(&text)?, seq.cast_unsigned()))).transpose()
    }

    /// Events are told up to this record.
    pub(crate) fn tell_events(&self, program: &str, epoch: Epoch, seq: u64) -> Result<(), ClientsFault> {
        let upsert = "INSERT INTO told_events (program, epoch, seq) VALUES (?1, ?2, ?3)
                      ON CONFLICT (program) DO UPDATE SET epoch = ?2, seq = ?3";
        self.0.prepare_cached(upsert)?.execute(params![program, epoch.to_string(), seq.cast_signed()])?;
        Ok(())
    }

    /// Whether notifications are made of a program's reports.
    pub(crate) fn reports_are_wanted(&self, program: &str) -> Result<bool, ClientsFault> {
        let found = self.0.prepare_cached("SELECT 1 FROM reports_wanted WHERE program = ?1")?.exists([program])?;
        Ok(found)
    }

    /// From now on they are; what is held now is not told.
    pub(crate) fn want_reports(&self, program: &str, held: &[(Series, Epoch, Intervals)]) -> Result<(), ClientsFault> {
        self.0.execute("INSERT INTO reports_wanted (program) VALUES (?1) ON CONFLICT DO NOTHING", [program])?;
        held.iter().try_for_each(|(series, epoch, seqs)| self.tell_reports(program, series, *epoch, seqs))
    }

    /// Nobody wants to be told of them any more.
    pub(crate) fn forget_reports(&self, program: &str) -> Result<(), ClientsFault> {
        self.0.execute("DELETE FROM reports_wanted WHERE program = ?1", [program])?;
        self.0.execute("DELETE FROM told_reports WHERE program = ?1", [program])?;
        Ok(())
    }

    /// Which records of a series were told.
    pub(crate) fn reports_told(&self, series: &Series, epoch: Epoch) -> Result<Intervals, ClientsFault> {
        let select = "SELECT seqs FROM told_reports WHERE series = ?1 AND epoch = ?2";
        let found: Option<String> =
            self.0.prepare_cached(select)?.query_row(params![series.as_str(), epoch.to_string()], |row| row.get(0)).optional()?;
        let mut told = Intervals::new();
        let pairs: Vec<(u64, u64)> = match found {
            None => return Ok(told),
            Some(text) => serde_json::from_str(&text).map_err(|_| ClientsFault::Damaged("what was told"))?,
        };
        pairs.into_iter().filter(|(low, high)| low <= high).for_each(|(low, high)| told.insert(low, high));
        Ok(told)
    }

    /// These records of a series are told.
    pub(crate) fn tell_reports(
        &self,
        program: &str,
        series: &Series,
        epoch: Epoch,
        seqs: &Intervals,
    ) -> Result<(), ClientsFault> {
        let text = serde_json::to_string(seqs.as_slice()).map_err(|_| ClientsFault::Damaged("what was told"))?;
        let upsert = "INSERT INTO told_reports (program, series, epoch, seqs) VALUES (?1, ?2, ?3, ?4)
                      ON CONFLICT (series, epoch) DO UPDATE SET seqs = ?4";
        self.0.prepare_cached(upsert)?.execute(params![program, series.as_str(), epoch.to_string(), text])?;
        Ok(())
    }
}
