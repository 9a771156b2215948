//! The words that the rules use. A new case usually needs one more word here.

/// The meaning of a word for the value behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The word has no meaning for the value.
    Plain,
    /// A code follows, which is kept: `status 404`, `errno=13`, `SQLSTATE 23505`.
    Code,
    /// A status of three digits follows, which is kept: `HTTP 503`, `smtp: 451`.
    Status,
    /// A code follows, unless a colon stands between: `os error 2`, but not `error: 5 rows`.
    Error,
    /// A status from 400 to 599 may follow, which is kept: `returned 502`.
    Answer,
    /// A following "state" or "number" is a [`Code`](Self::Code): `SQL state`, `alert number`.
    Qualifier,
    /// The name of a user follows, which is masked.
    User,
    /// If "for" follows, the next word is an [`Account`](Self::Account): `password for`.
    ForUser,
    /// The name of a user follows, or "user" and then the name. The name is masked.
    Account,
    /// The name of a machine follows, which is masked.
    Host,
    /// The name of a machine follows, which is masked if it has a port.
    Peer,
    /// An identifier follows, which is masked.
    Id,
    /// A part of the program follows, which is kept: `column "email"`.
    Name,
    /// A value that somebody entered follows, which is masked: `Duplicate entry 'a b c'`.
    Value,
    /// A reason follows, which is kept: `reason: "expired"`.
    Reason,
    /// The path of a URL follows: `GET /v1/orders`.
    Method,
}

/// A word of up to 16 bytes in lower case, as a number that a binary search finds in a list. A longer word is
/// zero, which is in no list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key(u128);

impl Key {
    pub(super) const fn of(word: &str) -> Self {
        let bytes = word.as_bytes();
        let mut key = 0;
        let mut at = 0;
        while at < bytes.len() && bytes.len() <= 16 {
            key = key << 8 | bytes[at].to_ascii_lowercase() as u128;
            at += 1;
        }
        Self(key)
    }
}

/// Words, each with its meaning, sorted at compile time.
struct List<T, const N: usize>([(u128, T); N]);

impl<T: Copy, const N: usize> List<T, N> {
    /// Creates a list from texts. Each text has the words of one meaning, separated by single blanks.
    const fn new(texts: &[(T, &str)]) -> Self {
        let mut sorted = [(0, texts[0].0); N];
        let (mut text, mut length) = (0, 0);
        while text < texts.len() {
            let (meaning, words) = (texts[text].0, texts[text].1.as_bytes());
            let (mut at, mut key) = (0, 0);
            while at <= words.len() {
                if at < words.len() && words[at] != b' ' {
                    key = key << 8 | words[at] as u128;
                } else {
                    let mut place = length;
                    while place > 0 && sorted[place - 1].0 > key {
                        sorted[place] = sorted[place - 1];
                        place -= 1;
                    }
                    sorted[place] = (key, meaning);
                    length += 1;
                    key = 0;
                }
                at += 1;
            }
            text += 1;
        }
        Self(sorted)
    }

    fn has(&self, key: Key) -> bool {
        self.get(key).is_some()
    }

    fn get(&self, key: Key) -> Option<T> {
        let at = self.0.binary_search_by_key(&key.0, |&(word, _)| word).ok()?;
        self.0.get(at).map(|&(_, meaning)| meaning)
    }
}

const fn count<T>(texts: &[(T, &str)]) -> usize {
    let (mut text, mut words) = (0, 0);
    while text < texts.len() {
        let bytes = texts[text].1.as_bytes();
        let mut at = 0;
        words += 1;
        while at < bytes.len() {
            if bytes[at] == b' ' {
                words += 1;
            }
            at += 1;
        }
        text += 1;
    }
    words
}

const MEANING_WORDS: &[(Meaning, &str)] = &[
    (
        Meaning::Code,
        "code codes dsn errno exit exited exits hresult ntstatus rc retcode signal sqlcode sqlstate stat \
        status winerror",
    ),
    (Meaning::Status, "esmtp http https lmtp smtp"),
    (Meaning::Error, "err error"),
    (
        Meaning::Answer,
        "answered failed gave got received rejected replied reply responded response return returned \
        returns said server upstream with",
    ),
    (Meaning::Qualifier, "alert sql"),
    (Meaning::User, "login logname ruser user userid username"),
    (Meaning::ForUser, "access auth authentication credentials failure failures logon mailbox password"),
    (Meaning::Host, "eai_again enotfound lookup"),
    (Meaning::Peer, "addr address at broker connect connecting from host hostname peer tcp to"),
    (Meaning::Id, "guid hostid id ids reqid requestid token traceid uuid"),
    (
        Meaning::Name,
        "algorithm argument arguments attribute bean class column columns command constraint crate database \
        encoding enum exchange extension feature field fields flag function header import index interface \
        key keys member method module namespace object operator option package param parameter plugin \
        properties property protocol queue reading relation role schema scope sequence service setting \
        statement struct table template topic trait trigger type variable view",
    ),
    (Meaning::Value, "entry input literal named near parsing string text title value values variant"),
    (
        Meaning::Reason,
        "because cause caused desc description detail details errors exception fault kind message msg \
        panicked reason result state str",
    ),
    (Meaning::Method, "delete endpoint get head options patch post put route uri url"),
];
static MEANINGS: List<Meaning, { count(MEANING_WORDS) }> = List::new(MEANING_WORDS);

/// Defines a list of words that have one meaning.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $words:literal) => {
        $(#[$doc])*
        static $name: List<(), { count(&[((), $words)]) }> = List::new(&[((), $words)]);
    };
}

words! {
    /// Words that follow "user" and are not a name.
    NOT_NAMES,
    "a account accounts agent already an and are as at attempt authentication authorization belongs bucket \
    but by can canceled cancelled cannot client column could creation credentials customer data database \
    deactivated defined deleted denied did directory disabled do does doesn email error event exists expired \
    failed failure field file for from function group had has have home host id in index info input \
    interface is isn key limit list locked logged login lookup mailbox may message mode model must name \
    namespace needs no not object of on or password path permission permissions pool preferences privileges \
    process profile quota record rejected relation request requested requests resource role roles schema \
    script sequence service session settings should space state status suspended table tenant that the this \
    to token type unknown update url via view was were when which while who will with without"
}

words! {
    /// Words with digits that name a technology, and are kept.
    TERMS,
    "2xx 3xx 4xx 5xx aarch64 aes-128 aes-128-gcm aes-256 aes-256-cbc aes-256-gcm aes128 aes256 amd64 argon2 \
    argon2id arm64 auth0 b2b b2c base32 base58 base62 base64 blake2b blake3 boto3 bz2 bzip2 cp1252 crc32 \
    crc32c db2 e2e ec2 ed25519 es2015 es256 es6 ext2 ext3 ext4 f32 f64 float32 float4 float64 float8 h2 h264 \
    h265 h2c h3 hs256 hs512 http1 http2 http3 i128 i16 i18n i32 i386 i64 i686 i8 imap4 inet6 int16 int32 \
    int4 int64 int8 ipv4 ipv6 iso-8859-1 iso8859-1 jinja2 k8s l10n latin1 log4j log4j2 lz4 md5 mp3 mp4 \
    mysql2 neo4j non-2xx oauth1 oauth2 p12 pg8000 pkcs1 pkcs12 pkcs7 pkcs8 pop3 psycopg2 psycopg3 python2 \
    python3 rs256 rs512 s3 sha-1 sha-256 sha-384 sha-512 sha1 sha2 sha256 sha384 sha512 sigv4 slf4j socks4 \
    socks5 sqlite3 ssh2 sslv2 sslv23 sslv3 tls1.2 tls1.3 tlsv1 tlsv1.0 tlsv1.1 tlsv1.2 tlsv1.3 tlsv13 u128 \
    u16 u32 u64 u8 uint16 uint32 uint64 uint8 urllib3 utf-16 utf-8 utf16 utf32 utf8 utf8mb3 utf8mb4 uuid4 \
    uuidv4 uuidv7 v1 v2 v3 v4 win32 win64 windows-1252 x.509 x509 x64 x86 x86-64 x86_64"
}

words! {
    /// Units, which are masked with their number.
    UNITS,
    "b bits byte bytes day days gb gbps ghz gib hour hours hr hrs kb kbps kbytes khz kib mb mbps mbytes mhz \
    mib microsecond microseconds millis millisecond milliseconds min mins minute minutes month months ms \
    msec msecs nanoseconds ns percent s sec second seconds secs tb tib us week weeks year years"
}

words! {
    /// Names of months and days.
    OF_DATES,
    "apr april aug august dec december feb february fri friday jan january jul july jun june mar march may \
    mon monday nov november oct october sat saturday sep sept september sun sunday thu thursday tue tuesday \
    wed wednesday"
}

words! {
    /// Words behind the time in a date.
    OF_TIMES,
    "am bst cdt cest cet cst edt est gmt ist jst mdt msk mst pdt pm pst utc z"
}

words! {
    /// The first words of HTTP's reason phrases.
    OF_STATUSES,
    "bad client conflict content expectation failed forbidden gateway gone http insufficient internal length \
    locked loop method misdirected network not ok payload payment precondition proxy range request requested \
    server service too unauthorized unavailable unknown unprocessable unsupported upgrade uri variant"
}

words! {
    /// Words that may follow a status.
    BEHIND_STATUSES,
    "after and at but by error errors for from in instead on response status to via when while"
}

words! {
    /// Top-level domains with which hardly any name in a program ends.
    TOP_LEVELS,
    "arpa biz com corp edu gov int internal io lan local localdomain mil net onion org"
}

words! {
    /// Top-level domains with which names in programs end too.
    TOP_LEVELS_OF_THREE,
    "ai app cloud cluster co dev email example home info invalid live mail me name online site svc tech test \
    tv xyz"
}

words! {
    /// Extensions of source files.
    EXTENSIONS,
    "c cc cjs clj cpp cs cxx dart erb erl ex exs fs go groovy h hpp hs java js jsx kt lua m mjs ml mm php pl \
    pm py rb rs scala sh sql svelte swift ts tsx vb vue zig"
}

words! {
    /// Segments of a path that a name follows.
    HOMES,
    "accounts customers home organizations orgs projects repos teams tenants user users"
}

words! {
    /// Types, which are kept if they are quoted.
    TYPES,
    "array bool boolean bytes dict false float int list nil none null number set str string true tuple \
    undefined"
}

words! {
    /// Prefixes of codes with a hyphen: `ORA-00942`.
    CODE_PREFIXES,
    "dpi dpy hhh http hv jdbc njs ora pls rman sp2 sql tns"
}

pub(super) fn meaning(word: &str, key: Key) -> Meaning {
    if let Some(meaning) = MEANINGS.get(key) {
        return meaning;
    }
    // Names such as `statusCode`, `exit_code` and `KeyError`.
    match word.as_bytes().last() {
        Some(b'e' | b'E') if ends_with(word, "code") => Meaning::Code,
        Some(b's' | b'S') if ends_with(word, "status") => Meaning::Code,
        Some(b'o' | b'O') if ends_with(word, "errno") => Meaning::Code,
        Some(b'r') if word.ends_with("Error") => Meaning::Reason,
        Some(b'n') if word == "UnknownHostException" => Meaning::Host,
        Some(b'n') if word.ends_with("Exception") => Meaning::Reason,
        Some(b'd') if word.ends_with("Id") || word.ends_with("_id") => Meaning::Id,
        Some(b'D') if word.ends_with("ID") => Meaning::Id,
        _ => Meaning::Plain,
    }
}

fn ends_with(word: &str, end: &str) -> bool {
    let start = word.len().saturating_sub(end.len());
    word.as_bytes().get(start..).is_some_and(|bytes| bytes.eq_ignore_ascii_case(end.as_bytes()))
}

pub(super) fn follows_user(key: Key) -> bool {
    NOT_NAMES.has(key)
}

pub(super) fn is_term(word: &str) -> bool {
    TERMS.has(Key::of(word))
}

pub(super) fn is_unit(word: &str) -> bool {
    UNITS.has(Key::of(word))
}

pub(super) fn is_type(word: &str) -> bool {
    TYPES.has(Key::of(word))
}

pub(super) fn is_of_date(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_uppercase()) && OF_DATES.has(Key::of(word))
}

pub(super) fn is_of_time(word: &str) -> bool {
    OF_TIMES.has(Key::of(word))
}

pub(super) fn is_of_status(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_uppercase()) && OF_STATUSES.has(Key::of(word))
}

pub(super) fn is_behind_status(word: &str) -> bool {
    BEHIND_STATUSES.has(Key::of(word))
}

pub(super) fn is_home(word: &str) -> bool {
    HOMES.has(Key::of(word))
}

pub(super) fn is_code_prefix(word: &str) -> bool {
    word.bytes().all(|byte| !byte.is_ascii_lowercase()) && CODE_PREFIXES.has(Key::of(word))
}

pub(super) fn is_top_level(label: &str) -> bool {
    TOP_LEVELS.has(Key::of(label))
}

/// Returns whether the label is a top-level domain in names of three labels or more.
pub(super) fn is_top_level_of_three(label: &str) -> bool {
    let is_country = label.len() == 2 && label.bytes().all(|byte| byte.is_ascii_lowercase());
    is_country && !is_extension(label) || TOP_LEVELS_OF_THREE.has(Key::of(label))
}

pub(super) fn is_extension(extension: &str) -> bool {
    EXTENSIONS.has(Key::of(extension))
}

/// Returns the plural of a word for something that is counted, so that one attempt and two attempts have the same
/// signature.
pub(super) fn plural(word: &str) -> Option<&'static str> {
    Some(match word {
        "attempt" => "attempts",
        "retry" => "retries",
        "try" => "tries",
        "time" => "times",
        "row" => "rows",
        "record" => "records",
        "item" => "items",
        "error" => "errors",
        "request" => "requests",
        "message" => "messages",
        "event" => "events",
        "file" => "files",
        _ => return None,
    })
}

/// Returns whether the previous word's meaning continues behind this word: `exit code is 1`.
pub(super) fn is_transparent(word: &str) -> bool {
    matches!(word, "is" | "was" | "of" | "value" | "with" | "abnormally" | "at")
}
