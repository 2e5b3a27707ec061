#![expect(
    unsafe_code,
    reason = "has the first bytes of frames copied from where a process has them"
)]

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parakernel_core::{
    address::{BusAddress, Direction, Iova},
    memory::{DmaBlock, PAGE_SIZE, RegionTable, RegionWindow, SharedMemory},
    queue::Doorbell,
    ring::Position,
    steering::{Head, SOURCE_HEADERS, SourceCheck},
    validate::{Validated, Violation},
};

use super::{Fault, claimed};
use crate::{
    header::Header,
    validate::{FramePart, MAX_SEGMENTS, TransmitValidator},
    virtqueue::{CheckedFormat, Descriptor, DescriptorFlags, Entry, Post, slot},
};

/// Entries of a table for a frame of several parts: header and copied bytes, then the parts.
const LONG_ENTRIES: usize = MAX_SEGMENTS as usize + 1;
/// How many frames of several parts may be on their way at once; more wait.
const LONG_TABLES: usize = 8;
/// Bytes of a slot: 4 unused, 12 of header, and the first bytes of the frame, which so begin at a multiple of 8.
const SLOT: usize = (SLOT_FRAME + SOURCE_HEADERS).next_multiple_of(64);
const SLOT_HEADER: usize = 4;
const SLOT_FRAME: usize = SLOT_HEADER + Header::LEN;

/// The kernel's memory behind a transmit queue: a table and a slot for each entry of the ring.
#[derive(Debug)]
pub struct Tables<'a, const N: usize> {
    block: DmaBlock<'a>,
    pairs: &'a [[Descriptor; 2]; N],
    long: &'a [[Descriptor; LONG_ENTRIES]; LONG_TABLES],
    slots: SharedMemory<'a>,
}

impl<'a, const N: usize> Tables<'a, N> {
    const LONG: usize = size_of::<[Descriptor; 2]>() * N;
    const SLOTS: usize =
        (Self::LONG + size_of::<[[Descriptor; LONG_ENTRIES]; LONG_TABLES]>()).next_multiple_of(64);
    /// Bytes of the block, whole pages.
    pub const BYTES: usize = (Self::SLOTS + N * SLOT).next_multiple_of(PAGE_SIZE);

    /// The tables in `block`, zeroed and aligned to a page; `None` where it is too small.
    #[must_use]
    pub fn new(block: DmaBlock<'a>) -> Option<Self> {
        let memory = block.memory();
        Some(Self {
            pairs: memory.view(0)?,
            long: memory.view(Self::LONG)?,
            slots: memory.part(Self::SLOTS, N * SLOT)?,
            block,
        })
    }

    /// Where the device finds byte `offset` of the block, which has that byte.
    #[inline]
    fn bus(&self, offset: usize) -> u64 {
        self.block.bus_address().as_u64() + offset as u64
    }

    /// The descriptor of the table of two entries that belongs to slot `index`, where the block lies at `bus`.
    #[inline]
    const fn pair(bus: u64, index: usize) -> Entry {
        Self::table(bus + (index * size_of::<[Descriptor; 2]>()) as u64, 2)
    }

    /// The descriptor of the first `entries` of long table `number`.
    fn long(&self, number: usize, entries: usize) -> Entry {
        let offset = Self::LONG + number * size_of::<[Descriptor; LONG_ENTRIES]>();
        Self::table(self.bus(offset), entries)
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "at most 17 entries")]
    const fn table(address: u64, entries: usize) -> Entry {
        Entry {
            address,
            len: (entries * size_of::<Descriptor>()) as u32,
            flags: DescriptorFlags::INDIRECT,
        }
    }

    /// The entry for the header and `copied` bytes of the frame in slot `index`.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "at most 110 bytes")]
    fn head(&self, index: usize, copied: usize, flags: DescriptorFlags) -> Entry {
        Entry {
            address: self.bus(Self::SLOTS + index * SLOT + SLOT_HEADER),
            len: (Header::LEN + copied) as u32,
            flags,
        }
    }

    /// Writes the first bytes of a frame into slot `index`.
    fn write_head(&self, index: usize, bytes: &[u8]) {
        let offset = index * SLOT + SLOT_FRAME;
        let words = (SLOT - SLOT_FRAME) / size_of::<AtomicU64>();
        let Some(words) = self.slots.slice::<AtomicU64>(offset, words) else {
            return;
        };
        for (word, bytes) in words.iter().zip(bytes.chunks(8)) {
            let mut padded = [0; 8];
            padded
                .iter_mut()
                .zip(bytes)
                .for_each(|(to, from)| *to = *from);
            word.store(u64::from_ne_bytes(padded), Relaxed);
        }
    }
}

/// The kernel's side of a transmit queue that is checked.
#[derive(Debug)]
pub struct CheckedSender<'a, F, D, const N: usize> {
    /// The device's ring. No process sees it but for the used ring of the split layout.
    hardware: F,
    /// The process's ring: its descriptors.
    shadow: &'a [Descriptor; N],
    /// Where the process reads completions of a packed ring, which are copied for it.
    completions: Option<&'a [Descriptor; N]>,
    tables: Tables<'a, N>,
    doorbell: D,
    validator: TransmitValidator<N>,
    /// How far the process's entries were taken over, as its tail counts.
    accepted: Position,
    /// Frames posted, and frames returned.
    posted: Position,
    returned: Position,
    /// Where the process looks for the next completion.
    told: Position,
    /// For each long table, the frame that has it.
    long: [Option<u16>; LONG_TABLES],
    /// Whether tables have held more than a header in their first entry.
    copies_heads: bool,
    /// Whether each frame so far took the slot that its number names.
    is_in_step: bool,
    /// Bytes of the frames posted.
    bytes: u64,
}

impl<'a, F: CheckedFormat, D: Doorbell, const N: usize> CheckedSender<'a, F, D, N> {
    /// An empty queue for frames of up to `max_frame` bytes, at least 14.
    ///
    /// `shadow` is the process's ring (split: its descriptor table), `hardware` the device's. `completions` is where the
    /// process reads what was used: needed for packed rings, where a frame takes as many entries of the process's ring
    /// as it has parts and one of the device's. `None` where a piece of memory is too small or not aligned, one is
    /// missing, or the ring does not have `N` entries.
    #[must_use]
    pub fn new(
        (hardware, doorbell): (F, D),
        shadow: SharedMemory<'a>,
        completions: Option<SharedMemory<'a>>,
        tables: Tables<'a, N>,
        max_frame: u32,
    ) -> Option<Self> {
        if F::ENTRIES != N || max_frame < 14 || (F::COPIES_COMPLETIONS && completions.is_none()) {
            return None;
        }
        hardware.prepare_single();
        for (index, pair) in (0_u16..).zip(tables.pairs) {
            let head = tables.head(index.into(), 0, DescriptorFlags::NEXT);
            F::write_table(&pair[0], head, 1);
            hardware.prepare_table(index, Tables::<N>::pair(tables.bus(0), index.into()));
        }
        Some(Self {
            hardware,
            shadow: shadow.view(0)?,
            completions: match completions {
                Some(memory) => Some(memory.view(0)?),
                None => None,
            },
            tables,
            doorbell,
            validator: TransmitValidator::new(max_frame),
            accepted: Position::START,
            posted: Position::START,
            returned: Position::START,
            told: Position::START,
            long: [None; LONG_TABLES],
            copies_heads: false,
            is_in_step: true,
            bytes: 0,
        })
    }

    /// How far the process's entries were taken over.
    #[must_use]
    pub const fn accepted(&self) -> Position {
        self.accepted
    }

    /// Number of frames that the device has.
    #[must_use]
    pub const fn outstanding(&self) -> u32 {
        self.posted.since(self.returned)
    }

    /// Bytes of all frames that the device was given, as they were checked; the headers before the frames do not count.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The device's ring, to ask for interrupts.
    #[must_use]
    pub const fn hardware(&self) -> &F {
        &self.hardware
    }

    /// The position whose completion comes next.
    #[must_use]
    pub const fn next(&self) -> Position {
        self.returned
    }

    /// Takes over up to `budget` frames before `claim`, and returns how far it came.
    ///
    /// It may stop early where frames of several parts wait for a table: ring again.
    ///
    /// # Errors
    ///
    /// What the process, or the device, did that it may not. No doorbell was rung for this batch then, and the queue is
    /// to be reset. What was checked before may be with the device already: in a packed ring each entry becomes valid by
    /// itself.
    pub fn service<S: SourceCheck>(
        &mut self,
        claim: Position,
        regions: &RegionTable<'_>,
        source: &S,
        budget: u32,
    ) -> Result<Position, Fault> {
        self.harvest()?;
        claimed(claim, self.accepted, N)?;
        self.copies_heads |= S::LOOKS;
        let window = regions.window(Direction::ToDevice);
        let start = self.posted;
        let end = start.advanced(budget.min(u32::from(u16::MAX)));
        while self.accepted != claim && self.posted != end {
            let limit = end.since(self.posted).min(claim.since(self.accepted));
            if !S::LOOKS && self.post_run(limit, &window) == limit {
                break;
            }
            if !self.take_frame(claim, regions, source)? {
                break;
            }
        }
        if self.posted != start {
            self.hardware.publish(self.posted);
            self.doorbell.ring(self.posted);
        }
        Ok(self.accepted)
    }

    /// Takes note of what the device returned; the number of frames.
    ///
    /// # Errors
    ///
    /// Where the device returned what it did not have.
    pub fn harvest(&mut self) -> Result<u32, Fault> {
        let start = self.returned;
        let ready = self.hardware.ready(start, self.outstanding())?;
        let end = start.advanced(ready);
        let hardware = self.hardware;
        if !self.copies_heads && self.completions.is_none() {
            let count = self.validator.take_run(&hardware, start, ready);
            self.returned = start.advanced(count);
        }
        while self.returned != end
            && let Some(used) = hardware.used(self.returned)
        {
            let parts = self.validator.take_back(used.id)?;
            self.returned = self.returned.after();
            if parts > 1 || self.copies_heads {
                self.restore(used.id);
            }
            if let Some(completions) = self.completions {
                // What lies between would still say what it said a round ago; the first, which the process looks at,
                // comes last.
                for part in (0..parts).rev() {
                    let at = self.told.advanced(part);
                    let id = (part == 0).then_some(used.id);
                    F::tell(&completions[slot(at, N)], at, id);
                }
                self.told = self.told.advanced(parts);
            }
        }
        Ok(self.returned.since(start))
    }

    /// Posts up to `limit` frames that are one part each, behind the headers that lie ready; how many that were.
    #[inline]
    fn post_run(&mut self, limit: u32, window: &RegionWindow) -> u32 {
        let (hardware, shadow) = (self.hardware, self.shadow);
        let (pairs, bus) = (self.tables.pairs, self.tables.bus(0));
        let post = if self.is_in_step {
            Post::InStep
        } else {
            Post::Prepared
        };
        let (mut posted, mut bytes) = (self.posted, 0);
        let copy = |index: usize| F::copy_plain(&shadow[index & (N - 1)]);
        let write = |part: Validated<TransmitValidator<N>>| {
            let part = part.into_inner();
            let index = usize::from(part.frame) & (N - 1);
            F::write_table(&pairs[index][1], rest(&part, part.len, true), 0);
            hardware.post_table(posted, part.frame, Tables::<N>::pair(bus, index), post);
            posted = posted.after();
            bytes += u64::from(part.len);
        };
        let count = self.validator.check_run(limit, window, copy, write);
        self.posted = posted;
        self.bytes += bytes;
        self.accepted = self.accepted.advanced(count);
        count
    }

    /// Takes over one frame in the general case: of several parts, or one whose first bytes are looked at. `false` where
    /// it has to wait for a table.
    #[cold]
    fn take_frame<S: SourceCheck>(
        &mut self,
        claim: Position,
        regions: &RegionTable<'_>,
        source: &S,
    ) -> Result<bool, Fault> {
        let first = F::copy(&self.shadow[slot(self.validator.next(), N)]);
        self.is_in_step &= !first.flags.contains(DescriptorFlags::NEXT);
        let is_long = first.flags.contains(DescriptorFlags::NEXT);
        let number = self.long.iter().position(Option::is_none);
        let Some(number) = number.or((!is_long).then_some(0)) else {
            return Ok(false);
        };
        let start = self.validator.next();
        let mut head = Head::new();
        let (mut entry, mut used, mut entries, mut bytes) = (first, 0, 1, 0);
        let frame = loop {
            let part = self.validator.check(entry, regions)?.into_inner();
            used += 1;
            bytes += u64::from(part.len);
            let rest = gather(&mut head, source, &part)?;
            if let Some(rest) = rest {
                let long = is_long.then_some(number);
                if !self.write_part(long, part.frame, (entries, rest)) {
                    let head = part.frame.into();
                    return Err(Violation::Chain { head }.into());
                }
                entries += 1;
            }
            if part.is_last {
                break part.frame;
            }
            self.check_claim(start, used, claim)?;
            entry = F::copy(&self.shadow[slot(self.validator.next(), N)]);
        };
        if S::LOOKS {
            // The kernel's header before the frame asks the device for nothing.
            let result = source.check(head.bytes(), None);
            result.map_err(|field| Violation::Spoofed { field })?;
        }
        self.post_parts(is_long.then_some(number), frame, (entries, &head));
        self.bytes += bytes;
        self.accepted = self.accepted.advanced(F::used_step(used));
        Ok(true)
    }

    /// Where the tail counts entries, a frame must not go on behind it.
    fn check_claim(&self, start: Position, used: u32, claim: Position) -> Result<(), Violation> {
        let is_behind = F::COUNTS_DESCRIPTORS && start.advanced(used) == claim;
        let head = u32::try_from(slot(start, N)).unwrap_or(u32::MAX);
        if is_behind {
            Err(Violation::Chain { head })
        } else {
            Ok(())
        }
    }

    /// Writes entry `index` of a frame's table; whether there is one. The validator lets no frame have more parts than that, and
    /// this does not rely on it.
    fn write_part(&self, long: Option<usize>, frame: u16, (index, entry): (usize, Entry)) -> bool {
        let next = u16::try_from(index + 1).unwrap_or(0);
        let place = self.table(long, frame).get(index);
        if let Some(place) = place {
            F::write_table(place, entry, next);
        }
        place.is_some()
    }

    /// Writes the first entry of a frame's table, and posts it.
    fn post_parts(&mut self, long: Option<usize>, frame: u16, (entries, head): (usize, &Head)) {
        let index = usize::from(frame) & (N - 1);
        let copied = head.bytes();
        self.tables.write_head(index, copied);
        let flags = if entries > 1 {
            DescriptorFlags::NEXT
        } else {
            DescriptorFlags::empty()
        };
        let first = self.tables.head(index, copied.len(), flags);
        // Every table has a first entry.
        let _is_there = self.write_part(long, frame, (0, first));
        let table = match long {
            Some(number) => {
                if let Some(owner) = self.long.get_mut(number) {
                    *owner = Some(frame);
                }
                self.tables.long(number, entries)
            }
            None => Entry {
                len: Tables::<N>::table(0, entries).len,
                ..Tables::<N>::pair(self.tables.bus(0), index)
            },
        };
        let post = if long.is_some() {
            Post::Changed
        } else {
            Post::Prepared
        };
        self.hardware.post_table(self.posted, frame, table, post);
        self.posted = self.posted.after();
    }

    fn table(&self, long: Option<usize>, frame: u16) -> &[Descriptor] {
        match long {
            Some(number) => self.tables.long.get(number).map_or(&[], |table| table),
            None => &self.tables.pairs[usize::from(frame) & (N - 1)],
        }
    }

    /// Makes the table of a returned frame what it was: two entries, the first for a header alone. Takes its long table
    /// back, where it had one.
    #[cold]
    fn restore(&mut self, frame: u32) {
        // Ids are slots, as the validator has checked.
        let Ok(id) = u16::try_from(frame) else { return };
        self.long.iter_mut().for_each(|owner| {
            owner.take_if(|owner| *owner == id);
        });
        let index = usize::from(id) & (N - 1);
        let head = self.tables.head(index, 0, DescriptorFlags::NEXT);
        F::write_table(&self.tables.pairs[index][0], head, 1);
        let pair = Tables::<N>::pair(self.tables.bus(0), index);
        self.hardware.prepare_table(id, pair);
    }
}

/// What is left of a part, which was just accepted, after its first bytes were copied; `None` where nothing is.
fn gather<S: SourceCheck>(
    head: &mut Head,
    source: &S,
    part: &FramePart,
) -> Result<Option<Entry>, Violation> {
    let copied = if S::LOOKS {
        let unreadable = Violation::OutsideRegions {
            iova: Iova::new(part.address.as_u64()),
            len: part.len.into(),
        };
        // SAFETY: a part that was accepted: the validator has translated these bytes through the process's regions, which the call that
        // is under way has borrowed.
        let copied = unsafe { head.gather(source, part.address, part.len) };
        copied.ok_or(unreadable)?
    } else {
        0
    };
    let len = part.len - copied;
    Ok((len > 0).then(|| rest(part, len, part.is_last)))
}

/// The last `len` bytes of a part, followed by others or not.
#[inline]
fn rest(part: &FramePart, len: u32, is_last: bool) -> Entry {
    let skipped = u64::from(part.len - len);
    let flags = if is_last {
        DescriptorFlags::empty()
    } else {
        DescriptorFlags::NEXT
    };
    Entry {
        address: BusAddress::new(part.address.as_u64() + skipped).as_u64(),
        len,
        flags,
    }
}
