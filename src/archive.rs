//! An archive of JSON lines in a folder, and its reader.
//!
//! A file is written under another name, synced and renamed; then the folder is synced. Whatever interrupts this, a
//! file under an archive's name is complete.

use std::{
    collections::{BTreeSet, VecDeque},
    error::Error,
    ffi::OsStr,
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use chrono::Utc;
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::{Archive, DeadLetterId, StoredLetter};

/// The extension of an archive's files. An unfinished file has another one.
const EXTENSION: &str = "jsonl";
/// PostgreSQL and, by default, SQLite hold at most 1 GB per row. JSON writes a control character, which is one byte,
/// as six.
const MAX_LINE_BYTES: u64 = 7 << 30;

/// An [`Archive`] of files in a folder: one file per batch, one letter per line, as the JSON of [`StoredLetter`].
///
/// A file is named by a UUIDv7, so names sort by time, and any number of sweepers may share a folder. The file is
/// complete and durable before the deletion of its letters commits. A crash may leave a file whose name ends in
/// `.tmp`. It holds no letter that was deleted, and may be removed. An error leaves such a file too if removing it
/// fails.
///
/// The folder must exist. A disk that is not mounted is then an error, and does not become a new folder. On Unix only
/// the owner may read a file (mode 0600), because it holds the letters' content.
///
/// [`read`](Self::read) returns the letters, those of the newest file first. A letter that was archived but not
/// deleted is archived again later, with the same id. Import each file in calls of its own: the newest copy is then
/// stored, because an import never overwrites a letter.
#[derive(Debug, Clone)]
pub struct JsonLinesArchive {
    folder: PathBuf,
}

impl JsonLinesArchive {
    /// Makes an archive in this folder. The folder is first accessed when there are letters to keep.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{Archive, JsonLinesArchive, testing};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let app = uuid::Uuid::nil().into();
    /// let archive = JsonLinesArchive::new(folder.path());
    /// let letter = testing::stored_letter(app, chrono::Utc::now());
    /// archive.keep(&[letter]).await.map_err(|error| error.to_string())?;
    /// assert_eq!(std::fs::read_dir(folder.path())?.count(), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// Reads the letters of one file, or of a folder's files whose names end in `.jsonl`. The last name, which is the
    /// newest file, comes first.
    ///
    /// An import keeps the times of the letters, so the sweep that archived them deletes them again: see
    /// [`import`](crate::DeadLetterTransfer::import).
    ///
    /// The iterator reads the disk as it advances, and holds one letter at a time. In async code, run it on a thread
    /// of its own ([`spawn_blocking`](tokio::task::spawn_blocking)).
    ///
    /// # Errors
    ///
    /// [`Io`](ArchiveError::Io) if the file or folder does not exist or can't be read.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterTransfer, JsonLinesArchive};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let folder = tempfile::tempdir()?;
    /// # let letter = dead_letters::testing::stored_letter(app, chrono::Utc::now());
    /// # let archive = JsonLinesArchive::new(folder.path());
    /// # dead_letters::Archive::keep(&archive, &[letter]).await.map_err(|error| error.to_string())?;
    /// let mut stored = 0;
    /// for archived in JsonLinesArchive::read(folder.path())? {
    ///     let archived = archived?;
    ///     println!("{}, line {}", archived.path.display(), archived.line);
    ///     stored += repo.import(&[archived.letter]).await?.stored;
    /// }
    /// assert_eq!(stored, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn read(path: impl AsRef<Path>) -> Result<ArchivedLetters, ArchiveError> {
        Ok(ArchivedLetters { files: Self::files(path)?.into(), open: None, line: Vec::new() })
    }

    /// Returns the files that [`read`](Self::read) and [`erase`](Self::erase) read, in their order: the path itself, or a
    /// folder's files whose names end in `.jsonl`, with the last name first.
    ///
    /// # Errors
    ///
    /// [`ArchiveError::Io`] if the path does not exist, or if the folder can't be read.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{Archive, JsonLinesArchive, testing};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// let letter = testing::stored_letter(uuid::Uuid::nil().into(), chrono::Utc::now());
    /// JsonLinesArchive::new(folder.path()).keep(&[letter]).await.map_err(|error| error.to_string())?;
    /// assert_eq!(JsonLinesArchive::files(folder.path())?.len(), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn files(path: impl AsRef<Path>) -> Result<Vec<PathBuf>, ArchiveError> {
        let path = path.as_ref();
        match fs::metadata(path).map_err(|error| io_error(path, error))?.is_dir() {
            true => files_of(path).map_err(|error| io_error(path, error)),
            false => Ok(vec![path.to_owned()]),
        }
    }

    /// Erases the content of these letters in one file, or in all files of a folder, as
    /// [`DeadLetterDelete::erase`](crate::DeadLetterDelete::erase) does in the store. Returns how many letters were
    /// erased, and which ids no file has.
    ///
    /// A file with such a letter is written anew beside the old one, synced, and put in its place. Other files and other
    /// lines stay as they are. A crash leaves each file either as it was or erased, and perhaps a file whose name ends in
    /// `.tmp`, which holds letters and must be removed. The call can be repeated. Sweeps may write new files meanwhile: so
    /// erase letters in the store first.
    ///
    /// On Unix two calls on one folder wait for each other. On other systems make one call at a time. A file keeps its
    /// permissions, and gets the owner of the process.
    ///
    /// The call reads every line, and holds one letter in memory at a time. In async code, run it on a thread of its own.
    ///
    /// # Errors
    ///
    /// Those of the iterator that [`read`](Self::read) returns. The file that has the error stays as it was, and the files
    /// before it are done.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{Archive, JsonLinesArchive, testing};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let app = uuid::Uuid::nil().into();
    /// let letter = testing::stored_letter(app, chrono::Utc::now());
    /// let archive = JsonLinesArchive::new(folder.path());
    /// archive.keep(std::slice::from_ref(&letter)).await.map_err(|error| error.to_string())?;
    /// let erased = JsonLinesArchive::erase(folder.path(), &[letter.id])?;
    /// assert_eq!((erased.letters, erased.missing), (1, vec![]));
    /// let archived = JsonLinesArchive::read(folder.path())?.next().ok_or("no letter")??;
    /// assert_eq!(archived.letter.payload, "null");
    /// # Ok(())
    /// # }
    /// ```
    pub fn erase(path: impl AsRef<Path>, ids: &[DeadLetterId]) -> Result<ErasedInArchive, ArchiveError> {
        let ids: BTreeSet<_> = ids.iter().copied().collect();
        let (mut missing, mut letters) = (ids.clone(), 0);
        for file in &Self::files(path)? {
            letters += erase_in(file, &ids, &mut missing)?;
        }
        Ok(ErasedInArchive { letters, missing: missing.into_iter().collect() })
    }
}

/// The result of [`JsonLinesArchive::erase`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ErasedInArchive {
    /// How many letters were erased. An archive may hold a letter several times.
    pub letters: u64,
    /// The ids that no file has, in ascending order. A letter that was erased before is not among them.
    pub missing: Vec<DeadLetterId>,
}

/// Erases the letters in one file, and takes the ids that it has out of the missing ones.
fn erase_in(
    path: &Path,
    ids: &BTreeSet<DeadLetterId>,
    missing: &mut BTreeSet<DeadLetterId>,
) -> Result<u64, ArchiveError> {
    // The content is behind a symbolic link, not in it.
    let path = &fs::canonicalize(path).map_err(|error| io_error(path, error))?;
    let folder = path.parent().unwrap_or(path);
    // The later of two calls would bring back what the other one has erased.
    let _alone = lock_folder(folder).map_err(|error| io_error(folder, error))?;
    // A letter that was erased may have a note that somebody wrote since.
    let is_due = |letter: &StoredLetter| {
        ids.contains(&letter.id) && (letter.erased_at.is_none() || letter.resolution_note.is_some())
    };
    let (mut file, mut line, mut due) = (open(path)?, Vec::new(), 0);
    while let Some(read) = file.next_letter(&mut line)? {
        missing.remove(&read.letter.id);
        due += u64::from(is_due(&read.letter));
    }
    if due == 0 {
        return Ok(0);
    }
    let unfinished = path.with_extension(format!("{}.tmp", Uuid::now_v7()));
    let failed = |error| io_error(&unfinished, error);
    let mut written = || -> Result<(), ArchiveError> {
        let mut lines = BufWriter::new(new_file(&unfinished).map_err(failed)?);
        let mut file = open(path)?;
        while let Some(read) = file.next_letter(&mut line)? {
            match is_due(&read.letter) {
                true => serde_json::to_writer(&mut lines, &read.letter.erased(Utc::now()))
                    .map_err(io::Error::from),
                false => lines.write_all(&line),
            }
            .and_then(|()| lines.write_all(b"\n"))
            .map_err(failed)?;
        }
        let file = lines.into_inner().map_err(|error| failed(error.into_error()))?;
        let as_before =
            fs::metadata(path).and_then(|old| fs::set_permissions(&unfinished, old.permissions()));
        as_before.and_then(|()| file.sync_all()).and_then(|()| fs::rename(&unfinished, path)).map_err(failed)
    };
    if let Err(error) = written() {
        fs::remove_file(&unfinished).ok();
        return Err(error);
    }
    sync_folder(folder).map_err(|error| io_error(folder, error))?;
    Ok(due)
}

/// If the future is dropped, the file is complete, or does not exist under its name.
#[async_trait]
impl Archive for JsonLinesArchive {
    async fn keep(&self, letters: &[StoredLetter]) -> Result<(), Box<dyn Error + Send + Sync>> {
        if letters.is_empty() {
            return Ok(());
        }
        let runtime = Handle::try_current().map_err(|_| ArchiveError::RuntimeEnded)?;
        let (folder, letters) = (self.folder.clone(), letters.to_vec());
        // Named before the thread starts, which may be after a later call if this one is dropped. The name that sorts
        // last has the newest content.
        let name = format!("{}.{EXTENSION}", Uuid::now_v7());
        let kept = runtime.spawn_blocking(move || write(&folder.join(name), &letters, sync_folder)).await;
        Ok(kept.map_err(|_| ArchiveError::RuntimeEnded)??)
    }
}

fn write(
    path: &Path,
    letters: &[StoredLetter],
    sync_folder: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<(), ArchiveError> {
    let folder = path.parent().unwrap_or(path);
    let unfinished = path.with_extension("tmp");
    let mut file = new_file(&unfinished).map_err(|error| io_error(&unfinished, error))?;
    let written = write_lines(&mut file, letters).and_then(|()| fs::rename(&unfinished, path));
    if let Err(error) = written {
        // The file can be removed, because none of its letters is deleted.
        fs::remove_file(&unfinished).ok();
        return Err(io_error(path, error));
    }
    sync_folder(folder).map_err(|error| {
        // The file can be removed, because none of its letters is deleted. If it stayed, each retry would leave one
        // more copy.
        fs::remove_file(path).ok();
        io_error(folder, error)
    })
}

/// Creates a file that only its owner may read, because letters hold personal data.
fn new_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn write_lines(file: &mut File, letters: &[StoredLetter]) -> io::Result<()> {
    let mut lines = BufWriter::new(&mut *file);
    for letter in letters {
        serde_json::to_writer(&mut lines, letter)?;
        lines.write_all(b"\n")?;
    }
    lines.flush()?;
    drop(lines);
    file.sync_all()
}

/// Locks the folder for this process, until the file is closed. Other systems can't open a folder as a file.
fn lock_folder(folder: &Path) -> io::Result<Option<File>> {
    if !cfg!(unix) {
        return Ok(None);
    }
    let folder = File::open(folder)?;
    folder.lock()?;
    Ok(Some(folder))
}

/// Makes the name of the new file durable.
fn sync_folder(folder: &Path) -> io::Result<()> {
    // Other systems can't open a folder as a file.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

fn files_of(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new(EXTENSION)) {
            files.push(path);
        }
    }
    files.sort();
    files.reverse();
    Ok(files)
}

/// An iterator over the letters that [`JsonLinesArchive::read`] or another reader provides, each with its position.
///
/// Blank lines, the line ends of Windows, and a byte order mark before the first line are skipped. A line that is not
/// a letter is an error, and the next call continues behind it. A file that can't be read further, or is not UTF-8
/// text, is an error, and the next call continues with the next file.
#[derive(Debug)]
pub struct ArchivedLetters {
    files: VecDeque<PathBuf>,
    open: Option<OpenFile>,
    /// The buffer of the current line, which is reused.
    line: Vec<u8>,
}

impl ArchivedLetters {
    /// Reads letters from another source, such as standard input or a decompressor. Errors and letters show `name` as
    /// their path.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::Cursor;
    ///
    /// use dead_letters::ArchivedLetters;
    ///
    /// let mut letters = ArchivedLetters::from_reader("upload.jsonl", Cursor::new("not a letter\n"));
    /// let error = letters.next().and_then(Result::err).map(|error| error.to_string()).unwrap_or_default();
    /// assert!(error.starts_with("upload.jsonl, line 1: "));
    /// ```
    pub fn from_reader(name: impl AsRef<Path>, reader: impl BufRead + Send + 'static) -> Self {
        let file = OpenFile::new(name.as_ref(), reader);
        Self { files: VecDeque::new(), open: Some(file), line: Vec::new() }
    }
}

struct OpenFile {
    path: Arc<Path>,
    reader: Box<dyn BufRead + Send>,
    line_number: u64,
}

impl fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenFile")
            .field("path", &self.path)
            .field("line_number", &self.line_number)
            .finish_non_exhaustive()
    }
}

/// A letter and its position in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ArchivedLetter {
    /// The file that the letter was read from.
    pub path: Arc<Path>,
    /// The line in the file, from 1.
    pub line: u64,
    /// The letter as it was stored.
    pub letter: StoredLetter,
}

impl Iterator for ArchivedLetters {
    type Item = Result<ArchivedLetter, ArchiveError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let mut file = match self.open.take() {
                Some(file) => file,
                None => match open(&self.files.pop_front()?) {
                    Ok(file) => file,
                    Err(error) => return Some(Err(error)),
                },
            };
            match file.next_letter(&mut self.line) {
                Ok(None) => {}
                Ok(Some(letter)) => {
                    self.open = Some(file);
                    return Some(Ok(letter));
                }
                Err(error) => {
                    if matches!(error, ArchiveError::NotALetter { .. }) {
                        self.open = Some(file);
                    }
                    return Some(Err(error));
                }
            }
        }
    }
}

fn open(path: &Path) -> Result<OpenFile, ArchiveError> {
    let file = File::open(path).map_err(|error| io_error(path, error))?;
    Ok(OpenFile::new(path, BufReader::new(file)))
}

impl OpenFile {
    fn new(path: &Path, reader: impl BufRead + Send + 'static) -> Self {
        Self { path: path.into(), reader: Box::new(reader), line_number: 0 }
    }

    fn next_letter(&mut self, line: &mut Vec<u8>) -> Result<Option<ArchivedLetter>, ArchiveError> {
        loop {
            let read = read_line(&mut self.reader, line, MAX_LINE_BYTES);
            self.line_number += 1;
            let path = Arc::clone(&self.path);
            match read.map_err(|error| io_error(&path, error))? {
                Line::End => return Ok(None),
                Line::TooLong => return Err(ArchiveError::LineTooLong { path, line: self.line_number }),
                Line::Whole => {}
            }
            let mut text = line.as_slice();
            if self.line_number == 1 {
                if let Some(format) = other_format(text) {
                    return Err(ArchiveError::NotJsonLines { path, format });
                }
                text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
            }
            if text.trim_ascii().is_empty() {
                continue;
            }
            return match serde_json::from_slice(text) {
                Ok(letter) => Ok(Some(ArchivedLetter { path, line: self.line_number, letter })),
                // The error's text may quote the line, so only the column is kept.
                Err(error) => {
                    Err(ArchiveError::NotALetter { path, line: self.line_number, column: error.column() })
                }
            };
        }
    }
}

/// The byte order mark of UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Returns the name of a file's format by its first bytes, if it is known not to be UTF-8 text.
fn other_format(beginning: &[u8]) -> Option<&'static str> {
    match beginning {
        [0x1f, 0x8b, ..] => Some("compressed with gzip"),
        // UTF-16 begins with a byte order mark or with an ASCII character.
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, 1..=0x7f, ..] | [1..=0x7f, 0, ..] => Some("UTF-16 text"),
        _ => None,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Line {
    Whole,
    TooLong,
    End,
}

/// Reads a line of at most `max` bytes into `line`, without its line end.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>, max: u64) -> io::Result<Line> {
    line.clear();
    // The buffer must not keep the size of one large line for the rest of the file.
    line.shrink_to(1 << 20);
    let read = reader.take(max).read_until(b'\n', line)?;
    if read == 0 {
        return Ok(Line::End);
    }
    if line.pop_if(|last| *last == b'\n').is_none() && read as u64 == max {
        return Ok(Line::TooLong);
    }
    Ok(Line::Whole)
}

fn io_error(path: &Path, source: io::Error) -> ArchiveError {
    ArchiveError::Io { path: path.into(), source }
}

/// Why an archive could not be written or read. The error shows no content.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// A file or folder could not be written or read: it does not exist, or is full or read-only, for example.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: Arc<Path>,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A line is not a letter: it is not JSON, is cut off, or has a field that is missing, unknown or of another
    /// type.
    #[error("{}, line {line}: not a letter, as an archive or an export has it (column {column})", path.display())]
    NotALetter {
        /// The file.
        path: Arc<Path>,
        /// The line, from 1.
        line: u64,
        /// The column where reading stopped, in bytes from 1. It is 0 before the first byte.
        column: usize,
    },
    /// A file is not JSON lines in UTF-8. Nothing in it is read.
    #[error("{}: it is {format}, expected JSON lines in UTF-8", path.display())]
    NotJsonLines {
        /// The file.
        path: Arc<Path>,
        /// The format of the file.
        format: &'static str,
    },
    /// A line has no end within 7 GiB. The rest of its file is not read.
    #[error("{}, line {line}: the line must have at most 7 GiB, as every letter has", path.display())]
    LineTooLong {
        /// The file.
        path: Arc<Path>,
        /// The line, from 1.
        line: u64,
    },
    /// There is no tokio runtime, or it ended before the file was written.
    #[error(
        "there is no tokio runtime, or it ended before the archive was written: archive in a runtime that outlives the call"
    )]
    RuntimeEnded,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_another_reader_has_the_readers_name() {
        let mut letters = ArchivedLetters::from_reader("standard input", &b"{\n"[..]);
        let error = letters.next().unwrap().unwrap_err().to_string();
        assert_eq!(
            error,
            "standard input, line 1: not a letter, as an archive or an export has it (column 1)"
        );
        assert!(letters.next().is_none());
    }

    #[test]
    fn a_folder_that_can_not_be_synced_is_an_error_and_leaves_no_file() {
        let dir = tempfile::TempDir::new().unwrap();
        let letter = crate::testing::stored_letter(Uuid::from_u128(1).into(), chrono::DateTime::UNIX_EPOCH);
        for _ in 0..3 {
            let fails = |_: &Path| Err(io::Error::other("no sync"));
            let error = write(&dir.path().join("a.jsonl"), std::slice::from_ref(&letter), fails).unwrap_err();
            assert!(matches!(&error, ArchiveError::Io { path, .. } if **path == *dir.path()), "{error}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_line_takes_no_more_memory_than_its_bound() {
        let mut reader = &b"12345\n1234\n\n12345678901234567890"[..];
        let mut line = Vec::new();
        let mut next = || read_line(&mut reader, &mut line, 6).map(|read| (read, line.clone())).unwrap();
        assert_eq!(next(), (Line::Whole, b"12345".to_vec()));
        assert_eq!(next(), (Line::Whole, b"1234".to_vec()));
        assert_eq!(next(), (Line::Whole, b"".to_vec()));
        assert_eq!(next(), (Line::TooLong, b"123456".to_vec()));
    }
}
