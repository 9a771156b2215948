//! Edits the payload of one letter, shows the changes, and replays it.
//!
//! The server keeps no state between the three steps: each form carries the text, and the version of the letter that the
//! editor showed.

use std::time::Duration;

use askama::Template;
use axum::{
    http::{HeaderValue, StatusCode, header::CACHE_CONTROL},
    response::Response,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use dead_letters::{DeadLetterId, DeadLetterSummary, PayloadKind};
use serde::de::IgnoredAny;
use sha2::{Digest, Sha256};
use similar::{ChangeTag, TextDiff};
use uuid::Uuid;

use super::{
    back::Back,
    banner::{Told, tell},
    frame::Frame,
    html,
    text::{Text, is_hidden, size},
};
use crate::{
    access::{Access, AppAccess},
    audit::{Entry, record_reveal},
    input::{Fields, Form, LetterPath},
    letter_actions::{self, last_change, summary},
    payload::{Kind, Redaction, Which, compact, pretty},
    problem::Problem,
    urls::Root,
};

/// Larger payloads are edited in a file, with the command line tool.
const MAX_EDITED_BYTES: usize = 64 << 10;
/// Unchanged lines that are shown around a change.
const CONTEXT_LINES: usize = 3;
/// A comparison that takes longer shows larger changes than necessary.
const DIFF_TIME: Duration = Duration::from_millis(500);

#[derive(Template)]
#[template(path = "edit.html")]
struct EditPage {
    frame: Frame,
    source: Text,
    op: Text,
    /// As it is, since the form sends it back.
    payload: String,
    is_json: bool,
    /// The fault of the text that was sent.
    problem: Option<Text>,
    version: String,
    review: String,
    from: Option<Back>,
    cancel: String,
}

#[derive(Template)]
#[template(path = "review.html")]
struct ReviewPage {
    frame: Frame,
    hunks: Vec<Vec<Line>>,
    payload: String,
    version: String,
    operator: Text,
    replay: String,
    edit: String,
    from: Option<Back>,
    cancel: String,
}

struct Line {
    tag: ChangeTag,
    text: Text,
}

impl Line {
    fn is_removed(&self) -> bool {
        self.tag == ChangeTag::Delete
    }

    fn is_added(&self) -> bool {
        self.tag == ChangeTag::Insert
    }
}

/// Returns whether the page can edit the letter's payload.
pub(super) fn is_editable(letter: &DeadLetterSummary) -> bool {
    letter.payload_bytes <= MAX_EDITED_BYTES as u64 && letter.payload_kind != Some(PayloadKind::Erased)
}

/// A letter whose payload an operator edits.
struct Editing {
    access: AppAccess,
    letter: DeadLetterSummary,
    stored: String,
    last_change: Option<Uuid>,
}

impl Editing {
    /// Returns an open letter and its payload, if the operator may edit it. A problem leads back to the page that the
    /// letter's page leads back to.
    async fn of(
        access: AppAccess,
        root: &Root,
        id: DeadLetterId,
        from: Option<&Back>,
    ) -> Result<Self, Problem> {
        let app_id = access.app_id;
        Self::load(access, id).await.map_err(|problem| Back::on(from, problem, root, app_id))
    }

    /// As [`of`](Self::of), if the letter is as the editor showed it.
    async fn unchanged(
        access: AppAccess,
        root: &Root,
        id: DeadLetterId,
        edit: &Edit,
    ) -> Result<Self, Problem> {
        let editing = Self::of(access, root, id, edit.from.as_ref()).await?;
        match edit.version == editing.version() {
            true => Ok(editing),
            false => {
                Err(Back::on(edit.from.as_ref(), Problem::changed_meanwhile(), root, editing.access.app_id))
            }
        }
    }

    async fn load(access: AppAccess, id: DeadLetterId) -> Result<Self, Problem> {
        access.replay()?;
        access.needs_edit()?;
        let letter = summary(&access, id).await?;
        letter_actions::must_be_open(&letter)?;
        if letter.payload_kind == Some(PayloadKind::Erased) {
            return Err(Problem::erased());
        }
        if !is_editable(&letter) {
            return Err(Problem::too_large(
                "the page edits payloads of at most 64 KB: use `dead-letters replay --payload-file`",
            ));
        }
        let stored = Which::Own.text(&access, id, 0..u64::MAX).await?;
        let last_change = last_change(&access, id).await?;
        Ok(Self { access, letter, stored, last_change })
    }

    /// Returns a text that differs if the letter's content or state differs.
    fn version(&self) -> String {
        let letter = &self.letter;
        let facts = serde_json::json!([
            self.stored,
            letter.payload_kind,
            letter.replayed_payload_bytes,
            letter.resolved_at,
            letter.resolution,
            letter.run_id,
            // A letter that was closed and reopened looks as before.
            self.last_change,
        ]);
        BASE64_URL_SAFE_NO_PAD.encode(&Sha256::digest(facts.to_string())[..16])
    }

    fn editor(&self, root: &Root, edit: Edit, problem: Option<String>) -> Result<Response, Problem> {
        let Edit { payload, version, from } = edit;
        let (app_id, id) = (self.access.app_id, self.letter.id);
        let is_problem = problem.is_some();
        let mut response = html(&EditPage {
            frame: Frame::of_app(root, &self.access).here("Edit the payload"),
            source: Text::cut(&self.letter.source, 500),
            op: Text::cut(&self.letter.op, 500),
            payload,
            is_json: compact(&self.stored).is_ok(),
            problem: problem.map(|problem| format!("The payload {problem}.").into()),
            version,
            review: root.letter_action(app_id, id, "edit/review"),
            cancel: root.letter_from(app_id, id, from.as_ref()),
            from,
        })?;
        if is_problem {
            *response.status_mut() = StatusCode::BAD_REQUEST;
        }
        Ok(not_stored(response))
    }
}

/// The text and the version that a form sent, and the page that the letter's page leads back to.
struct Edit {
    payload: String,
    version: String,
    from: Option<Back>,
}

impl Edit {
    /// Reads the form. The letter's page, which opens the editor, sends no version.
    fn read(fields: &mut Fields) -> Result<Self, Problem> {
        let payload = fields.take("payload")?.unwrap_or_default();
        let version = fields.take("version")?.unwrap_or_default();
        // Browsers send each line's end as CRLF.
        Ok(Self { payload: payload.replace("\r\n", "\n"), version, from: Back::take(fields, "from")? })
    }

    fn required(fields: &mut Fields) -> Result<Self, Problem> {
        match Self::read(fields)? {
            edit if edit.version.is_empty() => Err(Problem::invalid_field("version", "is missing")),
            edit => Ok(edit),
        }
    }

    /// Returns the payload as it is put back, without the spaces between its values, or what is wrong with it.
    fn checked(&self, stored: &str) -> Result<String, String> {
        serde_json::from_str::<IgnoredAny>(&self.payload)
            .map_err(|error| format!("must be JSON: {error}"))?;
        let edited = compact(&self.payload).map_err(|_| "must be nested at most 127 levels deep")?;
        if edited.len() > MAX_EDITED_BYTES {
            return Err(format!("must have at most 64 KB (it has {})", size(edited.len() as u64)));
        }
        // The editor shows hidden characters as escapes, which change the text and not the event.
        match compact(stored).is_ok() && laid_out(stored) == laid_out(&edited) {
            true => Err("is unchanged: change it, or replay the letter as it is".to_owned()),
            false => Ok(edited),
        }
    }
}

/// Opens the editor with the stored payload, or again with the text that the form sent.
pub(crate) async fn page(
    access: Access,
    LetterPath(app_id, id): LetterPath,
    root: Root,
    Form(mut fields): Form,
) -> Result<Response, Problem> {
    let access = access.app(app_id)?;
    // The button stands in the form of the letter's actions.
    fields.take("note")?;
    let edit = Edit::read(&mut fields)?;
    fields.end()?;
    let editing = Editing::of(access, &root, id, edit.from.as_ref()).await?;
    if !edit.version.is_empty() {
        return editing.editor(&root, edit, None);
    }
    let (access, action) = (&editing.access, "opened_editor");
    if access.admin().redaction.is_empty() {
        let mut entry = Entry::of_letter(access, action, id);
        entry.did(1);
        entry.ended(Ok(()));
    } else {
        record_reveal(access, action, id).await?;
    }
    let stored = Edit { payload: to_edit(&editing.stored), version: editing.version(), from: edit.from };
    editing.editor(&root, stored, None)
}

/// Shows what the edit changes, or the editor again if the text can't be replayed.
pub(crate) async fn review(
    access: Access,
    LetterPath(app_id, id): LetterPath,
    root: Root,
    Form(mut fields): Form,
) -> Result<Response, Problem> {
    let access = access.app(app_id)?;
    let edit = Edit::required(&mut fields)?;
    fields.end()?;
    let editing = Editing::unchanged(access, &root, id, &edit).await?;
    let edited = match edit.checked(&editing.stored) {
        Ok(edited) => edited,
        Err(problem) => return editing.editor(&root, edit, Some(problem)),
    };
    let access = &editing.access;
    Ok(not_stored(html(&ReviewPage {
        frame: Frame::of_app(&root, access).here("Edit the payload"),
        hunks: hunks(&laid_out(&editing.stored), &laid_out(&edited)),
        payload: edit.payload,
        version: edit.version,
        operator: Text::cut(access.operator().name(), 100),
        replay: root.letter_action(app_id, id, "edit/replay"),
        edit: root.letter_action(app_id, id, "edit"),
        cancel: root.letter_from(app_id, id, edit.from.as_ref()),
        from: edit.from,
    })?))
}

/// Replays the letter with the edited payload, if the letter is as the editor showed it.
pub(crate) async fn replay(
    access: Access,
    LetterPath(app_id, id): LetterPath,
    root: Root,
    Form(mut fields): Form,
) -> Result<Response, Problem> {
    let access = access.app(app_id)?;
    let note = fields.take("note")?;
    let edit = Edit::required(&mut fields)?;
    fields.end()?;
    let editing = Editing::unchanged(access, &root, id, &edit).await?;
    let edited = match edit.checked(&editing.stored) {
        Ok(edited) => edited,
        Err(problem) => return editing.editor(&root, edit, Some(problem)),
    };
    let replayed = letter_actions::replay(&editing.access, id, Some(&edited), note).await;
    replayed.map_err(|problem| Back::on(edit.from.as_ref(), problem, &root, app_id))?;
    let letter = root.letter_from(app_id, id, edit.from.as_ref());
    Ok(tell(&editing.access, letter, Told::ReplayedEdited(id)))
}

/// Keeps caches from storing a page that shows a payload or a part of one.
pub(super) fn not_stored(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Returns the text to edit: JSON laid out, with hidden characters as its escapes.
fn to_edit(stored: &str) -> String {
    let laid_out = laid_out(stored);
    if laid_out.len() > MAX_EDITED_BYTES { stored.to_owned() } else { laid_out }
}

/// Lays JSON out, with each hidden character as an escape of JSON. Returns any other text as it is.
fn laid_out(text: &str) -> String {
    let redaction = Redaction::default();
    // A text of 64 KB has at most as many tokens. Beyond 1 MB it is not laid out.
    let Ok(Some(pretty)) = pretty(text, &redaction, usize::MAX, 1 << 20) else { return text.to_owned() };
    let mut laid_out = String::with_capacity(text.len());
    for token in &pretty.tokens {
        match token.kind {
            Kind::Key | Kind::String => push_escaped(&mut laid_out, &token.text),
            _ => laid_out += &token.text,
        }
    }
    laid_out
}

fn push_escaped(json: &mut String, string: &str) {
    for character in string.chars() {
        if is_hidden(character) {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                *json += &format!("\\u{unit:04x}");
            }
        } else {
            json.push(character);
        }
    }
}

/// Returns the changed lines with a few lines around them.
fn hunks(before: &str, after: &str) -> Vec<Vec<Line>> {
    let diff = TextDiff::configure().timeout(DIFF_TIME).diff_lines(before, after);
    let line = |tag, text: &str| Line { tag, text: text.trim_end_matches('\n').into() };
    let hunks = diff.grouped_ops(CONTEXT_LINES).into_iter();
    hunks
        .map(|ops| {
            let changes = ops.iter().flat_map(|op| diff.iter_changes(op));
            changes.map(|change| line(change.tag(), change.value())).collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_laid_out_with_hidden_characters_as_its_escapes() {
        let text = "{\"a\u{202e}\":[1.10,\"\u{e0001}\\n\"]}";
        let laid_out = laid_out(text);
        assert_eq!(laid_out, "{\n  \"a\\u202e\": [\n    1.10,\n    \"\\udb40\\udc01\\n\"\n  ]\n}");
        let same = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(same(&laid_out), same(text));
        assert_eq!(super::laid_out("not JSON"), "not JSON");
    }

    #[test]
    fn the_changed_lines_are_shown_with_three_lines_around_them() {
        let before = (0..20).map(|line| format!("{line}\n")).collect::<String>();
        let after = before.replace("\n10\n", "\nten\n");
        let shown = |hunks: Vec<Vec<Line>>| {
            let lines = hunks.into_iter().flatten().map(|line| format!("{}{}", line.tag, line.text));
            lines.collect::<Vec<_>>().join("|")
        };
        assert_eq!(shown(hunks(&before, &after)), " 7| 8| 9|-10|+ten| 11| 12| 13");
        assert_eq!(hunks(&before, &before).len(), 0);
    }
}
