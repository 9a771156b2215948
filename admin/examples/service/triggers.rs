//! The triggers of events and their failures, each in a way that occurs in practice: see triggers.json.

use dead_letters::Resolution;
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use crate::Result;

#[derive(Deserialize)]
pub(crate) struct Trigger {
    pub(crate) id: Uuid,
    pub(crate) script_id: Uuid,
    /// Events of this source and operation set it off.
    pub(crate) source: String,
    pub(crate) op: String,
    /// Failures per hundred attempts. At 100 the event is to blame, and no replay helps.
    failures: u8,
    /// The payload of its events.
    payload: Value,
    /// The error of a failed attempt.
    error: String,
    pub(crate) past: Vec<Past>,
}

/// Letters that failed before the service started.
#[derive(Deserialize)]
pub(crate) struct Past {
    pub(crate) app: String,
    pub(crate) letters: usize,
    /// From and until.
    pub(crate) hours_ago: [i64; 2],
    pub(crate) resolution: Option<Resolution>,
    pub(crate) by: Option<String>,
    /// The event of all these letters, where one event failed again several times.
    pub(crate) event: Option<Uuid>,
}

pub(crate) fn all() -> Result<Vec<Trigger>> {
    Ok(serde_json::from_str(include_str!("triggers.json"))?)
}

impl Trigger {
    pub(crate) fn of<'a>(triggers: &'a [Self], source: &str, op: &str) -> Option<&'a Self> {
        triggers.iter().find(|trigger| (trigger.source.as_str(), trigger.op.as_str()) == (source, op))
    }

    /// Something out there that works or does not. An invoice works once somebody edited its `vat_id` to nine digits.
    pub(crate) fn run(&self, payload: &str) -> Result<(), String> {
        let payload: Value = serde_json::from_str(payload).unwrap_or_default();
        let digits = payload["vat_id"].as_str().map(|id| id.chars().filter(char::is_ascii_digit).count());
        if digits == Some(9) {
            return Ok(());
        }
        if random(100) < self.failures.into() { Err(self.error()) } else { Ok(()) }
    }

    pub(crate) fn error(&self) -> String {
        with_digits(&self.error)
    }

    pub(crate) fn payload(&self) -> String {
        with_digits(&self.payload.to_string())
    }
}

/// For each `#`.
fn with_digits(text: &str) -> String {
    text.chars().map(|c| if c == '#' { char::from(b'0' + random(10) as u8) } else { c }).collect()
}

/// Below this number.
pub(crate) fn random(below: usize) -> usize {
    Uuid::new_v4().as_u128() as usize % below
}
