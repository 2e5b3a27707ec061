//! A queue pair on the process's volume.
#![expect(
    unsafe_code,
    reason = "takes buffers back from a device that was reset"
)]

use parakernel_core::{
    abi::{BlockMap, LeaseRing, QueueMap, SharedDoorbell},
    access::AccessMode,
    control::{ClaimWish, Wake},
    device::{DeviceId, Epoch},
    handle::VolumeId,
    memory::{BlockArena, BlockBuffer},
    queue::{BlockCompletion, BlockQueue, BlockRequest},
    ring::RingSize,
};
use parakernel_nvme::{
    controller::QueueId,
    identify::NamespaceData,
    namespace::NamespaceId,
    queue::{CommandTable, DataPointer, Queue, QueueConfig, Rings},
};

use crate::{AskError, Lease, LeasedError, Process};

/// Entries of each ring of a pair.
pub const BLOCK_ENTRIES: usize = 64;

/// What a pair remembers of its commands.
pub type BlockMemory = CommandTable<BLOCK_ENTRIES>;

/// A queue pair in `Checked` mode.
type CheckedPair<'m> = Queue<'m, SharedDoorbell<'static>, BLOCK_ENTRIES>;

/// A queue pair that looks, each turn, whether its lease still is what it was made of.
#[derive(Debug)]
pub struct BlockPair<'m> {
    queue: CheckedPair<'m>,
    lease: Lease,
    /// The device's epoch when the pair was made.
    epoch: Epoch,
}

impl BlockPair<'_> {
    /// Gives up a pair whose device was reset, and hands the buffers of all that was in flight, whose outcome nobody knows, to
    /// `lost`. Where the device was not reset the buffers stay the device's.
    pub fn abandon(self, mut lost: impl FnMut(BlockBuffer)) {
        if self.lease.epoch() == self.epoch {
            return;
        }
        // SAFETY: the kernel says that the device was reset since the pair was made, and nothing was given to it after that: a
        // lease that is lost takes nothing, and one that was armed again begins with rings of its own.
        unsafe {
            self.queue.abandon(|_, buffer| {
                buffer.into_iter().for_each(&mut lost);
            });
        }
    }
}

impl BlockQueue for BlockPair<'_> {
    type Error = LeasedError<<CheckedPair<'static> as BlockQueue>::Error>;
    type Status = <CheckedPair<'static> as BlockQueue>::Status;

    fn submit(
        &mut self,
        requests: impl IntoIterator<Item = BlockRequest>,
    ) -> Result<usize, Self::Error> {
        self.lease.look()?;
        self.queue.submit(requests).map_err(LeasedError::Queue)
    }

    fn poll(
        &mut self,
        budget: usize,
        done: impl FnMut(BlockCompletion<Self::Status>),
    ) -> Result<usize, Self::Error> {
        self.lease.look()?;
        self.queue.poll(budget, done).map_err(LeasedError::Queue)
    }
}

impl Process {
    /// Claims a queue pair on a volume; with it comes what to know of the volume.
    ///
    /// # Errors
    ///
    /// As [`claim`](Self::claim).
    pub fn claim_block(
        &mut self,
        device: DeviceId,
        volume: VolumeId,
    ) -> Result<(Lease, BlockMap), AskError> {
        #[expect(clippy::cast_possible_truncation, reason = "64")]
        let size = RingSize::at_most(BLOCK_ENTRIES as u32).ok_or(AskError::Unexpected)?;
        let lease = self.claim(ClaimWish {
            device,
            at_least: AccessMode::Direct,
            first_ring: size,
            second_ring: size,
            wake: Wake::Interrupt,
            volume: Some(volume),
        })?;
        match lease.map().queue {
            QueueMap::Block(map) => Ok((lease, map)),
            QueueMap::Network(_) => Err(AskError::Unexpected),
        }
    }
}

/// The data half of a queue pair, which moves data in and out of `arena`; `None` where the kernel's map makes no sense.
#[must_use]
pub fn block_pair<'m>(
    lease: &Lease,
    map: &BlockMap,
    commands: &'m mut BlockMemory,
    arena: &BlockArena<'_>,
) -> Option<BlockPair<'m>> {
    let config = QueueConfig {
        queue: QueueId::new(map.queue)?,
        namespace: NamespaceId::new(map.namespace)?,
        blocks: NamespaceData {
            blocks: map.namespace_blocks,
            block_shift: map.block_shift,
            write_protected: false,
        },
        max_transfer: Some(map.max_transfer),
        pointer: DataPointer::ByKernel,
        ranges: None,
    };
    let rings = Rings::new(
        lease.submissions(LeaseRing::First)?,
        lease.completions(LeaseRing::First)?,
    )?;
    let doorbells = [LeaseRing::First, LeaseRing::Second].map(|ring| lease.doorbell(ring));
    let queue = Queue::new(config, rings, commands, arena, doorbells)?;
    Some(BlockPair {
        queue,
        lease: *lease,
        epoch: lease.epoch(),
    })
}
