//! Where tables are read from.

use parakernel_core::address::PhysAddr;

/// Physical memory that holds firmware tables.
///
/// A kernel implements it with whatever mapping it has; [`Window`] serves where the bytes are at hand. Nothing may
/// write to the bytes while they are lent out.
pub trait Memory {
    /// The `len` bytes at `address`, or `None` where they cannot be read.
    ///
    /// Address and length come from the tables: any value may be asked for.
    fn bytes(&self, address: PhysAddr, len: usize) -> Option<&[u8]>;
}

impl<M: Memory + ?Sized> Memory for &M {
    fn bytes(&self, address: PhysAddr, len: usize) -> Option<&[u8]> {
        (**self).bytes(address, len)
    }
}

/// Bytes at a known physical address, such as a mapped range or a dump.
#[derive(Clone, Copy, Debug)]
pub struct Window<'a> {
    base: PhysAddr,
    bytes: &'a [u8],
}

impl<'a> Window<'a> {
    /// The memory that starts at `base` and holds `bytes`.
    #[must_use]
    pub const fn new(base: PhysAddr, bytes: &'a [u8]) -> Self {
        Self { base, bytes }
    }
}

impl Memory for Window<'_> {
    fn bytes(&self, address: PhysAddr, len: usize) -> Option<&[u8]> {
        let start = usize::try_from(address.offset_from(self.base)?).ok()?;
        self.bytes.get(start..start.checked_add(len)?)
    }
}

/// Several windows; the first that holds all of the bytes serves.
impl Memory for [Window<'_>] {
    fn bytes(&self, address: PhysAddr, len: usize) -> Option<&[u8]> {
        self.iter().find_map(|window| window.bytes(address, len))
    }
}
