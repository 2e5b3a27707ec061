//! What a process's rings may make the device do: the validators of receive and transmit rings.
//!
//! They hold everything that decides, and never look at shared memory: entries reach them as copies. A slot is *busy*
//! from the moment its entry was accepted until the device has returned it, whatever the process says meanwhile.

use parakernel_core::{
    address::{BusAddress, Direction, Iova},
    memory::{RegionTable, RegionWindow},
    ring::Position,
    validate::{DescriptorValidator, Validated, Violation},
};

use crate::{
    error::RingError,
    header::Header,
    virtqueue::{DescriptorFlags, Entry, Used, slot},
};

/// What only this module can make: the proof that a validator accepted something.
#[derive(Debug)]
pub struct Seal(());

/// The most segments that a process's frame may have. A jumbo frame of 9,000 bytes takes five buffers of 2 KiB.
pub const MAX_SEGMENTS: u32 = 16;

/// A receive buffer to be armed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReceiveBuffer {
    /// Where in the ring.
    pub at: Position,
    /// Its first byte, on the bus.
    pub address: BusAddress,
}

/// Checks the entries of a receive ring.
///
/// Of an entry nothing is taken but its address: length and flags are the kernel's, so that the device is told the
/// same for each buffer, whatever the process wrote.
#[derive(Debug)]
pub struct ReceiveValidator<const N: usize> {
    /// The next position to be accepted.
    accepted: Position,
    /// The next position whose completion was not seen.
    returned: Position,
    /// Bytes of each buffer, header included.
    posted: u32,
    busy: [bool; N],
}

impl<const N: usize> ReceiveValidator<N> {
    /// A validator for buffers of `posted` bytes, header included.
    #[must_use]
    pub const fn new(posted: u32) -> Self {
        Self {
            accepted: Position::START,
            returned: Position::START,
            posted,
            busy: [false; N],
        }
    }

    /// The next position to be accepted.
    #[inline]
    #[must_use]
    pub const fn accepted(&self) -> Position {
        self.accepted
    }

    /// The next position whose completion was not seen.
    #[inline]
    #[must_use]
    pub const fn returned(&self) -> Position {
        self.returned
    }

    /// Bytes of each buffer, header included.
    #[inline]
    #[must_use]
    pub const fn posted(&self) -> u32 {
        self.posted
    }

    /// Number of buffers that the device has.
    #[inline]
    #[must_use]
    pub const fn outstanding(&self) -> u32 {
        self.accepted.since(self.returned)
    }

    /// Takes note that the device returned the buffer that `used` names.
    ///
    /// # Errors
    ///
    /// Where it names none that the device had, or says that more was written than the buffer has.
    #[inline]
    pub fn take_back(&mut self, used: Used) -> Result<(), RingError> {
        match self.busy.get_mut(used.id as usize) {
            Some(busy) if *busy => *busy = false,
            _ => return Err(RingError::Id(used.id)),
        }
        if used.len > self.posted {
            return Err(RingError::Length {
                len: used.len,
                posted: self.posted,
            });
        }
        self.returned = self.returned.after();
        Ok(())
    }

    /// Checks the buffer at `address`, for the next position; `window` is tried before `regions`.
    #[inline]
    pub(crate) fn check(
        &mut self,
        address: Iova,
        window: &RegionWindow,
        regions: &RegionTable<'_>,
    ) -> Result<Validated<Self>, Violation> {
        let at = self.accepted;
        let index = slot(at, N);
        if self.busy[index] {
            return Err(busy(index));
        }
        let len = u64::from(self.posted);
        let bus = match window.translate(address, len) {
            Some(bus) => bus,
            None => regions.translate(address, len, Direction::FromDevice)?,
        };
        self.busy[index] = true;
        self.accepted = at.after();
        let buffer = ReceiveBuffer { at, address: bus };
        Ok(Validated::new(buffer, Seal(())))
    }
}

impl<const N: usize> DescriptorValidator for ReceiveValidator<N> {
    /// The address of the buffer that is to be armed next.
    type Submission = Iova;
    type Accepted = ReceiveBuffer;
    type Seal = Seal;

    fn validate(
        &mut self,
        address: Iova,
        regions: &RegionTable<'_>,
    ) -> Result<Validated<Self>, Violation> {
        let window = regions.window(Direction::FromDevice);
        self.check(address, &window, regions)
    }
}

/// A part of a frame to be sent, its header stripped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FramePart {
    /// Its first byte, on the bus.
    pub address: BusAddress,
    /// Length in bytes, not 0.
    pub len: u32,
    /// Slot of the frame's first descriptor: the id of the frame.
    pub frame: u16,
    /// Whether the frame ends here; only then may anything of it be posted.
    pub is_last: bool,
}

/// How much of a frame was accepted so far.
#[derive(Clone, Copy, Debug, Default)]
struct Begun {
    parts: u32,
    bytes: u32,
}

/// Checks the entries of a transmit ring, one part of a frame after the other.
///
/// A frame's entries follow each other in the ring, and the frame ends at the first that does not say `NEXT`. Nothing
/// else is taken from an entry's flags, nor anything from the header before the frame, which the kernel replaces.
#[derive(Debug)]
pub struct TransmitValidator<const N: usize> {
    /// Where the next entry is read.
    next: Position,
    begun: Begun,
    /// The longest frame, in bytes.
    max_frame: u32,
    /// For each slot: 0, or the number of parts of the frame that begins there, or [`FURTHER`](Self::FURTHER).
    busy: [u8; N],
}

impl<const N: usize> TransmitValidator<N> {
    /// A slot that is busy with a further part of a frame.
    const FURTHER: u8 = u8::MAX;
    /// An Ethernet header: shorter frames are none.
    const MIN_FRAME: u32 = 14;
    #[expect(clippy::cast_possible_truncation, reason = "12")]
    const HEADER: u32 = Header::LEN as u32;

    /// A validator for frames of up to `max_frame` bytes.
    #[must_use]
    pub const fn new(max_frame: u32) -> Self {
        Self {
            next: Position::START,
            begun: Begun { parts: 0, bytes: 0 },
            max_frame,
            busy: [0; N],
        }
    }

    /// Where the next entry is read.
    #[inline]
    #[must_use]
    pub const fn next(&self) -> Position {
        self.next
    }

    /// Takes note that the device returned frame `id`; its number of parts.
    ///
    /// # Errors
    ///
    /// Where that is none that the device had.
    #[inline]
    pub fn take_back(&mut self, id: u32) -> Result<u32, RingError> {
        let index = id as usize;
        match self.busy.get_mut(index) {
            Some(parts) if *parts == 1 => *parts = 0,
            Some(parts) if *parts > 1 && *parts != Self::FURTHER => return Ok(self.free(index)),
            _ => return Err(RingError::Id(id)),
        }
        Ok(1)
    }

    #[cold]
    fn free(&mut self, first: usize) -> u32 {
        let parts = u32::from(self.busy[first & (N - 1)]);
        for part in 0..parts as usize {
            self.busy[(first + part) & (N - 1)] = 0;
        }
        parts
    }

    /// Checks the next entry; `window` is tried before `regions`.
    #[inline]
    pub(crate) fn check(
        &mut self,
        entry: Entry,
        window: &RegionWindow,
        regions: &RegionTable<'_>,
    ) -> Result<Validated<Self>, Violation> {
        if self.begun.parts != 0 || !entry.flags.is_empty() {
            return self.check_part(entry, regions);
        }
        let index = slot(self.next, N);
        if self.busy[index] != 0 {
            return Err(busy(index));
        }
        let len = entry.len.wrapping_sub(Self::HEADER);
        // A length below the header's wraps to a huge one.
        if len.wrapping_sub(Self::MIN_FRAME) > self.max_frame - Self::MIN_FRAME {
            return Err(Violation::Length {
                len: entry.len.into(),
            });
        }
        // The header is not read by anybody. Where the sum wraps, the wrapped address is what is checked and used.
        let address = Iova::new(entry.address.wrapping_add(Header::LEN as u64));
        let bus = match window.translate(address, len.into()) {
            Some(bus) => bus,
            None => regions.translate(address, len.into(), Direction::ToDevice)?,
        };
        self.busy[index] = 1;
        self.next = self.next.after();
        let part = FramePart {
            address: bus,
            len,
            frame: id(index),
            is_last: true,
        };
        Ok(Validated::new(part, Seal(())))
    }

    /// The general case: an entry of a frame with several parts, or one with flags that it may not have.
    #[cold]
    fn check_part(
        &mut self,
        entry: Entry,
        regions: &RegionTable<'_>,
    ) -> Result<Validated<Self>, Violation> {
        let Begun { parts, bytes } = self.begun;
        let index = slot(self.next, N);
        let head = index.wrapping_sub(parts as usize) & (N - 1);
        let is_last = !entry.flags.contains(DescriptorFlags::NEXT);
        if !(entry.flags - DescriptorFlags::NEXT).is_empty() {
            return Err(Violation::Forbidden {
                field: entry.flags.bits().into(),
            });
        }
        if self.busy[index] != 0 {
            return Err(busy(index));
        }
        if parts == MAX_SEGMENTS || parts as usize == N || (!is_last && parts + 1 == MAX_SEGMENTS) {
            return Err(Violation::Chain {
                head: id(head).into(),
            });
        }
        let header = if parts == 0 { Self::HEADER } else { 0 };
        let length = || Violation::Length {
            len: entry.len.into(),
        };
        let len = entry.len.checked_sub(header).filter(|&len| len > 0);
        let len = len.ok_or_else(length)?;
        let bytes = bytes
            .checked_add(len)
            .filter(|&bytes| bytes <= self.max_frame);
        let bytes = bytes.ok_or_else(length)?;
        if is_last && bytes < Self::MIN_FRAME {
            return Err(length());
        }
        let address = Iova::new(entry.address.wrapping_add(header.into()));
        let bus = regions.translate(address, len.into(), Direction::ToDevice)?;
        self.busy[index] = Self::FURTHER;
        self.next = self.next.after();
        self.begun = Begun {
            parts: parts + 1,
            bytes,
        };
        if is_last {
            self.finish(head);
        }
        let part = FramePart {
            address: bus,
            len,
            frame: id(head),
            is_last,
        };
        Ok(Validated::new(part, Seal(())))
    }

    /// Marks the frame that begins at `head` as complete.
    fn finish(&mut self, head: usize) {
        let parts = core::mem::take(&mut self.begun).parts;
        // At most `MAX_SEGMENTS`.
        self.busy[head & (N - 1)] = u8::try_from(parts).unwrap_or(Self::FURTHER - 1);
    }
}

impl<const N: usize> DescriptorValidator for TransmitValidator<N> {
    /// The next entry of the ring. Only what belongs to a whole frame may be posted: see [`FramePart::is_last`].
    type Submission = Entry;
    type Accepted = FramePart;
    type Seal = Seal;

    fn validate(
        &mut self,
        entry: Entry,
        regions: &RegionTable<'_>,
    ) -> Result<Validated<Self>, Violation> {
        let window = regions.window(Direction::ToDevice);
        self.check(entry, &window, regions)
    }
}

#[cold]
fn busy(index: usize) -> Violation {
    Violation::Busy {
        id: id(index).into(),
    }
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "slots are below 32768")]
const fn id(index: usize) -> u16 {
    index as u16
}
