//! Putting a lease into service, and out of it: the kernel's end of its queue, and what the process is told of it.

use core::sync::atomic::Ordering;

use parakernel_core::abi::{BlockMap, LeaseMap, LeaseState, QueueMap, RingFormat, RingMap};
use parakernel_core::control::{LeaseSpec, Memory};
use parakernel_core::device::Epoch;
use parakernel_nvme::checked::CheckedMemory;

use super::{
    Machine,
    layout::{Layout, PartKind},
    wiring::window,
};
use crate::arch::native;
use crate::device::{Device, nvme::Setting};
use crate::queues::block::BlockQueue;
use crate::queues::{Lease, Queue};

impl Machine {
    /// Gives a device the memory of a queue that it is to make.
    pub(super) fn hand_over(
        &mut self,
        spec: &LeaseSpec,
        memory: Memory,
        layout: &Layout,
        vector: Option<u16>,
    ) -> Option<()> {
        let queue = spec.queue?;
        let submission = self.dma(memory, layout.part(PartKind::FirstHardware)?)?;
        let completion = self.dma(memory, layout.part(PartKind::FirstCompletion)?)?;
        match &mut **self.devices.get_mut(spec.device.index())? {
            Device::Nvme(device) => device.prepare(queue, [submission, completion], vector),
        }
        Some(())
    }

    /// Puts the kernel's end of a queue that works into the process's table, and writes its map; whether it could.
    pub(crate) fn activate(&mut self, spec: &LeaseSpec) -> bool {
        let lease = self.make_lease(spec);
        let seat = self
            .core_of(spec.process)
            .and_then(|core| self.kernel.seats.at(core));
        match (lease, seat) {
            (Some((lease, map)), Some(seat)) => {
                lease.status.set_map(map);
                lease
                    .status
                    .state
                    .store(LeaseState::Active as u32, Ordering::Release);
                seat.queues.pass().add(lease).is_ok()
            }
            _ => false,
        }
    }

    /// Tells a process that its lease is lost until it acknowledges `epoch`.
    pub(crate) fn tell_lost(&self, spec: &LeaseSpec, epoch: Epoch) {
        let status = self.connections.get(spec.lease).and_then(|connection| {
            let device = self.devices.get(spec.device.index())?;
            let layout = Layout::of(device, spec);
            let part = *layout.part(PartKind::Status)?;
            self.view(connection.memory, &part)?
                .view::<parakernel_core::abi::StatusPage>(0)
        });
        if let Some(status) = status {
            status.epoch.store(epoch.as_u32(), Ordering::Relaxed);
            status
                .state
                .store(LeaseState::Lost as u32, Ordering::Release);
        }
    }

    fn make_lease(&mut self, spec: &LeaseSpec) -> Option<(Lease, LeaseMap)> {
        let connection = *self.connections.get(spec.lease)?;
        let memory = connection.memory;
        let volume = *self.volume(spec.volume?)?;
        let layout = Layout::of(self.devices.get(spec.device.index())?, spec);
        let view = |kind| self.view(memory, layout.part(kind)?);
        let checked = CheckedMemory {
            shadow: view(PartKind::FirstShadow)?,
            submission: view(PartKind::FirstHardware)?,
            completion: view(PartKind::FirstCompletion)?,
            busy: self.marks(
                memory,
                layout.part(PartKind::Notes)?,
                native(spec.first_ring.entries().into()),
            )?,
        };
        let (submission, status) = (view(PartKind::Submission)?, view(PartKind::Status)?);
        let Device::Nvme(device) = &**self.devices.get(spec.device.index())?;
        let Setting { rules, map } = device.setting(spec.queue?, &volume)?;
        let pair = device.checked(spec.queue?, checked, rules)?;
        let lease = Lease {
            id: spec.lease,
            device: spec.device,
            submission: submission.view(0)?,
            status: status.view(0)?,
            modes: (spec.first_mode, spec.second_mode),
            has_vector: connection.has_vector(),
            queue: Queue::Block(BlockQueue::new(pair)),
        };
        Some((lease, block_map(spec, &layout, map)?))
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
            }
        }
    }
}

/// Where the process finds a storage queue pair.
fn block_map(spec: &LeaseSpec, layout: &Layout, block: BlockMap) -> Option<LeaseMap> {
    let place = |kind| {
        let part = layout.part(kind)?;
        Some((window(spec.lease) + part.offset as u64, part.len as u64))
    };
    let (submissions, submissions_len) = place(PartKind::FirstShadow)?;
    let (completions, completions_len) = place(PartKind::FirstCompletion)?;
    let ring = RingMap {
        mode: spec.first_mode,
        format: RingFormat::Nvme,
        entries: spec.first_ring,
        submissions,
        submissions_len,
        completions,
        completions_len,
        doorbell: 0,
    };
    Some(LeaseMap {
        submission_page: place(PartKind::Submission)?.0,
        rings: [ring; 2],
        queue: QueueMap::Block(block),
    })
}
