//! Submission queue entries and the commands that are written into them (NVMe 1.4 §4.2, §5, §6).

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parakernel_core::{address::BusAddress, memory::Shared, queue::Lba};

use crate::namespace::NamespaceId;

/// An entry of a submission queue: 64 bytes that the controller reads.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct SubmissionEntry([AtomicU64; 8]);

const _: () = assert!(size_of::<SubmissionEntry>() == 64);

#[expect(unsafe_code, reason = "lets shared memory be viewed as submissions")]
// SAFETY: atomics without padding.
unsafe impl Shared for SubmissionEntry {}

/// Index of a 64-bit word of a command.
pub(crate) mod word {
    /// Opcode, FUSE, PSDT, command id; namespace.
    pub(crate) const HEAD: usize = 0;
    /// PRP entry 1, or the address of an SGL descriptor.
    pub(crate) const PRP1: usize = 3;
    /// PRP entry 2, or length and type of an SGL descriptor.
    pub(crate) const PRP2: usize = 4;
    /// Dwords 10 and 11: the first block.
    pub(crate) const LBA: usize = 5;
    /// Dwords 12 and 13: number of blocks, flags, hints.
    pub(crate) const LENGTH: usize = 6;
}

impl SubmissionEntry {
    /// Writes a whole command.
    pub(crate) fn write(&self, command: &Command) {
        for (cell, value) in self.0.iter().zip(command.0) {
            cell.store(value.to_le(), Relaxed);
        }
    }

    /// Writes the words of an I/O command that are ever other than 0; the others stay as they are.
    ///
    /// They are 0 in a ring that was zeroed when it was handed out and is written through this function only.
    #[inline]
    pub(crate) fn write_io(&self, command: &IoWords) {
        self.0[word::HEAD].store(command.head.to_le(), Relaxed);
        self.0[word::PRP1].store(command.prp1.to_le(), Relaxed);
        self.0[word::PRP2].store(command.prp2.to_le(), Relaxed);
        self.0[word::LBA].store(command.lba.to_le(), Relaxed);
        self.0[word::LENGTH].store(command.length.to_le(), Relaxed);
    }

    /// Copies the command out: each word is read once.
    #[inline]
    pub(crate) fn read(&self) -> Command {
        Command(core::array::from_fn(|index| {
            u64::from_le(self.0[index].load(Relaxed))
        }))
    }
}

/// The words of a read, write, flush, zeroing or deallocation that are not always 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IoWords {
    pub(crate) head: u64,
    pub(crate) prp1: u64,
    pub(crate) prp2: u64,
    pub(crate) lba: u64,
    pub(crate) length: u64,
}

/// Opcodes of the NVM command set, NVMe 1.4 §6.
pub(crate) mod opcode {
    pub(crate) const FLUSH: u8 = 0x00;
    pub(crate) const WRITE: u8 = 0x01;
    pub(crate) const READ: u8 = 0x02;
    pub(crate) const WRITE_ZEROES: u8 = 0x08;
    pub(crate) const DATASET_MANAGEMENT: u8 = 0x09;
}

/// PSDT 01b in the first word: the data pointer is an SGL descriptor, NVMe 1.4 figure 104.
pub(crate) const PSDT_SGL: u64 = 1 << 14;
/// Force Unit Access, bit 30 of dword 12 (NVMe 1.4 §6.9, §6.15).
pub(crate) const FUA: u64 = 1 << 30;
/// Attribute Deallocate, bit 2 of dword 11 (NVMe 1.4 §6.7).
pub(crate) const DEALLOCATE: u64 = 1 << 34;

/// A command as a value: the copy of an entry, or one to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Command(pub(crate) [u64; 8]);

impl Command {
    /// The command with these eight little-endian words, as they would stand in the queue.
    #[must_use]
    pub const fn from_words(words: [u64; 8]) -> Self {
        Self(words)
    }

    /// The command's words.
    #[must_use]
    pub const fn words(&self) -> &[u64; 8] {
        &self.0
    }

    /// What the command does.
    #[inline]
    #[must_use]
    pub const fn opcode(&self) -> u8 {
        (self.0[word::HEAD] & 0xff) as u8
    }

    /// The id that its completion will carry.
    #[inline]
    #[must_use]
    pub const fn id(&self) -> u16 {
        (self.0[word::HEAD] >> 16 & 0xffff) as u16
    }

    const fn admin(opcode: u8) -> Self {
        Self([opcode as u64, 0, 0, 0, 0, 0, 0, 0])
    }

    pub(crate) const fn with_id(mut self, id: u16) -> Self {
        self.0[word::HEAD] = self.0[word::HEAD] & !(0xffff << 16) | (id as u64) << 16;
        self
    }

    const fn with_namespace(mut self, namespace: u32) -> Self {
        self.0[word::HEAD] |= (namespace as u64) << 32;
        self
    }

    const fn with_data(mut self, prp1: BusAddress) -> Self {
        self.0[word::PRP1] = prp1.as_u64();
        self
    }

    /// Sets dwords 10 and 11.
    const fn with_dwords(mut self, dword10: u32, dword11: u32) -> Self {
        self.0[word::LBA] = dword10 as u64 | (dword11 as u64) << 32;
        self
    }
}

/// What Identify returns (CNS), NVMe 1.4 §5.15.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Identify {
    Namespace(NamespaceId),
    Controller,
    /// Up to 1,024 namespaces whose ids are greater than this number.
    ActiveNamespaces(u32),
}

/// Which log page, NVMe 1.4 §5.14.1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum LogPage {
    /// The newest errors.
    Errors,
    /// Health of the whole device.
    Health,
    /// Ids of the namespaces that changed since it was last read.
    ChangedNamespaces,
    /// Another page by its number; its contents are the caller's to read.
    Other(u8),
}

impl LogPage {
    pub(crate) const fn id(self) -> u8 {
        match self {
            Self::Errors => 0x01,
            Self::Health => 0x02,
            Self::ChangedNamespaces => 0x04,
            Self::Other(id) => id,
        }
    }
}

/// A feature and its value, NVMe 1.4 §5.21.1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Feature {
    /// Room for this many I/O queues each way, less one.
    NumberOfQueues(u16),
    /// Which asynchronous events are reported.
    AsyncEvents(u32),
}

pub(crate) const fn identify(what: Identify, page: BusAddress) -> Command {
    let (cns, namespace) = match what {
        Identify::Namespace(id) => (0, id.as_u32()),
        Identify::Controller => (1, 0),
        Identify::ActiveNamespaces(after) => (2, after),
    };
    Command::admin(0x06)
        .with_namespace(namespace)
        .with_data(page)
        .with_dwords(cns, 0)
}

/// Reads `len` bytes, a multiple of 4 and at most 4 KiB, of a log page; of the whole controller.
pub(crate) const fn log_page(log: LogPage, page: BusAddress, len: u32) -> Command {
    let dwords = len / 4 - 1;
    Command::admin(0x02)
        .with_namespace(u32::MAX)
        .with_data(page)
        .with_dwords(log.id() as u32 | (dwords & 0xffff) << 16, dwords >> 16)
}

pub(crate) const fn set_feature(feature: Feature) -> Command {
    let (id, value) = match feature {
        Feature::NumberOfQueues(count) => (0x07, count as u32 | (count as u32) << 16),
        Feature::AsyncEvents(events) => (0x0b, events),
    };
    Command::admin(0x09).with_dwords(id, value)
}

/// Physically contiguous (PC), NVMe 1.4 §5.3 and §5.4.
const CONTIGUOUS: u32 = 1;
/// Interrupts enabled (IEN), NVMe 1.4 §5.3.
const INTERRUPTS: u32 = 1 << 1;

/// Create I/O Completion Queue of `entries`, at least 2; without interrupts unless a vector is given.
pub(crate) const fn create_completion_queue(
    queue: u16,
    memory: BusAddress,
    entries: u32,
    vector: Option<u16>,
) -> Command {
    let flags = match vector {
        Some(vector) => CONTIGUOUS | INTERRUPTS | (vector as u32) << 16,
        None => CONTIGUOUS,
    };
    Command::admin(0x05)
        .with_data(memory)
        .with_dwords(queue as u32 | (entries - 1) << 16, flags)
}

/// Create I/O Submission Queue of `entries`, at least 2, whose completions go to the completion queue of the same id.
pub(crate) const fn create_submission_queue(
    queue: u16,
    memory: BusAddress,
    entries: u32,
) -> Command {
    Command::admin(0x01).with_data(memory).with_dwords(
        queue as u32 | (entries - 1) << 16,
        CONTIGUOUS | (queue as u32) << 16,
    )
}

pub(crate) const fn delete_submission_queue(queue: u16) -> Command {
    Command::admin(0x00).with_dwords(queue as u32, 0)
}

pub(crate) const fn delete_completion_queue(queue: u16) -> Command {
    Command::admin(0x04).with_dwords(queue as u32, 0)
}

pub(crate) const fn abort(queue: u16, command: u16) -> Command {
    Command::admin(0x08).with_dwords(queue as u32 | (command as u32) << 16, 0)
}

pub(crate) const fn async_event_request() -> Command {
    Command::admin(0x0c)
}

/// Doorbell Buffer Config, NVMe 1.4 §5.7.
pub(crate) const fn doorbell_buffer(shadow: BusAddress, events: BusAddress) -> Command {
    let mut command = Command::admin(0x7c).with_data(shadow);
    command.0[word::PRP2] = events.as_u64();
    command
}

/// A range of a Dataset Management command, NVMe 1.4 §6.7.1.1: 16 bytes that the controller reads.
#[derive(Debug, Default)]
#[repr(C, align(16))]
pub struct DatasetRange {
    /// Context attributes; number of blocks.
    blocks: AtomicU64,
    lba: AtomicU64,
}

#[expect(unsafe_code, reason = "lets shared memory be viewed as ranges")]
// SAFETY: two atomics without padding.
unsafe impl Shared for DatasetRange {}

impl DatasetRange {
    pub(crate) fn write(&self, lba: Lba, blocks: u32) {
        self.blocks
            .store((u64::from(blocks) << 32).to_le(), Relaxed);
        self.lba.store(lba.as_u64().to_le(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The command's 16 dwords.
    fn dwords(command: Command) -> [u32; 16] {
        core::array::from_fn(|index| {
            (command.0[index / 2] >> (index % 2 * 32) & 0xffff_ffff) as u32
        })
    }

    #[test]
    fn admin_commands_have_the_specified_dwords() {
        let page = BusAddress::new(0x1_2345_6000);
        let create = dwords(create_completion_queue(5, page, 64, Some(9)).with_id(0xabcd));
        assert_eq!(create[0], 0xabcd_0005);
        assert_eq!((create[6], create[7]), (0x2345_6000, 1));
        assert_eq!((create[10], create[11]), (63 << 16 | 5, 9 << 16 | 3));
        let create = dwords(create_submission_queue(0xfffe, page, 65_536));
        assert_eq!(
            (create[0], create[10], create[11]),
            (1, 0xffff_fffe, 0xfffe_0001)
        );
        assert_eq!(dwords(create_completion_queue(1, page, 2, None))[11], 1);
        let list = dwords(identify(Identify::ActiveNamespaces(7), page));
        assert_eq!((list[0], list[1], list[10]), (6, 7, 2));
        let log = dwords(log_page(LogPage::Health, page, 512));
        assert_eq!((log[1], log[10], log[11]), (u32::MAX, 127 << 16 | 2, 0));
        assert_eq!(dwords(abort(3, 0x55))[10], 0x55 << 16 | 3);
        let queues = dwords(set_feature(Feature::NumberOfQueues(0xfffe)));
        assert_eq!((queues[0], queues[10], queues[11]), (9, 7, 0xfffe_fffe));
    }

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        let entry = SubmissionEntry::default();
        let command = Command(core::array::from_fn(|index| {
            0x0101_0101_0101_0101 * (index as u64 + 1)
        }));
        entry.write(&command);
        assert_eq!(entry.read(), command);
    }
}
