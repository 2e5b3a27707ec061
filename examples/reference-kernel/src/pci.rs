//! PCI: which functions there are, their registers, and their interrupts.
#![expect(unsafe_code, reason = "maps configuration space and base addresses")]

use core::ops::Range;

use heapless::Vec;
use parakernel_core::address::PhysAddr;
use parakernel_core::mmio::{MappedRegisters, Registers};
use parakernel_core::pci::{Address, Config, Identity};
use parakernel_numa::acpi::Segment;

use crate::arch::layout::KernelTables;
use crate::arch::paging::MapError;
use crate::boot::Kernel;
use crate::memory::Frames;
use crate::print;
use crate::ranges::Ranges;

pub(crate) mod msix;

/// Most functions that the kernel looks at.
pub(crate) const FUNCTIONS_MAX: usize = 64;
/// Bytes of configuration space of a function.
const CONFIG_LEN: usize = 4096;
/// Buses that a segment may have.
const BUSES: usize = 256;
/// Header of a bridge: where the number of the bus behind it is, and the layout that says so.
const SECONDARY_BUS: usize = 0x19;
const HEADER_TYPE: usize = 0x0e;
const LAYOUT_BRIDGE: u8 = 1;

/// A function that is not a bridge.
#[derive(Debug)]
pub(crate) struct Function {
    /// Where it is.
    pub(crate) address: Address,
    /// Its configuration space.
    pub(crate) config: Config<MappedRegisters>,
    /// What it says it is.
    pub(crate) identity: Identity,
}

/// Why registers are not mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BarError {
    /// The function has no such base address, or firmware gave it none.
    Missing,
    /// It lies over memory.
    OverMemory,
    /// There is no room for the mapping.
    Map(MapError),
}

/// Finds all functions, bus by bus.
pub(crate) fn enumerate(kernel: &mut Kernel) {
    for segment in kernel.machine.segments.clone() {
        let mut buses: Vec<u8, BUSES> = Vec::new();
        let _full = buses.push(segment.first_bus).is_err();
        let mut next = 0;
        // Each bus is visited once, so this ends however the bridges are wired.
        while let Some(bus) = buses.get(next).copied() {
            next += 1;
            for behind in scan_bus(kernel, &segment, bus) {
                if behind > segment.first_bus
                    && behind <= segment.last_bus
                    && !buses.contains(&behind)
                {
                    let _full = buses.push(behind).is_err();
                }
            }
        }
    }
}

/// Adds the functions on `bus`, and returns the buses behind its bridges.
fn scan_bus(kernel: &mut Kernel, segment: &Segment, bus: u8) -> Vec<u8, BUSES> {
    let mut behind = Vec::new();
    let first = Address::from_requester(segment.segment, u16::from(bus) << 8);
    let Some(start) = segment.function(first) else {
        return behind;
    };
    let Ok(base) = kernel
        .tables
        .map_device(&mut kernel.frames, start, (BUSES * CONFIG_LEN) as u64)
    else {
        print!("pci: no room to map bus {bus}\n");
        return behind;
    };
    for (index, requester) in (u16::from(bus) << 8..=u16::from(bus) << 8 | 0xff).enumerate() {
        let address = Address::from_requester(segment.segment, requester);
        let Some(place) = base.addr().checked_add(index * CONFIG_LEN) else {
            continue;
        };
        // SAFETY: the bus was just mapped, for ever, and its functions have a page each.
        let registers = unsafe { MappedRegisters::new(base.with_addr(place), CONFIG_LEN) };
        if registers.read8(HEADER_TYPE) & 0x7f == LAYOUT_BRIDGE {
            let _full = behind.push(registers.read8(SECONDARY_BUS)).is_err();
        } else if let Ok(config) = Config::new(registers) {
            add(kernel, address, config);
        }
    }
    behind
}

fn add(kernel: &mut Kernel, address: Address, config: Config<MappedRegisters>) {
    // Whatever firmware used the function for is over: it must not write to memory that is given out now.
    let _broken = config.set_bus_master(false).is_err();
    let identity = config.identity();
    let Identity {
        vendor,
        device,
        class,
        ..
    } = identity;
    print!("pci {address}: {vendor:04x}:{device:04x} class {class:06x}\n");
    let Some(node) = kernel.frames.nodes().next() else {
        return;
    };
    let function = kernel.frames.place(
        node,
        Function {
            address,
            config,
            identity,
        },
    );
    let is_kept = function.is_some_and(|function| kernel.functions.push(function).is_ok());
    if !is_kept {
        print!("pci: no room for {address}\n");
    }
}

impl Function {
    /// Maps the registers at base address `index`, uncached, for ever, and lets the function answer there.
    ///
    /// # Errors
    ///
    /// Where there are none, they lie over `memory`, or there is no room for the mapping.
    pub(crate) fn map_bar(
        &self,
        index: u8,
        tables: &mut KernelTables,
        frames: &mut Frames,
        memory: &Ranges,
    ) -> Result<MappedRegisters, BarError> {
        let (start, len) = self.bar(index, memory)?;
        let base = tables
            .map_device(frames, start, len)
            .map_err(BarError::Map)?;
        self.config.enable_memory();
        let len = usize::try_from(len).map_err(|_| BarError::Missing)?;
        // SAFETY: just mapped as device memory, for ever; a base address is aligned to its length of at least 16 bytes.
        Ok(unsafe { MappedRegisters::new(base, len) })
    }

    /// Where base address `index` is and how long, if that is no memory of ours.
    fn bar(&self, index: u8, memory: &Ranges) -> Result<(PhysAddr, u64), BarError> {
        let bar = self
            .config
            .bar(index)
            .filter(|bar| bar.address != 0)
            .ok_or(BarError::Missing)?;
        let end = bar.address.checked_add(bar.len).ok_or(BarError::Missing)?;
        let range: Range<u64> = bar.address..end;
        if !memory.within(&range).is_empty() {
            return Err(BarError::OverMemory);
        }
        Ok((PhysAddr::new(bar.address), bar.len))
    }
}
