//! Which core, memory and device is on which node, and how far nodes are from each other.
//!
//! A [`Topology`] lives in slices that its maker provides, so it has no limit of its own. A [`Builder`] fills it from
//! [firmware tables](Builder::from_acpi) or by hand; with feature `std` it also comes from Linux.

use parakernel_core::address::{CoreId, NodeId, PhysAddr};
use parakernel_core::pci;

use crate::acpi::Distance;

mod acpi;
mod builder;

pub use acpi::Sources;
pub use builder::{Builder, Storage, Table, TopologyError};

/// The machine's nodes and what is on them.
#[derive(Clone, Copy, Debug)]
pub struct Topology<'s> {
    nodes: &'s [Node],
    cores: &'s [Core],
    /// In ascending order, without overlaps.
    memory: &'s [MemoryRange],
    devices: &'s [DeviceRange],
    /// Row by row, `nodes` squared.
    distances: &'s [Distance],
}

/// A node, at the index of its [`NodeId`].
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Node {
    /// Firmware's or Linux's number for it, such as an ACPI proximity domain.
    pub domain: u32,
}

/// A core, at the index of its [`CoreId`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Core {
    /// What the hardware calls it: the APIC id; under Linux, the CPU number.
    pub hardware_id: u32,
    /// Where it is.
    pub node: NodeId,
}

/// Physical addresses that belong to one node.
///
/// Whether there is memory at each of them is for the memory map to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct MemoryRange {
    /// The first address.
    pub base: PhysAddr,
    /// How many bytes; `base + len` fits.
    pub len: u64,
    /// Where they are.
    pub node: NodeId,
}

/// PCI functions that are near one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct DeviceRange {
    /// The first function.
    pub first: pci::Address,
    /// The last function.
    pub last: pci::Address,
    /// Where they are.
    pub node: NodeId,
}

impl Default for Core {
    fn default() -> Self {
        Self {
            hardware_id: 0,
            node: NodeId::new(0),
        }
    }
}

impl Default for MemoryRange {
    fn default() -> Self {
        Self {
            base: PhysAddr::new(0),
            len: 0,
            node: NodeId::new(0),
        }
    }
}

impl Default for DeviceRange {
    fn default() -> Self {
        Self {
            first: pci::Address::from_requester(0, 0),
            last: pci::Address::from_requester(0, 0),
            node: NodeId::new(0),
        }
    }
}

impl MemoryRange {
    /// The first address after the range.
    #[must_use]
    pub fn end(&self) -> PhysAddr {
        PhysAddr::new(self.base.as_u64().saturating_add(self.len))
    }

    /// The part of the range that lies in the `len` bytes from `base`, or `None` where there is none.
    #[must_use]
    pub fn clipped(&self, base: PhysAddr, len: u64) -> Option<Self> {
        let start = self.base.max(base);
        let end = base.as_u64().saturating_add(len).min(self.end().as_u64());
        let len = end.checked_sub(start.as_u64()).filter(|len| *len > 0)?;
        Some(Self {
            base: start,
            len,
            node: self.node,
        })
    }
}

impl DeviceRange {
    fn contains(&self, function: pci::Address) -> bool {
        (self.first..=self.last).contains(&function)
    }

    /// How many functions the range holds beside the first; ranges do not cross segments.
    fn extent(&self) -> u16 {
        self.last.requester().saturating_sub(self.first.requester())
    }
}

impl<'s> Topology<'s> {
    /// The topology of tables that a [`Builder`] filled, without memory.
    #[cfg(feature = "std")]
    pub(crate) const fn from_tables(
        nodes: &'s [Node],
        cores: &'s [Core],
        devices: &'s [DeviceRange],
        distances: &'s [Distance],
    ) -> Self {
        Self {
            nodes,
            cores,
            memory: &[],
            devices,
            distances,
        }
    }

    /// The nodes, by [`NodeId`].
    #[must_use]
    pub const fn nodes(&self) -> &'s [Node] {
        self.nodes
    }

    /// The cores, by [`CoreId`].
    #[must_use]
    pub const fn cores(&self) -> &'s [Core] {
        self.cores
    }

    /// All memory ranges, in ascending order.
    #[must_use]
    pub const fn memory(&self) -> &'s [MemoryRange] {
        self.memory
    }

    /// The node that firmware or Linux calls `domain`.
    #[must_use]
    pub fn node(&self, domain: u32) -> Option<NodeId> {
        let index = self.nodes.binary_search_by_key(&domain, |node| node.domain);
        index.ok().and_then(node_id)
    }

    /// The core that the hardware calls `hardware_id`.
    #[must_use]
    pub fn core(&self, hardware_id: u32) -> Option<CoreId> {
        let mut cores = self.cores.iter();
        let index = cores.position(|core| core.hardware_id == hardware_id)?;
        u32::try_from(index).ok().map(CoreId::new)
    }

    /// Where a core is.
    #[must_use]
    pub fn node_of_core(&self, core: CoreId) -> Option<NodeId> {
        self.cores.get(core.index()).map(|core| core.node)
    }

    /// Where a byte of memory is, or `None` where nobody says.
    #[must_use]
    pub fn node_of_memory(&self, address: PhysAddr) -> Option<NodeId> {
        let after = self.memory.partition_point(|range| range.base <= address);
        let range = self.memory.get(after.checked_sub(1)?)?;
        (address < range.end()).then_some(range.node)
    }

    /// Where a PCI function is, or `None` where nobody says.
    ///
    /// Of several ranges that hold it, the smallest counts; of equal ones, the one that was added last.
    #[must_use]
    pub fn node_of_device(&self, function: pci::Address) -> Option<NodeId> {
        let ranges = self.devices.iter().rev();
        let ranges = ranges.filter(|range| range.contains(function));
        ranges
            .min_by_key(|range| range.extent())
            .map(|range| range.node)
    }

    /// The cores of a node, in ascending order.
    pub fn cores_of(&self, node: NodeId) -> impl Iterator<Item = CoreId> + Clone + use<'s> {
        (0..)
            .map(CoreId::new)
            .zip(self.cores)
            .filter_map(move |(id, core)| (core.node == node).then_some(id))
    }

    /// The memory of a node, in ascending order.
    pub fn memory_of(&self, node: NodeId) -> impl Iterator<Item = MemoryRange> + Clone + use<'s> {
        let ranges = self.memory.iter().copied();
        ranges.filter(move |range| range.node == node)
    }

    /// The `len` bytes from `base`, cut where the node changes; parts that nobody places are left out.
    ///
    /// Cuts what a memory map calls usable into ranges for per-node [frame allocation](crate::frames).
    pub fn split(
        &self,
        base: PhysAddr,
        len: u64,
    ) -> impl Iterator<Item = MemoryRange> + Clone + use<'s> {
        let ranges = self.memory.iter();
        ranges.filter_map(move |range| range.clipped(base, len))
    }

    /// How far the memory of node `to` is for the cores and devices of node `from`; unreachable if one does not exist.
    #[must_use]
    pub fn distance(&self, from: NodeId, to: NodeId) -> Distance {
        let count = self.nodes.len();
        let (from, to) = (from.index(), to.index());
        let index = (from < count && to < count).then(|| from * count + to);
        let distance = index.and_then(|index| self.distances.get(index));
        distance.copied().unwrap_or(Distance::UNREACHABLE)
    }
}

fn node_id(index: usize) -> Option<NodeId> {
    u32::try_from(index).ok().map(NodeId::new)
}
