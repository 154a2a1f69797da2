//! Processes of the demonstration: they say when they are ready, and none outlives it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::mpsc;

use crate::passphrase;

/// How long a process may take to say that it is ready.
const READY: Duration = Duration::from_secs(30);
/// Lines kept for whoever waits for one; later ones are read and dropped.
const LINES_KEPT: usize = 256;
/// How long a process may take to stop in order.
const GOODBYE: Duration = Duration::from_secs(20);

/// A child process, killed when it is dropped.
pub(super) struct Process {
    name: String,
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Process {
    /// Starts a program; what it logs goes to a file in `logs`.
    pub(super) fn start(name: &str, program: &Path, args: &[String], logs: &Path) -> anyhow::Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let log_file =
            std::fs::OpenOptions::new().create(true).append(true).open(&log).with_context(|| format!("{}", log.display()))?;
        let mut child = Command::new(program)
            .args(args)
            .env_remove(passphrase::VARIABLE)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log_file)
            // A Ctrl-C is for the demonstration, which then stops its processes in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{name}: {} does not start", program.display()))?;
        let stdout = child.stdout.take().expect("stdout is piped");
        Ok(Self { name: name.to_owned(), child, lines: follow(stdout) })
    }

    /// Reads lines until `wanted` takes one.
    pub(super) async fn line<T>(&mut self, mut wanted: impl FnMut(&str) -> Option<T>) -> anyhow::Result<T> {
        let search = async {
            while let Some(line) = self.lines.recv().await {
                if let Some(found) = wanted(&line) {
                    return Ok(found);
                }
            }
            bail!("{} ended before it was ready; its log says why", self.name)
        };
        tokio::time::timeout(READY, search).await.with_context(|| format!("{} was not ready within {READY:?}", self.name))?
    }

    /// Waits for the ready line of one of our roles and gives the addresses in it.
    pub(super) async fn ready(&mut self) -> anyhow::Result<HashMap<String, SocketAddr>> {
        self.line(|line| {
            let (_, places) = line.strip_prefix("forebay ")?.split_once(" ready")?;
            let place =
                |text: &str| text.split_once('=').and_then(|(name, address)| Some((name.to_owned(), address.parse().ok()?)));
            places.split_whitespace().map(place).collect()
        })
        .await
    }

    /// SIGKILL, as when the power goes.
    pub(super) async fn kill_9(mut self) -> anyhow::Result<()> {
        self.child.kill().await.with_context(|| format!("{} can't be killed", self.name))
    }

    /// SIGTERM, and waits for the end; whoever does not end in time is killed.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        let Some(id) = self.child.id() else { return Ok(()) };
        let told = Command::new("kill").arg("-TERM").arg(id.to_string()).status().await;
        if told.is_err() {
            return self.kill_9().await;
        }
        match tokio::time::timeout(GOODBYE, self.child.wait()).await {
            Ok(status) => {
                let status = status?;
                if !status.success() && self.name != "anvil" {
                    bail!("{} ended with {status}", self.name);
                }
                Ok(())
            }
            Err(_) => {
                self.child.kill().await?;
                bail!("{} did not stop within {GOODBYE:?}", self.name)
            }
        }
    }
}

/// Reads a process's output to its end, whether or not somebody wants it: a pipe that is full would stop the process.
fn follow(stdout: ChildStdout) -> mpsc::Receiver<String> {
    let (lines, kept) = mpsc::channel(LINES_KEPT);
    tokio::spawn(async move {
        let mut read = BufReader::new(stdout).lines();
        while let Ok(Some(line)) = read.next_line().await {
            // Nobody waits for a line any more when the channel is full or closed.
            let _ = lines.try_send(line);
        }
    });
    kept
}
