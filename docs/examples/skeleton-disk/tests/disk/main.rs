//! The driver on a model of its device.
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    clippy::std_instead_of_core,
    clippy::std_instead_of_alloc,
    reason = "helpers of a test have std and may panic as the test itself"
)]

mod checked;
mod direct;
mod model;
mod validate;

use std::task::Poll;

use parakernel_core::{
    access::AccessMode,
    address::NodeId,
    device::{DeviceId, Operation, QueueDevice, QueueIndex, QueueSpec, Vector},
    handle::LeaseId,
    memory::{BlockArena, BlockBuffer},
    queue::{BlockOperation, BlockQueue, BlockRequest, Lba},
    ring::RingSize,
    volume::{Identity, Volume},
};
use parakernel_mock_hw::{
    Memory, World,
    memory::{Lease, RequesterId},
};
use skeleton_disk::{
    device::{RingMemory, Shelf},
    error::{BringUpError, Status},
    ring::{Answer, Command},
};

use crate::model::{Defect, Model};

/// Entries of either ring.
const N: usize = 4;
const DISK: RequesterId = RequesterId(0x0200);
const QUEUE: QueueIndex = QueueIndex::new(0);
/// What is lent for the rings, and for data.
const RINGS: Lease = Lease(1);
const DATA: Lease = Lease(2);

/// A machine with a disk.
struct Machine {
    world: World,
    memory: Memory,
    model: Model,
}

impl Machine {
    fn new(seed: u64, defect: Defect) -> Self {
        let world = World::new(seed);
        let memory = world.memory(1 << 20);
        let model = Model::new(&world, &memory, DISK, defect);
        Self {
            world,
            memory,
            model,
        }
    }

    fn bring_up(&self) -> Result<Disk<'_>, BringUpError> {
        let block = || self.memory.lend(DISK, 4096, RINGS).unwrap();
        let (commands, answers, size) = (block(), block(), RingSize::new(4).unwrap());
        let (written, read) = (commands.memory(), answers.memory());
        let rings = RingMemory {
            commands,
            answers,
            size,
        };
        let control = Shelf::bring_up(self.model.clone(), rings, NodeId::new(0), &mut &self.world)?;
        Ok(Disk {
            machine: self,
            control,
            commands: written.view(0).unwrap(),
            answers: read.view(0).unwrap(),
        })
    }

    /// A disk whose queue is claimed.
    fn claimed(&self) -> Disk<'_> {
        let mut disk = self.bring_up().unwrap();
        disk.perform(Operation::Claim(spec()));
        disk
    }

    fn arena(&self) -> BlockArena<'_> {
        self.memory.lend_blocks(DISK, 4096, 8, DATA).unwrap()
    }
}

/// The disk as a kernel has it.
struct Disk<'m> {
    machine: &'m Machine,
    control: Shelf<'m, Model>,
    commands: &'m [Command; N],
    answers: &'m [Answer; N],
}

impl Disk<'_> {
    /// Begins an operation and polls it to its end.
    fn perform(&mut self, operation: Operation) {
        let world = &self.machine.world;
        assert_eq!(self.control.begin(operation, world.now()), Ok(()));
        for _ in 0..1000 {
            if let Poll::Ready(result) = self.control.poll(operation, world.now()) {
                return assert_eq!(result, Ok(()), "{operation:?}");
            }
            world.step();
        }
        panic!("{operation:?} does not end");
    }
}

fn spec() -> QueueSpec {
    let size = RingSize::new(4).unwrap();
    QueueSpec {
        lease: LeaseId::new(0, 0),
        queue: QUEUE,
        first_ring: size,
        second_ring: size,
        first_mode: AccessMode::Checked,
        second_mode: AccessMode::Checked,
        vector: Vector::None,
        volume: None,
    }
}

/// Blocks 8 to 47.
fn volume() -> Volume {
    Volume {
        device: DeviceId::new(0),
        namespace: 1,
        start: Lba::new(8),
        blocks: 40,
        owner: Identity(1),
    }
}

fn request(operation: BlockOperation, lba: u64, buffer: Option<BlockBuffer>) -> BlockRequest {
    BlockRequest {
        operation,
        lba: Lba::new(lba),
        blocks: u32::from(buffer.is_some()),
        buffer,
        user: lba,
    }
}

/// Does `operation` on blocks 8 to 39, as many at a time as there is room for, in whatever order the disk likes.
fn perform_all(
    queue: &mut impl BlockQueue<Status = Status>,
    arena: &BlockArena<'_>,
    buffers: &mut Vec<BlockBuffer>,
    operation: BlockOperation,
    mut turn: impl FnMut(),
) {
    let (mut lba, mut ended) = (8_u8, 0);
    while ended < 32 {
        let requests = std::iter::from_fn(|| {
            let mut buffer = (lba < 40).then(|| buffers.pop())??;
            let contents = u8::from(operation == BlockOperation::Write) * lba;
            arena.bytes_mut(&mut buffer)[..512].fill(contents);
            lba += 1;
            Some(request(operation, (lba - 1).into(), Some(buffer)))
        });
        assert!(queue.submit(requests).is_ok());
        turn();
        let polled = queue.poll(8, |done| {
            let buffer = done.buffer.unwrap();
            assert_eq!(done.status, Ok(()));
            let contents = &arena.bytes(&buffer)[..512];
            assert!(contents.iter().all(|byte| u64::from(*byte) == done.user));
            buffers.push(buffer);
        });
        ended += polled.unwrap();
    }
    assert_eq!((lba, ended), (40, 32));
}

/// Writes blocks, flushes, reads them back, and compares. `turn` is what kernel and device do meanwhile.
fn exchange(
    queue: &mut impl BlockQueue<Status = Status>,
    arena: &mut BlockArena<'_>,
    mut turn: impl FnMut(),
) {
    let mut buffers: Vec<_> = std::iter::from_fn(|| arena.take()).collect();
    for operation in [BlockOperation::Write, BlockOperation::Read] {
        perform_all(queue, arena, &mut buffers, operation, &mut turn);
        assert_eq!(buffers.len(), 8);
        let flush = request(BlockOperation::Flush, 0, None);
        assert_eq!(queue.submit([flush]).unwrap(), 1);
        for _ in 0..10 {
            turn();
        }
        let flushed = queue.poll(1, |done| {
            assert_eq!((done.status, done.buffer), (Ok(()), None));
        });
        assert_eq!(flushed.unwrap(), 1);
    }
}
