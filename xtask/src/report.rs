//! The judgement on a demonstration, from the evidence of everybody who watched.

mod stops;

pub(crate) use stops::{ATTACKS, IXGBE, NO_STOP};

use crate::{
    capture::Analysis,
    cast::{Cast, Process, ROGUE},
    console::{Attack, Card, ProcessState},
    disk,
    observed::Observed,
    qemu::run::Ended,
    traffic::Tally,
};
use anyhow::{Context, Result};
use core::net::Ipv4Addr;
use serde::Serialize;
use std::{collections::BTreeMap, fs, path::Path};

/// What happened in a boot, as everybody saw it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) observed: Observed,
    pub(crate) ended: Ended,
    pub(crate) tallies: BTreeMap<Ipv4Addr, Tally>,
    pub(crate) capture: Option<Analysis>,
    pub(crate) disk: disk::Verified,
    /// What went wrong on the host's side.
    pub(crate) failures: Vec<String>,
}

/// What there is to judge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Evidence<'a> {
    pub(crate) cast: &'a Cast,
    pub(crate) qemu: &'a str,
    /// Whether the wire has as many queues as the processes need.
    pub(crate) multi_queue: bool,
    /// Whether the card's cable was pulled now and then.
    pub(crate) is_unplugged: bool,
    /// Requests wanted over all network processes.
    pub(crate) wanted: u64,
    pub(crate) outcome: &'a Outcome,
}

/// The judgement, as `--json` writes it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    verdict: &'static str,
    failures: Vec<String>,
    nic: String,
    qemu: String,
    steering: String,
    requests: Requests,
    latency_us: Latency,
    blocks: Blocks,
    processes: Vec<ProcessState>,
    attacks: Vec<Attack>,
    /// What the card itself says, if it counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    card: Option<Card>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Requests {
    sent: u64,
    verified: u64,
    lost: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Latency {
    p50: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Blocks {
    written: u64,
    verified: u64,
    bad: u64,
}

impl Report {
    /// Weighs the evidence.
    pub(crate) fn judge(evidence: &Evidence<'_>) -> Result<Self> {
        let mut total = Tally::new()?;
        for tally in evidence.outcome.tallies.values() {
            total.add(tally)?;
        }
        let failures = evidence.failures(&total);
        let quantile = |q| total.latency.value_at_quantile(q);
        let boot = evidence.outcome.observed.boot.clone().unwrap_or_default();
        let disk = &evidence.outcome.disk;
        Ok(Self {
            verdict: if failures.is_empty() { "pass" } else { "fail" },
            failures,
            nic: boot.nic,
            qemu: evidence.qemu.to_owned(),
            steering: boot.steering,
            requests: Requests {
                sent: total.sent,
                verified: total.verified,
                lost: total.lost,
            },
            latency_us: Latency {
                p50: quantile(0.5),
                p99: quantile(0.99),
                p999: quantile(0.999),
                max: total.latency.max(),
            },
            blocks: Blocks {
                written: evidence.outcome.observed.reported("written"),
                verified: evidence.outcome.observed.reported("verified"),
                bad: disk.bad + evidence.outcome.observed.reported("bad"),
            },
            processes: evidence
                .outcome
                .observed
                .processes
                .values()
                .cloned()
                .collect(),
            attacks: evidence.outcome.observed.attacks.clone(),
            card: evidence.outcome.observed.card,
        })
    }

    /// Whether everything was as promised.
    pub(crate) fn passed(&self) -> bool {
        self.failures.is_empty()
    }

    /// Writes the judgement as one JSON object.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self)?;
        fs::write(path, json + "\n").with_context(|| format!("cannot write {}", path.display()))
    }

    /// The judgement for a person.
    pub(crate) fn print(&self) {
        let Requests {
            sent,
            verified,
            lost,
        } = self.requests;
        let Latency {
            p50,
            p99,
            p999,
            max,
        } = self.latency_us;
        let Blocks {
            written,
            verified: good,
            bad,
        } = self.blocks;
        println!("requests  {sent} sent, {verified} verified, {lost} lost");
        println!("latency   {p50} us median, {p99} us 99 %, {p999} us 99.9 %, {max} us longest");
        println!("blocks    {written} written, {good} verified, {bad} bad");
        if let Some(card) = &self.card {
            let Card {
                received,
                sent,
                dropped,
                missed,
                ..
            } = card;
            let (speed, losses) = (card.link_mbps, card.link_losses);
            println!(
                "card      {received} received, {sent} sent by its own count, {dropped} without a buffer, {missed} without room; link {speed} Mb/s, lost {losses} times"
            );
        }
        let stopped = self.attacks.iter().filter(|attack| attack.stopped).count();
        println!("attacks   {} tried, {stopped} stopped", self.attacks.len());
        for failure in &self.failures {
            println!("FAILURE   {failure}");
        }
        println!("verdict   {}", self.verdict);
    }
}

impl Evidence<'_> {
    fn failures(&self, total: &Tally) -> Vec<String> {
        let mut failures = self.outcome.failures.clone();
        failures.extend(self.outcome.observed.malformed.iter().cloned());
        self.judge_machine(&mut failures);
        self.judge_traffic(total, &mut failures);
        self.judge_counters(&mut failures);
        self.judge_card_counters(total, &mut failures);
        self.judge_capture(&mut failures);
        self.judge_disk(&mut failures);
        self.judge_processes(&mut failures);
        self.judge_attacks(&mut failures);
        failures
    }

    fn judge_machine(&self, failures: &mut Vec<String>) {
        failures.extend(
            self.outcome
                .ended
                .failure
                .map(|failure| failure.to_string()),
        );
        if let Some(first) = self.outcome.ended.objections.first() {
            failures.push(format!(
                "QEMU objected {} times, first: {first}",
                self.outcome.ended.objections.len()
            ));
        }
        match &self.outcome.observed.verdict {
            Some(verdict) => failures.extend(verdict.failures.iter().cloned()),
            None => failures.push("the kernel gave no verdict".into()),
        }
        match self.outcome.observed.leaks {
            Some(leaks) if leaks.is_nothing() => {}
            Some(leaks) => failures.push(format!("not everything came back: {leaks:?}")),
            None => failures.push("the kernel did not say whether everything came back".into()),
        }
        if self.cast.is_on_network() {
            self.judge_card(failures);
        }
    }

    fn judge_card(&self, failures: &mut Vec<String>) {
        match &self.outcome.observed.boot {
            Some(boot) if self.multi_queue && boot.steering != "hardware" => {
                failures.push(format!(
                    "steering is done in {}: {}",
                    boot.steering, boot.reason
                ));
            }
            Some(_) => {}
            None => failures.push("the kernel did not say what it found".into()),
        }
        match self.outcome.observed.drops {
            Some((first, last)) if first != last => {
                failures.push(format!("frames were dropped: {first:?} became {last:?}"));
            }
            Some(_) => {}
            None => failures.push("the kernel told no drop counters".into()),
        }
    }

    /// What an 82599 has counted is no less than what the host knows to have passed by it.
    fn judge_card_counters(&self, total: &Tally, failures: &mut Vec<String>) {
        let observed = &self.outcome.observed;
        let is_there = observed.boot.as_ref().is_some_and(|boot| boot.nic == IXGBE);
        let known = total.verified;
        match observed.card {
            _ if !is_there || !self.multi_queue => {}
            None => failures.push("the card told no counters".into()),
            // At the end it may be out.
            Some(card) if self.is_unplugged && card.link_losses == 0 => {
                failures.push("the kernel did not see the cable pulled".into());
            }
            Some(Card {
                link_mbps,
                link_losses,
                ..
            }) if !self.is_unplugged && (link_mbps == 0 || link_losses > 0) => {
                failures.push(format!(
                    "the link has gone down {link_losses} times, and has {link_mbps} Mb/s"
                ));
            }
            Some(Card { received, sent, .. }) if received < known || sent < known => {
                failures.push(format!(
                    "the card counts {received} frames received and {sent} sent, and {known} requests were answered"
                ));
            }
            Some(_) => {}
        }
    }

    fn judge_traffic(&self, total: &Tally, failures: &mut Vec<String>) {
        if total.sent < self.wanted {
            failures.push(format!(
                "{} requests were sent instead of {}",
                total.sent, self.wanted
            ));
        }
        for (address, tally) in &self.outcome.tallies {
            if tally.verified != tally.sent || tally.lost > 0 || tally.wrong > 0 || tally.sent == 0
            {
                let Tally {
                    sent,
                    verified,
                    lost,
                    wrong,
                    ..
                } = tally;
                failures.push(format!("{address}: {sent} requests, {verified} verified, {lost} lost, {wrong} wrong answers"));
            }
        }
    }

    /// The kernel must have counted every frame that the host has proof of.
    fn judge_counters(&self, failures: &mut Vec<String>) {
        for process in &self.cast.processes {
            let tally = process
                .network
                .and_then(|network| self.outcome.tallies.get(&network.address));
            let state = self.outcome.observed.processes.get(process.name);
            if let (
                Some(tally),
                Some(ProcessState {
                    rx_frames,
                    tx_frames,
                    ..
                }),
            ) = (tally, state)
            {
                let answers = tally.verified + tally.first_answers;
                if *rx_frames < answers || *tx_frames < answers {
                    let name = process.name;
                    failures.push(format!("{name}: {answers} answers, but only {rx_frames} frames in and {tx_frames} out"));
                }
            }
        }
    }

    fn judge_capture(&self, failures: &mut Vec<String>) {
        let Some(capture) = &self.outcome.capture else {
            return;
        };
        for (address, tally) in &self.outcome.tallies {
            let seen = capture.by_address.get(address).copied().unwrap_or_default();
            let requests = tally.sent + tally.first_tries;
            let answers = tally.verified + tally.first_answers;
            if (seen.requests, seen.answers) != (requests, answers) {
                failures.push(format!(
                    "{address}: tshark saw {} requests and {} answers, the host {requests} and {answers}",
                    seen.requests, seen.answers
                ));
            }
        }
        for (address, seen) in capture.by_address.iter().filter(|(_, it)| it.discarded > 0) {
            failures.push(format!(
                "{} frames of an attack left in the name of {address}",
                seen.discarded
            ));
        }
        if let Some(first) = capture.spoofed.first() {
            failures.push(format!(
                "{} frames left with a foreign source address, first: {first}",
                capture.spoofed.len()
            ));
        }
    }

    fn judge_disk(&self, failures: &mut Vec<String>) {
        failures.extend(self.outcome.disk.failures.iter().cloned());
        let rogue = self
            .cast
            .processes
            .iter()
            .filter(|process| process.name == ROGUE)
            .flat_map(|process| process.volumes.clone());
        let rogues: Vec<_> = rogue.collect();
        for volume in self
            .outcome
            .disk
            .untouched
            .iter()
            .filter(|volume| !rogues.contains(volume))
        {
            failures.push(format!("volume {volume}: its owner wrote nothing"));
        }
    }

    fn judge_processes(&self, failures: &mut Vec<String>) {
        for expected in &self.cast.processes {
            let Some(state) = self.outcome.observed.processes.get(expected.name) else {
                failures.push(format!(
                    "{}: the kernel said nothing about it",
                    expected.name
                ));
                continue;
            };
            self.judge_process(expected, state, failures);
            self.judge_queues(expected, state, failures);
        }
    }

    fn judge_process(&self, expected: &Process, state: &ProcessState, failures: &mut Vec<String>) {
        let ProcessState {
            name,
            violations,
            strays,
            reason,
            ..
        } = state;
        let (how, why) = expected.ending();
        if (state.state, reason.as_str()) != (how, why) {
            failures.push(format!(
                "{name}: {:?} ({reason}) in the end instead of {how:?} ({why})",
                state.state
            ));
        }
        if expected.name != ROGUE && (*violations > 0 || *strays > 0) {
            failures.push(format!("{name}: {violations} violations, {strays} strays"));
        }
        let bad = (expected.name.to_owned(), "bad".to_owned());
        match self.outcome.observed.reports.get(&bad) {
            None | Some(0) => {}
            Some(bad) => failures.push(format!("{name}: {bad} blocks were bad")),
        }
    }

    /// Each process must have had of the devices' queues what it was promised. Without a queue pair of the card's for everybody,
    /// network processes get none.
    fn judge_queues(&self, expected: &Process, state: &ProcessState, failures: &mut Vec<String>) {
        if expected.network.is_some() && !self.multi_queue {
            return;
        }
        let modes = expected.modes(&self.cast.settings);
        // The attacker has one device's queues in a life; that it had each shows by what it tried.
        let queues = u32::from(expected.queue_pairs());
        let has_queues = state.queues == queues || expected.name == ROGUE;
        if (state.mode.as_str(), state.rx_mode.as_str()) != modes || !has_queues {
            failures.push(format!(
                "{}: {} queue pairs, modes `{}` and `{}`, instead of {queues}, `{}` and `{}`",
                state.name, state.queues, state.mode, state.rx_mode, modes.0, modes.1
            ));
        }
    }

    fn judge_attacks(&self, failures: &mut Vec<String>) {
        if self.cast.named(ROGUE).is_none() {
            return;
        }
        let observed = &self.outcome.observed;
        let card = observed.boot.as_ref().map_or("none", |boot| &boot.nic);
        let card = self.multi_queue.then_some(card);
        stops::judge(&observed.attacks, card, failures);
    }
}

#[cfg(test)]
mod tests {
    use super::{stops::NIC, *};
    use crate::{
        capture::Seen,
        cast::Settings,
        console::{Boot, Drops, Leaks, State, Verdict},
    };

    /// A demonstration in which everything went well, to be spoiled.
    struct Case {
        cast: Cast,
        outcome: Outcome,
        is_unplugged: bool,
    }

    impl Case {
        fn good() -> Self {
            let cast = Cast::of_the_demo(Settings {
                policy: "integrity".into(),
                seconds: 1,
                more: Vec::new(),
            });
            let mut observed = Observed {
                boot: Some(Boot {
                    steering: "hardware".into(),
                    nic: "virtio-net".into(),
                    ..Boot::default()
                }),
                drops: Some((Drops::default(), Drops::default())),
                leaks: Some(Leaks {
                    compared: 1,
                    ..Leaks::default()
                }),
                verdict: Some(Verdict {
                    pass: true,
                    failures: Vec::new(),
                }),
                ..Observed::default()
            };
            for process in &cast.processes {
                let (state, reason) = process.ending();
                let (mode, rx_mode) = process.modes(&cast.settings);
                observed.processes.insert(
                    process.name.into(),
                    ProcessState {
                        name: process.name.into(),
                        mode: mode.into(),
                        rx_mode: rx_mode.into(),
                        queues: process.queue_pairs().into(),
                        state,
                        reason: reason.into(),
                        ..ProcessState::default()
                    },
                );
            }
            let echo = observed.processes.get_mut("echo0").unwrap();
            (echo.rx_frames, echo.tx_frames) = (11, 11);
            observed.attacks = stops::tests::stopped_with("virtio-net");
            Self::watched(cast, observed)
        }

        fn watched(cast: Cast, observed: Observed) -> Self {
            let address = Ipv4Addr::new(10, 0, 0, 2);
            let tally = Tally {
                sent: 10,
                verified: 10,
                first_tries: 2,
                first_answers: 1,
                ..Tally::new().unwrap()
            };
            let capture = Analysis {
                by_address: [(
                    address,
                    Seen {
                        requests: 12,
                        answers: 11,
                        discarded: 0,
                    },
                )]
                .into(),
                spoofed: Vec::new(),
            };
            let outcome = Outcome {
                observed,
                ended: Ended::default(),
                tallies: [(address, tally)].into(),
                capture: Some(capture),
                disk: disk::Verified::default(),
                failures: Vec::new(),
            };
            Self {
                cast,
                outcome,
                is_unplugged: false,
            }
        }

        fn report(&self) -> Report {
            self.report_over(true)
        }

        fn report_over(&self, multi_queue: bool) -> Report {
            Report::judge(&Evidence {
                cast: &self.cast,
                qemu: "7.2",
                multi_queue,
                is_unplugged: self.is_unplugged,
                wanted: 10,
                outcome: &self.outcome,
            })
            .unwrap()
        }

        fn spoiled(spoil: impl Fn(&mut Self)) -> String {
            let mut case = Self::good();
            spoil(&mut case);
            let report = case.report();
            assert_eq!(
                (report.verdict, report.failures.len()),
                ("fail", 1),
                "{:?}",
                report.failures
            );
            report.failures[0].clone()
        }
    }

    #[test]
    fn an_attack_on_the_card_s_queue_needs_a_card_with_several() {
        let mut case = Case::good();
        let attacks = &mut case.outcome.observed.attacks;
        attacks.retain(|attack| attack.device != NIC);
        assert_eq!(case.report_over(true).failures.len(), 12);
        assert!(case.report_over(false).passed());
    }

    #[test]
    fn what_an_82599_counts_is_no_less_than_what_was_answered() {
        let judged = |card: Option<Card>, is_unplugged| {
            let mut case = Case::good();
            case.is_unplugged = is_unplugged;
            let observed = &mut case.outcome.observed;
            observed.boot.as_mut().unwrap().nic = IXGBE.into();
            observed.attacks = stops::tests::stopped_with(IXGBE);
            observed.card = card;
            case.report().failures.len()
        };
        let card = Card {
            link_mbps: 10_000,
            received: 10,
            sent: 10,
            ..Card::default()
        };
        let failures = |card| judged(card, false);
        assert_eq!(failures(Some(card)), 0);
        assert_eq!(failures(None), 1);
        for spoiled in [
            Card {
                received: 9,
                ..card
            },
            Card { sent: 9, ..card },
            Card {
                link_mbps: 0,
                ..card
            },
            Card {
                link_losses: 1,
                ..card
            },
        ] {
            assert_eq!(failures(Some(spoiled)), 1);
        }
        assert_eq!(judged(Some(card), true), 1, "nobody has seen it");
        let seen = Card {
            link_losses: 1,
            link_mbps: 0,
            ..card
        };
        assert_eq!(judged(Some(seen), true), 0);
    }

    #[test]
    fn all_well_is_a_pass() {
        let report = Case::good().report();
        assert!(report.passed(), "{:?}", report.failures);
    }

    #[test]
    fn each_promise_that_is_broken_is_named() {
        let address = Ipv4Addr::new(10, 0, 0, 2);
        let echo = |case: &mut Case| {
            case.outcome
                .observed
                .processes
                .get_mut("echo0")
                .unwrap()
                .strays = 1;
        };
        assert_eq!(Case::spoiled(echo), "echo0: 0 violations, 1 strays");
        assert!(
            Case::spoiled(|case| case.outcome.tallies.get_mut(&address).unwrap().lost = 1)
                .contains("1 lost")
        );
        assert!(
            Case::spoiled(|case| case.outcome.capture.as_mut().unwrap().by_address.clear())
                .contains("tshark saw 0 requests")
        );
        assert!(
            Case::spoiled(|case| case
                .outcome
                .capture
                .as_mut()
                .unwrap()
                .spoofed
                .push("10.0.0.9".into()))
            .contains("10.0.0.9")
        );
        assert!(Case::spoiled(|case| case.outcome.observed.verdict = None).contains("no verdict"));
        assert!(
            Case::spoiled(|case| case.outcome.observed.drops.as_mut().unwrap().1.ring = 1)
                .contains("dropped")
        );
        assert!(
            Case::spoiled(|case| case.outcome.ended.objections.push("pci_nvme_err_x".into()))
                .contains("pci_nvme_err_x")
        );
        let volumes = Case::good().cast.processes[4].volumes.clone();
        assert!(
            Case::spoiled(|case| case.outcome.disk.untouched.push(volumes[0]))
                .contains("wrote nothing")
        );
    }

    fn with_process(name: &'static str, spoil: fn(&mut ProcessState)) -> String {
        Case::spoiled(|case| spoil(case.outcome.observed.processes.get_mut(name).unwrap()))
    }

    #[test]
    fn a_bad_block_counts_whoever_saw_it() {
        let bad = |case: &mut Case| {
            let key = ("blk1".to_owned(), "bad".to_owned());
            case.outcome.observed.reports.insert(key, 1);
        };
        assert_eq!(Case::spoiled(bad), "blk1: 1 blocks were bad");
    }

    #[test]
    fn every_process_has_to_end_as_it_was_asked_to() {
        let crash = |state: &mut ProcessState| {
            (state.state, state.reason) = (State::Exited, "exit code 101".into());
        };
        assert_eq!(
            with_process("kv0", crash),
            "kv0: Exited (exit code 101) in the end instead of Killed (stopped)"
        );
        let block = with_process("blk0", crash);
        assert!(block.ends_with("instead of Exited (exit code 2)"));
        let rogue = with_process("rogue", crash);
        assert!(rogue.ends_with("instead of Exited (exit code 0)"));
        let killed = |state: &mut ProcessState| {
            (state.state, state.reason) = (State::Killed, "tail jumps from 0 to 9".into());
        };
        assert!(with_process("echo0", killed).starts_with("echo0: Killed (tail jumps"));
    }

    #[test]
    fn every_process_has_to_have_had_its_queues_in_their_modes() {
        let software = |state: &mut ProcessState| state.rx_mode = "virtual".into();
        assert!(with_process("echo0", software).contains("modes `checked` and `virtual`"));
        assert!(with_process("rogue", software).contains("modes `checked` and `virtual`"));
        let software = |state: &mut ProcessState| state.mode = "virtual".into();
        assert!(with_process("kv0", software).contains("modes `virtual` and"));
        let none = |state: &mut ProcessState| state.queues = 0;
        assert!(with_process("echo0", none).starts_with("echo0: 0 queue pairs"));
        assert!(with_process("blk1", none).starts_with("blk1: 0 queue pairs"));
    }

    #[test]
    fn queues_of_the_card_s_are_asked_for_where_it_has_several() {
        let mut case = Case::good();
        let observed = &mut case.outcome.observed;
        observed.attacks.retain(|attack| attack.device != NIC);
        observed.processes.get_mut("echo0").unwrap().rx_mode = "virtual".into();
        assert!(case.report_over(false).passed());
        assert!(!case.report_over(true).passed());
    }

    #[test]
    fn the_kernel_has_to_say_that_nothing_leaked() {
        assert_eq!(
            Case::spoiled(|case| case.outcome.observed.leaks = None),
            "the kernel did not say whether everything came back"
        );
        let leak = |case: &mut Case| case.outcome.observed.leaks.as_mut().unwrap().frames = 1;
        assert!(Case::spoiled(leak).starts_with("not everything came back"));
    }

    #[test]
    fn each_attack_has_to_be_tried_once_on_each_device_and_be_stopped() {
        assert!(
            Case::spoiled(|case| case.outcome.observed.attacks[6].stopped = false)
                .starts_with("attack foreign-lba")
        );
        assert_eq!(
            Case::spoiled(|case| drop(case.outcome.observed.attacks.pop())),
            "attack no-stop on nic was tried 0 times, not 1"
        );
        let again = |case: &mut Case| {
            let attacks = &mut case.outcome.observed.attacks;
            attacks.push(attacks[0].clone());
        };
        assert!(Case::spoiled(again).contains("on nvme was tried 2 times"));
        let invented = |case: &mut Case| {
            let attacks = &mut case.outcome.observed.attacks;
            attacks.push(Attack {
                device: "kernel".into(),
                ..attacks[0].clone()
            });
        };
        assert!(Case::spoiled(invented).starts_with("there is no such attack"));
        let sent = |case: &mut Case| {
            let by_address = &mut case.outcome.capture.as_mut().unwrap().by_address;
            by_address
                .entry(Ipv4Addr::new(10, 0, 0, 4))
                .or_default()
                .discarded = 7;
        };
        assert!(Case::spoiled(sent).starts_with("7 frames of an attack left"));
    }

    #[test]
    fn the_object_has_the_fields_that_were_agreed() {
        let json = serde_json::to_value(Case::good().report()).unwrap();
        let mut fields: Vec<_> = json
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        fields.sort_unstable();
        let agreed = [
            "attacks",
            "blocks",
            "failures",
            "latency_us",
            "nic",
            "processes",
            "qemu",
            "requests",
            "steering",
            "verdict",
        ];
        assert_eq!(fields, agreed);
        let mut attack: Vec<_> = json["attacks"][0]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        attack.sort_unstable();
        assert_eq!(attack, ["by", "device", "name", "stopped"]);
        assert_eq!(json["processes"][0].as_object().unwrap().len(), 15);
        assert_eq!(json["processes"][0]["state"], "exited");
    }
}
