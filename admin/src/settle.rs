//! One letter, settled or reopened: what API and pages both do.

use dead_letters::{
    DeadLetterFilter, DeadLetterId, DeadLetterRepoError, DeadLetterState, DeadLetterSummary, Resolution,
    Settlement,
};

use crate::{
    access::{AppAccess, Right},
    audit::Entry,
    problem::Problem,
};

const MAX_NOTE_CHARACTERS: usize = 2_000;

/// Settles the letter if it is open, without reading its payload, which may have 64 MB: so not by
/// `resolve_once`, which answers the whole row.
pub(crate) async fn resolve(
    access: &AppAccess,
    id: DeadLetterId,
    resolution: Resolution,
    note: Option<String>,
) -> Result<(), Problem> {
    access.needs(Right::Settle)?;
    may_be_set(resolution, "resolution")?;
    let settlement = settlement(access, resolution, note)?;
    let entry = Entry::of_letter(access, resolution.as_str(), id);
    let open = DeadLetterFilter { state: DeadLetterState::Open, ids: Some(vec![id]), ..Default::default() };
    let result = match access.store().resolve_matching(access.app_id, &open, &settlement, 1).await {
        Ok(settled) if settled.ids.is_empty() => Err(why_not(access, id).await),
        Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    };
    end(entry, result)
}

/// Replays the letter if it is open.
pub(crate) async fn replay(
    access: &AppAccess,
    id: DeadLetterId,
    note: Option<String>,
) -> Result<(), Problem> {
    let replay = access.replay()?;
    let note = checked(note)?;
    let entry = Entry::of_letter(access, "replayed", id);
    let result = replay.replay(access.app_id, id, Some(access.operator().name().to_owned()), note).await;
    end(entry, result.map(drop).map_err(Problem::from))
}

/// Makes the letter unresolved again.
pub(crate) async fn reopen(access: &AppAccess, id: DeadLetterId) -> Result<(), Problem> {
    access.needs(Right::Settle)?;
    let entry = Entry::of_letter(access, "reopened", id);
    let result = access.store().reopen(access.app_id, id).await;
    end(entry, result.map_err(Problem::from))
}

fn end(mut entry: Entry<'_>, result: Result<(), Problem>) -> Result<(), Problem> {
    entry.did(result.is_ok().into());
    entry.ended(result.as_ref().copied());
    result
}

/// The letter, where the app has it.
pub(crate) async fn summary(access: &AppAccess, id: DeadLetterId) -> Result<DeadLetterSummary, Problem> {
    access.store().summary(access.app_id, id).await?.ok_or_else(Problem::no_such_letter)
}

/// By the operator, never by a name that the request brings.
pub(crate) fn settlement(
    access: &AppAccess,
    resolution: Resolution,
    note: Option<String>,
) -> Result<Settlement, Problem> {
    Ok(Settlement { resolution, by: Some(access.operator().name().to_owned()), note: checked(note)? })
}

pub(crate) fn checked(note: Option<String>) -> Result<Option<String>, Problem> {
    let note = note.filter(|note| !note.trim().is_empty());
    match &note {
        Some(note) if note.chars().count() > MAX_NOTE_CHARACTERS => {
            Err(Problem::invalid_field("note", "is longer than 2,000 characters"))
        }
        _ => Ok(note),
    }
}

/// A replay is done, not said; and only a handler knows that it failed.
pub(crate) fn may_be_set(resolution: Resolution, field: &str) -> Result<(), Problem> {
    match resolution {
        Resolution::Ignored | Resolution::HandledByScript => Ok(()),
        Resolution::Replayed | Resolution::HandlerFailed => {
            Err(Problem::invalid_field(field, "must be ignored or handled_by_script"))
        }
    }
}

async fn why_not(access: &AppAccess, id: DeadLetterId) -> Problem {
    let letter = match summary(access, id).await {
        Ok(letter) => letter,
        Err(problem) => return problem,
    };
    match letter.resolved_at {
        Some(resolved_at) if letter.resolution != Some(Resolution::HandlerFailed) => {
            let (resolution, by) = (letter.resolution, letter.resolved_by);
            DeadLetterRepoError::AlreadyResolved { id, resolution, resolved_at, by }.into()
        }
        // Another transaction has it just now.
        _ => Problem::unavailable(),
    }
}
