//! Finds the message of an error, which is not always its first line.

/// How many bytes of an error's beginning and of its end are read.
pub(super) const MAX_READ: usize = 16 << 10;

/// The part of an error that identifies the failure.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub(super) text: &'a str,
    /// The root cause, if it has a line of its own.
    pub(super) cause: Option<&'a str>,
}

impl<'a> Message<'a> {
    pub(super) fn of(error: &'a str) -> Self {
        let head = error.get(..error.floor_char_boundary(MAX_READ)).unwrap_or_default();
        let rest = error.get(head.len()..).unwrap_or_default();
        let tail_start = rest.ceil_char_boundary(rest.len().saturating_sub(MAX_READ));
        let tail = rest.get(tail_start..).unwrap_or_default();
        // The tail's first line may be cut, so it is left out.
        let tail = if tail_start > 0 { tail.split_once('\n').map_or("", |(_, lines)| lines) } else { tail };
        if !head.contains('\n') {
            let text = without_preamble(head.trim());
            let title = if is_markup(text) { title(text) } else { None };
            return Self { text: title.unwrap_or(text), cause: None };
        }
        let mut reader = Reader::default();
        let (start, end) = if error.len() <= 2 * MAX_READ { (error, "") } else { (head, tail) };
        for line in start.lines().chain(end.lines()) {
            reader.read(line);
        }
        reader.finish(head)
    }
}

/// The findings so far.
#[derive(Debug, Default)]
struct Reader<'a> {
    /// The first lines with letters or digits.
    first: Option<&'a str>,
    second: Option<&'a str>,
    third: Option<&'a str>,
    /// Whether the next line with text is the message. Rust and Node print it below the panic's place, or below the
    /// source line.
    is_below: bool,
    below: Option<&'a str>,
    panic_at: Option<&'a str>,
    /// The indentation of the Python traceback whose frames are being read.
    frames: Option<usize>,
    exception: Option<&'a str>,
    exception_cause: Option<&'a str>,
    is_direct_cause: bool,
    /// The last cause of Java, Rust, .NET or Node, and the indentation of the first one.
    cause: Option<&'a str>,
    cause_indent: Option<usize>,
    in_causes: bool,
    go_panic: Option<&'a str>,
}

impl<'a> Reader<'a> {
    fn read(&mut self, line: &'a str) {
        let line = without_gutter(line);
        let text = line.trim();
        if text.is_empty() {
            self.in_causes = false;
            return;
        }
        let indent = line.len() - line.trim_start().len();
        if self.is_below && says_something(text) {
            self.is_below = false;
            self.below = Some(text);
        }
        match text.as_bytes().first() {
            Some(b'T') if text.starts_with("Traceback (most recent call last)") => {
                self.frames = Some(indent);
                self.first.get_or_insert(text);
                return;
            }
            Some(b'T') if text.starts_with("The above exception was the direct cause") => {
                self.is_direct_cause = true;
                return;
            }
            Some(b'E') if text.starts_with("Exception Group Traceback") => {
                self.frames = Some(indent);
                self.first.get_or_insert(text);
                return;
            }
            Some(b'D') if text.starts_with("During handling of the above exception") => {
                self.is_direct_cause = false;
                return;
            }
            Some(b'C') if text.starts_with("Caused by:") => {
                return self.read_cause(text.get("Caused by:".len()..).unwrap_or_default().trim(), indent);
            }
            Some(b'[') if text.starts_with("[cause]:") => {
                let cause = text.get("[cause]:".len()..).unwrap_or_default().trim();
                return self.read_cause(cause.trim_end_matches([' ', '{']), 0);
            }
            Some(b'-') if text.starts_with("---> ") => {
                return self.read_cause(text.trim_start_matches(['-', '>', ' ']), 0);
            }
            Some(b'p') if self.go_panic.is_none() && text.starts_with("panic: ") => {
                self.go_panic = Some(text)
            }
            Some(b'^' | b'~')
                if self.first.is_some_and(is_place) && text.bytes().all(|byte| b"^~ ".contains(&byte)) =>
            {
                self.is_below = self.below.is_none();
                return;
            }
            _ => {}
        }
        if let Some(frames) = self.frames {
            if indent <= frames && says_something(text) && !text.starts_with("+-") {
                self.frames = None;
                self.exception_cause =
                    if self.is_direct_cause { self.exception_cause.or(self.exception) } else { None };
                self.exception = Some(text);
                self.is_direct_cause = false;
            }
            return;
        }
        if self.in_causes {
            if indent > self.cause_indent.unwrap_or_default() {
                self.cause = Some(without_number(text));
                return;
            }
            self.in_causes = false;
        }
        if !says_something(text) || is_noise(text) {
            return;
        }
        if self.below.is_none()
            && self.panic_at.is_none()
            && text.starts_with("thread '")
            && text.ends_with(':')
            && let Some(panic) = text.find("panicked at ").and_then(|at| text.get(at..))
        {
            self.panic_at = Some(panic);
            self.is_below = true;
        }
        if self.first.is_none() {
            self.first = Some(text);
        } else if self.second.is_none() {
            self.second = Some(text);
        } else if self.third.is_none() {
            self.third = Some(text);
        }
    }

    fn read_cause(&mut self, cause: &'a str, indent: usize) {
        if indent > *self.cause_indent.get_or_insert(indent) {
            return;
        }
        if cause.is_empty() {
            self.in_causes = true;
        } else {
            self.cause = Some(cause);
        }
    }

    fn finish(self, head: &'a str) -> Message<'a> {
        if let Some(text) = self.exception {
            return Message { text: without_preamble(text), cause: self.exception_cause };
        }
        if let Some(text) = self.below {
            // The text includes the place of the panic, which names the file.
            let panic = self.panic_at.and_then(|place| between(head, place, text));
            return Message { text: panic.unwrap_or_else(|| without_preamble(text)), cause: self.cause };
        }
        let Some(first) = self.first else {
            return Message { text: head.trim(), cause: None };
        };
        if first.starts_with("goroutine ")
            && let Some(text) = self.go_panic
        {
            return Message { text, cause: None };
        }
        if is_markup(first) {
            return Message { text: title(head).unwrap_or(first), cause: None };
        }
        let text = without_preamble(first);
        if opens_json(head) {
            return Message { text: head.trim(), cause: None };
        }
        // If the text is only a label, the message follows it.
        let is_label = text.ends_with(':') && !text.contains(' ') || text.starts_with("terminate called ");
        let labeled = self.second.filter(|_| is_label);
        let labeled =
            labeled.and_then(|second| self.third.filter(|_| second.ends_with(':')).or(Some(second)));
        let labeled = labeled.and_then(|line| between(head, text, line));
        let is_thrown = self.third.is_some_and(|third| third.starts_with("at "));
        let thrown = self.second.filter(|second| is_thrown && is_exception(second));
        Message { text: labeled.unwrap_or(text), cause: self.cause.or(thrown) }
    }
}

/// Returns the line without the prefix that Python prints for an exception group.
fn without_gutter(line: &str) -> &str {
    let text = line.trim_start();
    match text.strip_prefix('|') {
        Some(text) => text,
        None if text.starts_with("+ Exception Group") => text.get(1..).unwrap_or_default(),
        None => line,
    }
}

fn says_something(text: &str) -> bool {
    text.chars().any(char::is_alphanumeric)
}

fn is_noise(text: &str) -> bool {
    text.starts_with("Picked up ") || text.starts_with("<?xml") && text.ends_with("?>")
}

/// Returns whether the text is a place such as `/app/index.js:10`, with which Node begins.
fn is_place(text: &str) -> bool {
    let line = text.rsplit_once(':').map(|(_, line)| line).unwrap_or_default();
    !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_digit()) && !text.contains(' ')
}

fn is_exception(text: &str) -> bool {
    let class = text.split_once(':').map_or(text, |(class, _)| class);
    class.contains('.')
        && !class.contains(' ')
        && (class.ends_with("Exception") || class.ends_with("Error") || class.ends_with("Failure"))
}

fn is_markup(text: &str) -> bool {
    let begins = |with: &str| text.get(..with.len()).is_some_and(|text| text.eq_ignore_ascii_case(with));
    begins("<!doctype html") || begins("<html")
}

fn title(head: &str) -> Option<&str> {
    let (_, rest) = head.split_once("<title>").or_else(|| head.split_once("<TITLE>"))?;
    let (title, _) = rest.split_once('<')?;
    says_something(title).then_some(title)
}

fn opens_json(head: &str) -> bool {
    let mut lines = head.trim_start().lines();
    let first = lines.next().unwrap_or_default().trim();
    !first.is_empty() && first.bytes().all(|byte| b"{[ ".contains(&byte)) && lines.next().is_some()
}

/// Returns the text of `head` from the beginning of `first` to the end of `last`, which stands behind it.
fn between<'a>(head: &'a str, first: &str, last: &str) -> Option<&'a str> {
    let start = head.find(first)?;
    let behind = start + first.len();
    let end = behind + head.get(behind..)?.find(last)? + last.len();
    head.get(start..end)
}

/// Returns a cause without the number that anyhow puts before it: `0: no such file`.
fn without_number(text: &str) -> &str {
    match text.split_once(": ") {
        Some((number, cause)) if number.bytes().all(|byte| byte.is_ascii_digit()) => cause,
        _ => text,
    }
}

/// Returns the text without the prefix that a runtime puts before the error.
fn without_preamble(text: &str) -> &str {
    if let Some(rest) = text.strip_prefix("Exception in thread \"") {
        return rest.split_once("\" ").map_or(text, |(_, error)| error);
    }
    if let Some(rest) =
        text.strip_prefix("Unhandled exception. ").or_else(|| text.strip_prefix("Unhandled Exception: "))
    {
        return rest;
    }
    if let Some(rest) = text.strip_prefix("<?xml") {
        return rest
            .split_once("?>")
            .map(|(_, rest)| rest.trim_start())
            .filter(|rest| !rest.is_empty())
            .unwrap_or(text);
    }
    if text.starts_with("thread '") {
        return text.find("panicked at ").and_then(|at| text.get(at..)).unwrap_or(text);
    }
    // Ruby's errors: `app.rb:5:in 'Order#save': no stock (RuntimeError)`.
    match text.split_once(":in ") {
        Some((place, rest)) if is_place(place) => rest.split_once("': ").map_or(text, |(_, error)| error),
        _ => text,
    }
}
