//! A process's interface on a network card: a queue pair of the card's, a virtual one, and a rule.

use core::{cell::Cell, fmt, net::Ipv4Addr};

use parakernel_apps::{
    net::{Address, Identity},
    watch::Watched,
};
use parakernel_core::{
    abi::{NetworkMap, QueueMap},
    access::AccessMode,
    control::{ClaimWish, Outcome, Placement, Wake},
    device::DeviceId,
    error::ErrorKind,
    memory::{Arena, ArenaLayout, Pool},
    ring::RingSize,
    steering::{IpPrefix, Ipv4Prefix, Mac, Matches},
};
use parakernel_smoltcp::{Device, Joined, Memory, QueuePair, Reserving};

use crate::{Arguments, AskError, Lease, Process, WithStrays};

mod leased;
mod queue;

pub use leased::{Leased, LeasedError};
pub use queue::{QueueError, Receive, Transmit};

/// Entries of each ring of a network queue pair.
pub const NETWORK_ENTRIES: usize = 256;

/// How the memory for frames is cut: the kernel goes by the same where it fills a sealed queue's descriptors.
///
/// A frame of 1514 bytes fits a buffer, with virtio's header before it.
pub const FRAME_LAYOUT: ArenaLayout = ArenaLayout {
    stride: 2112,
    headroom: 64,
    header: 12,
    count: 512,
};

/// Number of buffers.
const BUFFERS: usize = FRAME_LAYOUT.count as usize;
/// Of these, those to receive into beyond the entries of a ring, where each that is taken is replaced at once.
const EXTRA: usize = 96;
/// And those that the virtual pair receives into, whatever the card's ring takes.
const RESERVE: usize = 24;
/// Most received frames that wait for the stack.
const WAITING: usize = 128;

/// What the interface keeps its buffers in, fit for a [`Place`](crate::Place).
#[derive(Debug)]
pub struct NetworkMemory {
    receive: [u32; BUFFERS],
    transmit: [u32; BUFFERS],
    reserve: [u32; RESERVE],
    received: [u32; WAITING],
    /// Frames that wait to be sent, and buffers of frames that were copied, for each pair.
    waiting: [[u32; BUFFERS]; 2],
    sent: [[u32; BUFFERS]; 2],
}

impl NetworkMemory {
    /// Unused memory.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            receive: [0; _],
            transmit: [0; _],
            reserve: [0; _],
            received: [0; _],
            waiting: [[0; _]; _],
            sent: [[0; _]; _],
        }
    }
}

impl Default for NetworkMemory {
    fn default() -> Self {
        Self::new()
    }
}

/// A queue pair, whatever it is made of.
pub type Pair<'m> = QueuePair<'m, Receive, Transmit<'m>>;

/// Both pairs of an interface, as long as their leases last.
pub type LeasedLink<'m> = Leased<Joined<Pair<'m>, Reserving<'m, Pair<'m>>>>;

/// The same, with an eye on what arrives.
pub type NetworkLink<'m> = Watched<'m, LeasedLink<'m>>;

/// An interface: its leases and its memory. The queues themselves are [opened](Self::open) on them, again after each reset.
#[derive(Debug)]
pub struct Network {
    /// Who the process is on the network.
    pub identity: Identity,
    /// Where the frames for its address arrive.
    pub placement: Placement,
    device: DeviceId,
    arena: Arena<'static>,
    /// The card's pair, and the virtual one.
    leases: [Lease; 2],
}

/// Why there is no interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NetworkError {
    /// An argument is missing, or makes no sense.
    Argument(&'static str),
    /// The kernel did not give what the interface needs.
    Ask(AskError),
    /// A map that the kernel wrote makes no sense.
    Map,
}

impl From<AskError> for NetworkError {
    fn from(error: AskError) -> Self {
        Self::Ask(error)
    }
}

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument(key) => write!(f, "the argument `{key}` is missing or wrong"),
            Self::Ask(error) => write!(f, "no network: {error:?}"),
            Self::Map => f.write_str("a map that makes no sense"),
        }
    }
}

impl core::error::Error for NetworkError {}

impl Process {
    /// Claims a network queue pair in the cheapest sound mode that is not cheaper than `at_least`.
    ///
    /// For a sealed queue the [arena](Self::arena) must be there before.
    ///
    /// # Errors
    ///
    /// As [`claim`](Self::claim).
    pub fn claim_network(
        &mut self,
        device: DeviceId,
        at_least: AccessMode,
    ) -> Result<(Lease, NetworkMap), AskError> {
        #[expect(clippy::cast_possible_truncation, reason = "256")]
        let size = RingSize::at_most(NETWORK_ENTRIES as u32).ok_or(AskError::Unexpected)?;
        let lease = self.claim(ClaimWish {
            device,
            at_least,
            first_ring: size,
            second_ring: size,
            wake: Wake::Interrupt,
            volume: None,
        })?;
        match lease.map().queue {
            QueueMap::Network(map) => Ok((lease, map)),
            QueueMap::Block(_) => Err(AskError::Unexpected),
        }
    }

    /// The process's interface, as its arguments (`nic`, `ip`, `mac`, `net`, `gateway`, `key`) describe it: memory, both
    /// leases, and the rule that leads the frames for its address to the first. The argument `mode` (`sealed`,
    /// `checked` or `virtual`) is the wish for a stricter mode than the kernel would choose.
    ///
    /// # Errors
    ///
    /// [`NetworkError`], where there is none.
    pub fn network(&mut self) -> Result<Network, NetworkError> {
        let arguments = self.arguments();
        let identity = identity(arguments)?;
        let device = device(arguments).ok_or(NetworkError::Argument("nic"))?;
        // First of all: a sealed queue is filled with this memory.
        let arena = self.arena(FRAME_LAYOUT)?;
        let (hardware, _) = self.claim_network(device, at_least(arguments))?;
        let (software, _) = self.claim_network(device, AccessMode::Virtual)?;
        let Address { mac, ip, .. } = identity.address;
        let placement = self.lead_here(&hardware, Mac(mac), ip)?;
        Ok(Network {
            identity,
            placement,
            device,
            arena,
            leases: [hardware, software],
        })
    }

    /// Has `serve` work on an interface until that fails, and again each time that the card was reset.
    ///
    /// Whoever sends to the process sees lost frames and, for TCP, connections that end.
    ///
    /// # Errors
    ///
    /// [`NetworkError`], where there is no interface, or none any more; how `serve` failed for another reason is its outcome.
    pub fn serve(
        &mut self,
        memory: &mut NetworkMemory,
        mut serve: impl FnMut(&mut WithStrays<'_>, Device<'_, NetworkLink<'_>>, Identity) -> ErrorKind,
    ) -> Result<ErrorKind, NetworkError> {
        let strays = Cell::new(0);
        let mut network = self.network()?;
        let identity = network.identity;
        self.log_line(format_args!("steered by {:?}", network.placement));
        loop {
            let device = network.open(memory, &strays)?;
            let mut runtime = WithStrays::new(self, &strays);
            let failure = serve(&mut runtime, device, identity);
            if !self.revive(&mut network)? {
                return Ok(failure);
            }
            self.log_line(format_args!("the card was reset, and works again"));
        }
    }

    /// Arms an interface again whose card was reset; whether it was. The link that was opened on it is of no use any more.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    pub fn revive(&mut self, network: &mut Network) -> Result<bool, AskError> {
        let [hardware, software] = &mut network.leases;
        if !self.rearm(&mut [hardware])? {
            return Ok(false);
        }
        // The reset did not touch the virtual pair. A new one begins at its start, as the new link does.
        self.release(software.id())?;
        (*software, _) = self.claim_network(network.device, AccessMode::Virtual)?;
        Ok(true)
    }

    /// Leads the frames for `mac` and `ip` to `lease`; where they arrive.
    fn lead_here(&mut self, lease: &Lease, mac: Mac, ip: Ipv4Addr) -> Result<Placement, AskError> {
        let address = IpPrefix::V4(Ipv4Prefix::host(ip));
        let outcome = self.steer(Matches::to(mac, address), lease.id())?;
        let Outcome::RuleAdded { placement, .. } = outcome else {
            return Err(AskError::Unexpected);
        };
        Ok(placement)
    }
}

impl Network {
    /// The queues, for the stack: nothing is in flight, and all buffers are free. For that nothing may be left of an earlier
    /// link, and the device must have let go of its buffers: the first time, or after a [revival](Process::revive).
    ///
    /// Frames that arrive and are not for the process's address are counted in `strays`.
    ///
    /// # Errors
    ///
    /// [`NetworkError::Map`], where the kernel's maps make no sense.
    pub fn open<'m>(
        &'m mut self,
        memory: &'m mut NetworkMemory,
        strays: &'m Cell<u64>,
    ) -> Result<Device<'m, NetworkLink<'m>>, NetworkError> {
        let max_frame = network_map(&self.leases[0])?.max_frame;
        let (link, memory) = join(memory, self.arena.again(), self.leases)?;
        let Address { mac, ip, .. } = self.identity.address;
        let link = Watched::new(link, mac, ip, strays);
        Ok(Device::new(link, memory, max_frame.into()))
    }
}

/// One link of a hardware and a virtual queue pair, and the buffers that they exchange.
fn join<'m>(
    memory: &'m mut NetworkMemory,
    arena: Arena<'static>,
    leases: [Lease; 2],
) -> Result<(LeasedLink<'m>, Memory<'m>), NetworkError> {
    let [hardware, software] = &leases;
    let [first_waiting, second_waiting] = &mut memory.waiting;
    let [first_sent, second_sent] = &mut memory.sent;
    let hardware_pair = pair(hardware, &arena, first_waiting, first_sent)?;
    let software_pair = pair(software, &arena, second_waiting, second_sent)?;
    // A pool gives its first buffers first, and those are the only ones that a sealed queue knows.
    let is_sealed = hardware.map().rings[0].mode == AccessMode::Sealed;
    let count = NETWORK_ENTRIES + if is_sealed { 0 } else { EXTRA };
    let mut transmit = Pool::new(arena, &mut memory.transmit);
    let mut receive = transmit.split_off(count, &mut memory.receive);
    let reserve = receive.split_off(0, &mut memory.reserve);
    let software_pair = Reserving::new(software_pair, reserve, RESERVE);
    let link = Leased::new(Joined::new(hardware_pair, software_pair), leases);
    let memory = Memory {
        receive,
        transmit,
        words: &mut memory.received,
        scratch: &mut [],
    };
    Ok((link, memory))
}

/// The two queues of a lease.
fn pair<'m>(
    lease: &Lease,
    arena: &Arena<'static>,
    waiting: &'m mut [u32],
    sent: &'m mut [u32],
) -> Result<Pair<'m>, NetworkError> {
    let map = network_map(lease)?;
    let receive = Receive::open(lease, &map, arena.layout()).ok_or(NetworkError::Map)?;
    let transmit = Transmit::open(lease, &map, arena.again(), sent).ok_or(NetworkError::Map)?;
    Ok(QueuePair::new(receive, transmit, waiting))
}

/// What the kernel says of the card.
const fn network_map(lease: &Lease) -> Result<NetworkMap, NetworkError> {
    match lease.map().queue {
        QueueMap::Network(map) => Ok(map),
        QueueMap::Block(_) => Err(NetworkError::Map),
    }
}

/// The wish for a mode that is stricter than the kernel would choose.
fn at_least(arguments: Arguments) -> AccessMode {
    match arguments.value("mode") {
        Some("virtual") => AccessMode::Virtual,
        Some("checked") => AccessMode::Checked,
        Some("sealed") => AccessMode::Sealed,
        _ => AccessMode::Direct,
    }
}

/// The card.
fn device(arguments: Arguments) -> Option<DeviceId> {
    let number = u32::try_from(arguments.number("nic")?).ok()?;
    Some(DeviceId::new(number))
}

/// Who the process is on the network.
fn identity(arguments: Arguments) -> Result<Identity, NetworkError> {
    let mac = arguments.value("mac").and_then(mac);
    let mac = mac.ok_or(NetworkError::Argument("mac"))?;
    let ip = arguments.parse("ip").ok_or(NetworkError::Argument("ip"))?;
    let net = arguments.value("net").and_then(|net| net.split_once('/'));
    let prefix = net.and_then(|(_, bits)| bits.parse().ok());
    Ok(Identity {
        address: Address {
            mac,
            ip,
            prefix: prefix.ok_or(NetworkError::Argument("net"))?,
            gateway: arguments.parse("gateway"),
        },
        key: arguments.number("key").unwrap_or(0),
    })
}

/// The address that `text` is, six bytes in hexadecimal with colons between them.
fn mac(text: &str) -> Option<[u8; 6]> {
    let mut bytes = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).ok());
    let mut mac = [0; 6];
    for place in &mut mac {
        *place = bytes.next()??;
    }
    bytes.next().is_none().then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_has_six_bytes() {
        assert_eq!(
            mac("52:54:00:70:6b:01"),
            Some([0x52, 0x54, 0, 0x70, 0x6b, 1])
        );
        for text in [
            "",
            "52:54:00:70:6b",
            "52:54:00:70:6b:01:02",
            "52:54:00:70:6b:100",
            "a:b:c:d:e:g",
        ] {
            assert_eq!(mac(text), None, "{text}");
        }
    }

    #[test]
    fn an_identity_follows_from_the_arguments() {
        let whole = "ip=10.0.0.2 mac=52:54:00:70:6b:01 net=10.0.0.0/24 gateway=10.0.0.1 key=0x10";
        let identity = identity(Arguments(whole)).unwrap();
        assert_eq!(identity.key, 16);
        assert_eq!(
            identity.address,
            Address {
                mac: [0x52, 0x54, 0, 0x70, 0x6b, 1],
                ip: Ipv4Addr::new(10, 0, 0, 2),
                prefix: 24,
                gateway: Some(Ipv4Addr::new(10, 0, 0, 1)),
            }
        );
        for (missing, key) in [
            ("ip=10.0.0.2 net=10.0.0.0/24", "mac"),
            ("mac=52:54:00:70:6b:01 net=10.0.0.0/24", "ip"),
            ("ip=10.0.0.2 mac=52:54:00:70:6b:01 net=10.0.0.0", "net"),
        ] {
            assert_eq!(
                super::identity(Arguments(missing)),
                Err(NetworkError::Argument(key))
            );
        }
    }

    #[test]
    fn a_frame_of_the_longest_kind_fits_a_buffer() {
        assert!(FRAME_LAYOUT.is_valid());
        assert!(FRAME_LAYOUT.capacity() >= 1514);
        const { assert!(BUFFERS > NETWORK_ENTRIES + EXTRA) };
    }
}
