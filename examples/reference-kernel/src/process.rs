//! Processes: from an executable to a core's seat, and back to free frames.

use core::mem::offset_of;
use core::ops::Range;

use heapless::{String, Vec};
use kernel_abi::{INFO_ADDRESS, Info};
use kernel_formats::executable::{self, Executable};
use parakernel_core::address::{CoreId, NodeId};

use crate::address_space::{Access, AddressSpace, Leak};
use crate::arch::paging::{MapError, Tables};
use crate::cores::{CORES_MAX, Core};
use crate::mailbox::{KernelEnd, Message, Order};
use crate::memory::{FRAME, Frames};
use crate::runner::{End, Launch};
use crate::time;

/// Where executables may lie.
const IMAGE: Range<u64> = 0x1_0000..0x10_0000_0000;
/// Where each stack ends; the page below its start is not mapped.
const STACK_END: u64 = 0x7ffd_0000_0000;
/// Size of a stack.
const STACK_LEN: u64 = 256 * 1024;

/// A process, as core 0 sees it.
#[derive(Debug)]
pub(crate) struct Process {
    /// Its name.
    pub(crate) name: String<16>,
    /// The number of this run.
    pub(crate) run: u64,
    /// Its memory.
    pub(crate) space: AddressSpace,
    /// How it ended, if it has.
    pub(crate) end: Option<End>,
}

/// What a process is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan<'a> {
    /// Its name, cut to 16 bytes.
    pub(crate) name: &'a str,
    /// Its executable.
    pub(crate) file: &'a [u8],
    /// Its command line, cut to what [`Info`] has room for.
    pub(crate) argument: &'a str,
    /// Where it is to run.
    pub(crate) core: CoreId,
}

/// Why a process did not start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StartError {
    /// There is no such core, or it has a process already.
    NoSeat,
    /// The executable is refused.
    Executable(executable::Error),
    /// There is not enough memory on the core's node.
    Memory(MapError),
}

impl From<MapError> for StartError {
    fn from(error: MapError) -> Self {
        Self::Memory(error)
    }
}

/// A core and the process on it.
pub(crate) struct Seat {
    /// The core.
    pub(crate) core: &'static Core,
    mailbox: KernelEnd,
    /// The process, until it is reclaimed.
    pub(crate) process: Option<Process>,
}

/// All cores that run processes: one each.
#[derive(Default)]
pub(crate) struct Seats {
    seats: Vec<&'static mut Seat, CORES_MAX>,
    runs: u64,
}

impl Seats {
    /// Adds the core at the other end of `mailbox`.
    ///
    /// # Errors
    ///
    /// If there is no memory for the seat.
    pub(crate) fn add(
        &mut self,
        frames: &mut Frames,
        core: &'static Core,
        mailbox: KernelEnd,
    ) -> Result<(), MapError> {
        let seat = Seat {
            core,
            mailbox,
            process: None,
        };
        let seat = frames.place(core.node, seat).ok_or(MapError::OutOfFrames)?;
        self.seats.push(seat).map_err(|_| MapError::OutOfFrames)
    }

    /// The seats.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Seat> {
        self.seats.iter_mut().map(|seat| &mut **seat)
    }

    /// The seat of a core.
    pub(crate) fn at(&mut self, core: CoreId) -> Option<&mut Seat> {
        self.iter_mut().find(|seat| seat.core.id == core)
    }

    /// Starts a process.
    ///
    /// # Errors
    ///
    /// If it cannot be; nothing is left of it then.
    pub(crate) fn start(
        &mut self,
        frames: &mut Frames,
        kernel: Tables,
        plan: &Plan<'_>,
    ) -> Result<(), StartError> {
        self.runs += 1;
        let run = self.runs;
        let seat = self.at(plan.core).ok_or(StartError::NoSeat)?;
        if seat.process.is_some() {
            return Err(StartError::NoSeat);
        }
        let executable = Executable::parse(plan.file, IMAGE).map_err(StartError::Executable)?;
        let mut space = AddressSpace::new(frames, seat.core.node, kernel)?;
        if let Err(error) = load(&mut space, frames, &executable, plan) {
            let _leak = space.destroy(frames).is_err();
            return Err(error.into());
        }
        let name = cut(plan.name);
        // The ABI wants the stack as it is right after a call.
        let stack = STACK_END - 8;
        let launch = Launch {
            run,
            name: name.clone(),
            tables: space.tables(),
            entry: executable.entry(),
            stack,
        };
        if seat.mailbox.order(Order::Run(launch)).is_err() {
            let _leak = space.destroy(frames).is_err();
            return Err(StartError::NoSeat);
        }
        seat.process = Some(Process {
            name,
            run,
            space,
            end: None,
        });
        seat.core.post(0);
        Ok(())
    }
}

impl Seat {
    /// The oldest message of the core; the end of a process is noted.
    pub(crate) fn receive(&mut self) -> Option<Message> {
        let message = self.mailbox.receive()?;
        if let (Message::Ended(end), Some(process)) = (&message, &mut self.process) {
            process.end = Some(*end);
        }
        Some(message)
    }

    /// Has the process stopped; its end comes as a message.
    pub(crate) fn stop(&self) {
        if let Some(process) = &self.process {
            self.core.stop(process.run);
        }
    }

    /// Frees the memory of a process that has ended.
    ///
    /// # Errors
    ///
    /// If not all frames that it had taken came back.
    pub(crate) fn reclaim(&mut self, frames: &mut Frames) -> Result<(), Leak> {
        match self.process.take_if(|process| process.end.is_some()) {
            Some(process) => process.space.destroy(frames),
            None => Ok(()),
        }
    }
}

/// Puts the executable, a stack and the information page into `space`.
fn load(
    space: &mut AddressSpace,
    frames: &mut Frames,
    executable: &Executable<'_>,
    plan: &Plan<'_>,
) -> Result<(), MapError> {
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
    space.allocate(frames, INFO_ADDRESS..INFO_ADDRESS + FRAME, Access::Read)?;
    fill_info(space, plan.core, space.node(), plan.argument);
    Ok(())
}

/// Writes the information page, field by field: it has no other form than its layout.
fn fill_info(space: &AddressSpace, core: CoreId, node: NodeId, argument: &str) {
    let argument: String<128> = cut(argument);
    for (offset, value) in [
        (offset_of!(Info, version), 1),
        (offset_of!(Info, core), core.index()),
        (offset_of!(Info, node), node.index()),
        (offset_of!(Info, argument_len), argument.len()),
    ] {
        space.fill(INFO_ADDRESS + offset as u64, &(value as u32).to_le_bytes());
    }
    space.fill(
        INFO_ADDRESS + offset_of!(Info, tsc_hz) as u64,
        &time::hertz().to_le_bytes(),
    );
    space.fill(
        INFO_ADDRESS + offset_of!(Info, argument) as u64,
        argument.as_bytes(),
    );
}

/// As many whole characters of `text` as fit.
fn cut<const N: usize>(text: &str) -> String<N> {
    let mut short = String::new();
    let _cut = text.chars().any(|character| short.push(character).is_err());
    short
}
