//! What the boot loader hands over: `struct hvm_start_info` of Xen's x86/HVM direct boot ABI.
#![expect(unsafe_code, reason = "reads structures that lie in physical memory")]

use core::ops::Range;

use parakernel_core::address::PhysAddr;

use crate::arch::native;
use crate::arch::paging;
use crate::ranges::Ranges;

/// The boot map ends here.
const REACH: u64 = 1 << 32;
/// `XEN_HVM_START_MAGIC_VALUE`.
const MAGIC: u32 = 0x336e_c578;
/// Longest command line.
const COMMAND_LINE_MAX: u64 = 4096;
/// Most entries of the memory map that are looked at.
const MEMORY_MAP_MAX: u64 = 512;

/// The start information, with everything it points to.
#[derive(Debug)]
pub(crate) struct StartInfo {
    /// Where ACPI's root pointer is.
    pub(crate) rsdp: u64,
    /// Memory that can be used.
    pub(crate) memory: Ranges,
    /// That, and memory that holds firmware tables.
    pub(crate) mapped: Ranges,
    /// The command line.
    pub(crate) command_line: &'static str,
    /// Where the first module is: an archive of executables.
    pub(crate) archive: Range<u64>,
}

impl StartInfo {
    /// Reads the structure at `address` while the boot map is in place.
    pub(crate) fn read(address: PhysAddr) -> Option<Self> {
        let info = bytes(address.as_u64(), 56)?;
        if word(info, 0)? != MAGIC {
            return None;
        }
        let (modules, command_line) = (word(info, 12)?, double(info, 24)?);
        let archive = if modules == 0 {
            0..0
        } else {
            module(double(info, 16)?)?
        };
        // Version 1 added the memory map.
        let map = if word(info, 4)? >= 1 {
            (double(info, 40)?, word(info, 48)?)
        } else {
            (0, 0)
        };
        let (memory, mapped) = memory_map(map.0, u64::from(map.1))?;
        Some(Self {
            rsdp: double(info, 32)?,
            memory,
            mapped,
            command_line: text(command_line),
            archive,
        })
    }

    /// The archive's bytes.
    pub(crate) fn archive_bytes(&self) -> &'static [u8] {
        bytes(self.archive.start, self.archive.end - self.archive.start).unwrap_or(&[])
    }
}

/// `struct hvm_modlist_entry`: address and length.
fn module(list: u64) -> Option<Range<u64>> {
    let entry = bytes(list, 32)?;
    let (start, len) = (double(entry, 0)?, double(entry, 8)?);
    let end = start.checked_add(len)?;
    (end <= REACH).then_some(start..end)
}

/// Usable memory, and memory to be mapped, from `struct hvm_memmap_table_entry`s: address, size and type as in E820.
fn memory_map(at: u64, entries: u64) -> Option<(Ranges, Ranges)> {
    const USABLE: u32 = 1;
    const RESERVED: u32 = 2;
    const ACPI_TABLES: u32 = 3;
    const ACPI_STORAGE: u32 = 4;
    let table = bytes(at, entries.min(MEMORY_MAP_MAX) * 24)?;
    let (mut memory, mut mapped) = (Ranges::default(), Ranges::default());
    let mut usable_end = 0;
    for entry in table.chunks_exact(24) {
        let start = double(entry, 0)?;
        let range = start..start.saturating_add(double(entry, 8)?);
        match word(entry, 16)? {
            USABLE => {
                usable_end = range.end;
                memory.add(range.clone());
                mapped.add(range);
            }
            ACPI_TABLES | ACPI_STORAGE => mapped.add(range),
            // Firmware keeps its tables at the end of low memory and calls that reserved.
            RESERVED if start == usable_end && start < REACH => mapped.add(range),
            _ => {}
        }
    }
    Some((memory, mapped))
}

/// The text at `address`, up to its terminator; empty if there is none.
fn text(address: u64) -> &'static str {
    let len =
        (0..COMMAND_LINE_MAX).find(|at| bytes(address + at, 1).is_none_or(|byte| byte == [0]));
    let text = len.and_then(|len| bytes(address, len)).unwrap_or(&[]);
    core::str::from_utf8(text).unwrap_or("")
}

fn bytes(address: u64, len: u64) -> Option<&'static [u8]> {
    if address == 0 || address.checked_add(len)? > REACH {
        return None;
    }
    // SAFETY: the boot map covers the low 4 GiB, and nobody writes what the boot loader left there.
    Some(unsafe {
        core::slice::from_raw_parts(paging::physical(PhysAddr::new(address)), native(len))
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn double(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
