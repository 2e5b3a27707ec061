//! The device side of a packed ring (virtio 1.3, 2.8).

use alloc::collections::BTreeSet;

use parakernel_core::{address::BusAddress, mmio::Width};

use super::{
    chain::{Broken, Chain, Descriptor},
    features::Features,
};
use crate::{
    bytes::{put, u16_at},
    fault::Fault,
    pci::Function,
};

const RING: &str = "virtio 1.3, 2.8";
const AVAILABLE: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// A place in the ring and the wrap counter there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    index: u16,
    wrap: bool,
}

impl Place {
    const START: Self = Self {
        index: 0,
        wrap: true,
    };

    /// `slots` entries further on; at most once around.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "smaller than the size, which has 16 bits"
    )]
    const fn after(self, slots: u16, size: u16) -> Self {
        let index = self.index as u32 + slots as u32;
        let (index, wrap) = if index >= size as u32 {
            (index - size as u32, !self.wrap)
        } else {
            (index, self.wrap)
        };
        Self {
            index: index as u16,
            wrap,
        }
    }

    /// As event suppression and notifications have it: the counter in bit 15.
    fn packed(self) -> u16 {
        self.index | u16::from(self.wrap) << 15
    }
}

#[derive(Clone, Debug)]
pub(super) struct Packed {
    size: u16,
    ring: u64,
    driver: u64,
    device: u64,
    features: Features,
    next_available: Place,
    next_used: Place,
    reported: Place,
    /// Entries used since `reported`.
    unreported: u32,
    busy: BTreeSet<u16>,
}

impl Packed {
    pub(super) const fn new(size: u16, areas: [u64; 3], features: Features) -> Self {
        let [ring, driver, device] = areas;
        Self {
            size,
            ring,
            driver,
            device,
            features,
            next_available: Place::START,
            next_used: Place::START,
            reported: Place::START,
            unreported: 0,
            busy: BTreeSet::new(),
        }
    }

    /// Takes the next chain, if there is one.
    pub(super) fn take(&mut self, function: &Function) -> Result<Option<Chain>, Broken> {
        if !self.is_available(function, self.next_available)? {
            return Ok(None);
        }
        let mut chain = Chain::new(0);
        let mut place = self.next_available;
        while self.add(function, place, &mut chain)? {
            place = place.after(1, self.size);
            if chain.slots == self.size {
                return Err(Broken::rule(RING, "a chain longer than the ring"));
            }
        }
        if !self.busy.insert(chain.id) {
            let text = format!("buffer id {} is in use already", chain.id);
            return Err(Broken::rule(RING, text));
        }
        self.next_available = place.after(1, self.size);
        Ok(Some(chain))
    }

    /// Adds the descriptor at `place` to the chain; whether it goes on.
    fn add(&self, function: &Function, place: Place, chain: &mut Chain) -> Result<bool, Broken> {
        let bytes: [u8; 16] = function.read_array(self.entry(place))?;
        let descriptor = Descriptor::packed(&bytes);
        if !available(descriptor.flags, place.wrap) {
            return Err(Broken::rule(
                RING,
                "a chain was published before all of it was written",
            ));
        }
        chain.slots += 1;
        // The id of the last descriptor is that of the chain (2.8.6).
        chain.id = descriptor.next;
        if !descriptor.indirect() {
            chain.add(&descriptor)?;
            return Ok(descriptor.continues());
        }
        if chain.slots > 1 {
            return Err(Broken::rule(
                "virtio 1.3, 2.8.19",
                "INDIRECT in the middle of a chain",
            ));
        }
        let table = descriptor.table(function, self.features, self.size)?;
        for entry in table.chunks_exact(16) {
            Self::add_indirect(chain, &Descriptor::packed(entry))?;
        }
        Ok(false)
    }

    pub(super) fn has_available(&self, function: &Function) -> Result<bool, Broken> {
        self.is_available(function, self.next_available)
    }

    /// Gives chains back together: the flags of the first are written last (2.8.6.1).
    pub(super) fn give(
        &mut self,
        function: &Function,
        chains: &[(Chain, usize)],
    ) -> Result<(), Broken> {
        let mut place = self.next_used;
        let mut first = None;
        for (chain, len) in chains {
            self.busy.remove(&chain.id);
            let flags = self.write_used(function, place, chain.id, *len)?;
            match first {
                None => first = Some((place, flags)),
                Some(_) => function.write(at(self.entry(place), 14), &flags)?,
            }
            place = place.after(chain.slots, self.size);
        }
        let Some((start, flags)) = first else {
            return Ok(());
        };
        self.publish(function, start, flags, place)
    }

    /// Gives back a batch of chains with one entry, that of the last, as `IN_ORDER` allows (2.8.7).
    pub(super) fn give_batch(
        &mut self,
        function: &Function,
        chains: &[(Chain, usize)],
    ) -> Result<(), Broken> {
        let Some((last, len)) = chains.last() else {
            return Ok(());
        };
        for (chain, _) in chains {
            self.busy.remove(&chain.id);
        }
        let slots = chains.iter().map(|(chain, _)| chain.slots).sum();
        let start = self.next_used;
        let flags = self.write_used(function, start, last.id, *len)?;
        self.publish(function, start, flags, start.after(slots, self.size))
    }

    /// Whether the driver wants to hear of what was used since it was last asked (2.8.14).
    pub(super) fn wants_interrupt(&mut self, function: &Function) -> Result<bool, Broken> {
        let (from, count) = (self.reported, core::mem::take(&mut self.unreported));
        self.reported = self.next_used;
        let suppression: [u8; 4] = function.read_array(BusAddress::new(self.driver))?;
        let wanted = u16_at(&suppression, 0);
        match u16_at(&suppression, 2) & 3 {
            0 => Ok(count > 0),
            1 => Ok(false),
            2 if self.features.contains(Features::EVENT_IDX) => {
                // Counted one by one: a ring has at most 32,768 entries, and it is exact by construction.
                let mut place = from;
                Ok((0..count.min(u32::from(self.size))).any(|_| {
                    let met = place.packed() == wanted;
                    place = place.after(1, self.size);
                    met
                }))
            }
            _ => Err(Broken::rule(
                "virtio 1.3, 2.8.14",
                "driver event flags without EVENT_IDX, or reserved",
            )),
        }
    }

    pub(super) fn ask_notification(&self, function: &Function, wanted: bool) -> Result<(), Broken> {
        let flags: u16 = match (wanted, self.features.contains(Features::EVENT_IDX)) {
            (false, _) => 1,
            (true, false) => 0,
            (true, true) => 2,
        };
        let mut suppression = [0; 4];
        put(
            &mut suppression,
            0,
            &self.next_available.packed().to_le_bytes(),
        );
        put(&mut suppression, 2, &flags.to_le_bytes());
        function.write(BusAddress::new(self.device), &suppression)?;
        Ok(())
    }

    /// The position after the last available entry: offset and wrap counter (2.9).
    pub(super) fn notified_position(&self, function: &Function) -> Result<u16, Broken> {
        let mut place = self.next_available;
        for _ in 0..self.size {
            if !self.is_available(function, place)? {
                break;
            }
            place = place.after(1, self.size);
        }
        Ok(place.packed())
    }

    fn is_available(&self, function: &Function, place: Place) -> Result<bool, Broken> {
        let flags: [u8; 2] = function.read_array(at(self.entry(place), 14))?;
        Ok(available(u16_at(&flags, 0), place.wrap))
    }

    /// In an indirect table the driver sets no flag but WRITE (2.8.19).
    fn add_indirect(chain: &mut Chain, descriptor: &Descriptor) -> Result<(), Broken> {
        if descriptor.flags & !2 != 0 {
            return Err(Broken::rule(
                "virtio 1.3, 2.8.19",
                "flags other than WRITE in an indirect table",
            ));
        }
        chain.add(descriptor)
    }

    /// Writes id and length of a used descriptor; returns the flags that publish it.
    fn write_used(
        &self,
        function: &Function,
        place: Place,
        id: u16,
        len: usize,
    ) -> Result<[u8; 2], Broken> {
        let faults = function.faults();
        let (mut given, mut len) = (u64::from(id), len as u64);
        if faults.fires(Fault::BadId) {
            given = (given + 1 + u64::from(self.size) + faults.random(0x4000)) & 0xffff;
            function.fault(format_args!("chain {id} used as {given}"));
        }
        if faults.fires(Fault::BadLength) {
            len = faults.random(1 << 32);
            function.fault(format_args!("chain {id} used with length {len}"));
        }
        let mut body = [0; 6];
        put(
            &mut body,
            0,
            &faults.bend(len, Width::U32).to_le_bytes()[..4],
        );
        put(
            &mut body,
            4,
            &faults.bend(given, Width::U16).to_le_bytes()[..2],
        );
        function.write(at(self.entry(place), 8), &body)?;
        let done = if place.wrap { AVAILABLE | USED } else { 0 };
        let written = if len > 0 { 2 } else { 0 };
        let [low, high, ..] = faults
            .bend(u64::from(done | written), Width::U16)
            .to_le_bytes();
        Ok([low, high])
    }

    /// Publishes what was written from `start` to `end` by the flags at `start`.
    fn publish(
        &mut self,
        function: &Function,
        start: Place,
        flags: [u8; 2],
        end: Place,
    ) -> Result<(), Broken> {
        let faults = function.faults();
        if faults.fires(Fault::StuckDone) {
            function.fault(format_args!("used flags stay"));
        } else {
            function.write(at(self.entry(start), 14), &flags)?;
        }
        let slots = (u32::from(end.index) + u32::from(self.size) - u32::from(start.index))
            % u32::from(self.size);
        self.unreported += if slots == 0 {
            u32::from(self.size)
        } else {
            slots
        };
        self.next_used = end;
        if faults.fires(Fault::DuplicateCompletion) || faults.fires(Fault::IndexJump) {
            function.fault(format_args!("a used descriptor repeated in the next place"));
            let entry: [u8; 8] = function.read_array(at(self.entry(start), 8))?;
            function.write(at(self.entry(end), 8), &entry)?;
            self.next_used = end.after(1, self.size);
        }
        Ok(())
    }

    fn entry(&self, place: Place) -> BusAddress {
        at(BusAddress::new(self.ring), 16 * u64::from(place.index))
    }
}

/// The AVAIL bit equals the wrap counter, the USED bit does not (2.8.1).
const fn available(flags: u16, wrap: bool) -> bool {
    (flags & AVAILABLE != 0) == wrap && (flags & USED != 0) != wrap
}

fn at(base: BusAddress, offset: u64) -> BusAddress {
    BusAddress::new(base.as_u64().wrapping_add(offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_wraps_as_often_as_stepping_does() {
        for size in 1..8 {
            let mut place = Place::START;
            for slots in 0..=size {
                let mut stepped = place;
                for _ in 0..slots {
                    stepped = stepped.after(1, size);
                }
                assert_eq!(place.after(slots, size), stepped);
                place = stepped;
            }
        }
    }
}
