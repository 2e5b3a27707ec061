//! Addresses as types, so that one that was not translated cannot reach a device.
//!
//! | type | an address in | who speaks it |
//! |---|---|---|
//! | [`Iova`] | a process's I/O address space | processes, in descriptors and commands |
//! | [`BusAddress`] | what a device puts on its bus | the control half, after translation |
//! | [`PhysAddr`] | the machine's physical memory | the kernel's page tables and frame allocators |
//!
//! Only a region table, or an IOMMU mapping, leads from the first to the second.

use core::fmt;

macro_rules! address {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[cfg_attr(feature = "defmt", derive(defmt::Format))]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The address with this number.
            #[inline]
            #[must_use]
            pub const fn new(address: u64) -> Self {
                Self(address)
            }

            /// The address as a number.
            #[inline]
            #[must_use]
            pub const fn as_u64(self) -> u64 {
                self.0
            }

            /// The address `bytes` further on, or `None` where that would wrap.
            #[inline]
            #[must_use]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(address) => Some(Self(address)),
                    None => None,
                }
            }

            /// How many bytes lie from `base` to here, or `None` where `base` is the larger.
            #[inline]
            #[must_use]
            pub const fn offset_from(self, base: Self) -> Option<u64> {
                self.0.checked_sub(base.0)
            }

            /// Whether the address is a multiple of `alignment`, a power of two.
            #[inline]
            #[must_use]
            pub const fn is_aligned(self, alignment: u64) -> bool {
                self.0 & (alignment - 1) == 0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address! {
    /// An address in a process's I/O address space.
    ///
    /// The same number in every access mode: an IOMMU turns it into memory, or the kernel does, while it copies.
    Iova
}

address! {
    /// An address that a device puts on its bus.
    BusAddress
}

address! {
    /// A physical address, as the CPU's page tables hold it.
    PhysAddr
}

/// Which way a device may move data.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Direction {
    /// The device reads memory.
    ToDevice,
    /// The device writes memory.
    FromDevice,
    /// The device reads and writes memory.
    Bidirectional,
}

impl Direction {
    /// Whether memory that allows `self` allows a transfer in the direction `wanted`.
    #[inline]
    #[must_use]
    pub const fn allows(self, wanted: Self) -> bool {
        matches!(
            (self, wanted),
            (Self::Bidirectional, _)
                | (Self::ToDevice, Self::ToDevice)
                | (Self::FromDevice, Self::FromDevice)
        )
    }
}

/// A NUMA node, numbered densely from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct NodeId(u32);

/// A CPU core, numbered densely from 0; not its APIC id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct CoreId(u32);

macro_rules! dense_id {
    ($name:ident, $what:literal) => {
        impl $name {
            #[doc = concat!("The ", $what, " with this number.")]
            #[inline]
            #[must_use]
            pub const fn new(index: u32) -> Self {
                Self(index)
            }

            #[doc = concat!("The ", $what, "'s number, to index tables with.")]
            #[inline]
            #[must_use]
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}

dense_id!(NodeId, "node");
dense_id!(CoreId, "core");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_never_wrap() {
        assert_eq!(Iova::new(u64::MAX).checked_add(1), None);
        assert_eq!(BusAddress::new(1).offset_from(BusAddress::new(2)), None);
        assert_eq!(PhysAddr::new(1).checked_add(2), Some(PhysAddr::new(3)));
    }

    #[test]
    fn a_direction_allows_itself_and_both_allows_all() {
        use Direction::{Bidirectional, FromDevice, ToDevice};
        for wanted in [ToDevice, FromDevice, Bidirectional] {
            assert!(Bidirectional.allows(wanted));
            assert!(wanted.allows(wanted));
        }
        assert!(!ToDevice.allows(FromDevice));
        assert!(!FromDevice.allows(ToDevice));
        assert!(!ToDevice.allows(Bidirectional));
    }
}
