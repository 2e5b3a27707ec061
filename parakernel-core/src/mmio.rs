//! Device registers: one small trait, its implementation over mapped memory, and the table macro.
#![expect(unsafe_code, reason = "reads and writes mapped device registers")]

use core::ptr::NonNull;

use volatile_register::RW;

mod table;

pub use table::{Address, Field, Readable, Register, Window, Writable};

/// Width of a register access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Width {
    /// 8 bits.
    U8,
    /// 16 bits.
    U16,
    /// 32 bits.
    U32,
    /// 64 bits.
    U64,
}

impl Width {
    /// The width in bytes.
    #[inline]
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::U16 => 2,
            Self::U32 => 4,
            Self::U64 => 8,
        }
    }

    /// The width of `T`, an integer.
    ///
    /// # Panics
    ///
    /// Where no access is as wide as `T`. Register tables ask in constants, so the compiler finds out.
    #[must_use]
    pub const fn of<T>() -> Self {
        let bytes = size_of::<T>();
        assert!(
            bytes.is_power_of_two() && bytes <= 8,
            "no access is that wide"
        );
        match bytes {
            1 => Self::U8,
            2 => Self::U16,
            4 => Self::U32,
            _ => Self::U64,
        }
    }
}

/// A device's register file: a mapped BAR, a part of one, or a model of it.
///
/// Values are in the CPU's byte order. Offsets are in bytes and naturally aligned. An access outside the file, or one
/// that is not aligned, reads as all ones and writes nothing, as on a bus where nobody answers; drivers check the
/// file's [`len`](Registers::len) once, at bring-up.
///
/// Both take `&self`: a device's registers are shared with the device itself, and a driver that must exclude others
/// owns its register file.
pub trait Registers {
    /// Reads `width` bits at byte `offset`; upper bits are zero.
    fn read(&self, offset: usize, width: Width) -> u64;

    /// Writes the low `width` bits of `value` at byte `offset`.
    fn write(&self, offset: usize, width: Width, value: u64);

    /// Length of the register file in bytes.
    fn len(&self) -> usize;

    /// Whether the register file has no register at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads 8 bits at byte `offset`.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the read is that wide")]
    fn read8(&self, offset: usize) -> u8 {
        self.read(offset, Width::U8) as u8
    }

    /// Reads 16 bits at byte `offset`.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the read is that wide")]
    fn read16(&self, offset: usize) -> u16 {
        self.read(offset, Width::U16) as u16
    }

    /// Reads 32 bits at byte `offset`.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the read is that wide")]
    fn read32(&self, offset: usize) -> u32 {
        self.read(offset, Width::U32) as u32
    }

    /// Reads 64 bits at byte `offset`, in one access.
    #[inline]
    fn read64(&self, offset: usize) -> u64 {
        self.read(offset, Width::U64)
    }

    /// Writes 8 bits at byte `offset`.
    #[inline]
    fn write8(&self, offset: usize, value: u8) {
        self.write(offset, Width::U8, u64::from(value));
    }

    /// Writes 16 bits at byte `offset`.
    #[inline]
    fn write16(&self, offset: usize, value: u16) {
        self.write(offset, Width::U16, u64::from(value));
    }

    /// Writes 32 bits at byte `offset`.
    #[inline]
    fn write32(&self, offset: usize, value: u32) {
        self.write(offset, Width::U32, u64::from(value));
    }

    /// Writes 64 bits at byte `offset`, in one access.
    #[inline]
    fn write64(&self, offset: usize, value: u64) {
        self.write(offset, Width::U64, value);
    }
}

impl<R: Registers + ?Sized> Registers for &R {
    #[inline]
    fn read(&self, offset: usize, width: Width) -> u64 {
        (**self).read(offset, width)
    }

    #[inline]
    fn write(&self, offset: usize, width: Width, value: u64) {
        (**self).write(offset, width, value);
    }

    fn len(&self) -> usize {
        (**self).len()
    }
}

/// Registers in mapped device memory.
///
/// # Invariants
///
/// `base` is aligned to 8 bytes, and `base..base + len` stays mapped as device memory as long as this value lives.
#[derive(Debug)]
pub struct MappedRegisters {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to the address space, not to a thread; every access is a single volatile one.
unsafe impl Send for MappedRegisters {}
// SAFETY: as above; concurrent accesses are ordered by the device, which is what the device expects.
unsafe impl Sync for MappedRegisters {}

impl MappedRegisters {
    /// The `len` bytes of registers mapped at `base`.
    ///
    /// # Safety
    ///
    /// `base` must be aligned to 8 bytes, and `base..base + len` must stay mapped as device memory, readable and
    /// writable, while the value lives. What a write makes the device do is the driver's part to answer for.
    #[must_use]
    pub const unsafe fn new(base: NonNull<u8>, len: usize) -> Self {
        Self { base, len }
    }

    /// The part of `len` bytes at byte `offset`, or `None` where it does not lie inside or is not aligned to 8 bytes.
    ///
    /// The part keeps no hold on the whole: it is as valid as the mapping is.
    #[must_use]
    pub fn part(&self, offset: usize, len: usize) -> Option<Self> {
        let end = offset.checked_add(len)?;
        if end > self.len || !offset.is_multiple_of(8) {
            return None;
        }
        // SAFETY: `offset` is at most `self.len`, so the result lies in the mapping or one past its end.
        let base = unsafe { self.base.add(offset) };
        Some(Self { base, len })
    }

    /// The 32-bit register at byte `offset`, found once, or `None` where it lies outside or is not aligned.
    ///
    /// As [`part`](Self::part), it is as valid as the mapping is.
    #[must_use]
    pub fn register(&self, offset: usize) -> Option<MappedRegister> {
        let cell = self.cell::<u32>(offset)?;
        Some(MappedRegister(NonNull::from(cell)))
    }

    /// The register cell at `offset`, or `None` where it lies outside or is not aligned.
    #[inline]
    fn cell<T: Copy>(&self, offset: usize) -> Option<&RW<T>> {
        let size = size_of::<T>();
        if offset >= self.len || self.len - offset < size || !offset.is_multiple_of(size) {
            return None;
        }
        // SAFETY: `offset` lies inside the mapping.
        let cell = unsafe { self.base.add(offset) }.cast::<RW<T>>();
        // SAFETY: mapped and aligned (checked above and by the invariants); `RW` is a cell, so the device may change it.
        Some(unsafe { cell.as_ref() })
    }
}

/// One 32-bit register in mapped device memory: for doorbells, which are written again and again.
///
/// # Invariants
///
/// It stays mapped as device memory as long as this value lives.
#[derive(Debug)]
pub struct MappedRegister(NonNull<RW<u32>>);

// SAFETY: as for `MappedRegisters`.
unsafe impl Send for MappedRegister {}
// SAFETY: as for `MappedRegisters`.
unsafe impl Sync for MappedRegister {}

impl MappedRegister {
    /// Writes the register.
    #[inline]
    pub fn write(&self, value: u32) {
        // SAFETY: mapped and aligned, by the invariant; `RW` is a cell, so the device may change it.
        let cell = unsafe { self.0.as_ref() };
        // SAFETY: a mapped register; the caller of `MappedRegisters::new` answers for what the device does.
        unsafe { cell.write(value) }
    }
}

/// Reads one cell as a 64-bit number, all ones where there is none.
macro_rules! read_cell {
    ($self:ident, $offset:ident, $type:ty) => {
        $self
            .cell::<$type>($offset)
            .map_or(<$type>::MAX, RW::read)
            .into()
    };
}

/// Writes the low bits of a 64-bit number to one cell, nowhere where there is none.
macro_rules! write_cell {
    ($self:ident, $offset:ident, $type:ty, $value:ident) => {
        if let Some(cell) = $self.cell::<$type>($offset) {
            // SAFETY: a mapped register; the caller of `new` answers for what the device does.
            unsafe { cell.write($value as $type) }
        }
    };
}

impl Registers for MappedRegisters {
    #[inline]
    fn read(&self, offset: usize, width: Width) -> u64 {
        match width {
            Width::U8 => read_cell!(self, offset, u8),
            Width::U16 => read_cell!(self, offset, u16),
            Width::U32 => read_cell!(self, offset, u32),
            Width::U64 => read_cell!(self, offset, u64),
        }
    }

    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "writes the low bits, as documented"
    )]
    fn write(&self, offset: usize, width: Width, value: u64) {
        match width {
            Width::U8 => write_cell!(self, offset, u8, value),
            Width::U16 => write_cell!(self, offset, u16, value),
            Width::U32 => write_cell!(self, offset, u32, value),
            Width::U64 => write_cell!(self, offset, u64, value),
        }
    }

    fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_outside_reads_as_all_ones_and_writes_nothing() {
        let mut memory = [0_u64; 2];
        let base = NonNull::from(&mut memory).cast();
        // SAFETY: `memory` outlives `registers`, is aligned to 8 bytes and not touched otherwise meanwhile.
        let registers = unsafe { MappedRegisters::new(base, 12) };
        registers.write32(8, 0x1234_5678);
        registers.write32(12, 1);
        registers.write64(8, u64::MAX);
        registers.write16(1, 1);
        assert_eq!(registers.read16(8), 0x5678);
        assert_eq!(registers.read32(12), u32::MAX);
        assert_eq!(registers.read64(8), u64::MAX);
        assert_eq!(registers.read16(usize::MAX - 1), u16::MAX);
        assert_eq!(registers.read64(0), 0);
    }

    #[test]
    fn a_part_lies_inside_the_whole() {
        let mut memory = [0_u64; 4];
        let base = NonNull::from(&mut memory).cast();
        // SAFETY: as above.
        let registers = unsafe { MappedRegisters::new(base, 32) };
        let part = registers.part(8, 16).unwrap();
        part.write8(15, 7);
        assert_eq!(registers.read8(23), 7);
        assert!(registers.part(24, 9).is_none());
        assert!(registers.part(4, 4).is_none());
        assert!(registers.part(usize::MAX - 7, 16).is_none());
    }

    #[test]
    fn a_register_found_once_is_the_one_at_its_offset() {
        let mut memory = [0_u64; 2];
        let base = NonNull::from(&mut memory).cast();
        // SAFETY: as above.
        let registers = unsafe { MappedRegisters::new(base, 12) };
        registers.register(8).unwrap().write(7);
        assert_eq!((registers.read32(8), registers.read64(0)), (7, 0));
        assert!(
            [2, 10, 12, usize::MAX - 3]
                .iter()
                .all(|&offset| registers.register(offset).is_none())
        );
    }
}
