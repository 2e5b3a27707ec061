//! What connects a lease to its process: mappings and interrupts.

use core::sync::atomic::{AtomicU64, Ordering};
use core::task::Poll;

use parakernel_core::abi::LeaseState;
use parakernel_core::control::{Cut, LeaseSpec, Memory, NoRoom, Wiring, Woken};
use parakernel_core::device::Vector;
use parakernel_core::handle::LeaseId;
use parakernel_core::memory::SharedMemory;

use super::{
    Machine,
    layout::{Layout, Part, PartKind, Side},
};
use crate::address_space::{Access, Caching, Foreign};
use crate::arch::native;
use crate::cores::{self, Core, Flush};
use crate::memory::{FRAME, Frames};
use crate::pci::msix::Claim;
use crate::process::{LEASE_STRIDE, LEASES};
use crate::vectors::{EVENT_MAX, Event};

/// Bytes of books for each lease.
pub(super) const BOOKS: usize = size_of::<Option<Connection>>();

/// A lease that is connected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connection {
    pub(super) memory: Memory,
    core: &'static Core,
    /// The interrupt, and the flush after which no more of it arrives.
    claim: Option<Claim>,
    flush: Option<Flush>,
}

/// All connections, by the index of their lease.
#[derive(Debug)]
pub(super) struct Connections(&'static mut [Option<Connection>]);

impl Connections {
    /// Room for the connections of `count` leases.
    pub(super) fn place(frames: &mut Frames, count: usize) -> Option<Self> {
        let node = frames.nodes().next()?;
        frames.place_slice(node, count, None).map(Self)
    }

    pub(super) fn get(&self, lease: LeaseId) -> Option<&Connection> {
        self.0.get(lease.index())?.as_ref()
    }

    fn slot(&mut self, lease: LeaseId) -> Option<&mut Option<Connection>> {
        self.0.get_mut(lease.index())
    }
}

impl Connections {
    /// An event of `core` that stands for no lease.
    fn free_event(&self, core: &Core) -> Option<Event> {
        let claims = || {
            self.0
                .iter()
                .flatten()
                .filter_map(|connection| connection.claim)
        };
        let is_free = |event: &Event| claims().all(|claim| claim.event != *event);
        (1..=EVENT_MAX)
            .map(|number| Event {
                core: core.id,
                number,
            })
            .find(is_free)
    }
}

impl Connection {
    /// Whether an interrupt says that something has arrived.
    pub(super) const fn has_vector(&self) -> bool {
        self.claim.is_some()
    }
}

/// Where what a process writes of a sealed queue goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// To the device.
    Device,
    /// To a page that nobody reads.
    StandIn,
}

/// Where the process finds the first part of a lease.
pub(super) const fn window(lease: LeaseId) -> u64 {
    LEASES + lease.index() as u64 * LEASE_STRIDE
}

impl Machine {
    fn connection(&mut self, lease: LeaseId) -> Option<&mut Connection> {
        self.connections.slot(lease)?.as_mut()
    }

    /// Maps what the process may see of a lease.
    fn map_parts(&mut self, spec: &LeaseSpec, memory: Memory, layout: &Layout) -> Option<()> {
        let core = self.core_of(spec.process)?;
        let base = self.blocks.get(memory)?.base.as_u64();
        let kernel = &mut self.kernel;
        let process = kernel.seats.at(core)?.process.as_mut()?;
        for part in layout.parts() {
            let Some(access) = part.access else { continue };
            let start = base + part.offset as u64;
            let at = window(spec.lease) + part.offset as u64;
            if process.space.page_size(at).is_some() {
                // It is there since before the device was reset.
                continue;
            }
            let foreign = Foreign {
                physical: start..start + part.len as u64,
                access,
                caching: Caching::Memory,
            };
            process.space.map(&mut kernel.frames, at, &foreign).ok()?;
        }
        self.map_doorbell(spec, layout)
    }

    /// Maps the doorbell of a sealed queue.
    fn map_doorbell(&mut self, spec: &LeaseSpec, layout: &Layout) -> Option<()> {
        let Some(foreign) = self.doorbell(spec) else {
            return Some(());
        };
        let core = self.core_of(spec.process)?;
        let at = Self::doorbell_window(spec, layout);
        let kernel = &mut self.kernel;
        let process = kernel.seats.at(core)?.process.as_mut()?;
        if process.space.page_size(at).is_some() {
            return Some(());
        }
        process.space.map(&mut kernel.frames, at, &foreign).ok()
    }

    /// The doorbell page of a sealed queue.
    fn doorbell(&self, spec: &LeaseSpec) -> Option<Foreign> {
        let (page, _) = self.doorbell_page(spec)?;
        Some(Foreign {
            physical: page..page + FRAME,
            access: Access::ReadWrite,
            caching: Caching::Device,
        })
    }

    /// Has the index ring and the doorbell of a sealed queue, which lead to the device, lead to a page that nobody reads, or back
    /// again. There is no moment in which the process finds nothing there.
    fn switch(&mut self, spec: &LeaseSpec, way: Way) -> Option<()> {
        let Some(doorbell) = self.doorbell(spec) else {
            return Some(());
        };
        let layout = Layout::of(self.devices.get(spec.device.index())?, spec);
        let memory = self.connections.get(spec.lease)?.memory;
        let base = self.blocks.get(memory)?.base.as_u64();
        let page = |offset: usize| Foreign {
            physical: base + offset as u64..base + offset as u64 + FRAME,
            access: Access::ReadWrite,
            caching: Caching::Memory,
        };
        let ring = *layout.part(PartKind::Written(Side::First))?;
        let stand_in = page(layout.part(PartKind::StandIn)?.offset);
        let core = self.core_of(spec.process)?;
        let space = &mut self.kernel.seats.at(core)?.process.as_mut()?.space;
        let mut lead = |at: u64, to: &Foreign| {
            let to = match way {
                Way::StandIn => &stand_in,
                Way::Device => to,
            };
            space.redirect(at, to).then_some(())
        };
        for offset in (ring.offset..ring.offset + ring.len).step_by(native(FRAME)) {
            lead(window(spec.lease) + offset as u64, &page(offset))?;
        }
        lead(Self::doorbell_window(spec, &layout), &doorbell)
    }

    fn unmap_parts(&mut self, spec: &LeaseSpec, wanted: impl Fn(&Part) -> bool) {
        let Some(device) = self.devices.get(spec.device.index()) else {
            return;
        };
        let layout = Layout::of(device, spec);
        let core = self.core_of(spec.process);
        let seat = core.and_then(|core| self.kernel.seats.at(core));
        let Some(process) = seat.and_then(|seat| seat.process.as_mut()) else {
            return;
        };
        for part in layout.parts().filter(|part| wanted(part)) {
            let at = window(spec.lease) + part.offset as u64;
            process.space.unmap(at..at + part.len as u64, |_, _| {});
        }
        // The doorbell, where there is one, is written like a ring.
        let doorbell = Self::doorbell_window(spec, &layout);
        process.space.unmap(doorbell..doorbell + FRAME, |_, _| {});
    }

    /// Has the lease's interrupt lead to the process's core.
    fn claim_vector(&mut self, spec: &LeaseSpec, core: &'static Core) -> Option<Claim> {
        let number = spec.vector.number()?;
        let event = self.connections.free_event(core)?;
        let device = self.devices.get_mut(spec.device.index())?;
        // Entry 0 of each table is the kernel's own.
        let entry = u16::try_from(number.checked_add(1)?).ok()?;
        device.interrupts()?.claim_at(entry, event)
    }
}

impl Wiring for Machine {
    /// The connection is in the books before the first page is mapped: if the rest fails, the control plane cuts it like one that
    /// lived, and its memory is freed only when the process's core has forgotten it.
    fn connect(&mut self, spec: &LeaseSpec, memory: Memory) -> Result<Woken, NoRoom> {
        let core = self.core_of(spec.process).ok_or(NoRoom)?;
        let core = cores::by_id(core).ok_or(NoRoom)?;
        let device = self.devices.get(spec.device.index()).ok_or(NoRoom)?;
        let layout = Layout::of(device, spec);
        let slot = self.connections.slot(spec.lease).ok_or(NoRoom)?;
        // It is there, with its interrupt, where the device was reset.
        let was_connected = slot.is_some();
        let known = slot.as_ref().and_then(|connection| connection.claim);
        *slot = Some(Connection {
            memory,
            core,
            claim: known,
            flush: None,
        });
        self.mapped(memory, core);
        self.map_parts(spec, memory, &layout).ok_or(NoRoom)?;
        if was_connected {
            self.switch(spec, Way::Device).ok_or(NoRoom)?;
        }
        let flush = was_connected.then(|| core.ask_to_flush());
        let claim = known.or_else(|| self.claim_vector(spec, core));
        if let Some(connection) = self.connection(spec.lease) {
            (connection.claim, connection.flush) = (claim, flush);
        }
        for part in layout.parts().filter(|part| part.kind != PartKind::Status) {
            if let Some(view) = self.view(memory, part) {
                clear(view);
            }
        }
        let vector = claim.map(|claim| claim.entry);
        self.hand_over(spec, memory, &layout, vector)
            .ok_or(NoRoom)?;
        Ok(if claim.is_some() || spec.vector == Vector::None {
            Woken::AsPlanned
        } else {
            Woken::ByNothing
        })
    }

    fn cut(&mut self, spec: &LeaseSpec, cut: Cut) {
        match cut {
            Cut::Fence => {
                self.fence(spec);
                self.tell(spec, LeaseState::Revoked, None);
                self.unmap_parts(spec, Part::is_writable);
            }
            Cut::Suspend => {
                self.fence(spec);
                // For a process that ended there is nothing to do. Where it fails otherwise, safety goes before survival.
                if self.switch(spec, Way::StandIn).is_none() {
                    self.unmap_parts(spec, Part::is_writable);
                }
            }
            // The process's queues share their function's address space with all others.
            Cut::Isolate => {}
            Cut::Mask => {
                let connection = self.connection(spec.lease);
                let claim = connection.and_then(|connection| connection.claim.take());
                let device = self.devices.get_mut(spec.device.index());
                if let (Some(claim), Some(msix)) = (claim, device.and_then(|it| it.interrupts())) {
                    msix.release(claim);
                }
            }
            Cut::Unmap => {
                self.unmap_parts(spec, |_| true);
                if let Some(Connection { memory, .. }) = self.connections.get(spec.lease).copied() {
                    self.unmapped(memory);
                }
            }
        }
        if let Some(connection) = self.connection(spec.lease) {
            connection.flush = Some(connection.core.ask_to_flush());
        }
    }

    fn poll_cut(&mut self, spec: &LeaseSpec, _cut: Cut) -> Poll<()> {
        let connection = self.connections.get(spec.lease);
        let is_done = connection.is_none_or(|connection| {
            connection
                .flush
                .is_none_or(|flush| connection.core.has_flushed(flush))
        });
        if is_done {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

/// Writes zeroes over all of it.
pub(crate) fn clear(memory: SharedMemory<'_>) {
    let words = memory.len() / size_of::<AtomicU64>();
    for word in memory.slice::<AtomicU64>(0, words).unwrap_or_default() {
        word.store(0, Ordering::Relaxed);
    }
}
