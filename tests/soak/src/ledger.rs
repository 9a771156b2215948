//! The ledger of acknowledged calls, and its comparison with the database.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
};

use chrono::{DateTime, TimeDelta, Utc};
use dead_letters::{AppId, DeadLetterId, DeadLetterRepoError};
use uuid::Uuid;

use crate::{
    actors::{KEPT, KEPT_CLOSED, KEPT_IN_FIRST_APP},
    store::{Acted, Contents, Letter},
};

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ending {
    Acknowledged,
    /// By us.
    Dropped,
    /// With an error that is an answer: somebody else was first.
    Refused,
    /// With an error that says so.
    Transient,
    /// With an error that nothing here explains.
    Unexplained(String),
}

impl Ending {
    pub(crate) fn of(error: &DeadLetterRepoError) -> Self {
        use DeadLetterRepoError::{
            AlreadyResolved, Db, Erased, EventNotTaken, NotFound, NotResolved, Replayed,
        };
        match error {
            AlreadyResolved { .. }
            | Erased(_)
            | NotFound(_)
            | NotResolved(_)
            | Replayed(_)
            | EventNotTaken { .. } => Self::Refused,
            // Our own: of a dispatcher that came second, or of an event that is in the outbox already.
            Db(sea_orm::DbErr::RecordNotUpdated) => Self::Refused,
            error if error.is_transient() => Self::Transient,
            error => Self::Unexplained(error.to_string()),
        }
    }
}

/// The ledger's entry for one letter.
#[derive(Default)]
struct Known {
    /// Its insert was acknowledged.
    stored: bool,
    /// The attempt that resolved it, if it was not reopened since.
    resolved_by: Option<String>,
    /// The attempt that resolved it before it was reopened.
    reopened_from: Option<String>,
    /// A trigger keeps it.
    is_undeletable: bool,
    is_deleted: bool,
    is_erased: bool,
}

/// The claims on a group's announcement.
#[derive(Default)]
struct Claims {
    /// How many were acknowledged.
    count: usize,
    /// When the lease of the last one ends, at the earliest. `None` if it may be confirmed: the group may regress then.
    leased_until: Option<DateTime<Utc>>,
}

pub(crate) struct Ledger {
    first_app: AppId,
    /// In this app, two letters have the same event.
    twins: AppId,
    /// In this app, letters are deleted before they are due.
    removed: AppId,
    calls: BTreeMap<&'static str, BTreeMap<Ending, usize>>,
    pub(crate) kills: usize,
    pub(crate) cuts: usize,
    pub(crate) locks: usize,
    letters: HashMap<DeadLetterId, Known>,
    /// How many letters the acknowledged calls of an attempt changed so.
    acted: HashMap<(String, &'static str), i64>,
    /// Events that must be somewhere.
    events: HashSet<Uuid>,
    /// Events of one call each, of which all must be somewhere or none.
    together: Vec<Vec<Uuid>>,
    claims: HashMap<(AppId, String), Claims>,
    /// Rows that sweeps said they deleted, and that the others may have.
    swept: u64,
    may_be_swept: u64,
    /// Found while it was kept.
    violations: Vec<String>,
}

impl Ledger {
    pub(crate) fn new(first_app: AppId, twins: AppId, removed: AppId) -> Self {
        Self {
            first_app,
            twins,
            removed,
            calls: BTreeMap::new(),
            kills: 0,
            cuts: 0,
            locks: 0,
            letters: HashMap::new(),
            acted: HashMap::new(),
            events: HashSet::new(),
            together: Vec::new(),
            claims: HashMap::new(),
            swept: 0,
            may_be_swept: 0,
            violations: Vec::new(),
        }
    }

    pub(crate) fn count(&mut self, call: &'static str, ending: Ending) {
        *self.calls.entry(call).or_default().entry(ending).or_default() += 1;
    }

    pub(crate) fn enqueued(&mut self, events: &[Uuid]) {
        self.events.extend(events);
    }

    pub(crate) fn together(&mut self, events: &[Uuid]) {
        self.together.push(events.to_vec());
    }

    pub(crate) fn stored(&mut self, id: DeadLetterId, event: Uuid) {
        self.events.insert(event);
        self.stored_twin(id);
    }

    /// Whose event another letter has too.
    pub(crate) fn stored_twin(&mut self, id: DeadLetterId) {
        let known = self.letters.entry(id).or_default();
        if std::mem::replace(&mut known.stored, true) {
            self.violations.push(format!("two inserts got the id {id}"));
        }
    }

    pub(crate) fn archived_undeletable(&mut self, id: DeadLetterId) {
        self.violations.push(format!("{id} was archived, and the trigger keeps it"));
    }

    pub(crate) fn is_undeletable(&mut self, id: DeadLetterId) {
        self.letters.entry(id).or_default().is_undeletable = true;
    }

    pub(crate) fn closed(&mut self, ids: &[DeadLetterId], attempt: &str) {
        for id in ids {
            let known = self.letters.entry(*id).or_default();
            if let Some(earlier) = known.resolved_by.replace(attempt.to_owned()) {
                self.violations.push(format!("{id} was closed by {earlier}, then by {attempt}"));
            }
        }
    }

    /// Must come before the call, because from here on others may resolve the letter.
    pub(crate) fn may_reopen(&mut self, id: DeadLetterId) {
        self.letters.entry(id).or_default().resolved_by = None;
    }

    pub(crate) fn reopened(&mut self, id: DeadLetterId, attempt: &str) {
        self.letters.entry(id).or_default().reopened_from = Some(attempt.to_owned());
    }

    /// Notes that a call of this attempt was acknowledged, and how many letters it changed.
    pub(crate) fn acted(&mut self, attempt: &str, action: &'static str, letters: usize) {
        *self.acted.entry((attempt.to_owned(), action)).or_default() += letters as i64;
    }

    pub(crate) fn deleted(&mut self, ids: &[DeadLetterId]) {
        for id in ids {
            self.letters.entry(*id).or_default().is_deleted = true;
        }
    }

    pub(crate) fn erased(&mut self, ids: &[DeadLetterId]) {
        for id in ids {
            self.letters.entry(*id).or_default().is_erased = true;
        }
    }

    /// Notes an acknowledged claim, and returns its number.
    pub(crate) fn claimed(&mut self, group: &(AppId, String), until: DateTime<Utc>) -> usize {
        let claims = self.claims.entry(group.clone()).or_default();
        if claims.leased_until.is_some_and(|until| Utc::now() < until) {
            self.violations.push(format!("{group:?} was claimed while another claim was leased"));
        }
        *claims = Claims { count: claims.count + 1, leased_until: Some(until) };
        claims.count
    }

    /// Must come before the call. Returns the number of the last claim.
    pub(crate) fn may_confirm(&mut self, group: &(AppId, String), number: usize) -> usize {
        let claims = self.claims.entry(group.clone()).or_default();
        if claims.count == number {
            claims.leased_until = None;
        }
        claims.count
    }

    /// Notes that a claim was confirmed. `last` is the number of the last claim before the call.
    pub(crate) fn confirmed(&mut self, group: &(AppId, String), number: usize, last: usize) {
        if number < last {
            self.violations
                .push(format!("{group:?}: the claim {number} was confirmed after the claim {last}"));
        }
    }

    pub(crate) fn swept(&mut self, rows: Option<u64>, limit: u64) {
        match rows {
            Some(rows) if rows > limit => {
                self.violations.push(format!("a sweep of {limit} deleted {rows}"));
            }
            Some(rows) => self.swept += rows,
            None => self.may_be_swept += limit,
        }
    }

    /// Everything that is wrong.
    pub(crate) fn compare(&self, contents: &Contents) -> Vec<String> {
        let mut violations = self.violations.clone();
        for (call, endings) in &self.calls {
            for (ending, times) in endings {
                if let Ending::Unexplained(error) = ending {
                    violations.push(format!("{call}, {times} times: {error}"));
                }
            }
        }
        self.compare_events(contents, &mut violations);
        self.compare_letters(contents, &mut violations);
        self.compare_replays(contents, &mut violations);
        self.compare_sweeps(contents, &mut violations);
        self.compare_twins(contents, &mut violations);
        self.compare_history(contents, &mut violations);
        violations
    }

    /// Checks that each event is in one place: the outbox, or a letter that was not put back. An event that
    /// nobody acknowledged may be missing.
    fn compare_events(&self, contents: &Contents, violations: &mut Vec<String>) {
        let mut places: HashMap<Uuid, usize> = HashMap::new();
        let is_single = |letter: &&Letter| letter.app_id != self.twins.into_inner();
        let letters = contents.letters.iter().filter(|letter| !letter.is_replayed()).filter(is_single);
        for &event in contents.outbox.iter().chain(letters.map(|letter| &letter.event)) {
            *places.entry(event).or_default() += 1;
        }
        for (event, places) in &places {
            if *places > 1 {
                violations.push(format!("the event {event} is in {places} places"));
            }
        }
        for event in self.events.iter().filter(|event| !places.contains_key(event)) {
            violations.push(format!("the event {event} is nowhere"));
        }
        // Those of a call that was acknowledged are among the events above.
        let open =
            self.together.iter().filter(|events| !events.iter().any(|event| self.events.contains(event)));
        for events in open {
            let stored = events.iter().filter(|event| places.contains_key(event)).count();
            if stored != 0 && stored != events.len() {
                violations
                    .push(format!("of {} letters of one insert_many {stored} are stored", events.len()));
            }
        }
    }

    /// Each that was acknowledged is there, once, and as it was acknowledged last.
    fn compare_letters(&self, contents: &Contents, violations: &mut Vec<String>) {
        let mut found: HashMap<Uuid, &Letter> = HashMap::new();
        for letter in &contents.letters {
            if found.insert(letter.id, letter).is_some() {
                violations.push(format!("the letter {} is there twice", letter.id));
            }
        }
        for (id, known) in &self.letters {
            let Some(letter) = found.get(&id.into_inner()) else {
                violations.push(format!("the letter {id} is gone"));
                continue;
            };
            let by = &letter.resolved_by;
            if known.resolved_by.is_some() && *by != known.resolved_by {
                violations.push(format!("{id} was closed by {:?}, and is by {by:?}", known.resolved_by));
            }
            if known.is_undeletable && letter.swept_at.is_some() {
                violations.push(format!("{id} was swept, and the trigger does not let it go"));
            }
            if known.is_deleted && letter.swept_at.is_none() {
                violations.push(format!("{id} was deleted, and is there"));
            }
            if known.is_erased && !letter.is_erased && letter.swept_at.is_none() {
                violations.push(format!("{id} was erased, and has its content"));
            }
            if known.reopened_from.is_some() && *by == known.reopened_from {
                violations.push(format!("{id} was reopened, and is closed by {by:?} as before"));
            }
        }
    }

    /// Checks that each replayed letter was put back once, by the attempt that resolved it, and that nothing
    /// else was put back.
    fn compare_replays(&self, contents: &Contents, violations: &mut Vec<String>) {
        let replayed = contents.letters.iter().filter(|letter| letter.is_replayed());
        let replayed: HashSet<_> =
            replayed.map(|letter| (letter.id, letter.resolved_by.as_deref())).collect();
        let mut enqueued = HashSet::new();
        for row in &contents.enqueued {
            if !enqueued.insert((row.letter, Some(row.attempt.as_str()))) {
                violations.push(format!("{} was put back twice by {}", row.letter, row.attempt));
            }
        }
        for (letter, attempt) in replayed.difference(&enqueued) {
            violations.push(format!("{letter} is replayed by {attempt:?}, which did not put it back"));
        }
        for (letter, attempt) in enqueued.difference(&replayed) {
            violations.push(format!("{letter} was put back by {attempt:?}, which did not close it"));
        }
    }

    /// Checks that each replayed letter put its event back once, also where another letter has the same event.
    fn compare_twins(&self, contents: &Contents, violations: &mut Vec<String>) {
        let mut times: HashMap<Uuid, (usize, usize)> = HashMap::new();
        let twins = contents.letters.iter().filter(|letter| letter.app_id == self.twins.into_inner());
        for letter in twins.filter(|letter| letter.is_replayed()) {
            times.entry(letter.event).or_default().0 += 1;
        }
        for &event in &contents.twins {
            times.entry(event).or_default().1 += 1;
        }
        for (event, (replayed, back)) in times.into_iter().filter(|(_, (replayed, back))| replayed != back) {
            violations.push(format!(
                "{replayed} letters of {event} are replayed, and it was put back {back} times"
            ));
        }
    }

    /// Checks that the history has each acknowledged change with its letters, and the attempt of each closed letter.
    fn compare_history(&self, contents: &Contents, violations: &mut Vec<String>) {
        let key = |row: &Acted| (row.attempt.clone(), row.action.clone());
        let found: HashMap<_, _> = contents.history.iter().map(|row| (key(row), row.letters)).collect();
        for ((attempt, action), letters) in &self.acted {
            let found = found.get(&(attempt.clone(), (*action).to_owned())).copied().unwrap_or_default();
            if found != *letters {
                violations
                    .push(format!("{attempt} did {action} {letters} letters, and the history has {found}"));
            }
        }
        let attempts: HashSet<_> = contents.history.iter().map(|row| row.attempt.as_str()).collect();
        for letter in &contents.letters {
            if let Some(by) = letter.resolved_by.as_deref().filter(|by| !attempts.contains(by)) {
                violations
                    .push(format!("{} was closed by {by}, of which the history has nothing", letter.id));
            }
        }
    }

    fn compare_sweeps(&self, contents: &Contents, violations: &mut Vec<String>) {
        let swept: Vec<_> = contents.letters.iter().filter(|letter| letter.swept_at.is_some()).collect();
        let (rows, least, most) = (swept.len() as u64, self.swept, self.swept + self.may_be_swept);
        if !(least..=most).contains(&rows) {
            violations.push(format!("sweeps deleted {rows}, and said {least} to {most}"));
        }
        let is_removed = |letter: &Letter| letter.app_id == self.removed.into_inner();
        let early = swept.iter().filter(|letter| !letter.was_due(self.first_app) && !is_removed(letter));
        for letter in early {
            violations.push(format!("{} was swept before its time", letter.id));
        }
    }
}

impl Letter {
    fn is_replayed(&self) -> bool {
        self.resolution.as_deref() == Some("replayed")
    }

    fn was_due(&self, first_app: AppId) -> bool {
        // SQLite's clock has milliseconds.
        let Some(swept_at) = self.swept_at.map(|time| time + TimeDelta::milliseconds(1)) else {
            return false;
        };
        let kept = if self.app_id == first_app.into_inner() { KEPT_IN_FIRST_APP } else { KEPT };
        self.created_at < swept_at - kept
            || self.resolved_at.is_some_and(|time| time < swept_at - KEPT_CLOSED)
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (call, endings) in &self.calls {
            let calls: usize = endings.values().sum();
            let of = |ending| endings.get(&ending).copied().unwrap_or_default();
            writeln!(
                f,
                "  {call:34} {calls:7} calls: {:7} acknowledged, {:6} dropped, {:6} refused, {:6} transient",
                of(Ending::Acknowledged),
                of(Ending::Dropped),
                of(Ending::Refused),
                of(Ending::Transient)
            )?;
        }
        write!(
            f,
            "  {} kills, {} cuts, {} locks; {} letters and {} events acknowledged, {} swept",
            self.kills,
            self.cuts,
            self.locks,
            self.letters.len(),
            self.events.len(),
            self.swept
        )
    }
}
