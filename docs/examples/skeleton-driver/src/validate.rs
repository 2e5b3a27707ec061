//! What a process's entries may make the device do.

use parakernel_core::{
    address::{BusAddress, Direction, Iova},
    memory::RegionTable,
    ring::Position,
    validate::{DescriptorValidator, Validated, Violation},
};

use crate::{queue::FRAME, ring::Copied};

/// What only this module can make: the proof that a validator accepted something.
#[derive(Debug)]
pub struct Seal(());

/// An entry that the device may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accepted {
    /// Where in the ring.
    pub at: Position,
    /// Where the frame is, on the bus.
    pub address: BusAddress,
    /// Its length in bytes.
    pub len: u16,
}

/// Checks the entries of one queue of `N`. All its positions are its own: none is the process's.
#[derive(Debug, Default)]
pub struct Validator<const N: usize> {
    /// The next entry to be accepted.
    accepted: Position,
    /// The next entry that the device will return.
    returned: Position,
}

impl<const N: usize> Validator<N> {
    #[expect(clippy::cast_possible_truncation, reason = "at most 256")]
    const ENTRIES: u32 = N as u32;

    /// The next entry to be accepted.
    #[must_use]
    pub const fn accepted(&self) -> Position {
        self.accepted
    }

    /// The next entry that the device will return; `None` where it has none.
    #[must_use]
    pub fn awaited(&self) -> Option<Position> {
        (self.returned != self.accepted).then_some(self.returned)
    }

    /// Takes note that the device returned the awaited entry.
    pub fn take_back(&mut self) {
        if self.awaited().is_some() {
            self.returned = self.returned.after();
        }
    }

    /// How many new entries a process has that claims the tail `claimed`.
    ///
    /// # Errors
    ///
    /// Where they are more than the ring holds. A tail behind the accepted one is almost 2³² entries ahead of it.
    pub const fn new_entries(&self, claimed: Position) -> Result<u32, Violation> {
        let count = claimed.since(self.accepted);
        if count > Self::ENTRIES {
            return Err(Violation::TailJump {
                claimed: claimed.as_u32(),
                accepted: self.accepted.as_u32(),
            });
        }
        Ok(count)
    }
}

impl<const N: usize> DescriptorValidator for Validator<N> {
    type Submission = Copied;
    type Accepted = Accepted;
    type Seal = Seal;

    fn validate(
        &mut self,
        entry: Copied,
        regions: &RegionTable<'_>,
    ) -> Result<Validated<Self>, Violation> {
        let at = self.accepted;
        if at.since(self.returned) >= Self::ENTRIES {
            let id = at.as_u32() % Self::ENTRIES;
            return Err(Violation::Busy { id });
        }
        // An allow-list: DONE is the device's to set, and all other bits are reserved.
        if entry.state & !Copied::LENGTH != 0 {
            return Err(Violation::Forbidden { field: entry.state });
        }
        let len = (entry.state & Copied::LENGTH) as u16;
        if !FRAME.contains(&len.into()) {
            return Err(Violation::Length { len: len.into() });
        }
        let iova = Iova::new(entry.address);
        let address = regions.translate(iova, len.into(), Direction::Bidirectional)?;
        self.accepted = at.after();
        Ok(Validated::new(Accepted { at, address, len }, Seal(())))
    }
}
