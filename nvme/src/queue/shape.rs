//! From a request to the words of its command.

use parakernel_core::{
    memory::{BlockArena, BlockBuffer, PAGE_SIZE},
    queue::{BlockOperation, BlockRequest},
};

use super::{DataPointer, QueueConfig};
use crate::{
    command::{DEALLOCATE, DatasetRange, FUA, IoWords, PSDT_SGL, opcode},
    error::RequestError,
    prp::{ChainedTables, MAX_TRANSFER},
};

const PAGE: u64 = PAGE_SIZE as u64;

/// What stays the same from command to command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// First word of every command, apart from opcode and id.
    head: u64,
    pub(super) queue: u16,
    block_shift: u8,
    /// Most blocks of one transfer, and of one command that writes zeroes.
    max_blocks: u32,
    max_zeroed: u64,
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

/// Most blocks of a transfer whose data pointer reaches `pointer_limit` bytes; `None` where that is not one.
pub(super) fn max_blocks(
    config: &QueueConfig<'_>,
    arena: &BlockArena<'_>,
    pointer_limit: u64,
) -> Option<u32> {
    let limit = config.max_transfer.unwrap_or(u64::MAX).min(pointer_limit);
    let bytes = limit.min(arena.buffer_len() as u64);
    let blocks = (bytes >> config.blocks.block_shift).min(MAX_BLOCKS);
    u32::try_from(blocks).ok().filter(|&blocks| blocks > 0)
}

impl Shape {
    pub(super) fn new(config: &QueueConfig<'_>, arena: &BlockArena<'_>) -> Option<Self> {
        let (psdt, one_page, pointer_limit) = match config.pointer {
            DataPointer::TwoPages => (0, PAGE, 2 * PAGE),
            DataPointer::Lists(_) | DataPointer::ByKernel => (0, PAGE, MAX_TRANSFER),
            DataPointer::Sgl => (PSDT_SGL, 0, u32::MAX.into()),
        };
        // The specification bounds transfers alone (MDTS, §5.15.2.1), but what checks a process's commands bounds both.
        let zeroed = match config.pointer {
            DataPointer::ByKernel => config.max_transfer.unwrap_or(u64::MAX).min(MAX_TRANSFER),
            DataPointer::TwoPages | DataPointer::Lists(_) | DataPointer::Sgl => u64::MAX,
        };
        Some(Self {
            head: u64::from(config.namespace.as_u32()) << 32 | psdt,
            queue: config.queue.as_u16(),
            block_shift: config.blocks.block_shift,
            max_blocks: max_blocks(config, arena, pointer_limit)?,
            max_zeroed: (zeroed >> config.blocks.block_shift).min(MAX_BLOCKS),
            one_page,
            base: arena.iova_base().as_u64(),
            buffer_len: arena.buffer_len() as u64,
            buffers: arena.count(),
            pointer: config.pointer,
        })
    }

    /// The words of a transfer of up to `max_blocks` blocks by a chained list.
    pub(super) fn chained(
        self,
        request: &BlockRequest,
        max_blocks: u32,
        tables: &ChainedTables,
    ) -> Result<IoWords, RequestError> {
        let (opcode, flags) = match request.operation {
            BlockOperation::Read => (opcode::READ, 0),
            BlockOperation::Write => (opcode::WRITE, 0),
            BlockOperation::WriteThrough => (opcode::WRITE, FUA),
            BlockOperation::Flush
            | BlockOperation::WriteZeroes
            | BlockOperation::Deallocate
            | _ => {
                return Err(RequestError::Operation);
            }
        };
        // As PRPs, whatever the queue uses otherwise.
        let shape = Self {
            head: self.head & !PSDT_SGL,
            max_blocks,
            one_page: PAGE,
            pointer: DataPointer::TwoPages,
            ..self
        };
        let words = shape.transfer(request, opcode, flags)?;
        let pages = (u64::from(request.blocks) << self.block_shift).div_ceil(PAGE);
        let page = (words.prp1 - self.base) / PAGE;
        let prp2 = match pages {
            0..=2 => words.prp2,
            _ => tables.list(page + 1, pages - 1),
        };
        Ok(IoWords { prp2, ..words })
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
            BlockOperation::WriteZeroes if (1..=self.max_zeroed).contains(&blocks) => Ok(words(
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
        match self.pointer {
            // Length in the low half, type 0 ("data block") in the top byte.
            DataPointer::Sgl => len,
            _ if len <= 2 * PAGE => prp1 + PAGE,
            DataPointer::Lists(tables) => tables.list((prp1 - self.base) / PAGE + 1),
            DataPointer::ByKernel | DataPointer::TwoPages => 0,
        }
    }
}
