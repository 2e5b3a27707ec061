//! Physical memory, per node, in frames that each belong to exactly one owner.
//!
//! A [`Zone`] is one contiguous range of one node; a [`FrameAllocator`] is all zones of a machine. A frame is *reserved*
//! until the kernel offers it ([`Zone::offer`]), then *free*, then *owned*. Giving back what one does not own is an
//! error, whether it is free, another's or reserved, and changes nothing.
//!
//! Contents are the caller's business: frames must be zeroed before they change owner.
//!
//! ```
//! use core::num::NonZeroU32;
//! use parakernel_core::address::{NodeId, PhysAddr};
//! use parakernel_numa::frames::{FrameAllocator, FrameSize, Zone, ZoneStorage};
//!
//! // 8 MiB at 1 GiB, on node 0: one bit and one owner per frame.
//! let (mut free, mut owners) = ([0; 32], [None; 2048]);
//! let storage = ZoneStorage { free: &mut free, owners: &mut owners };
//! let mut zone = Zone::new(NodeId::new(0), PhysAddr::new(1 << 30), storage)?;
//! zone.offer(PhysAddr::new(1 << 30), 8 << 20)?;
//! let mut zones = [zone];
//! let mut frames = FrameAllocator::new(&mut zones)?;
//!
//! let process = NonZeroU32::MIN;
//! let ring = frames.allocate(NodeId::new(0), 3, FrameSize::Small, process)?;
//! let pool = frames.allocate(NodeId::new(0), 512, FrameSize::Huge, process)?;
//! assert!(pool.base.is_aligned(2 << 20));
//! assert_eq!(frames.owner(ring.base), Some(process));
//! frames.free(ring, process)?;
//! assert!(frames.free(ring, process).is_err());
//! assert_eq!(frames.free_all(process), 512);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use core::fmt;

use parakernel_core::address::{NodeId, PhysAddr};
use parakernel_core::error::ErrorKind;

mod bitmap;
mod zone;

pub use zone::{Zone, ZoneStorage};

/// Bytes of a frame.
pub const FRAME_LEN: u64 = 4096;

/// Where the first frame of a run may lie.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum FrameSize {
    /// At any multiple of 4 KiB.
    Small,
    /// At a multiple of 2 MiB, as a huge page must.
    Huge,
}

impl FrameSize {
    /// Frames of 4 KiB in one page of this size.
    #[must_use]
    pub const fn frames(self) -> usize {
        match self {
            Self::Small => 1,
            Self::Huge => 512,
        }
    }

    /// Bytes of one page of this size.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Small => FRAME_LEN,
            Self::Huge => 2 << 20,
        }
    }
}

/// Frames that follow each other in physical memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Run {
    /// The first byte of the first frame.
    pub base: PhysAddr,
    /// How many frames of 4 KiB.
    pub frames: usize,
}

/// Why no frames were given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum AllocateError {
    /// The node has no run of as many free frames.
    Exhausted,
    /// No frames were asked for.
    Nothing,
}

/// Why frames were not taken back, passed on or offered. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum FrameError {
    /// No zone holds all of the range.
    Outside,
    /// The address is no multiple of 4 KiB.
    Misaligned,
    /// The frame at this address is free already.
    Free(PhysAddr),
    /// The frame at this address belongs to another.
    Foreign(PhysAddr),
    /// The frame at this address was never offered.
    Reserved(PhysAddr),
}

/// Why zones cannot be used together, or storage not for a zone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum ZoneError {
    /// The zone starts at no multiple of 4 KiB.
    Misaligned,
    /// The zone ends beyond the last address.
    Range,
    /// The bits are too few for the owners.
    Storage {
        /// Words there are.
        words: usize,
        /// Words there must be.
        needed: usize,
    },
    /// Two zones hold the frame at this address.
    Overlap(PhysAddr),
}

/// All frames of a machine, in zones that lie in the caller's slice.
#[derive(Debug)]
pub struct FrameAllocator<'z, 's, O> {
    zones: &'z mut [Zone<'s, O>],
}

impl<'z, 's, O: Copy + Eq> FrameAllocator<'z, 's, O> {
    /// The allocator of `zones`, which it sorts.
    ///
    /// # Errors
    ///
    /// [`ZoneError::Overlap`].
    pub fn new(zones: &'z mut [Zone<'s, O>]) -> Result<Self, ZoneError> {
        zones.sort_unstable_by_key(|zone| (zone.base(), zone.end()));
        for pair in zones.windows(2) {
            if let [first, second] = pair
                && second.base() < first.end()
            {
                return Err(ZoneError::Overlap(second.base()));
            }
        }
        Ok(Self { zones })
    }

    /// The zones, in ascending order.
    #[must_use]
    pub fn zones(&self) -> &[Zone<'s, O>] {
        self.zones
    }

    /// Makes reserved frames of one zone free: those that lie wholly in the `len` bytes from `base`. Says how many.
    ///
    /// # Errors
    ///
    /// As [`Zone::offer`].
    pub fn offer(&mut self, base: PhysAddr, len: u64) -> Result<usize, FrameError> {
        self.zone_of(base)?.offer(base, len)
    }

    /// Gives `owner` `count` frames of `node` that follow each other, the first aligned to `size`.
    ///
    /// # Errors
    ///
    /// [`AllocateError::Exhausted`] if no zone of the node has such a run. Whether another node may serve instead is for
    /// the caller to say: see [`nearest`](crate::placement::nearest).
    pub fn allocate(
        &mut self,
        node: NodeId,
        count: usize,
        size: FrameSize,
        owner: O,
    ) -> Result<Run, AllocateError> {
        if count == 0 {
            return Err(AllocateError::Nothing);
        }
        let mut zones = self.zones.iter_mut().filter(|zone| zone.node() == node);
        zones
            .find_map(|zone| zone.allocate(count, size, owner).ok())
            .ok_or(AllocateError::Exhausted)
    }

    /// Takes back frames of `owner`: a run that was allocated, or any part of one.
    ///
    /// # Errors
    ///
    /// Any [`FrameError`].
    pub fn free(&mut self, run: Run, owner: O) -> Result<(), FrameError> {
        self.zone_of(run.base)?.free(run, owner)
    }

    /// Passes frames from one owner to another, such as from a process to the quarantine.
    ///
    /// # Errors
    ///
    /// Any [`FrameError`].
    pub fn transfer(&mut self, run: Run, from: O, to: O) -> Result<(), FrameError> {
        self.zone_of(run.base)?.transfer(run, from, to)
    }

    /// Takes back all frames of `owner` and says how many they were.
    ///
    /// Looks at every frame. To zero them first, see [`owned_by`](Self::owned_by).
    pub fn free_all(&mut self, owner: O) -> usize {
        self.zones.iter_mut().map(|zone| zone.free_all(owner)).sum()
    }

    /// All frames of `owner`, in ascending order, those that follow each other together.
    pub fn owned_by(&self, owner: O) -> impl Iterator<Item = Run> {
        self.zones.iter().flat_map(move |zone| zone.owned_by(owner))
    }

    /// Who owns the frame at `address`; `None` if it is free, reserved or in no zone.
    #[must_use]
    pub fn owner(&self, address: PhysAddr) -> Option<O> {
        let mut zones = self.zones.iter();
        zones.find(|zone| zone.contains(address))?.owner(address)
    }

    /// How many frames of `node` are free.
    #[must_use]
    pub fn free_frames(&self, node: NodeId) -> usize {
        let zones = self.zones.iter().filter(|zone| zone.node() == node);
        zones.map(Zone::free_frames).sum()
    }

    fn zone_of(&mut self, address: PhysAddr) -> Result<&mut Zone<'s, O>, FrameError> {
        let mut zones = self.zones.iter_mut();
        zones
            .find(|zone| zone.contains(address))
            .ok_or(FrameError::Outside)
    }
}

impl Run {
    /// Bytes of the run.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        (self.frames as u64).saturating_mul(FRAME_LEN)
    }

    /// The address of each frame, in ascending order.
    pub fn addresses(&self) -> impl Iterator<Item = PhysAddr> + use<> {
        let base = self.base.as_u64();
        (0..self.frames as u64).map_while(move |index| {
            let offset = index.checked_mul(FRAME_LEN)?;
            base.checked_add(offset).map(PhysAddr::new)
        })
    }
}

impl fmt::Display for AllocateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exhausted => "the node has no run of as many free frames",
            Self::Nothing => "no frames were asked for",
        })
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outside => f.write_str("no zone holds all of the frames"),
            Self::Misaligned => f.write_str("no frame starts there"),
            Self::Free(frame) => write!(f, "the frame at {frame:#x} is free"),
            Self::Foreign(frame) => write!(f, "the frame at {frame:#x} belongs to another"),
            Self::Reserved(frame) => write!(f, "the frame at {frame:#x} is reserved"),
        }
    }
}

impl fmt::Display for ZoneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Misaligned => f.write_str("no frame starts where the zone does"),
            Self::Range => f.write_str("the zone ends beyond the last address"),
            Self::Storage { words, needed } => {
                write!(f, "{words} words of bits where {needed} are needed")
            }
            Self::Overlap(frame) => write!(f, "two zones hold the frame at {frame:#x}"),
        }
    }
}

impl core::error::Error for AllocateError {}
impl core::error::Error for FrameError {}
impl core::error::Error for ZoneError {}

impl parakernel_core::error::Error for AllocateError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Exhausted => ErrorKind::Exhausted,
            Self::Nothing => ErrorKind::InvalidArgument,
        }
    }
}

impl parakernel_core::error::Error for FrameError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Outside | Self::Misaligned => ErrorKind::InvalidArgument,
            Self::Free(_) | Self::Foreign(_) | Self::Reserved(_) => ErrorKind::Denied,
        }
    }
}

impl parakernel_core::error::Error for ZoneError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidArgument
    }
}
