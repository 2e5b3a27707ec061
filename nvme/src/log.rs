//! Log pages: health, errors, changed namespaces (NVMe 1.4 §5.14.1).

use core::marker::PhantomData;

use bitflags::bitflags;
use parakernel_core::{memory::SharedMemory, queue::Lba};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout,
    little_endian::{U16, U32, U64, U128},
};

use crate::{identify::copy, namespace::NamespaceId, status::Status};

/// A log page as the controller wrote it, until the next command that uses the data page.
#[derive(Debug)]
pub struct Log<'a> {
    memory: SharedMemory<'a>,
    entries: u16,
    page: PhantomData<&'a mut ()>,
}

bitflags! {
    /// Critical Warning: what is wrong with the device, NVMe 1.4 figure 196.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Warnings: u8 {
        /// Spare capacity is below the threshold.
        const SPARE = 1 << 0;
        /// The temperature is outside its thresholds.
        const TEMPERATURE = 1 << 1;
        /// Media or internal errors made it unreliable.
        const RELIABILITY = 1 << 2;
        /// The medium can no longer be written.
        const READ_ONLY = 1 << 3;
        /// The volatile memory's backup has failed.
        const BACKUP = 1 << 4;
    }
}

/// The health of the device, NVMe 1.4 figure 196.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Health {
    /// What is wrong.
    pub warnings: Warnings,
    /// Composite temperature in kelvin.
    pub temperature: u16,
    /// Remaining spare capacity in percent.
    pub spare: u8,
    /// Spare capacity in percent below which a warning is raised.
    pub spare_threshold: u8,
    /// Estimated life used in percent; may exceed 100.
    pub used: u8,
    /// Data read, in thousands of 512 bytes.
    pub data_read: u128,
    /// Data written, in thousands of 512 bytes.
    pub data_written: u128,
    /// Unsafe shutdowns.
    pub unsafe_shutdowns: u128,
    /// Unrecovered data integrity errors.
    pub media_errors: u128,
    /// Entries ever made in the error log.
    pub error_entries: u128,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawHealth {
    warnings: u8,
    temperature: U16,
    spare: u8,
    spare_threshold: u8,
    used: u8,
    _reserved: [u8; 26],
    data_read: U128,
    data_written: U128,
    _commands_busy_cycles_hours: [U128; 5],
    unsafe_shutdowns: U128,
    media_errors: U128,
    error_entries: U128,
}

const _: () = assert!(size_of::<RawHealth>() == 192);

/// An entry of the error log, NVMe 1.4 figure 195.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ErrorEntry {
    /// Running number of the error.
    pub count: u64,
    /// The submission queue.
    pub queue: u16,
    /// The command.
    pub command: u16,
    /// How it ended.
    pub status: Option<Status>,
    /// The first block concerned.
    pub lba: Lba,
    /// The namespace, where one is concerned.
    pub namespace: Option<NamespaceId>,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawError {
    count: U64,
    queue: U16,
    command: U16,
    status: U16,
    _parameter: U16,
    lba: U64,
    namespace: U32,
    _rest: [u8; 36],
}

const _: () = assert!(size_of::<RawError>() == 64);

/// Most ids that the page lists, NVMe 1.4 §5.14.1.4.
const MAX_CHANGED: usize = 1024;

impl<'a> Log<'a> {
    /// The page in `memory`; an error log has at most `entries` entries.
    pub(crate) const fn new(memory: SharedMemory<'a>, entries: u16) -> Self {
        Self {
            memory,
            entries,
            page: PhantomData,
        }
    }

    /// The page read as [`LogPage::Health`](crate::command::LogPage::Health).
    #[must_use]
    pub fn health(&self) -> Option<Health> {
        let raw: RawHealth = copy(self.memory, 0)?;
        Some(Health {
            warnings: Warnings::from_bits_truncate(raw.warnings),
            temperature: raw.temperature.get(),
            spare: raw.spare,
            spare_threshold: raw.spare_threshold,
            used: raw.used,
            data_read: raw.data_read.get(),
            data_written: raw.data_written.get(),
            unsafe_shutdowns: raw.unsafe_shutdowns.get(),
            media_errors: raw.media_errors.get(),
            error_entries: raw.error_entries.get(),
        })
    }

    /// The page read as [`LogPage::Errors`](crate::command::LogPage::Errors), newest first.
    pub fn errors(&self) -> impl Iterator<Item = ErrorEntry> {
        let raw = (0..usize::from(self.entries))
            .map_while(|index| copy::<RawError>(self.memory, index * size_of::<RawError>()));
        raw.take_while(|raw| raw.count.get() != 0)
            .map(|raw| ErrorEntry {
                count: raw.count.get(),
                queue: raw.queue.get(),
                command: raw.command.get(),
                // Bit 0 may hold the phase tag of the completion.
                status: Status::new(raw.status.get() >> 1),
                lba: Lba::new(raw.lba.get()),
                namespace: NamespaceId::new(raw.namespace.get()),
            })
    }

    /// The page read as [`LogPage::ChangedNamespaces`](crate::command::LogPage::ChangedNamespaces).
    ///
    /// `None` in place of an id says that there were too many to list: any may have changed.
    pub fn changed_namespaces(&self) -> impl Iterator<Item = Option<NamespaceId>> {
        (0..MAX_CHANGED)
            .map_while(|index| copy::<U32>(self.memory, index * 4))
            .map(U32::get)
            .take_while(|&id| id != 0)
            .map(NamespaceId::new)
    }
}

#[cfg(test)]
mod tests {
    use core::ptr::NonNull;
    use core::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

    use super::*;

    /// A page that has these bytes at these offsets, which are the specification's.
    fn read<T>(bytes: &[(usize, &[u8])], entries: u16, then: impl FnOnce(Log<'_>) -> T) -> T {
        let page: [AtomicU64; 512] = [const { AtomicU64::new(0) }; 512];
        // SAFETY: atomics that outlive the view.
        #[expect(unsafe_code, reason = "views the page as shared memory")]
        let memory = unsafe { SharedMemory::new(NonNull::from(&page).cast(), size_of_val(&page)) };
        for (offset, bytes) in bytes {
            for (byte, cell) in bytes
                .iter()
                .zip(memory.slice::<AtomicU8>(*offset, bytes.len()).unwrap())
            {
                cell.store(*byte, Relaxed);
            }
        }
        then(Log::new(memory, entries))
    }

    #[test]
    fn health_has_its_fields_where_the_specification_says() {
        let bytes: [(usize, &[u8]); 7] = [
            (0, &[0b0000_0110]),
            (1, &[0x43, 0x01]),
            (3, &[97, 10, 3]),
            (32, &[5]),
            (48, &[0, 1]),
            (144, &[2]),
            (160, &[0, 0, 0, 0, 0, 0, 0, 0, 1]),
        ];
        let health = read(&bytes, 1, |log| log.health()).unwrap();
        assert_eq!(
            health.warnings,
            Warnings::TEMPERATURE | Warnings::RELIABILITY
        );
        assert_eq!(
            (
                health.temperature,
                health.spare,
                health.spare_threshold,
                health.used
            ),
            (0x143, 97, 10, 3)
        );
        assert_eq!((health.data_read, health.data_written), (5, 256));
        assert_eq!((health.unsafe_shutdowns, health.media_errors), (2, 1 << 64));
    }

    #[test]
    fn errors_end_at_the_first_entry_that_is_none() {
        let bytes: [(usize, &[u8]); 8] = [
            (0, &[7]),
            (8, &[1, 0, 0x34, 0x12]),
            // Unrecovered read error, with the phase tag in bit 0.
            (12, &[0x03, 0x05]),
            (16, &[99]),
            (24, &[1]),
            (64, &[6]),
            (64 + 10, &[0xff, 0xff]),
            (192, &[5]),
        ];
        let errors: Vec<_> = read(&bytes, 4, |log| log.errors().collect());
        assert_eq!(errors.len(), 2);
        assert_eq!(
            (errors[0].count, errors[0].queue, errors[0].command),
            (7, 1, 0x1234)
        );
        assert_eq!(errors[0].status.map(Status::type_and_code), Some(0x281));
        assert_eq!(
            (errors[0].lba, errors[0].namespace),
            (Lba::new(99), NamespaceId::new(1))
        );
        assert_eq!(
            (errors[1].command, errors[1].status, errors[1].namespace),
            (0xffff, None, None)
        );
        assert_eq!(read(&bytes, 1, |log| log.errors().count()), 1);
    }

    #[test]
    fn changed_namespaces_may_be_too_many_to_list() {
        let listed = read(&[(0, &[3]), (4, &[9])], 1, |log| {
            log.changed_namespaces().collect::<Vec<_>>()
        });
        assert_eq!(listed, [NamespaceId::new(3), NamespaceId::new(9)]);
        let all = read(&[(0, &[0xff; 4])], 1, |log| {
            log.changed_namespaces().collect::<Vec<_>>()
        });
        assert_eq!(all, [None]);
    }
}
