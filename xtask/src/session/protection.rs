//! Whether the kernel's own protections and self-tests did what they are there for.

use crate::{
    observed::Observed,
    qemu::{
        machine::{Board, Wire},
        run::{Ended, Failure},
    },
};
use anyhow::{Context, Result, ensure};

/// Self-tests that every machine's kernel runs. Some have one name and differ in what the kernel does meanwhile.
const ALWAYS: [&str; 27] = [
    "virtual-queues",
    "exit",
    "exit",
    "exit",
    "log",
    "info",
    "sse",
    "wild-pointers",
    "unknown-call",
    "wait",
    "request",
    "memory",
    "interrupt",
    "interrupt",
    "read-kernel",
    "write-code",
    "write-info",
    "run-data",
    "null",
    "overflow",
    "touch-revoked",
    "divide",
    "privileged",
    "illegal",
    "spin",
    "spin",
    "spin-with-ac",
];
/// Those that need an SSD, and those that need a card: where it does not come up, the kernel leaves them out.
const OF_THE_SSD: [&str; 5] = [
    "scarcity",
    "forgetting",
    "ssd-views",
    "quotas",
    "quarantine",
];
const OF_THE_CARD: [&str; 3] = ["card-views", "spoofing", "reset"];

/// The self-tests that the kernel of such a machine has to run.
pub(super) fn self_tests(board: Board, wire: &Wire) -> Vec<&'static str> {
    let mut names = ALWAYS.to_vec();
    if board == Board::Q35 {
        names.extend(OF_THE_SSD);
    }
    if !matches!(wire, Wire::None) {
        names.extend(OF_THE_CARD);
    }
    names
}

/// Whether exactly these self-tests were run, as often as they are named, and all passed.
pub(super) fn passed(observed: &Observed, mut wanted: Vec<&str>) -> Result<()> {
    let tests = observed.selftests.iter();
    let failed = tests.clone().filter(|test| !test.pass);
    let failed: Vec<_> = failed.map(|test| test.name.as_str()).collect();
    ensure!(
        failed.is_empty(),
        "these self-tests failed: {}",
        failed.join(", ")
    );
    let mut unknown = Vec::new();
    for test in tests {
        match wanted.iter().position(|name| *name == test.name) {
            Some(place) => drop(wanted.swap_remove(place)),
            None => unknown.push(test.name.as_str()),
        }
    }
    ensure!(
        wanted.is_empty(),
        "these self-tests were not run: {}",
        wanted.join(", ")
    );
    ensure!(
        unknown.is_empty(),
        "nobody knows of these self-tests: {}",
        unknown.join(", ")
    );
    Ok(())
}

/// Whether the kernel said that it does `what`, and the next that it said was a panic with `words` in it.
pub(super) fn stopped(observed: &Observed, ended: &Ended, what: &str, words: &str) -> Result<()> {
    ensure!(
        ended.failure == Some(Failure::Panic),
        "no panic after `{what}`, but: {:?}",
        ended.failure
    );
    let told: Vec<_> = observed.told.iter().filter(|it| !it.is_empty()).collect();
    let line = format!("sabotage: {what}");
    let done = told.iter().position(|it| **it == line);
    let done = done.with_context(|| format!("a panic, and the kernel had not come to `{what}`"))?;
    let mut after = told.into_iter().skip(done + 1);
    let first = after.next().map_or("", String::as_str);
    let is_it = first.starts_with("PANIC: ")
        && (first.contains(words) || after.any(|it| it.contains(words)))
        && observed.selftests.is_empty();
    ensure!(
        is_it,
        "`{what}` was not stopped by `{words}`; next the kernel said: {first}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::Line;

    fn heard(lines: &[&str]) -> Observed {
        let mut observed = Observed::default();
        for line in lines {
            observed.absorb(Line::parse(line));
        }
        observed
    }

    fn ran(names: &[&str]) -> Observed {
        let lines: Vec<_> = names.iter().map(|name| format!("PASS {name}")).collect();
        heard(&lines.iter().map(String::as_str).collect::<Vec<_>>())
    }

    #[test]
    fn every_self_test_has_to_be_run_as_often_as_it_is_named() {
        let wanted = || self_tests(Board::Q35, &Wire::Tap("t0".into()));
        assert!(passed(&ran(&wanted()), wanted()).is_ok());
        for left_out in 0..wanted().len() {
            let mut names = wanted();
            let name = names.remove(left_out);
            let error = passed(&ran(&names), wanted()).unwrap_err().to_string();
            assert_eq!(error, format!("these self-tests were not run: {name}"));
        }
        let mut more = wanted();
        more.push("reset");
        assert!(passed(&ran(&more), wanted()).is_err());
        let mut observed = ran(&wanted());
        observed.selftests[3].pass = false;
        assert!(passed(&observed, wanted()).is_err());
    }

    #[test]
    fn a_machine_without_a_device_has_no_test_of_it() {
        let has = |board, wire: &Wire, name| self_tests(board, wire).contains(&name);
        assert!(!has(Board::Q35, &Wire::None, "reset"));
        assert!(has(Board::Q35, &Wire::None, "scarcity"));
        assert!(!has(Board::Microvm, &Wire::User(Vec::new()), "quarantine"));
        assert!(has(Board::Microvm, &Wire::User(Vec::new()), "reset"));
    }

    #[test]
    fn only_a_panic_by_the_sabotage_counts() {
        let judge = |lines: &[&str]| {
            let ended = Ended {
                failure: Some(Failure::Panic),
                ..Ended::default()
            };
            stopped(&heard(lines), &ended, "stack", "exception 8")
        };
        let (line, panic) = ("sabotage: stack", "PANIC: panicked at src/panic.rs:1:2:");
        let words = "exception 8 (error 0x0) at 0x1 (APIC 0)";
        assert!(judge(&["boots", line, "", panic, words]).is_ok());
        assert!(judge(&["boots", panic, words]).is_err(), "at boot");
        assert!(judge(&[panic, words, line]).is_err(), "before");
        assert!(
            judge(&["sabotage: panic", panic, words]).is_err(),
            "another"
        );
        assert!(judge(&[line, panic, "exception 14"]).is_err(), "other");
        assert!(judge(&[line, "goes on", panic, words]).is_err());
        let through = "FAIL sabotage: stack went through";
        assert!(judge(&[line, through, panic, words]).is_err());
        let ended = Ended::default();
        assert!(stopped(&heard(&[line, panic, words]), &ended, "stack", "").is_err());
    }
}
