//! What the kernel has said so far in a boot, and a picture of it.

use crate::console::{
    Attack, Attempt, Boot, Card, Drops, Leaks, Line, Message, ProcessState, SelfTest, State,
    Verdict,
};
use core::fmt::Write as _;
use std::{collections::BTreeMap, time::Instant};

/// Everything the kernel has said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    pub(crate) boot: Option<Boot>,
    pub(crate) ready: bool,
    pub(crate) processes: BTreeMap<String, ProcessState>,
    /// When each of them was spoken of last.
    pub(crate) heard: BTreeMap<String, Instant>,
    /// Numbers that processes published, by process and key.
    pub(crate) reports: BTreeMap<(String, String), u64>,
    /// The attack that began last, and when the host heard of it.
    pub(crate) attempt: Option<(Attempt, Instant)>,
    pub(crate) attacks: Vec<Attack>,
    /// What processes have said: the kernel puts their names before it, in brackets.
    pub(crate) said: Vec<String>,
    /// What the kernel has said in words.
    pub(crate) told: Vec<String>,
    /// Drop counters, first and last.
    pub(crate) drops: Option<(Drops, Drops)>,
    /// What the card itself said last, where it counts.
    pub(crate) card: Option<Card>,
    pub(crate) leaks: Option<Leaks>,
    pub(crate) selftests: Vec<SelfTest>,
    pub(crate) verdict: Option<Verdict>,
    /// Marked lines that were not understood.
    pub(crate) malformed: Vec<String>,
}

impl Observed {
    /// Takes a line in; returns what a person should read of it.
    pub(crate) fn absorb(&mut self, line: Line) -> Option<String> {
        match line {
            Line::Text(text) => {
                let by = if text.starts_with('[') {
                    &mut self.said
                } else {
                    &mut self.told
                };
                by.push(text.clone());
                Some(text)
            }
            Line::Malformed(line, why) => {
                let text = format!("not understood ({why}): {line}");
                self.malformed.push(text.clone());
                Some(text)
            }
            Line::Said(message) => self.hear(message),
        }
    }

    fn hear(&mut self, message: Message) -> Option<String> {
        match message {
            Message::Boot(boot) => {
                let text = boot.to_string();
                self.boot = Some(boot);
                return Some(text);
            }
            Message::Ready {} => self.ready = true,
            Message::Process(state) => self.note(state),
            Message::Report(report) => {
                self.reports
                    .insert((report.process, report.key), report.value);
            }
            Message::Attempt(attempt) => self.attempt = Some((attempt, Instant::now())),
            Message::Attack(attack) => {
                let text = attack.to_string();
                self.attacks.push(attack);
                return Some(text);
            }
            Message::Drops(drops) => {
                self.drops = Some((self.drops.map_or(drops, |(first, _)| first), drops));
            }
            Message::Card(card) => self.card = Some(card),
            Message::Leaks(leaks) => self.leaks = Some(leaks),
            Message::Selftest(test) => {
                let text = test.to_string();
                self.selftests.push(test);
                return Some(text);
            }
            Message::Verdict(verdict) => self.verdict = Some(verdict),
        }
        None
    }

    /// The last line about a process counts, but for its queue pairs: those it gave back at the end it has had.
    fn note(&mut self, mut state: ProcessState) {
        if let Some(before) = self.processes.get(&state.name) {
            state.queues = state.queues.max(before.queues);
        }
        self.heard.insert(state.name.clone(), Instant::now());
        self.processes.insert(state.name.clone(), state);
    }

    /// Whether the process has ended, by itself or not.
    pub(crate) fn has_ended(&self, name: &str) -> bool {
        self.processes
            .get(name)
            .is_some_and(|process| process.state != State::Running)
    }

    /// Whether the process has ended by itself.
    pub(crate) fn has_exited(&self, name: &str) -> bool {
        self.processes
            .get(name)
            .is_some_and(|process| process.state == State::Exited)
    }

    /// Whether so many frames have come to a process.
    pub(crate) fn has_received(&self, name: &str, frames: u64) -> bool {
        let process = self.processes.get(name);
        process.is_some_and(|process| process.rx_frames >= frames)
    }

    /// The sum of a number over all processes that published it.
    pub(crate) fn reported(&self, key: &str) -> u64 {
        self.reports
            .iter()
            .filter(|((_, name), _)| name == key)
            .map(|(_, value)| value)
            .sum()
    }

    /// Which process has which part of the machine, and what went through it.
    pub(crate) fn partition_map(&self) -> String {
        let mut map = String::new();
        let mut nodes: Vec<_> = self
            .processes
            .values()
            .map(|process| process.node)
            .collect();
        nodes.sort_unstable();
        nodes.dedup();
        for node in nodes {
            // Writing to a string does not fail.
            let _: core::fmt::Result = writeln!(map, "node {node}");
            for process in self
                .processes
                .values()
                .filter(|process| process.node == node)
            {
                let _: core::fmt::Result = writeln!(map, "  {process}");
            }
        }
        map
    }
}

impl core::fmt::Display for Boot {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self {
            cores,
            nodes,
            nic,
            ring,
            steering,
            queue_pairs,
            nvme_queue_pairs,
            ..
        } = self;
        write!(
            f,
            "{cores} cores on {nodes} nodes; {nic} with {queue_pairs} queue pairs ({ring} rings), steering in {steering}"
        )?;
        if !self.reason.is_empty() {
            write!(f, " ({})", self.reason)?;
        }
        write!(f, "; NVMe with {nvme_queue_pairs} queue pairs")
    }
}

impl core::fmt::Display for ProcessState {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let modes = if self.rx_mode.is_empty() {
            self.mode.clone()
        } else {
            format!("{}/{}", self.rx_mode, self.mode)
        };
        write!(
            f,
            "core {:<2} {:<8} {} queue pairs, {modes:<17} rx {:>8} tx {:>8} io {:>8}",
            self.core, self.name, self.queues, self.rx_frames, self.tx_frames, self.ios
        )?;
        if self.violations > 0 {
            write!(f, " violations {}", self.violations)?;
        }
        let state = format!("{:?}", self.state).to_lowercase();
        write!(f, " {state}")?;
        if !self.reason.is_empty() {
            write!(f, ": {}", self.reason)?;
        }
        Ok(())
    }
}

impl core::fmt::Display for Attack {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if self.stopped {
            write!(
                f,
                "attack {} on {}: stopped by {}",
                self.name, self.device, self.by
            )
        } else {
            write!(
                f,
                "attack {} on {}: NOT STOPPED: {}{}",
                self.name, self.device, self.evidence, self.why
            )
        }
    }
}

impl core::fmt::Display for SelfTest {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let result = if self.pass { "ok" } else { "FAILED" };
        write!(f, "self-test {}: {result}", self.name)?;
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(lines: &[&str]) -> Observed {
        let mut observed = Observed::default();
        for line in lines {
            observed.absorb(Line::parse(line));
        }
        observed
    }

    #[test]
    fn the_last_word_counts_but_the_first_drops_are_kept() {
        let observed = observed(&[
            r#"@ {"drops":{"device":1,"ring":0}}"#,
            r#"@ {"drops":{"device":1,"ring":2}}"#,
            r#"@ {"drops":{"device":1,"ring":5}}"#,
            r#"@ {"report":{"process":"blk0","key":"written","value":3}}"#,
            r#"@ {"report":{"process":"blk0","key":"written","value":9}}"#,
            r#"@ {"report":{"process":"blk1","key":"written","value":1}}"#,
        ]);
        assert_eq!(
            observed.drops,
            Some((Drops { device: 1, ring: 0 }, Drops { device: 1, ring: 5 }))
        );
        assert_eq!(observed.reported("written"), 10);
    }

    #[test]
    fn the_map_groups_processes_by_node() {
        let line = |name: &str, node: u32| {
            format!(
                r#"@ {{"process":{{"name":"{name}","core":{node},"node":{node},"mode":"checked","rx_mode":"","queues":1,"rx_frames":0,"tx_frames":0,"rx_bytes":0,"tx_bytes":0,"ios":7,"strays":0,"violations":0,"leases":1,"state":"running","reason":""}}}}"#
            )
        };
        let observed = observed(&[&line("b", 1), &line("a", 0), &line("c", 1)]);
        let map = observed.partition_map();
        let order: Vec<_> = map
            .lines()
            .map(|line| line.split_whitespace().nth(2).unwrap_or(line))
            .collect();
        assert_eq!(order, ["node 0", "a", "node 1", "b", "c"]);
    }
}
