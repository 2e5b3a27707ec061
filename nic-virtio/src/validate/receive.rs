use parakernel_core::{
    address::{BusAddress, Direction, Iova},
    memory::{RegionTable, RegionWindow},
    ring::Position,
    validate::{DescriptorValidator, Validated, Violation},
};

use super::{Seal, Tracking, busy};
use crate::{
    error::RingError,
    virtqueue::{Format, Used, slot},
};

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
    tracking: Tracking,
    /// The slots that the device has, where that is not told by the positions.
    busy: [bool; N],
}

impl<const N: usize> ReceiveValidator<N> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "rings have at most 32768 entries"
    )]
    const ENTRIES: u32 = N as u32;

    /// A validator for buffers of `posted` bytes, header included.
    #[must_use]
    pub const fn new(posted: u32) -> Self {
        Self {
            accepted: Position::START,
            returned: Position::START,
            posted,
            tracking: Tracking::InOrder,
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

    /// Takes note of the completions of the ring `used`, `ready` of them at most.
    ///
    /// # Errors
    ///
    /// Where the device names a buffer that it did not have. How much it wrote is the process's to check, whose buffer
    /// it is.
    #[inline]
    pub fn take_back(&mut self, used: &impl Format, ready: u32) -> Result<(), RingError> {
        let ready = ready.min(self.outstanding());
        let end = self.returned.advanced(ready);
        if self.tracking == Tracking::InOrder {
            self.returned = self.returned.advanced(used.in_step(self.returned, ready));
        }
        while self.returned != end
            && let Some(Used { id, .. }) = used.used(self.returned)
        {
            self.take_marked(id)?;
        }
        Ok(())
    }

    /// Takes note of a completion in whatever order.
    #[cold]
    fn take_marked(&mut self, id: u32) -> Result<(), RingError> {
        if self.tracking == Tracking::InOrder {
            self.tracking = Tracking::Marked;
            self.busy = [false; N];
            for ahead in 0..self.outstanding() {
                self.busy[slot(self.returned.advanced(ahead), N)] = true;
            }
        }
        match self.busy.get_mut(id as usize) {
            Some(busy) if *busy => *busy = false,
            _ => return Err(RingError::Id(id)),
        }
        self.returned = self.returned.after();
        if self.outstanding() == 0 {
            self.tracking = Tracking::InOrder;
        }
        Ok(())
    }

    fn is_busy(&self, index: usize) -> bool {
        match self.tracking {
            Tracking::Single | Tracking::InOrder => self.outstanding() == Self::ENTRIES,
            Tracking::Marked => self.busy.get(index).copied().unwrap_or(true),
        }
    }

    /// How many buffers can be accepted before one is met whose slot the device may still have, as far as that is
    /// known without looking at marks.
    #[inline]
    pub(crate) fn room(&self) -> usize {
        match self.tracking {
            Tracking::InOrder => (Self::ENTRIES - self.outstanding()) as usize,
            Tracking::Single | Tracking::Marked => 0,
        }
    }

    /// Checks the buffers at the addresses in `run`, each with where it goes, and hands them to `write`, up to the first
    /// that does not lie in `window`; none where there is no [`room`](Self::room) for all of them.
    #[inline]
    pub(crate) fn check_run<W>(
        &mut self,
        run: impl ExactSizeIterator<Item = (Iova, W)>,
        window: &RegionWindow,
        write: impl Fn(W, Validated<Self>),
    ) {
        if run.len() > self.room() {
            return;
        }
        let window = window.narrowed(self.posted.into());
        let start = self.accepted;
        let mut count = 0;
        for (from, to) in run {
            let Some(address) = window.translate(from, 1) else {
                break;
            };
            let at = start.advanced(count);
            write(to, Validated::new(ReceiveBuffer { at, address }, Seal(())));
            count += 1;
        }
        self.accepted = start.advanced(count);
    }

    /// Checks the buffer at `address`, for the next position.
    #[cold]
    pub(crate) fn check(
        &mut self,
        address: Iova,
        regions: &RegionTable<'_>,
    ) -> Result<Validated<Self>, Violation> {
        let at = self.accepted;
        let index = slot(at, N);
        if self.is_busy(index) {
            return Err(busy(index));
        }
        let len = u64::from(self.posted);
        let address = regions.translate(address, len, Direction::FromDevice)?;
        if self.tracking == Tracking::Marked {
            self.busy[index] = true;
        }
        self.accepted = at.after();
        Ok(Validated::new(ReceiveBuffer { at, address }, Seal(())))
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
        self.check(address, regions)
    }
}
