//! Processor time and memory of a process and its descendants, from `/proc` (Linux, `proc(5)`).

use std::collections::BTreeMap;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

/// What processes have used so far, and what they hold now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// User and system time, of all threads that ever were; in steps of a clock tick, which is usually 10 ms.
    pub cpu: Duration,
    /// Resident memory, in bytes, without the pages of files that are only mapped.
    pub resident_bytes: u64,
    /// The most resident memory since the start or [`reset_peak`], in bytes.
    pub peak_bytes: u64,
}

impl Figures {
    /// The figures of a process and all of its descendants together. A process that is gone counts nothing.
    ///
    /// # Panics
    ///
    /// When `/proc` is not mounted.
    pub fn of(process: u32) -> Self {
        let mut sum = Self::default();
        for process in family(process) {
            let one = Self::of_one(process);
            sum.cpu += one.cpu;
            sum.resident_bytes += one.resident_bytes;
            sum.peak_bytes += one.peak_bytes;
        }
        sum
    }

    fn of_one(process: u32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        Self {
            cpu: fields(process).map_or(Duration::ZERO, |fields| ticks(&fields)),
            resident_bytes: kibibytes(&status, "RssAnon:") + kibibytes(&status, "RssShmem:"),
            peak_bytes: kibibytes(&status, "VmHWM:"),
        }
    }
}

/// Lets the peak begin anew, for a process and its descendants.
pub fn reset_peak(process: u32) {
    for process in family(process) {
        // A process that is gone has no peak.
        let _ = std::fs::write(format!("/proc/{process}/clear_refs"), "5");
    }
}

/// The process and its descendants, itself first.
///
/// # Panics
///
/// When `/proc` is not mounted.
pub fn family(process: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let others = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for other in others {
        if let Some(parent) = fields(other).and_then(|fields| fields.get(1)?.parse().ok()) {
            children.entry(parent).or_default().push(other);
        }
    }
    let mut found = vec![process];
    let mut position = 0;
    while position < found.len() {
        found.extend(children.remove(&found[position]).unwrap_or_default());
        position += 1;
    }
    found
}

/// The fields of `/proc/PID/stat` after the name, which may contain anything: the state first.
fn fields(process: u32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect())
}

fn ticks(fields: &[String]) -> Duration {
    let field = |position: usize| fields.get(position).and_then(|field| field.parse::<u64>().ok()).unwrap_or_default();
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|ticks| u32::try_from(ticks).ok());
    // Fields 14 and 15 of the whole line.
    Duration::from_secs(field(11) + field(12)) / per_second.unwrap_or(100)
}

fn kibibytes(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or_default() * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_uses_time_and_memory() {
        let before = Figures::of(std::process::id());
        let filled = vec![1_u8; 64 * 1024 * 1024];
        let mut number = 1_u64;
        while Figures::of(std::process::id()).cpu <= before.cpu {
            number = std::hint::black_box(number.wrapping_mul(3));
        }
        let after = Figures::of(std::process::id());
        assert!(after.resident_bytes >= before.resident_bytes + 32 * 1024 * 1024, "{before:?} {after:?}");
        assert!(after.peak_bytes >= after.resident_bytes, "{after:?}");
        drop(std::hint::black_box(filled));
    }

    #[test]
    fn descendants_are_found() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep starts");
        assert!(family(std::process::id()).contains(&child.id()));
        child.kill().expect("it is there");
        child.wait().expect("it ends");
    }
}
