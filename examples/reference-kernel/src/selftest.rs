//! `selftest` (or `selftest=ROUNDS`) on the command line: probes that misbehave, each of which must end as it should
//! and leave nothing behind.

mod custody;
mod lease;
mod network;

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use kernel_formats::archive;
use parakernel_core::address::{CoreId, NodeId, PhysAddr};

use crate::address_space::{Access, AddressSpace, Caching, Foreign};
use crate::arch::paging::{Backing, Flags, MapError, PageSize};
use crate::arch::{apic, native};
use crate::boot::Kernel;
use crate::control::Control;
use crate::mailbox::Message;
use crate::memory::{FRAME, Owner};
use crate::panic::{Verdict, power_off};
use crate::process::Plan;
use crate::runner::End;
use crate::seats::Seat;
use crate::vectors::{Event, Vector};
use crate::{cores, print, time, vectors};

/// How long anything may take: emulated cores share few real ones.
const LIMIT: Duration = Duration::from_secs(30);
/// How long a probe that never ends runs before something is done about it.
const PATIENCE: Duration = Duration::from_millis(20);
/// Where the probe expects the page that is taken away from it.
const PAGE: u64 = 0x2000_0000;
/// Memory that the probe expects: two large pages and many small ones.
const MEMORY: core::ops::Range<u64> = 0x4000_0000..0x4050_0000;
/// What the probe expects there.
const PAGE_CONTENT: u64 = 0x5afe;

/// Exceptions: divide error, invalid opcode, general protection, page fault.
const DE: u8 = 0;
const UD: u8 = 6;
const GP: u8 = 13;
const PF: u8 = 14;

/// A test: what the probe is told, what the kernel does meanwhile, and how the probe must end.
struct Case(&'static str, fn(&mut Kernel) -> bool, Expected);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expected {
    /// With code 0.
    Exited,
    /// With this exception.
    Faulted(u8),
    /// Because it was stopped.
    Stopped,
}

const CASES: [Case; 26] = [
    Case("exit", nothing, Expected::Exited),
    Case("exit", map_without_tables, Expected::Exited),
    Case("log", nothing, Expected::Exited),
    Case("info", nothing, Expected::Exited),
    Case("sse", nothing, Expected::Exited),
    Case("wild-pointers", nothing, Expected::Exited),
    Case("unknown-call", nothing, Expected::Exited),
    Case("wait", nothing, Expected::Exited),
    Case("request", nothing, Expected::Exited),
    Case("memory", give_memory, Expected::Exited),
    Case("interrupt", interrupt_each, Expected::Exited),
    Case("interrupt", interrupt_all_through_one, Expected::Exited),
    Case("exit", write_after_free, Expected::Exited),
    Case("read-kernel", nothing, Expected::Faulted(PF)),
    Case("write-code", nothing, Expected::Faulted(PF)),
    Case("write-info", nothing, Expected::Faulted(PF)),
    Case("run-data", nothing, Expected::Faulted(PF)),
    Case("null", nothing, Expected::Faulted(PF)),
    Case("overflow", nothing, Expected::Faulted(PF)),
    Case("touch-revoked", give_and_take, Expected::Faulted(PF)),
    Case("divide", nothing, Expected::Faulted(DE)),
    Case("privileged", nothing, Expected::Faulted(GP)),
    Case("illegal", nothing, Expected::Faulted(UD)),
    Case("spin", stop_all, Expected::Stopped),
    Case("spin-with-ac", stop_all, Expected::Stopped),
    Case("spin", stop_at_once, Expected::Stopped),
];

/// Runs all tests that need no device, those with probes `rounds` times; whether all passed.
pub(crate) fn run(kernel: &mut Kernel, rounds: u32) -> bool {
    let mut is_good = told("virtual-queues", network::virtual_queues(kernel));
    for Case(arguments, action, expected) in CASES {
        let failed = (0..rounds)
            .filter(|_| !passes(kernel, arguments, action, expected))
            .count();
        if failed > 0 {
            print!("{arguments}: {failed} of {rounds} times\n");
        }
        is_good &= told(arguments, failed == 0);
    }
    is_good
}

/// Runs the tests that need devices, and powers off; `is_good` is how those before went.
pub(crate) fn finish(control: &mut Control, is_good: bool) -> ! {
    let is_good = is_good
        & custody::scarcity(control).is_none_or(|it| told("scarcity", it))
        & custody::forgetting(control).is_none_or(|it| told("forgetting", it))
        & lease::ssd_views(control).is_none_or(|it| told("ssd-views", it))
        & lease::card_views(control).is_none_or(|it| told("card-views", it))
        & lease::spoofing(control).is_none_or(|it| told("spoofing", it))
        & lease::quotas(control).is_none_or(|it| told("quotas", it))
        & custody::quarantine(control).is_none_or(|it| told("quarantine", it))
        & network::reset(control).is_none_or(|it| told("reset", it));
    let verdict = if is_good {
        Verdict::Pass
    } else {
        Verdict::Fail
    };
    print!("selftest: {verdict:?}\n");
    power_off(verdict)
}

/// Says how a test went, and returns it.
fn told(name: &str, is_good: bool) -> bool {
    print!("{} {name}\n", if is_good { "PASS" } else { "FAIL" });
    is_good
}

/// Runs the probe on all cores at once; whether all ended as expected, and all frames and vectors came back.
fn passes(
    kernel: &mut Kernel,
    arguments: &str,
    action: fn(&mut Kernel) -> bool,
    expected: Expected,
) -> bool {
    let Some(file) = archive::find(kernel.archive, "probe") else {
        print!("no probe in the archive\n");
        return false;
    };
    let before = in_use(kernel);
    for core in cores::all().skip(1) {
        let plan = Plan {
            name: "probe",
            file,
            arguments,
            core: core.id,
        };
        if let Err(error) = kernel
            .seats
            .start(&mut kernel.frames, kernel.tables.tables(), &plan)
        {
            print!("core {}: {error:?}\n", core.id.index());
            return false;
        }
    }
    let acted = action(kernel);
    let ended = collect(kernel, expected);
    let after = in_use(kernel);
    if before != after {
        print!("free frames and used vectors: {before:?} before, {after:?} after\n");
    }
    acted && ended && before == after && cores::all().count() > 1
}

/// Frames that are free, and vectors that are not.
fn in_use(kernel: &Kernel) -> (usize, usize) {
    (
        kernel.frames.free_total(),
        cores::all().map(vectors::in_use).sum(),
    )
}

/// Waits for all probes and reclaims them; whether they ended as expected.
fn collect(kernel: &mut Kernel, expected: Expected) -> bool {
    let mut good = true;
    for seat in kernel.seats.iter_mut() {
        let in_time = answer_until_end(seat);
        if !in_time {
            seat.stop();
            let _hangs = !answer_until_end(seat);
        }
        let end = seat.process.as_ref().and_then(|process| process.end);
        let as_expected = match (end, expected) {
            (Some(End::Exited(code)), Expected::Exited) => code == 0,
            (Some(End::Faulted(fault)), Expected::Faulted(vector)) => fault.vector == vector,
            (Some(End::Stopped), Expected::Stopped) => in_time,
            _ => false,
        };
        let reclaimed = seat.reclaim(&mut kernel.frames);
        if !as_expected || reclaimed.is_err() {
            print!("core {}: {end:?}, {reclaimed:?}\n", seat.core.id.index());
            good = false;
        }
    }
    good
}

/// Sends the probe back whatever it asks for, until it has ended; whether it did in time.
fn answer_until_end(seat: &mut Seat) -> bool {
    let ended = time::spin_until(LIMIT, || {
        while let Some(Message::Request(request)) = seat.receive() {
            let _lost = seat.deliver(&request).is_err();
        }
        seat.process
            .as_ref()
            .is_none_or(|process| process.end.is_some())
    });
    ended.is_ok()
}

const fn nothing(_: &mut Kernel) -> bool {
    true
}

/// Stops the probes before they have begun, or hardly.
fn stop_at_once(kernel: &mut Kernel) -> bool {
    kernel.seats.iter_mut().for_each(|seat| seat.stop());
    true
}

fn stop_all(kernel: &mut Kernel) -> bool {
    time::spin(PATIENCE);
    kernel.seats.iter_mut().for_each(|seat| seat.stop());
    true
}

/// Has a vector of each core wake the probe there.
fn interrupt_each(kernel: &mut Kernel) -> bool {
    kernel.seats.iter_mut().all(|seat| {
        let event = Event {
            core: seat.core.id,
            number: 1,
        };
        let Some(vector) = Vector::claim(event) else {
            return false;
        };
        let asked = await_request(seat);
        apic::send(seat.core.apic_id, vector.number);
        let arrived = await_end(seat);
        vector.release(event);
        asked && arrived
    })
}

/// Has one vector, of core 1, wake the probes on all cores.
fn interrupt_all_through_one(kernel: &mut Kernel) -> bool {
    let first = Event {
        core: CoreId::new(1),
        number: 2,
    };
    let (Some(vector), Some(target)) = (Vector::claim(first), cores::by_id(first.core)) else {
        return false;
    };
    let others = || {
        cores::all().skip(2).map(|core| Event {
            core: core.id,
            number: 3,
        })
    };
    let shared = others().all(|event| vector.share(event));
    let asked = kernel.seats.iter_mut().all(await_request);
    apic::send(target.apic_id, vector.number);
    let arrived = kernel.seats.iter_mut().all(await_end);
    vector.release(first);
    others().for_each(|event| vector.release(event));
    shared && asked && arrived
}

/// Gives each probe memory of its own, part of it in large pages.
fn give_memory(kernel: &mut Kernel) -> bool {
    kernel.seats.iter_mut().all(|seat| {
        let asked = await_request(seat);
        let Some(process) = &mut seat.process else {
            return false;
        };
        let given = process
            .space
            .allocate(&mut kernel.frames, MEMORY, Access::ReadWrite);
        let is_large = [0, 2 << 20].map(|at| process.space.page_size(MEMORY.start + at))
            == [Some(PageSize::Large); 2];
        let is_on_node = process.space.node() == seat.core.node;
        let delivered = seat.deliver(&parakernel_core::abi::Message::default());
        asked && given.is_ok() && is_large && is_on_node && delivered.is_ok()
    })
}

/// Maps pages for which the tables run out in the middle: not one of them may be there afterwards, since a core could remember it.
fn map_without_tables(kernel: &mut Kernel) -> bool {
    const OWNER: Owner = Owner::process(u32::MAX - 1);
    // The second half lies behind the table of the first, for which, and for the two above it, there are frames.
    const HALF: u64 = 4 * FRAME;
    let node = kernel.frames.node_with_memory(NodeId::new(0));
    let space = AddressSpace::new(&mut kernel.frames, node, OWNER, kernel.tables.tables());
    let Ok(space) = space else { return false };
    let backing = Backing {
        physical: MEMORY.start..MEMORY.start + 2 * HALF,
        largest: PageSize::Large,
        flags: Flags::USER_ACCESSIBLE,
    };
    let at = MEMORY.start + PageSize::Large.bytes() - HALF;
    let tables = space.tables();
    let mut map = |mut left: usize| {
        let mut source = || {
            left = left.checked_sub(1)?;
            kernel.frames.take_one(node, OWNER)
        };
        let mapped = tables.map_range(at, &backing, &mut source);
        let is_there = |page: u64| tables.lookup(at + page * FRAME).is_some();
        (mapped, (0..8).filter(|page| is_there(*page)).count())
    };
    let outcomes = [map(3), map(0), map(1)];
    // It did not take the tables itself, so their number is not what it expects; that they came back is counted by the caller.
    let _more_than_taken = space.destroy(&mut kernel.frames).is_err();
    let failed = (Err(MapError::OutOfFrames), 0);
    outcomes == [failed, failed, (Ok(()), 8)]
}

/// Writes to a frame after giving it back, as a device would whose queue was not stopped: it has to be found, and nothing else.
fn write_after_free(kernel: &mut Kernel) -> bool {
    let node = kernel.frames.node_with_memory(NodeId::new(0));
    let block = kernel.frames.dma_block(node, native(FRAME), Owner::KERNEL);
    let Some(block) = block else { return false };
    let before = kernel.frames.inspect();
    let base = PhysAddr::new(block.bus_address().as_u64());
    let freed = kernel.frames.give_back(base, 1, Owner::KERNEL);
    let while_whole = kernel.frames.inspect();
    let last = block.memory().view::<AtomicU64>(native(FRAME) - 8);
    let Some(last) = last else { return false };
    last.fetch_xor(1, Ordering::Relaxed);
    let found = kernel.frames.inspect();
    last.fetch_xor(1, Ordering::Relaxed);
    freed.is_ok() && while_whole.damaged == before.damaged && found.damaged == before.damaged + 1
}

/// Lets each probe read a page of the kernel's for a while, then takes it away.
fn give_and_take(kernel: &mut Kernel) -> bool {
    let Some(frame) = kernel.frames.take_one(NodeId::new(0), Owner::KERNEL) else {
        return false;
    };
    let physical = frame.as_u64()..frame.as_u64() + FRAME;
    let good = kernel.seats.iter_mut().all(|seat| {
        let asked = await_request(seat);
        let Some(process) = &mut seat.process else {
            return false;
        };
        let page = Foreign {
            physical: physical.clone(),
            access: Access::Read,
            caching: Caching::Memory,
        };
        let mapped = process.space.map(&mut kernel.frames, PAGE, &page);
        process.space.fill(PAGE, &PAGE_CONTENT.to_le_bytes());
        let delivered = seat.deliver(&parakernel_core::abi::Message::default());
        time::spin(PATIENCE);
        let runs = seat.receive().is_none();
        let mut owned = 0;
        if let Some(process) = &mut seat.process {
            process.space.unmap(PAGE..PAGE + FRAME, |_, _| owned += 1);
        }
        let flush = seat.core.ask_to_flush();
        let flushed = time::spin_until(LIMIT, || seat.core.has_flushed(flush));
        asked && mapped.is_ok() && delivered.is_ok() && runs && owned == 0 && flushed.is_ok()
    });
    good && kernel.frames.give_back(frame, 1, Owner::KERNEL).is_ok()
}

/// Waits until the probe has asked for something.
fn await_request(seat: &mut Seat) -> bool {
    time::spin_until(LIMIT, || {
        matches!(seat.receive(), Some(Message::Request(_)))
    })
    .is_ok()
}

/// Waits until the probe has ended.
fn await_end(seat: &mut Seat) -> bool {
    time::spin_until(LIMIT, || matches!(seat.receive(), Some(Message::Ended(_)))).is_ok()
}
