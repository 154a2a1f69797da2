//! `forebay user`, and how the tools log in.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use chassis::Exit;

/// User name and where the password is; never the password itself, which would show in the list of processes.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Login {
    /// User name; without it the tool connects anonymously.
    #[arg(long, env = "FOREBAY_USER", requires = "password_source")]
    pub user: Option<String>,
    #[command(flatten)]
    pub password: PasswordSource,
    /// File whose first line is a token of the issuer that the cloud trusts, instead of user and password.
    #[arg(long, value_name = "FILE", env = "FOREBAY_TOKEN_FILE", conflicts_with_all = ["user", "password_source"])]
    pub token_file: Option<PathBuf>,
}

#[derive(Debug, Clone, clap::Args)]
#[group(id = "password_source", multiple = false)]
pub(crate) struct PasswordSource {
    /// File whose first line is the password.
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Password, from the environment only.
    #[arg(long, env = "FOREBAY_PASSWORD", hide = true, hide_env_values = true)]
    pub password: Option<String>,
}

impl Login {
    /// The token, read from where it is. For HTTP only.
    pub(crate) fn token(&self) -> anyhow::Result<Option<String>> {
        self.token_file.as_deref().map(|path| first_line("--token-file", path)).transpose()
    }

    /// User and password, with the password read from where it is.
    pub(crate) fn credentials(&self) -> anyhow::Result<Option<(String, String)>> {
        ensure!(self.token_file.is_none(), "over MQTT a token is the password: --user SUBJECT --password-file FILE");
        let Some(user) = &self.user else { return Ok(None) };
        let password = match (&self.password.password_file, &self.password.password) {
            (Some(path), _) => first_line("--password-file", path)?,
            (None, Some(password)) => password.clone(),
            (None, None) => anyhow::bail!("--user {user} needs --password-file or FOREBAY_PASSWORD"),
        };
        Ok(Some((user.clone(), password)))
    }
}

fn first_line(option: &str, path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{option} {} can't be read", path.display()))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Add a user, or change the password of one; the password is the first line of stdin.
    Add {
        /// The users file; made if it is missing.
        file: PathBuf,
        /// The user's name.
        name: String,
    },
    /// Remove a user.
    Remove {
        /// The users file.
        file: PathBuf,
        /// The user's name.
        name: String,
    },
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    match args.command {
        Command::Add { file, name } => {
            let mut password = String::new();
            std::io::stdin().lock().read_line(&mut password).context("the password can't be read from stdin")?;
            let password = password.trim_end_matches(['\r', '\n']);
            ensure!(!password.is_empty(), "the password is empty; give it as the first line of stdin");
            ::broker::users::set_password(&file, &name, password.as_bytes())?;
            Ok(Exit::Ok)
        }
        Command::Remove { file, name } => {
            if ::broker::users::remove_user(&file, &name)? {
                return Ok(Exit::Ok);
            }
            eprintln!("forebay: there is no user {name:?} in {}", file.display());
            Ok(Exit::Negative)
        }
    }
}
