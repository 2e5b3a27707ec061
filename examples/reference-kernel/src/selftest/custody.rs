//! Who has what, where something goes wrong: a queue that does not stop, and memory that runs out.

use heapless::Vec;
use kernel_formats::{archive, manifest};
use parakernel_core::abi::Codec;
use parakernel_core::access::AccessMode;
use parakernel_core::address::{CoreId, Direction, PhysAddr};
use parakernel_core::control::{
    ClaimWish, Frames as _, MemoryWish, PageSize, Purpose, Quarantine, Request, Tag, Wake,
};
use parakernel_core::device::{DeviceId, QueueKind};
use parakernel_core::ring::RingSize;
use parakernel_numa::frames::FrameSize;

use super::{LIMIT, in_use};
use crate::control::Control;
use crate::machine::Machine;
use crate::memory::Owner;
use crate::runner::End;
use crate::{cores, time};

/// A process with a queue pair of the SSD. What it does is of no matter: core 0 asks in its name.
const PROCESS: &str = "process name=stuck elf=probe core=1 nvme_queues=1 volume=1:0+16:7";
pub(super) const CORE: CoreId = CoreId::new(1);
const ENTRIES: u32 = 64;
const PAGES: u64 = 8;
/// Frames that are left where memory is scarce: enough for a process, with some to spare.
const ROOM: usize = 1024;
/// A process needs fewer frames for its memory and its queue.
const MOST: usize = 40;
/// Most pieces that free memory is in.
const RUNS: usize = 256;

/// Whether a process whose queue does not stop is buried and its core used again, while the queue keeps its rings and what it may
/// reach, and whether a reset brings all of that back; `None` where there is no SSD.
pub(super) fn quarantine(control: &mut Control) -> Option<bool> {
    let device = control.device_of(QueueKind::Block)?;
    let process = manifest::processes(PROCESS).next()?.ok()?;
    let has_room = control.make_room(&process);
    let before = frames(control);
    let is_kept = has_room && live(control, &process, Some(device)).is_some() && {
        let Quarantine {
            leases,
            regions,
            pages,
        } = control.quarantined();
        let gone = before.checked_sub(frames(control));
        (leases, regions) == (1, 1) && pages > PAGES && gone.map(|gone| gone as u64) == Some(pages)
    };
    let lives_on = live(control, &process, None).is_some();
    control.refuse_to_stop(false);
    control.reset(device.as_u32());
    let is_back = until(control, |control| {
        control.quarantined() == Quarantine::default() && control.is_idle()
    });
    Some(is_kept && lives_on && is_back.is_some() && frames(control) == before)
}

/// Whether a process is refused what there is no memory for, wherever on the way that shows, and nothing is lost then; `None` where
/// there is no SSD.
pub(super) fn scarcity(control: &mut Control) -> Option<bool> {
    let device = control.device_of(QueueKind::Block)?;
    let process = manifest::processes(PROCESS).next()?.ok()?;
    let mut store = Store::default();
    let is_scarce = control.make_room(&process) && store.take(control, ROOM);
    let before = in_use(control.kernel());
    let mut outcomes = [0; 2];
    let mut is_good = is_scarce;
    for left in (0..MOST).filter(|_| is_scarce) {
        match poor_life(control, &process, (device, left)) {
            Some(is_granted) => outcomes[usize::from(is_granted)] += 1,
            None => is_good = false,
        }
        is_good &= in_use(control.kernel()) == before;
    }
    store.give_back(control);
    Some(is_good && outcomes.iter().all(|count| *count > 0))
}

/// Whether the frames of a lease and of a region are free only after the core of their process has forgotten them, and a core that
/// does not forget keeps them; `None` where there is no SSD.
pub(super) fn forgetting(control: &mut Control) -> Option<bool> {
    let device = control.device_of(QueueKind::Block)?;
    let process = manifest::processes(PROCESS).next()?.ok()?;
    let has_room = control.make_room(&process);
    let before = frames(control);
    let is_released = has_room && released(control, &process, device) == Some(true);
    let is_kept = kept(control) == Some(true);
    Some(is_released && is_kept && frames(control) == before)
}

/// A life of the process, whose lease and region are taken back while it has its core: that core has flushed before one frame is free.
fn released(
    control: &mut Control,
    process: &manifest::Process<'_>,
    device: DeviceId,
) -> Option<bool> {
    let core = cores::by_id(CORE)?;
    let file = archive::find(control.kernel().archive, "probe")?;
    let early = control.machine().freed_early;
    control.start(process, file, "").ok()?;
    ask(control, device)?;
    let has_both = control.counts()[..2] == [1, 1];
    let (had, flushed) = (frames(control), core.flushes_done());
    control.end(CORE);
    let mut is_in_order = true;
    until(control, |control| {
        is_in_order &= frames(control) == had || core.flushes_done() > flushed;
        control.has_nothing(CORE)
    })?;
    let is_free = frames(control) > had;
    bury(control)?;
    Some(has_both && is_in_order && is_free && control.machine().freed_early == early)
}

/// Has memory freed that was mapped on a core: not while it is mapped, nor before the core has flushed, but then.
fn kept(control: &mut Control) -> Option<bool> {
    let core = cores::by_id(CORE)?;
    let machine = control.machine();
    let (before, early) = (machine.kernel.frames.free_total(), machine.freed_early);
    let memory = machine.allocate(Purpose::Region {
        pages: PAGES,
        page_size: PageSize::Base,
        node: core.node,
    })?;
    let is_free = |machine: &mut Machine| {
        machine.free(memory);
        machine.kernel.frames.free_total() == before
    };
    machine.mapped(memory, core);
    let while_mapped = is_free(machine);
    machine.unmapped(memory);
    let before_flush = is_free(machine);
    let flush = core.ask_to_flush();
    time::spin_until(LIMIT, || core.has_flushed(flush)).ok()?;
    let after_flush = is_free(machine);
    let refused = machine.freed_early - early;
    machine.freed_early = early;
    Some([while_mapped, before_flush, after_flush] == [false, false, true] && refused == 2)
}

/// A life of the process in which there are only `left` frames when it asks for memory and a queue; whether it got both.
fn poor_life(
    control: &mut Control,
    process: &manifest::Process<'_>,
    (device, left): (DeviceId, usize),
) -> Option<bool> {
    let file = archive::find(control.kernel().archive, "probe")?;
    control.start(process, file, "").ok()?;
    let mut store = Store::default();
    let is_taken = store.take(control, left);
    let is_answered = ask(control, device);
    let is_granted = control.counts()[..2] == [1, 1];
    store.give_back(control);
    bury(control)?;
    (is_taken && is_answered.is_some()).then_some(is_granted)
}

/// Frames that nobody else can have meanwhile.
#[derive(Default)]
struct Store(Vec<(PhysAddr, usize), RUNS>);

impl Store {
    /// Takes all frames but `left` of the first node; whether it could.
    fn take(&mut self, control: &mut Control, left: usize) -> bool {
        let frames = &mut control.kernel().frames;
        let nodes = frames.nodes().enumerate();
        for (index, node) in nodes {
            let left = if index == 0 { left } else { 0 };
            for count in (0..usize::BITS).rev().map(|log2| 1 << log2) {
                while frames.free(node) >= left + count {
                    let Some(first) = frames.take(node, count, FrameSize::Small, Owner::KERNEL)
                    else {
                        break;
                    };
                    if self.0.push((first, count)).is_err() {
                        let _kept = frames.give_back(first, count, Owner::KERNEL).is_err();
                        return false;
                    }
                }
            }
        }
        frames.free_total() == left
    }

    fn give_back(self, control: &mut Control) {
        let frames = &mut control.kernel().frames;
        for (first, count) in self.0 {
            // What does not come back is missed by the figures.
            let _kept = frames.give_back(first, count, Owner::KERNEL).is_err();
        }
    }
}

/// A life of the process, from its start until it is buried, with a queue of `device` that does not stop.
fn live(
    control: &mut Control,
    process: &manifest::Process<'_>,
    device: Option<DeviceId>,
) -> Option<()> {
    let file = archive::find(control.kernel().archive, "probe")?;
    control.start(process, file, "").ok()?;
    if let Some(device) = device {
        ask(control, device)?;
        (control.counts()[..2] == [1, 1]).then_some(())?;
        control.refuse_to_stop(true);
    }
    bury(control).map(drop)
}

/// Ends the process, and takes all back that it had; how it ended.
pub(super) fn bury(control: &mut Control) -> Option<End> {
    control.end(CORE);
    until(control, |control| control.has_nothing(CORE))?;
    // Its core has to let go of it, whatever it is at.
    control.stop(CORE);
    until(control, |control| {
        let seat = control.kernel().seats.at(CORE);
        seat.is_some_and(|seat| {
            let _message = seat.receive();
            let process = seat.process.as_ref();
            process.is_none_or(|process| process.end.is_some())
        })
    })?;
    let kernel = control.kernel();
    let seat = kernel.seats.at(CORE)?;
    let end = seat.process.as_ref()?.end;
    seat.reclaim(&mut kernel.frames).ok()?;
    end
}

/// Asks for memory and a queue pair for the process, and waits for what comes of it.
fn ask(control: &mut Control, device: DeviceId) -> Option<()> {
    let memory = Request::RegisterMemory(MemoryWish {
        pages: PAGES,
        page_size: PageSize::Base,
        direction: Direction::Bidirectional,
        node: None,
    });
    let ring = RingSize::new(ENTRIES)?;
    let claim = Request::Claim(ClaimWish {
        device,
        at_least: AccessMode::Direct,
        first_ring: ring,
        second_ring: ring,
        wake: Wake::Interrupt,
        volume: control.first_volume(),
    });
    control.request(CORE, &memory.encode(Some(Tag(1))));
    control.request(CORE, &claim.encode(Some(Tag(2))));
    until(control, |control| control.is_idle())
}

/// Lets the control plane work until `done`; `None` where that takes too long.
pub(super) fn until(
    control: &mut Control,
    mut done: impl FnMut(&mut Control) -> bool,
) -> Option<()> {
    let in_time = time::spin_until(LIMIT, || {
        let _turn = control.turn();
        done(control)
    });
    in_time.ok()
}

fn frames(control: &mut Control) -> usize {
    control.kernel().frames.free_total()
}
