//! The slow path: frames that belong to no rule of a card, and frames of virtual queues.
//!
//! Core 0 has a queue pair of its own on each card. What arrives there is led by name to the virtual queues of processes; what
//! processes send by virtual queues is checked, and leaves there, or goes to the process on this machine that it is for.
#![expect(
    unsafe_code,
    reason = "cuts the kernel's own memory into frame buffers"
)]

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use heapless::Vec;
use parakernel_core::address::{Iova, NodeId, PhysAddr};
use parakernel_core::device::DeviceId;
use parakernel_core::handle::ProcessId;
use parakernel_core::memory::{Arena, ArenaLayout, DmaBlock, Pool, Segment, SegmentList};
use parakernel_core::steering::Recipient;
use parakernel_core::virtual_queue::Turns;
use parakernel_numa::frames::FrameSize;

use crate::arch::{native, paging};
use crate::boot::Kernel;
use crate::control::Plane;
use crate::cores::EVENT_KERNEL;
use crate::device::Device;
use crate::device::net::NetDevice;
use crate::machine::{FRAMES, Machine, clear};
use crate::memory::{FRAME, Owner};

mod pair;

use pair::Pair;

/// Buffers of the kernel's pair: as many as its receive ring takes, and as many to send from.
const BUFFERS: u16 = 512;
/// Most frames that are moved in one turn, each way.
const BUDGET: usize = 64;
/// Buffers that processes' frames may not take: what arrives is replaced by them.
const RESERVE: usize = BUDGET;

/// The kernel's part of one card's traffic.
#[derive(Debug)]
pub(crate) struct SlowPath {
    device: DeviceId,
    /// `None` while the card is out of service.
    pair: Option<Pair>,
    blocks: Vec<DmaBlock<'static>, { pair::BLOCKS_MAX }>,
    pool: Pool<'static>,
    received: SegmentList<'static>,
    waiting: SegmentList<'static>,
    /// Whose frames are taken first.
    turns: Turns,
    /// Bytes of the longest frame that the card sends.
    max_frame: usize,
    /// How often the card had been reset when the pair was started; `None` where the pair is of no use any more.
    started_at: Option<u32>,
    /// Frames that were nobody's, and frames that found no room.
    unclaimed: u64,
    dropped: u64,
}

impl SlowPath {
    /// Starts the kernel's pair on `card`, which is device number `device`; `None` where that fails.
    pub(crate) fn start(
        kernel: &mut Kernel,
        card: &mut NetDevice,
        device: DeviceId,
    ) -> Option<Self> {
        let node = card.node();
        let mut blocks = Vec::new();
        for &len in Pair::blocks(card) {
            let block = kernel.frames.dma_block(node, len, Owner::KERNEL)?;
            blocks.push(block).ok()?;
        }
        let mut words = |len: usize| kernel.frames.place_slice(node, len, 0_u32);
        let (free, received, waiting) = (
            words(native(BUFFERS.into()))?,
            words(BUDGET)?,
            words(2 * BUDGET)?,
        );
        let pool = Pool::new(arena(kernel, node)?, free);
        let mut path = Self {
            device,
            pair: None,
            blocks,
            pool,
            received: SegmentList::new(received),
            waiting: SegmentList::new(waiting),
            turns: Turns::new(),
            max_frame: card.max_frame().into(),
            started_at: None,
            unclaimed: 0,
            dropped: 0,
        };
        path.restart(card).then_some(path)
    }

    /// Starts the kernel's pair on a card that has none, at first or after a reset; whether it works.
    pub(crate) fn restart(&mut self, card: &mut NetDevice) -> bool {
        if let Some(pair) = self.pair.take() {
            // SAFETY: this is only called again once the card's reset has ended (`Event::DeviceUp`).
            unsafe { pair.dismantle(&mut self.pool) };
        }
        self.blocks.iter().for_each(|block| clear(block.memory()));
        let Some(pair) = Pair::start(card, &mut self.pool, &self.blocks) else {
            return false;
        };
        self.pair = Some(pair);
        self.started_at = Some(card.resets());
        true
    }

    /// The card.
    pub(crate) const fn device(&self) -> DeviceId {
        self.device
    }

    /// The card, of the machine's devices.
    pub(crate) fn card<'a>(&self, machine: &'a Machine) -> Option<&'a NetDevice> {
        match &**machine.devices.get(self.device.index())? {
            Device::Net(card) => Some(card),
            Device::Nvme(_) => None,
        }
    }

    /// Whether the pair works, as far as is known: it was started, and the card has not been reset since.
    pub(crate) fn is_up(&self, machine: &Machine) -> bool {
        let resets = self.card(machine).map(NetDevice::resets);
        resets.is_some() && self.started_at == resets
    }

    /// For the self-test: fills the rings with what neither side may write there.
    pub(crate) fn break_rings(&self) {
        for block in &self.blocks {
            let words = block
                .memory()
                .slice::<AtomicU64>(0, block.len() / size_of::<AtomicU64>());
            let words = words.unwrap_or_default();
            words
                .iter()
                .for_each(|word| word.store(u64::MAX, Ordering::Relaxed));
        }
    }

    /// Frames that found no room on their way.
    pub(crate) const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Moves frames; whether there were any, or `None` where the card broke its protocol.
    ///
    /// From then on, or from when the card is reset for another reason, until [`restart`](Self::restart), nothing is moved:
    /// the card no longer knows the rings. What processes send waits meanwhile.
    pub(crate) fn turn(&mut self, plane: &mut Plane) -> Option<bool> {
        if !self.is_up(plane.platform()) {
            return Some(false);
        }
        let moved = self.move_frames(plane);
        if moved.is_none() {
            self.started_at = None;
        }
        moved
    }

    fn move_frames(&mut self, plane: &mut Plane) -> Option<bool> {
        let received = self.receive(plane)?;
        let sent = self.send(plane);
        self.flush()?;
        Some(received > 0 || sent > 0)
    }

    /// Leads frames from the wire to virtual queues.
    fn receive(&mut self, plane: &mut Plane) -> Option<usize> {
        let (pool, frames) = (&mut self.pool, &mut self.received);
        let count = match &mut self.pair {
            Some(pair) => pair.receive(pool, frames, BUDGET)?,
            None => 0,
        };
        let mut is_further_part = false;
        while let Some(segment) = self.received.pop() {
            // No buffer of the pair is so small that a frame would need two; one that claims to is nobody's.
            let is_whole = !is_further_part && !segment.has_more();
            is_further_part = segment.has_more();
            let bytes = self.pool.arena().bytes(&segment);
            let recipient = if is_whole {
                plane.grants().classify(self.device, bytes)
            } else {
                Recipient::Kernel
            };
            self.unclaimed += u64::from(!lead(plane, self.device, recipient, bytes, None));
            self.pool.put(segment);
        }
        Some(count)
    }

    /// Takes frames from virtual queues: no more than the card has room for, and of each process its share. The rest stays
    /// where it is, and its senders wait.
    fn send(&mut self, plane: &mut Plane) -> usize {
        let count = plane.platform().kernel.seats.len();
        self.waiting.compact();
        let buffers = self.pool.free().saturating_sub(RESERVE);
        let room = self.waiting.room().min(buffers);
        let mut turns = self.turns;
        let sent = turns.round(count, room, BUDGET, |index, most| {
            self.send_from(plane, index, most).unwrap_or(0)
        });
        self.turns = turns;
        sent
    }

    /// Takes up to `most` frames of the process that has seat `index`.
    fn send_from(&mut self, plane: &mut Plane, index: usize, most: usize) -> Option<usize> {
        let seat = plane.platform().kernel.seats.by_index(index)?;
        let (core, queues) = (seat.core, seat.queues);
        let process = plane.platform().process_on(core.id)?;
        let mut frames = 0;
        // One at a time: the frame may be for another process, whose gate must not be passed while this one's is.
        while frames < most {
            let mut segment = self.pool.take()?.with_len(self.max_frame);
            let buffer = self.pool.arena().bytes_mut(&mut segment);
            let taken = queues.pass().take_frame(self.device, buffer);
            if let Ok(Some(len)) = taken {
                frames += 1;
                self.pass_on(plane, segment.with_len(len), process);
                continue;
            }
            self.pool.put(segment);
            if let Err(violation) = taken {
                plane.platform_mut().violated(core.id, violation);
            }
            break;
        }
        if frames > 0 {
            core.post(EVENT_KERNEL);
        }
        Some(frames)
    }

    /// Leads a frame of a process to the processes that it is for, and to the wire.
    fn pass_on(&mut self, plane: &mut Plane, segment: Segment, from: ProcessId) {
        let frame = self.pool.arena().bytes(&segment);
        let recipient = plane.grants().classify(self.device, frame);
        lead(plane, self.device, recipient, frame, Some(from));
        let stays = matches!(recipient, Recipient::One(to) if to != from);
        if stays {
            self.pool.put(segment);
        } else if let Err(segment) = self.waiting.push(segment) {
            // Not while no more are taken than there is room for.
            self.dropped += 1;
            self.pool.put(segment);
        }
    }

    /// Gives waiting frames to the card, and takes back the buffers of those that are sent.
    fn flush(&mut self) -> Option<()> {
        let (pool, waiting) = (&mut self.pool, &mut self.waiting);
        match &mut self.pair {
            Some(pair) => pair.send(pool, waiting),
            None => Some(()),
        }
    }
}

/// Delivers a frame to whom it is for, but not to whom it is `from`; whether it is anybody's.
fn lead(
    plane: &mut Plane,
    device: DeviceId,
    recipient: Recipient,
    frame: &[u8],
    from: Option<ProcessId>,
) -> bool {
    match recipient {
        Recipient::One(process) if Some(process) == from => true,
        Recipient::One(process) => plane.platform().deliver(process, device, frame),
        Recipient::Everyone(vlan) => {
            let others = plane.grants().everyone(device, vlan);
            let mut is_delivered = false;
            for process in others.filter(|process| Some(*process) != from) {
                is_delivered |= plane.platform().deliver(process, device, frame);
            }
            is_delivered
        }
        Recipient::Kernel => false,
    }
}

/// Frame buffers of the kernel's own, which the card finds at their physical addresses.
fn arena(kernel: &mut Kernel, node: NodeId) -> Option<Arena<'static>> {
    let layout = ArenaLayout {
        count: BUFFERS,
        ..FRAMES
    };
    let frames = layout.bytes().div_ceil(native(FRAME));
    let first = kernel
        .frames
        .take(node, frames, FrameSize::Small, Owner::KERNEL)?;
    let base = NonNull::new(paging::physical(PhysAddr::new(first.as_u64())))?;
    // SAFETY: fresh, zeroed frames in a row, mapped with all memory for ever, for this arena alone. Its segments stay with the slow
    // path of one card, which has no other arena.
    unsafe { Arena::new(base, Iova::new(first.as_u64()), layout) }
}
