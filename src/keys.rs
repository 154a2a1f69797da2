//! `forebay keys`: the private keys that anchoring signs with.

use std::io::IsTerminal;
use std::path::PathBuf;

use anchor::keys::{self, Key, KeyFile};
use anyhow::Context;
use chassis::Exit;
use zeroize::Zeroizing;

use crate::host;
use crate::passphrase::{self, FreshPassphrase, KnownPassphrase, NextPassphrase};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a private key in a new file, encrypted with a passphrase and readable by its owner only; prints the account.
    New {
        /// The file; it must not exist. An Ethereum keystore (version 3), which geth and cast open too.
        file: PathBuf,
        #[command(flatten)]
        passphrase: FreshPassphrase,
    },
    /// Print the account of a key file. The passphrase is needed only if the file does not name the account.
    Address {
        /// The file.
        file: PathBuf,
        #[command(flatten)]
        passphrase: KnownPassphrase,
    },
    /// Put a private key that is known into a new file, encrypted with a passphrase; prints the account.
    Import {
        /// The file; it must not exist.
        file: PathBuf,
        /// File with the key as 64 hex digits; without it the first line of stdin.
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
        #[command(flatten)]
        passphrase: FreshPassphrase,
    },
    /// Give a key file another passphrase, or one that is not encrypted its first.
    ChangePassphrase {
        /// The file.
        file: PathBuf,
        #[command(flatten)]
        passphrase: KnownPassphrase,
        #[command(flatten)]
        next: NextPassphrase,
    },
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let address = match args.command {
        Command::New { file, passphrase } => {
            keys::vacant(&file)?;
            let key = Key::random()?;
            keys::keep(&file, &key, &passphrase.get()?)?;
            key.address()
        }
        Command::Address { file, passphrase } => {
            let file = KeyFile::read(&file)?;
            match file.address()? {
                Some(address) => address,
                None => passphrase.open(file)?.address(),
            }
        }
        Command::Import { file, from, passphrase } => {
            keys::vacant(&file)?;
            let key = match &from {
                Some(from) => keys::load(from)?,
                None => from_stdin()?,
            };
            keys::keep(&file, &key, &passphrase.get()?)?;
            if let Some(from) = from {
                let (from, file) = (from.display(), file.display());
                eprintln!(
                    "forebay: {from} still holds the key for anybody who reads it; when {file} is backed up: shred -u {from}"
                );
            }
            key.address()
        }
        Command::ChangePassphrase { file, passphrase, next } => {
            let key = passphrase.open(KeyFile::read(&file)?)?;
            keys::change(&file, &key, &next.get()?)?;
            key.address()
        }
    };
    host::print(&format!("{address}\n"))?;
    Ok(Exit::Ok)
}

fn from_stdin() -> anyhow::Result<Key> {
    let digits = Zeroizing::new(passphrase::line("Private key (64 hex digits): ")?);
    let fix = if std::io::stdin().is_terminal() { "type" } else { "give on stdin" };
    Key::of_hex(&digits).with_context(|| format!("that is no private key; {fix} 64 hex digits, with or without 0x"))
}
