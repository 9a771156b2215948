//! Resolves, replays and reopens one letter, for the API and the pages.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use dead_letters::{
    Action, ActionRequest, Attribution, DeadLetterFilter, DeadLetterId, DeadLetterReplay,
    DeadLetterRepoError, DeadLetterState, DeadLetterSummary, Erased, PayloadKind, ReopenRequest,
    ReplayRequest, Resolution,
};
use uuid::Uuid;

use crate::{
    access::{AppAccess, Right},
    audit::Entry,
    problem::{Problem, ResolvedBefore},
};

/// Pauses between attempts at a letter that others are changing, two seconds in total.
const PAUSES: [Duration; 7] = [
    Duration::from_millis(20),
    Duration::from_millis(40),
    Duration::from_millis(80),
    Duration::from_millis(160),
    Duration::from_millis(320),
    Duration::from_millis(640),
    Duration::from_millis(640),
];

const MAX_NOTE_CHARACTERS: usize = 2_000;
/// Rows of a page of the history, which is read until the last change is found.
const ACTIONS: u32 = 50;

/// Resolves the letter if it is open. Does not use `resolve_once`, which waits for a locked letter and keeps a
/// connection meanwhile.
pub(crate) async fn resolve(
    access: &AppAccess,
    id: DeadLetterId,
    resolution: Resolution,
    note: Option<String>,
) -> Result<(), Problem> {
    access.needs(Right::Resolve)?;
    may_be_set(resolution, "resolution")?;
    let attribution = attribution(access, note)?;
    let entry = Entry::of_letter(access, resolution.as_str(), id);
    let open = DeadLetterFilter::default().state(DeadLetterState::Open).ids([id]);
    end(entry, resolve_open(access, id, &open, resolution, &attribution).await)
}

/// Resolves the letter with a bulk call, which skips a locked letter. Most transactions end within moments, so it
/// retries.
async fn resolve_open(
    access: &AppAccess,
    id: DeadLetterId,
    open: &DeadLetterFilter,
    resolution: Resolution,
    attribution: &Attribution,
) -> Result<(), Problem> {
    for pause in PAUSES {
        let resolved =
            access.store().resolve_matching(access.app_id, open, resolution, attribution, 1).await?;
        if !resolved.ids.is_empty() {
            return Ok(());
        }
        let letter = summary(access, id).await?;
        must_be_open(&letter)?;
        access.sleep(pause).await;
    }
    Err(Problem::locked())
}

/// Replays the letter if it is open, with this payload if one is given.
pub(crate) async fn replay(
    access: &AppAccess,
    id: DeadLetterId,
    edited: Option<&str>,
    note: Option<String>,
) -> Result<(), Problem> {
    let replay = access.replay()?;
    let attribution = attribution(access, note)?;
    let app_id = access.app_id;
    let (entry, result) = match edited {
        Some(payload) => {
            access.needs_edit()?;
            let entry = Entry::of_letter(access, "replayed_edited", id);
            (entry, replay.replay_edited(app_id, id, payload, &attribution).await)
        }
        None => {
            let entry = Entry::of_letter(access, "replayed", id);
            return end(entry, replay_unlocked(access, replay, id, &attribution).await);
        }
    };
    end(entry, result.map(drop).map_err(Problem::from))
}

/// Replays the letter with a bulk call, which skips a locked letter, and retries. `replay` would wait for it, and keep a
/// connection meanwhile.
async fn replay_unlocked(
    access: &AppAccess,
    replay: &dyn DeadLetterReplay,
    id: DeadLetterId,
    attribution: &Attribution,
) -> Result<(), Problem> {
    let (this, request) = (DeadLetterFilter::default().ids([id]), ReplayRequest::default().limit(1));
    for pause in PAUSES {
        let replayed = replay.replay_matching(access.app_id, &this, attribution, &request).await?;
        let failure = replayed.failed.into_iter().next().map(|failure| failure.error);
        if let Some(error) = replayed.stopped.or(failure) {
            return Err(error.into());
        }
        if !replayed.ids.is_empty() {
            return Ok(());
        }
        let letter = summary(access, id).await?;
        must_be_open(&letter)?;
        match letter.payload_kind {
            Some(PayloadKind::Erased) => return Err(Problem::erased()),
            Some(kind @ PayloadKind::Truncated) if !replay.accepts_truncated() => {
                return Err(DeadLetterRepoError::PayloadNotWhole { id, kind }.into());
            }
            _ => access.sleep(pause).await,
        }
    }
    Err(Problem::locked())
}

/// Erases the content of the letter. Succeeds if it was erased before.
pub(crate) async fn erase(access: &AppAccess, id: DeadLetterId, note: Option<String>) -> Result<(), Problem> {
    access.needs(Right::Delete)?;
    let attribution = attribution(access, note)?;
    let entry = Entry::of_letter(access, "erased", id);
    end(entry, erase_unlocked(access, id, &attribution).await)
}

/// Erases the letter, and retries while another transaction has locked it.
async fn erase_unlocked(
    access: &AppAccess,
    id: DeadLetterId,
    attribution: &Attribution,
) -> Result<(), Problem> {
    for pause in PAUSES {
        let erased = access.store().erase(access.app_id, &[id], attribution).await?;
        if erased.skipped_locked.is_empty() {
            return summary(access, id).await.map(drop);
        }
        access.sleep(pause).await;
    }
    Err(Problem::locked())
}

/// Erases the content of these letters.
pub(crate) async fn erase_all(
    access: &AppAccess,
    ids: &[DeadLetterId],
    note: Option<String>,
) -> Result<Erased, Problem> {
    access.needs(Right::Delete)?;
    let attribution = attribution(access, note)?;
    let mut entry = Entry::of_letters(access, "erased", ids);
    let result = access.store().erase(access.app_id, ids, &attribution).await.map_err(Problem::from);
    entry.did(result.as_ref().map_or(0, |erased| erased.ids.len() as u64));
    entry.ended(result.as_ref().map(drop));
    result
}

/// Makes the letter unresolved again, if it is still as it was resolved at the time that was shown. A replayed letter
/// needs `include_replayed`.
pub(crate) async fn reopen(
    access: &AppAccess,
    id: DeadLetterId,
    shown: Option<DateTime<Utc>>,
    include_replayed: bool,
    note: Option<String>,
) -> Result<(), Problem> {
    access.needs(Right::Resolve)?;
    let attribution = attribution(access, note)?;
    let entry = Entry::of_letter(access, "reopened", id);
    end(entry, reopen_as_shown(access, id, shown, include_replayed, &attribution).await)
}

/// Returns a problem unless the letter is still as it was resolved at this time.
pub(crate) fn must_be_as_shown(letter: &DeadLetterSummary, at: DateTime<Utc>) -> Result<(), Problem> {
    match resolved_before(letter) {
        None => Err(DeadLetterRepoError::NotResolved(letter.id).into()),
        Some(resolved) if resolved.resolved_at != at => Err(Problem::changed(resolved)),
        Some(_) => Ok(()),
    }
}

/// Reopens the letter with a bulk call, which skips a locked letter, and retries.
async fn reopen_as_shown(
    access: &AppAccess,
    id: DeadLetterId,
    shown: Option<DateTime<Utc>>,
    include_replayed: bool,
    attribution: &Attribution,
) -> Result<(), Problem> {
    let letter = summary(access, id).await?;
    let at = shown.or(letter.resolved_at).ok_or(DeadLetterRepoError::NotResolved(id))?;
    must_be_as_shown(&letter, at)?;
    if letter.resolution == Some(Resolution::Replayed) && !include_replayed {
        return Err(DeadLetterRepoError::Replayed(id).into());
    }
    // The database has microseconds.
    let until = at.checked_add_signed(TimeDelta::microseconds(1));
    let mut this = DeadLetterFilter::default().ids([id]).resolved_from(at).resolved_before(until);
    // Without a resolution the bulk call reopens only closed letters.
    this.resolution = letter.resolution.filter(|&resolution| resolution == Resolution::HandlerFailed);
    let request = ReopenRequest::default().limit(1).include_replayed(include_replayed);
    for pause in PAUSES {
        match access.store().reopen_matching(access.app_id, &this, attribution, &request).await {
            Ok(reopened) if !reopened.ids.is_empty() => return Ok(()),
            // If the database can be reached, others use the letter.
            Err(error) if !error.is_transient() => return Err(error.into()),
            _ => {}
        }
        must_be_as_shown(&summary(access, id).await?, at)?;
        access.sleep(pause).await;
    }
    Err(Problem::locked())
}

/// Closes a letter again that was reopened by mistake, unless it changed since: `reopening` is the row of the history.
pub(crate) async fn undo_reopening(
    access: &AppAccess,
    id: DeadLetterId,
    resolution: Resolution,
    reopening: Uuid,
) -> Result<(), Problem> {
    access.needs(Right::Resolve)?;
    may_be_set(resolution, "resolution")?;
    let attribution = attribution(access, None)?;
    let entry = Entry::of_letter(access, resolution.as_str(), id);
    let undone = async {
        let letter = summary(access, id).await?;
        must_be_open(&letter)?;
        if letter.resolved_at.is_some() || last_change(access, id).await? != Some(reopening) {
            return Err(Problem::changed_since_reopened());
        }
        let unresolved = DeadLetterFilter::default().state(DeadLetterState::Unresolved).ids([id]);
        resolve_open(access, id, &unresolved, resolution, &attribution).await
    };
    end(entry, undone.await)
}

/// Returns the newest row of the letter's history that is no reveal.
pub(crate) async fn last_change(access: &AppAccess, id: DeadLetterId) -> Result<Option<Uuid>, Problem> {
    let mut request = ActionRequest::default().letter_id(id).limit(ACTIONS);
    loop {
        let actions = access.store().actions(access.app_id, &request).await?;
        let change = actions.iter().find(|action| action.action != Some(Action::Reveal));
        if change.is_some() || actions.len() < ACTIONS as usize {
            return Ok(change.map(|change| change.id));
        }
        request.after = actions.last().map(|action| action.id);
    }
}

fn end(mut entry: Entry<'_>, result: Result<(), Problem>) -> Result<(), Problem> {
    entry.did(result.is_ok().into());
    entry.ended(result.as_ref().copied());
    result
}

/// Returns the letter's summary, or a problem if the app has no such letter.
pub(crate) async fn summary(access: &AppAccess, id: DeadLetterId) -> Result<DeadLetterSummary, Problem> {
    access.store().summary(access.app_id, id).await?.ok_or_else(Problem::no_such_letter)
}

/// Returns the attribution. `by` is always the operator and never a name from the request.
pub(crate) fn attribution(access: &AppAccess, note: Option<String>) -> Result<Attribution, Problem> {
    let mut attribution = Attribution::by(access.operator().name());
    attribution.note = checked(note)?;
    Ok(attribution)
}

fn checked(note: Option<String>) -> Result<Option<String>, Problem> {
    let note = note.filter(|note| !note.trim().is_empty());
    match &note {
        Some(note) if note.chars().count() > MAX_NOTE_CHARACTERS => {
            Err(Problem::invalid_field("note", "must have at most 2,000 characters"))
        }
        _ => Ok(note),
    }
}

/// Checks that operators may set this resolution.
pub(crate) fn may_be_set(resolution: Resolution, field: &str) -> Result<(), Problem> {
    match resolution.may_be_chosen() {
        true => Ok(()),
        false => Err(Problem::invalid_field(field, "must be ignored or handled_by_script")),
    }
}

/// Returns a problem if the letter is closed.
pub(crate) fn must_be_open(letter: &DeadLetterSummary) -> Result<(), Problem> {
    match resolved_before(letter).filter(|_| !letter.is_open()) {
        Some(resolved) => Err(Problem::already_resolved(resolved)),
        None => Ok(()),
    }
}

fn resolved_before(letter: &DeadLetterSummary) -> Option<ResolvedBefore> {
    let (resolution, resolved_by) = (letter.resolution, letter.resolved_by.clone());
    Some(ResolvedBefore { resolution, resolved_at: letter.resolved_at?, resolved_by })
}
