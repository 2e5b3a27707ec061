//! The machine's memory, as devices see it: real memory behind an IOMMU, with every transfer audited.
//!
//! A [`Memory`] is one page-aligned allocation. The CPU's side of it are plain pointers and
//! [`SharedMemory`](parakernel_core::memory::SharedMemory) views; the devices' side is a [`Bus`], which
//!
//! 1. translates each address through the device's IOMMU domain ([`Translation`]), page by page, and records faults;
//! 2. asks the audit whether a lease in force covers the memory ([`Memory::grant`]), and records the transfer;
//! 3. copies with atomic accesses as wide as alignment allows, so that a driver on another thread is no data race.
//!
//! A transfer that no lease covers is an *escape*. [`Escapes`] decides whether it happens all the same: with
//! [`Escapes::Performed`] a driver whose check was compiled out visibly corrupts memory.

mod atomic;
mod audit;
mod bus;
mod host;
mod iommu;
mod lend;
mod ram;

use alloc::sync::Arc;
use core::{fmt, ptr::NonNull};
use std::sync::Mutex;

use parakernel_core::address::{BusAddress, Direction, PhysAddr};

pub use audit::{Allowed, Dma, Escapes, Lease, Outcome};
pub use bus::{Bus, DmaError};
pub use host::HostMemory;
pub use iommu::{Fault, Translation};

#[cfg(feature = "serve")]
pub(crate) use atomic::AtomicBytes;

use crate::{sync::lock, world::Clock};
use audit::Audit;
use iommu::Iommu;
use lend::Lent;
use ram::Ram;

/// Bytes in a page, of the memory and of the IOMMU.
pub const PAGE: usize = 4096;

/// The identity that a device shows on the bus: bus, device and function number of PCI.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequesterId(pub u16);

impl fmt::Display for RequesterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bus, device, function) = (self.0 >> 8, (self.0 >> 3) & 31, self.0 & 7);
        write!(f, "{bus:02x}:{device:02x}.{function}")
    }
}

/// A range of physical memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// Its first byte.
    pub start: PhysAddr,
    /// Its length in bytes.
    pub len: usize,
}

/// A machine's memory. Clones are the same memory.
///
/// Physical addresses start at [`Memory::BASE`], above 4 GiB, so that an address that was cut to 32 bits, or that is a
/// pointer or an offset, lies in no memory at all.
#[derive(Clone)]
pub struct Memory(Arc<Inner>);

struct Inner {
    ram: Ram,
    state: Mutex<State>,
    clock: Clock,
    /// Where the devices' transfers go instead, if the memory is somebody else's.
    host: Option<Arc<dyn HostMemory>>,
}

struct State {
    /// Free memory, sorted by address, neighbours merged.
    free: Vec<Range>,
    /// Never to be free again, and where devices find it.
    lent: Vec<Lent>,
    /// Lent and taken back: to be lent again, but not allocated otherwise.
    returned: Vec<Range>,
    iommu: Iommu,
    audit: Audit,
}

impl Memory {
    /// The first physical address.
    pub const BASE: PhysAddr = PhysAddr::new(0x4_0000_0000);

    pub(crate) fn new(len: usize, clock: Clock) -> Self {
        Self::with(len, clock, None)
    }

    /// The memory behind `host`: all transfers of devices go there. What this type offers to a driver in the process
    /// (allocation, grants, the IOMMU) has no effect on it.
    pub(crate) fn hosted(clock: Clock, host: Arc<dyn HostMemory>) -> Self {
        Self::with(PAGE, clock, Some(host))
    }

    fn with(len: usize, clock: Clock, host: Option<Arc<dyn HostMemory>>) -> Self {
        let len = len.next_multiple_of(PAGE).max(PAGE);
        let state = State {
            free: vec![Range {
                start: Self::BASE,
                len,
            }],
            lent: Vec::new(),
            returned: Vec::new(),
            iommu: Iommu::default(),
            audit: Audit::default(),
        };
        Self(Arc::new(Inner {
            ram: Ram::new(len),
            state: Mutex::new(state),
            clock,
            host,
        }))
    }

    /// Takes `len` bytes, rounded up to whole pages, zeroed; `None` where no free range is that long.
    #[must_use]
    pub fn allocate(&self, len: usize) -> Option<Range> {
        self.allocate_aligned(len, PAGE)
    }

    /// Takes `len` bytes, rounded up to whole pages, zeroed, at a multiple of `alignment`, a power of two.
    #[must_use]
    pub fn allocate_aligned(&self, len: usize, alignment: usize) -> Option<Range> {
        let len = len.next_multiple_of(PAGE).max(PAGE);
        let alignment = alignment.max(PAGE) as u64;
        let mut state = lock(&self.0.state);
        let (index, start) = state.free.iter().enumerate().find_map(|(index, free)| {
            let start = free.start.as_u64().checked_next_multiple_of(alignment)?;
            let end = start.checked_add(len as u64)?;
            (end <= free.start.as_u64() + free.len as u64).then_some((index, start))
        })?;
        let free = state.free.remove(index);
        let range = Range {
            start: PhysAddr::new(start),
            len,
        };
        state.give_back(free.before(range));
        state.give_back(free.after(range));
        drop(state);
        self.fill(range, 0);
        Some(range)
    }

    /// Gives `range` back. What was granted or mapped stays so: an early free shows in the audit.
    ///
    /// # Panics
    ///
    /// Where the range does not lie in the memory, is free already, or was lent.
    pub fn free(&self, range: Range) {
        let inside = self.pointer(range).is_some();
        let mut state = lock(&self.0.state);
        let lent = state.lent.iter().map(|lent| &lent.range);
        let mut other = state.free.iter().chain(&state.returned).chain(lent);
        assert!(
            inside && other.all(|other| !other.overlaps(range)),
            "freed memory that was not allocated"
        );
        state.give_back(range);
    }

    /// How many bytes are free.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        lock(&self.0.state).free.iter().map(|range| range.len).sum()
    }

    /// The CPU's pointer to `range`, which stays valid as long as any clone of this memory lives.
    ///
    /// `None` where the range does not lie in the memory. Whoever makes references from it answers for them: devices
    /// may write there while a grant lasts.
    #[must_use]
    pub fn pointer(&self, range: Range) -> Option<NonNull<u8>> {
        self.0.ram.pointer(offset(range.start)?, range.len)
    }

    /// Fills `range` with `value`, as the CPU.
    pub fn fill(&self, range: Range, value: u8) {
        let _outside = self.poke(range.start, &vec![value; range.len]);
    }

    /// Reads memory as the CPU, for tests; whether all of it is there.
    #[must_use]
    pub fn peek(&self, at: PhysAddr, bytes: &mut [u8]) -> bool {
        offset(at).is_some_and(|offset| self.0.ram.load(offset, bytes))
    }

    /// Writes memory as the CPU, for tests; whether all of it is there, else nothing is written.
    #[must_use]
    pub fn poke(&self, at: PhysAddr, bytes: &[u8]) -> bool {
        offset(at).is_some_and(|offset| self.0.ram.store(offset, bytes))
    }

    /// The way that the device `requester` reaches this memory.
    #[must_use]
    pub fn bus(&self, requester: RequesterId) -> Bus {
        Bus::new(self.clone(), requester)
    }
}

/// Grants: what the audit holds each transfer against.
impl Memory {
    /// Notes that `lease` lets `requester` move data in `direction` to or from `range`.
    pub fn grant(&self, requester: RequesterId, range: Range, direction: Direction, lease: Lease) {
        lock(&self.0.state)
            .audit
            .grant(requester, range, direction, lease);
    }

    /// Ends everything granted under `lease`: from now on such a transfer is an escape.
    pub fn end(&self, lease: Lease) {
        lock(&self.0.state).audit.end(lease);
    }

    /// Ends what `lease` granted of `range`; the rest of it stays.
    pub fn end_range(&self, lease: Lease, range: Range) {
        lock(&self.0.state).audit.end_range(lease, range);
    }

    /// Decides what happens to transfers that no lease covers; at first they are [`Escapes::Blocked`].
    pub fn set_escapes(&self, escapes: Escapes) {
        lock(&self.0.state).audit.escapes = escapes;
    }

    /// The transfers that no lease covered, oldest first; at most 10,000 of them.
    #[must_use]
    pub fn escapes(&self) -> Vec<Dma> {
        lock(&self.0.state).audit.escaped.clone()
    }

    /// Forgets the escapes and the log.
    pub fn clear_audit(&self) {
        lock(&self.0.state).audit.clear();
    }

    /// The last transfers, oldest first: as many as [`keep_log`](Self::keep_log) says, at first 1,024.
    #[must_use]
    pub fn log(&self) -> Vec<Dma> {
        lock(&self.0.state).audit.log.iter().copied().collect()
    }

    /// Keeps the last `count` transfers in the log.
    pub fn keep_log(&self, count: usize) {
        lock(&self.0.state).audit.keep(count);
    }

    /// How many transfers `lease` has allowed so far, and how many bytes in all.
    #[must_use]
    pub fn allowed(&self, lease: Lease) -> Allowed {
        lock(&self.0.state).audit.allowed(lease)
    }
}

/// The IOMMU in front of the devices.
impl Memory {
    /// Sets how addresses of `requester` become memory; at first they are [`Translation::Identity`].
    ///
    /// Mappings made before stay, unused while the translation is another.
    pub fn translate(&self, requester: RequesterId, translation: Translation) {
        lock(&self.0.state).iommu.set(requester, translation);
    }

    /// Maps the pages of `range` at `bus` for `requester`, replacing what was mapped there.
    ///
    /// # Panics
    ///
    /// Where `bus`, the range's start or its length is not a multiple of [`PAGE`].
    pub fn map(&self, requester: RequesterId, bus: BusAddress, range: Range, direction: Direction) {
        let aligned = [bus.as_u64(), range.start.as_u64(), range.len as u64];
        assert!(
            aligned
                .iter()
                .all(|value| value.is_multiple_of(PAGE as u64)),
            "an IOMMU maps whole pages"
        );
        lock(&self.0.state)
            .iommu
            .map(requester, bus, range, direction);
    }

    /// Removes the pages `[bus, bus + len)` from the tables of `requester`.
    ///
    /// As on real hardware the device may use them until [`invalidate`](Self::invalidate).
    pub fn unmap(&self, requester: RequesterId, bus: BusAddress, len: usize) {
        lock(&self.0.state).iommu.unmap(requester, bus, len);
    }

    /// Flushes what the IOMMU still holds of removed mappings of `requester`.
    pub fn invalidate(&self, requester: RequesterId) {
        lock(&self.0.state).iommu.invalidate(requester);
    }

    /// Refuses the next `count` transfers of `requester`, as if nothing were mapped.
    pub fn fail_next(&self, requester: RequesterId, count: u32) {
        lock(&self.0.state).iommu.fail_next(requester, count);
    }

    /// The translations that failed, oldest first; at most 10,000 of them.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        lock(&self.0.state).iommu.faults.clone()
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("len", &self.0.ram.len())
            .finish_non_exhaustive()
    }
}

impl Range {
    fn overlaps(self, other: Self) -> bool {
        self.start.as_u64() < other.end() && other.start.as_u64() < self.end()
    }

    fn end(self) -> u64 {
        self.start.as_u64() + self.len as u64
    }

    /// The part of `self` below `inner`, which lies inside.
    fn before(self, inner: Self) -> Self {
        Self {
            start: self.start,
            len: length(self.start.as_u64(), inner.start.as_u64()),
        }
    }

    /// The part of `self` above `inner`, which lies inside.
    fn after(self, inner: Self) -> Self {
        Self {
            start: PhysAddr::new(inner.end()),
            len: length(inner.end(), self.end()),
        }
    }
}

impl State {
    fn give_back(&mut self, range: Range) {
        if range.len == 0 {
            return;
        }
        let index = self.free.partition_point(|free| free.start < range.start);
        self.free.insert(index, range);
        self.free.dedup_by(|next, previous| {
            let adjacent = previous.end() == next.start.as_u64();
            if adjacent {
                previous.len += next.len;
            }
            adjacent
        });
    }
}

/// Where `at` lies in the memory, if above its base.
fn offset(at: PhysAddr) -> Option<usize> {
    usize::try_from(at.offset_from(Memory::BASE)?).ok()
}

/// The bytes from `start` to `end`, none where `end` is the smaller.
fn length(start: u64, end: u64) -> usize {
    usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
