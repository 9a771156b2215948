//! What went wrong, told in one place: what, why, and what helps.

use std::{io, process::ExitCode};

use dead_letters::{DeadLetterRepoError, ErrorKind, OpenError, migration::SchemaError};

/// What the process exits with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: all of it.
    Done,
    /// 1: something failed.
    Failed,
    /// 2: the command can't be what was meant.
    Usage,
    /// 3: there is no such letter.
    NotFound,
    /// 4: some of it.
    Partly,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => Self::SUCCESS,
            Exit::Failed => Self::from(1),
            Exit::Usage => Self::from(2),
            Exit::NotFound => Self::from(3),
            Exit::Partly => Self::from(4),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    /// None where nobody listens any more.
    message: Option<String>,
    hint: Option<String>,
}

impl Failure {
    fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: Some(message.into()), hint: None }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// It failed, and not before something was done.
    pub(crate) fn after_a_part(self) -> Self {
        Self { exit: Exit::Partly, ..self }
    }

    /// All was said on the way.
    pub(crate) fn silent(exit: Exit) -> Self {
        Self { exit, message: None, hint: None }
    }

    pub(crate) fn no_letter() -> Self {
        Self::usage("no letter is named").hint("name them by their ids, or all that match by --matching")
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Exit::NotFound, message)
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    pub(crate) fn text(&self) -> Option<String> {
        let hint = self.hint.as_ref().map_or(String::new(), |hint| format!("\nhint: {hint}"));
        self.message.as_ref().map(|message| format!("error: {message}{hint}"))
    }
}

impl From<DeadLetterRepoError> for Failure {
    fn from(error: DeadLetterRepoError) -> Self {
        let failure = match error.kind() {
            ErrorKind::NotFound => Self::not_found(error.to_string()),
            ErrorKind::Invalid => Self::usage(error.to_string()),
            ErrorKind::Conflict | ErrorKind::Transient | ErrorKind::Internal => {
                Self::new(Exit::Failed, error.to_string())
            }
        };
        if error.is_transient() {
            failure.hint("the database is busy or out of reach: try again")
        } else {
            failure
        }
    }
}

/// None of them shows the URL's password.
impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let failure = Self::new(Exit::Failed, error.to_string());
        match error {
            OpenError::Url(_) => Self { exit: Exit::Usage, ..failure },
            OpenError::Schema(SchemaError::Missing(_)) => {
                failure.hint("dead-letters migrate up does that, or the service at its start")
            }
            _ => failure,
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // `… | head`: what was asked for was read.
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::silent(Exit::Done);
        }
        Self::new(Exit::Failed, format!("could not write the result: {error}"))
    }
}
