//! What the process says when it ends.

use std::process::{ExitCode, Termination};

use crate::{ConfigFault, UnitsFault};

/// Exit codes, the same for every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It was done, or the answer is yes.
    Ok = 0,
    /// It was done and the answer is no: a proof that does not verify, a check that found something.
    Negative = 1,
    /// It could not be done. Also what clap uses for a wrong command line.
    CouldNot = 2,
    /// The configuration does not hold; nothing was started.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        self.into()
    }
}

impl From<&ConfigFault> for Exit {
    fn from(_: &ConfigFault) -> Self {
        Self::Config
    }
}

impl From<&UnitsFault> for Exit {
    fn from(_: &UnitsFault) -> Self {
        Self::CouldNot
    }
}
