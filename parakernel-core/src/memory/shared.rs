#![expect(
    unsafe_code,
    reason = "hands out views of memory that a device may write"
)]

use core::{
    marker::PhantomData,
    ptr::NonNull,
    sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64},
};

use embedded_dma::{ReadBuffer, WriteBuffer};

use crate::address::BusAddress;

/// A type that memory shared with a device, or with another process, may be viewed as.
///
/// # Safety
///
/// The type must consist of atomics only (padding aside), be valid for every bit pattern, and need no drop. Then a
/// shared reference to it promises nothing about its value, and the other party may write at any time.
pub unsafe trait Shared: Sync {}

// SAFETY: an atomic, valid for every bit pattern.
unsafe impl Shared for AtomicU8 {}
// SAFETY: as above.
unsafe impl Shared for AtomicU16 {}
// SAFETY: as above.
unsafe impl Shared for AtomicU32 {}
// SAFETY: as above.
unsafe impl Shared for AtomicU64 {}
// SAFETY: an array has no padding of its own.
unsafe impl<T: Shared, const N: usize> Shared for [T; N] {}

/// Memory that another party may change at any time.
///
/// # Invariants
///
/// `base..base + len` stays mapped and initialised for `'a`, and nobody in this program views it except through
/// [`Shared`] types.
#[derive(Clone, Copy, Debug)]
pub struct SharedMemory<'a> {
    base: NonNull<u8>,
    len: usize,
    life: PhantomData<&'a [AtomicU8]>,
}

// SAFETY: the memory is reached through atomics only.
unsafe impl Send for SharedMemory<'_> {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory<'_> {}

impl<'a> SharedMemory<'a> {
    /// The `len` bytes at `base`.
    ///
    /// # Safety
    ///
    /// For `'a` the bytes must stay mapped, initialised and writable (or, where only loads are made through the
    /// views, readable), and must be viewed in this program through [`Shared`] types only.
    #[must_use]
    pub const unsafe fn new(base: NonNull<u8>, len: usize) -> Self {
        Self {
            base,
            len,
            life: PhantomData,
        }
    }

    /// Length in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no byte at all.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The `T` at byte `offset`, or `None` where it does not lie inside or is not aligned.
    #[must_use]
    pub fn view<T: Shared>(&self, offset: usize) -> Option<&'a T> {
        let place = self.place::<T>(offset, 1)?;
        // SAFETY: inside the memory and aligned (`place`), valid for any bytes and fit for sharing (`Shared`).
        Some(unsafe { place.as_ref() })
    }

    /// The `count` values `T` from byte `offset` on, or `None` where they do not lie inside or are not aligned.
    #[must_use]
    pub fn slice<T: Shared>(&self, offset: usize, count: usize) -> Option<&'a [T]> {
        let place = self.place::<T>(offset, count)?;
        let values = NonNull::slice_from_raw_parts(place, count);
        // SAFETY: as in `view`, for each of the `count` values.
        Some(unsafe { values.as_ref() })
    }

    /// The part of `len` bytes at byte `offset`, or `None` where it does not lie inside.
    #[must_use]
    pub fn part(&self, offset: usize, len: usize) -> Option<Self> {
        let base = self.place::<AtomicU8>(offset, len)?.cast();
        Some(Self { base, len, ..*self })
    }

    /// Where `count` values `T` from byte `offset` on would lie; `None` if not inside, or not aligned.
    fn place<T>(&self, offset: usize, count: usize) -> Option<NonNull<T>> {
        let end = size_of::<T>().checked_mul(count)?.checked_add(offset)?;
        if end > self.len {
            return None;
        }
        // SAFETY: `offset` is at most `len`, so the result lies in the memory or one past its end.
        let place = unsafe { self.base.add(offset) }.cast::<T>();
        place.is_aligned().then_some(place)
    }
}

/// Bus-contiguous memory for rings, tables and admin buffers, shared between a control half and its device.
///
/// Zeroed when it is handed out. Whoever hands it out takes it back only after the device has let go of it.
#[derive(Debug)]
pub struct DmaBlock<'a> {
    memory: SharedMemory<'a>,
    bus: BusAddress,
}

impl<'a> DmaBlock<'a> {
    /// The memory that the device finds at `bus`.
    ///
    /// # Safety
    ///
    /// For `'a` the device must find all of `memory` at `bus` and onwards, and no other block may overlap it.
    #[must_use]
    pub const unsafe fn new(memory: SharedMemory<'a>, bus: BusAddress) -> Self {
        Self { memory, bus }
    }

    /// Where the device finds the first byte.
    #[must_use]
    pub const fn bus_address(&self) -> BusAddress {
        self.bus
    }

    /// The CPU's view.
    #[must_use]
    pub const fn memory(&self) -> SharedMemory<'a> {
        self.memory
    }

    /// Length in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.memory.len()
    }

    /// Whether there is no byte at all.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.memory.is_empty()
    }

    /// Splits the block in two, the first of `len` bytes; gives it back where it is shorter.
    ///
    /// # Errors
    ///
    /// The block itself, where it has fewer than `len` bytes.
    pub fn split_at(self, len: usize) -> Result<(Self, Self), Self> {
        let parts = (|| {
            let first = self.memory.part(0, len)?;
            let second = self.memory.part(len, self.len() - len)?;
            Some((first, second, self.bus.checked_add(len as u64)?))
        })();
        let Some((first, second, bus)) = parts else {
            return Err(self);
        };
        Ok((
            Self {
                memory: first,
                bus: self.bus,
            },
            Self {
                memory: second,
                bus,
            },
        ))
    }
}

// SAFETY: the memory stays where it is for `'static`, whatever happens to the block (invariant of `SharedMemory`).
unsafe impl ReadBuffer for DmaBlock<'static> {
    type Word = u8;

    unsafe fn read_buffer(&self) -> (*const u8, usize) {
        (self.memory.base.as_ptr(), self.memory.len)
    }
}

// SAFETY: as above; it is seen through atomics only, so a device may write at any time.
unsafe impl WriteBuffer for DmaBlock<'static> {
    type Word = u8;

    unsafe fn write_buffer(&mut self) -> (*mut u8, usize) {
        (self.memory.base.as_ptr(), self.memory.len)
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering::Relaxed;

    use super::*;

    fn memory(words: &[AtomicU64]) -> SharedMemory<'_> {
        // SAFETY: atomics that outlive the result.
        unsafe { SharedMemory::new(NonNull::from(words).cast(), size_of_val(words)) }
    }

    #[test]
    fn a_view_lies_inside_and_is_aligned() {
        let words: [AtomicU64; 2] = Default::default();
        let memory = memory(&words);
        memory.view::<AtomicU16>(14).unwrap().store(0x1234, Relaxed);
        assert_eq!(words[1].load(Relaxed).to_le() >> 48, 0x1234);
        assert!(memory.view::<AtomicU16>(15).is_none());
        assert!(memory.view::<AtomicU64>(12).is_none());
        assert!(memory.slice::<AtomicU32>(4, 4).is_none());
        assert!(memory.slice::<AtomicU32>(0, usize::MAX / 2).is_none());
        assert_eq!(memory.slice::<AtomicU32>(4, 3).unwrap().len(), 3);
    }

    #[test]
    fn a_block_splits_into_neighbours_on_the_bus() {
        let words: [AtomicU64; 4] = Default::default();
        // SAFETY: no device; the addresses are only compared.
        let block = unsafe { DmaBlock::new(memory(&words), BusAddress::new(0x1000)) };
        let (first, second) = block.split_at(8).unwrap();
        assert_eq!((first.len(), second.len()), (8, 24));
        assert_eq!(second.bus_address(), BusAddress::new(0x1008));
        assert_eq!(second.split_at(25).unwrap_err().len(), 24);
    }
}
