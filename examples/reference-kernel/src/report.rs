//! Lines for the program on the host: `@ ` and one JSON object with one key, on COM1.

use core::fmt;

use kernel_formats::json::Quoted;
use parakernel_core::address::NodeId;
use parakernel_core::control::Quarantine;

use crate::print;

/// What was found and how it is used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Boot<'a> {
    /// Cores that run.
    pub(crate) cores: usize,
    /// NUMA nodes.
    pub(crate) nodes: usize,
    /// The network card's driver; empty if there is none.
    pub(crate) nic: &'a str,
    /// Its rings.
    pub(crate) ring: &'a str,
    /// Whether the card steers (`hardware`) or the kernel does (`software`).
    pub(crate) steering: &'a str,
    /// Why the kernel does; else empty.
    pub(crate) reason: &'a str,
    /// Network queue pairs.
    pub(crate) queue_pairs: u32,
    /// Whether the card's accesses go through an IOMMU where there is one.
    pub(crate) iommu_platform: bool,
    /// Block queue pairs.
    pub(crate) nvme_queue_pairs: u32,
}

/// What a process has done, summed over its lives.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    /// Queue pairs that it has.
    pub(crate) queues: u32,
    /// Frames and bytes received.
    pub(crate) rx_frames: u64,
    pub(crate) rx_bytes: u64,
    /// Frames and bytes sent.
    pub(crate) tx_frames: u64,
    pub(crate) tx_bytes: u64,
    /// Block commands completed.
    pub(crate) ios: u64,
    /// Frames received that were not for its address.
    pub(crate) strays: u64,
    /// Rules broken.
    pub(crate) violations: u64,
    /// Leases that are not over: one counts until all of it has been taken back.
    pub(crate) leases: usize,
    /// Frames that found no room in a virtual queue.
    pub(crate) dropped: u64,
    /// Access mode of its transmit or block queues, and of its receive queues; empty if it has none.
    pub(crate) mode: &'static str,
    pub(crate) rx_mode: &'static str,
}

/// A process and what it has done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// Its core.
    pub(crate) core: usize,
    /// Its node.
    pub(crate) node: usize,
    /// `running`, `exited` or `killed`.
    pub(crate) state: &'a str,
    /// Why it does not run.
    pub(crate) reason: &'a str,
    /// What it has done.
    pub(crate) counters: Counters,
}

/// An attack and how it ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attack<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// The device that it was tried on.
    pub(crate) device: &'a str,
    /// How.
    pub(crate) outcome: Outcome<'a>,
    /// How many milliseconds it took to take back what its process had.
    pub(crate) ms: u64,
}

/// What became of an attack.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome<'a> {
    /// It was stopped, by this.
    Stopped(&'a str),
    /// Nothing stopped it; this is why the kernel thinks so, having seen no harm.
    Survived(&'a str),
    /// It did this to others.
    Harm(&'a str),
}

/// Resources after a run less those before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Leaks {
    /// How often processes were restarted in between.
    pub(crate) restarts: u32,
    /// Frames.
    pub(crate) frames: i64,
    /// Interrupt vectors.
    pub(crate) vectors: i64,
    /// Flow rules.
    pub(crate) rules: i64,
    /// Queues.
    pub(crate) queues: i64,
    /// What queues that did not stop keep; it is in none of the figures above.
    pub(crate) quarantined: Quarantine,
    /// Free frames that had been in use and were compared with what they were filled with.
    pub(crate) compared: u64,
    /// Those of them that somebody had written to.
    pub(crate) damaged: u64,
}

/// What a card itself says. Of two numbers the first is the kernel's pair's, and the second that of all processes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Card {
    /// The node that it hangs on.
    pub(crate) node: NodeId,
    /// Speed of the link in Mb/s, 0 where it is down.
    pub(crate) link_mbps: u32,
    /// How often the link has gone down.
    pub(crate) link_losses: u32,
    /// Frames that reached memory.
    pub(crate) received: [u64; 2],
    /// Frames that left.
    pub(crate) sent: [u64; 2],
    /// Frames for which a queue had no buffer.
    pub(crate) dropped: u64,
    /// Frames for which the card itself had no room.
    pub(crate) missed: u64,
}

/// Prints an object with one key.
fn line(key: &str, value: fmt::Arguments<'_>) {
    print!("@ {{\"{key}\":{value}}}\n");
}

/// Says what was found.
pub(crate) fn boot(boot: &Boot<'_>) {
    let Boot {
        cores,
        nodes,
        queue_pairs,
        iommu_platform,
        nvme_queue_pairs,
        ..
    } = boot;
    let (nic, ring) = (Quoted(boot.nic), Quoted(boot.ring));
    let (steering, reason) = (Quoted(boot.steering), Quoted(boot.reason));
    line(
        "boot",
        format_args!(
            "{{\"cores\":{cores},\"nodes\":{nodes},\"nic\":{nic},\"ring\":{ring},\"steering\":{steering},\
             \"reason\":{reason},\"queue_pairs\":{queue_pairs},\"iommu_platform\":{iommu_platform},\
             \"nvme_queue_pairs\":{nvme_queue_pairs}}}"
        ),
    );
}

/// Says that all processes run and can receive.
pub(crate) fn ready() {
    line("ready", format_args!("{{}}"));
}

/// Shows a process.
pub(crate) fn process(process: &Process<'_>) {
    let Process {
        core,
        node,
        counters,
        ..
    } = process;
    let (name, state, reason) = (
        Quoted(process.name),
        Quoted(process.state),
        Quoted(process.reason),
    );
    let (mode, rx_mode) = (Quoted(counters.mode), Quoted(counters.rx_mode));
    let Counters {
        queues,
        rx_frames,
        rx_bytes,
        tx_frames,
        tx_bytes,
        ..
    } = counters;
    let Counters {
        ios,
        strays,
        violations,
        leases,
        ..
    } = counters;
    line(
        "process",
        format_args!(
            "{{\"name\":{name},\"core\":{core},\"node\":{node},\
             \"mode\":{mode},\"rx_mode\":{rx_mode},\"queues\":{queues},\
             \"rx_frames\":{rx_frames},\"tx_frames\":{tx_frames},\"rx_bytes\":{rx_bytes},\"tx_bytes\":{tx_bytes},\
             \"ios\":{ios},\"strays\":{strays},\"violations\":{violations},\"leases\":{leases},\"state\":{state},\"reason\":{reason}}}"
        ),
    );
}

/// Shows a number that a process published.
pub(crate) fn number(process: &str, key: &str, value: u64) {
    let (process, key) = (Quoted(process), Quoted(key));
    line(
        "report",
        format_args!("{{\"process\":{process},\"key\":{key},\"value\":{value}}}"),
    );
}

/// Shows how an attack ended.
pub(crate) fn attack(attack: &Attack<'_>) {
    let (name, device, ms) = (Quoted(attack.name), Quoted(attack.device), attack.ms);
    let (stopped, key, what) = match attack.outcome {
        Outcome::Stopped(by) => (true, "by", by),
        Outcome::Survived(why) => (false, "why", why),
        Outcome::Harm(evidence) => (false, "evidence", evidence),
    };
    let what = Quoted(what);
    line(
        "attack",
        format_args!(
            "{{\"name\":{name},\"device\":{device},\"stopped\":{stopped},\"{key}\":{what},\"ms\":{ms}}}"
        ),
    );
}

/// Says that an attack begins.
pub(crate) fn attempt(name: &str, device: &str) {
    let (name, device) = (Quoted(name), Quoted(device));
    line(
        "attempt",
        format_args!("{{\"name\":{name},\"device\":{device}}}"),
    );
}

/// Shows how many frames were dropped by devices and rings.
pub(crate) fn drops(device: u64, ring: u64) {
    line(
        "drops",
        format_args!("{{\"device\":{device},\"ring\":{ring}}}"),
    );
}

/// Shows what a card itself says.
pub(crate) fn card(card: &Card) {
    let Card {
        node,
        link_mbps,
        link_losses,
        received: [kernel_received, received],
        sent: [kernel_sent, sent],
        dropped,
        missed,
    } = card;
    let node = node.index();
    line(
        "card",
        format_args!(
            "{{\"node\":{node},\"link_mbps\":{link_mbps},\"link_losses\":{link_losses},\
             \"received\":{received},\"sent\":{sent},\"kernel_received\":{kernel_received},\
             \"kernel_sent\":{kernel_sent},\"dropped\":{dropped},\"missed\":{missed}}}"
        ),
    );
}

/// Shows what did not come back.
pub(crate) fn leaks(leaks: &Leaks) {
    let Leaks {
        restarts,
        frames,
        vectors,
        rules,
        queues,
        quarantined:
            Quarantine {
                leases,
                regions,
                pages,
            },
        compared,
        damaged,
    } = leaks;
    line(
        "leaks",
        format_args!(
            "{{\"restarts\":{restarts},\"frames\":{frames},\"vectors\":{vectors},\
             \"rules\":{rules},\"queues\":{queues},\"quarantined\":\
             {{\"leases\":{leases},\"regions\":{regions},\"pages\":{pages}}},\
             \"compared\":{compared},\"damaged\":{damaged}}}"
        ),
    );
}

/// Says how the run went.
pub(crate) fn verdict(failures: &[&str]) {
    let pass = failures.is_empty();
    line(
        "verdict",
        format_args!("{{\"pass\":{pass},\"failures\":{}}}", List(failures)),
    );
}

/// Texts as a JSON array.
struct List<'a>(&'a [&'a str]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (index, text) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}", Quoted(text))?;
        }
        f.write_str("]")
    }
}
