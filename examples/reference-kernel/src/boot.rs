//! From the first Rust instruction to the event loop.
#![expect(unsafe_code, reason = "takes over memory from the boot loader")]

use core::arch::global_asm;
use core::ops::Range;

use heapless::Vec;
use parakernel_core::address::{NodeId, PhysAddr};
use parakernel_core::mmio::MappedRegisters;

use crate::acpi::Machine;
use crate::arch::layout::{self, KernelTables};
use crate::arch::smp;
use crate::memory::{self, EarlyFrames, FrameZone, Frames};
use crate::pci::{self, FUNCTIONS_MAX, Function};
use crate::ranges::Ranges;
use crate::seats::Seats;
use crate::start_info::StartInfo;
use crate::{housekeeping, print, serial, time};

global_asm!(
    include_str!("boot.s"),
    AP_STACK_TOP = sym smp::AP_STACK_TOP,
    AP_TABLES = sym smp::AP_TABLES,
    options(att_syntax)
);

/// What core 0 owns: the machine less what processes and drivers got.
pub(crate) struct Kernel {
    /// Physical memory.
    pub(crate) frames: Frames,
    /// The kernel's own address space.
    pub(crate) tables: KernelTables,
    /// Physical memory that is there, for devices not to lie over.
    pub(crate) memory: Ranges,
    /// PCI functions.
    pub(crate) functions: Vec<&'static Function, FUNCTIONS_MAX>,
    /// The cores that run processes.
    pub(crate) seats: Seats,
    /// What the firmware said.
    pub(crate) machine: Machine,
    /// The command line.
    pub(crate) command_line: &'static str,
    /// The archive of executables.
    pub(crate) archive: &'static [u8],
}

impl Kernel {
    /// Registers that no PCI function has, mapped for ever; `None` where memory lies there, or there is no room.
    pub(crate) fn map_registers(&mut self, start: PhysAddr, len: usize) -> Option<MappedRegisters> {
        let end = start.checked_add(len as u64)?;
        let is_free = self
            .memory
            .within(&(start.as_u64()..end.as_u64()))
            .is_empty();
        if !is_free || !start.is_aligned(8) {
            return None;
        }
        let base = self
            .tables
            .map_device(&mut self.frames, start, len as u64)
            .ok()?;
        // SAFETY: just mapped as device memory, for ever, aligned as its physical address is.
        Some(unsafe { MappedRegisters::new(base, len) })
    }

    /// The node that a function hangs on; where nobody says, the first that has memory.
    pub(crate) fn node_of(&self, function: &Function) -> NodeId {
        let node = self.machine.topology.node_of_device(function.address);
        self.frames.node_with_memory(node.unwrap_or(NodeId::new(0)))
    }
}

/// The first Rust code; boot.s calls it with the address of the start information.
#[unsafe(no_mangle)]
extern "sysv64" fn kernel_start(start_info: u64) -> ! {
    serial::COM1.init();
    serial::COM2.init();
    print!(
        "parakernel: reference kernel {}\n",
        env!("CARGO_PKG_VERSION")
    );
    let Some(start) = StartInfo::read(PhysAddr::new(start_info)) else {
        panic!("the boot loader's start information is not PVH's");
    };
    let mut kernel = take_over_memory(&start);
    smp::start_this_core(&mut kernel);
    if time::calibrate().is_err() {
        panic!("the interval timer does not count: no clock");
    }
    smp::start_others(&mut kernel);
    pci::enumerate(&mut kernel);
    report(&kernel);
    housekeeping::run(kernel)
}

/// Reads the firmware's tables, moves to page tables of the kernel's own, and gives each node its frames.
fn take_over_memory(start: &StartInfo) -> Kernel {
    let mut free = start.memory.clone();
    free.remove(0..layout::LOAD_ADDRESS);
    free.remove(layout::image());
    free.remove(start.archive.clone());
    let early_start = early_range(&free);
    let mut early = EarlyFrames::new(early_start.clone());
    let machine = match Machine::read(start.rsdp, &mut early) {
        Ok(machine) => machine,
        Err(error) => panic!("the firmware's tables: {error}"),
    };
    let zones = early.slice_with(
        memory::parts(&free, &machine.topology).count(),
        FrameZone::default,
    );
    let tables = KernelTables::build(&start.mapped, &mut early);
    let (Some(zones), Ok(tables)) = (zones, tables) else {
        panic!("no memory for the kernel's page tables");
    };
    // SAFETY: `build` maps the kernel's image and all memory where the boot tables have them.
    unsafe { tables.activate() };
    free.remove(early_start.start..early.rest().start);
    // SAFETY: this memory is mapped now, and neither the image, the archive, the tables nor the firmware is in it.
    let Some(frames) = (unsafe { Frames::new(&free, &machine.topology, zones) }) else {
        panic!("the memory map has changed while it was read");
    };
    Kernel {
        frames,
        tables,
        seats: Seats::default(),
        memory: start.mapped.clone(),
        functions: Vec::new(),
        machine,
        command_line: start.command_line,
        archive: start.archive_bytes(),
    }
}

/// Where the first tables go: the largest free range that the boot map reaches.
fn early_range(free: &Ranges) -> Range<u64> {
    let reachable = free.within(&(0..1 << 32));
    let largest = reachable.iter().max_by_key(|range| range.end - range.start);
    largest.cloned().unwrap_or(0..0)
}

fn report(kernel: &Kernel) {
    for node in kernel.frames.nodes() {
        let (free, cores) = (
            kernel.frames.free(node),
            crate::cores::all().filter(|core| core.node == node).count(),
        );
        print!(
            "node {}: {} MiB free, {cores} cores\n",
            node.index(),
            free / 256
        );
    }
    print!("tsc: {} kHz\n", time::hertz() / 1000);
    defmt::info!(
        "{} cores, {} frames free",
        crate::cores::all().count(),
        kernel.frames.free_total()
    );
}
