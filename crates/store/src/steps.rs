//! Migrations that only grow: a list of named steps, counted by `PRAGMA user_version`.

use rusqlite::Connection;

use crate::open::OpenError;

/// One migration. A step that was ever released is never edited again; a change is a new step behind it.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// What it does, for logs and errors.
    pub name: &'static str,
    /// Its statements; they run in one transaction together with the new version number.
    pub sql: &'static str,
}

/// Brings the schema of `connection` up to the last of `steps`.
pub(crate) fn migrate(connection: &mut Connection, steps: &[Step]) -> Result<(), OpenError> {
    let known = steps.len() as i64;
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found > known || found < 0 {
        return Err(OpenError::Newer { found, known });
    }
    for (index, step) in steps.iter().enumerate().skip(found as usize) {
        let apply = |connection: &mut Connection| {
            let tx = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            tx.execute_batch(step.sql)?;
            tx.pragma_update(None, "user_version", index as i64 + 1)?;
            tx.commit()
        };
        apply(connection).map_err(|source| OpenError::Step { name: step.name, source })?;
        tracing::debug!(step = step.name, "migrated");
    }
    Ok(())
}

/// Applies every step, one after the other, to an empty database in memory. For the tests of a schema's owner.
///
/// # Errors
/// The first step that fails.
pub fn check_steps(steps: &[Step]) -> Result<(), OpenError> {
    let mut connection = Connection::open_in_memory()?;
    migrate(&mut connection, steps)
}
