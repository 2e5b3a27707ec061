//! NVMe: one command from request to completion, and the kernel's part of it in `Checked` mode.
#![expect(
    unsafe_code,
    reason = "makes rings and buffers out of memory of its own"
)]
#![expect(
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "a phase whose constants do not fit together cannot run"
)]

use core::{
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use parakernel_core::{
    address::{BusAddress, Direction, Iova, NodeId},
    handle::ProcessId,
    memory::{
        BlockArena, BlockBuffer, Extent, ExtentSlot, PageLists, PageSlot, Region, RegionStorage,
        RegionTable, SharedMemory,
    },
    queue::{BlockOperation, BlockQueue, BlockRequest, Doorbell, Lba},
    ring::{Position, RingSize},
    volume::{Identity, Volume},
};
use parakernel_core::{device::DeviceId, handle::Slot};
use parakernel_nvme::{
    checked::{CheckedMemory, CheckedQueue, Claim},
    controller::QueueId,
    identify::NamespaceData,
    namespace::NamespaceId,
    prp::ListTables,
    queue::{CommandTable, DataPointer, Queue, QueueConfig, Rings},
    validate::{BusyMark, Rules},
};

use crate::Phase;

const ENTRIES: usize = 256;
const BUFFER: usize = 64 << 10;
/// Where the process finds its buffers.
const IOVA: u64 = 0x1000_0000;
/// Where the controller does.
const BUS: u64 = 0x7_0000_0000;
const NAMESPACE: NamespaceData = NamespaceData {
    blocks: 1 << 30,
    block_shift: 9,
    write_protected: false,
};

/// A tail that nobody looks at: an ordinary store, as a register write is to the one who counts instructions.
#[derive(Debug)]
struct Tail(&'static AtomicU64);

impl Doorbell for Tail {
    fn ring(&mut self, tail: Position) {
        self.0.store(u64::from(tail.as_u32()), Relaxed);
    }

    fn accepted(&self, rung: Position) -> Position {
        rung
    }
}

fn tail() -> Tail {
    Tail(Box::leak(Box::default()))
}

/// `words` zeroed words at the beginning of a page, for ever.
fn memory(words: usize) -> SharedMemory<'static> {
    #[repr(align(4096))]
    struct Page([AtomicU64; 512]);
    let pages: Vec<_> = (0..words.div_ceil(512))
        .map(|_| Page([const { AtomicU64::new(0) }; 512]))
        .collect();
    let pages: &'static [Page] = pages.leak();
    // The pages are looked at through their words.
    let _ = &pages[0].0;
    // SAFETY: atomics that live for ever.
    unsafe { SharedMemory::new(NonNull::from(pages).cast(), size_of_val(pages)) }
}

/// The controller: completes what was submitted, in order.
#[derive(Debug)]
struct Device {
    submissions: &'static [[AtomicU64; 8]],
    completions: &'static [[AtomicU64; 2]],
    done: usize,
}

impl Device {
    fn new(submissions: SharedMemory<'static>, completions: SharedMemory<'static>) -> Self {
        Self {
            submissions: submissions.slice(0, ENTRIES).expect("room for the ring"),
            completions: completions.slice(0, ENTRIES).expect("room for the ring"),
            done: 0,
        }
    }

    fn complete(&mut self, count: usize) {
        for _ in 0..count {
            let slot = self.done % ENTRIES;
            let id = self.submissions[slot][0].load(Relaxed) >> 16 & 0xffff;
            let phase = u64::from((self.done / ENTRIES).is_multiple_of(2));
            self.completions[slot][1].store(phase << 48 | id << 32 | 1 << 16, Relaxed);
            self.done += 1;
        }
    }
}

/// A process's queue pair: reads of `BYTES`, taken and given anew.
#[derive(Debug)]
pub(crate) struct Process<const BYTES: usize> {
    queue: Queue<'static, Tail, ENTRIES>,
    device: Device,
    buffers: heapless::Vec<BlockBuffer, ENTRIES>,
    next: u64,
    started: bool,
}

impl<const BYTES: usize> Process<BYTES> {
    fn submit(&mut self, batch: usize) -> usize {
        let Self {
            queue,
            buffers,
            next,
            ..
        } = self;
        let first = *next;
        *next += batch as u64;
        let spare = buffers.len() - batch;
        let requests = (first..)
            .zip(buffers.drain(spare..))
            .map(|(user, buffer)| BlockRequest {
                operation: BlockOperation::Read,
                lba: Lba::new((user * 8) & 0xffff),
                blocks: const { (BYTES / 512) as u32 },
                buffer: Some(buffer),
                user,
            });
        queue
            .submit(requests)
            .expect("requests that the queue can carry out")
    }
}

impl<const BYTES: usize> Phase for Process<BYTES> {
    fn new() -> Self {
        let (submissions, completions) = (memory(8 * ENTRIES), memory(2 * ENTRIES));
        let buffers = memory(ENTRIES * 4096 / 8);
        let base = NonNull::from(buffers.slice::<AtomicU64>(0, 1).expect("not empty")).cast();
        // The buffers' bytes are never touched, so that only their count has to be right.
        // SAFETY: no byte of the arena is accessed.
        let arena = unsafe { BlockArena::new(base, ENTRIES * BUFFER, Iova::new(IOVA), BUFFER) };
        let mut arena = arena.expect("aligned");
        let config = QueueConfig {
            queue: QueueId::new(1).expect("not 0"),
            namespace: NamespaceId::new(1).expect("not 0"),
            blocks: NAMESPACE,
            max_transfer: None,
            pointer: DataPointer::Lists(ListTables::at(0, 1 << 20)),
            ranges: None,
        };
        let rings = Rings::new(submissions, completions).expect("room for the rings");
        let commands = Box::leak(Box::new(CommandTable::new()));
        let queue = Queue::new(config, rings, commands, &arena, [tail(), tail()]);
        Self {
            queue: queue.expect("a buffer holds a block"),
            device: Device::new(submissions, completions),
            buffers: core::iter::from_fn(|| arena.take()).collect(),
            next: 0,
            started: false,
        }
    }

    fn prepare(&mut self, batch: usize) {
        if !self.started {
            self.started = true;
            self.submit(batch);
        }
        self.device.complete(batch);
    }

    fn measured(&mut self, batch: usize) -> usize {
        let Self { queue, buffers, .. } = self;
        let (mut users, mut failed) = (0, 0);
        let completed = queue.poll(batch, |done| {
            users ^= done.user;
            failed += usize::from(done.status.is_err());
            if let Some(buffer) = done.buffer {
                // There is room for all there are.
                let _ = buffers.push(buffer);
            }
        });
        core::hint::black_box((users, failed));
        self.submit(batch);
        completed.expect("a controller that keeps the rules")
    }
}

/// The kernel's part: sees completions, takes over commands for reads of `BYTES`.
#[derive(Debug)]
pub(crate) struct Kernel<const BYTES: usize> {
    queue: CheckedQueue<'static, Tail>,
    regions: RegionTable<'static>,
    shadow: &'static [[AtomicU64; 8]],
    device: Device,
    claim: Claim,
    started: bool,
}

/// A table with one region that holds all buffers, in one extent or in two.
fn regions(extents: u64) -> RegionTable<'static> {
    let len = (ENTRIES * BUFFER) as u64;
    let storage = RegionStorage {
        regions: Box::leak(Box::new([const { Slot::EMPTY }; 2])),
        extents: vec![ExtentSlot::EMPTY; 4].leak(),
        pages: vec![PageSlot::EMPTY; ENTRIES * BUFFER / 4096].leak(),
    };
    let table = RegionTable::new(ProcessId::new(1, 1), Iova::new(IOVA), storage, &[]);
    let mut table = table.expect("an aligned aperture");
    let region = Region {
        iova: Iova::new(IOVA),
        len,
        direction: Direction::Bidirectional,
        node: NodeId::new(0),
    };
    let part = |n: u64| Extent {
        bus: BusAddress::new(BUS + 2 * n * len),
        len: len / extents,
    };
    let parts: Vec<_> = (0..extents).map(part).collect();
    let id = table.insert(region, &parts).expect("room in the table");
    let lists = PageLists {
        even: BusAddress::new(0x10_0000),
        odd: BusAddress::new(0x20_0800),
    };
    table
        .attach_lists(id, lists)
        .expect("the region that was just made");
    table
}

impl<const BYTES: usize> Kernel<BYTES> {
    /// The process: writes reads into its shadow ring.
    fn publish(&mut self, batch: usize) {
        for _ in 0..batch {
            let n = u64::from(self.claim.tail.as_u32());
            let slot = n as usize % ENTRIES;
            let second = match BYTES {
                0..=4096 => 0,
                4097..=8192 => IOVA + slot as u64 * BUFFER as u64 + 4096,
                _ => 0,
            };
            let words = [
                1 << 32 | (slot as u64) << 16 | 2,
                0,
                0,
                IOVA + slot as u64 * BUFFER as u64,
                second,
                (n * 8) & 0xffff,
                BYTES as u64 / 512 - 1,
                0,
            ];
            for (cell, word) in self.shadow[slot].iter().zip(words) {
                cell.store(word, Relaxed);
            }
            self.claim.tail = self.claim.tail.after();
        }
    }

    fn service(&mut self) -> Position {
        let Self {
            queue,
            claim,
            regions,
            ..
        } = self;
        queue
            .service(*claim, regions, u32::MAX)
            .expect("commands that keep the rules")
    }
}

impl<const BYTES: usize> Phase for Kernel<BYTES> {
    fn new() -> Self {
        let [shadow, submission, completion] = [8, 8, 2].map(|words| memory(words * ENTRIES));
        let volume = Volume {
            device: DeviceId::new(0),
            namespace: 1,
            start: Lba::new(0),
            blocks: 1 << 20,
            owner: Identity(1),
        };
        let memory = CheckedMemory {
            shadow,
            submission,
            completion,
            busy: vec![BusyMark::FREE; ENTRIES].leak(),
        };
        let size = RingSize::new(ENTRIES as u32).expect("a power of two");
        let rules = Rules::new(&volume, &NAMESPACE, None).expect("a volume in the namespace");
        let queue = CheckedQueue::new(
            QueueId::new(1).expect("not 0"),
            size,
            memory,
            rules,
            [tail(), tail()],
        );
        Self {
            queue: queue.expect("room for the rings"),
            regions: regions(1),
            shadow: shadow.slice(0, ENTRIES).expect("room for the ring"),
            device: Device::new(submission, completion),
            claim: Claim {
                tail: Position::START,
                head: Position::START,
            },
            started: false,
        }
    }

    fn prepare(&mut self, batch: usize) {
        if !self.started {
            self.started = true;
            self.publish(batch);
            self.service();
        }
        self.device.complete(batch);
        self.claim.head = self.claim.head.advanced(batch as u32);
        self.publish(batch);
    }

    fn measured(&mut self, batch: usize) -> usize {
        let before = self.queue.in_flight() as usize;
        let accepted = self.service();
        core::hint::black_box(accepted);
        // As many commands came back as went out.
        before.min(batch)
    }
}
