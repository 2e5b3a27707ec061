use parakernel_core::{
    address::{Direction, Iova},
    memory::{RegionTable, RegionWindow, SharedMemory},
    queue::Doorbell,
    ring::Position,
    validate::Validated,
};

use super::Fault;
use crate::{
    descriptor::{Completion, RxDescriptor},
    line::LINE,
    slot,
    validate::ReceiveValidator,
};

/// The kernel's side of a receive queue that is checked.
#[derive(Debug)]
pub struct CheckedReceiver<'a, D, const N: usize> {
    /// The device's ring, which the process sees read-only.
    hardware: &'a [RxDescriptor; N],
    /// The process's ring, of which the addresses are read.
    shadow: &'a [RxDescriptor; N],
    doorbell: D,
    validator: ReceiveValidator<N>,
}

impl<'a, D: Doorbell, const N: usize> CheckedReceiver<'a, D, N> {
    /// A queue with nothing armed, into whose buffers the device writes up to `posted` bytes each, as it was set up: see
    /// [`buffer_size`](crate::rx::buffer_size).
    ///
    /// `None` where a ring is too short or not aligned, or `posted` is 0.
    #[must_use]
    pub fn new(
        hardware: SharedMemory<'a>,
        shadow: SharedMemory<'a>,
        doorbell: D,
        posted: u32,
    ) -> Option<Self> {
        if posted == 0 {
            return None;
        }
        Some(Self {
            hardware: hardware.view(0)?,
            shadow: shadow.view(0)?,
            doorbell,
            validator: ReceiveValidator::new(posted),
        })
    }

    /// How far the process's entries were taken over.
    #[must_use]
    pub const fn accepted(&self) -> Position {
        self.validator.accepted()
    }

    /// Number of buffers that the device may still have.
    #[must_use]
    pub const fn outstanding(&self) -> u32 {
        self.validator.outstanding()
    }

    /// The position whose completion comes next.
    #[must_use]
    pub const fn next(&self) -> Position {
        self.validator.returned()
    }

    /// What the device wrote for the buffer at `position`. It says so until the process has armed the place anew, and that
    /// was taken over.
    #[must_use]
    pub fn completion(&self, position: Position) -> Completion {
        self.hardware[slot(position, N)].completion()
    }

    /// Takes over up to `budget` entries before `claim`, and returns how far it came.
    ///
    /// # Errors
    ///
    /// What the process did that it may not. The device was told of nothing of this batch then, and the queue is to be
    /// stopped.
    pub fn service(
        &mut self,
        claim: Position,
        regions: &RegionTable<'_>,
        budget: u32,
    ) -> Result<Position, Fault> {
        let start = self.validator.accepted();
        let count = self.validator.claimed(claim)?.min(budget);
        if count == 0 {
            return Ok(start);
        }
        let hardware = self.hardware;
        let is_done = |index: usize| hardware[index & (N - 1)].completion().is_done();
        self.validator.make_room(count, is_done)?;
        let end = start.advanced(count);
        let window = regions.window_ref(Direction::FromDevice);
        while self.validator.accepted() != end {
            self.take_run(end, window)?;
            if self.validator.accepted() != end {
                self.take_one(regions)?;
            }
        }
        self.doorbell.ring(end);
        Ok(end)
    }

    /// Takes over entries before `end` that lie in `window`, up to the ring's end.
    #[inline]
    fn take_run(&mut self, end: Position, window: &RegionWindow) -> Result<(), Fault> {
        if end.since(self.validator.accepted()) as usize >= LINE {
            self.take_lines::<LINE>(end, window)?;
            if self.validator.accepted() == end {
                return Ok(());
            }
        }
        self.take_lines::<1>(end, window)
    }

    /// The same, as far as there are `L` at a time.
    #[inline]
    fn take_lines<const L: usize>(
        &mut self,
        end: Position,
        window: &RegionWindow,
    ) -> Result<(), Fault> {
        let start = self.validator.accepted();
        let first = slot(start, N);
        let last = N.min(first + end.since(start) as usize);
        let shadow = self.shadow[first..last].as_chunks::<L>().0.iter();
        let run = shadow.map(|line| line.each_ref().map(|entry| Iova::new(entry.address())));
        let run = run.zip(self.hardware[first..last].as_chunks::<L>().0);
        let write = |place: &[RxDescriptor; L], buffers: [Validated<ReceiveValidator<N>>; L]| {
            for (place, buffer) in place.iter().zip(buffers) {
                place.arm(buffer.into_inner().address.as_u64());
            }
        };
        Ok(self.validator.check_run(run, window, write)?)
    }

    /// Takes over the next entry.
    #[cold]
    fn take_one(&mut self, regions: &RegionTable<'_>) -> Result<(), Fault> {
        let index = slot(self.validator.accepted(), N);
        let address = Iova::new(self.shadow[index].address());
        let buffer = self.validator.check(address, regions)?.into_inner();
        self.hardware[index].arm(buffer.address.as_u64());
        Ok(())
    }

    /// Takes note of what the device returned; the number of buffers. Servicing does that by itself, as far as it needs to.
    pub fn harvest(&mut self) -> u32 {
        let start = self.validator.returned();
        while self.validator.outstanding() > 0
            && self.hardware[slot(self.validator.returned(), N)]
                .completion()
                .is_done()
        {
            self.validator.take_back();
        }
        self.validator.returned().since(start)
    }
}
