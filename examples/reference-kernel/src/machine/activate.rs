//! Putting a lease into service, and out of it: the kernel's end of its queue, and what the process is told of it.
#![expect(unsafe_code, reason = "has the one reference to a queue's marks made")]

use core::sync::atomic::Ordering;

use parakernel_core::abi::{LeaseMap, LeaseState, QueueMap, RingFormat, RingMap, StatusPage};
use parakernel_core::access::{AccessMode, Policy};
use parakernel_core::control::{LeaseSpec, Memory};
use parakernel_core::device::Epoch;
use parakernel_core::steering::NameGrant;
use parakernel_nvme::checked::CheckedMemory;

use super::{
    Machine,
    layout::{Layout, PartKind, Side},
    network,
    wiring::window,
};
use crate::arch::native;
use crate::device::{Device, nvme::Setting};
use crate::queues::block::BlockQueue;
use crate::queues::{Lease, Queue};

/// What the control plane knows and a queue needs.
pub(crate) struct Terms<'a> {
    /// What must hold.
    pub(crate) policy: Policy,
    /// What the process may call itself on the lease's device.
    pub(crate) grants: &'a [NameGrant],
    /// How often the lease's device was reset so far.
    pub(crate) epoch: Epoch,
}

impl Machine {
    /// Gives a device the memory of a queue that it is to make.
    pub(super) fn hand_over(
        &mut self,
        spec: &LeaseSpec,
        memory: Memory,
        layout: &Layout,
        vector: Option<u16>,
    ) -> Option<()> {
        let Some(queue) = spec.queue else {
            // A virtual queue is the kernel's alone.
            return Some(());
        };
        let side = Side::First;
        let device = self.devices.get(spec.device.index())?;
        if let Device::Net(_) = &**device {
            return self.prepare_network(spec, (memory, layout), (queue, vector));
        }
        let submission = self.dma(memory, layout.part(PartKind::Hardware(side))?)?;
        let completion = self.dma(memory, layout.part(PartKind::Read(side))?)?;
        if let Device::Nvme(device) = &mut **self.devices.get_mut(spec.device.index())? {
            device.prepare(queue, [submission, completion], vector);
        }
        Some(())
    }

    /// Puts the kernel's end of a queue that works into the process's table, and writes its map; whether it could.
    pub(crate) fn activate(&mut self, spec: &LeaseSpec, terms: &Terms<'_>) -> bool {
        let made = self.make_lease(spec, terms);
        let seat = self
            .core_of(spec.process)
            .and_then(|core| self.kernel.seats.at(core));
        match (made, seat) {
            (Some((lease, map)), Some(seat)) => {
                lease.status.set_map(map);
                // Of the rings that a reset ended.
                for accepted in &lease.status.accepted {
                    accepted.store(0, Ordering::Relaxed);
                }
                let (state, epoch) = (&lease.status.state, terms.epoch.as_u32());
                lease.status.epoch.store(epoch, Ordering::Relaxed);
                state.store(LeaseState::Active as u32, Ordering::Release);
                seat.queues.pass().add(lease)
            }
            _ => false,
        }
    }

    /// Tells a process what became of a lease, and, where it is lost, the epoch to acknowledge.
    pub(crate) fn tell(&self, spec: &LeaseSpec, state: LeaseState, epoch: Option<Epoch>) {
        let status = self.connections.get(spec.lease).and_then(|connection| {
            let layout = Layout::of(self.devices.get(spec.device.index())?, spec);
            let part = layout.part(PartKind::Status)?;
            self.view(connection.memory, part)?.view::<StatusPage>(0)
        });
        if let Some(status) = status {
            if let Some(epoch) = epoch {
                status.epoch.store(epoch.as_u32(), Ordering::Relaxed);
            }
            status.state.store(state as u32, Ordering::Release);
        }
    }

    fn make_lease(&mut self, spec: &LeaseSpec, terms: &Terms<'_>) -> Option<(Lease, LeaseMap)> {
        let connection = *self.connections.get(spec.lease)?;
        let memory = connection.memory;
        let layout = Layout::of(self.devices.get(spec.device.index())?, spec);
        let (queue, queue_map) = match &**self.devices.get(spec.device.index())? {
            Device::Nvme(_) => self.make_block(spec, memory, &layout)?,
            Device::Net(card) => network::make(self, card, spec, (memory, &layout), terms)?,
        };
        let view = |kind| self.view(memory, layout.part(kind)?);
        let lease = Lease {
            id: spec.lease,
            device: spec.device,
            submission: view(PartKind::Submission)?.view(0)?,
            status: view(PartKind::Status)?.view(0)?,
            modes: (spec.first_mode, spec.second_mode),
            has_vector: connection.has_vector(),
            queue,
        };
        let map = self.map(spec, &layout, queue_map)?;
        Some((lease, map))
    }

    fn make_block(
        &self,
        spec: &LeaseSpec,
        memory: Memory,
        layout: &Layout,
    ) -> Option<(Queue, QueueMap)> {
        let Device::Nvme(device) = &**self.devices.get(spec.device.index())? else {
            return None;
        };
        let side = Side::First;
        let view = |kind| self.view(memory, layout.part(kind)?);
        let entries = native(spec.first_ring.entries().into());
        // SAFETY: a lease is made once after each time that its memory was connected and cleared. The end made before, if its device was
        // reset, is gone with the reset; this one goes when the queue has stopped, or with the next, and the memory only then.
        let busy = unsafe { self.marks(memory, layout.part(PartKind::Marks)?, entries) };
        let checked = CheckedMemory {
            shadow: view(PartKind::Written(side))?,
            submission: view(PartKind::Hardware(side))?,
            completion: view(PartKind::Read(side))?,
            busy: busy?,
        };
        let volume = self.volume(spec.volume?)?;
        let Setting { rules, map } = device.setting(spec.queue?, volume)?;
        let pair = device.checked(spec.queue?, checked, rules)?;
        let queue = Queue::Block(BlockQueue::new(pair));
        Some((queue, QueueMap::Block(map)))
    }

    /// Takes the kernel's end of a queue out of the process's table, and gives it to the device, which lets it finish.
    pub(super) fn fence(&mut self, spec: &LeaseSpec) {
        let seat = self
            .core_of(spec.process)
            .and_then(|core| self.kernel.seats.at(core));
        let lease = seat.and_then(|seat| seat.queues.pass().take(spec.lease));
        let device = self.devices.get_mut(spec.device.index());
        if let (Some(lease), Some(device), Some(queue)) = (lease, device, spec.queue) {
            match (&mut **device, lease.queue) {
                (Device::Nvme(device), Queue::Block(pair)) => device.take_over(queue, pair),
                (Device::Net(card), Queue::Network(pair)) => card.take_over(queue, pair),
                // A virtual queue has nothing in flight.
                (Device::Nvme(_) | Device::Net(_), _) => {}
            }
        }
    }

    /// Where the process finds the parts of a lease.
    fn map(&self, spec: &LeaseSpec, layout: &Layout, queue: QueueMap) -> Option<LeaseMap> {
        let place = |kind| {
            let part = layout.part(kind);
            part.map_or((0, 0), |part| {
                (window(spec.lease) + part.offset as u64, part.len as u64)
            })
        };
        let device = &**self.devices.get(spec.device.index())?;
        let ring = |side, mode, entries, doorbell| {
            let (submissions, submissions_len) = place(PartKind::Written(side));
            let (completions, completions_len) = place(PartKind::Read(side));
            RingMap {
                mode,
                format: format(device, mode),
                entries,
                submissions,
                submissions_len,
                completions,
                completions_len,
                doorbell,
            }
        };
        let doorbell = self.doorbell_of(spec, layout).unwrap_or(0);
        let first = ring(Side::First, spec.first_mode, spec.first_ring, doorbell);
        let second = match queue {
            QueueMap::Block(_) => first,
            QueueMap::Network(_) => ring(Side::Second, spec.second_mode, spec.second_ring, 0),
        };
        Some(LeaseMap {
            submission_page: place(PartKind::Submission).0,
            rings: [first, second],
            queue,
        })
    }
}

/// The layout of a ring on `device`.
const fn format(device: &Device, mode: AccessMode) -> RingFormat {
    match (device, mode) {
        (_, AccessMode::Virtual) => RingFormat::Virtual,
        (Device::Nvme(_), _) => RingFormat::Nvme,
        (Device::Net(card), _) => card.format(),
    }
}
