//! What the firmware's tables say: cores, NUMA nodes, where PCI's configuration space is.
#![expect(
    unsafe_code,
    reason = "lends out firmware tables that lie in physical memory"
)]

use core::fmt;

use heapless::Vec;
use parakernel_core::address::{NodeId, PhysAddr};
use parakernel_numa::acpi::{Distance, Error, Memory, Segment, Tables};
use parakernel_numa::topology::{
    self, Builder, MemoryRange, Sources, Storage, Topology, TopologyError,
};

use crate::arch::paging;
use crate::memory::EarlyFrames;

/// Firmware tables lie below this; the boot map ends here.
const REACH: u64 = 1 << 32;
/// Most NUMA nodes, and most entries about devices that name a node.
const NODES_MAX: usize = 64;
const DEVICES_MAX: usize = 64;
/// Most PCI segments, or parts of one.
const SEGMENTS_MAX: usize = 8;

/// The machine, as its firmware describes it.
#[derive(Debug)]
pub(crate) struct Machine {
    /// Nodes, and the cores, memory and devices on them.
    pub(crate) topology: Topology<'static>,
    /// PCI configuration spaces.
    pub(crate) segments: Vec<Segment, SEGMENTS_MAX>,
}

/// Why the machine is not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MachineError {
    /// A table is broken or missing.
    Table(Error),
    /// The tables contradict each other, or speak of more than there is room for.
    Topology(TopologyError),
    /// There is no memory to keep it in.
    OutOfFrames,
}

impl Machine {
    /// Reads the tables that the root pointer at `rsdp` leads to, while the boot map is in place.
    ///
    /// # Errors
    ///
    /// Where a table is broken, or there is no room.
    pub(crate) fn read(rsdp: u64, early: &mut EarlyFrames) -> Result<Self, MachineError> {
        let tables = Tables::new(&BootMap, PhysAddr::new(rsdp))?;
        let sources = Sources::read(&tables)?;
        let ranges = sources.srat.map_or(0, |srat| srat.memory().count());
        let storage = storage(early, sources.madt.processors().count(), ranges + 1);
        let storage = storage.ok_or(MachineError::OutOfFrames)?;
        let topology = Builder::from_acpi(storage, &sources)?.build()?;
        let segments = tables
            .mcfg()?
            .map(|mcfg| mcfg.segments().take(SEGMENTS_MAX).collect());
        Ok(Self {
            topology,
            segments: segments.unwrap_or_default(),
        })
    }

    /// The node of the core with interrupt controller `apic_id`.
    pub(crate) fn node_of(&self, apic_id: u32) -> NodeId {
        let core = self.topology.core(apic_id);
        let node = core.and_then(|core| self.topology.node_of_core(core));
        node.unwrap_or(NodeId::new(0))
    }
}

fn storage(early: &mut EarlyFrames, cores: usize, ranges: usize) -> Option<Storage<'static>> {
    Some(Storage {
        nodes: early.slice(NODES_MAX, topology::Node::default())?,
        cores: early.slice(cores, topology::Core::default())?,
        memory: early.slice(ranges, MemoryRange::default())?,
        devices: early.slice(DEVICES_MAX, topology::DeviceRange::default())?,
        distances: early.slice(NODES_MAX * NODES_MAX, Distance::LOCAL)?,
    })
}

/// The boot map of the low 4 GiB.
struct BootMap;

impl Memory for BootMap {
    fn bytes(&self, address: PhysAddr, len: usize) -> Option<&[u8]> {
        let end = address.as_u64().checked_add(len as u64)?;
        if address.as_u64() == 0 || end > REACH {
            return None;
        }
        // SAFETY: the boot map covers the low 4 GiB, and nobody writes firmware tables while the kernel reads them.
        Some(unsafe { core::slice::from_raw_parts(paging::physical(address), len) })
    }
}

impl From<Error> for MachineError {
    fn from(error: Error) -> Self {
        Self::Table(error)
    }
}

impl From<TopologyError> for MachineError {
    fn from(error: TopologyError) -> Self {
        Self::Topology(error)
    }
}

impl fmt::Display for MachineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(error) => error.fmt(f),
            Self::Topology(error) => error.fmt(f),
            Self::OutOfFrames => f.write_str("no memory to keep the machine's description in"),
        }
    }
}
