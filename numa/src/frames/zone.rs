//! One contiguous range of frames on one node.

use core::ops::Range;

use parakernel_core::address::{NodeId, PhysAddr};

use super::bitmap::{Bitmap, Grid};
use super::{AllocateError, FRAME_LEN, FrameError, FrameSize, Run, ZoneError};

/// Where a [`Zone`] keeps its books. What the slices hold before does not matter.
#[derive(Debug)]
pub struct ZoneStorage<'s, O> {
    /// One bit per frame: as many words as [`Zone::words`] says.
    pub free: &'s mut [u64],
    /// One entry per frame: their number is the zone's.
    pub owners: &'s mut [Option<O>],
}

/// One contiguous range of frames on one node.
///
/// Runs of small alignment come from the low end and huge ones from the high end, so that the first do not break up
/// the second.
///
/// # Invariants
///
/// A frame that is in `free` has no owner. No frame below `lowest` is in `free`.
#[derive(Debug)]
pub struct Zone<'s, O> {
    node: NodeId,
    base: PhysAddr,
    free: Bitmap<'s>,
    owners: &'s mut [Option<O>],
    free_frames: usize,
    lowest: usize,
}

/// A zone without frames, for slots of a table that are not needed.
impl<O> Default for Zone<'_, O> {
    fn default() -> Self {
        Self {
            node: NodeId::new(0),
            base: PhysAddr::new(0),
            free: Bitmap::default(),
            owners: &mut [],
            free_frames: 0,
            lowest: 0,
        }
    }
}

impl<'s, O: Copy + Eq> Zone<'s, O> {
    /// The zone of as many frames as `storage` has owners, from `base` on. All are reserved.
    ///
    /// # Errors
    ///
    /// [`ZoneError::Misaligned`], [`ZoneError::Range`] or [`ZoneError::Storage`].
    pub fn new(
        node: NodeId,
        base: PhysAddr,
        storage: ZoneStorage<'s, O>,
    ) -> Result<Self, ZoneError> {
        let ZoneStorage { free, owners } = storage;
        if !base.is_aligned(FRAME_LEN) {
            return Err(ZoneError::Misaligned);
        }
        let len = (owners.len() as u64).checked_mul(FRAME_LEN);
        len.and_then(|len| base.checked_add(len))
            .ok_or(ZoneError::Range)?;
        let needed = Self::words(owners.len());
        let words = free.len();
        let free = Bitmap::new(free, owners.len()).ok_or(ZoneError::Storage { words, needed })?;
        owners.fill(None);
        Ok(Self {
            node,
            base,
            free,
            lowest: owners.len(),
            owners,
            free_frames: 0,
        })
    }

    /// How many words of bits a zone of `frames` needs.
    #[must_use]
    pub const fn words(frames: usize) -> usize {
        Bitmap::words(frames)
    }

    /// Where the zone is.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// The first byte of the first frame.
    #[must_use]
    pub const fn base(&self) -> PhysAddr {
        self.base
    }

    /// The first byte after the last frame.
    #[must_use]
    pub fn end(&self) -> PhysAddr {
        self.address(self.owners.len())
    }

    /// Whether `address` is in the zone.
    #[must_use]
    pub fn contains(&self, address: PhysAddr) -> bool {
        (self.base..self.end()).contains(&address)
    }

    /// How many frames there are, reserved ones included.
    #[must_use]
    pub const fn frames(&self) -> usize {
        self.owners.len()
    }

    /// How many frames are free.
    #[must_use]
    pub const fn free_frames(&self) -> usize {
        self.free_frames
    }

    /// Who owns the frame at `address`; `None` if it is free, reserved or not in the zone.
    #[must_use]
    pub fn owner(&self, address: PhysAddr) -> Option<O> {
        let index = address.offset_from(self.base)? / FRAME_LEN;
        *self.owners.get(usize::try_from(index).ok()?)?
    }

    /// Makes reserved frames free: those that lie wholly in the `len` bytes from `base`. Says how many they are.
    ///
    /// # Errors
    ///
    /// [`FrameError::Outside`] if the range reaches out of the zone; [`FrameError::Free`] or [`FrameError::Foreign`] at
    /// the first frame that is not reserved.
    pub fn offer(&mut self, base: PhysAddr, len: u64) -> Result<usize, FrameError> {
        let end = base.checked_add(len).ok_or(FrameError::Outside)?;
        if base < self.base || end > self.end() {
            return Err(FrameError::Outside);
        }
        // Both are offsets into the zone, whose frames can be counted.
        let offset = |address: PhysAddr| address.as_u64() - self.base.as_u64();
        let first = index(offset(base).div_ceil(FRAME_LEN));
        let range = first..index(offset(end) / FRAME_LEN).max(first);
        let is_reserved = |frame| !self.free.contains(frame) && self.owner_of(frame).is_none();
        if let Some(frame) = range.clone().find(|frame| !is_reserved(*frame)) {
            return Err(self.refusal(frame));
        }
        self.release(range.clone());
        Ok(range.len())
    }

    /// Gives `owner` `count` frames that follow each other, the first aligned to `size`.
    ///
    /// # Errors
    ///
    /// Any [`AllocateError`].
    pub fn allocate(
        &mut self,
        count: usize,
        size: FrameSize,
        owner: O,
    ) -> Result<Run, AllocateError> {
        if count == 0 {
            return Err(AllocateError::Nothing);
        }
        let grid = self.grid(size);
        let first = match size {
            FrameSize::Small => self.free.lowest_run(self.lowest, count, grid),
            FrameSize::Huge => self.free.highest_run(count, grid),
        };
        let first = first.ok_or(AllocateError::Exhausted)?;
        let range = first..first + count;
        self.free.remove(range.clone());
        self.free_frames -= count;
        if first == self.lowest {
            self.lowest = range.end;
        }
        self.set_owner(range, Some(owner));
        Ok(Run {
            base: self.address(first),
            frames: count,
        })
    }

    /// Takes back frames of `owner`: a run that was allocated, or any part of one.
    ///
    /// # Errors
    ///
    /// Any [`FrameError`].
    pub fn free(&mut self, run: Run, owner: O) -> Result<(), FrameError> {
        let range = self.owned_range(run, owner)?;
        self.release(range);
        Ok(())
    }

    /// Passes frames from one owner to another.
    ///
    /// # Errors
    ///
    /// Any [`FrameError`].
    pub fn transfer(&mut self, run: Run, from: O, to: O) -> Result<(), FrameError> {
        let range = self.owned_range(run, from)?;
        self.set_owner(range, Some(to));
        Ok(())
    }

    /// Takes back all frames of `owner` and says how many they were.
    pub fn free_all(&mut self, owner: O) -> usize {
        let mut count = 0;
        let mut from = 0;
        while let Some(range) = self.next_owned(from, owner) {
            from = range.end;
            count += range.len();
            self.release(range);
        }
        count
    }

    /// All frames of `owner`, in ascending order, those that follow each other together.
    pub fn owned_by(&self, owner: O) -> impl Iterator<Item = Run> {
        let first = self.next_owned(0, owner);
        let ranges = core::iter::successors(first, move |last| self.next_owned(last.end, owner));
        ranges.map(|range| Run {
            base: self.address(range.start),
            frames: range.len(),
        })
    }

    /// The frame numbers of a run, all of whose frames belong to `owner`.
    fn owned_range(&self, run: Run, owner: O) -> Result<Range<usize>, FrameError> {
        let offset = run.base.offset_from(self.base).ok_or(FrameError::Outside)?;
        if !offset.is_multiple_of(FRAME_LEN) {
            return Err(FrameError::Misaligned);
        }
        let first = usize::try_from(offset / FRAME_LEN).map_err(|_| FrameError::Outside)?;
        let end = first.checked_add(run.frames).ok_or(FrameError::Outside)?;
        let range = first..end;
        let owners = self.owners.get(range.clone()).ok_or(FrameError::Outside)?;
        let foreign = owners.iter().position(|found| *found != Some(owner));
        foreign.map_or(Ok(range), |index| Err(self.refusal(first + index)))
    }

    /// Why a frame that should be in one state is in another.
    fn refusal(&self, frame: usize) -> FrameError {
        let address = self.address(frame);
        if self.owner_of(frame).is_some() {
            FrameError::Foreign(address)
        } else if self.free.contains(frame) {
            FrameError::Free(address)
        } else {
            FrameError::Reserved(address)
        }
    }

    /// The first frames from number `from` on that `owner` has and that follow each other.
    fn next_owned(&self, from: usize, owner: O) -> Option<Range<usize>> {
        let rest = self.owners.get(from..)?;
        let first = rest.iter().position(|found| *found == Some(owner))?;
        let owned = rest.get(first..)?.iter();
        let count = owned.take_while(|found| **found == Some(owner)).count();
        Some(from + first..from + first + count)
    }

    /// Makes frames free that are not.
    fn release(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        self.lowest = self.lowest.min(range.start);
        self.free_frames += range.len();
        self.free.insert(range.clone());
        self.set_owner(range, None);
    }

    fn set_owner(&mut self, range: Range<usize>, owner: Option<O>) {
        if let Some(owners) = self.owners.get_mut(range) {
            owners.fill(owner);
        }
    }

    fn owner_of(&self, frame: usize) -> Option<O> {
        *self.owners.get(frame)?
    }

    /// Which frame numbers are aligned to `size`.
    fn grid(&self, size: FrameSize) -> Grid {
        let align = size.frames();
        let bias = self.base.as_u64() / FRAME_LEN % align as u64;
        Grid {
            align,
            bias: index(bias),
        }
    }

    /// The address of a frame number, which `new` made sure exists.
    fn address(&self, frame: usize) -> PhysAddr {
        PhysAddr::new(self.base.as_u64() + frame as u64 * FRAME_LEN)
    }
}

/// A number of a frame, as an index of the tables that hold it.
fn index(frame: u64) -> usize {
    // No saturation: there are at most as many frames as the table of owners, a slice, has entries.
    usize::try_from(frame).unwrap_or(usize::MAX)
}
