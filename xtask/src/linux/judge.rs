//! What the guest said: its checks, and its kernel log.

use super::{
    Device,
    memory::{Guest, Reloads, Usage},
};
use core::fmt;
use std::collections::BTreeMap;

/// A line of priority "warning" or worse that is no fault of the model.
#[derive(Debug)]
struct Known {
    /// A part of the line.
    text: &'static str,
    /// Linux's own condition for it, or where it was logged on real hardware.
    why: &'static str,
}

const KNOWN: &[Known] = &[Known {
    text: "hrtimer: interrupt took",
    why: "kernel/time/hrtimer.c, hrtimer_interrupt: three rounds were not enough to run all timers that had expired, as on \
          any machine whose processors are taken away for a while; Red Hat's solution 194283 has it from physical machines too",
}];

/// The worst priority that is no complaint: 5 is "notice".
const NOTICE: u8 = 5;

/// A check that was made.
#[derive(Clone, Debug)]
pub(super) struct Check {
    name: String,
    passed: bool,
    seconds: f64,
}

/// What a line of the guest's was.
#[derive(Debug)]
pub(super) enum Heard<'a> {
    /// The end of a check.
    Check(&'a Check),
    /// The moment at which the model's memory is to be looked at.
    Sample,
    /// Nothing that anybody has to do something about.
    Nothing,
}

#[derive(Debug, Default)]
pub(super) struct Report {
    release: String,
    checks: Vec<Check>,
    /// The check that is being made, and when it was begun.
    running: Option<(String, f64)>,
    /// Numbers; those of the same name are added up.
    figures: BTreeMap<String, u64>,
    /// What the model held, at each sample.
    model: Vec<Usage>,
    /// Kernel log from the first check on, with priorities.
    log: Vec<(u8, String)>,
    in_log: bool,
    ended: bool,
    /// Why the guest was stopped.
    stopped: Option<String>,
    /// What failed checks said.
    words: Vec<String>,
}

impl Report {
    /// Takes the next line of the guest's console.
    pub(super) fn hear(&mut self, line: &str) -> Heard<'_> {
        let line = line.trim_end();
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["@release", release] => release.clone_into(&mut self.release),
            ["@start", at, name] => self.running = at.parse().ok().map(|at| (name.to_owned(), at)),
            ["@pass", at, name] => return self.made(name, true, at),
            ["@fail", at, name] => return self.made(name, false, at),
            ["@figure", name, value] => {
                *self.figures.entry(name.to_owned()).or_default() += value.parse().unwrap_or(0);
                if name.starts_with("used-") {
                    return Heard::Sample;
                }
            }
            ["@alive"] => {}
            ["@log"] => self.in_log = true,
            ["@end"] => self.ended = true,
            _ if self.in_log && !self.ended => self.log.extend(priority(line)),
            _ => self.words.push(line.to_owned()),
        }
        Heard::Nothing
    }

    fn made(&mut self, name: &str, passed: bool, at: &str) -> Heard<'_> {
        let begun = self.running.take().map(|(_, begun)| begun);
        let seconds = at.parse().ok().zip(begun);
        self.checks.push(Check {
            name: name.to_owned(),
            passed,
            seconds: seconds.map_or(0.0, |(at, begun): (f64, f64)| at - begun),
        });
        self.checks.last().map_or(Heard::Nothing, Heard::Check)
    }

    /// The guest was stopped, for this reason.
    pub(super) fn stop(&mut self, mut reason: String) {
        if let Some((name, _)) = &self.running {
            reason += &format!("; it was in the check `{name}`");
        }
        self.stopped = Some(reason);
    }

    /// What the model holds at a sample.
    pub(super) fn add_usage(&mut self, usage: Usage) {
        self.model.push(usage);
    }

    /// Whether the check `name` was made and failed.
    pub(super) fn has_failed(&self, name: &str) -> bool {
        self.checks
            .iter()
            .any(|check| check.name == name && !check.passed)
    }

    /// Whether the check `name` was made.
    pub(super) fn has_made(&self, name: &str) -> bool {
        self.checks.iter().any(|check| check.name == name)
    }

    /// The kernel's release.
    pub(super) fn release(&self) -> &str {
        &self.release
    }

    /// Memory before and after the driver's reloads, if there were any.
    fn reloads(&self) -> Option<Reloads> {
        let figure = |name: &str| self.figures.get(name).copied();
        let guest = |when| {
            Some(Guest {
                used: figure(&format!("used-{when}"))?,
                objects: figure(&format!("objects-{when}"))?,
            })
        };
        let [before, after] = self.model[..] else {
            return None;
        };
        Some(Reloads {
            count: figure("reloads")?,
            guest: [guest("before")?, guest("after")?],
            model: [before, after],
        })
    }

    /// Sentences about what is not as it should be.
    pub(super) fn failures(&self, device: Device, objections: &[String]) -> Vec<String> {
        let mut failures = Vec::new();
        match &self.stopped {
            Some(reason) => failures.push(reason.clone()),
            None if !self.ended => {
                failures.push("the guest did not come to the end of its checks".to_owned());
            }
            None => {}
        }
        failures.extend(self.lost_log());
        let failed = self.checks.iter().filter(|check| !check.passed);
        failures.extend(failed.map(|check| format!("check `{}` failed in the guest", check.name)));
        failures.extend(self.reloads().iter().flat_map(Reloads::failures));
        failures.extend(
            self.complaints()
                .filter(|(_, known)| known.is_none())
                .map(|(line, _)| format!("the kernel complains: {line}")),
        );
        let violations = objections.iter().filter(|line| line.contains("violation"));
        failures.extend(
            violations.map(|line| format!("the model of {} objects: {line}", device.name())),
        );
        failures
    }

    /// What to say where the guest's log no longer holds its first check: nothing before its first line was judged.
    fn lost_log(&self) -> Option<String> {
        let first = self.checks.first().filter(|_| self.ended)?;
        let marker = format!("check: {}", first.name);
        let is_whole = self.log.iter().any(|(_, line)| line.ends_with(&marker));
        (!is_whole).then(|| format!("the kernel's log has lost its beginning, with `{marker}`"))
    }

    /// Warnings and errors of the kernel, from the first check on, with what is known of them.
    fn complaints(&self) -> impl Iterator<Item = (&str, Option<&Known>)> {
        let begun = self
            .log
            .iter()
            .position(|(_, line)| line.contains("check: "));
        let log = self.log.get(begun.unwrap_or(0)..).unwrap_or_default();
        log.iter()
            .filter(|(priority, line)| *priority < NOTICE && !line.contains("check: "))
            .map(|(_, line)| {
                let known = KNOWN.iter().find(|known| line.contains(known.text));
                (line.as_str(), known)
            })
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let result = if self.passed { "ok" } else { "FAILED" };
        write!(f, "{result:>6} {:<16} {:>6.1} s", self.name, self.seconds)
    }
}

/// What is of interest beside the checks.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.checks.iter().any(|check| !check.passed) {
            for line in &self.words {
                writeln!(f, "       | {line}")?;
            }
        }
        for (line, known) in self.complaints() {
            if let Some(known) = known {
                writeln!(f, "allowed: {line} ({})", known.why)?;
            }
        }
        let moved = self
            .figures
            .iter()
            .filter_map(|(name, bytes)| Some((name.strip_prefix("bytes-")?, bytes)));
        for (way, bytes) in moved {
            writeln!(f, "{way} with the right checksum: {} MiB", bytes >> 20)?;
        }
        if let Some(reloads) = self.reloads() {
            writeln!(f, "{reloads}")?;
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
        let mut report = Report::default();
        for line in console.lines() {
            report.hear(line);
        }
        report
    }

    #[test]
    fn warnings_after_the_first_check_fail_and_known_ones_do_not() {
        let console = "@release 6.1\n@start 1.0 link\n@pass 2.5 link\n@log\n<4>[ 0.1] before\n<12>[ 1.0] check: link\n\
            <6>[ 1.1] fine\n<4>[ 1.2] hrtimer: interrupt took 2 ns\n<3>[ 1.3] ixgbe: Adapter removed\n@end\n";
        let report = report(console);
        let failures = report.failures(Device::Ixgbe, &[]);
        assert_eq!(
            failures,
            ["the kernel complains: [ 1.3] ixgbe: Adapter removed"]
        );
        assert!(report.to_string().contains("allowed: [ 1.2] hrtimer"));
        assert_eq!(report.release(), "6.1");
        assert_eq!(
            report.checks[0].to_string(),
            "    ok link                1.5 s"
        );
    }

    #[test]
    fn a_log_without_its_beginning_fails() {
        let console = "@pass 1.0 modules\n@pass 2.0 link\n@log\n<12>[ 1.0] check: link\n@end\n";
        let failures = report(console).failures(Device::Ixgbe, &[]);
        assert_eq!(failures.len(), 1);
        assert!(failures[0].contains("check: modules"), "{failures:?}");
    }

    #[test]
    fn a_guest_that_stops_early_fails_as_does_a_rule_that_was_broken() {
        let report = report("@pass 1.0 link\n@fail 2.0 ping\n");
        let objections = [
            "1 ns violation (82599, 4.6.8): x".to_owned(),
            "left out".to_owned(),
        ];
        assert_eq!(report.failures(Device::Ixgbe, &objections).len(), 3);
        assert!(report.has_failed("ping") && report.has_made("link") && !report.has_failed("link"));
    }

    #[test]
    fn a_guest_that_was_stopped_is_said_to_have_been_in_a_check() {
        let mut report = report("@start 1.0 link\n@pass 2.0 link\n@start 2.0 self-test\n");
        report.stop("no more time".to_owned());
        assert_eq!(
            report.failures(Device::Ixgbe, &[]),
            ["no more time; it was in the check `self-test`"]
        );
    }

    #[test]
    fn figures_add_up_and_memory_is_judged() {
        let mut report = Report::default();
        for line in [
            "@figure bytes-sent 1048576",
            "@figure bytes-sent 1048576",
            "@figure reloads 5",
            "@figure objects-before 1000",
            "@figure objects-after 1000",
            "@end",
        ] {
            assert!(matches!(report.hear(line), Heard::Nothing));
        }
        for line in ["@figure used-before 50000", "@figure used-after 60000"] {
            assert!(matches!(report.hear(line), Heard::Sample));
            report.add_usage(Usage::of(std::process::id()).unwrap());
        }
        let text = report.to_string();
        assert!(
            text.starts_with("sent with the right checksum: 2 MiB\n5 reloads"),
            "{text}"
        );
        let failures = report.failures(Device::Nvme, &[]);
        assert!(failures[0].contains("cost the guest memory"));
    }
}
