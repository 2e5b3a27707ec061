//! The address space of a process, as core 0 builds, changes and takes it down.
#![expect(unsafe_code, reason = "fills frames before a process sees them")]

use core::ops::Range;

use parakernel_core::address::{NodeId, PhysAddr};
use parakernel_numa::frames::FrameSize;

use crate::arch::native;
use crate::arch::paging::{self, Backing, Flags, MapError, Mapping, OWNED, PageSize, Tables, USER};
use crate::memory::{FRAME, Frames, Owner};

/// What a process may do with a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    /// Read.
    Read,
    /// Read and write.
    ReadWrite,
    /// Read and execute.
    ReadExecute,
}

impl Access {
    const fn flags(self) -> Flags {
        let user = Flags::USER_ACCESSIBLE;
        match self {
            Self::Read => user.union(Flags::NO_EXECUTE),
            Self::ReadWrite => user.union(Flags::NO_EXECUTE).union(Flags::WRITABLE),
            Self::ReadExecute => user,
        }
    }
}

/// How the processor caches a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Caching {
    /// As memory.
    Memory,
    /// Not at all, as device registers need it.
    Device,
}

/// Memory or registers that belong to somebody else.
#[derive(Clone, Debug)]
pub(crate) struct Foreign {
    /// Where they are: whole frames.
    pub(crate) physical: Range<u64>,
    /// What the process may do with them.
    pub(crate) access: Access,
    /// How the processor caches them.
    pub(crate) caching: Caching,
}

impl Foreign {
    fn flags(&self) -> Flags {
        let caching = match self.caching {
            Caching::Memory => Flags::empty(),
            Caching::Device => Flags::NO_CACHE | Flags::WRITE_THROUGH,
        };
        self.access.flags() | caching
    }
}

/// An address space, on one NUMA node.
#[derive(Debug)]
pub(crate) struct AddressSpace {
    tables: Tables,
    node: NodeId,
    owner: Owner,
    /// Frames that it took: tables and memory.
    taken: usize,
}

impl AddressSpace {
    /// An address space of `owner` with nothing in it but the kernel's half, which `kernel` maps.
    ///
    /// # Errors
    ///
    /// If `node` has no frame.
    pub(crate) fn new(
        frames: &mut Frames,
        node: NodeId,
        owner: Owner,
        kernel: Tables,
    ) -> Result<Self, MapError> {
        let root = frames.take_one(node, owner).ok_or(MapError::OutOfFrames)?;
        // SAFETY: a fresh, zeroed frame.
        let tables = unsafe { Tables::new(root) };
        tables.share_kernel_half(kernel);
        Ok(Self {
            tables,
            node,
            owner,
            taken: 1,
        })
    }

    /// The tables, for the core that runs the process.
    pub(crate) const fn tables(&self) -> Tables {
        self.tables
    }

    /// Whose its frames are.
    pub(crate) const fn owner(&self) -> Owner {
        self.owner
    }

    /// The node that its memory is on.
    pub(crate) const fn node(&self) -> NodeId {
        self.node
    }

    /// Gives the process zeroed memory of its own at `range` (whole pages): it is never swapped, and freed with the
    /// address space. Large pages are used where the range has room for them.
    ///
    /// # Errors
    ///
    /// If the range is not the process's to have, is in use, or there is no memory. What was mapped up to then stays.
    pub(crate) fn allocate(
        &mut self,
        frames: &mut Frames,
        range: Range<u64>,
        access: Access,
    ) -> Result<(), MapError> {
        check(&range)?;
        let mut at = range.start;
        while at < range.end {
            let large = PageSize::Large.bytes();
            let fits = at.is_multiple_of(large) && range.end - at >= large;
            let size = if fits {
                PageSize::Large
            } else {
                PageSize::Small
            };
            let alignment = match size {
                PageSize::Small => FrameSize::Small,
                PageSize::Large | PageSize::Giant => FrameSize::Huge,
            };
            let frame = frames.take(self.node, size.frames(), alignment, self.owner);
            let frame = frame.ok_or(MapError::OutOfFrames)?;
            self.map_owned(
                frames,
                at,
                Mapping {
                    frame,
                    size,
                    flags: access.flags(),
                },
            )?;
            at += size.bytes();
        }
        Ok(())
    }

    /// Like [`allocate`](Self::allocate), with small pages on frames in a row, of which it returns the first.
    ///
    /// # Errors
    ///
    /// As for [`allocate`](Self::allocate).
    pub(crate) fn allocate_contiguous(
        &mut self,
        frames: &mut Frames,
        range: Range<u64>,
        access: Access,
    ) -> Result<PhysAddr, MapError> {
        check(&range)?;
        let count = native((range.end - range.start) / FRAME);
        let first = frames.take(self.node, count, FrameSize::Small, self.owner);
        let first = first.ok_or(MapError::OutOfFrames)?;
        for (index, at) in range.step_by(native(FRAME)).enumerate() {
            let frame = PhysAddr::new(first.as_u64() + index as u64 * FRAME);
            let page = Mapping {
                frame,
                size: PageSize::Small,
                flags: access.flags(),
            };
            self.map_owned(frames, at, page)?;
        }
        Ok(first)
    }

    /// Maps what belongs to somebody else at `at`; it is not freed with the address space.
    ///
    /// # Errors
    ///
    /// If the range is not the process's to have, is in use, or there is no frame for a table. Nothing is mapped then, so the
    /// core that runs the process has nothing to forget.
    pub(crate) fn map(
        &mut self,
        frames: &mut Frames,
        at: u64,
        foreign: &Foreign,
    ) -> Result<(), MapError> {
        let len = foreign.physical.end - foreign.physical.start;
        let end = at.checked_add(len).ok_or(MapError::Occupied)?;
        check(&(at..end))?;
        let backing = Backing {
            physical: foreign.physical.clone(),
            largest: PageSize::Large,
            flags: foreign.flags(),
        };
        let (tables, node, owner, taken) = (self.tables, self.node, self.owner, &mut self.taken);
        let mut source = || frames.take_one(node, owner).inspect(|_| *taken += 1);
        tables.map_range(at, &backing, &mut source)
    }

    /// Has the one page of `foreign` take the place of another's at `at`, with no moment between in which nothing is there;
    /// whether a small page that the process does not own was there. The core that runs the process must then forget its
    /// translations.
    pub(crate) fn redirect(&mut self, at: u64, foreign: &Foreign) -> bool {
        let is_foreign = self
            .tables
            .lookup(at)
            .is_some_and(|page| !page.flags.contains(OWNED));
        let frame = PhysAddr::new(foreign.physical.start);
        is_foreign && self.tables.redirect(at, frame, foreign.flags())
    }

    /// Removes what is mapped in `range`. The core that runs the process must forget its translations before memory
    /// that the process owned (which is handed to `freed`, as first frame and page size) or another's is used again.
    pub(crate) fn unmap(&mut self, range: Range<u64>, mut freed: impl FnMut(PhysAddr, PageSize)) {
        let mut at = range.start;
        while at < range.end {
            let Some(page) = self.tables.unmap(at) else {
                at += FRAME;
                continue;
            };
            if page.flags.contains(OWNED) {
                self.taken -= page.size.frames();
                freed(page.frame, page.size);
            }
            at = at - at % page.size.bytes() + page.size.bytes();
        }
    }

    /// Size of the page that `at` is in, if one is mapped.
    pub(crate) fn page_size(&self, at: u64) -> Option<PageSize> {
        self.tables.lookup(at).map(|page| page.size)
    }

    /// Copies `bytes` to `at`, whatever the process may do there; what is not mapped is left out.
    pub(crate) fn fill(&self, at: u64, bytes: &[u8]) {
        let mut rest = bytes;
        let mut at = at;
        while let (Some(page), false) = (self.tables.lookup(at), rest.is_empty()) {
            let offset = at % page.size.bytes();
            let count = rest.len().min(native(page.size.bytes() - offset));
            let (part, behind) = rest.split_at(count);
            let to = paging::physical(page.frame).wrapping_add(native(offset));
            // SAFETY: the frame is mapped with all memory and `count` bytes of it lie behind `offset`; no process
            // runs on it yet.
            unsafe { core::ptr::copy_nonoverlapping(part.as_ptr(), to, count) };
            rest = behind;
            at += count as u64;
        }
    }

    /// Gives all its frames back, and says whether as many came back as it took. No core may use it any more.
    pub(crate) fn destroy(self, frames: &mut Frames) -> Result<(), Leak> {
        let mut freed = 0;
        self.tables.free(&mut |frame, size| {
            if frames.give_back(frame, size.frames(), self.owner).is_ok() {
                freed += size.frames();
            }
        });
        if freed == self.taken {
            Ok(())
        } else {
            Err(Leak {
                taken: self.taken,
                freed,
            })
        }
    }

    /// Maps a page that the space has just taken; gives it back if that fails.
    fn map_owned(&mut self, frames: &mut Frames, at: u64, page: Mapping) -> Result<(), MapError> {
        let (node, owner, taken) = (self.node, self.owner, &mut self.taken);
        *taken += page.size.frames();
        let mut source = || frames.take_one(node, owner).inspect(|_| *taken += 1);
        let owned = Mapping {
            flags: page.flags | OWNED,
            ..page
        };
        let mapped = self.tables.map(at, owned, &mut source);
        if mapped.is_err()
            && frames
                .give_back(page.frame, page.size.frames(), owner)
                .is_ok()
        {
            *taken -= page.size.frames();
        }
        mapped
    }
}

/// Not all frames of an address space came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Leak {
    /// How many it took.
    pub(crate) taken: usize,
    /// How many came back.
    pub(crate) freed: usize,
}

fn check(range: &Range<u64>) -> Result<(), MapError> {
    let whole = range.start.is_multiple_of(FRAME) && range.end.is_multiple_of(FRAME);
    if whole && USER.start <= range.start && range.start <= range.end && range.end <= USER.end {
        Ok(())
    } else {
        Err(MapError::Occupied)
    }
}
