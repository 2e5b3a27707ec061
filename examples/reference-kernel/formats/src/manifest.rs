//! What the kernel is to run: the file `manifest` of the archive.
//!
//! ASCII lines of words `key=value` separated by single spaces, `#` for comments. The first word says what a line is
//! about: `kernel` or `process`. In a process's line `args=` takes the rest. Keys that this kernel does not know are
//! ignored.
//!
//! ```
//! use kernel_formats::manifest::{kernel, processes};
//!
//! let text = "kernel policy=no-spoof seconds=60\nprocess name=echo0 elf=echo core=1 ip=10.0.0.2 args=a b\n";
//! assert_eq!(kernel(text)?.seconds, Some(60));
//! let echo = processes(text).next().unwrap()?;
//! assert_eq!((echo.name, echo.core, echo.arguments), ("echo0", 1, "a b"));
//! # Ok::<(), kernel_formats::manifest::Error>(())
//! ```

use core::fmt;
use core::net::Ipv4Addr;
use core::str::FromStr;

use parakernel_core::access::Policy;

/// Why a manifest is refused: the word that says something that cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Error<'a> {
    /// The key.
    pub key: &'a str,
    /// Its value; empty if it is missing.
    pub value: &'a str,
}

impl fmt::Display for Error<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value } = self;
        write!(f, "manifest: {key}={value} is missing or wrong")
    }
}

impl core::error::Error for Error<'_> {}

/// Form of a network card's rings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ring {
    /// Descriptors, available and used rings.
    Split,
    /// One ring.
    Packed,
}

/// An IPv4 network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    /// An address in it.
    pub address: Ipv4Addr,
    /// Length of the prefix, 0 to 32.
    pub prefix: u8,
}

/// What concerns the whole kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kernel {
    /// What processes must not be able to do to each other.
    pub policy: Policy,
    /// How often counters are shown, in milliseconds.
    pub report_ms: u64,
    /// After how many seconds the kernel ends the run.
    pub seconds: Option<u64>,
    /// The network that processes are on.
    pub network: Option<Network>,
    /// Its way out.
    pub gateway: Option<Ipv4Addr>,
    /// How often processes are restarted to see whether everything comes back.
    pub restarts: u32,
    /// Rings to be used.
    pub ring: Ring,
}

/// What holds where a manifest says nothing.
pub const DEFAULTS: Kernel = Kernel {
    policy: Policy::INTEGRITY,
    report_ms: 500,
    seconds: None,
    network: None,
    gateway: None,
    restarts: 0,
    ring: Ring::Split,
};

/// A part of a namespace, granted to an owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Volume {
    /// The namespace.
    pub namespace: u32,
    /// Its first block.
    pub first: u64,
    /// How many blocks.
    pub blocks: u64,
    /// Who the blocks belong to, beyond the life of a process.
    pub owner: u64,
}

/// A process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Process<'a> {
    /// Its name.
    pub name: &'a str,
    /// Name of its executable.
    pub executable: &'a str,
    /// Where it runs.
    pub core: u32,
    /// Network queue pairs that it gets.
    pub nic_queues: u16,
    /// Its address.
    pub address: Option<Ipv4Addr>,
    /// Key of its nonce service.
    pub key: u64,
    /// Most block queue pairs that it may claim.
    pub nvme_queues: u16,
    /// How often it is started again once it has ended.
    pub restarts: u32,
    /// Whether it waits until the host starts it.
    pub starts_later: bool,
    /// The process that it attacks, if it does: it is told where that one's memory is, and what became of its attacks is reported.
    pub attacks: Option<&'a str>,
    /// What it is told.
    pub arguments: &'a str,
    line: Line<'a>,
}

impl<'a> Process<'a> {
    /// Its volumes.
    pub fn volumes(&self) -> impl Iterator<Item = Result<Volume, Error<'a>>> + use<'a> {
        self.line.values("volume").map(|value| {
            volume(value).ok_or(Error {
                key: "volume",
                value,
            })
        })
    }
}

/// The settings of the kernel in `manifest`; defaults where it has none.
///
/// # Errors
///
/// The first word that is wrong.
pub fn kernel(manifest: &str) -> Result<Kernel, Error<'_>> {
    let line = lines(manifest, "kernel").next().unwrap_or(Line(""));
    Ok(Kernel {
        policy: line
            .parse_with("policy", policy)?
            .unwrap_or(DEFAULTS.policy),
        report_ms: line.parse("report_ms")?.unwrap_or(DEFAULTS.report_ms),
        seconds: line.parse("seconds")?,
        network: line.parse_with("net", network)?,
        gateway: line.parse("gateway")?,
        restarts: line.parse("restarts")?.unwrap_or(DEFAULTS.restarts),
        ring: line.parse_with("ring", ring)?.unwrap_or(DEFAULTS.ring),
    })
}

/// The processes of `manifest`, each with the first word of it that is wrong.
pub fn processes(manifest: &str) -> impl Iterator<Item = Result<Process<'_>, Error<'_>>> {
    lines(manifest, "process").map(process)
}

fn process(line: Line<'_>) -> Result<Process<'_>, Error<'_>> {
    let missing = |key| Error { key, value: "" };
    let process = Process {
        name: line.values("name").next().ok_or(missing("name"))?,
        executable: line.values("elf").next().ok_or(missing("elf"))?,
        core: line.parse("core")?.ok_or(missing("core"))?,
        nic_queues: line.parse("nic_queues")?.unwrap_or(0),
        address: line.parse("ip")?,
        key: line.parse_with("key", number)?.unwrap_or(0),
        nvme_queues: line.parse("nvme_queues")?.unwrap_or(0),
        restarts: line.parse("restart")?.unwrap_or(0),
        starts_later: line.values("start").any(|value| value == "later"),
        attacks: line.values("attacks").next(),
        arguments: line.rest(),
        line,
    };
    for volume in process.volumes() {
        volume?;
    }
    Ok(process)
}

/// What follows the first word of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Line<'a>(&'a str);

impl<'a> Line<'a> {
    /// All words with this key.
    fn values(self, key: &'static str) -> impl Iterator<Item = &'a str> + use<'a> {
        let words = self
            .0
            .split_once("args=")
            .map_or(self.0, |(words, _)| words);
        let pairs = words
            .split_ascii_whitespace()
            .filter_map(|word| word.split_once('='));
        pairs.filter_map(move |(name, value)| (name == key).then_some(value))
    }

    fn rest(self) -> &'a str {
        self.0.split_once("args=").map_or("", |(_, rest)| rest)
    }

    fn parse<T: FromStr>(self, key: &'static str) -> Result<Option<T>, Error<'a>> {
        self.parse_with(key, |value| value.parse().ok())
    }

    fn parse_with<T>(
        self,
        key: &'static str,
        parse: impl Fn(&'a str) -> Option<T>,
    ) -> Result<Option<T>, Error<'a>> {
        let value = self.values(key).next();
        value
            .map(|value| parse(value).ok_or(Error { key, value }))
            .transpose()
    }
}

/// The lines about `what`, without that word.
fn lines<'a>(manifest: &'a str, what: &'static str) -> impl Iterator<Item = Line<'a>> {
    manifest.lines().filter_map(move |line| {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        (word == what).then_some(Line(rest))
    })
}

fn policy(value: &str) -> Option<Policy> {
    value
        .split(',')
        .try_fold(Policy::INTEGRITY, |policy, word| match word {
            "integrity" => Some(policy),
            "availability" => Some(policy | Policy::AVAILABILITY),
            "no-spoof" => Some(policy | Policy::NO_SPOOF),
            _ => None,
        })
}

fn network(value: &str) -> Option<Network> {
    let (address, prefix) = value.split_once('/')?;
    let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
    Some(Network {
        address: address.parse().ok()?,
        prefix,
    })
}

fn ring(value: &str) -> Option<Ring> {
    match value {
        "split" => Some(Ring::Split),
        "packed" => Some(Ring::Packed),
        _ => None,
    }
}

/// `namespace:first+blocks:owner`.
fn volume(value: &str) -> Option<Volume> {
    let (namespace, rest) = value.split_once(':')?;
    let (blocks, owner) = rest.split_once(':')?;
    let (first, blocks) = blocks.split_once('+')?;
    let volume = Volume {
        namespace: namespace.parse().ok()?,
        first: first.parse().ok()?,
        blocks: blocks.parse().ok()?,
        owner: number(owner)?,
    };
    volume.first.checked_add(volume.blocks)?;
    Some(volume)
}

/// A number, hexadecimal if it begins with `0x`.
fn number(value: &str) -> Option<u64> {
    match value.strip_prefix("0x") {
        Some(digits) if digits.bytes().all(|digit| digit.is_ascii_hexdigit()) => {
            u64::from_str_radix(digits, 16).ok()
        }
        Some(_) => None,
        None => value.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    extern crate alloc;

    use alloc::format;
    use alloc::string::String;
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const CAST: &str = "\
# the default cast
kernel policy=integrity,no-spoof report_ms=250 seconds=60 net=10.0.0.0/24 gateway=10.0.0.1 ring=packed later=unknown
process name=echo0 elf=echo core=1 nic_queues=1 ip=10.0.0.2 key=0x1122334455667788 args=--verbose core=9
process name=blk1 elf=blockbench core=5 nvme_queues=4 volume=1:8192+4096:0x51 volume=2:0+16:7 start=later attacks=echo0
";

    #[test]
    fn the_default_cast_is_understood() {
        let kernel = kernel(CAST).unwrap();
        assert_eq!(kernel.policy, Policy::NO_SPOOF);
        assert_eq!(
            (kernel.report_ms, kernel.seconds, kernel.ring),
            (250, Some(60), Ring::Packed)
        );
        let all: Vec<_> = processes(CAST).map(Result::unwrap).collect();
        assert_eq!(all[0].address, Some(Ipv4Addr::new(10, 0, 0, 2)));
        assert_eq!((all[0].core, all[0].key), (1, 0x1122_3344_5566_7788));
        assert_eq!(all[0].arguments, "--verbose core=9");
        assert!(all[1].starts_later && !all[0].starts_later);
        assert_eq!((all[0].attacks, all[1].attacks), (None, Some("echo0")));
        let volumes: Vec<_> = all[1].volumes().map(Result::unwrap).collect();
        assert_eq!(
            volumes[0],
            Volume {
                namespace: 1,
                first: 8192,
                blocks: 4096,
                owner: 0x51
            }
        );
        assert_eq!(volumes.len(), 2);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refused = |words: &str| {
            let text = format!("process name=a elf=b {words}\n");
            processes(&text)
                .next()
                .unwrap()
                .map(|_| ())
                .map_err(|error| String::from(error.key))
        };
        assert_eq!(refused("core=1"), Ok(()));
        assert_eq!(refused(""), Err("core".into()));
        assert_eq!(refused("core=-1"), Err("core".into()));
        assert_eq!(refused("core=1 ip=10.0.0"), Err("ip".into()));
        assert_eq!(refused("core=1 nvme_queues=all"), Err("nvme_queues".into()));
        assert_eq!(
            refused("core=1 volume=1:18446744073709551615+2:0"),
            Err("volume".into())
        );
        assert_eq!(refused("core=1 key=0x+1"), Err("key".into()));
        assert_eq!(kernel("kernel net=10.0.0.0/33").unwrap_err().key, "net");
    }

    proptest! {
        #[test]
        fn any_text_is_read_to_its_end(
            text in "(kernel|process|#)?( (name|elf|core|volume|key|args)=?[0-9a-fx:+]{0,8}\n?){0,20}",
        ) {
            let _ = kernel(&text);
            prop_assert!(processes(&text).count() <= text.lines().count());
        }
    }
}
