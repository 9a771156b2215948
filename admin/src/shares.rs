//! Finds the values that all or most payloads of a sample share.

use std::collections::{BTreeMap, BTreeSet};

use crate::payload::{Kind, Redaction, Walk};

const MAX_SHARES: usize = 20;
const MAX_VALUE_CHARACTERS: usize = 80;
/// Maximum number of values at one path of one payload, so that a sample of long lists is not copied as a whole.
const MAX_VALUES: usize = 100;
/// Longer paths are left out, because they are of no use to a reader.
const MAX_PATH_BYTES: usize = 200;
/// The first paths of a payload that are compared. All paths together could be many times as large as the payload.
const MAX_PLACES: usize = 2_000;

/// A value that most payloads have at the same path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Share {
    /// A JSON pointer, with `*` for each index.
    pub(crate) path: String,
    /// The value as JSON, cut to its beginning.
    pub(crate) value: String,
    /// Number of payloads that have the value.
    pub(crate) rows: usize,
    /// Number of payloads that could be read.
    pub(crate) of: usize,
}

/// Returns the values that at least four of five payloads share, the most frequent first. A single payload shares
/// nothing.
pub(crate) fn shares(payloads: &[String], redaction: &Redaction) -> Vec<Share> {
    let values: Vec<_> = payloads.iter().filter_map(|payload| values(payload, redaction)).collect();
    let of = values.len();
    if of < 2 {
        return Vec::new();
    }
    let mut rows = BTreeMap::<(String, String), usize>::new();
    for (path, value) in values
        .into_iter()
        .flatten()
        .flat_map(|(path, values)| values.into_iter().map(move |value| (path.clone(), value)))
    {
        *rows.entry((path, value)).or_default() += 1;
    }
    let is_shared = |rows: usize| rows >= 2 && rows * 5 >= of * 4;
    let shared = rows.into_iter().filter(|&(_, rows)| is_shared(rows));
    let mut shares: Vec<_> =
        shared.map(|((path, value), rows)| Share { path, value: cut(&value), rows, of }).collect();
    // The sort is stable, so equally frequent values stay in the order of their paths.
    shares.sort_by_key(|share| std::cmp::Reverse(share.rows));
    shares.truncate(MAX_SHARES);
    shares
}

/// Returns the distinct scalars of a payload by path, or `None` if the payload cannot be read.
fn values(payload: &str, redaction: &Redaction) -> Option<BTreeMap<String, BTreeSet<String>>> {
    let mut walk = Walk::new(payload, redaction).ok()?;
    let mut values = BTreeMap::<_, BTreeSet<_>>::new();
    while let Some(token) = walk.next().ok()? {
        if !matches!(token.kind, Kind::String | Kind::Number | Kind::Literal) {
            continue;
        }
        let Some(path) = walk.pointer(MAX_PATH_BYTES) else { continue };
        if values.len() >= MAX_PLACES && !values.contains_key(&path) {
            continue;
        }
        let here = values.entry(path).or_default();
        if here.len() < MAX_VALUES {
            here.insert(token.text.into_owned());
        }
    }
    Some(values)
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_VALUE_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(payloads: &[&str], pointers: &[&str]) -> Vec<String> {
        let payloads: Vec<_> = payloads.iter().map(|&payload| payload.to_owned()).collect();
        let redaction = Redaction::new(pointers.iter().copied()).unwrap();
        let show = |share: Share| format!("{} {} {}/{}", share.path, share.value, share.rows, share.of);
        shares(&payloads, &redaction).into_iter().map(show).collect()
    }

    #[test]
    fn values_that_all_share_come_before_values_that_four_of_five_share() {
        let payload = |n: u32, tier: &str| {
            format!(r#"{{"id":{n},"plan":"{tier}","lines":[{{"sku":"A"}},{{"sku":"B{n}"}}]}}"#)
        };
        let payloads: Vec<_> = (1..=5).map(|n| payload(n, if n == 5 { "pro" } else { "free" })).collect();
        let payloads: Vec<_> = payloads.iter().map(String::as_str).collect();
        assert_eq!(found(&payloads, &[]), [r#"/lines/*/sku "A" 5/5"#, r#"/plan "free" 4/5"#]);
    }

    #[test]
    fn redacted_values_and_unreadable_payloads_are_left_out() {
        let payloads = [r#"{"email":"a","x":1}"#, "{broken", r#"{"email":"a","x":1}"#];
        assert_eq!(found(&payloads, &["/email"]), ["/x 1 2/2"]);
    }

    #[test]
    fn values_with_the_same_beginning_are_not_the_same() {
        let payload = |end: &str| format!(r#"{{"text":"{}{end}"}}"#, "x".repeat(100));
        assert_eq!(found(&[&payload("a"), &payload("b")], &[]), [""; 0]);
    }

    #[test]
    fn a_value_after_a_long_list_is_found() {
        let list: Vec<_> = (0..5_000).map(|n| n.to_string()).collect();
        let payload = format!(r#"{{"a":[{}],"b":true}}"#, list.join(","));
        let found = found(&[&payload, &payload], &[]);
        // Equally frequent values are sorted by path, so those of the list come first.
        assert_eq!(found.len(), 20);
        let other = format!(r#"{{"a":[{}],"b":true}}"#, "7,".repeat(5_000) + "8");
        assert_eq!(self::found(&[&other, &other], &[]), ["/a/* 7 2/2", "/a/* 8 2/2", "/b true 2/2"]);
    }

    #[test]
    fn only_the_first_2000_places_of_a_payload_are_compared() {
        let members: Vec<_> = (0..5_000).map(|n| format!("\"k{n:04}\":{n}")).collect();
        let payload = format!("{{{}}}", members.join(","));
        let values = values(&payload, &Redaction::default()).unwrap();
        assert_eq!((values.len(), values.last_key_value().unwrap().0.as_str()), (2_000, "/k1999"));
    }

    #[test]
    fn one_payload_shares_nothing() {
        assert_eq!(found(&[r#"{"x":1}"#], &[]), [""; 0]);
        assert_eq!(found(&[], &[]), [""; 0]);
    }

    #[test]
    fn values_are_cut_and_there_are_twenty_at_most() {
        let long = format!("\"{}\"", "é".repeat(200));
        let members: Vec<_> = (10..40).map(|n| format!("\"k{n}\":{long}")).collect();
        let payload = format!("{{{}}}", members.join(","));
        let found = found(&[&payload, &payload], &[]);
        assert_eq!(found.len(), 20);
        assert_eq!(found[0], format!("/k10 \"{}… 2/2", "é".repeat(79)));
    }
}
