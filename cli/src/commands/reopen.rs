use dead_letters::{DeadLetterRepoError, DeadLetterStore};
use serde::Serialize;

use crate::{
    args::Reopen,
    error::{Exit, Failure, exit_of},
    output::{Printer, number},
    stop::Stop,
};

#[derive(Clone, Copy, Serialize)]
struct Reopened {
    reopened: u64,
}

pub(crate) async fn reopen(
    store: &dyn DeadLetterStore,
    reopen: Reopen,
    printer: &mut Printer,
    stop: &Stop,
) -> Result<(), Failure> {
    let (mut done, mut missing, mut left) = (0, 0, 0);
    for id in reopen.ids {
        if stop.is_asked() {
            left += 1;
            continue;
        }
        match store.reopen(reopen.app, id).await {
            Ok(()) => done += 1,
            Err(DeadLetterRepoError::NotFound(_)) => {
                missing += 1;
                say!("{id}: the app has no such letter");
            }
            // It is as it was meant to be.
            Err(DeadLetterRepoError::NotResolved(_)) => say!("{id}: it is unresolved already"),
            Err(error) => return Err(error.into()),
        }
    }
    let reopened = Reopened { reopened: done };
    printer.print(&reopened, &[reopened], [number("reopened")], |reopened| [reopened.reopened.into()])?;
    match exit_of(done, missing, left) {
        Exit::Done => Ok(()),
        exit => Err(Failure::silent(exit)),
    }
}
