//! Tests of the archive's files by themselves. contract/archive.rs tests how a sweep writes them.

use std::{
    env, fs,
    future::Future,
    io,
    path::{Path, PathBuf},
    pin::pin,
    process::{Command, Stdio},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use chrono::{DateTime, Utc};
use dead_letters::{
    Archive, ArchiveError, ArchivedLetter, DeadLetterId, JsonLinesArchive, StoredLetter,
    testing::stored_letter,
};
use tempfile::TempDir;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::faults::this_test_alone;

/// Names the folder that the other process shall write to.
const ARCHIVE: &str = "DEAD_LETTERS_ARCHIVE";

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// A letter in which no two fields are alike.
fn letter() -> StoredLetter {
    StoredLetter {
        payload: r#"{"total": 1.10, "big": 18446744073709551616, "a": 1, "a": 2}"#.to_owned(),
        resolved_at: Some(time("2026-03-02T09:00:00Z")),
        resolution: Some("ignored".to_owned()),
        resolved_by: Some("ada".to_owned()),
        resolution_note: Some("sold out".to_owned()),
        ..stored_letter(Uuid::from_u128(1).into(), time("2026-03-01T10:31:00.5Z"))
    }
}

/// Returns letters whose contents must not break a line of the file.
fn hostile() -> Vec<StoredLetter> {
    let texts = [
        "",
        "\n",
        "\r\n{\"id\": 1}\n",
        "\0\u{1}\u{7f}",
        "\u{2028}\u{feff}",
        "\"\\/",
        "é漢🦀",
        "not JSON {[",
        "null",
    ];
    let mut letters: Vec<_> = texts
        .map(|text| {
            let text = text.to_owned();
            StoredLetter {
                source: text.clone(),
                payload: text.clone(),
                last_error: text.clone(),
                resolved_by: Some(text),
                ..letter()
            }
        })
        .into();
    letters.push(StoredLetter { resolution: Some("of a newer version".to_owned()), ..letter() });
    letters.push(StoredLetter { payload: "[".repeat(100_000), ..letter() });
    letters.push(StoredLetter {
        trigger_id: None,
        script_id: None,
        resolved_at: None,
        resolution: None,
        resolved_by: None,
        resolution_note: None,
        first_attempt_at: time("0001-01-01T00:00:00Z"),
        last_attempt_at: time("9999-12-31T23:59:59.999999Z"),
        ..letter()
    });
    letters
}

fn names(folder: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names
}

fn read(path: &Path) -> Vec<ArchivedLetter> {
    JsonLinesArchive::read(path).unwrap().map(Result::unwrap).collect()
}

async fn refused(folder: &Path) -> ArchiveError {
    let error = JsonLinesArchive::new(folder).keep(&[letter()]).await.unwrap_err();
    *error.downcast().unwrap()
}

#[tokio::test]
async fn letters_are_read_as_they_were_each_with_its_place() {
    let dir = TempDir::new().unwrap();
    let archive = JsonLinesArchive::new(dir.path());
    let batches = [hostile(), vec![letter()], vec![letter(); 3]];
    for batch in &batches {
        archive.keep(batch).await.unwrap();
    }
    let files = names(dir.path());
    assert_eq!(files.len(), 3);
    // The newest file comes first.
    let mut expected = Vec::new();
    for (file, batch) in files.iter().zip(&batches).rev() {
        let path: Arc<Path> = file.as_path().into();
        expected.extend((1..).zip(batch).map(|(line, letter)| (path.clone(), line, letter.clone())));
        assert_eq!(read(file).len(), batch.len());
    }
    let read: Vec<_> = read(dir.path()).into_iter().map(|read| (read.path, read.line, read.letter)).collect();
    assert!(read == expected);
}

#[tokio::test]
async fn sweepers_that_share_a_folder_take_no_name_twice() {
    let dir = TempDir::new().unwrap();
    let mut sweepers = JoinSet::new();
    for _ in 0..8 {
        let archive = JsonLinesArchive::new(dir.path());
        sweepers.spawn(async move {
            for _ in 0..10 {
                archive.keep(&[letter(), letter()]).await.unwrap();
            }
        });
    }
    sweepers.join_all().await;
    assert_eq!((names(dir.path()).len(), read(dir.path()).len()), (80, 160));
}

#[tokio::test]
async fn an_empty_batch_makes_no_file() {
    let dir = TempDir::new().unwrap();
    JsonLinesArchive::new(dir.path()).keep(&[]).await.unwrap();
    assert_eq!(names(dir.path()), [] as [PathBuf; 0]);
    assert_eq!(read(dir.path()), []);
}

#[tokio::test]
async fn a_folder_that_is_gone_no_folder_or_read_only_is_an_error_that_names_it() {
    let dir = TempDir::new().unwrap();
    let gone = dir.path().join("gone");
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for (folder, kind) in [(&gone, io::ErrorKind::NotFound), (&file, io::ErrorKind::NotADirectory)] {
        let error = refused(folder).await;
        assert!(matches!(&error, ArchiveError::Io { source, .. } if source.kind() == kind), "{error}");
        assert!(error.to_string().starts_with(folder.to_str().unwrap()), "{error}");
    }
    // It is not made: a disk that is not mounted would go unnoticed.
    assert!(!gone.exists());
    // It takes no file, not even root's.
    if cfg!(target_os = "linux") {
        assert!(matches!(refused(Path::new("/sys")).await, ArchiveError::Io { .. }));
    }
}

/// With the folder's name set, it is the process whose files may have no more than 8 blocks.
#[tokio::test]
async fn a_disk_that_is_full_is_an_error_and_leaves_no_file() {
    if let Some(folder) = env::var_os(ARCHIVE) {
        let archive = JsonLinesArchive::new(folder);
        archive.keep(&[letter()]).await.unwrap();
        let large = StoredLetter { payload: "a".repeat(1 << 20), ..letter() };
        let error = archive.keep(&[letter(), large]).await.unwrap_err();
        assert!(matches!(*error.downcast().unwrap(), ArchiveError::Io { .. }));
        return;
    }
    let dir = TempDir::new().unwrap();
    let limited = Command::new("sh")
        .args(["-c", r#"trap "" XFSZ; ulimit -f 8; exec "$0" "$@""#])
        .arg(env::current_exe().unwrap())
        .args(["--exact", "archive::a_disk_that_is_full_is_an_error_and_leaves_no_file"])
        .env(ARCHIVE, dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&limited.stdout);
    assert!(limited.status.success() && said.contains("1 passed"), "{said}");
    assert_eq!((names(dir.path()).len(), read(dir.path()).len()), (1, 1));
}

/// With the folder's name set, it is the process that is killed.
#[tokio::test]
async fn a_file_of_a_killed_process_is_complete_or_not_there() {
    let batch = || vec![StoredLetter { payload: "a".repeat(10_000), ..letter() }; 100];
    if let Some(folder) = env::var_os(ARCHIVE) {
        let archive = JsonLinesArchive::new(folder);
        // Should nobody be left to kill it, it ends.
        for _ in 0..100 {
            archive.keep(&batch()).await.unwrap();
        }
        return;
    }
    let this = "archive::a_file_of_a_killed_process_is_complete_or_not_there";
    for files in 1..=5 {
        let dir = TempDir::new().unwrap();
        let mut process =
            this_test_alone(this).env(ARCHIVE, dir.path()).stdout(Stdio::null()).spawn().unwrap();
        while names(dir.path()).len() < files && process.try_wait().unwrap().is_none() {
            tokio::task::yield_now().await;
        }
        process.kill().unwrap();
        process.wait().unwrap();
        let finished = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "jsonl");
        let files = names(dir.path());
        let finished = files.iter().filter(finished).count();
        assert!(files.len() - finished <= 1, "{files:?}");
        assert_eq!(read(dir.path()).len(), 100 * finished);
    }
}

#[tokio::test]
async fn a_write_that_is_dropped_at_any_time_leaves_complete_files() {
    let dir = TempDir::new().unwrap();
    let archive = JsonLinesArchive::new(dir.path());
    for polls in 0..20 {
        let letters = [letter(), letter()];
        let mut keep = archive.keep(&letters);
        for _ in 0..polls {
            if keep.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    // A file that is still written has another name, also one that a thread begins only now.
    let is_complete = |path: &PathBuf| path.extension().is_none_or(|extension| extension != "tmp");
    while !names(dir.path()).iter().any(is_complete) {
        tokio::task::yield_now().await;
    }
    for path in names(dir.path()).into_iter().filter(is_complete) {
        assert_eq!(read(&path).len(), 2);
    }
}

#[test]
fn a_write_without_a_runtime_is_an_error() {
    let (archive, letters) = (JsonLinesArchive::new("nowhere"), [letter()]);
    let keep = pin!(archive.keep(&letters));
    let Poll::Ready(Err(error)) = keep.poll(&mut Context::from_waker(Waker::noop())) else { panic!() };
    assert!(matches!(*error.downcast().unwrap(), ArchiveError::RuntimeEnded));
}

#[test]
fn a_line_that_is_no_letter_is_an_error_with_its_place_and_reading_continues() {
    let good = serde_json::to_string(&letter()).unwrap();
    let cases = [
        "secret".to_owned(),
        "[".repeat(100_000),
        good.replace("\"source\"", "\"secret\""),
        good.replace("\"attempt_count\":5", "\"attempt_count\":\"secret\""),
        good.replace("\"app_id\":\"0", "\"app_id\":\"secret"),
        good.replace("2026-03-02T09", "secret"),
        format!("{good}{good}"),
        "\u{feff}".to_owned() + &good,
        good[..good.len() - 1].to_owned(),
    ];
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("letters.jsonl");
    for case in cases {
        fs::write(&path, format!("{good}\n{case}\n{good}\r\n{good}")).unwrap();
        let lines: Vec<_> = JsonLinesArchive::read(&path).unwrap().collect();
        assert_eq!(lines.len(), 4);
        for (number, line) in (1..).zip(lines) {
            match line {
                Ok(read) => assert!(number != 2 && read.line == number, "{case}"),
                Err(error) => {
                    assert!(
                        matches!(&error, ArchiveError::NotALetter { path: at, line: 2, .. } if **at == *path),
                        "{error}"
                    );
                    let said = format!("{error} {error:?}");
                    assert!(said.contains("letters.jsonl") && said.contains("line"), "{said}");
                    assert!(!said.contains("secret") && !said.contains("orders"), "{said}");
                }
            }
        }
    }
    // Bytes that are no text, and a last line that was cut off.
    fs::write(&path, [good.as_bytes(), b"\n\xff\n", &good.as_bytes()[..100]].concat()).unwrap();
    let lines: Vec<_> = JsonLinesArchive::read(&path).unwrap().collect();
    assert!(matches!(
        &lines[..],
        [Ok(_), Err(ArchiveError::NotALetter { line: 2, .. }), Err(ArchiveError::NotALetter { line: 3, .. })]
    ));
}

#[tokio::test]
async fn a_folder_is_read_by_its_archives_names_and_a_file_that_can_not_be_read_costs_itself() {
    let dir = TempDir::new().unwrap();
    let archive = JsonLinesArchive::new(dir.path());
    archive.keep(&[letter()]).await.unwrap();
    fs::write(dir.path().join("0.tmp"), "unfinished").unwrap();
    fs::write(dir.path().join("README"), "of the folder's owner").unwrap();
    fs::create_dir(dir.path().join("0.jsonl")).unwrap();
    let lines: Vec<_> = JsonLinesArchive::read(dir.path()).unwrap().collect();
    assert!(matches!(&lines[..], [Ok(_), Err(ArchiveError::Io { path, .. })] if path.ends_with("0.jsonl")));
    let gone = JsonLinesArchive::read(dir.path().join("gone")).unwrap_err();
    assert!(matches!(&gone, ArchiveError::Io { path, .. } if path.ends_with("gone")), "{gone}");
}

/// Exports that went through other systems.
#[test]
fn blank_lines_line_ends_of_windows_and_a_byte_order_mark_are_skipped() {
    let letter = letter();
    let good = serde_json::to_string(&letter).unwrap();
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("letters.jsonl");
    fs::write(&path, format!("\u{feff}{good}\r\n\r\n \t\n{good}\n\n")).unwrap();
    let lines: Vec<_> = read(&path).into_iter().map(|read| (read.line, read.letter)).collect();
    assert!(lines == [(1, letter.clone()), (4, letter)]);
    fs::write(&path, "\u{feff}\r\n").unwrap();
    assert_eq!(read(&path), []);
}

#[test]
fn a_file_that_is_compressed_or_utf_16_is_named_as_that_and_the_next_is_read() {
    let good = serde_json::to_string(&letter()).unwrap();
    let utf_16 =
        |text: &str, bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("b.jsonl"), &good).unwrap();
    for (bytes, format) in [
        (b"\x1f\x8b\x08\0\n\n".to_vec(), "compressed with gzip"),
        (utf_16(&format!("\u{feff}{good}"), u16::to_le_bytes), "UTF-16 text"),
        (utf_16(&format!("\u{feff}{good}"), u16::to_be_bytes), "UTF-16 text"),
        (utf_16(&good, u16::to_le_bytes), "UTF-16 text"),
        (utf_16(&good, u16::to_be_bytes), "UTF-16 text"),
    ] {
        // The newest file is read first.
        fs::write(dir.path().join("c.jsonl"), bytes).unwrap();
        let lines: Vec<_> = JsonLinesArchive::read(dir.path()).unwrap().collect();
        let [Err(error), Ok(_)] = &lines[..] else { panic!("{lines:?}") };
        assert!(
            error.to_string().ends_with(&format!("c.jsonl: it is {format}, expected JSON lines in UTF-8"))
        );
    }
}

#[cfg(unix)]
#[tokio::test]
async fn the_owner_alone_may_read_a_file() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().unwrap();
    JsonLinesArchive::new(dir.path()).keep(&[letter()]).await.unwrap();
    let mode = fs::metadata(&names(dir.path())[0]).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

fn kept(folder: &Path, letters: &[StoredLetter]) -> PathBuf {
    let path = folder.join(format!("{}.jsonl", Uuid::now_v7()));
    let lines: Vec<_> = letters.iter().map(|letter| serde_json::to_string(letter).unwrap()).collect();
    fs::write(&path, lines.join("\n") + "\n").unwrap();
    path
}

fn letters_of(path: &Path) -> Vec<StoredLetter> {
    JsonLinesArchive::read(path).unwrap().map(|read| read.unwrap().letter).collect()
}

#[test]
fn a_letter_is_erased_wherever_the_archive_has_it_and_no_other_line_changes() {
    let folder = TempDir::new().unwrap();
    let [first, second, third] = [(); 3].map(|()| StoredLetter { id: Uuid::now_v7().into(), ..letter() });
    let both = kept(folder.path(), &[first.clone(), second.clone()]);
    let again = kept(folder.path(), std::slice::from_ref(&second));
    let other = kept(folder.path(), std::slice::from_ref(&third));
    let line_of_first = fs::read_to_string(&both).unwrap().lines().next().unwrap().to_owned();
    let file_of_other = fs::metadata(&other).unwrap();

    assert_eq!(JsonLinesArchive::erase(folder.path(), &[second.id]).unwrap().letters, 2);
    assert_eq!(fs::read_to_string(&both).unwrap().lines().next(), Some(line_of_first.as_str()));
    for erased in [&letters_of(&both)[1], &letters_of(&again)[0]] {
        let expected = StoredLetter {
            payload: "null".to_owned(),
            payload_kind: Some("erased".to_owned()),
            last_error: String::new(),
            error_signature: "(erased)".to_owned(),
            signature_version: 0,
            resolution_note: None,
            erased_at: erased.erased_at,
            ..second.clone()
        };
        assert!(erased.erased_at.is_some());
        assert_eq!(*erased, expected);
    }
    assert_eq!(letters_of(&other), [third]);
    assert_eq!(fs::metadata(&other).unwrap().modified().unwrap(), file_of_other.modified().unwrap());
    let unknown = DeadLetterId::from(Uuid::nil());
    let again = JsonLinesArchive::erase(folder.path(), &[second.id, unknown, unknown]).unwrap();
    assert_eq!((again.letters, again.missing), (0, vec![unknown]));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    assert_eq!(JsonLinesArchive::erase(&both, &[first.id]).unwrap().letters, 1);
}

#[test]
fn a_file_with_a_line_that_is_no_letter_stays_as_it_was() {
    let folder = TempDir::new().unwrap();
    let path = kept(folder.path(), &[letter()]);
    let text = fs::read_to_string(&path).unwrap() + "{\n";
    fs::write(&path, &text).unwrap();
    let error = JsonLinesArchive::erase(folder.path(), &[letter().id]).unwrap_err();
    assert!(matches!(error, ArchiveError::NotALetter { line: 2, .. }), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn no_concurrent_erasure_restores_what_another_one_erased() {
    let folder = TempDir::new().unwrap();
    let letters: Vec<_> = (0..8).map(|_| StoredLetter { id: Uuid::now_v7().into(), ..letter() }).collect();
    let path = kept(folder.path(), &letters);
    std::thread::scope(|scope| {
        for letter in &letters {
            scope.spawn(|| assert_eq!(JsonLinesArchive::erase(&path, &[letter.id]).unwrap().letters, 1));
        }
    });
    assert!(letters_of(&path).iter().all(|letter| letter.payload == "null"));
}

#[test]
fn an_erasure_removes_a_note_that_was_written_after_the_store_erased_the_letter() {
    let folder = TempDir::new().unwrap();
    let erased_at = letter().created_at.into();
    let erased = StoredLetter {
        payload_kind: Some("erased".to_owned()),
        payload: "null".to_owned(),
        erased_at,
        ..letter()
    };
    let path =
        kept(folder.path(), &[StoredLetter { resolution_note: Some("ada".to_owned()), ..erased.clone() }]);
    assert_eq!(JsonLinesArchive::erase(&path, &[erased.id]).unwrap().letters, 1);
    let again = letters_of(&path).remove(0);
    assert_eq!((again.resolution_note, again.erased_at), (None, erased_at));
    assert_eq!(JsonLinesArchive::erase(&path, &[erased.id]).unwrap().letters, 0);
}

#[cfg(unix)]
#[test]
fn a_file_behind_a_link_is_erased_and_keeps_its_permissions() {
    use std::os::unix::fs::PermissionsExt;

    let (folder, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let letter = letter();
    let cold = kept(elsewhere.path(), std::slice::from_ref(&letter));
    fs::set_permissions(&cold, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink(&cold, folder.path().join("cold.jsonl")).unwrap();
    assert_eq!(JsonLinesArchive::erase(folder.path(), &[letter.id]).unwrap().letters, 1);
    assert_eq!(letters_of(&cold)[0].payload, "null");
    assert_eq!(fs::metadata(&cold).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(fs::symlink_metadata(folder.path().join("cold.jsonl")).unwrap().is_symlink());
}
