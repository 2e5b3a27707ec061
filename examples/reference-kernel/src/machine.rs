//! The machine as the control plane works it: memory, mappings, interrupts, devices.

use heapless::Vec;
use parakernel_core::address::CoreId;
use parakernel_core::control::Platform;
use parakernel_core::device::DeviceId;
use parakernel_core::handle::{ProcessId, VolumeId};
use parakernel_core::validate::Violation;
use parakernel_core::volume::Volume;

use crate::boot::Kernel;
use crate::capacity::Capacity;
use crate::cores::{CORES_MAX, EVENT_KERNEL};
use crate::device::Device;

mod activate;
mod layout;
mod memory;
mod network;
mod regions;
mod wiring;

pub(crate) use activate::Terms;
pub(crate) use network::FRAMES;
pub(crate) use wiring::clear;

use memory::Blocks;
use wiring::Connections;

/// Most devices.
pub(crate) const DEVICES_MAX: usize = 8;
/// Most volumes.
pub(crate) const VOLUMES_MAX: usize = 32;

/// Bytes of the machine's own books for each lease.
pub(crate) const LEASE_BOOKS: usize = wiring::BOOKS + memory::BOOKS;

/// The devices, by number.
pub(crate) type Devices = Vec<&'static mut Device, DEVICES_MAX>;

/// What belongs to core 0.
pub(crate) struct Machine {
    /// Memory, cores, PCI functions.
    pub(crate) kernel: Kernel,
    /// The devices whose queues processes may claim.
    pub(crate) devices: Devices,
    /// Who is on which core.
    processes: Vec<(ProcessId, CoreId), CORES_MAX>,
    /// Volumes by name, to write queues' rules from.
    pub(crate) volumes: Vec<(VolumeId, Volume), VOLUMES_MAX>,
    blocks: Blocks,
    connections: Connections,
    /// How often memory was to be freed that a core could still reach: it is kept for ever then.
    pub(crate) freed_early: u32,
}

impl Machine {
    /// The machine with its devices, in memory of its own; `None` where there is none for the books.
    pub(crate) fn place(
        mut kernel: Kernel,
        devices: Devices,
        capacity: &Capacity,
    ) -> Option<&'static mut Self> {
        let node = kernel.frames.nodes().next()?;
        let blocks = Blocks::place(&mut kernel.frames, capacity.blocks())?;
        let connections = Connections::place(&mut kernel.frames, capacity.leases)?;
        let place = kernel.frames.place(node, None)?;
        Some(place.insert(Self {
            kernel,
            devices,
            processes: Vec::new(),
            volumes: Vec::new(),
            blocks,
            connections,
            freed_early: 0,
        }))
    }

    /// Takes note that `process` runs on `core`.
    pub(crate) fn enter(&mut self, process: ProcessId, core: CoreId) {
        if let Some(seat) = self.kernel.seats.at(core) {
            seat.queues.pass().reassign(process);
        }
        // One process for each core, so there is room.
        let _full = self.processes.push((process, core)).is_err();
    }

    /// Takes note that nothing is left of `process`; its core.
    pub(crate) fn leave(&mut self, process: ProcessId) -> Option<CoreId> {
        let index = self.processes.iter().position(|(id, _)| *id == process)?;
        Some(self.processes.swap_remove(index).1)
    }

    /// The core of a process.
    pub(crate) fn core_of(&self, process: ProcessId) -> Option<CoreId> {
        let mut processes = self.processes.iter();
        let (_, core) = processes.find(|(id, _)| *id == process)?;
        Some(*core)
    }

    /// The process on a core.
    pub(crate) fn process_on(&self, core: CoreId) -> Option<ProcessId> {
        let mut processes = self.processes.iter();
        let (process, _) = processes.find(|(_, it)| *it == core)?;
        Some(*process)
    }

    /// Copies a frame of `device` to a process; whether it has a virtual queue there.
    pub(crate) fn deliver(&self, process: ProcessId, device: DeviceId, frame: &[u8]) -> bool {
        let seat = self
            .core_of(process)
            .and_then(|core| self.kernel.seats.get(core));
        let Some(seat) = seat else { return false };
        let is_delivered = seat.queues.pass().deliver(device, frame);
        if is_delivered {
            seat.core.post(EVENT_KERNEL);
        }
        is_delivered
    }

    /// Ends the process on `core`, which has broken a rule.
    pub(crate) fn violated(&mut self, core: CoreId, violation: Violation) {
        if let Some(seat) = self.kernel.seats.at(core) {
            seat.queues.pass().note_violation();
            seat.violation = Some(violation);
            seat.stop();
        }
    }

    fn volume(&self, id: VolumeId) -> Option<&Volume> {
        let mut volumes = self.volumes.iter();
        volumes.find(|(it, _)| *it == id).map(|(_, volume)| volume)
    }
}

impl Platform for Machine {
    type Device = Device;

    fn device(&mut self, device: DeviceId) -> Option<&mut Device> {
        self.devices
            .get_mut(device.index())
            .map(|device| &mut **device)
    }
}
