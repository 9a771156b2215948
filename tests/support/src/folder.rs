//! Where the databases are.

use std::{env, io, path::PathBuf};

use tempfile::TempDir;

/// The free memory below which the databases are on the disk. Docker gives a container 64 MB, for example.
const ENOUGH: u64 = 4 << 30;

/// Returns a new folder in memory, because the tests wait for the disk otherwise. If the memory is too small, or
/// `TMPDIR` is set, the folder is among the other temporary ones.
pub(crate) fn in_memory(prefix: &str) -> io::Result<TempDir> {
    const MEMORY: &str = "/dev/shm";
    let has_room =
        rustix::fs::statvfs(MEMORY).is_ok_and(|memory| memory.f_bavail * memory.f_frsize >= ENOUGH);
    let parent =
        if has_room && env::var_os("TMPDIR").is_none() { PathBuf::from(MEMORY) } else { env::temp_dir() };
    tempfile::Builder::new().prefix(prefix).tempdir_in(parent)
}
