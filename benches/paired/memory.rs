//! The peak of this process's memory, by Linux's account (proc(5)).

use std::{fs, future::Future};

use crate::measure::Failure;

/// In MiB.
pub(crate) async fn peak_of(work: impl Future<Output = Result<(), Failure>>) -> Result<f64, Failure> {
    // Sets the peak back to the memory in use.
    fs::write("/proc/self/clear_refs", "5")?;
    work.await?;
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}
