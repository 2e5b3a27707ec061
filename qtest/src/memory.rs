#![expect(unsafe_code, reason = "shares memory with QEMU")]

use std::{
    cell::Cell,
    env,
    fs::{self, OpenOptions},
    path::PathBuf,
    ptr::NonNull,
};

use parakernel_core::{
    address::{BusAddress, Iova},
    memory::{Arena, ArenaLayout, BlockArena, DmaBlock, PAGE_SIZE, SharedMemory},
};
use vm_memory::{FileOffset, MmapRegion};

/// The memory of a machine, shared with QEMU through a file and handed out from address 1 MiB on; and the folder with this
/// file and the machine's others, which lasts as long.
#[derive(Debug)]
pub struct Memory {
    region: MmapRegion,
    next: Cell<usize>,
    folder: PathBuf,
}

impl Memory {
    /// Bytes.
    pub const LEN: usize = 64 << 20;

    /// Memory of a machine whose `name` no other in this process has.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let folder = env::temp_dir().join(format!("parakernel-{}-{name}", std::process::id()));
        drop(fs::remove_dir_all(&folder));
        fs::create_dir(&folder).unwrap();
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create_new(true);
        let file = options.open(folder.join("memory")).unwrap();
        file.set_len(Self::LEN as u64).unwrap();
        Self {
            region: MmapRegion::from_file(FileOffset::new(file, 0), Self::LEN).unwrap(),
            next: Cell::new(1 << 20),
            folder,
        }
    }

    /// Where the file `name` of the machine is.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What QEMU complained about.
    #[must_use]
    pub fn complaints(&self) -> String {
        fs::read_to_string(self.path("errors")).unwrap()
    }

    /// Fresh memory for a control half.
    #[must_use]
    pub fn block(&self, len: usize) -> DmaBlock<'_> {
        let (place, bus) = self.take(len);
        // SAFETY: mapped as long as `self` lives, zeroed, and handed out once.
        let shared = unsafe { SharedMemory::new(place, len) };
        // SAFETY: the machine's memory starts at address 0 and is what the region shows.
        unsafe { DmaBlock::new(shared, BusAddress::new(bus)) }
    }

    /// Fresh buffers for frames.
    #[must_use]
    pub fn arena(&self, layout: ArenaLayout) -> Arena<'_> {
        let (place, bus) = self.take(layout.bytes());
        // SAFETY: as in `block`; without an IOMMU the bus address is the I/O address.
        unsafe { Arena::new(place, Iova::new(bus), layout) }.unwrap()
    }

    /// Fresh buffers for blocks: `count` of `buffer_len` bytes each.
    #[must_use]
    pub fn block_arena(&self, count: usize, buffer_len: usize) -> BlockArena<'_> {
        let len = count * buffer_len;
        let (place, bus) = self.take(len);
        // SAFETY: as in `block`; without an IOMMU the bus address is the I/O address.
        unsafe { BlockArena::new(place, len, Iova::new(bus), buffer_len) }.unwrap()
    }

    fn take(&self, len: usize) -> (NonNull<u8>, u64) {
        let offset = self.next.get();
        let end = offset + len.next_multiple_of(PAGE_SIZE);
        assert!(end <= Self::LEN, "the machine is out of memory");
        self.next.set(end);
        // SAFETY: inside the mapping.
        let place = unsafe { self.region.as_ptr().add(offset) };
        (NonNull::new(place).unwrap(), offset as u64)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.folder));
    }
}
