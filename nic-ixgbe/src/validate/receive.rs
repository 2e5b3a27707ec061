use parakernel_core::{
    address::{BusAddress, Direction, Iova},
    memory::{RegionTable, RegionWindow},
    ring::Position,
    validate::{DescriptorValidator, Validated, Violation},
};

use super::Seal;
use crate::slot;

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
/// Of an entry nothing is taken but its address. How much the device writes there is set for the whole queue, so that
/// much has to lie in the process's regions. Bit 0 of the address is none of it (§7.1.6.1): odd addresses are refused.
#[derive(Debug)]
pub struct ReceiveValidator<const N: usize> {
    /// The next position to be accepted.
    accepted: Position,
    /// Every position before it is known to have been returned.
    returned: Position,
    /// Bytes that the device may write into a buffer.
    posted: u32,
}

impl<const N: usize> ReceiveValidator<N> {
    /// The most buffers that the device may have: a tail that equals the head says that there are none (§7.1.9).
    #[expect(clippy::cast_possible_truncation, reason = "rings are that short")]
    const MOST: u32 = N as u32 - 1;

    /// A validator for buffers into which the device writes up to `posted` bytes.
    #[must_use]
    pub const fn new(posted: u32) -> Self {
        Self {
            accepted: Position::START,
            returned: Position::START,
            posted,
        }
    }

    /// The next position to be accepted.
    #[inline]
    #[must_use]
    pub const fn accepted(&self) -> Position {
        self.accepted
    }

    /// Every position before it is known to have been returned.
    #[inline]
    #[must_use]
    pub const fn returned(&self) -> Position {
        self.returned
    }

    /// Bytes that the device may write into a buffer.
    #[inline]
    #[must_use]
    pub const fn posted(&self) -> u32 {
        self.posted
    }

    /// Number of buffers that the device may still have.
    #[inline]
    #[must_use]
    pub const fn outstanding(&self) -> u32 {
        self.accepted.since(self.returned)
    }

    /// How many entries the process claims to have written, of a ring of which `MOST` can be with the device.
    ///
    /// # Errors
    ///
    /// [`Violation::TailJump`] for more than that, or less than nothing.
    #[inline]
    pub fn claimed(&self, claim: Position) -> Result<u32, Violation> {
        let count = claim.since(self.accepted);
        if count > Self::MOST {
            return Err(Violation::TailJump {
                claimed: claim.as_u32(),
                accepted: self.accepted.as_u32(),
            });
        }
        Ok(count)
    }

    /// Makes sure that the `count` entries that come next, which [`claimed`](Self::claimed) has bounded, go to slots that
    /// the device has let go of: the device returns them in order, so it looks at the last of them alone.
    ///
    /// # Errors
    ///
    /// [`Violation::Busy`] where it has not.
    #[inline]
    pub fn make_room(
        &mut self,
        count: u32,
        is_done: impl FnOnce(usize) -> bool,
    ) -> Result<(), Violation> {
        let over = (self.outstanding() + count).saturating_sub(Self::MOST);
        if over == 0 {
            return Ok(());
        }
        // `over` is at most what is outstanding, as `count` is at most `MOST`.
        let last = slot(self.returned.advanced(over - 1), N);
        if !is_done(last) {
            return Err(busy(last));
        }
        self.returned = self.returned.advanced(over);
        Ok(())
    }

    /// Takes note that the next buffer was returned, if there is one.
    pub fn take_back(&mut self) {
        if self.outstanding() > 0 {
            self.returned = self.returned.after();
        }
    }

    /// Checks the buffers at the addresses in `run`, `L` at a time with where they go, and hands them to `write`, up to the
    /// first `L` that do not all lie in `window`. There must be room for all of them.
    ///
    /// # Errors
    ///
    /// [`Violation::Forbidden`] for an odd address. What was handed out before must then not reach the device.
    #[inline]
    pub(crate) fn check_run<const L: usize, W>(
        &mut self,
        run: impl Iterator<Item = ([Iova; L], W)>,
        window: &RegionWindow,
        write: impl Fn(W, [Validated<Self>; L]),
    ) -> Result<(), Violation> {
        let window = window.narrowed(self.posted.into());
        let (mut at, mut bits) = (self.accepted, 0);
        for (from, to) in run {
            let Some(line) = translate(from, &window) else {
                break;
            };
            let accepted = line.map(|address| {
                bits |= address.as_u64();
                let buffer = ReceiveBuffer { at, address };
                at = at.after();
                Validated::new(buffer, Seal(()))
            });
            write(to, accepted);
        }
        self.accepted = at;
        // A region begins at a page, so an address is odd on the bus if it is for the process.
        check_even(bits)
    }

    /// Checks the buffer at `address`, for the next position.
    #[cold]
    pub(crate) fn check(
        &mut self,
        address: Iova,
        regions: &RegionTable<'_>,
    ) -> Result<Validated<Self>, Violation> {
        let at = self.accepted;
        if self.outstanding() == Self::MOST {
            return Err(busy(slot(at, N)));
        }
        check_even(address.as_u64())?;
        let address = regions.translate(address, self.posted.into(), Direction::FromDevice)?;
        self.accepted = at.after();
        Ok(Validated::new(ReceiveBuffer { at, address }, Seal(())))
    }
}

/// Where `L` buffers are on the bus; `None` where one does not begin in `window`.
#[inline]
fn translate<const L: usize>(from: [Iova; L], window: &RegionWindow) -> Option<[BusAddress; L]> {
    let mut to = [BusAddress::new(0); L];
    for (to, from) in to.iter_mut().zip(from) {
        *to = window.translate(from, 1)?;
    }
    Some(to)
}

#[inline]
const fn check_even(address: u64) -> Result<(), Violation> {
    if address & 1 == 0 {
        Ok(())
    } else {
        Err(Violation::Forbidden { field: address })
    }
}

#[cold]
fn busy(index: usize) -> Violation {
    Violation::Busy {
        id: u32::try_from(index).unwrap_or(u32::MAX),
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
