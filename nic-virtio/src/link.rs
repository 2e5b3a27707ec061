//! What the device says about itself and its link.

use parakernel_core::mmio::{Register, Registers, Window};

use crate::{
    error::{InitError, Structure},
    features::Features,
    regs::{self, Net},
    transport::Transport,
};

/// An Ethernet address.
pub type MacAddress = [u8; 6];

/// State of the link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Link {
    /// Whether frames can pass. Without `STATUS` it is taken to be so (§5.1.4.2).
    pub is_up: bool,
    /// Speed in Mbit/s, where the device knows it.
    pub speed_mbps: Option<u32>,
    /// Whether both directions work at once, where the device knows it.
    pub is_full_duplex: Option<bool>,
}

/// What the configuration says that does not change while the device is in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Limits {
    /// The device's address; `None` where it has none and the driver is to choose one.
    pub mac: Option<MacAddress>,
    /// Largest payload of a frame, in bytes; `None` where the device does not say.
    pub mtu: Option<u16>,
    /// Number of queue pairs.
    pub pairs: u16,
    /// Entries that the RSS table may have; 0 without RSS.
    pub rss_entries: u16,
    /// Bytes that the RSS key may have; 0 without RSS.
    pub rss_key_len: u8,
    /// What the device can hash, as [`HashTypes`](crate::steering::HashTypes); 0 without RSS.
    pub hash_types: u32,
}

/// "The driver reads until both generations agree", §2.5.1; a device that never settles is refused after so many.
const ATTEMPTS: usize = 16;

/// Reads the configuration with `read`, again where it changed meanwhile.
fn consistent<T: Transport, V>(
    transport: &T,
    read: impl Fn(&Window<&T::Registers, Net>) -> V,
) -> Result<V, InitError> {
    let (registers, base) = transport.config();
    let window = Window::new(registers, base);
    for _ in 0..ATTEMPTS {
        let before = transport.config_generation();
        let value = read(&window);
        if transport.config_generation() == before {
            return Ok(value);
        }
    }
    Err(InitError::ConfigUnstable)
}

/// Reads what does not change; only the fields whose features were agreed on.
pub(crate) fn limits<T: Transport>(transport: &T, features: Features) -> Result<Limits, InitError> {
    let (registers, base) = transport.config();
    if registers.len() < base + bytes_used(features) {
        return Err(InitError::Structure(Structure::Device));
    }
    let limits = consistent(transport, |net| Limits {
        mac: features
            .contains(Features::MAC)
            .then(|| mac(net.registers(), transport.config().1)),
        mtu: features
            .contains(Features::MTU)
            .then(|| narrow(net.read::<regs::Mtu>())),
        pairs: if features.intersects(Features::MQ | Features::RSS) {
            narrow(net.read::<regs::MaxVirtqueuePairs>())
        } else {
            1
        },
        rss_entries: when(features, || narrow(net.read::<regs::RssMaxTableLength>())),
        #[expect(clippy::cast_possible_truncation, reason = "an 8-bit register")]
        rss_key_len: when(features, || net.read::<regs::RssMaxKeySize>().bits() as u8),
        #[expect(clippy::cast_possible_truncation, reason = "a 32-bit register")]
        hash_types: when(features, || {
            net.read::<regs::SupportedHashTypes>().bits() as u32
        }),
    })?;
    check(&limits)?;
    Ok(limits)
}

/// The most queue pairs that the device offers, whatever is agreed on: 1 where it has no more, or says nothing sensible.
///
/// "During this step the driver MAY read […] the device-specific configuration fields" before features are accepted, §3.1.1.
pub(crate) fn most_pairs<T: Transport>(transport: &T) -> u16 {
    let offered = Features::from_bits_truncate(transport.device_features());
    let several = offered & (Features::MQ | Features::RSS);
    limits(transport, several).map_or(1, |limits| limits.pairs)
}

/// Bytes of the configuration up to the last field that is read, §5.1.4: what a device must have to mean its features.
fn bytes_used(features: Features) -> usize {
    let ends = [
        (Features::MAC, 6),
        (Features::STATUS, 8),
        (Features::MQ, 10),
        (Features::MTU, 12),
        (Features::SPEED_DUPLEX, 17),
        (Features::RSS, 24),
    ];
    let used = ends
        .iter()
        .filter(|(feature, _)| features.contains(*feature));
    used.map(|&(_, end)| end).max().unwrap_or(0)
}

/// Refuses values that the specification forbids, §5.1.4.1.
fn check(limits: &Limits) -> Result<(), InitError> {
    /// "The device MUST set `max_virtqueue_pairs` to between 1 and 0x8000 inclusive."
    const MAX_PAIRS: u16 = 0x8000;
    /// "The device MUST set `mtu` to between 68 and 65535 inclusive."
    const MIN_MTU: u16 = 68;
    let refuse = |value| Err(InitError::Config { value });
    if limits.pairs == 0 || limits.pairs > MAX_PAIRS {
        return refuse(limits.pairs.into());
    }
    match limits.mtu {
        Some(mtu) if mtu < MIN_MTU => refuse(mtu.into()),
        _ => Ok(()),
    }
}

/// Reads the link's state.
pub(crate) fn link<T: Transport>(transport: &T, features: Features) -> Result<Link, InitError> {
    let has_speed = features.contains(Features::SPEED_DUPLEX);
    consistent(transport, |net| Link {
        is_up: !features.contains(Features::STATUS)
            || net
                .read::<regs::NetStatus>()
                .is_set(regs::NetStatus::LINK_UP),
        speed_mbps: has_speed
            .then(|| net.read::<regs::Speed>().bits())
            .and_then(speed),
        is_full_duplex: has_speed
            .then(|| net.read::<regs::Duplex>().bits())
            .and_then(duplex),
    })
}

/// "A speed of 0 to 0x7fffffff is valid", §5.1.4.
fn speed(bits: u64) -> Option<u32> {
    u32::try_from(bits)
        .ok()
        .filter(|&speed| speed <= 0x7FFF_FFFF)
}

const fn duplex(bits: u64) -> Option<bool> {
    match bits {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

/// Byte by byte, as §4.1.3.1 and §4.2.2.2 want fields read by their own width.
fn mac<R: Registers>(registers: &R, base: usize) -> MacAddress {
    core::array::from_fn(|n| registers.read8(base + regs::MAC + n))
}

fn when<V: Default>(features: Features, read: impl FnOnce() -> V) -> V {
    if features.contains(Features::RSS) {
        read()
    } else {
        V::default()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a 16-bit register")]
fn narrow(register: impl Register) -> u16 {
    register.bits() as u16
}
