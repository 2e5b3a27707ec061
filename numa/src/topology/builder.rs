//! Filling the tables of a [`Topology`].

use core::fmt;

use parakernel_core::address::{NodeId, PhysAddr};
use parakernel_core::error::ErrorKind;
use parakernel_core::pci;

use super::{Core, DeviceRange, MemoryRange, Node, Topology, node_id};
use crate::acpi::Distance;

/// Where a [`Topology`] keeps its tables. What the slices hold before does not matter.
#[derive(Debug)]
pub struct Storage<'s> {
    /// One entry per node.
    pub nodes: &'s mut [Node],
    /// One entry per core.
    pub cores: &'s mut [Core],
    /// One entry per memory range.
    pub memory: &'s mut [MemoryRange],
    /// One entry per PCI function, or range of functions, whose node is known.
    pub devices: &'s mut [DeviceRange],
    /// One entry per pair of nodes.
    pub distances: &'s mut [Distance],
}

/// Collects what is on the nodes of a machine.
#[derive(Debug)]
pub struct Builder<'s> {
    storage: Storage<'s>,
    nodes: usize,
    cores: usize,
    memory: usize,
    devices: usize,
}

/// One of the tables of a [`Storage`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Table {
    /// [`Storage::nodes`].
    Nodes,
    /// [`Storage::cores`].
    Cores,
    /// [`Storage::memory`].
    Memory,
    /// [`Storage::devices`].
    Devices,
    /// [`Storage::distances`].
    Distances,
}

/// Why a topology could not be built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum TopologyError {
    /// The caller's slice is too short.
    Full {
        /// Which one.
        table: Table,
        /// How many entries it has.
        capacity: usize,
    },
    /// Something is on a node that was not announced.
    UnknownDomain(u32),
    /// The memory of two nodes overlaps, from this address on.
    Overlap(PhysAddr),
    /// A range of memory or of functions ends before it starts, or beyond the last address.
    Range,
    /// There is no core.
    NoCores,
}

impl<'s> Builder<'s> {
    /// Starts with the nodes that firmware or Linux calls `domains`, in any order and as often as it likes.
    ///
    /// Nodes are numbered by ascending domain. Without a domain there is one node, of domain 0. A node is
    /// [local](Distance::LOCAL) to itself and [remote](Distance::REMOTE) to all others.
    ///
    /// # Errors
    ///
    /// [`TopologyError::Full`].
    pub fn new(
        storage: Storage<'s>,
        domains: impl IntoIterator<Item = u32>,
    ) -> Result<Self, TopologyError> {
        let mut builder = Self {
            storage,
            nodes: 0,
            cores: 0,
            memory: 0,
            devices: 0,
        };
        for domain in domains {
            builder.add_node(domain)?;
        }
        if builder.nodes == 0 {
            builder.add_node(0)?;
        }
        builder.set_default_distances()?;
        Ok(builder)
    }

    /// How many nodes there are.
    #[must_use]
    pub const fn node_count(&self) -> usize {
        self.nodes
    }

    /// Adds the core that the hardware calls `hardware_id`, unless it is known already.
    ///
    /// Cores are numbered in the order in which they are added.
    ///
    /// # Errors
    ///
    /// [`TopologyError::UnknownDomain`] or [`TopologyError::Full`].
    pub fn add_core(&mut self, hardware_id: u32, domain: u32) -> Result<(), TopologyError> {
        let node = self.node(domain)?;
        let known = self.storage.cores.get(..self.cores).unwrap_or_default();
        if known.iter().any(|core| core.hardware_id == hardware_id) {
            return Ok(());
        }
        let core = Core { hardware_id, node };
        push(self.storage.cores, &mut self.cores, core, Table::Cores)
    }

    /// Adds the `len` bytes of memory from `base`.
    ///
    /// # Errors
    ///
    /// [`TopologyError::UnknownDomain`], [`TopologyError::Range`] or [`TopologyError::Full`].
    pub fn add_memory(
        &mut self,
        base: PhysAddr,
        len: u64,
        domain: u32,
    ) -> Result<(), TopologyError> {
        let node = self.node(domain)?;
        if len == 0 {
            return Ok(());
        }
        if base.checked_add(len).is_none() {
            return Err(TopologyError::Range);
        }
        let range = MemoryRange { base, len, node };
        push(self.storage.memory, &mut self.memory, range, Table::Memory)
    }

    /// Adds the PCI functions from `first` to `last`, which are of one segment.
    ///
    /// Of several ranges that hold a function, the smallest counts; of equal ones, the one that was added last.
    ///
    /// # Errors
    ///
    /// [`TopologyError::UnknownDomain`], [`TopologyError::Range`] or [`TopologyError::Full`].
    pub fn add_devices(
        &mut self,
        first: pci::Address,
        last: pci::Address,
        domain: u32,
    ) -> Result<(), TopologyError> {
        let node = self.node(domain)?;
        if first > last || first.segment() != last.segment() {
            return Err(TopologyError::Range);
        }
        let range = DeviceRange { first, last, node };
        push(
            self.storage.devices,
            &mut self.devices,
            range,
            Table::Devices,
        )
    }

    /// States how far domain `to` is for domain `from`.
    ///
    /// # Errors
    ///
    /// [`TopologyError::UnknownDomain`].
    pub fn set_distance(
        &mut self,
        from: u32,
        to: u32,
        distance: Distance,
    ) -> Result<(), TopologyError> {
        self.put_distance(self.node(from)?.index(), self.node(to)?.index(), distance);
        Ok(())
    }

    /// The finished topology.
    ///
    /// # Errors
    ///
    /// [`TopologyError::NoCores`], or [`TopologyError::Overlap`] where two nodes claim the same memory.
    pub fn build(self) -> Result<Topology<'s>, TopologyError> {
        if self.cores == 0 {
            return Err(TopologyError::NoCores);
        }
        let Storage {
            nodes,
            cores,
            memory,
            devices,
            distances,
        } = self.storage;
        let memory = merge(memory.get_mut(..self.memory).unwrap_or_default())?;
        Ok(Topology {
            nodes: nodes.get(..self.nodes).unwrap_or_default(),
            cores: cores.get(..self.cores).unwrap_or_default(),
            memory,
            devices: devices.get(..self.devices).unwrap_or_default(),
            distances: distances.get(..self.nodes * self.nodes).unwrap_or_default(),
        })
    }

    /// The node of `domain`.
    pub(super) fn node(&self, domain: u32) -> Result<NodeId, TopologyError> {
        let index = self.search(domain).ok().and_then(node_id);
        index.ok_or(TopologyError::UnknownDomain(domain))
    }

    /// The domain of the node at `index`.
    pub(super) fn domain(&self, index: usize) -> Option<u32> {
        self.storage.nodes.get(index).map(|node| node.domain)
    }

    /// States how far the node at index `to` is for the one at `from`.
    pub(super) fn put_distance(&mut self, from: usize, to: usize, distance: Distance) {
        if let Some(entry) = self.storage.distances.get_mut(from * self.nodes + to) {
            *entry = distance;
        }
    }

    fn search(&self, domain: u32) -> Result<usize, usize> {
        let nodes = self.storage.nodes.get(..self.nodes).unwrap_or_default();
        nodes.binary_search_by_key(&domain, |node| node.domain)
    }

    /// Puts a node where its domain belongs, if it is a new one.
    fn add_node(&mut self, domain: u32) -> Result<(), TopologyError> {
        let Err(index) = self.search(domain) else {
            return Ok(());
        };
        push(
            self.storage.nodes,
            &mut self.nodes,
            Node { domain },
            Table::Nodes,
        )?;
        if let Some(behind) = self.storage.nodes.get_mut(index..self.nodes) {
            behind.rotate_right(1);
        }
        Ok(())
    }

    fn set_default_distances(&mut self) -> Result<(), TopologyError> {
        let full = TopologyError::Full {
            table: Table::Distances,
            capacity: self.storage.distances.len(),
        };
        let count = self.nodes.checked_mul(self.nodes).ok_or(full)?;
        let matrix = self.storage.distances.get_mut(..count).ok_or(full)?;
        for (index, distance) in matrix.iter_mut().enumerate() {
            let is_local = index.is_multiple_of(self.nodes + 1);
            *distance = if is_local {
                Distance::LOCAL
            } else {
                Distance::REMOTE
            };
        }
        Ok(())
    }
}

/// Sorts ranges and joins those of one node that touch or overlap.
fn merge(ranges: &mut [MemoryRange]) -> Result<&[MemoryRange], TopologyError> {
    ranges.sort_unstable_by_key(|range| range.base);
    let mut count: usize = 0;
    for index in 0..ranges.len() {
        let range = ranges[index];
        match count.checked_sub(1).and_then(|last| ranges.get_mut(last)) {
            Some(last) if last.node == range.node && range.base <= last.end() => {
                let end = last.end().max(range.end());
                last.len = end.as_u64() - last.base.as_u64();
            }
            Some(last) if range.base < last.end() => {
                return Err(TopologyError::Overlap(range.base));
            }
            _ => {
                ranges[count] = range;
                count += 1;
            }
        }
    }
    Ok(ranges.get(..count).unwrap_or_default())
}

/// Puts `entry` behind the first `count` entries of `table`.
fn push<T>(table: &mut [T], count: &mut usize, entry: T, name: Table) -> Result<(), TopologyError> {
    let capacity = table.len();
    let slot = table.get_mut(*count).ok_or(TopologyError::Full {
        table: name,
        capacity,
    })?;
    *slot = entry;
    *count += 1;
    Ok(())
}

impl fmt::Display for TopologyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { table, capacity } => {
                write!(f, "{capacity} entries are too few for the table of {table}")
            }
            Self::UnknownDomain(domain) => write!(f, "domain {domain} is no node"),
            Self::Overlap(address) => write!(f, "two nodes claim the memory at {address:#x}"),
            Self::Range => f.write_str("a range that ends before it starts"),
            Self::NoCores => f.write_str("no core"),
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nodes => "nodes",
            Self::Cores => "cores",
            Self::Memory => "memory ranges",
            Self::Devices => "device ranges",
            Self::Distances => "distances",
        })
    }
}

impl core::error::Error for TopologyError {}

impl parakernel_core::error::Error for TopologyError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Full { .. } => ErrorKind::Exhausted,
            Self::UnknownDomain(_) | Self::Overlap(_) | Self::Range | Self::NoCores => {
                ErrorKind::InvalidArgument
            }
        }
    }
}
