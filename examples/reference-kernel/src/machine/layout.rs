//! What the memory of a lease is made of.

use heapless::Vec;
use parakernel_core::access::AccessMode;
use parakernel_core::control::LeaseSpec;
use parakernel_core::virtual_queue::VirtualLayout;
use parakernel_nic_ixgbe::{
    checked::Heads,
    descriptor::{RxDescriptor, TxDescriptor},
};
use parakernel_nic_virtio::checked::Tables;

use crate::address_space::Access;
use crate::arch::native;
use crate::device::Device;
use crate::device::net::NetDevice;
use crate::device::virtio::VirtioNet;
use crate::memory::FRAME;
use crate::process::LEASE_STRIDE;
use crate::queues::network::ENTRIES;
use crate::queues::network::ixgbe::SENT_ENTRIES;
use crate::queues::network::virtio::{PackedRing, SplitRing};

/// Most parts of a lease.
const PARTS_MAX: usize = 16;

/// What a part is for. Of a network queue pair the first side receives and the second sends; a storage queue pair has one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PartKind {
    /// The status page.
    Status,
    /// The submission page.
    Submission,
    /// What the process writes of a side: a shadow of the device's ring, the slots of a virtual queue, or, sealed, the index ring
    /// that the device reads.
    Written(Side),
    /// What the device reads of a side, and only the kernel writes.
    Hardware(Side),
    /// What the process reads of a side: what the device writes, or a copy of it, or the slots of a virtual queue.
    Read(Side),
    /// What stands in for the index ring and the doorbell of a sealed queue while its device is reset: a page that nobody reads.
    StandIn,
    /// The kernel's own: marks of command ids.
    Marks,
    /// The kernel's own: tables, or first bytes, of frames to be sent.
    Tables,
    /// The kernel's own: the word that tells how far the device has sent.
    Head,
}

/// A side of a queue pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    /// Receiving, or storage.
    First,
    /// Sending.
    Second,
}

/// A part of a lease's memory: whole pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    /// What it is for.
    pub(crate) kind: PartKind,
    /// Where it begins, in bytes.
    pub(crate) offset: usize,
    /// How long it is, in bytes.
    pub(crate) len: usize,
    /// What the process may do with it, if it sees it at all.
    pub(crate) access: Option<Access>,
}

impl Part {
    /// Whether the process can write it, so that it goes when the lease is fenced.
    pub(crate) const fn is_writable(&self) -> bool {
        matches!(self.access, Some(Access::ReadWrite))
    }
}

/// All parts of a lease, one behind the other. The process sees them at the same distances.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout(Vec<Part, PARTS_MAX>);

impl Layout {
    /// The parts of a lease on `device`.
    pub(crate) fn of(device: &Device, spec: &LeaseSpec) -> Self {
        let mut layout = Self::default();
        layout.push(PartKind::Status, 1, Some(Access::Read));
        layout.push(PartKind::Submission, 1, Some(Access::ReadWrite));
        match device {
            Device::Nvme(_) => layout.push_block(native(spec.first_ring.entries().into())),
            Device::Net(card) => {
                if spec.first_mode == AccessMode::Virtual {
                    layout.push_read(Side::First, software(card, spec, Side::First).bytes());
                } else {
                    layout.push_receive(card, spec.first_mode);
                }
                if spec.second_mode == AccessMode::Virtual {
                    layout.push_written(Side::Second, software(card, spec, Side::Second).bytes());
                } else {
                    layout.push_transmit(card);
                }
            }
        }
        layout
    }

    fn push_block(&mut self, entries: usize) {
        self.push_written(Side::First, entries * 64);
        self.push(PartKind::Hardware(Side::First), entries * 64, None);
        self.push_read(Side::First, entries * 16);
        self.push(PartKind::Marks, entries, None);
    }

    fn push_receive(&mut self, card: &NetDevice, mode: AccessMode) {
        let side = Side::First;
        match card {
            NetDevice::Virtio(card) => self.push_virtio_receive(card, mode),
            NetDevice::Ixgbe(_) => {
                let bytes = ENTRIES * size_of::<RxDescriptor>();
                self.push_written(side, bytes);
                // The port writes this one, and the kernel.
                self.push_read(side, bytes);
            }
        }
    }

    fn push_transmit(&mut self, card: &NetDevice) {
        let side = Side::Second;
        match card {
            NetDevice::Virtio(card) => self.push_virtio_transmit(card),
            NetDevice::Ixgbe(_) => {
                let entry = size_of::<TxDescriptor>();
                self.push_written(side, ENTRIES * entry);
                self.push(PartKind::Hardware(side), SENT_ENTRIES * entry, None);
                self.push_read(side, size_of::<u32>());
                self.push(PartKind::Head, size_of::<u32>(), None);
                self.push(PartKind::Tables, Heads::<ENTRIES>::BYTES, None);
            }
        }
    }

    /// Descriptors, available and used ring of a split ring follow each other; so do ring and events of a packed one.
    fn push_virtio_receive(&mut self, card: &VirtioNet, mode: AccessMode) {
        let side = Side::First;
        if mode == AccessMode::Sealed {
            self.push(PartKind::Hardware(side), SplitRing::AVAILABLE, None);
            self.push_written(side, SplitRing::USED - SplitRing::AVAILABLE);
            self.push_read(side, SplitRing::BYTES - SplitRing::USED);
            self.push(PartKind::StandIn, 1, None);
        } else if card.is_packed() {
            self.push_written(side, PackedRing::BYTES);
            self.push_read(side, PackedRing::DRIVER);
            let events = PackedRing::BYTES - PackedRing::DRIVER;
            self.push(PartKind::Hardware(side), events, None);
        } else {
            self.push_split(side);
        }
    }

    fn push_virtio_transmit(&mut self, card: &VirtioNet) {
        let side = Side::Second;
        if card.is_packed() {
            self.push_written(side, PackedRing::BYTES);
            self.push_read(side, PackedRing::DRIVER);
            self.push(PartKind::Hardware(side), PackedRing::BYTES, None);
        } else {
            self.push_split(side);
        }
        self.push(PartKind::Tables, Tables::<ENTRIES>::BYTES, None);
    }

    fn push_split(&mut self, side: Side) {
        self.push_written(side, SplitRing::USED);
        self.push(PartKind::Hardware(side), SplitRing::USED, None);
        self.push_read(side, SplitRing::BYTES - SplitRing::USED);
    }

    fn push_written(&mut self, side: Side, bytes: usize) {
        self.push(PartKind::Written(side), bytes, Some(Access::ReadWrite));
    }

    fn push_read(&mut self, side: Side, bytes: usize) {
        self.push(PartKind::Read(side), bytes, Some(Access::Read));
    }

    fn push(&mut self, kind: PartKind, bytes: usize, access: Option<Access>) {
        let part = Part {
            kind,
            offset: self.len(),
            len: bytes.next_multiple_of(native(FRAME)),
            access,
        };
        debug_assert!(!self.0.is_full(), "a lease has few parts");
        // The assertion says why it is not full.
        let _full = self.0.push(part).is_err();
    }

    fn len(&self) -> usize {
        self.0.last().map_or(0, |part| part.offset + part.len)
    }

    /// Whether the process has room for all of it between this lease and the next, a page for a doorbell behind it included.
    pub(crate) fn fits(&self) -> bool {
        const {
            // Submission, its shadow, completions and marks of the longest rings that NVMe has, and pages around them.
            let longest = (1 << 16) * (64 + 64 + 16 + 1) + 3 * FRAME;
            assert!(longest <= LEASE_STRIDE, "the longest rings fit");
        }
        self.len() as u64 + FRAME <= LEASE_STRIDE
    }

    /// How many frames the parts take.
    pub(crate) fn frames(&self) -> usize {
        self.len() / native(FRAME)
    }

    /// The parts.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &Part> {
        self.0.iter()
    }

    /// The part that is for `kind`.
    pub(crate) fn part(&self, kind: PartKind) -> Option<&Part> {
        self.0.iter().find(|part| part.kind == kind)
    }

    /// What the parts of `first` and `last` and all between them cover.
    pub(crate) fn span(&self, first: PartKind, last: PartKind) -> Option<Part> {
        let (first, last) = (self.part(first)?, self.part(last)?);
        Some(Part {
            len: (last.offset + last.len).checked_sub(first.offset)?,
            access: None,
            ..*first
        })
    }
}

/// How a side of a virtual queue lies in its part.
pub(crate) fn software(card: &NetDevice, spec: &LeaseSpec, side: Side) -> VirtualLayout {
    VirtualLayout {
        entries: match side {
            Side::First => spec.first_ring,
            Side::Second => spec.second_ring,
        },
        slot_bytes: u32::from(card.max_frame()).next_multiple_of(8),
    }
}
