//! Memory that a target shares with the code under test, as devices and processes do.
#![expect(unsafe_code, reason = "hands out views of memory of its own")]

use core::{
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use parakernel_core::{
    address::{BusAddress, Iova},
    memory::{Arena, ArenaLayout, BlockArena, DmaBlock, PAGE_SIZE, SharedMemory},
};

const WORDS: usize = PAGE_SIZE / 8;

#[derive(Debug)]
#[repr(C, align(4096))]
struct Page([AtomicU64; WORDS]);

/// Zeroed pages at a bus address of their own.
#[derive(Debug)]
pub(crate) struct Pages {
    pages: Vec<Page>,
    bus: u64,
}

impl Pages {
    /// `bytes` bytes, rounded up to whole pages, which a device finds at `bus`.
    pub(crate) fn new(bytes: usize, bus: u64) -> Self {
        let page = || Page([const { AtomicU64::new(0) }; WORDS]);
        let pages = bytes.div_ceil(PAGE_SIZE);
        Self {
            pages: core::iter::repeat_with(page).take(pages).collect(),
            bus,
        }
    }

    /// All of it, as the code under test sees it.
    pub(crate) fn shared(&self) -> SharedMemory<'_> {
        let base = NonNull::from(self.pages.as_slice()).cast();
        let len = self.pages.len() * PAGE_SIZE;
        // SAFETY: initialised atomics that live as long as the result.
        unsafe { SharedMemory::new(base, len) }
    }

    /// All of it as a block for rings and tables. Only one may be in use at a time.
    pub(crate) fn block(&self) -> DmaBlock<'_> {
        // SAFETY: no device reads or writes here but this program, which finds the memory at `bus`.
        unsafe { DmaBlock::new(self.shared(), BusAddress::new(self.bus)) }
    }

    /// All of it as buffers of `buffer_len` bytes. Nothing else may touch the memory meanwhile.
    pub(crate) fn block_arena(&self, buffer_len: usize) -> BlockArena<'_> {
        let base = NonNull::from(self.pages.as_slice()).cast();
        let len = self.pages.len() * PAGE_SIZE;
        // SAFETY: initialised, alive as long as the result, of atomics, so it may be written; used through it only.
        let arena = unsafe { BlockArena::new(base, len, Iova::new(self.bus), buffer_len) };
        arena.expect("whole pages")
    }

    /// Word `index`.
    pub(crate) fn load(&self, index: usize) -> u64 {
        self.word(index).load(Relaxed)
    }

    /// Sets word `index`.
    pub(crate) fn store(&self, index: usize, value: u64) {
        self.word(index).store(value, Relaxed);
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        &self.pages[index / WORDS].0[index % WORDS]
    }

    /// The 16 bits at byte `offset`, a multiple of 2.
    pub(crate) fn load16(&self, offset: usize) -> u16 {
        let word = self.load(offset / 8).to_le_bytes();
        u16::from_le_bytes([word[offset % 8], word[offset % 8 + 1]])
    }

    /// Sets the 16 bits at byte `offset`, a multiple of 2.
    pub(crate) fn store16(&self, offset: usize, value: u16) {
        let mut word = self.load(offset / 8).to_le_bytes();
        word[offset % 8..][..2].copy_from_slice(&value.to_le_bytes());
        self.store(offset / 8, u64::from_le_bytes(word));
    }

    /// The word that a device finds at bus address `address`; `None` where that is not in here.
    pub(crate) fn at_bus(&self, address: u64) -> Option<u64> {
        let offset = usize::try_from(address.checked_sub(self.bus)?).ok()?;
        let inside = offset.is_multiple_of(8) && offset / 8 < self.pages.len() * WORDS;
        inside.then(|| self.load(offset / 8))
    }

    /// Sets everything to 0.
    pub(crate) fn clear(&self) {
        let words = self.pages.iter().flat_map(|page| &page.0);
        words.for_each(|word| word.store(0, Relaxed));
    }

    /// All of it as frame buffers. Nothing else may touch a buffer that the arena's user holds.
    pub(crate) fn arena(&self, layout: ArenaLayout) -> Arena<'_> {
        assert!(layout.bytes() <= self.pages.len() * PAGE_SIZE, "too small");
        let base = NonNull::from(self.pages.as_slice()).cast();
        // SAFETY: initialised, alive as long as the result, of atomics, so it may be written; long enough.
        let arena = unsafe { Arena::new(base, Iova::new(self.bus), layout) };
        arena.expect("a valid layout")
    }

    /// The byte that a device finds at bus address `address`.
    pub(crate) fn byte_at(&self, address: u64) -> Option<u8> {
        let word = self.at_bus(address & !7)?;
        word.to_le_bytes()
            .get(usize::try_from(address % 8).ok()?)
            .copied()
    }

    /// What a device does that writes a byte to bus address `address`; elsewhere it does nothing.
    pub(crate) fn set_byte_at(&self, address: u64, value: u8) {
        let Some(word) = self.at_bus(address & !7) else {
            return;
        };
        let shift = address % 8 * 8;
        let word = word & !(0xff << shift) | u64::from(value) << shift;
        let index = usize::try_from((address - self.bus) / 8).expect("inside");
        self.store(index, word);
    }
}
