//! Apps and letters as people name them: by a whole id, or by a part of it.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    str::FromStr,
    sync::Arc,
};

use dead_letters::{AppId, DeadLetterFilter, DeadLetterId, DeadLetterState, DeadLetterStore, PageRequest};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};

use crate::{error::Failure, settings::Settings};

/// Digits of a short id. The tables print as many.
const SHORT: usize = 8;
/// How many of an app's newest letters a short id is looked up among.
const NEWEST: usize = 10_000;
/// Letters per page of a look-up.
const PAGE: u32 = 500;
/// Apps per page of all apps.
const APPS: u32 = 1_000;
/// Apps that an error names.
const CANDIDATES: usize = 10;
/// The most ids that are read from standard input.
const READ: usize = 100_000;

/// An app's id, the beginning of one, or the app's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum App {
    Is(AppId),
    Named(String),
}

impl FromStr for App {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(id) => Ok(Self::Is(id)),
            Err(_) if text.is_empty() => {
                Err("an app is a UUID or the beginning of one, for example 6f1c2a52")
            }
            Err(_) => Ok(Self::Named(text.to_owned())),
        }
    }
}

/// The service's names of its apps.
#[derive(Clone)]
pub(crate) struct AppNames(Arc<dyn Fn(AppId) -> Option<String> + Send + Sync>);

impl AppNames {
    pub(crate) fn new(name: impl Fn(AppId) -> Option<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(name))
    }

    pub(crate) fn name(&self, id: AppId) -> Option<String> {
        (self.0)(id)
    }

    /// Returns the app's name, or the beginning of its id, as the tables print it.
    pub(crate) fn short(&self, id: AppId) -> String {
        self.name(id).unwrap_or_else(|| id.to_string().chars().take(SHORT).collect())
    }
}

impl Default for AppNames {
    fn default() -> Self {
        Self::new(|_| None)
    }
}

impl fmt::Debug for AppNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppNames").finish_non_exhaustive()
    }
}

/// A letter's id, or its last digits. The first digits of ids that were made in one minute are the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Letter {
    Is(DeadLetterId),
    /// Lowercase digits.
    Ends(String),
    /// The ids are on standard input.
    Stdin,
}

impl FromStr for Letter {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(id) => Ok(Self::Is(id)),
            Err(_) if text == "-" => Ok(Self::Stdin),
            Err(_) if text.len() == SHORT && text.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                Ok(Self::Ends(text.to_ascii_lowercase()))
            }
            Err(_) => Err(
                "an id is a UUID or its last 8 digits, for example 01a21d05-39cf-732a-8680-093ee59badc8 or e59badc8",
            ),
        }
    }
}

/// Returns a letter's id as the tables print it.
pub(crate) fn short_letter(id: DeadLetterId) -> String {
    let id = id.to_string();
    id[id.len() - SHORT..].to_owned()
}

/// Returns a group's key as the tables print it.
pub(crate) fn short_key(key: &str) -> String {
    key.chars().take(SHORT).collect()
}

/// Returns the app of the option, or every app that has letters in the state.
pub(crate) async fn apps(
    store: &dyn DeadLetterStore,
    settings: &Settings,
    app: Option<App>,
    state: DeadLetterState,
) -> Result<Vec<AppId>, Failure> {
    match app {
        Some(app) => Ok(vec![named_app(store, settings, app).await?]),
        None => all_apps(store, state).await,
    }
}

async fn all_apps(store: &dyn DeadLetterStore, state: DeadLetterState) -> Result<Vec<AppId>, Failure> {
    let mut apps = Vec::new();
    loop {
        let page = store.apps(state, apps.last().copied(), APPS).await?;
        let is_last = page.len() < APPS as usize;
        apps.extend(page);
        if is_last {
            return Ok(apps);
        }
    }
}

/// Finds the app among those that have letters: by its name, or else by the beginning of its id, of as many digits as
/// tables print. A shorter text may be the name of an app that has no letters.
pub(crate) async fn named_app(
    store: &dyn DeadLetterStore,
    settings: &Settings,
    app: App,
) -> Result<AppId, Failure> {
    let text = match app {
        App::Is(id) => return Ok(id),
        App::Named(text) => text,
    };
    let mut found = all_apps(store, DeadLetterState::Any).await?;
    let has_name = |id: &AppId| settings.apps.name(*id).as_deref() == Some(&*text);
    match found.iter().any(has_name) {
        true => found.retain(has_name),
        false => {
            found.retain(|id| text.len() >= SHORT && id.to_string().starts_with(&text.to_ascii_lowercase()))
        }
    }
    match found[..] {
        [id] => Ok(id),
        [] => Err(Failure::usage(format!(
            "--app {text}: no app with letters has this name, or an ID that begins so"
        ))
        .hint("pass the ID or its first 8 digits, or list the apps with `apps`")),
        _ => {
            let found: Vec<_> = found.iter().take(CANDIDATES).map(ToString::to_string).collect();
            Err(Failure::usage(format!("--app {text}: it can be one of several apps: {}", found.join(", "))))
        }
    }
}

/// The letters that a command names, by app.
#[derive(Debug, Default)]
pub(crate) struct Located {
    pub(crate) by_app: Vec<(AppId, Vec<DeadLetterId>)>,
    /// The ids that no app has. If the command names its app, the command itself finds that out.
    pub(crate) missing: Vec<DeadLetterId>,
}

/// Finds the letters: in the app, or in all apps. Reads the ids from standard input if one of them is `-`.
pub(crate) async fn locate(
    store: &dyn DeadLetterStore,
    settings: &Settings,
    app: Option<App>,
    letters: Vec<Letter>,
) -> Result<Located, Failure> {
    let letters = with_stdin(letters).await?;
    let is_whole = |letter: &Letter| match letter {
        Letter::Is(id) => Some(*id),
        Letter::Ends(_) | Letter::Stdin => None,
    };
    let app = match app {
        Some(app) => Some(named_app(store, settings, app).await?),
        None => None,
    };
    let mut seen = HashSet::new();
    let whole: Vec<_> = letters.iter().filter_map(is_whole).collect();
    if let Some(app) = app.filter(|_| whole.len() == letters.len()) {
        let whole = whole.into_iter().filter(|&id| seen.insert(id)).collect();
        return Ok(Located { by_app: vec![(app, whole)], missing: Vec::new() });
    }
    let mut found: BTreeMap<&str, Vec<(AppId, DeadLetterId)>> = BTreeMap::new();
    for letter in &letters {
        if let Letter::Ends(end) = letter {
            found.entry(end).or_default();
        }
    }
    let mut of_whole = BTreeMap::new();
    for app_id in apps(store, settings, app.map(App::Is), DeadLetterState::Any).await? {
        if !found.is_empty() {
            look_up(store, app_id, &mut found).await?;
        }
        for ids in whole.chunks(PAGE as usize).filter(|_| app.is_none()) {
            let these = DeadLetterFilter::default().ids(ids);
            let page = store.list(app_id, &these, &PageRequest::default().size(PAGE)).await?;
            of_whole.extend(page.items.iter().map(|letter| (letter.id, app_id)));
        }
    }
    let mut located = Located::default();
    for letter in &letters {
        let (app_id, id) = match letter {
            Letter::Is(id) => match app.or_else(|| of_whole.get(id).copied()) {
                Some(app_id) => (app_id, *id),
                None => {
                    located.missing.extend(seen.insert(*id).then_some(*id));
                    continue;
                }
            },
            Letter::Ends(end) => only(end, &found[&**end], app)?,
            Letter::Stdin => continue,
        };
        if !seen.insert(id) {
            continue;
        }
        match located.by_app.iter_mut().find(|(of, _)| *of == app_id) {
            Some((_, ids)) => ids.push(id),
            None => located.by_app.push((app_id, vec![id])),
        }
    }
    Ok(located)
}

/// Finds the ends among the app's newest letters.
async fn look_up(
    store: &dyn DeadLetterStore,
    app_id: AppId,
    found: &mut BTreeMap<&str, Vec<(AppId, DeadLetterId)>>,
) -> Result<(), Failure> {
    let any = DeadLetterFilter::default().state(DeadLetterState::Any);
    let mut page = PageRequest::default().size(PAGE);
    for _ in 0..NEWEST / PAGE as usize {
        let letters = store.list(app_id, &any, &page).await?;
        for letter in letters.items {
            if let Some(found) = found.get_mut(&*short_letter(letter.id)) {
                found.push((app_id, letter.id));
            }
        }
        page.after = letters.next;
        if page.after.is_none() {
            break;
        }
    }
    Ok(())
}

fn only(
    end: &str,
    found: &[(AppId, DeadLetterId)],
    app: Option<AppId>,
) -> Result<(AppId, DeadLetterId), Failure> {
    match found {
        [letter] => Ok(*letter),
        [] => {
            let of = app.map_or("of any app".to_owned(), |app| format!("of the app {app}"));
            Err(Failure::not_found(format!("no letter {of} has an ID that ends in {end}"))
                .hint("short IDs are looked up among an app's newest 10,000 letters; pass the whole ID"))
        }
        several => {
            let several: Vec<_> = several.iter().map(|(_, id)| id.to_string()).collect();
            Err(Failure::usage(format!("{end}: several letters end so: {}", several.join(", "))))
        }
    }
}

/// Replaces `-` by the ids on standard input, which white space separates.
async fn with_stdin(letters: Vec<Letter>) -> Result<Vec<Letter>, Failure> {
    if !letters.contains(&Letter::Stdin) {
        return Ok(letters);
    }
    let mut letters: Vec<_> = letters.into_iter().filter(|letter| *letter != Letter::Stdin).collect();
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines
        .next_line()
        .await
        .map_err(|error| Failure::failed(format!("cannot read standard input: {error}")))?
    {
        for word in line.split_whitespace() {
            let letter = word.parse().ok().filter(|letter| *letter != Letter::Stdin);
            letters.push(
                letter.ok_or_else(|| Failure::usage("standard input: a line is not the ID of a letter"))?,
            );
            if letters.len() > READ {
                return Err(Failure::usage(format!("standard input has more than {READ} IDs")));
            }
        }
    }
    Ok(letters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_is_named_by_the_beginning_of_its_id_and_a_letter_by_the_end() {
        assert_eq!("6F1c".parse(), Ok(App::Named("6F1c".to_owned())));
        assert_eq!("e59BADC8".parse(), Ok(Letter::Ends("e59badc8".to_owned())));
        assert_eq!("-".parse(), Ok(Letter::Stdin));
        assert!("".parse::<App>().is_err());
        for not in ["", "x", "6f1c_", "orders", "e59badc"] {
            assert!(not.parse::<Letter>().is_err(), "{not}");
        }
        let id: DeadLetterId = "01a21d05-39cf-732a-8680-093ee59badc8".parse().unwrap();
        assert_eq!(short_letter(id), "e59badc8");
        let app_id = id.into_inner().into();
        assert_eq!(AppNames::default().short(app_id), "01a21d05");
        assert_eq!(AppNames::new(|_| Some("shop".to_owned())).short(app_id), "shop");
    }
}
