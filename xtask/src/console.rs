//! What the kernel says on its first serial port.
//!
//! Lines that begin with `@ ` are one JSON object with one key each; everything else is text for a person.

use serde::{Deserialize, Serialize};

/// Mark of a line for machines.
const MARK: &str = "@ ";

/// Why a process has ended that was running when the host said `stop`.
pub(crate) const STOPPED: &str = "stopped";

/// A line from the kernel.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Line {
    /// For a person.
    Text(String),
    /// For this program.
    Said(Message),
    /// Marked, but not understood: the line and why.
    Malformed(String, String),
}

/// What the kernel tells this program.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Message {
    /// What was found and how it is used, once.
    Boot(Boot),
    /// Every process runs and can receive.
    Ready {},
    /// Counters of a process so far.
    Process(ProcessState),
    /// A number that a process published.
    Report(Report),
    /// An attack begins.
    Attempt(Attempt),
    /// How an attack ended.
    Attack(Attack),
    /// Frames dropped so far.
    Drops(Drops),
    /// What a card itself has counted so far.
    Card(Card),
    /// Resources after restarts, compared with before.
    Leaks(Leaks),
    /// How a self-test ended.
    Selftest(SelfTest),
    /// The kernel's own judgement, last.
    Verdict(Verdict),
}

/// What was found and how it is used.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub(crate) struct Boot {
    pub(crate) cores: u32,
    pub(crate) nodes: u32,
    pub(crate) nic: String,
    #[serde(default)]
    pub(crate) ring: String,
    pub(crate) steering: String,
    #[serde(default)]
    pub(crate) queue_pairs: u32,
    #[serde(default)]
    pub(crate) iommu_platform: bool,
    #[serde(default)]
    pub(crate) nvme_queue_pairs: u32,
    #[serde(default)]
    pub(crate) reason: String,
}

/// Counters of a process, summed over its lives.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct ProcessState {
    pub(crate) name: String,
    pub(crate) core: u32,
    pub(crate) node: u32,
    /// Access mode of its transmit or block queues.
    pub(crate) mode: String,
    pub(crate) rx_mode: String,
    pub(crate) queues: u32,
    pub(crate) rx_frames: u64,
    pub(crate) tx_frames: u64,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_bytes: u64,
    pub(crate) ios: u64,
    /// Frames taken that were not for the process's address.
    pub(crate) strays: u64,
    pub(crate) violations: u64,
    /// Leases that have not been taken back whole.
    #[serde(skip_serializing)]
    pub(crate) leases: u64,
    pub(crate) state: State,
    pub(crate) reason: String,
}

/// Whether a process runs.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    #[default]
    Running,
    Exited,
    Killed,
}

/// A number that a process published.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) process: String,
    pub(crate) key: String,
    pub(crate) value: u64,
}

/// An attack that begins.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) name: String,
    pub(crate) device: String,
}

/// How an attack ended.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Attack {
    pub(crate) name: String,
    pub(crate) device: String,
    pub(crate) stopped: bool,
    /// What stopped it.
    #[serde(default)]
    pub(crate) by: String,
    /// What it did to others, as the kernel sees it.
    #[serde(default, skip_serializing)]
    pub(crate) evidence: String,
    /// Why it does not count as stopped, where no harm was seen.
    #[serde(default, skip_serializing)]
    pub(crate) why: String,
    /// How many milliseconds it took to take back what its process had.
    #[serde(default, skip_serializing)]
    pub(crate) ms: u64,
}

/// What a card itself says of its link and its traffic so far.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Card {
    /// The node that it hangs on.
    pub(crate) node: u32,
    /// 0 where the link is down.
    pub(crate) link_mbps: u32,
    /// How often the link has gone down.
    pub(crate) link_losses: u32,
    /// Frames to and from processes' queues.
    pub(crate) received: u64,
    pub(crate) sent: u64,
    /// The same of the kernel's own.
    pub(crate) kernel_received: u64,
    pub(crate) kernel_sent: u64,
    /// Frames for which a queue had no buffer, and for which the card itself had no room.
    pub(crate) dropped: u64,
    pub(crate) missed: u64,
}

/// Frames dropped so far.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub(crate) struct Drops {
    pub(crate) device: u64,
    pub(crate) ring: u64,
}

/// Resources after restarts minus those before.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub(crate) struct Leaks {
    pub(crate) restarts: u64,
    pub(crate) frames: i64,
    pub(crate) vectors: i64,
    pub(crate) rules: i64,
    pub(crate) queues: i64,
    /// Freed frames that were compared with what they had been filled with.
    pub(crate) compared: u64,
    /// Those of them that had been written to.
    pub(crate) damaged: u64,
    #[serde(default)]
    pub(crate) quarantined: Quarantine,
}

/// What queues that did not stop keep from everyone.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub(crate) struct Quarantine {
    pub(crate) leases: u64,
    pub(crate) regions: u64,
    pub(crate) pages: u64,
}

impl Leaks {
    /// Whether everything is as it was, freed frames included, some of which were looked at.
    pub(crate) const fn is_nothing(&self) -> bool {
        matches!(
            self,
            Self {
                frames: 0,
                vectors: 0,
                rules: 0,
                queues: 0,
                quarantined: Quarantine { leases: 0, .. },
                damaged: 0,
                compared: 1..,
                ..
            }
        )
    }
}

/// How a self-test ended.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct SelfTest {
    pub(crate) name: String,
    pub(crate) pass: bool,
    #[serde(default)]
    pub(crate) detail: String,
}

/// The kernel's own judgement.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) pass: bool,
    #[serde(default)]
    pub(crate) failures: Vec<String>,
}

impl SelfTest {
    /// The short form of a self-test's line: `PASS name`, `FAIL name`.
    fn parse(line: &str) -> Option<Self> {
        let (result, name) = line.split_once(' ')?;
        let pass = match result {
            "PASS" => true,
            "FAIL" => false,
            _ => return None,
        };
        Some(Self {
            name: name.to_owned(),
            pass,
            detail: String::new(),
        })
    }
}

impl Line {
    /// Takes a line apart.
    pub(crate) fn parse(line: &str) -> Self {
        let line = line.trim_end_matches('\r');
        let Some(json) = line.strip_prefix(MARK) else {
            return SelfTest::parse(line).map_or_else(
                || Self::Text(line.to_owned()),
                |test| Self::Said(Message::Selftest(test)),
            );
        };
        match serde_json::from_str(json) {
            Ok(message) => Self::Said(message),
            Err(error) => Self::Malformed(line.to_owned(), error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &str) -> Message {
        match Line::parse(line) {
            Line::Said(message) => message,
            Line::Text(_) | Line::Malformed(..) => panic!("not understood: {line}"),
        }
    }

    #[test]
    fn lines_for_machines_are_understood() {
        assert_eq!(said("@ {\"ready\":{}}\r"), Message::Ready {});
        let process = r#"@ {"process":{"name":"echo0","core":1,"node":0,"mode":"checked","rx_mode":"sealed","queues":1,"rx_frames":5,"tx_frames":4,"rx_bytes":300,"tx_bytes":240,"ios":0,"strays":0,"violations":0,"leases":1,"state":"killed","reason":"tail jump"}}"#;
        let Message::Process(process) = said(process) else {
            panic!("no process")
        };
        assert_eq!(
            (process.name.as_str(), process.rx_frames, process.state),
            ("echo0", 5, State::Killed)
        );
        let Message::Attack(attack) = said(
            r#"@ {"attack":{"name":"foreign-lba","device":"nvme","stopped":true,"by":"validator"}}"#,
        ) else {
            panic!("no attack")
        };
        assert!(attack.stopped && attack.evidence.is_empty());
        assert_eq!(
            said(
                r#"@ {"leaks":{"restarts":50,"frames":-1,"vectors":0,"rules":0,"queues":0,"compared":9,"damaged":1}}"#
            ),
            Message::Leaks(Leaks {
                restarts: 50,
                frames: -1,
                compared: 9,
                damaged: 1,
                ..Leaks::default()
            })
        );
    }

    #[test]
    fn self_tests_have_a_short_form() {
        let test = |name: &str, pass| SelfTest {
            name: name.into(),
            pass,
            detail: String::new(),
        };
        assert_eq!(said("PASS null"), Message::Selftest(test("null", true)));
        assert_eq!(said("FAIL spin"), Message::Selftest(test("spin", false)));
        assert_eq!(Line::parse("PASSED all"), Line::Text("PASSED all".into()));
    }

    #[test]
    fn text_is_text_and_nonsense_is_reported() {
        assert_eq!(
            Line::parse("PANIC: no memory"),
            Line::Text("PANIC: no memory".into())
        );
        assert!(matches!(
            Line::parse("@ {\"what\":{}}"),
            Line::Malformed(_, _)
        ));
        assert!(matches!(Line::parse("@ half a li"), Line::Malformed(_, _)));
    }
}
