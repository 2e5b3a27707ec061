//! A queue that does not stop: its dead process is buried, and a reset gives back what the queue kept.

use kernel_formats::{archive, manifest};
use parakernel_core::abi::Codec;
use parakernel_core::access::AccessMode;
use parakernel_core::address::{CoreId, Direction};
use parakernel_core::control::{ClaimWish, MemoryWish, PageSize, Quarantine, Request, Tag, Wake};
use parakernel_core::device::{DeviceId, QueueKind};
use parakernel_core::ring::RingSize;

use super::LIMIT;
use crate::control::Control;
use crate::time;

/// A process with a queue pair of the SSD. What it does is of no matter: core 0 asks in its name.
const PROCESS: &str = "process name=stuck elf=probe core=1 nvme_queues=1 volume=1:0+16:7";
const CORE: CoreId = CoreId::new(1);
const ENTRIES: u32 = 64;
const PAGES: u64 = 8;

/// Whether a process whose queue does not stop is buried and its core used again, while the queue keeps its rings and what it may
/// reach, and whether a reset brings all of that back; `None` where there is no SSD.
pub(super) fn check(control: &mut Control) -> Option<bool> {
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

/// A life of the process, from its start until it is buried, with a queue of `device` that does not stop.
fn live(
    control: &mut Control,
    process: &manifest::Process<'_>,
    device: Option<DeviceId>,
) -> Option<()> {
    let file = archive::find(control.kernel().archive, "probe")?;
    control.start(process, file, 1).ok()?;
    if let Some(device) = device {
        ask_for_queue(control, device)?;
        control.refuse_to_stop(true);
    }
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
    seat.reclaim(&mut kernel.frames).ok()
}

/// Memory and a queue pair for the process.
fn ask_for_queue(control: &mut Control, device: DeviceId) -> Option<()> {
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
    until(control, |control| {
        control.counts()[..2] == [1, 1] && control.is_idle()
    })
}

/// Lets the control plane work until `done`; `None` where that takes too long.
fn until(control: &mut Control, mut done: impl FnMut(&mut Control) -> bool) -> Option<()> {
    let in_time = time::spin_until(LIMIT, || {
        let _turn = control.turn();
        done(control)
    });
    in_time.ok()
}

fn frames(control: &mut Control) -> usize {
    control.kernel().frames.free_total()
}
