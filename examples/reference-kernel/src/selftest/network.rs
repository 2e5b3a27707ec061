//! Tests of the slow path: what a process's virtual queues lose, and how often a broken card is reset.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::time::Duration;

use heapless::Vec;
use parakernel_core::abi::{LeaseRing, StatusPage, SubmissionPage};
use parakernel_core::access::AccessMode;
use parakernel_core::address::NodeId;
use parakernel_core::device::DeviceId;
use parakernel_core::handle::LeaseId;
use parakernel_core::memory::SharedMemory;
use parakernel_core::ring::RingSize;
use parakernel_core::steering::{Mac, NameGrant, PortRange};
use parakernel_core::validate::Violation;
use parakernel_core::virtual_queue::{ReceivePort, TransmitPort, VirtualLayout};

use super::LIMIT;
use crate::boot::Kernel;
use crate::control::Control;
use crate::memory::Owner;
use crate::queues::software::VirtualQueue;
use crate::queues::{Lease, Queue, Queues};
use crate::time;

/// Bytes of the longest frame of the card, and of the slots that virtual queues for it have.
const MAX_FRAME: usize = 1514;
const SLOT: u32 = 1520;
/// Slots of a queue, and bytes of the lengths before them.
const SLOTS: usize = 4;
const LENGTHS: usize = 64;
/// How long a card is watched after it works again.
const AFTERWARDS: Duration = Duration::from_millis(200);

const CARD: DeviceId = DeviceId::new(0);
const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);

/// Frames of two leases on one card all arrive, and one that is longer than the card sends is refused.
pub(super) fn virtual_queues(kernel: &mut Kernel) -> bool {
    check_virtual_queues(kernel).unwrap_or(false)
}

fn check_virtual_queues(kernel: &mut Kernel) -> Option<bool> {
    let node = kernel.frames.nodes().next()?;
    let queues = Queues::place(&mut kernel.frames, node)?;
    let has_room = queues.pass().make_room(&mut kernel.frames, node, 2);
    has_room.then_some(())?;
    let first = Process::with_lease(kernel, node, &mut queues.pass(), 1)?;
    let second = Process::with_lease(kernel, node, &mut queues.pass(), 2)?;
    first.send(&[60, 61])?;
    second.send(&[62, 63])?;
    let mut buffer = [0; MAX_FRAME];
    let mut take = || queues.pass().take_frame(CARD, &mut buffer);
    let lengths = [take(), take(), take(), take(), take()];
    let all = [
        Ok(Some(60)),
        Ok(Some(61)),
        Ok(Some(62)),
        Ok(Some(63)),
        Ok(None),
    ];
    first.send(&[60, 61, u32::try_from(MAX_FRAME).ok()?])?;
    let longest = take();
    second.send(&[62, 63, SLOT])?;
    let too_long = take();
    Some(
        lengths == all
            && longest == Ok(Some(MAX_FRAME))
            && too_long == Err(Violation::Length { len: SLOT.into() }),
    )
}

/// A process's side of a virtual queue: what it sends from.
struct Process {
    memory: SharedMemory<'static>,
    submission: &'static SubmissionPage,
}

impl Process {
    /// Puts a lease into `queues`, and is the process that has it.
    fn with_lease(
        kernel: &mut Kernel,
        node: NodeId,
        queues: &mut Queues,
        number: u64,
    ) -> Option<Self> {
        let layout = VirtualLayout {
            entries: RingSize::new(u32::try_from(SLOTS).ok()?)?,
            slot_bytes: SLOT,
        };
        let mut memory = || kernel.frames.dma_block(node, layout.bytes(), Owner::KERNEL);
        let (received, sent) = (memory()?.memory(), memory()?.memory());
        let submission: &SubmissionPage = kernel.frames.place(node, SubmissionPage::default())?;
        let status: &StatusPage = kernel.frames.place(node, StatusPage::default())?;
        let names = NameGrant {
            mac: MAC,
            vlan: None,
            ipv4: None,
            ipv6: None,
            ports: PortRange::ALL,
        };
        let queue = VirtualQueue {
            receive: ReceivePort::new(received, layout)?,
            transmit: TransmitPort::new(sent, layout)?,
            grants: Vec::from_slice(&[names]).ok()?,
            is_open: true,
            has_news: false,
            received: 0,
            received_bytes: 0,
            sent: 0,
            sent_bytes: 0,
            dropped: 0,
        };
        let has_room = queues.add(Lease {
            id: LeaseId::from_bits(number),
            device: CARD,
            submission,
            status,
            modes: (AccessMode::Virtual, AccessMode::Virtual),
            has_vector: false,
            queue: Queue::Virtual(queue),
        });
        has_room.then_some(Self {
            memory: sent,
            submission,
        })
    }

    /// Publishes frames of these lengths in the slots from the first on.
    fn send(&self, lengths: &[u32]) -> Option<()> {
        let [s0, s1, s2, s3, s4, s5] = MAC.0;
        // An ARP probe: anybody may ask whether an address is free.
        let head = [
            [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, s0, s1],
            [s2, s3, s4, s5, 0x08, 0x06, 0x00, 0x01],
            [0x08, 0x00, 6, 4, 0x00, 0x01, s0, s1],
            [s2, s3, s4, s5, 0, 0, 0, 0],
        ];
        for (slot, len) in lengths.iter().enumerate() {
            self.memory
                .view::<AtomicU32>(4 * slot)?
                .store(*len, Ordering::Relaxed);
            let start = LENGTHS + slot * usize::try_from(SLOT).ok()?;
            for (index, word) in head.iter().enumerate() {
                let place = self.memory.view::<AtomicU64>(start + 8 * index)?;
                place.store(u64::from_ne_bytes(*word), Ordering::Relaxed);
            }
        }
        let tail = u32::try_from(lengths.len()).ok()?;
        self.submission.tails[LeaseRing::Second as usize].store(tail, Ordering::Release);
        Some(())
    }
}

/// A card whose ring with the kernel is broken is reset, once, and works again; `None` where there is no card.
pub(super) fn reset(control: &mut Control) -> Option<bool> {
    let before = control.resets()?;
    control.break_slow_paths();
    let is_back = |control: &mut Control| {
        let _turn = control.turn();
        control.resets() == Some(before + 1) && control.serves_slow_paths()
    };
    let in_time = time::spin_until(LIMIT, || is_back(control)).is_ok();
    // Once may be too early to tell.
    let _elapsed = time::spin_until(AFTERWARDS, || {
        let _turn = control.turn();
        false
    });
    Some(in_time && control.resets() == Some(before + 1) && control.serves_slow_paths())
}
