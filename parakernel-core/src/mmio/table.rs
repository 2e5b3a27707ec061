//! Register tables: the [`registers!`](crate::registers) macro and the types that it fills in.

use core::{fmt, marker::PhantomData, ops::RangeInclusive};

use super::{Registers, Width};

/// A register of a table: how wide it is, where it lies in its block, and its value.
///
/// Made by [`registers!`](crate::registers).
pub trait Register: Copy {
    /// The group of registers that this one lies in.
    type Block;
    /// Byte offset in the block.
    const OFFSET: usize;
    /// Width of an access.
    const WIDTH: Width;

    /// The register's value with these bits.
    fn from_bits(bits: u64) -> Self;

    /// The value's bits.
    fn bits(self) -> u64;

    /// The number in `field`, shifted down to bit 0.
    #[inline]
    fn field(self, field: Field<Self>) -> u64 {
        (self.bits() >> field.shift) & field.max
    }

    /// Whether any bit of `field` is set.
    #[inline]
    fn is_set(self, field: Field<Self>) -> bool {
        self.field(field) != 0
    }

    /// A copy with `number` in `field`; bits that do not fit into the field are dropped.
    #[inline]
    #[must_use]
    fn with(self, field: Field<Self>, number: u64) -> Self {
        let others = self.bits() & !(field.max << field.shift);
        Self::from_bits(others | (number & field.max) << field.shift)
    }
}

/// A register that may be read.
pub trait Readable: Register {}

/// A register that may be written without harm to memory.
pub trait Writable: Register {}

/// A register that holds an address which the device reads or writes: writing it takes `unsafe`.
pub trait Address: Register {}

/// Some adjacent bits of the register `T`.
pub struct Field<T> {
    shift: u32,
    max: u64,
    register: PhantomData<fn() -> T>,
}

impl<T> Field<T> {
    /// Bit number `bit`, counted from the least significant.
    #[must_use]
    pub const fn bit(bit: u32) -> Self {
        Self::bits(bit..=bit)
    }

    /// The bits `range`, counted from the least significant.
    ///
    /// # Panics
    ///
    /// Where the range is empty or passes bit 63. Tables are constants, so the compiler finds out.
    #[must_use]
    pub const fn bits(range: RangeInclusive<u32>) -> Self {
        let (first, last) = (*range.start(), *range.end());
        assert!(
            first <= last && last < 64,
            "a field lies inside its register"
        );
        Self {
            shift: first,
            max: u64::MAX >> (63 - (last - first)),
            register: PhantomData,
        }
    }

    /// The largest number that fits.
    #[must_use]
    pub const fn max(self) -> u64 {
        self.max
    }
}

impl<T> Clone for Field<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Field<T> {}

impl<T> fmt::Debug for Field<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Field({:#x} << {})", self.max, self.shift)
    }
}

/// The registers of block `B`, from byte `base` of a register file on.
///
/// Only registers of that block can be named here, read-only ones not written, write-only ones not read.
#[derive(Debug)]
pub struct Window<R, B> {
    registers: R,
    base: usize,
    block: PhantomData<fn() -> B>,
}

impl<R: Registers, B> Window<R, B> {
    /// The block that begins at byte `base` of `registers`.
    pub const fn new(registers: R, base: usize) -> Self {
        Self {
            registers,
            base,
            block: PhantomData,
        }
    }

    /// Reads a register.
    #[inline]
    pub fn read<T: Readable<Block = B>>(&self) -> T {
        T::from_bits(self.registers.read(self.base + T::OFFSET, T::WIDTH))
    }

    /// Writes a register.
    #[inline]
    pub fn write<T: Writable<Block = B>>(&self, value: T) {
        self.registers
            .write(self.base + T::OFFSET, T::WIDTH, value.bits());
    }

    /// Reads a register, and writes what `change` makes of it.
    #[inline]
    pub fn modify<T: Readable<Block = B> + Writable>(&self, change: impl FnOnce(T) -> T) {
        self.write(change(self.read()));
    }

    /// Writes a register that holds an address.
    ///
    /// # Safety
    ///
    /// The device will read or write memory at that address, as the register's documentation says, until the register
    /// is written again or the device is reset: for so long that memory must belong to the device.
    #[inline]
    #[expect(unsafe_code, reason = "the contract is the point")]
    pub unsafe fn write_address<T: Address<Block = B>>(&self, value: T) {
        self.registers
            .write(self.base + T::OFFSET, T::WIDTH, value.bits());
    }

    /// The whole register file.
    pub const fn registers(&self) -> &R {
        &self.registers
    }
}

/// Declares the registers of one block as a table in the datasheet's order.
///
/// Each line gives name, width, byte offset and access (`read_only`, `write_only`, `read_write`, or `address` for a
/// readable register that holds an address), then the fields by bit number. A register becomes a type, a field a
/// constant of that type; [`Window`] reads and writes them.
///
/// ```
/// use parakernel_core::{mmio::{Register, Window}, registers};
///
/// /// The timer of some device.
/// #[derive(Debug)]
/// pub struct Timer;
///
/// registers! {
///     in Timer;
///
///     /// Control, §1.1.
///     pub Ctrl: u32 @ 0x00, read_write {
///         /// Counts while set.
///         ENABLE: bit 0,
///         /// Prescaler, 1 to 16.
///         SCALE: bits 4..=8,
///     }
///
///     /// Ticks so far, §1.2.
///     pub Ticks: u64 @ 0x08, read_only {}
/// }
///
/// # fn show(bar: impl parakernel_core::mmio::Registers) -> u64 {
/// let timer = Window::<_, Timer>::new(bar, 0x100);
/// timer.modify(|ctrl: Ctrl| ctrl.with(Ctrl::ENABLE, 1).with(Ctrl::SCALE, 16));
/// timer.read::<Ticks>().bits()
/// # }
/// ```
///
/// A register of another block, a field of another register, a write to a read-only register do not compile:
///
/// ```compile_fail
/// # use parakernel_core::{mmio::{Register, Window}, registers};
/// # #[derive(Debug)] pub struct Timer;
/// registers! { in Timer;
///     /// Ticks so far.
///     pub Ticks: u64 @ 0x08, read_only {}
/// }
/// # fn show(timer: Window<&dyn parakernel_core::mmio::Registers, Timer>) {
/// timer.write(Ticks::from_bits(1));
/// # }
/// ```
#[macro_export]
macro_rules! registers {
    (in $block:ty; $(
        $(#[$meta:meta])*
        $vis:vis $name:ident: $raw:ident @ $offset:literal, $access:ident {
            $( $(#[$about:meta])* $field:ident: $kind:ident $bits:expr ),* $(,)?
        }
    )*) => { $(
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        $vis struct $name($raw);

        impl $name {
            $( $(#[$about])* $vis const $field: $crate::mmio::Field<Self> = $crate::mmio::Field::$kind($bits); )*
        }

        impl $crate::mmio::Register for $name {
            type Block = $block;
            const OFFSET: usize = $offset;
            const WIDTH: $crate::mmio::Width = $crate::mmio::Width::of::<$raw>();

            #[inline]
            #[allow(clippy::allow_attributes, clippy::cast_possible_truncation, clippy::unnecessary_cast, reason = "any width")]
            fn from_bits(bits: u64) -> Self {
                Self(bits as $raw)
            }

            #[inline]
            fn bits(self) -> u64 {
                self.0.into()
            }
        }

        $crate::registers!(@access $name, $access);
    )* };
    (@access $name:ident, read_only) => {
        impl $crate::mmio::Readable for $name {}
    };
    (@access $name:ident, write_only) => {
        impl $crate::mmio::Writable for $name {}
    };
    (@access $name:ident, read_write) => {
        impl $crate::mmio::Readable for $name {}
        impl $crate::mmio::Writable for $name {}
    };
    (@access $name:ident, address) => {
        impl $crate::mmio::Readable for $name {}
        impl $crate::mmio::Address for $name {}
    };
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use super::*;

    struct Block;

    registers! {
        in Block;

        /// Control.
        Ctrl: u16 @ 0x02, read_write {
            /// Low bits.
            LOW: bits 0..=3,
            /// Top bit.
            TOP: bit 15,
        }

        /// Wide.
        Wide: u64 @ 0x08, address {
            /// All of it.
            ALL: bits 0..=63,
        }
    }

    struct Memory([Cell<u64>; 4]);

    impl Registers for Memory {
        fn read(&self, offset: usize, width: Width) -> u64 {
            assert_eq!(offset % width.bytes(), 0);
            self.0[offset / 8].get() >> (offset % 8 * 8) & (u64::MAX >> (64 - width.bytes() * 8))
        }

        fn write(&self, offset: usize, width: Width, value: u64) {
            let shift = offset % 8 * 8;
            let mask = (u64::MAX >> (64 - width.bytes() * 8)) << shift;
            let cell = &self.0[offset / 8];
            cell.set(cell.get() & !mask | value << shift);
        }

        fn len(&self) -> usize {
            32
        }
    }

    #[test]
    fn fields_change_their_own_bits_only() {
        let ctrl = Ctrl::from_bits(0x7FF0)
            .with(Ctrl::LOW, 0x1B)
            .with(Ctrl::TOP, 1);
        assert_eq!(ctrl.bits(), 0xFFFB);
        assert_eq!(ctrl.field(Ctrl::LOW), 0xB);
        assert!(ctrl.is_set(Ctrl::TOP));
        assert_eq!(Wide::ALL.max(), u64::MAX);
        assert_eq!(
            Wide::from_bits(7).with(Wide::ALL, u64::MAX).bits(),
            u64::MAX
        );
    }

    #[test]
    #[expect(
        unsafe_code,
        reason = "writes an address register of a device that does no DMA"
    )]
    fn a_window_reaches_the_registers_from_its_base_on() {
        let memory = Memory([const { Cell::new(0) }; 4]);
        let window = Window::<_, Block>::new(&memory, 16);
        window.modify(|ctrl: Ctrl| ctrl.with(Ctrl::LOW, 5));
        assert_eq!(window.read::<Ctrl>().bits(), 5);
        // SAFETY: `memory` reads and writes no other memory.
        unsafe { window.write_address(Wide::from_bits(0x1_0000_0000)) };
        assert_eq!(memory.0[2].get(), 5 << 16);
        assert_eq!(memory.0[3].get(), 0x1_0000_0000);
        assert_eq!(window.registers().len(), 32);
    }
}
