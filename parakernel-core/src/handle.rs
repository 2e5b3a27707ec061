//! Handles: a table index with a generation, so that one kept too long names nothing.
//!
//! Everything that the kernel lends out is named by a handle. A slot that is used again gets a new generation, and the
//! handle of its last tenant is refused from then on (ATTACKS: stale handle after a new grant).

use core::{fmt, marker::PhantomData};

/// The name of an entry in a [`HandleTable`].
pub trait Handle: Copy + Eq + fmt::Debug {
    /// The handle of `index` in its `generation`.
    fn new(index: u32, generation: u32) -> Self;

    /// Which entry of the table.
    fn index(self) -> usize;

    /// Which of the entry's successive tenants, counted modulo 2³².
    fn generation(self) -> u32;
}

macro_rules! handle {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[cfg_attr(feature = "defmt", derive(defmt::Format))]
        pub struct $name {
            index: u32,
            generation: u32,
        }

        impl $name {
            /// The handle of `index` in its `generation`.
            #[inline]
            #[must_use]
            pub const fn new(index: u32, generation: u32) -> Self {
                Self { index, generation }
            }

            /// Which entry of the table.
            #[inline]
            #[must_use]
            pub const fn index(self) -> usize {
                self.index as usize
            }

            /// Which of the entry's successive tenants, counted modulo 2³².
            #[inline]
            #[must_use]
            pub const fn generation(self) -> u32 {
                self.generation
            }

            /// The handle as one number: generation in the upper half, index in the lower.
            #[inline]
            #[must_use]
            pub const fn to_bits(self) -> u64 {
                (self.generation as u64) << 32 | self.index as u64
            }

            /// The handle that [`to_bits`](Self::to_bits) made this number of; of any other number, one that names
            /// nothing.
            #[inline]
            #[must_use]
            #[expect(clippy::cast_possible_truncation, reason = "takes the two halves apart")]
            pub const fn from_bits(bits: u64) -> Self {
                Self {
                    index: bits as u32,
                    generation: (bits >> 32) as u32,
                }
            }
        }

        impl Handle for $name {
            fn new(index: u32, generation: u32) -> Self {
                Self::new(index, generation)
            }

            fn index(self) -> usize {
                self.index()
            }

            fn generation(self) -> u32 {
                self.generation()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({}.{})"), self.index, self.generation)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}.{}", self.index, self.generation)
            }
        }
    };
}

handle! {
    /// A process.
    ProcessId
}

handle! {
    /// A lease of a process on a queue.
    LeaseId
}

handle! {
    /// A registered region of a process's memory; of use in that process's table only.
    RegionId
}

handle! {
    /// Memory that a process registered; valid for the control plane, whatever the process.
    MemoryId
}

handle! {
    /// A flow rule that belongs to a lease.
    RuleId
}

handle! {
    /// A range of blocks that outlives its user.
    VolumeId
}

handle! {
    /// A name grant: addresses and ports that a process may use.
    GrantId
}

/// Room for one entry of a [`HandleTable`].
#[derive(Debug)]
pub struct Slot<T> {
    generation: u32,
    state: State<T>,
}

#[derive(Debug)]
enum State<T> {
    /// Unused, with the next unused slot behind it.
    Free(u32),
    Used(T),
}

impl<T> Slot<T> {
    /// An unused slot, to fill the table's memory with.
    pub const EMPTY: Self = Self {
        generation: 0,
        state: State::Free(END),
    };
}

/// The end of the chain of unused slots.
const END: u32 = u32::MAX;

/// A table in the caller's memory whose entries are named by handles; insertion, look-up and removal take constant time.
#[derive(Debug)]
pub struct HandleTable<'a, H, T> {
    slots: &'a mut [Slot<T>],
    free: u32,
    used: usize,
    handles: PhantomData<fn() -> H>,
}

impl<'a, H: Handle, T> HandleTable<'a, H, T> {
    /// An empty table of `slots.len()` entries.
    ///
    /// What the slots held before is dropped; their generations go on, so that old handles stay dead.
    #[must_use]
    pub fn new(slots: &'a mut [Slot<T>]) -> Self {
        let mut free = END;
        for (index, slot) in slots.iter_mut().enumerate().rev() {
            if matches!(slot.state, State::Used(_)) {
                slot.generation = slot.generation.wrapping_add(1);
            }
            slot.state = State::Free(free);
            free = u32::try_from(index).unwrap_or(END);
        }
        Self {
            slots,
            free,
            used: 0,
            handles: PhantomData,
        }
    }

    /// Takes `value` in.
    ///
    /// # Errors
    ///
    /// Hands `value` back where every slot is in use.
    pub fn insert(&mut self, value: T) -> Result<H, T> {
        let index = self.free;
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return Err(value);
        };
        if let State::Free(next) = slot.state {
            self.free = next;
        }
        slot.state = State::Used(value);
        self.used += 1;
        Ok(H::new(index, slot.generation))
    }

    /// The handle that the next entry will get; `None` where every slot is in use.
    #[must_use]
    pub fn vacancy(&self) -> Option<H> {
        let slot = self.slots.get(self.free as usize)?;
        Some(H::new(self.free, slot.generation))
    }

    /// Takes the entry out; its slot's next tenant gets another handle.
    pub fn remove(&mut self, handle: H) -> Option<T> {
        self.get(handle)?;
        let slot = self.slots.get_mut(handle.index())?;
        slot.generation = slot.generation.wrapping_add(1);
        let state = core::mem::replace(&mut slot.state, State::Free(self.free));
        self.free = u32::try_from(handle.index()).unwrap_or(END);
        self.used -= 1;
        match state {
            State::Used(value) => Some(value),
            State::Free(_) => None,
        }
    }

    /// The entry, unless the handle is stale.
    #[must_use]
    pub fn get(&self, handle: H) -> Option<&T> {
        match self.slots.get(handle.index())? {
            Slot {
                generation,
                state: State::Used(value),
            } if *generation == handle.generation() => Some(value),
            Slot { .. } => None,
        }
    }

    /// The entry, unless the handle is stale.
    #[must_use]
    pub fn get_mut(&mut self, handle: H) -> Option<&mut T> {
        match self.slots.get_mut(handle.index())? {
            Slot {
                generation,
                state: State::Used(value),
            } if *generation == handle.generation() => Some(value),
            Slot { .. } => None,
        }
    }

    /// All entries, in the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = (H, &T)> {
        self.slots
            .iter()
            .zip(0_u32..)
            .filter_map(|(slot, index)| match &slot.state {
                State::Used(value) => Some((H::new(index, slot.generation), value)),
                State::Free(_) => None,
            })
    }

    /// All entries, in the order of their slots.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (H, &mut T)> {
        self.slots
            .iter_mut()
            .zip(0_u32..)
            .filter_map(|(slot, index)| match &mut slot.state {
                State::Used(value) => Some((H::new(index, slot.generation), value)),
                State::Free(_) => None,
            })
    }

    /// The entry at `index`, whatever its generation, with its handle: to walk the table without borrowing it.
    #[must_use]
    pub fn at(&self, index: usize) -> Option<(H, &T)> {
        let slot = self.slots.get(index)?;
        match &slot.state {
            State::Used(value) => {
                Some((H::new(u32::try_from(index).ok()?, slot.generation), value))
            }
            State::Free(_) => None,
        }
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.used
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// How many entries there is room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_handle_survives_its_number() {
        let handle = LeaseId::new(7, u32::MAX);
        assert_eq!(LeaseId::from_bits(handle.to_bits()), handle);
    }

    #[test]
    fn a_stale_handle_names_nothing() {
        let mut slots = [Slot::EMPTY; 1];
        let mut table = HandleTable::<LeaseId, u8>::new(&mut slots);
        let first = table.insert(1).unwrap();
        assert_eq!(table.insert(2), Err(2));
        assert_eq!(table.remove(first), Some(1));
        let second = table.insert(3).unwrap();
        assert_eq!(table.get(first), None);
        assert_eq!(table.remove(first), None);
        assert_eq!(table.get(second), Some(&3));
    }

    #[test]
    fn a_table_made_anew_forgets_its_handles() {
        let mut slots = [Slot::EMPTY; 2];
        let old = HandleTable::<LeaseId, u8>::new(&mut slots)
            .insert(1)
            .unwrap();
        let mut table = HandleTable::<LeaseId, u8>::new(&mut slots);
        assert!(table.is_empty());
        table.insert(2).unwrap();
        assert_eq!(table.get(old), None);
    }

    proptest! {
        /// A table behaves like a map whose keys are never used twice.
        #[test]
        fn agrees_with_a_map(steps in prop::collection::vec((any::<bool>(), 0_usize..8), 0..200)) {
            let mut slots = [const { Slot::EMPTY }; 4];
            let mut table = HandleTable::<RegionId, usize>::new(&mut slots);
            let mut map = HashMap::new();
            let mut all = Vec::new();
            for (number, (insert, pick)) in steps.into_iter().enumerate() {
                if insert {
                    let vacancy = table.vacancy();
                    let inserted = table.insert(number);
                    prop_assert_eq!(inserted.ok(), vacancy);
                    match inserted {
                        Ok(handle) => prop_assert_eq!(map.insert(handle, number), None),
                        Err(_) => prop_assert_eq!(map.len(), 4),
                    }
                    all.extend(map.keys().copied());
                } else if let Some(&handle) = all.get(pick) {
                    prop_assert_eq!(table.remove(handle), map.remove(&handle));
                }
                prop_assert_eq!(table.len(), map.len());
                for handle in &all {
                    prop_assert_eq!(table.get(*handle), map.get(handle));
                }
                prop_assert!(table.iter().all(|(handle, value)| map.get(&handle) == Some(value)));
            }
        }
    }
}
