//! What the Flow Director is told: how it is set up, and single filters.

use parakernel_core::mmio::{Register, Registers};

use super::{Capacity, Config, Field, Flow, L4, hash};
use crate::{
    device::Device,
    regs::{
        QUEUES,
        director::{
            Fdircmd, Fdirctrl, Fdirdip4m, Fdirhash, Fdirhkey, Fdirip6m, Fdiripda, Fdiripsa, Fdirm,
            Fdirport, Fdirsip4m, Fdirsipv6A, Fdirsipv6B, Fdirsipv6C, Fdirtcpm, Fdirudpm, Fdirvlan,
        },
    },
};

/// The longest list of a hash that is not reported as long; as drivers set it.
const MAX_LENGTH: u64 = 10;
/// The port interrupts with 64 filters left.
const FULL_THRESHOLD: u64 = 4;

/// Commands (§8.2.3.21).
const ADD: u64 = 1;
const REMOVE: u64 = 2;
const ASK: u64 = 3;

/// Where packets of a filter go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Target {
    queue: u8,
    is_drop: bool,
}

impl Target {
    /// A queue that is not the one of frames to drop.
    pub(super) fn queue<R: Registers>(device: &Device<'_, R>, queue: u8) -> Option<Self> {
        let is_right = queue < QUEUES && Some(queue) != device.drop_queue();
        is_right.then_some(Self {
            queue,
            is_drop: false,
        })
    }

    /// Nowhere; `None` where there is no queue left for that.
    pub(super) fn drop<R: Registers>(device: &Device<'_, R>) -> Option<Self> {
        device.drop_queue().map(|queue| Self {
            queue,
            is_drop: true,
        })
    }
}

/// What is told of one filter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Command {
    /// Add it, or change where its packets go.
    Write(Flow, Target),
    Remove(Flow),
    /// Ask whether it is there; and whether it should be.
    Ask(Flow, bool),
}

impl Command {
    const fn flow(&self) -> &Flow {
        match self {
            Self::Write(flow, _) | Self::Remove(flow) | Self::Ask(flow, _) => flow,
        }
    }

    fn to_register(self) -> Fdircmd {
        let protocol = self.flow().protocol.map_or(0, kind);
        let command = Fdircmd::default().with(Fdircmd::L4TYPE, protocol.into());
        match self {
            Self::Write(_, target) => command
                .with(Fdircmd::CMD, ADD)
                .with(Fdircmd::FILTER_UPDATE, 1)
                .with(Fdircmd::LAST, 1)
                .with(Fdircmd::QUEUE_EN, 1)
                .with(Fdircmd::DROP, target.is_drop.into())
                .with(Fdircmd::RX_QUEUE, target.queue.into()),
            Self::Remove(_) => command.with(Fdircmd::CMD, REMOVE),
            Self::Ask(..) => command.with(Fdircmd::CMD, ASK),
        }
    }
}

/// The number of a protocol.
pub(super) const fn kind(protocol: L4) -> u8 {
    match protocol {
        L4::Udp => 1,
        L4::Tcp => 2,
        L4::Sctp => 3,
    }
}

impl<R: Registers> Device<'_, R> {
    /// Sets the Flow Director up, §7.1.2.7; [`is_director_ready`](Self::is_director_ready) says when it is. Its part of the
    /// packet buffer is nobody else's already.
    ///
    /// Erratum: it is set up again only after its table was cleared, by a bit of the command's register.
    pub(crate) fn set_up_director(&self, config: &Config) {
        let port = self.port();
        port.write(Fdircmd::default().with(Fdircmd::CLEARHT, 1));
        port.write(Fdircmd::default());
        port.write(Fdirhash::default());
        self.write_masks(config);
        port.write(Fdirhkey::from_bits(hash::KEY.into()));
        let size = match config.capacity {
            Capacity::Small => 1,
            Capacity::Medium => 2,
            Capacity::Large => 3,
        };
        let flex = config.masks.flex.unwrap_or(0) / 2;
        port.write(
            Fdirctrl::default()
                .with(Fdirctrl::PBALLOC, size)
                .with(Fdirctrl::PERFECT_MATCH, 1)
                .with(Fdirctrl::DROP_Q, crate::steering::DROP_QUEUE.into())
                .with(Fdirctrl::FLEX_OFFSET, flex.into())
                .with(Fdirctrl::MAX_LENGTH, MAX_LENGTH)
                .with(Fdirctrl::FULL_THRESH, FULL_THRESHOLD),
        );
    }

    /// Whether it is set up, where there is one.
    pub(crate) fn is_director_ready(&self) -> bool {
        let is_done = || self.port().read::<Fdirctrl>().is_set(Fdirctrl::INIT_DONE);
        self.director().is_none() || is_done()
    }

    /// A set bit does not count.
    fn write_masks(&self, config: &Config) {
        let (port, masks) = (self.port(), &config.masks);
        let ignored = |field| u64::from(field == Field::Ignored);
        let all = |field| ignored(field) * 0xFFFF;
        port.write(
            Fdirm::default()
                .with(Fdirm::VLANID, ignored(masks.vlan))
                .with(Fdirm::VLANP, 1)
                .with(Fdirm::POOL, 1)
                .with(Fdirm::L4P, ignored(masks.protocol))
                .with(Fdirm::FLEX, masks.flex.is_none().into())
                .with(Fdirm::DIPV6, 1),
        );
        port.write(Fdirip6m::from_bits(u32::MAX.into()));
        port.write(Fdirsip4m::from_bits(beyond(masks.source_bits)));
        port.write(Fdirdip4m::from_bits(beyond(masks.destination_bits)));
        port.write(
            Fdirtcpm::default()
                .with(Fdirtcpm::SOURCE, all(masks.source_port))
                .with(Fdirtcpm::DESTINATION, all(masks.port)),
        );
        port.write(
            Fdirudpm::default()
                .with(Fdirudpm::SOURCE, all(masks.source_port))
                .with(Fdirudpm::DESTINATION, all(masks.port)),
        );
    }

    /// Gives a command; none is under way. The registers of the flow are written for all of them: whether a filter is found by
    /// its flow or by its number, it is the right one.
    pub(super) fn give(&self, index: u16, command: &Command) {
        let (port, flow) = (self.port(), command.flow());
        let lowest_first = |address: core::net::Ipv4Addr| u32::from_le_bytes(address.octets());
        port.write(Fdirsipv6A::default());
        port.write(Fdirsipv6B::default());
        port.write(Fdirsipv6C::default());
        port.write(Fdiripsa::from_bits(lowest_first(flow.source).into()));
        port.write(Fdiripda::from_bits(lowest_first(flow.destination).into()));
        port.write(
            Fdirport::default()
                .with(Fdirport::SOURCE, flow.source_port.into())
                .with(Fdirport::DESTINATION, flow.port.into()),
        );
        port.write(
            Fdirvlan::default()
                .with(Fdirvlan::VLAN, flow.vlan.into())
                .with(Fdirvlan::FLEX, u16::from_le_bytes(flow.flex).into()),
        );
        port.write(
            Fdirhash::default()
                .with(Fdirhash::HASH, hash::bucket(flow).into())
                .with(Fdirhash::SW_INDEX, index.into()),
        );
        port.write(command.to_register());
    }
}

/// The bits of an address after its first `bits`, those of the first byte lowest.
fn beyond(bits: u8) -> u64 {
    let kept = u32::MAX.checked_shr(bits.into()).unwrap_or(0);
    kept.swap_bytes().into()
}
