//! Failures of a command: exit status, message and hint.

use std::{io, process::ExitCode};

use dead_letters::{DeadLetterRepoError, ErrorKind};

use crate::explain::explain;

/// The exit status of the process.
///
/// # Examples
///
/// ```
/// use std::process::ExitCode;
///
/// use dead_letters_cli::{Cli, Exit};
///
/// let exit = Cli::new().run(["dead-letters", "--version"]);
/// assert_eq!(exit, Exit::Done);
/// // The exit status of a `main` that returns it.
/// let code: ExitCode = exit.into();
/// # _ = code;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// 0: the command did all of its work.
    Done,
    /// 1: the command failed.
    Failed,
    /// 2: the command cannot run as it was given.
    Usage,
    /// 3: the letter does not exist.
    NotFound,
    /// 4: the command did only a part of its work.
    Partly,
    /// 5: `migrate status` found missing migration steps.
    Pending,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => Self::SUCCESS,
            Exit::Failed => Self::from(1),
            Exit::Usage => Self::from(2),
            Exit::NotFound => Self::from(3),
            Exit::Partly => Self::from(4),
            Exit::Pending => Self::from(5),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    exit: Exit,
    /// `None` if there is nothing left to print.
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

    /// Returns a failure about a schema that lacks migration steps.
    pub(crate) fn pending(message: impl Into<String>) -> Self {
        Self::new(Exit::Pending, message)
    }

    /// Marks a failure about a table that is missing because no step was applied.
    pub(crate) fn before_the_first_step(self) -> Self {
        Self { exit: Exit::Pending, ..self }
    }

    /// Marks a failure that came after a part of the work was done.
    pub(crate) fn after_a_part(self) -> Self {
        Self { exit: Exit::Partly, ..self }
    }

    /// Returns a failure that prints nothing.
    pub(crate) fn silent(exit: Exit) -> Self {
        Self { exit, message: None, hint: None }
    }

    pub(crate) fn no_letter() -> Self {
        Self::usage("no letter is given")
            .hint("pass the IDs of letters, a filter such as --group or --since, or --all for every letter")
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Exit::NotFound, message)
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Prefixes the message with a name, for example the database's.
    pub(crate) fn about(self, name: &str) -> Self {
        Self { message: self.message.map(|message| format!("{name}: {message}")), ..self }
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
        if let DeadLetterRepoError::Db(error) = &error {
            return explain(error);
        }
        let failure = match error.kind() {
            ErrorKind::NotFound => Self::not_found(error.to_string()),
            // The library names a field of its filter where people gave an option.
            ErrorKind::Invalid => Self::usage(error.to_string().replace("`filter.", "`--")),
            ErrorKind::Conflict | ErrorKind::Transient | ErrorKind::Internal => {
                Self::new(Exit::Failed, error.to_string())
            }
        };
        if error.is_transient() {
            failure.hint("the database is busy or unreachable; try again")
        } else {
            failure
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // The reader closed the pipe, as `head` does: it has read all that it wants.
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::silent(Exit::Done);
        }
        Self::new(Exit::Failed, format!("cannot write the result: {error}"))
    }
}

/// Combines the outcomes of a command's work and of printing its result. A failure of the work is returned even if
/// printing failed; the printing error is then written to standard error.
pub(crate) fn ended(ran: Result<(), Failure>, printed: io::Result<()>) -> Result<(), Failure> {
    let printed = printed.map_err(Failure::from);
    let Err(failure) = ran else { return printed };
    if let Some(text) = printed.err().and_then(|failure| failure.text()) {
        say!("{text}");
    }
    Err(failure)
}
