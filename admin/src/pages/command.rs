//! "View as command": shell commands that return what a page shows.

use std::borrow::Cow;

use dead_letters::{AppId, DeadLetterFilter, DeadLetterId, ListQuery, PageRequest};

use super::text::is_hidden;
use crate::bulk::Action;

/// Placeholder for the address of the mount point, which the server cannot know behind a proxy. The script replaces
/// it with the quoted address.
const ADDRESS: &str = "\"$DEAD_LETTERS_URL\"";

/// The same view as two commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Command {
    /// A call of the API.
    pub(crate) curl: String,
    /// A call of the command line tool.
    pub(crate) cli: String,
}

impl Command {
    pub(crate) fn apps() -> Self {
        Self { curl: curl("api/apps"), cli: "dead-letters apps".to_owned() }
    }

    pub(crate) fn letters(app_id: AppId, query: &ListQuery) -> Self {
        Self::listing("list", "letters", app_id, query)
    }

    pub(crate) fn groups(app_id: AppId, query: &ListQuery) -> Self {
        let page = PageRequest::default().scan_limit(query.page.scan_limit);
        Self::listing("groups", "groups", app_id, &ListQuery::new(query.filter.clone(), page))
    }

    /// Returns the commands for the preview of a bulk run.
    pub(crate) fn preview(apps: &[AppId], action: Action, filter: &DeadLetterFilter) -> Self {
        let query = ListQuery::from(filter.clone());
        let mut filter = serde_json::json!(filter);
        if let Some(fields) = filter.as_object_mut() {
            fields.retain(|_, value| !value.is_null() && *value != serde_json::json!({}));
        }
        let body = serde_json::json!({ "apps": apps, "action": action, "filter": filter }).to_string();
        Self {
            curl: format!("{} --json {}", curl("api/bulk/preview"), quoted(&body)),
            // A command of the tool names one app, or none.
            cli: apps.iter().map(|&app_id| tool("count", app_id, &query)).collect::<Vec<_>>().join("\n"),
        }
    }

    pub(crate) fn letter(app_id: AppId, id: DeadLetterId) -> Self {
        Self {
            curl: curl(&format!("api/apps/{app_id}/letters/{id}")),
            cli: format!("dead-letters show {id} --app {app_id}"),
        }
    }

    fn listing(command: &str, path: &str, app_id: AppId, query: &ListQuery) -> Self {
        let text = query.to_string();
        let joint = if text.is_empty() { "" } else { "?" };
        let cli = tool(command, app_id, query);
        Self { curl: curl(&format!("api/apps/{app_id}/{path}{joint}{text}")), cli }
    }
}

/// Returns a command of the tool over letters of the app.
fn tool(command: &str, app_id: AppId, query: &ListQuery) -> String {
    let mut cli = format!("dead-letters {command} --app {app_id}");
    for (name, value) in query.pairs() {
        let (option, value) = match name.strip_prefix("metadata.") {
            Some(key) => ("metadata".to_owned(), format!("{}={value}", metadata_key(key))),
            None => (option(&name), value),
        };
        // A value that begins with a dash would be read as an option.
        let joint = if value.starts_with('-') { '=' } else { ' ' };
        cli.push_str(&format!(" --{option}{joint}{}", quoted(&value)));
    }
    cli
}

/// Returns the tool's option for a field of the filter.
fn option(name: &str) -> String {
    match name {
        "group_key" => "group".to_owned(),
        "run_id" => "run".to_owned(),
        "created_from" => "since".to_owned(),
        "created_before" => "until".to_owned(),
        "resolved_from" => "resolved-since".to_owned(),
        "resolved_before" => "resolved-until".to_owned(),
        name => name.replace('_', "-"),
    }
}

/// Returns a key of the metadata for the option `--metadata`: as a JSON string, if its end would not be clear.
fn metadata_key(key: &str) -> Cow<'_, str> {
    match key.contains('=') || key.starts_with('"') {
        true => serde_json::json!(key).to_string().into(),
        false => key.into(),
    }
}

fn curl(path: &str) -> String {
    format!("curl {ADDRESS}{}", quoted(&format!("/{path}")))
}

/// Quotes a text as one word of a shell.
fn quoted(text: &str) -> Cow<'_, str> {
    // `=` is quoted, because zsh replaces `=x` by the path of the program x.
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,@%+".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.into();
    }
    if !text.contains(|c: char| is_hidden(c) || c == '\n' || c == '\t') {
        return format!("'{}'", text.replace('\'', r"'\''")).into();
    }
    // `$'…'` works in bash, zsh and ksh. Hidden characters are escaped, as on the pages.
    let mut word = "$'".to_owned();
    for c in text.chars() {
        match c {
            '\'' | '\\' => word.extend(['\\', c]),
            _ if is_hidden(c) || c == '\n' || c == '\t' => word.push_str(&format!("\\U{:08x}", u32::from(c))),
            _ => word.push(c),
        }
    }
    (word + "'").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dead_letters::{DeadLetterState, IdFilter};
    use uuid::Uuid;

    #[test]
    fn a_word_is_quoted_for_a_shell() {
        for (text, word) in [
            ("orders", "orders"),
            ("", "''"),
            ("$(reboot) `x` \"y\"", "'$(reboot) `x` \"y\"'"),
            ("it's", r"'it'\''s'"),
            ("=ls", "'=ls'"),
            ("~root", "'~root'"),
            ("a\nb\u{202e}c'\\", r"$'a\U0000000ab\U0000202ec\'\\'"),
        ] {
            assert_eq!(quoted(text), word);
        }
    }

    #[test]
    fn a_listing_is_the_same_one_by_the_api_and_by_the_command_line() {
        let app_id = AppId::from(Uuid::nil());
        let filter = DeadLetterFilter::default()
            .state(DeadLetterState::Open)
            .source("-o \"$x\"")
            .script_id(IdFilter::None)
            .error_contains("503")
            .metadata("a=b", "it's")
            .metadata("tenant", "acme");
        let command = Command::letters(app_id, &filter.into());
        assert_eq!(
            command.curl,
            format!(
                "curl \"$DEAD_LETTERS_URL\"'/api/apps/{app_id}/letters\
                 ?state=open&source=-o+%22%24x%22&script_id=none&error_contains=503&metadata.a%3Db=it%27s&metadata.tenant=acme'"
            )
        );
        let cli = format!(
            "dead-letters list --app {app_id} --state open --source='-o \"$x\"' --script-id none \
             --error-contains 503 --metadata '\"a=b\"=it'\\''s' --metadata 'tenant=acme'"
        );
        assert_eq!(command.cli, cli);
    }
}
