//! Starting the cores.
#![expect(unsafe_code, reason = "starts cores on stacks and code of their own")]

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;

use parakernel_core::address::{CoreId, PhysAddr};
use x86_64::VirtAddr;
use x86_64::structures::gdt::GlobalDescriptorTable;
use x86_64::structures::tss::TaskStateSegment;

use super::{apic, cpu, gdt, idt, paging, traps};
use crate::boot::Kernel;
use crate::cores::{self, CORES_MAX, Core};
use crate::mailbox::{self, CoreEnd};
use crate::{print, runner, time};

/// Where the start-up code is copied to: a page below 1 MiB that neither firmware nor kernel uses. boot.s knows the
/// number too.
const TRAMPOLINE_PAGE: u8 = 8;
/// "10-millisecond delay" and "200-microsecond delay", Intel SDM vol. 3, 8.4.4.1.
const INIT_DELAY: Duration = Duration::from_millis(10);
const START_UP_DELAY: Duration = Duration::from_micros(200);
/// How long a core may take to say that it runs. Emulated cores share few real ones.
const START_LIMIT: Duration = Duration::from_secs(2);
/// Pages of a core's kernel stack, and of each interrupt stack.
const STACK_PAGES: u64 = 16;
const INTERRUPT_STACK_PAGES: u64 = 4;

/// The end of the stack of the core that is being started; boot.s reads it.
pub(crate) static AP_STACK_TOP: AtomicU64 = AtomicU64::new(0);
/// The root of the tables that it starts on; boot.s reads it.
pub(crate) static AP_TABLES: AtomicU64 = AtomicU64::new(0);
/// Whether that core has taken its [`Start`].
static AP_RUNS: AtomicBool = AtomicBool::new(false);

unsafe extern "C" {
    static ap_trampoline: u8;
    static ap_trampoline_end: u8;
}

/// What a core needs to begin.
#[derive(Debug)]
struct Start {
    core: &'static Core,
    descriptors: &'static mut Descriptors,
    interrupt_stacks: [VirtAddr; gdt::STACKS],
}

/// A core's segment descriptors.
#[derive(Debug)]
struct Descriptors {
    gdt: GlobalDescriptorTable,
    tss: TaskStateSegment,
}

/// A [`Start`] on its way to the core it is for.
///
/// # Invariants
///
/// Core 0 writes it while `AP_RUNS` is false and no core is starting; the core that starts takes it before it sets
/// `AP_RUNS`.
struct Handover(UnsafeCell<Option<(Start, CoreEnd, paging::Tables)>>);

// SAFETY: by the invariants, one core at a time uses the cell.
unsafe impl Sync for Handover {}

static HANDOVER: Handover = Handover(UnsafeCell::new(None));

/// Makes the core that boots core 0.
pub(crate) fn start_this_core(kernel: &mut Kernel) {
    idt::build();
    if let Some(page) = apic::page() {
        match kernel.tables.map_device(&mut kernel.frames, page, 4096) {
            Ok(address) => apic::set_page(address.as_ptr().expose_provenance()),
            Err(error) => panic!("the interrupt controller cannot be mapped: {error:?}"),
        }
    }
    let apic_id = cpu::initial_apic_id();
    let Some(start) = prepare(kernel, CoreId::new(0), apic_id) else {
        panic!("no memory for core 0");
    };
    cores::add(start.core);
    enter(start);
}

/// Starts all other cores, one after the other, and returns the kernel's ends of their mailboxes.
pub(crate) fn start_others(kernel: &mut Kernel) {
    copy_trampoline();
    let this = Core::this().apic_id;
    let others = kernel
        .machine
        .topology
        .cores()
        .iter()
        .map(|core| core.hardware_id);
    let mut next = 1;
    for apic_id in others.filter(|id| *id != this) {
        if next as usize >= CORES_MAX {
            print!("cores: more than {CORES_MAX}; APIC {apic_id} stays stopped\n");
            continue;
        }
        match start_one(kernel, CoreId::new(next), apic_id) {
            Ok(()) => next += 1,
            Err(reason) => print!("cores: APIC {apic_id} is not used: {reason}\n"),
        }
    }
}

/// Everything that a core needs to begin.
fn prepare(kernel: &mut Kernel, id: CoreId, apic_id: u32) -> Option<Start> {
    let node = kernel
        .frames
        .node_with_memory(kernel.machine.node_of(apic_id));
    let core: &'static Core = kernel.frames.place(node, Core::new(id, apic_id, node))?;
    let descriptors = Descriptors {
        gdt: GlobalDescriptorTable::new(),
        tss: TaskStateSegment::new(),
    };
    let descriptors = kernel.frames.place(node, descriptors)?;
    let mut interrupt_stacks = [VirtAddr::zero(); gdt::STACKS];
    for stack in &mut interrupt_stacks {
        let top = kernel
            .tables
            .map_stack(&mut kernel.frames, node, INTERRUPT_STACK_PAGES)
            .ok()?;
        *stack = VirtAddr::new(top);
    }
    Some(Start {
        core,
        descriptors,
        interrupt_stacks,
    })
}

/// Starts one core and enters it into the tables.
fn start_one(kernel: &mut Kernel, id: CoreId, apic_id: u32) -> Result<(), &'static str> {
    const NO_MEMORY: &str = "no memory";
    let start = prepare(kernel, id, apic_id).ok_or(NO_MEMORY)?;
    let core = start.core;
    let stack = kernel
        .tables
        .map_stack(&mut kernel.frames, core.node, STACK_PAGES)
        .map_err(|_| NO_MEMORY)?;
    let (kernel_end, core_end) = mailbox::pair(&mut kernel.frames, core.node).ok_or(NO_MEMORY)?;
    AP_STACK_TOP.store(stack, Ordering::Relaxed);
    AP_TABLES.store(kernel.tables.tables().root().as_u64(), Ordering::Relaxed);
    AP_RUNS.store(false, Ordering::Relaxed);
    // SAFETY: no core is starting, so the cell is this core's.
    unsafe { *HANDOVER.0.get() = Some((start, core_end, kernel.tables.tables())) };
    send_through_trampoline(apic_id)?;
    cores::add(core);
    kernel
        .seats
        .add(&mut kernel.frames, core, kernel_end)
        .map_err(|_| NO_MEMORY)
}

/// INIT, start-up, start-up: Intel SDM vol. 3, 8.4.4.1.
fn send_through_trampoline(apic_id: u32) -> Result<(), &'static str> {
    apic::send_init(apic_id);
    time::spin(INIT_DELAY);
    for _ in 0..2 {
        apic::send_start_up(apic_id, TRAMPOLINE_PAGE);
        time::spin(START_UP_DELAY);
    }
    time::spin_until(START_LIMIT, || AP_RUNS.load(Ordering::Acquire)).map_err(|time::Expired| {
        // It must not wake up later, on a stack that another core has by then.
        apic::send_init(apic_id);
        "it does not start"
    })
}

fn copy_trampoline() {
    let start = &raw const ap_trampoline;
    let len = (&raw const ap_trampoline_end).addr() - start.addr();
    let to = paging::physical(PhysAddr::new(u64::from(TRAMPOLINE_PAGE) << 12));
    // SAFETY: the page is mapped, below the memory that the kernel gives out, and large enough for the few bytes
    // between the symbols.
    unsafe { core::ptr::copy_nonoverlapping(start, to, len) };
}

/// The first Rust code of every core but core 0; boot.s calls it on the core's own stack.
#[unsafe(no_mangle)]
extern "sysv64" fn ap_start() -> ! {
    // SAFETY: core 0 wrote the cell for this core and waits.
    let start = unsafe { (*HANDOVER.0.get()).take() };
    let Some((start, mailbox, tables)) = start else {
        cpu::stop();
    };
    enter(start);
    AP_RUNS.store(true, Ordering::Release);
    runner::run(mailbox, tables)
}

/// Gives this core its descriptors, its record and its interrupt controller.
fn enter(start: Start) {
    cpu::protect();
    let Descriptors { gdt, tss } = start.descriptors;
    gdt::load(gdt, tss, start.interrupt_stacks);
    idt::load();
    traps::attach(start.core);
    apic::enable();
}
