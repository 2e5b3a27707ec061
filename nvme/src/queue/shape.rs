//! From a request to the words of its command.

use parakernel_core::{
    memory::{BlockArena, BlockBuffer, PAGE_SIZE},
    queue::{BlockOperation, BlockRequest},
};

use super::{DataPointer, QueueConfig};
use crate::{
    command::{DEALLOCATE, DatasetRange, IoWords, PSDT_SGL, opcode},
    error::RequestError,
    identify::NamespaceData,
    prp::MAX_TRANSFER,
};

/// What stays the same from command to command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// First word of every command, apart from opcode and id.
    head: u64,
    pub(super) queue: u16,
    block_shift: u8,
    /// Most blocks of one transfer.
    max_blocks: u32,
    /// Bytes up to which PRP 2 is not needed.
    one_page: u64,
    base: u64,
    buffer_len: u64,
    buffers: u32,
    pointer: DataPointer,
}

/// Where the ranges of deallocations are: one for each command id.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ranges<'m> {
    pub(super) ranges: &'m [DatasetRange],
    pub(super) address: u64,
}

/// Most blocks that a command's length field can count: 16 bits, less one.
const MAX_BLOCKS: u64 = 1 << 16;

impl Shape {
    pub(super) fn new(config: &QueueConfig<'_>, arena: &BlockArena<'_>) -> Option<Self> {
        let NamespaceData { block_shift, .. } = config.blocks;
        let (psdt, one_page, pointer_limit) = match config.pointer {
            DataPointer::TwoPages => (0, PAGE_SIZE as u64, 2 * PAGE_SIZE as u64),
            DataPointer::Lists(_) | DataPointer::ByKernel => (0, PAGE_SIZE as u64, MAX_TRANSFER),
            DataPointer::Sgl => (PSDT_SGL, 0, u32::MAX.into()),
        };
        let buffer_len = arena.buffer_len() as u64;
        let bytes = buffer_len
            .min(pointer_limit)
            .min(config.max_transfer.unwrap_or(u64::MAX));
        let max_blocks = (bytes >> block_shift).min(MAX_BLOCKS);
        (max_blocks > 0).then_some(Self {
            head: u64::from(config.namespace.as_u32()) << 32 | psdt,
            queue: config.queue.as_u16(),
            block_shift,
            max_blocks: u32::try_from(max_blocks).ok()?,
            one_page,
            base: arena.iova_base().as_u64(),
            buffer_len,
            buffers: arena.count(),
            pointer: config.pointer,
        })
    }

    /// The words of a request that moves data.
    #[inline]
    pub(super) fn transfer(
        &self,
        request: &BlockRequest,
        opcode: u8,
        flags: u64,
    ) -> Result<IoWords, RequestError> {
        let less_one = request.blocks.wrapping_sub(1);
        if less_one >= self.max_blocks {
            return Err(RequestError::Blocks);
        }
        let index = request.buffer.as_ref().map_or(u32::MAX, BlockBuffer::index);
        if index >= self.buffers {
            return Err(RequestError::Buffer);
        }
        let prp1 = self.base + u64::from(index) * self.buffer_len;
        let len = u64::from(request.blocks) << self.block_shift;
        Ok(IoWords {
            head: self.head | u64::from(opcode),
            prp1,
            prp2: if len <= self.one_page {
                0
            } else {
                self.second(prp1, len)
            },
            lba: request.lba.as_u64(),
            length: u64::from(less_one) | flags,
        })
    }

    /// The words of a request that moves no data, under command id `id`.
    #[cold]
    pub(super) fn without_data(
        self,
        request: &BlockRequest,
        id: usize,
        ranges: Option<Ranges<'_>>,
    ) -> Result<IoWords, RequestError> {
        if request.buffer.is_some() {
            return Err(RequestError::Buffer);
        }
        let words = |opcode: u8, lba: u64, length: u64| IoWords {
            head: self.head & !PSDT_SGL | u64::from(opcode),
            prp1: 0,
            prp2: 0,
            lba,
            length,
        };
        let blocks = u64::from(request.blocks);
        match request.operation {
            BlockOperation::Flush => Ok(words(opcode::FLUSH, 0, 0)),
            BlockOperation::WriteZeroes if (1..=MAX_BLOCKS).contains(&blocks) => Ok(words(
                opcode::WRITE_ZEROES,
                request.lba.as_u64(),
                blocks - 1,
            )),
            BlockOperation::Deallocate if blocks > 0 => {
                // One range; the number of ranges counts less one.
                let Ranges { ranges, address } = ranges.ok_or(RequestError::Operation)?;
                let range = ranges.get(id).ok_or(RequestError::Operation)?;
                range.write(request.lba, request.blocks);
                Ok(IoWords {
                    prp1: address + (id * size_of::<DatasetRange>()) as u64,
                    ..words(opcode::DATASET_MANAGEMENT, DEALLOCATE, 0)
                })
            }
            BlockOperation::WriteZeroes | BlockOperation::Deallocate => Err(RequestError::Blocks),
            BlockOperation::Read | BlockOperation::Write | BlockOperation::WriteThrough | _ => {
                Err(RequestError::Operation)
            }
        }
    }

    /// What stands where PRP 2 does, for data on more than one page or an SGL. Buffers begin at a page.
    fn second(&self, prp1: u64, len: u64) -> u64 {
        const PAGE: u64 = PAGE_SIZE as u64;
        match self.pointer {
            // Length in the low half, type 0 ("data block") in the top byte.
            DataPointer::Sgl => len,
            _ if len <= 2 * PAGE => prp1 + PAGE,
            DataPointer::Lists(tables) => tables.list((prp1 - self.base) / PAGE + 1),
            DataPointer::ByKernel | DataPointer::TwoPages => 0,
        }
    }
}
