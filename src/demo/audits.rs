//! Two audits of one meter and the cloud with the tool that everybody has: over what is there, and after a byte was changed.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use store::rusqlite::Connection;
use tokio::process::Command;

use super::meters::data_folder;
use super::plan::Plan;
use super::town::Town;

/// What the audits came to.
pub(super) struct Audits {
    /// The databases as they are: nothing is found.
    pub clean: bool,
    /// What is found after the change.
    pub finding: Option<String>,
}

/// Audits one meter against the cloud, changes a byte of what the cloud keeps of it, and audits again. Nobody may be writing.
pub(super) async fn audit_and_tamper(town: &Town, plan: &Plan) -> anyhow::Result<Audits> {
    let meter = plan.meters.first().context("a meter")?;
    let (terminal, cloud) = (data_folder(town, meter), town.folder().join("cloud"));
    let before = audit(town, &terminal, &cloud).await?;
    change_a_byte(&cloud.join("archive.sqlite"), meter.series().as_str())?;
    let after = audit(town, &terminal, &cloud).await?;
    Ok(Audits { clean: before.is_none(), finding: after })
}

/// What `forebay audit` finds first.
async fn audit(town: &Town, terminal: &PathBuf, cloud: &PathBuf) -> anyhow::Result<Option<String>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--log", "warn", "audit", "--rpc", &town.rpc, "--contract", &town.contract]);
    let output = command.arg("--terminal").arg(terminal).arg("--cloud").arg(cloud).output().await?;
    let said = String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned);
    let code = output.status.code();
    ensure!(
        matches!((code, &said), (Some(0), None) | (Some(1), Some(_))),
        "forebay audit ended with {code:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(said)
}

/// What an intruder with the rights of the database could do: the last byte of a chunk of the series.
fn change_a_byte(archive: &Path, series: &str) -> anyhow::Result<()> {
    let connection = Connection::open(archive)?;
    let (id, mut body): (i64, Vec<u8>) = connection
        .query_row(
            "SELECT chunks.id, body FROM chunks JOIN series ON series.id = chunks.series WHERE name = ?1 ORDER BY chunks.id LIMIT 1",
            [series],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .context("a chunk of the meter at the cloud")?;
    *body.last_mut().context("a chunk with a body")? ^= 1;
    connection.execute("UPDATE chunks SET body = ?2 WHERE id = ?1", (id, body))?;
    Ok(())
}
