#![expect(
    unsafe_code,
    reason = "has the first bytes of frames copied from where a process has them"
)]

use core::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};

use parakernel_core::{
    address::{BusAddress, Direction, Iova},
    memory::{DmaBlock, RegionTable, RegionWindow, SharedMemory},
    queue::Doorbell,
    ring::Position,
    steering::{Head, SOURCE_HEADERS, SourceCheck},
    validate::{Validated, Violation},
};

use super::Fault;
use crate::{
    descriptor::{Command, Place, TxDescriptor},
    error::RingError,
    line::LINE,
    slot,
    tx::REPORT_EVERY,
    validate::{Entry, Limits, TransmitValidator},
};

/// Bytes of a slot for the first bytes of a packet.
const SLOT: usize = SOURCE_HEADERS.next_multiple_of(64);

/// Kernel memory for the first bytes of packets, one slot for each entry of the process's ring: what was checked is what
/// is sent.
#[derive(Debug)]
pub struct Heads<'a, const N: usize> {
    block: DmaBlock<'a>,
    words: &'a [AtomicU64],
}

impl<'a, const N: usize> Heads<'a, N> {
    /// Bytes of the block.
    pub const BYTES: usize = N * SLOT;

    /// The slots in `block`; `None` where it is too small or not aligned.
    #[must_use]
    pub fn new(block: DmaBlock<'a>) -> Option<Self> {
        let words = block.memory().slice(0, Self::BYTES / size_of::<u64>())?;
        Some(Self { block, words })
    }

    /// Copies the first bytes of a packet to slot `index`, and says where the device finds them.
    fn write(&self, index: usize, bytes: &[u8]) -> u64 {
        let start = (index & (N - 1)) * SLOT;
        let words = self
            .words
            .get(start / size_of::<u64>()..)
            .unwrap_or_default();
        for (word, bytes) in words.iter().zip(bytes.chunks(8)) {
            let mut padded = [0; 8];
            padded
                .iter_mut()
                .zip(bytes)
                .for_each(|(to, from)| *to = *from);
            word.store(u64::from_ne_bytes(padded), Relaxed);
        }
        self.block.bus_address().as_u64() + start as u64
    }
}

/// How a process learns how far the device came.
#[derive(Debug)]
pub enum Progress<'a, const N: usize> {
    /// The process reads the device's own word: both rings are of `N` entries, entry for entry.
    Device,
    /// The process reads a word that the kernel writes, as packets take other entries in the device's ring than in the
    /// process's: one more for their first bytes, which lie in the slots.
    Kernel(&'a AtomicU32, Heads<'a, N>),
}

/// What a queue has taken over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Packets.
    pub packets: u64,
    /// Their bytes, as the process has them in memory.
    pub bytes: u64,
}

/// The kernel's side of a transmit queue that is checked: `N` entries of the process's ring, `H` of the device's.
///
/// `H` is `N`, or twice that where the first bytes of packets are checked.
#[derive(Debug)]
pub struct CheckedSender<'a, D, const N: usize, const H: usize> {
    /// The device's ring. No process sees it.
    hardware: &'a [TxDescriptor; H],
    /// The word that the device writes its head to.
    head: &'a AtomicU32,
    /// The process's ring.
    shadow: &'a [TxDescriptor; N],
    progress: Progress<'a, N>,
    doorbell: D,
    validator: TransmitValidator<N>,
    /// Where the next entry of the device's ring is written, and the oldest that it may have.
    posted: Position,
    returned: Position,
    /// For each entry of the device's ring that ends a packet, where the process's ring stood behind it; of use only where
    /// the rings differ.
    ends: [u32; H],
    /// What was taken over, where that is counted.
    counts: Counts,
}

impl<'a, D: Doorbell, const N: usize, const H: usize> CheckedSender<'a, D, N, H> {
    /// Whether entries of both rings correspond.
    const SAME: bool = {
        assert!(H == N || H == 2 * N);
        H == N
    };

    /// An empty queue for packets within `limits`, whose device writes its head to the word at the start of `head`.
    ///
    /// `None` where memory is too small or not aligned, the longest frame is below the shortest, or the progress is not one
    /// that fits the rings. Where first bytes are looked at, no tag may be inserted: it would not have been seen.
    #[must_use]
    pub fn new(
        (hardware, head): (SharedMemory<'a>, SharedMemory<'a>),
        shadow: SharedMemory<'a>,
        progress: Progress<'a, N>,
        doorbell: D,
        limits: Limits,
    ) -> Option<Self> {
        let is_same = matches!(progress, Progress::Device);
        let is_unseen = limits.vlan.is_some() && !is_same;
        if limits.max_frame < crate::tx::MIN_LEN || is_same != Self::SAME || is_unseen {
            return None;
        }
        Some(Self {
            hardware: hardware.view(0)?,
            head: head.view(0)?,
            shadow: shadow.view(0)?,
            progress,
            doorbell,
            validator: TransmitValidator::new(limits),
            posted: Position::START,
            returned: Position::START,
            ends: [0; H],
            counts: Counts::default(),
        })
    }

    /// How far the process's entries were taken over.
    #[must_use]
    pub const fn accepted(&self) -> Position {
        self.validator.next()
    }

    /// Number of entries of the device's ring that it may have.
    #[must_use]
    pub const fn outstanding(&self) -> u32 {
        self.posted.since(self.returned)
    }

    /// What was taken over so far; `None` where the rings correspond entry for entry, as counting would cost there what a
    /// check does.
    #[must_use]
    pub const fn counts(&self) -> Option<Counts> {
        if Self::SAME { None } else { Some(self.counts) }
    }

    /// Takes over up to `budget` entries before `claim`, and those that belong to the same packet; returns how far it came.
    ///
    /// # Errors
    ///
    /// What the process, or the device, did that it may not. The device was told of nothing of this batch then, and the
    /// queue is to be stopped.
    pub fn service<S: SourceCheck>(
        &mut self,
        claim: Position,
        regions: &RegionTable<'_>,
        source: &S,
        budget: u32,
    ) -> Result<Position, Fault> {
        const {
            assert!(
                !(S::LOOKS && Self::SAME),
                "copied heads take entries of their own"
            );
        }
        self.harvest()?;
        let start = self.validator.next();
        let count = claim.since(start);
        if count > self.validator.free() {
            return Err(self.refuse(claim).into());
        }
        let end = start.advanced(count.min(budget));
        let (posted, window) = (self.posted, regions.window_ref(Direction::ToDevice));
        // A packet may go on behind the budget's end.
        while let limit @ 1.. = end.since(self.validator.next())
            && limit <= count
        {
            if Self::SAME && self.post_run(limit, window) == limit {
                break;
            }
            self.take_packet(claim, regions, source)?;
        }
        if self.posted != posted {
            self.report();
            self.doorbell.ring(self.posted);
        }
        Ok(self.validator.next())
    }

    /// Takes note of what the device is done with; the number of entries of the process's ring.
    ///
    /// # Errors
    ///
    /// Where the device says that it is done with what it did not have.
    pub fn harvest(&mut self) -> Result<u32, Fault> {
        let head = u32::from_le(self.head.load(Relaxed));
        let outstanding = self.outstanding();
        let error = RingError::Head { head, outstanding };
        let done = head.wrapping_sub(self.returned.as_u32()) & (entries::<H>() - 1);
        if head >= entries::<H>() || done > outstanding {
            return Err(error.into());
        }
        if done == 0 {
            return Ok(0);
        }
        // The descriptors were read before the head was written.
        fence(Acquire);
        let oldest = self.validator.oldest();
        self.returned = self.returned.advanced(done);
        let until = if Self::SAME {
            oldest.advanced(done)
        } else {
            // Reports are asked for at packets' ends alone.
            Position::new(self.ends[slot(before(self.returned), H)])
        };
        if !self.validator.take_back(until) {
            return Err(error.into());
        }
        if let Progress::Kernel(told, _) = &self.progress {
            let told_slot = until.as_u32() & (entries::<N>() - 1);
            told.store(told_slot.to_le(), Release);
        }
        Ok(until.since(oldest))
    }

    /// Posts up to `limit` packets that are one plain entry each; how many that were.
    #[inline]
    fn post_run(&mut self, limit: u32, window: &RegionWindow) -> u32 {
        let mut total = 0;
        while total < limit {
            let run = (limit - total).min(REPORT_EVERY);
            let mut count = 0;
            if run as usize >= LINE {
                count = self.post_lines::<LINE>(run, window);
            }
            if count < run {
                count += self.post_lines::<1>(run - count, window);
            }
            total += count;
            if count > 0 && total < limit {
                self.report();
            }
            if count == 0 {
                break;
            }
        }
        total
    }

    /// The same up to either ring's end, as far as there are `L` at a time.
    #[inline]
    fn post_lines<const L: usize>(&mut self, limit: u32, window: &RegionWindow) -> u32 {
        let (from, to) = (slot(self.validator.next(), N), slot(self.posted, H));
        let run = limit.min(self.validator.free()) as usize;
        let run = run.min(N - from).min(H - to);
        let shadow = self.shadow[from..][..run].as_chunks::<L>().0.iter();
        let run = shadow
            .map(|line| line.each_ref().map(TxDescriptor::copy))
            .zip(self.hardware[to..][..run].as_chunks::<L>().0);
        let write = |places: &[TxDescriptor; L], entries: [Validated<TransmitValidator<N>>; L]| {
            for (place, entry) in places.iter().zip(entries) {
                // Runs hold data descriptors only, each a packet.
                if let Entry::Data { address, command } = entry.into_inner() {
                    place.write(address.as_u64(), command);
                }
            }
        };
        let count = self.validator.check_run(run, window, write);
        self.posted = self.posted.advanced(count);
        count
    }

    /// Asks for a report of the last entry that was written, which ends a packet.
    #[inline]
    fn report(&mut self) {
        let last = &self.hardware[slot(before(self.posted), H)];
        let [_, bits] = last.copy().0;
        last.write_command(Command::from_bits(bits).with_report());
    }

    /// Takes over one packet in the general case: of several parts, with offloads, or one whose first bytes are looked at.
    #[cold]
    fn take_packet<S: SourceCheck>(
        &mut self,
        claim: Position,
        regions: &RegionTable<'_>,
        source: &S,
    ) -> Result<(), Fault> {
        let mut head = Head::new();
        let mut first: Option<(Position, Position, Command)> = None;
        loop {
            let at = self.validator.next();
            if at == claim {
                let head = u32::try_from(slot(at, N)).unwrap_or(u32::MAX);
                return Err(Violation::Chain { head }.into());
            }
            let raw = self.shadow[slot(at, N)].copy();
            match self.validator.check(raw, regions)?.into_inner() {
                Entry::Context(context) => {
                    self.hardware[slot(self.posted, H)].write_context(context);
                    self.posted = self.posted.after();
                }
                Entry::Data { address, command } => {
                    self.counts.bytes += u64::from(command.len());
                    if S::LOOKS && first.is_none() {
                        first = Some((at, self.posted, command));
                        self.posted = self.posted.after();
                    }
                    self.write_part((address, command), &mut head, source)?;
                    if command.is_last() {
                        break;
                    }
                }
            }
        }
        if S::LOOKS {
            let written = first.and_then(|(.., command)| self.validator.written(command));
            let result = source.check(head.bytes(), written);
            result.map_err(|field| Violation::Spoofed { field })?;
            self.write_head(first, &head);
        }
        self.ends[slot(before(self.posted), H)] = self.validator.next().as_u32();
        self.counts.packets += 1;
        self.report();
        Ok(())
    }

    /// Writes what is left of a part, which was just accepted, after its first bytes were copied; nothing where nothing is.
    fn write_part<S: SourceCheck>(
        &mut self,
        (address, command): (BusAddress, Command),
        head: &mut Head,
        source: &S,
    ) -> Result<(), Violation> {
        let unreadable = Violation::OutsideRegions {
            iova: Iova::new(address.as_u64()),
            len: command.len().into(),
        };
        let copied = if S::LOOKS {
            // SAFETY: an entry that was accepted: the validator has translated these bytes through the process's regions, which the call
            // that is under way has borrowed.
            let copied = unsafe { head.gather(source, address, command.len()) };
            copied.ok_or(unreadable)?
        } else {
            0
        };
        let left = command.len() - copied;
        if left > 0 {
            let address = address.as_u64() + u64::from(copied);
            self.hardware[slot(self.posted, H)].write(address, command.with_len(left));
            self.posted = self.posted.after();
        }
        Ok(())
    }

    /// Writes the descriptor of the copied bytes into the place that was left for it.
    fn write_head(&mut self, first: Option<(Position, Position, Command)>, head: &Head) {
        let (Some((at, place, command)), Progress::Kernel(_, heads)) = (first, &self.progress)
        else {
            return;
        };
        let bytes = head.bytes();
        let address = heads.write(slot(at, N), bytes);
        let is_all = self.posted == place.after();
        let end = if is_all { Place::Last } else { Place::Further };
        #[expect(clippy::cast_possible_truncation, reason = "at most 98")]
        let command = command.with_len(bytes.len() as u32).ending(end);
        self.hardware[slot(place, H)].write(address, command);
    }

    /// The rule that a claim beyond the free entries breaks.
    #[cold]
    fn refuse(&self, claim: Position) -> Violation {
        let accepted = self.validator.next();
        if claim.since(accepted) < entries::<N>() {
            let id = u32::try_from(slot(self.validator.oldest(), N)).unwrap_or(u32::MAX);
            return Violation::Busy { id };
        }
        Violation::TailJump {
            claimed: claim.as_u32(),
            accepted: accepted.as_u32(),
        }
    }
}

/// The position before `position`.
#[inline]
const fn before(position: Position) -> Position {
    position.advanced(u32::MAX)
}

/// A ring's length.
#[expect(clippy::cast_possible_truncation, reason = "rings are that short")]
const fn entries<const N: usize>() -> u32 {
    N as u32
}
