//! A process as core 0 sees it: its memory, and the ring in which it gets its outcomes.
#![expect(
    unsafe_code,
    reason = "shares the outcome ring's memory with the process"
)]

use core::ops::Range;
use core::ptr::NonNull;

use heapless::String;
use kernel_formats::executable::{self, Executable};
use parakernel_core::abi::{Message, OutcomeRing, ProcessInfo, VERSION};
use parakernel_core::address::{CoreId, NodeId, PhysAddr};
use parakernel_core::memory::SharedMemory;
use parakernel_core::ring::Position;

use crate::address_space::{Access, AddressSpace, Leak};
use crate::arch::native;
use crate::arch::paging::{self, MapError, Tables};
use crate::memory::{FRAME, Frames, Owner};
use crate::runner::{End, Launch};
use crate::time;

/// Where executables may lie.
const IMAGE: Range<u64> = 0x1_0000..0x10_0000_0000;
/// Where the stack ends; the page below its start is not mapped.
const STACK_END: u64 = 0x7ffd_0000_0000;
/// Size of the stack.
const STACK_LEN: u64 = 256 * 1024;
/// Where the process finds its [`ProcessInfo`], followed by its arguments: one page, read-only.
const INFO: u64 = 0x7ffe_0000_0000;
/// Offset of the arguments in that page, and the most bytes of them.
const ARGUMENTS: u64 = 256;
pub(crate) const ARGUMENTS_MAX: usize = 1024;
/// Where the outcome ring is, and how many outcomes it holds.
const OUTCOMES: u64 = 0x7ffe_0010_0000;
const OUTCOME_ENTRIES: u32 = 32;
/// Where the pages of the lease with index 0 are mapped, and how far apart those of one and the next are.
pub(crate) const LEASES: u64 = 0x40_0000_0000;
pub(crate) const LEASE_STRIDE: u64 = 0x100_0000;

/// What a process is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan<'a> {
    /// Its name, cut to 16 bytes.
    pub(crate) name: &'a str,
    /// Its executable.
    pub(crate) file: &'a [u8],
    /// Its arguments, cut to what there is room for.
    pub(crate) arguments: &'a str,
    /// Where it is to run.
    pub(crate) core: CoreId,
}

/// A process that has a core.
#[derive(Debug)]
pub(crate) struct Process {
    /// The number of this run: no two are equal.
    pub(crate) run: u32,
    /// Its memory.
    pub(crate) space: AddressSpace,
    /// How it ended, if it has.
    pub(crate) end: Option<End>,
    outcomes: OutcomeRing<'static>,
    produced: Position,
}

/// Why a process cannot be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LoadError {
    /// The executable is refused.
    Executable(executable::Error),
    /// There is not enough memory on the core's node.
    Memory(MapError),
}

impl From<MapError> for LoadError {
    fn from(error: MapError) -> Self {
        Self::Memory(error)
    }
}

/// Whether an outcome found room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RingFull;

impl Process {
    /// Builds the process numbered `run` on `node`, and says how its core starts it.
    ///
    /// # Errors
    ///
    /// If it cannot be; nothing is left of it then.
    pub(crate) fn load(
        frames: &mut Frames,
        kernel: Tables,
        plan: &Plan<'_>,
        run: u32,
        node: NodeId,
    ) -> Result<(Self, Launch), LoadError> {
        let executable = Executable::parse(plan.file, IMAGE).map_err(LoadError::Executable)?;
        let mut space = AddressSpace::new(frames, node, Owner::process(run), kernel)?;
        let outcomes = match fill(&mut space, frames, &executable, plan, run) {
            Ok(outcomes) => outcomes,
            Err(error) => {
                // It is the lack of memory that is reported; frames cannot leak from a space that never ran.
                let _leak = space.destroy(frames).is_err();
                return Err(error.into());
            }
        };
        let name: String<16> = cut(plan.name);
        let launch = Launch {
            run,
            name: name.clone(),
            tables: space.tables(),
            entry: executable.entry(),
            // The stack is as right after a call, which is what compiled code expects.
            stack: STACK_END - 8,
            argument: INFO,
        };
        Ok((
            Self {
                run,
                space,
                end: None,
                outcomes,
                produced: Position::START,
            },
            launch,
        ))
    }

    /// Puts `outcome` where the process finds it; its core must be woken then.
    ///
    /// # Errors
    ///
    /// If the process has not taken enough of the earlier ones.
    pub(crate) fn deliver(&mut self, outcome: &Message) -> Result<(), RingFull> {
        if self.outcomes.room(self.produced) == 0 {
            return Err(RingFull);
        }
        self.outcomes.produce(self.produced, outcome);
        self.produced = self.produced.after();
        Ok(())
    }

    /// Its outcome of this number, as it takes it itself.
    pub(crate) fn outcome(&self, number: Position) -> Option<Message> {
        self.outcomes.consume(number)
    }

    /// Where its arguments are: the frame, and the bytes before them in it.
    pub(crate) fn arguments(&self) -> Option<(PhysAddr, u64)> {
        let page = self.space.tables().lookup(INFO)?;
        Some((page.frame, ARGUMENTS))
    }

    /// Frees all that it has. Its core must have said that it ended.
    ///
    /// # Errors
    ///
    /// If not all frames that it had taken came back.
    pub(crate) fn destroy(self, frames: &mut Frames) -> Result<(), Leak> {
        self.space.destroy(frames)
    }
}

/// Puts executable, stack, information and outcome ring into `space`.
fn fill(
    space: &mut AddressSpace,
    frames: &mut Frames,
    executable: &Executable<'_>,
    plan: &Plan<'_>,
    run: u32,
) -> Result<OutcomeRing<'static>, MapError> {
    for segment in executable.segments() {
        let access = match segment.access {
            executable::Access::Read => Access::Read,
            executable::Access::ReadWrite => Access::ReadWrite,
            executable::Access::ReadExecute => Access::ReadExecute,
        };
        space.allocate(frames, segment.pages(), access)?;
        space.fill(segment.start, segment.bytes);
    }
    space.allocate(frames, STACK_END - STACK_LEN..STACK_END, Access::ReadWrite)?;
    space.allocate(frames, INFO..INFO + FRAME, Access::Read)?;
    fill_info(space, plan, run);
    outcome_ring(space, frames)
}

fn outcome_ring(
    space: &mut AddressSpace,
    frames: &mut Frames,
) -> Result<OutcomeRing<'static>, MapError> {
    let len = (OutcomeRing::bytes(OUTCOME_ENTRIES) as u64).next_multiple_of(FRAME);
    let first = space.allocate_contiguous(frames, OUTCOMES..OUTCOMES + len, Access::ReadWrite)?;
    let base = NonNull::new(paging::physical(first)).ok_or(MapError::OutOfFrames)?;
    // SAFETY: fresh, zeroed frames in a row, mapped with all memory. The space owns them, and the ring goes before
    // the space does: both are parts of a `Process`, which is consumed to free them. Only the ring, which is made of
    // atomics, views them.
    let memory = unsafe { SharedMemory::new(base, native(len)) };
    OutcomeRing::new(memory, OUTCOME_ENTRIES).ok_or(MapError::OutOfFrames)
}

/// Writes the information page.
fn fill_info(space: &AddressSpace, plan: &Plan<'_>, run: u32) {
    let arguments: String<ARGUMENTS_MAX> = cut(plan.arguments);
    let info = ProcessInfo {
        version: VERSION,
        process: run,
        core: word(plan.core.index()),
        node: word(space.node().index()),
        tsc_hz: time::hertz(),
        tsc_start: time::start(),
        outcomes: OUTCOMES,
        outcome_entries: OUTCOME_ENTRIES,
        arguments_len: word(arguments.len()),
        arguments: INFO + ARGUMENTS,
        leases: LEASES,
        lease_stride: LEASE_STRIDE,
    };
    const { assert!(size_of::<ProcessInfo>() == 6 * size_of::<u32>() + 6 * size_of::<u64>()) };
    let start = (&raw const info).cast::<u8>();
    // SAFETY: the fields fill the structure (as asserted), so each of its bytes is initialised.
    let bytes = unsafe { core::slice::from_raw_parts(start, size_of::<ProcessInfo>()) };
    space.fill(INFO, bytes);
    space.fill(INFO + ARGUMENTS, arguments.as_bytes());
}

/// `value`, which is far below 2^32.
fn word(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// As many whole characters of `text` as fit.
fn cut<const N: usize>(text: &str) -> String<N> {
    let mut short = String::new();
    let _is_cut = text.chars().any(|character| short.push(character).is_err());
    short
}
