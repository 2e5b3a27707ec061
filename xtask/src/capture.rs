//! A second opinion about the traffic: `tshark` at the tap.

use crate::{
    cast::{Cast, HOST, MAC, Process},
    net::TAP,
    process::{self, Group},
    tools::TSHARK,
};
use anyhow::{Context, Result, bail};
use core::{net::Ipv4Addr, time::Duration};
use parakernel_apps::nonce;
use std::{
    collections::BTreeMap,
    fs,
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Instant,
};

/// How long `tshark` may take to begin.
const START_LIMIT: Duration = Duration::from_secs(20);

/// An address of the wire that nobody has.
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 253);

/// The discard port, RFC 863.
const DISCARD: &str = "9";

/// A capture that runs.
#[derive(Debug)]
pub(crate) struct Capture {
    group: Group,
    file: PathBuf,
}

/// What a capture says about one address of the machine's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Requests to its nonce service.
    pub(crate) requests: u64,
    /// Answers from it.
    pub(crate) answers: u64,
    /// Datagrams from it to the discard port, where only an attacker sends to.
    pub(crate) discarded: u64,
}

/// What a capture says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Analysis {
    pub(crate) by_address: BTreeMap<Ipv4Addr, Seen>,
    /// Frames from the machine with a source address that is nobody's there, or another card's.
    pub(crate) spoofed: Vec<String>,
}

impl Capture {
    /// Begins, and returns once `tshark` listens.
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        let tshark = TSHARK.need()?;
        let file = folder.join("tap.pcapng");
        let log = folder.join("tshark.log");
        let mut command = Command::new(tshark);
        // Headers suffice; the buffer is large enough for a burst that `tshark` sleeps through.
        command
            .args(["-q", "-i", TAP, "-s", "128", "-B", "64", "-w"])
            .arg(&file);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?);
        let mut group = Group::spawn(&mut command)?;
        let deadline = Instant::now() + START_LIMIT;
        // The file gets its header when the interface is open.
        while !fs::metadata(&file).is_ok_and(|meta| meta.len() > 0) {
            let said = || {
                fs::read_to_string(&log)
                    .unwrap_or_default()
                    .trim()
                    .to_owned()
            };
            if group.try_wait()?.is_some() {
                bail!("tshark does not capture: {}", said());
            }
            if Instant::now() > deadline {
                bail!(
                    "tshark did not begin in {} s: {}",
                    START_LIMIT.as_secs(),
                    said()
                );
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(Self { group, file })
    }

    /// Puts a frame on the wire that nothing else does: the host asks for an address that nobody has.
    pub(crate) fn mark(&self) -> Result<()> {
        let socket = UdpSocket::bind((HOST, 0)).context("cannot open a UDP socket")?;
        let asked = socket.send_to(&[0], (NOBODY, 9));
        asked.map(drop).context("cannot send to the wire")
    }

    /// Whether that frame is in the capture, and so all that was there before.
    pub(crate) fn has_mark(&self) -> bool {
        fs::read(&self.file).is_ok_and(|bytes| has_question(&bytes))
    }

    /// Ends the capture and lets `tshark` read it.
    pub(crate) fn finish(mut self, cast: &Cast) -> Result<Analysis> {
        self.group.end()?;
        let mut command = Command::new(TSHARK.need()?);
        command.arg("-r").arg(&self.file).args([
            "-d",
            &format!("udp.port=={},data", nonce::PORT),
            "-T",
            "fields",
        ]);
        for field in [
            "eth.src",
            "ip.src",
            "ip.dst",
            "udp.srcport",
            "udp.dstport",
            "arp.src.proto_ipv4",
        ] {
            command.args(["-e", field]);
        }
        let fields = process::capture(&mut command)?;
        if !fields.status.success() {
            bail!(
                "tshark cannot read its own capture: {}",
                String::from_utf8_lossy(&fields.stderr).trim()
            );
        }
        analyse(&String::from_utf8_lossy(&fields.stdout), cast)
    }
}

/// Whether there is an ARP request of the host's for [`NOBODY`]: sender's address, no target's hardware address, target's.
fn has_question(bytes: &[u8]) -> bool {
    let question = [&HOST.octets()[..], &[0; 6], &NOBODY.octets()].concat();
    bytes.windows(question.len()).any(|part| part == question)
}

fn analyse(fields: &str, cast: &Cast) -> Result<Analysis> {
    let port = nonce::PORT.to_string();
    let mut analysis = Analysis::default();
    for line in fields.lines() {
        let columns: Vec<_> = line.split('\t').collect();
        let [card, source, destination, from_port, to_port, claimed] = columns[..] else {
            bail!("tshark printed {line:?}");
        };
        let owner = if source.is_empty() { claimed } else { source };
        let is_forged = if card == MAC {
            is_spoofed(owner, cast) || is_by_another(source, from_port, cast)
        } else {
            address_of(source, cast).is_some()
        };
        if is_forged {
            analysis
                .spoofed
                .push(format!("{owner}, card {card}, port {from_port:?}"));
        }
        if to_port == port {
            analysis.of(destination)?.requests += 1;
        } else if from_port == port {
            analysis.of(source)?.answers += 1;
        } else if to_port == DISCARD && card == MAC {
            analysis.of(source)?.discarded += 1;
        }
    }
    Ok(analysis)
}

/// The process that has this address.
fn address_of<'a>(address: &str, cast: &'a Cast) -> Option<&'a Process> {
    let address: Ipv4Addr = address.parse().ok()?;
    let has = |process: &&Process| {
        process
            .network
            .is_some_and(|network| network.address == address)
    };
    cast.processes.iter().find(has)
}

/// Whether a datagram has a process's address, but not the one port that this process sends datagrams from.
fn is_by_another(source: &str, from_port: &str, cast: &Cast) -> bool {
    let serves = address_of(source, cast).is_some_and(|process| process.service().is_some());
    serves && !from_port.is_empty() && from_port != nonce::PORT.to_string()
}

/// Whether an address is nobody's in the machine. Frames without one, and an address probe (0.0.0.0), are not judged.
fn is_spoofed(owner: &str, cast: &Cast) -> bool {
    let address = owner.parse::<Ipv4Addr>();
    address.is_ok_and(|address| !address.is_unspecified()) && address_of(owner, cast).is_none()
}

impl Analysis {
    fn of(&mut self, address: &str) -> Result<&mut Seen> {
        let address = address
            .parse()
            .with_context(|| format!("tshark printed {address:?} for an address"))?;
        Ok(self.by_address.entry(address).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cast::Settings;

    fn cast() -> Cast {
        Cast::of_the_demo(Settings {
            policy: "integrity".into(),
            seconds: 1,
            more: Vec::new(),
        })
    }

    #[test]
    fn the_mark_is_told_from_other_questions() {
        let question = |target: Ipv4Addr| {
            let head = [0, 1, 8, 0, 6, 4, 0, 1, 2, 2, 2, 2, 2, 2];
            [&head[..], &HOST.octets(), &[0; 6], &target.octets()].concat()
        };
        assert!(has_question(&question(NOBODY)));
        assert!(!has_question(&question(Ipv4Addr::new(10, 0, 0, 3))));
        assert!(!has_question(&question(NOBODY)[..20]));
    }

    #[test]
    fn requests_and_answers_are_counted_per_address() {
        let host = "aa:aa:aa:aa:aa:aa";
        let fields = format!(
            "{host}\t10.0.0.1\t10.0.0.2\t4000\t7000\t\n{MAC}\t10.0.0.2\t10.0.0.1\t7000\t4000\t\n\
             {host}\t10.0.0.1\t10.0.0.3\t4000\t7000\t\n{MAC}\t\t\t\t\t10.0.0.3\n{host}\t\t\t\t\t\n"
        );
        let analysis = analyse(&fields, &cast()).unwrap();
        assert_eq!(
            analysis.by_address[&Ipv4Addr::new(10, 0, 0, 2)],
            Seen {
                requests: 1,
                answers: 1,
                discarded: 0
            }
        );
        assert_eq!(
            analysis.by_address[&Ipv4Addr::new(10, 0, 0, 3)],
            Seen {
                requests: 1,
                answers: 0,
                discarded: 0
            }
        );
        assert_eq!(analysis.spoofed, Vec::<String>::new());
    }

    #[test]
    fn what_an_attacker_sends_is_counted() {
        let frame = format!("{MAC}\t10.0.0.4\t10.0.0.1\t32768\t9\t\n");
        let analysis = analyse(&frame.repeat(3), &cast()).unwrap();
        assert_eq!(
            analysis.by_address[&Ipv4Addr::new(10, 0, 0, 4)].discarded,
            3
        );
    }

    #[test]
    fn foreign_sources_are_found() {
        let forged = |line: String| analyse(&line, &cast()).unwrap().spoofed.len();
        let other = "bb:bb:bb:bb:bb:bb";
        assert_eq!(
            forged(format!("{MAC}\t10.0.0.99\t10.0.0.1\t1\t2\t\n")),
            1,
            "nobody's"
        );
        assert_eq!(
            forged(format!("{MAC}\t\t\t\t\t10.0.0.1\n")),
            1,
            "the host's"
        );
        assert_eq!(
            forged(format!("{other}\t10.0.0.2\t10.0.0.1\t1\t2\t\n")),
            1,
            "another card's"
        );
        assert_eq!(
            forged(format!("{MAC}\t10.0.0.2\t10.0.0.1\t32768\t9\t\n")),
            1,
            "another process's"
        );
        assert_eq!(
            forged(format!("{MAC}\t10.0.0.4\t10.0.0.1\t32768\t9\t\n")),
            0,
            "its own"
        );
        assert_eq!(
            forged(format!("{MAC}\t10.0.0.3\t10.0.0.1\t\t\t\n")),
            0,
            "no datagram"
        );
    }
}
