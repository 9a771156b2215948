//! One letter: its error, the available actions, and its payload.

use askama::Template;
use axum::{
    http::{HeaderValue, StatusCode, header::CACHE_CONTROL},
    response::{IntoResponse, Response},
};
use dead_letters::{
    AppId, DeadLetterFilter, DeadLetterId, DeadLetterState, DeadLetterSummary, PageRequest, PayloadKind,
    Resolution, ScriptId, TriggerId,
};

use serde_json::Value;

use super::{
    back::Back,
    banner::{Banner, On},
    command::Command,
    edit::is_editable,
    frame::Frame,
    history::History,
    html,
    letters::{Resolved, failed_again},
    listing::scan,
    text::{ErrorText, Text, Time, size},
};
use crate::{
    access::{Access, AppAccess, Right},
    audit::record_reveal,
    input::{Form, LetterPath, Query},
    metadata::Metadata,
    payload::{Kind, REDACTED, Redaction, Token, Which, pretty, redact},
    problem::Problem,
    urls::{Referrer, Root},
};

/// A larger payload is only offered for download.
pub(crate) const MAX_SHOWN_BYTES: u64 = 100_000;
/// JSON that takes more tokens when it is laid out is shown as stored.
const MAX_TOKENS: usize = 8_000;
const MAX_LAID_OUT_BYTES: usize = 300_000;
/// Characters of the error that are shown.
const MAX_ERROR_CHARACTERS: u64 = 100_000;
const EARLIER_FAILURES: u32 = 10;

#[derive(Template)]
#[template(path = "letter.html")]
struct LetterPage {
    frame: Frame,
    /// The page that led to the letter, and its address.
    back: Back,
    back_address: String,
    /// The page that led here, for the forms. `None` if it is not known.
    from: Option<Back>,
    /// The address that hides revealed values again.
    hide: String,
    letter: Letter,
    error: ErrorText,
    is_error_cut: bool,
    /// The address of similar failures, unless another writer stored this letter without a group key.
    similar: Option<String>,
    /// The error signature of similar failures.
    signature: Text,
    /// The letter's own payload, and the edited one that the last replay put back, if there is one.
    payloads: Vec<Payload>,
    /// `None` if the operator may do nothing.
    actions: Option<ActionsCard>,
    /// `None` if the operator may not.
    remove: Option<RemoveCard>,
    earlier: Vec<EarlierFailure>,
    history: History,
    /// How many earlier failures of the event are not listed.
    more_earlier: u64,
    metadata: MetadataCard,
    command: Command,
}

/// The metadata of the letter, and its trace.
struct MetadataCard {
    fields: Vec<(Text, Text)>,
    is_redacted: bool,
    /// Where a form reveals the redacted values, if the operator may see them.
    reveal: Option<String>,
    trace: Option<Trace>,
}

struct Trace {
    id: String,
    address: String,
}

struct Letter {
    id: String,
    source: Text,
    op: Text,
    event: String,
    trigger: Option<TriggerId>,
    script: Option<ScriptId>,
    attempts: u32,
    first_attempt: Time,
    last_attempt: Time,
    created: Time,
    failed_again: Option<String>,
    resolved: Option<Resolved>,
    note: Option<Text>,
    /// The address of the bulk run that resolved this letter.
    run: Option<String>,
    is_open: bool,
    /// The address of all letters of the event.
    event_letters: String,
}

struct ActionsCard {
    operator: Text,
    replay: Option<String>,
    edit: Option<String>,
    resolve: Option<String>,
    reopen: Option<String>,
}

/// How the letter is removed, or its content.
struct RemoveCard {
    app: AppId,
    id: DeadLetterId,
    /// `None` if its content is erased already.
    erase: Option<String>,
    delete: String,
    /// The state that the page shows. A letter that has another one by then is not deleted.
    state: DeadLetterState,
}

struct EarlierFailure {
    address: String,
    created: Time,
    error: ErrorText,
    resolved: Option<Resolved>,
}

struct Payload {
    which: Which,
    size: String,
    kind: &'static str,
    content: Content,
    redacted: usize,
    download: String,
    /// Where a form reveals the redacted values, if the operator may see them.
    reveal: Option<String>,
    /// Where a form downloads the payload without redaction, if the operator may see it.
    whole: Option<String>,
    is_revealed: bool,
}

enum Content {
    Json(Vec<Word>),
    /// JSON as stored, because the layout would be too large.
    Compact(Text),
    /// A payload of the kind `text`, or one that cannot be laid out.
    Plain(Text),
    Large,
    Withheld,
}

/// A token of JSON and its class in the style sheet.
struct Word {
    class: Option<&'static str>,
    text: Text,
}

impl From<&Token<'_>> for Word {
    fn from(token: &Token<'_>) -> Self {
        let class = match token.kind {
            Kind::Key => Some("k"),
            Kind::String => Some("s"),
            Kind::Number => Some("n"),
            Kind::Literal => Some("l"),
            Kind::Redacted => Some("r"),
            Kind::Punctuation | Kind::Space => None,
        };
        Self { class, text: token.text.as_ref().into() }
    }
}

impl Payload {
    fn title(&self) -> &'static str {
        match self.which {
            Which::Own => "Payload",
            Which::Replayed => "Edited payload, put back by the last replay",
        }
    }

    /// Returns the id of the heading.
    fn heading(&self) -> &'static str {
        match self.which {
            Which::Own => "payload",
            Which::Replayed => "replayed-payload",
        }
    }

    fn redacted_fields(&self) -> String {
        format!("{} field{} redacted", self.redacted, if self.redacted == 1 { "" } else { "s" })
    }
}

pub(crate) async fn page(
    access: Access,
    LetterPath(app_id, id): LetterPath,
    root: Root,
    Referrer(referrer): Referrer,
    Query(mut fields): Query,
) -> Result<Response, Problem> {
    let access = access.app(app_id)?;
    let banner = fields.take("banner")?;
    let from = Back::take(&mut fields, "from")?;
    fields.end()?;
    let from = from.or_else(|| Back::of(&referrer?, app_id));
    shows(&access, &root, id, from, banner, false).await
}

/// Returns the page with the redacted values of the payload, if the operator may see them.
pub(crate) async fn reveal(
    access: Access,
    LetterPath(app_id, id): LetterPath,
    root: Root,
    Form(mut fields): Form,
) -> Result<Response, Problem> {
    let access = access.app(app_id)?;
    let from = Back::take(&mut fields, "from")?;
    fields.end()?;
    access.needs(Right::Payloads)?;
    shows(&access, &root, id, from, None, true).await
}

async fn shows(
    access: &AppAccess,
    root: &Root,
    id: DeadLetterId,
    from: Option<Back>,
    banner: Option<String>,
    reveals: bool,
) -> Result<Response, Problem> {
    let app_id = access.app_id;
    let store = access.store();
    let Some(letter) = store.summary(app_id, id).await? else { return gone(access, root, id, from).await };
    let error = store.error_text(app_id, id, 0..MAX_ERROR_CHARACTERS + 1).await?;
    let error = error.ok_or_else(Problem::no_such_letter)?;
    let metadata = Metadata::load(access, id, reveals).await?;
    let mut payloads = vec![payload(access, root, &letter, Which::Own, reveals).await?];
    if letter.replayed_payload_bytes.is_some() {
        payloads.push(payload(access, root, &letter, Which::Replayed, reveals).await?);
    }
    let has_revealed = payloads.iter().any(|payload| payload.is_revealed);
    if reveals && (has_revealed || !access.admin().metadata_redaction.is_empty()) {
        record_reveal(access, "revealed", id).await?;
    }
    let times = store.times_replayed(app_id, &[letter.original_event_id]).await?;
    let times = times.first().copied().unwrap_or_default();
    let earlier = earlier_failures(access, root, &letter, times).await?;
    let history = History::of(access, root, id, letter.run_id).await?;

    let end = error.char_indices().nth(MAX_ERROR_CHARACTERS as usize).map(|(end, _)| end);
    let similar = DeadLetterFilter::default().state(DeadLetterState::Any).group_key(letter.group_key.clone());
    let similar = root.letters(app_id, &similar.into());
    let similar = Some(similar).filter(|_| !letter.group_key.is_empty());
    let on = On::Letter(from.clone());
    let back = from.clone().unwrap_or_default();
    let mut response = html(&LetterPage {
        frame: Frame::of_app(root, access)
            .here("Letter")
            .banner(Banner::read(access.entered(), root, banner, Some(app_id), &on).await?),
        back_address: back.address(root, &[app_id]),
        back,
        hide: root.letter_from(app_id, id, from.as_ref()),
        from,
        error: ErrorText::new(&error[..end.unwrap_or(error.len())]),
        is_error_cut: end.is_some(),
        similar,
        signature: Text::cut(&letter.error_signature, 200),
        payloads,
        metadata: MetadataCard::new(access, root, id, metadata),
        actions: ActionsCard::new(access, root, &letter),
        remove: access.may(Right::Delete).then(|| RemoveCard {
            app: app_id,
            id,
            erase: (letter.payload_kind != Some(PayloadKind::Erased))
                .then(|| root.letter_action(app_id, id, "erase")),
            delete: root.bulk("preview"),
            state: if letter.is_open() { DeadLetterState::Open } else { DeadLetterState::Closed },
        }),
        more_earlier: times.saturating_sub(earlier.len() as u64 + u64::from(is_replayed(&letter))),
        earlier,
        history,
        command: Command::letter(app_id, id),
        letter: Letter::new(access, root, letter, times),
    })?;
    // The page shows a payload.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The page of a letter that is no longer stored, but was there: the history names it.
#[derive(Template)]
#[template(path = "gone.html")]
struct GonePage {
    frame: Frame,
    id: DeadLetterId,
    back: Back,
    back_address: String,
    history: History,
}

async fn gone(
    access: &AppAccess,
    root: &Root,
    id: DeadLetterId,
    from: Option<Back>,
) -> Result<Response, Problem> {
    let history = History::of(access, root, id, None).await?;
    if history.entries.is_empty() {
        return Err(Problem::no_such_letter());
    }
    let back = from.unwrap_or_default();
    let back_address = back.address(root, &[access.app_id]);
    let frame = Frame::of_app(root, access).here("Letter");
    let page = html(&GonePage { frame, id, back, back_address, history })?;
    Ok((StatusCode::GONE, page).into_response())
}

fn is_replayed(letter: &DeadLetterSummary) -> bool {
    letter.resolution == Some(Resolution::Replayed)
}

impl Letter {
    fn new(access: &AppAccess, root: &Root, letter: DeadLetterSummary, times: u64) -> Self {
        let of_event = DeadLetterFilter::default()
            .state(DeadLetterState::Any)
            .original_event_id(letter.original_event_id);
        Self {
            failed_again: failed_again(&letter, times),
            resolved: Resolved::of(&letter),
            is_open: letter.is_open(),
            id: letter.id.to_string(),
            source: Text::cut(&letter.source, 500),
            op: Text::cut(&letter.op, 500),
            event: letter.original_event_id.to_string(),
            trigger: letter.trigger_id,
            script: letter.script_id,
            attempts: letter.attempt_count,
            first_attempt: Time(letter.first_attempt_at),
            last_attempt: Time(letter.last_attempt_at),
            created: Time(letter.created_at),
            run: letter.run_id.map(|run_id| root.run(run_id, &[access.app_id])),
            note: letter.resolution_note.as_deref().map(|note| Text::cut(note, 2_000)),
            event_letters: root.letters(access.app_id, &of_event.into()),
        }
    }

    fn is_unresolved(&self) -> bool {
        self.resolved.is_none()
    }
}

impl MetadataCard {
    fn new(access: &AppAccess, root: &Root, id: DeadLetterId, metadata: Metadata) -> Self {
        let url = access.admin().trace_url.as_ref().zip(metadata.trace_parent());
        let field = |(key, value): (String, Value)| match value {
            Value::String(text) => (Text::from(key), Text::from(text)),
            other => (Text::from(key), Text::from(other.to_string())),
        };
        Self {
            trace: url.map(|(url, parent)| Trace { id: parent.trace_id(), address: url.of(parent) }),
            is_redacted: metadata.is_redacted,
            reveal: (metadata.is_redacted && access.may(Right::Payloads))
                .then(|| root.letter_action(access.app_id, id, "reveal")),
            fields: metadata.fields.unwrap_or_default().into_iter().map(field).collect(),
        }
    }
}

impl ActionsCard {
    fn new(access: &AppAccess, root: &Root, letter: &DeadLetterSummary) -> Option<Self> {
        let action = |right, is_meant: bool, action| {
            (is_meant && access.may(right)).then(|| root.letter_action(access.app_id, letter.id, action))
        };
        let is_erased = letter.payload_kind == Some(PayloadKind::Erased);
        let card = Self {
            operator: Text::cut(access.operator().name(), 100),
            // The service has nothing to put back of an erased letter.
            replay: action(Right::Replay, letter.is_open() && !is_erased, "replay"),
            edit: action(Right::Replay, letter.is_open() && access.may_edit() && is_editable(letter), "edit"),
            resolve: action(Right::Resolve, letter.is_open(), "resolve"),
            reopen: action(Right::Resolve, letter.resolved_at.is_some(), "reopen"),
        };
        let may_do = card.replay.is_some() || card.resolve.is_some() || card.reopen.is_some();
        may_do.then_some(card)
    }

    fn takes_note(&self) -> bool {
        self.replay.is_some() || self.resolve.is_some()
    }
}

/// Returns a payload as the page shows it. If `reveals` is set, nothing is redacted.
async fn payload(
    access: &AppAccess,
    root: &Root,
    letter: &DeadLetterSummary,
    which: Which,
    reveals: bool,
) -> Result<Payload, Problem> {
    let (app_id, id) = (access.app_id, letter.id);
    let (bytes, kind) = match which {
        Which::Own => (letter.payload_bytes, letter.payload_kind),
        Which::Replayed => (letter.replayed_payload_bytes.unwrap_or_default(), Some(PayloadKind::Json)),
    };
    let nothing = Redaction::default();
    let redaction = if reveals { &nothing } else { &access.admin().redaction };
    let (content, redacted) = match bytes <= MAX_SHOWN_BYTES {
        true => shown(&which.text(access, id, 0..u64::MAX).await?, kind, redaction),
        false => (Content::Large, 0),
    };
    let is_revealed = reveals && !matches!(content, Content::Large);
    let hides = redacted > 0 || matches!(content, Content::Withheld);
    let is_large = matches!(content, Content::Large) && !access.admin().redaction.is_empty();
    let may_see = access.may(Right::Payloads);
    let (download, whole) = match which {
        Which::Own => ("payload", "reveal"),
        Which::Replayed => ("replayed-payload", "replayed-payload/reveal"),
    };
    Ok(Payload {
        which,
        size: size(bytes),
        kind: match kind {
            // Another writer may also have stored a text that is not JSON.
            Some(PayloadKind::Json) if matches!(content, Content::Plain(_)) => {
                "as stored: not JSON, or deeper than 127 levels"
            }
            Some(PayloadKind::Json) => "JSON",
            Some(PayloadKind::Text) => "text, not JSON",
            Some(PayloadKind::Truncated) => "truncated: not the whole event",
            Some(PayloadKind::Erased) => "erased",
            Some(other) => other.as_str(),
            None => "of a kind that this version does not know",
        },
        content,
        redacted,
        download: root.payload(app_id, id, download),
        reveal: (hides && may_see).then(|| root.letter_action(app_id, id, "reveal")),
        whole: ((is_revealed || is_large) && may_see).then(|| root.payload(app_id, id, whole)),
        is_revealed,
    })
}

fn shown(text: &str, kind: Option<PayloadKind>, redaction: &Redaction) -> (Content, usize) {
    if kind == Some(PayloadKind::Text) && redaction.is_empty() {
        return (Content::Plain(text.into()), 0);
    }
    match pretty(text, redaction, MAX_TOKENS, MAX_LAID_OUT_BYTES) {
        Ok(Some(pretty)) => (Content::Json(pretty.tokens.iter().map(Word::from).collect()), pretty.redacted),
        Ok(None) => match redact(text, redaction) {
            Ok(redacted) => {
                let count = redacted.matches(REDACTED).count();
                (Content::Compact(redacted.into()), if redaction.is_empty() { 0 } else { count })
            }
            Err(_) => (Content::Withheld, 0),
        },
        Err(_) if redaction.is_empty() => (Content::Plain(text.into()), 0),
        Err(_) => (Content::Withheld, 0),
    }
}

/// Returns the other letters of the same event that were replayed. An index finds them, and a letter without any
/// takes no statement.
async fn earlier_failures(
    access: &AppAccess,
    root: &Root,
    letter: &DeadLetterSummary,
    times: u64,
) -> Result<Vec<EarlierFailure>, Problem> {
    if times == 0 {
        return Ok(Vec::new());
    }
    let filter = DeadLetterFilter::default()
        .state(DeadLetterState::Closed)
        .resolution(Resolution::Replayed)
        .original_event_id(letter.original_event_id);
    let page = PageRequest::default().size(EARLIER_FAILURES).scan_limit(scan(access.operator()));
    let letters = access.store().list(access.app_id, &filter, &page).await?.items;
    let others = letters.into_iter().filter(|other| other.id != letter.id);
    let failure = |letter: DeadLetterSummary| EarlierFailure {
        address: root.letter(access.app_id, letter.id),
        created: Time(letter.created_at),
        error: ErrorText::of_excerpt(&letter.error_excerpt),
        resolved: Resolved::of(&letter),
    };
    Ok(others.map(failure).collect())
}
