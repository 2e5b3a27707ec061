//! What the control plane asks of the machine that it runs on.
//!
//! A kernel implements these with frame allocators, page tables and an IOMMU; a program on Linux with `mmap`, `memfd`
//! and VFIO; a test with a script. Nothing here waits. What takes time is begun, and polled until it is confirmed.

use core::task::Poll;

use super::request::PageSize;
use crate::{
    access::AccessMode,
    address::{Direction, Iova, NodeId},
    device::{DeviceId, QueueDevice, QueueIndex, QueueSpec, Vector},
    handle::{LeaseId, ProcessId, RegionId, VolumeId},
    memory::RegionError,
    ring::RingSize,
    steering::Steering,
};

/// Memory that the platform set aside; what is behind the number is the platform's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Memory {
    /// The platform's name for it.
    pub id: u32,
    /// Number of pages of 4 KiB, rings and shared pages included.
    pub pages: u64,
}

/// What memory is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Data of a process.
    Region {
        /// Number of pages of 4 KiB.
        pages: u64,
        /// What they are made of.
        page_size: PageSize,
        /// Which node they must be on.
        node: NodeId,
    },
    /// Rings and shared pages of a lease, on the node of its device. How much that is, the platform knows.
    Lease(LeaseSpec),
}

/// A lease as the platform and its process see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaseSpec {
    /// The lease.
    pub lease: LeaseId,
    /// Whose it is.
    pub process: ProcessId,
    /// The device.
    pub device: DeviceId,
    /// The hardware queue; `None` where both sides are virtual.
    pub queue: Option<QueueIndex>,
    /// Entries of the receive ring, or of the submission queue.
    pub first_ring: RingSize,
    /// Entries of the transmit ring, or of the completion queue.
    pub second_ring: RingSize,
    /// How the receive queue, or the storage queue pair, is reached.
    pub first_mode: AccessMode,
    /// How the transmit queue is reached; the same as the first for storage.
    pub second_mode: AccessMode,
    /// The interrupt.
    pub vector: Vector,
    /// The blocks that a storage queue pair is confined to.
    pub volume: Option<VolumeId>,
}

impl LeaseSpec {
    /// Whether nobody else is woken by its vector.
    #[must_use]
    pub const fn has_own_vector(&self) -> bool {
        matches!(self.vector, Vector::Own(_))
    }

    /// What the device is asked to make, if it is.
    #[must_use]
    pub const fn queue_spec(&self) -> Option<QueueSpec> {
        match self.queue {
            Some(queue) => Some(QueueSpec {
                lease: self.lease,
                queue,
                first_ring: self.first_ring,
                second_ring: self.second_ring,
                first_mode: self.first_mode,
                second_mode: self.second_mode,
                vector: self.vector,
                volume: self.volume,
            }),
            None => None,
        }
    }
}

/// Where memory comes from, and goes.
pub trait Frames {
    /// Sets memory aside that holds zeroes and that nobody else can see; `None` where there is too little.
    fn allocate(&mut self, purpose: Purpose) -> Option<Memory>;

    /// Overwrites a bounded part of the memory with zeroes; ready when none is left to overwrite.
    fn zero(&mut self, memory: Memory) -> Poll<()>;

    /// Takes memory back that holds zeroes and that nobody can see any more.
    fn free(&mut self, memory: Memory);
}

/// The memory of a process that devices may reach.
pub trait Regions {
    /// Maps the memory into the process, enters it into the process's [region table](crate::memory::RegionTable), and
    /// into the IOMMU domains where the process's queues are.
    ///
    /// # Errors
    ///
    /// [`RegionError`]; nothing is mapped then.
    fn register(
        &mut self,
        process: ProcessId,
        memory: Memory,
        direction: Direction,
    ) -> Result<(RegionId, Iova), RegionError>;

    /// Begins to undo that. From here on no look-up finds the region. A hardware queue of the process that is there still is
    /// quarantined, and its memory is freed only when that queue is gone.
    fn begin_unregister(&mut self, process: ProcessId, region: RegionId);

    /// Whether no core and no IOMMU remembers the region.
    fn poll_unregister(&mut self, process: ProcessId, region: RegionId) -> Poll<()>;
}

/// What connects a lease to its process.
pub trait Wiring {
    /// Hands rings and buffers in `memory` to the device's control half, maps what the process may see of them, and
    /// programs the vector. Also after a [`Cut::Suspend`]: the rings begin anew then, and what
    /// stood in is taken out again; that cut counts as [through](Self::poll_cut) once no core remembers what stood in.
    ///
    /// Returns whether the vector of `spec`, if it has one, wakes the process: where none is left on its core it does not.
    ///
    /// # Errors
    ///
    /// [`NoRoom`]; what was mapped before that is cut as ever.
    fn connect(&mut self, spec: &LeaseSpec, memory: Memory) -> Result<Woken, NoRoom>;

    /// Begins to cut a connection; one that was cut before stays so, and whose process has ended since is cut.
    fn cut(&mut self, spec: &LeaseSpec, cut: Cut);

    /// Whether the cut is through.
    fn poll_cut(&mut self, spec: &LeaseSpec, cut: Cut) -> Poll<()>;
}

/// Whether a lease's vector reaches its process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Woken {
    /// As its specification says: by its vector, if it has one.
    AsPlanned,
    /// By nothing: its vector could not be had on the process's core, and is to be given to somebody else.
    ByNothing,
}

/// Page tables, or something else that mapping takes, is used up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoRoom;

/// A connection between a lease and its process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Cut {
    /// Calls for the lease: none is under way any more, and new ones are refused. What the process could write (doorbell,
    /// shadow ring, submission page) is unmapped, and no core remembers the mapping. A process that does not let go is
    /// stopped by an inter-processor interrupt.
    Fence,
    /// The same while the device of a lease that is to come back is reset: calls are over and refused, and nothing that the
    /// process writes reaches the device. But an honest process that has not heard of it yet must not be stopped for going on:
    /// what it had mapped stays, or memory of the lease that nobody reads stands in for it (for a doorbell, and for a ring that
    /// the device itself reads). Followed by [`connect`](Wiring::connect) or by [`Fence`](Self::Fence).
    Suspend,
    /// The device: where it translates for the queue alone, the IOMMU has forgotten, reads and writes drained.
    Isolate,
    /// Interrupts: the lease is woken no more by its vector, which is masked unless it wakes others too; one that was
    /// under way has been taken.
    Mask,
    /// The rest: read-only mappings are gone.
    Unmap,
}

/// The machine.
pub trait Platform: Frames + Regions + Wiring {
    /// A kernel with several kinds of devices puts an enum here.
    type Device: QueueDevice + Steering;

    /// The device with this number; `None` beyond the last. The same as long as the machine runs.
    fn device(&mut self, device: DeviceId) -> Option<&mut Self::Device>;
}

impl<F: Frames + ?Sized> Frames for &mut F {
    fn allocate(&mut self, purpose: Purpose) -> Option<Memory> {
        (**self).allocate(purpose)
    }

    fn zero(&mut self, memory: Memory) -> Poll<()> {
        (**self).zero(memory)
    }

    fn free(&mut self, memory: Memory) {
        (**self).free(memory);
    }
}

impl<R: Regions + ?Sized> Regions for &mut R {
    fn register(
        &mut self,
        process: ProcessId,
        memory: Memory,
        direction: Direction,
    ) -> Result<(RegionId, Iova), RegionError> {
        (**self).register(process, memory, direction)
    }

    fn begin_unregister(&mut self, process: ProcessId, region: RegionId) {
        (**self).begin_unregister(process, region);
    }

    fn poll_unregister(&mut self, process: ProcessId, region: RegionId) -> Poll<()> {
        (**self).poll_unregister(process, region)
    }
}

impl<W: Wiring + ?Sized> Wiring for &mut W {
    fn connect(&mut self, spec: &LeaseSpec, memory: Memory) -> Result<Woken, NoRoom> {
        (**self).connect(spec, memory)
    }

    fn cut(&mut self, spec: &LeaseSpec, cut: Cut) {
        (**self).cut(spec, cut);
    }

    fn poll_cut(&mut self, spec: &LeaseSpec, cut: Cut) -> Poll<()> {
        (**self).poll_cut(spec, cut)
    }
}

impl<P: Platform + ?Sized> Platform for &mut P {
    type Device = P::Device;

    fn device(&mut self, device: DeviceId) -> Option<&mut P::Device> {
        (**self).device(device)
    }
}
