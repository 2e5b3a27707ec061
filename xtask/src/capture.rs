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

/// The `EtherType` of what only the kernel might say.
const PAUSE: u16 = 0x8808;
const LLDP: u16 = 0x88cc;

/// The longest frame, and what a segment to the discard port carries at least.
const LONGEST: u64 = 1514;
const CRUMB: u64 = 64;

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
    /// Frames from the machine that no process may send: from an address that is nobody's there, or another card's, of a kind that
    /// is the kernel's, tagged, or of a length that no frame has.
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
            "eth.type",
            "vlan.id",
            "frame.len",
            "tcp.dstport",
            "tcp.len",
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
        let frame = Frame::parse(line).with_context(|| format!("tshark printed {line:?}"))?;
        analysis.spoofed.extend(frame.forgery(cast));
        if frame.to_port == port {
            analysis.of(frame.destination)?.requests += 1;
        } else if frame.from_port == port {
            analysis.of(frame.source)?.answers += 1;
        } else if frame.to_port == DISCARD && frame.card == MAC {
            analysis.of(frame.source)?.discarded += 1;
        }
    }
    Ok(analysis)
}

/// What `tshark` says of a frame, field by field; what it does not have is empty.
#[derive(Clone, Copy, Debug)]
struct Frame<'l> {
    card: &'l str,
    source: &'l str,
    destination: &'l str,
    from_port: &'l str,
    to_port: &'l str,
    /// Whose an ARP message says to be.
    claimed: &'l str,
    ether_type: &'l str,
    vlan: &'l str,
    len: u64,
    /// Of a TCP segment.
    tcp_port: &'l str,
    payload: &'l str,
}

impl<'l> Frame<'l> {
    fn parse(line: &'l str) -> Option<Self> {
        let columns: Vec<_> = line.split('\t').collect();
        let [
            card,
            source,
            destination,
            from_port,
            to_port,
            claimed,
            ether_type,
            vlan,
            len,
            tcp_port,
            payload,
        ] = columns[..]
        else {
            return None;
        };
        Some(Self {
            card,
            source,
            destination,
            from_port,
            to_port,
            claimed,
            ether_type,
            vlan,
            len: len.parse().ok()?,
            tcp_port,
            payload,
        })
    }

    /// What is forged about it, if it is from the machine.
    fn forgery(&self, cast: &Cast) -> Option<String> {
        let owner = if self.source.is_empty() {
            self.claimed
        } else {
            self.source
        };
        let from = format!("{owner}, card {}, port {:?}", self.card, self.from_port);
        if self.card != MAC {
            return address_of(self.source, cast).map(|_| format!("another card: {from}"));
        }
        let kind = u16::from_str_radix(self.ether_type.trim_start_matches("0x"), 16);
        let payload: Option<u64> = self.payload.parse().ok();
        let is_crumb = self.tcp_port == DISCARD && payload.is_some_and(|len| len < CRUMB);
        Some(if kind == Ok(PAUSE) {
            format!("PAUSE: {from}")
        } else if kind == Ok(LLDP) {
            format!("LLDP: {from}")
        } else if !self.vlan.is_empty() {
            format!("tagged {}: {from}", self.vlan)
        } else if self.len > LONGEST {
            format!("{} bytes long: {from}", self.len)
        } else if is_crumb {
            format!("crumbs of {} bytes: {from}", self.payload)
        } else if is_spoofed(self.claimed, cast) {
            format!("ARP: {from}")
        } else if is_spoofed(owner, cast) || is_by_another(self.source, self.from_port, cast) {
            format!("address: {from}")
        } else {
            return None;
        })
    }
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

    /// The fields behind those that most tests are about: an IPv4 frame of 60 bytes, untagged, no TCP.
    const REST: &str = "\t0x0800\t\t60\t\t";

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
            "{host}\t10.0.0.1\t10.0.0.2\t4000\t7000\t{REST}\n{MAC}\t10.0.0.2\t10.0.0.1\t7000\t4000\t{REST}\n\
             {host}\t10.0.0.1\t10.0.0.3\t4000\t7000\t{REST}\n{MAC}\t\t\t\t\t10.0.0.3{REST}\n{host}\t\t\t\t\t{REST}\n"
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
        let frame = format!("{MAC}\t10.0.0.4\t10.0.0.1\t32768\t9\t{REST}\n");
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
            forged(format!("{MAC}\t10.0.0.99\t10.0.0.1\t1\t2\t{REST}\n")),
            1,
            "nobody's"
        );
        assert_eq!(
            forged(format!("{MAC}\t\t\t\t\t10.0.0.1{REST}\n")),
            1,
            "the host's"
        );
        assert_eq!(
            forged(format!("{other}\t10.0.0.2\t10.0.0.1\t1\t2\t{REST}\n")),
            1,
            "another card's"
        );
        assert_eq!(
            forged(format!("{MAC}\t10.0.0.2\t10.0.0.1\t32768\t9\t{REST}\n")),
            1,
            "another process's"
        );
        assert_eq!(
            forged(format!("{MAC}\t10.0.0.4\t10.0.0.1\t32768\t9\t{REST}\n")),
            0,
            "its own"
        );
        assert_eq!(
            forged(format!("{MAC}\t10.0.0.3\t10.0.0.1\t\t\t{REST}\n")),
            0,
            "no datagram"
        );
    }

    #[test]
    fn frames_that_no_process_may_send_are_told_apart() {
        let forged = |line: String| analyse(&line, &cast()).unwrap().spoofed;
        let own = format!("{MAC}\t10.0.0.4\t10.0.0.1\t\t\t");
        for (line, trace) in [
            (format!("{MAC}\t\t\t\t\t\t0x8808\t\t60\t\t\n"), "PAUSE"),
            (format!("{MAC}\t\t\t\t\t\t0x88cc\t\t60\t\t\n"), "LLDP"),
            (
                format!("{MAC}\t\t\t\t\t10.0.0.9\t0x0806\t\t60\t\t\n"),
                "ARP",
            ),
            (format!("{own}\t0x8100\t5\t132\t\t\n"), "tagged 5"),
            (format!("{own}\t0x0800\t\t1515\t\t\n"), "1515 bytes"),
            (format!("{own}\t0x0800\t\t62\t9\t8\n"), "crumbs of 8"),
        ] {
            let found = forged(line);
            assert!(found.len() == 1 && found[0].starts_with(trace), "{found:?}");
        }
        for rest in ["\t0x0800\t\t1514\t9\t64\n", "\t0x0800\t\t60\t11211\t1\n"] {
            assert!(forged(format!("{own}{rest}")).is_empty());
        }
    }
}
