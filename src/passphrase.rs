//! Where the tools have a passphrase from: a file, the environment, or a question on the terminal. Never from the command line, which
//! shows in the list of processes.

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anchor::keys::{Key, KeyError, KeyFile, Passphrase};
use anyhow::{Context, bail, ensure};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::host;

/// The passphrase of key files, for tools and roles.
pub(crate) const VARIABLE: &str = "FOREBAY_KEY_PASSPHRASE";
/// The passphrase that takes its place.
const NEW_VARIABLE: &str = "FOREBAY_KEY_NEW_PASSPHRASE";

/// Of a key file that is there.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct KnownPassphrase {
    /// File whose first line is the passphrase. Without it: the variable FOREBAY_KEY_PASSPHRASE, or a question on the terminal.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl KnownPassphrase {
    /// The key of a file; the passphrase is asked for only if it is encrypted.
    pub(crate) fn open(&self, file: KeyFile) -> anyhow::Result<Key> {
        file.key(|path| match told(self.passphrase_file.as_deref(), VARIABLE)? {
            Some(passphrase) => Ok(passphrase),
            None if std::io::stdin().is_terminal() => ask(&format!("Passphrase of {}: ", path.display())),
            None => Err(KeyError::Locked { path: path.into() }.into()),
        })
    }
}

/// Of a key file that is made.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct FreshPassphrase {
    /// File whose first line is the passphrase. Without it: the variable FOREBAY_KEY_PASSPHRASE, or a question on the terminal.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl FreshPassphrase {
    pub(crate) fn get(&self) -> anyhow::Result<Passphrase> {
        fresh(self.passphrase_file.as_deref(), VARIABLE, "--passphrase-file")
    }
}

/// Of a key file that gets another one.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct NextPassphrase {
    /// File whose first line is the new passphrase. Without it: the variable FOREBAY_KEY_NEW_PASSPHRASE, or a question on the terminal.
    #[arg(long, value_name = "FILE")]
    new_passphrase_file: Option<PathBuf>,
}

impl NextPassphrase {
    pub(crate) fn get(&self) -> anyhow::Result<Passphrase> {
        fresh(self.new_passphrase_file.as_deref(), NEW_VARIABLE, "--new-passphrase-file")
    }
}

/// The passphrase that a variable holds, if it is set.
fn from_environment(variable: &str) -> Result<Option<Passphrase>, KeyError> {
    let Some(value) = std::env::var_os(variable) else { return Ok(None) };
    let text = value.into_string().map_err(|_| KeyError::NotText { origin: variable.to_owned() })?;
    Ok(Some(Passphrase::new(text, variable)?))
}

/// What the environment tells a role.
pub(crate) fn of_role() -> Result<Option<Passphrase>, anchor::StartError> {
    Ok(from_environment(VARIABLE)?)
}

fn told(file: Option<&Path>, variable: &str) -> anyhow::Result<Option<Passphrase>> {
    match file {
        Some(file) => Ok(Some(Passphrase::read(file)?)),
        None => Ok(from_environment(variable)?),
    }
}

fn fresh(file: Option<&Path>, variable: &str, option: &str) -> anyhow::Result<Passphrase> {
    if let Some(passphrase) = told(file, variable)? {
        return Ok(passphrase);
    }
    ensure!(
        std::io::stdin().is_terminal(),
        "a new passphrase is needed: in {option} FILE, in the variable {variable}, or on a terminal, where it is asked for"
    );
    let passphrase = ask("New passphrase: ")?;
    ensure!(passphrase == ask("The same again: ")?, "the two are not the same; nothing was written");
    Ok(passphrase)
}

/// Asks for one line on the terminal, which does not show it.
fn ask(question: &str) -> anyhow::Result<Passphrase> {
    Ok(Passphrase::new(line(question)?, "the terminal")?)
}

/// One line of stdin; on a terminal it is asked for, and not shown.
pub(crate) fn line(question: &str) -> anyhow::Result<String> {
    let hidden = match std::io::stdin().is_terminal() {
        true => Some(Hidden::begin(question)?),
        false => None,
    };
    let runtime = host::runtime()?;
    let read = runtime.block_on(async {
        tokio::select! {
            read = tokio::task::spawn_blocking(read_line) => read.context("stdin can't be read")?,
            // Otherwise the terminal would stay as it is now.
            _ = tokio::signal::ctrl_c(), if hidden.is_some() => bail!("interrupted; nothing was written"),
        }
    });
    // A line that nobody has typed holds nothing up.
    runtime.shutdown_background();
    drop(hidden);
    read
}

/// A passphrase or a key is shorter, whatever else is on stdin.
const LINE_BYTES_MAX: usize = 2_048;

fn read_line() -> anyhow::Result<String> {
    let mut text = Zeroizing::new(String::with_capacity(LINE_BYTES_MAX + 8));
    let mut stdin = std::io::Read::take(std::io::stdin().lock(), LINE_BYTES_MAX as u64);
    stdin.read_line(&mut text).context("stdin can't be read")?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// A terminal that does not show what is typed, until this is dropped.
struct Hidden(Termios);

impl Hidden {
    fn begin(question: &str) -> anyhow::Result<Self> {
        let before = tcgetattr(std::io::stdin()).context("the terminal does not answer")?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &silent).context("the terminal can't be silenced")?;
        let hidden = Self(before);
        let mut stderr = std::io::stderr().lock();
        stderr.write_all(question.as_bytes()).and_then(|()| stderr.flush()).context("the terminal can't be written")?;
        Ok(hidden)
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // The end of the line was not shown either. There is nobody to tell if the terminal is gone.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
        let _ = std::io::stderr().write_all(b"\n");
    }
}
