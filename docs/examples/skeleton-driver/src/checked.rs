//! The kernel's side of a queue that a process has in `Checked` mode.

use parakernel_core::{
    memory::{RegionTable, SharedMemory},
    queue::Doorbell,
    ring::Position,
    validate::{DescriptorValidator, Validated, Violation},
};

use crate::{
    queue::slot,
    ring::Descriptor,
    validate::{Accepted, Validator},
};

/// A queue that is checked: the process's ring, the device's ring, and what stands between them.
#[derive(Debug)]
pub struct CheckedQueue<'a, D, const N: usize> {
    /// The device's. The process sees it read-only.
    hardware: &'a [Descriptor; N],
    /// The process's.
    shadow: &'a [Descriptor; N],
    doorbell: D,
    validator: Validator<N>,
}

impl<'a, D: Doorbell, const N: usize> CheckedQueue<'a, D, N> {
    /// A queue with nothing in it; `None` where the memory is too short for a ring, or not aligned.
    #[must_use]
    pub fn new(hardware: SharedMemory<'a>, shadow: SharedMemory<'a>, doorbell: D) -> Option<Self> {
        Some(Self {
            hardware: hardware.view(0)?,
            shadow: shadow.view(0)?,
            doorbell,
            validator: Validator::default(),
        })
    }

    /// Takes over up to `budget` entries before `claimed`, and returns how far it came.
    ///
    /// # Errors
    ///
    /// What the process did that it may not. Nothing of this batch was published then, and the queue is to be stopped.
    pub fn service(
        &mut self,
        claimed: Position,
        regions: &RegionTable<'_>,
        budget: u32,
    ) -> Result<Position, Violation> {
        self.harvest();
        let count = self.validator.new_entries(claimed)?.min(budget);
        for _ in 0..count {
            let index = slot::<N>(self.validator.accepted());
            // The one look at what the process may change: from here on there is only the copy.
            let copy = self.shadow[index].copy();
            let entry = self.validator.validate(copy, regions)?;
            self.write(entry);
        }
        if count > 0 {
            self.doorbell.ring(self.validator.accepted());
        }
        Ok(self.validator.accepted())
    }

    /// Takes note of what the device is done with. It comes before entries are taken over: an entry may be written again
    /// only then.
    fn harvest(&mut self) {
        while let Some(at) = self.validator.awaited()
            && self.hardware[slot::<N>(at)].completed().is_some()
        {
            self.validator.take_back();
        }
    }

    /// The only way into the device's ring.
    fn write(&self, entry: Validated<Validator<N>>) {
        let Accepted { at, address, len } = entry.into_inner();
        self.hardware[slot::<N>(at)].arm(address.as_u64(), len);
    }
}
