//! What the guest said: its checks, and its kernel log.

use super::Device;
use anyhow::{Context, Result};
use core::fmt;
use std::io;

/// Lines of priority "warning" and worse that are no fault of the model, with the reason.
const KNOWN: &[(&str, &str)] = &[
    // nvme_init_ns_head: QEMU's and our vendor id is on the driver's list of those whose identifiers are not unique.
    (
        "Ignoring bogus Namespace Identifiers",
        "the driver's quirk for 1b36:0010",
    ),
    // Printed on real cards too: lib/crypto and kernel/module say so of every distribution's kernel with old keys.
    ("loading out-of-tree module taints kernel", "not of ours"),
    ("hrtimer: interrupt took", "TCG on a busy host"),
    (
        "Unstable clock detected, switching default tracing clock",
        "TCG's time-stamp counter",
    ),
    (
        "If you want to keep using the local clock",
        "the same message",
    ),
    ("trace_clock=local", "the same message"),
    ("on the kernel command line", "the same message"),
];

/// The worst priority that is no complaint: 5 is "notice".
const NOTICE: u8 = 5;

#[derive(Debug, Default)]
pub(super) struct Report {
    release: String,
    checks: Vec<(String, bool)>,
    /// Kernel log from the first check on, with priorities.
    log: Vec<(u8, String)>,
    ended: bool,
    /// What failed checks said.
    words: Vec<String>,
}

impl Report {
    /// Reads the guest's console.
    pub(super) fn read(lines: impl Iterator<Item = io::Result<String>>) -> Result<Self> {
        let mut report = Self::default();
        let mut in_log = false;
        for line in lines {
            let line = line.context("the console cannot be read")?;
            let line = line.trim_end();
            match line.strip_prefix('@').and_then(|line| line.split_once(' ')) {
                Some(("release", release)) => release.clone_into(&mut report.release),
                Some(("pass", name)) => report.checks.push((name.to_owned(), true)),
                Some(("fail", name)) => report.checks.push((name.to_owned(), false)),
                _ if line == "@log" => in_log = true,
                _ if line == "@end" => report.ended = true,
                _ if in_log && !report.ended => report.log.extend(priority(line)),
                _ => report.words.push(line.to_owned()),
            }
        }
        Ok(report)
    }

    /// Whether the check `name` was made and failed.
    pub(super) fn has_failed(&self, name: &str) -> bool {
        self.checks
            .iter()
            .any(|(other, passed)| other == name && !passed)
    }

    /// The kernel's release.
    pub(super) fn release(&self) -> &str {
        &self.release
    }

    /// Sentences about what is not as it should be.
    pub(super) fn failures(&self, device: Device, objections: &[String]) -> Vec<String> {
        let mut failures = Vec::new();
        if !self.ended {
            failures.push("the guest did not come to the end of its checks".to_owned());
        }
        let failed = self.checks.iter().filter(|(_, passed)| !passed);
        failures.extend(failed.map(|(name, _)| format!("check `{name}` failed in the guest")));
        failures.extend(
            self.complaints()
                .map(|line| format!("the kernel complains: {line}")),
        );
        let violations = objections.iter().filter(|line| line.contains("violation"));
        failures.extend(
            violations.map(|line| format!("the model of {} objects: {line}", device.name())),
        );
        failures
    }

    /// Warnings and errors of the kernel, from the first check on, that are not known.
    fn complaints(&self) -> impl Iterator<Item = &str> {
        let begun = self
            .log
            .iter()
            .position(|(_, line)| line.contains("check: "));
        let log = self.log.get(begun.unwrap_or(0)..).unwrap_or_default();
        log.iter()
            .filter(|(priority, _)| *priority < NOTICE)
            .map(|(_, line)| line.as_str())
            .filter(|line| !line.contains("check: "))
            .filter(|line| !KNOWN.iter().any(|(known, _)| line.contains(known)))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, passed) in &self.checks {
            writeln!(f, "{:>6} {name}", if *passed { "ok" } else { "FAILED" })?;
        }
        if self.checks.iter().any(|(_, passed)| !passed) {
            for line in &self.words {
                writeln!(f, "       | {line}")?;
            }
        }
        Ok(())
    }
}

/// A line of the raw kernel log: `<PRIORITY>[ time] text`; the priority with its facility in the high bits.
fn priority(line: &str) -> Option<(u8, String)> {
    let (number, text) = line.strip_prefix('<')?.split_once('>')?;
    let number: u32 = number.parse().ok()?;
    let priority = u8::try_from(number & 7).ok()?;
    Some((priority, text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(console: &str) -> Report {
        Report::read(console.lines().map(|line| Ok(line.to_owned()))).unwrap()
    }

    #[test]
    fn warnings_after_the_first_check_fail_and_known_ones_do_not() {
        let console = "@release 6.1\n@pass link\n@log\n<4>[ 0.1] before\n<12>[ 1.0] check: link\n<6>[ 1.1] fine\n\
            <4>[ 1.2] nvme0: Ignoring bogus Namespace Identifiers\n<3>[ 1.3] ixgbe: Adapter removed\n@end\n";
        let report = report(console);
        let failures = report.failures(Device::Ixgbe, &[]);
        assert_eq!(
            failures,
            ["the kernel complains: [ 1.3] ixgbe: Adapter removed"]
        );
        assert_eq!(report.release(), "6.1");
    }

    #[test]
    fn a_guest_that_stops_early_fails_as_does_a_rule_that_was_broken() {
        let report = report("@pass link\n@fail ping\n");
        let objections = [
            "1 ns violation (82599, 4.6.8): x".to_owned(),
            "left out".to_owned(),
        ];
        assert_eq!(report.failures(Device::Ixgbe, &objections).len(), 3);
    }
}
