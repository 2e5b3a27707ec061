//! Whether a driver that comes and goes leaves something behind: in the guest's memory, or in the model's process.

use anyhow::{Context, Result};
use core::fmt;
use std::fs;

/// What the guest's small objects may take more at the end, in KiB: half-filled pages of them come and go.
const OBJECTS_SLACK: u64 = 4096;

/// What the guest may use more beside small objects, in KiB. A ring of 512 descriptors left behind at each of 100 reloads
/// would be 800.
const PAGES_SLACK: u64 = 512;

/// What the model's process may have more, in KiB: its allocator keeps what was freed.
const MODEL_SLACK: u64 = 1024;

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Usage {
    /// Memory of its own, in KiB: the guest's memory, which it maps, is not in it.
    private: u64,
    /// Open files: an interrupt that was not given back is one.
    files: usize,
    /// Pieces of its address space: a mapping of the guest's memory that was not given back is one.
    mappings: usize,
}

impl Usage {
    /// What the process with this number holds now.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
        };
        let files = format!("/proc/{pid}/fd");
        Ok(Self {
            private: private(&read("status")?)
                .context("the kernel does not say how much memory the model has")?,
            files: fs::read_dir(&files)
                .with_context(|| format!("cannot read {files}"))?
                .count(),
            mappings: read("maps")?.lines().count(),
        })
    }
}

/// The anonymous memory in a process's `status`.
fn private(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// What the guest's kernel uses, in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Guest {
    /// All of it.
    pub(super) used: u64,
    /// Small objects among it.
    pub(super) objects: u64,
}

/// Before many reloads of a driver, and after them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reloads {
    pub(super) count: u64,
    pub(super) guest: [Guest; 2],
    pub(super) model: [Usage; 2],
}

impl Guest {
    const fn pages(self) -> u64 {
        self.used.saturating_sub(self.objects)
    }

    /// Whether more was left behind than noise.
    const fn has_leaked_since(self, before: Self) -> bool {
        self.objects > before.objects + OBJECTS_SLACK || self.pages() > before.pages() + PAGES_SLACK
    }
}

impl Usage {
    const fn has_leaked_since(self, before: Self) -> bool {
        self.private > before.private + MODEL_SLACK
            || self.files > before.files
            || self.mappings > before.mappings
    }
}

impl Reloads {
    /// Sentences about what was left behind.
    pub(super) fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        let count = self.count;
        let [before, after] = self.guest;
        if after.has_leaked_since(before) {
            failures.push(format!(
                "{count} reloads of the driver cost the guest memory: {before} before, {after} after"
            ));
        }
        let [before, after] = self.model;
        if after.has_leaked_since(before) {
            failures.push(format!(
                "{count} reloads of the driver cost the model memory: {before} before, {after} after"
            ));
        }
        failures
    }
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { used, objects } = self;
        write!(f, "{used} KiB, {objects} KiB of it small objects")
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            private,
            files,
            mappings,
        } = self;
        write!(f, "{private} KiB, {files} files, {mappings} mappings")
    }
}

impl fmt::Display for Reloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} reloads of the driver:", self.count)?;
        let [before, after] = self.guest;
        writeln!(f, "  guest: {before}, before; {after}, after")?;
        let [before, after] = self.model;
        write!(f, "  model: {before}, before; {after}, after")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: Guest = Guest {
        used: 100_000,
        objects: 20_000,
    };
    const MODEL: Usage = Usage {
        private: 10_000,
        files: 20,
        mappings: 50,
    };

    fn failures(guest: Guest, model: Usage) -> usize {
        let reloads = Reloads {
            count: 100,
            guest: [GUEST, guest],
            model: [MODEL, model],
        };
        reloads.failures().len()
    }

    #[test]
    fn noise_is_no_leak() {
        assert_eq!(failures(GUEST, MODEL), 0);
        let guest = Guest {
            used: 102_000,
            objects: 21_900,
        };
        assert_eq!(failures(guest, MODEL), 0);
    }

    #[test]
    fn what_is_left_behind_in_the_guest_is_found() {
        let rings = Guest {
            used: GUEST.used + 100 * 8,
            ..GUEST
        };
        let objects = Guest {
            used: GUEST.used + 5000,
            objects: GUEST.objects + 5000,
        };
        for guest in [rings, objects] {
            assert_eq!(failures(guest, MODEL), 1, "{guest}");
        }
    }

    #[test]
    fn what_is_left_behind_in_the_model_is_found() {
        let files = Usage { files: 21, ..MODEL };
        let mappings = Usage {
            mappings: 51,
            ..MODEL
        };
        let private = Usage {
            private: 12_000,
            ..MODEL
        };
        for model in [files, mappings, private] {
            assert_eq!(failures(GUEST, model), 1, "{model}");
        }
    }

    #[test]
    fn this_process_holds_something() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(
            usage.private > 0 && usage.files > 2 && usage.mappings > 5,
            "{usage}"
        );
    }

    #[test]
    fn memory_is_what_the_kernel_says() {
        let status =
            "Name:\tmock-hw\nVmRSS:\t  900000 kB\nRssAnon:\t    1234 kB\nRssFile:\t 9 kB\n";
        assert_eq!(private(status), Some(1234));
        assert_eq!(private("Name:\tx\n"), None);
    }
}
