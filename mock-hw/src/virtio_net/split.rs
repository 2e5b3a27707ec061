//! The device side of a split ring (virtio 1.3, 2.7).

use parakernel_core::{address::BusAddress, mmio::Width};

use super::{
    chain::{Broken, Chain, Descriptor, passes},
    features::Features,
};
use crate::{
    bytes::{put, u16_at},
    fault::Fault,
    pci::Function,
};

const RING: &str = "virtio 1.3, 2.7.13";

#[derive(Clone, Debug)]
pub(super) struct Split {
    size: u16,
    table: u64,
    available: u64,
    used: u64,
    features: Features,
    /// The next available entry to look at.
    next_available: u16,
    /// As written to the used ring.
    next_used: u16,
    /// Where `next_used` was at the last decision about an interrupt.
    reported: u16,
    /// Where the next chain starts in the table, with `IN_ORDER`.
    next_entry: u16,
    /// Table entries of chains that were taken and not used.
    busy: Vec<bool>,
}

impl Split {
    pub(super) fn new(size: u16, areas: [u64; 3], features: Features) -> Self {
        let [table, available, used] = areas;
        Self {
            size,
            table,
            available,
            used,
            features,
            next_available: 0,
            next_used: 0,
            reported: 0,
            next_entry: 0,
            busy: vec![false; usize::from(size)],
        }
    }

    /// Takes the next chain, if there is one.
    pub(super) fn take(&mut self, function: &Function) -> Result<Option<Chain>, Broken> {
        let index = self.available_index(function)?;
        if index == self.next_available {
            return Ok(None);
        }
        let slot = u64::from(self.next_available % self.size);
        let head = self.read16(function, at(self.available, 4 + 2 * slot))?;
        let chain = self.chain(function, head)?;
        self.check_order(&chain)?;
        for entry in &chain.entries {
            self.busy[usize::from(*entry)] = true;
        }
        self.next_available = self.next_available.wrapping_add(1);
        Ok(Some(chain))
    }

    /// With `IN_ORDER` the driver uses the table in ring order (2.7.5).
    fn check_order(&mut self, chain: &Chain) -> Result<(), Broken> {
        let (Some(first), Some(last)) = (chain.entries.first(), chain.entries.last()) else {
            return Ok(());
        };
        if self.features.contains(Features::IN_ORDER) && *first != self.next_entry {
            let text = format!(
                "IN_ORDER, and a chain starts at {first}, not at {}",
                self.next_entry
            );
            return Err(Broken::rule("virtio 1.3, 2.7.5", text));
        }
        self.next_entry = (last + 1) % self.size;
        Ok(())
    }

    /// Whether something is available.
    pub(super) fn has_available(&self, function: &Function) -> Result<bool, Broken> {
        Ok(self.available_index(function)? != self.next_available)
    }

    /// Gives chains back together, with the bytes written to each: the driver sees all of them or none.
    pub(super) fn give(
        &mut self,
        function: &Function,
        chains: &[(Chain, usize)],
    ) -> Result<(), Broken> {
        let mut count = 0;
        for (chain, len) in chains {
            self.release(chain);
            self.write_entry(function, count, chain.id, *len)?;
            count += 1;
        }
        self.publish(function, count)
    }

    /// Gives back a batch of chains with one entry, that of the last, as `IN_ORDER` allows (2.7.7).
    pub(super) fn give_batch(
        &mut self,
        function: &Function,
        chains: &[(Chain, usize)],
    ) -> Result<(), Broken> {
        let Some((last, len)) = chains.last() else {
            return Ok(());
        };
        chains.iter().for_each(|(chain, _)| self.release(chain));
        self.write_entry(function, 0, last.id, *len)?;
        self.publish(function, u16::try_from(chains.len()).unwrap_or(0))
    }

    /// Whether the driver wants to hear of what was used since it was last asked.
    pub(super) fn wants_interrupt(&mut self, function: &Function) -> Result<bool, Broken> {
        let (old, new) = (self.reported, self.next_used);
        self.reported = new;
        if self.features.contains(Features::EVENT_IDX) {
            let event = self.read16(function, at(self.available, 4 + 2 * u64::from(self.size)))?;
            return Ok(passes(event, new, old));
        }
        Ok(old != new && self.read16(function, at(self.available, 0))? & 1 == 0)
    }

    /// Asks the driver for a notification with the next chain, or for none.
    pub(super) fn ask_notification(&self, function: &Function, wanted: bool) -> Result<(), Broken> {
        if self.features.contains(Features::EVENT_IDX) {
            // An event index far away asks for none soon.
            let event = if wanted {
                self.next_available
            } else {
                self.next_available.wrapping_sub(1)
            };
            let place = at(self.used, 4 + 8 * u64::from(self.size));
            function.write(place, &event.to_le_bytes())?;
        } else {
            function.write(at(self.used, 0), &u16::from(!wanted).to_le_bytes())?;
        }
        Ok(())
    }

    /// The position that a notification with data must carry (2.9): the available index.
    pub(super) fn notified_position(&self, function: &Function) -> Result<u16, Broken> {
        self.available_index(function)
    }

    fn available_index(&self, function: &Function) -> Result<u16, Broken> {
        let index = self.read16(function, at(self.available, 2))?;
        if index.wrapping_sub(self.next_available) > self.size {
            let text = format!(
                "available index {index} is more than a ring ahead of {}",
                self.next_available
            );
            return Err(Broken::rule(RING, text));
        }
        Ok(index)
    }

    fn chain(&self, function: &Function, head: u16) -> Result<Chain, Broken> {
        let mut chain = Chain::new(head);
        let mut index = head;
        loop {
            if index >= self.size {
                return Err(Broken::rule(
                    RING,
                    format!("descriptor {index} of {}", self.size),
                ));
            }
            if chain.entries.contains(&index) {
                return Err(Broken::rule(
                    "virtio 1.3, 2.7.5.2",
                    format!("a loop at descriptor {index}"),
                ));
            }
            if self.busy[usize::from(index)] {
                return Err(Broken::rule(
                    RING,
                    format!("descriptor {index} is in use already"),
                ));
            }
            chain.entries.push(index);
            let bytes: [u8; 16] = function.read_array(at(self.table, 16 * u64::from(index)))?;
            let descriptor = Descriptor::split(&bytes);
            if descriptor.indirect() {
                let table = descriptor.table(function, self.features, self.size)?;
                self.indirect(&table, &mut chain)?;
                return Ok(chain);
            }
            chain.add(&descriptor)?;
            if !descriptor.continues() {
                return Ok(chain);
            }
            index = self.follow(index, descriptor.next)?;
        }
    }

    /// With `IN_ORDER` the next descriptor is the next in the table (2.7.5.2).
    fn follow(&self, index: u16, next: u16) -> Result<u16, Broken> {
        if self.features.contains(Features::IN_ORDER) && next != (index + 1) % self.size {
            let text = format!("IN_ORDER, and descriptor {index} leads to {next}");
            return Err(Broken::rule("virtio 1.3, 2.7.5.2", text));
        }
        Ok(next)
    }

    /// A table ends a chain, which may have ordinary descriptors before it (2.7.5.3.2).
    fn indirect(&self, table: &[u8], chain: &mut Chain) -> Result<(), Broken> {
        let count = table.len() / 16;
        let in_order = self.features.contains(Features::IN_ORDER);
        let mut seen = vec![false; count];
        let mut index = 0;
        loop {
            if index >= count || seen[index] {
                return Err(Broken::rule(
                    "virtio 1.3, 2.7.5.3.1",
                    "an indirect chain that leaves its table or loops",
                ));
            }
            seen[index] = true;
            let descriptor = Descriptor::split(&table[16 * index..]);
            if descriptor.indirect() {
                return Err(Broken::rule(
                    "virtio 1.3, 2.7.5.3.1",
                    "an indirect table in an indirect table",
                ));
            }
            chain.add(&descriptor)?;
            if !descriptor.continues() {
                return Ok(());
            }
            if in_order && usize::from(descriptor.next) != index + 1 {
                return Err(Broken::rule(
                    "virtio 1.3, 2.7.5.3.1",
                    "IN_ORDER, and an indirect table out of order",
                ));
            }
            index = usize::from(descriptor.next);
        }
    }

    fn release(&mut self, chain: &Chain) {
        for entry in &chain.entries {
            self.busy[usize::from(*entry)] = false;
        }
    }

    /// Writes the used entry `offset` places on.
    fn write_entry(
        &self,
        function: &Function,
        offset: u16,
        id: u16,
        len: usize,
    ) -> Result<(), Broken> {
        let faults = function.faults();
        let (mut given, mut len) = (u64::from(id), len as u64);
        if faults.fires(Fault::BadId) {
            given = 1 + u64::from(self.size) + faults.random(0xffff_0000);
            function.fault(format_args!("chain {id} used as {given}"));
        }
        if faults.fires(Fault::BadLength) {
            len = faults.random(1 << 32);
            function.fault(format_args!("chain {id} used with length {len}"));
        }
        let mut entry = [0; 8];
        put(
            &mut entry,
            0,
            &faults.bend(given, Width::U32).to_le_bytes()[..4],
        );
        put(
            &mut entry,
            4,
            &faults.bend(len, Width::U32).to_le_bytes()[..4],
        );
        let slot = u64::from(self.next_used.wrapping_add(offset) % self.size);
        function.write(at(self.used, 4 + 8 * slot), &entry)?;
        Ok(())
    }

    /// Moves the used index on by `count`, or by what faults make of it.
    fn publish(&mut self, function: &Function, mut count: u16) -> Result<(), Broken> {
        let faults = function.faults();
        if faults.fires(Fault::DuplicateCompletion) {
            function.fault(format_args!("the last used entry repeated"));
            let from = at(
                self.used,
                4 + 8 * u64::from(self.next_used.wrapping_add(count).wrapping_sub(1) % self.size),
            );
            let to = at(
                self.used,
                4 + 8 * u64::from(self.next_used.wrapping_add(count) % self.size),
            );
            let entry: [u8; 8] = function.read_array(from)?;
            function.write(to, &entry)?;
            count += 1;
        }
        if faults.fires(Fault::IndexJump) {
            count = count.wrapping_add(u16::try_from(1 + faults.random(0xff00)).unwrap_or(1));
            function.fault(format_args!("used index jumps by {count}"));
        }
        if faults.fires(Fault::StuckDone) {
            function.fault(format_args!("used index stays"));
            return Ok(());
        }
        self.next_used = self.next_used.wrapping_add(count);
        let index = faults.bend(u64::from(self.next_used), Width::U16);
        function.write(at(self.used, 2), &index.to_le_bytes()[..2])?;
        Ok(())
    }

    fn read16(&self, function: &Function, address: BusAddress) -> Result<u16, Broken> {
        let bytes: [u8; 2] = function.read_array(address)?;
        Ok(u16_at(&bytes, 0))
    }
}

fn at(base: u64, offset: u64) -> BusAddress {
    BusAddress::new(base.wrapping_add(offset))
}

#[cfg(test)]
mod tests;
