use parakernel_core::{
    address::{Direction, Iova},
    memory::{ArenaLayout, RegionTable, RegionWindow, SharedMemory},
    queue::Doorbell,
    ring::Position,
    validate::{Validated, Violation},
};

use super::{Fault, claimed};
use crate::{
    header::Header,
    validate::ReceiveValidator,
    virtqueue::{Descriptor, ReceiveFormat, slot, split::Split},
};

/// The kernel's side of a receive queue that is checked.
#[derive(Debug)]
pub struct CheckedReceiver<'a, F, D, const N: usize> {
    /// The device's ring. Its used ring, or the packed ring itself, is what the process sees read-only.
    hardware: F,
    /// The process's ring: its descriptors, of which the addresses are read.
    shadow: &'a [Descriptor; N],
    doorbell: D,
    validator: ReceiveValidator<N>,
}

impl<'a, F: ReceiveFormat, D: Doorbell, const N: usize> CheckedReceiver<'a, F, D, N> {
    /// A queue with nothing armed, for buffers of `posted` bytes with the header: the device is told that each has so
    /// many, whatever the process writes.
    ///
    /// `shadow` is the process's ring (split: its descriptor table), `hardware` the device's. `None` where the shadow is
    /// too small or not aligned, or the ring does not have `N` entries.
    #[must_use]
    pub fn new(hardware: F, doorbell: D, shadow: SharedMemory<'a>, posted: u32) -> Option<Self> {
        if F::ENTRIES != N || posted as usize <= Header::LEN {
            return None;
        }
        hardware.prepare(posted);
        Some(Self {
            hardware,
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

    /// Number of buffers that the device has.
    #[must_use]
    pub const fn outstanding(&self) -> u32 {
        self.validator.outstanding()
    }

    /// The device's ring, to ask for interrupts.
    #[must_use]
    pub const fn hardware(&self) -> &F {
        &self.hardware
    }

    /// The position whose completion comes next.
    #[must_use]
    pub const fn next(&self) -> Position {
        self.validator.returned()
    }

    /// Takes over up to `budget` entries before `claim`, and returns how far it came.
    ///
    /// # Errors
    ///
    /// What the process, or the device, did that it may not. No doorbell was rung for this batch then, and the queue is
    /// to be reset. What was checked before may be with the device already: in a packed ring each entry becomes valid by
    /// itself.
    pub fn service(
        &mut self,
        claim: Position,
        regions: &RegionTable<'_>,
        budget: u32,
    ) -> Result<Position, Fault> {
        self.harvest()?;
        let accepted = self.validator.accepted();
        let count = claimed(claim, accepted, N)?.min(budget);
        if count == 0 {
            return Ok(accepted);
        }
        let window = regions.window(Direction::FromDevice);
        let end = accepted.advanced(count);
        while self.validator.accepted() != end {
            self.take_run(end, &window);
            if self.validator.accepted() != end {
                let index = slot(self.validator.accepted(), N);
                let address = Iova::new(self.shadow[index].address());
                let buffer = self.validator.check(address, regions)?;
                arm(&self.hardware, buffer, self.validator.posted());
            }
        }
        let accepted = self.validator.accepted();
        self.hardware.publish(accepted);
        self.doorbell.ring(accepted);
        Ok(accepted)
    }

    /// Takes over entries before `end` that lie in `window`, up to the ring's end.
    #[inline]
    fn take_run(&mut self, end: Position, window: &RegionWindow) {
        let start = self.validator.accepted();
        let index = slot(start, N);
        let count = end.since(start) as usize;
        let shadow = self.shadow.get(index..).unwrap_or_default();
        let shadow = shadow.get(..count).unwrap_or(shadow);
        let run = shadow.iter().map(|entry| Iova::new(entry.address()));
        if let Some(places) = self.hardware.places(index) {
            let write = |place: &Descriptor, buffer: Validated<ReceiveValidator<N>>| {
                place.store_address(buffer.into_inner().address.as_u64());
            };
            self.validator.check_run(run.zip(places), window, write);
        } else {
            let posted = self.validator.posted();
            let hardware = self.hardware;
            let write = |(), buffer| arm(&hardware, buffer, posted);
            let run = run.map(|address| (address, ()));
            self.validator.check_run(run, window, write);
        }
    }

    /// Takes note of what the device returned; the number of buffers.
    ///
    /// # Errors
    ///
    /// Where the device returned what it did not have.
    pub fn harvest(&mut self) -> Result<u32, Fault> {
        let start = self.validator.returned();
        let ready = self.hardware.ready(start, self.validator.outstanding())?;
        self.validator.take_back(&self.hardware, ready)?;
        Ok(self.validator.returned().since(start))
    }
}

/// The only way into the device's ring.
#[inline]
fn arm<F: ReceiveFormat, const N: usize>(
    hardware: &F,
    buffer: Validated<ReceiveValidator<N>>,
    posted: u32,
) {
    let buffer = buffer.into_inner();
    let id = hardware.id(buffer.at, 0);
    hardware.arm(buffer.at, id, buffer.address.as_u64(), posted);
}

/// Fills the descriptors of a receive ring that a process is to have in `Sealed` mode, once and for all: descriptor *i*
/// is buffer *i* of the arena at `base`, header included.
///
/// The process may write any number into its index ring, so every descriptor is one of its own buffers: those beyond
/// the arena's repeat the first ones.
///
/// # Errors
///
/// Where a buffer does not lie in the process's regions, or there is none.
pub fn seal<const N: usize>(
    hardware: &Split<'_, N>,
    base: Iova,
    layout: &ArenaLayout,
    regions: &RegionTable<'_>,
) -> Result<(), Violation> {
    let is_usable = layout.is_valid() && layout.header as usize == Header::LEN && layout.count > 0;
    let posted = is_usable.then(|| Header::LEN + layout.capacity());
    let len = posted.and_then(|posted| u32::try_from(posted).ok());
    let len = len.ok_or(Violation::Length {
        len: layout.bytes() as u64,
    })?;
    hardware.prepare(len);
    let start = u64::from(layout.headroom - layout.header);
    for index in 0..N {
        let buffer = index as u64 % u64::from(layout.count);
        let offset = buffer * u64::from(layout.stride) + start;
        let outside = Violation::OutsideRegions {
            iova: base,
            len: offset,
        };
        let address = base.checked_add(offset).ok_or(outside)?;
        let bus = regions.translate(address, len.into(), Direction::FromDevice)?;
        hardware.seal(index, bus.as_u64());
    }
    Ok(())
}
