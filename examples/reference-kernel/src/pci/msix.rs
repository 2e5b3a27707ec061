//! A function's MSI-X table: which entry interrupts which core with which vector (PCI 3.0 section 6.8.2).

use parakernel_core::mmio::{MappedRegisters, Registers};
use parakernel_core::pci::PciError;

use super::Function;
use crate::arch::native;
use crate::boot::Kernel;
use crate::cores;
use crate::memory::Frames;
use crate::print;
use crate::vectors::{Event, Vector};

/// Length of a table entry: address (64 bits), data, control.
const ENTRY_LEN: usize = 16;
/// Control: the entry is masked.
const MASKED: u32 = 1;
/// Where messages to local interrupt controllers go (Intel SDM vol. 3, 11.11.1); bits 12 to 19 say to which.
const MESSAGE_BASE: u32 = 0xfee0_0000;

/// The MSI-X table of a function, which the kernel alone writes.
#[derive(Debug)]
pub(crate) struct MsiX {
    /// The base address that holds the table.
    registers: MappedRegisters,
    /// Where the table begins there.
    offset: usize,
    entries: &'static mut [Entry],
}

/// Who uses an entry.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    vector: Option<Vector>,
    users: u32,
}

/// An event that an entry of the table leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Claim {
    /// The entry: what the device is to be told.
    pub(crate) entry: u16,
    /// What it leads to.
    pub(crate) event: Event,
}

impl MsiX {
    /// The table of `function`, all entries masked, with MSI-X switched on; `None` where it has none. `registers` are
    /// the base address that [`parakernel_core::pci::MsiX::table`] names.
    ///
    /// # Errors
    ///
    /// Where the table does not fit into them, or there is no memory to keep its use in.
    pub(crate) fn new(
        function: &Function,
        registers: MappedRegisters,
        frames: &mut Frames,
    ) -> Result<Option<Self>, PciError> {
        let Some(capability) = function.config.msi_x()? else {
            return Ok(None);
        };
        let table = capability.table();
        table.check(registers.len() as u64)?;
        let count = capability.vectors() as usize;
        let node = frames.nodes().next();
        let entries = node
            .and_then(|node| frames.place_slice(node, count, Entry::default()))
            .ok_or(PciError::OutsideBar {
                offset: table.offset,
            })?;
        let msix = Self {
            registers,
            offset: native(table.offset),
            entries,
        };
        for index in 0..count {
            msix.write(index, 12, MASKED);
        }
        capability.set_enabled(true);
        Ok(Some(msix))
    }

    /// The table of `function`, whose base address `index` is mapped as `registers` already; `None` where it has none, or that is
    /// broken, which the log says.
    pub(crate) fn of(
        kernel: &mut Kernel,
        function: &Function,
        (index, registers): (u8, &MappedRegisters),
    ) -> Option<Self> {
        let address = function.address;
        let capability = function.config.msi_x().ok()??;
        let table = capability.table();
        let registers = if table.bar == index {
            registers.part(0, registers.len())
        } else {
            let (tables, frames) = (&mut kernel.tables, &mut kernel.frames);
            function
                .map_bar(table.bar, tables, frames, &kernel.memory)
                .ok()
        };
        match Self::new(function, registers?, &mut kernel.frames) {
            Ok(msix) => msix,
            Err(error) => {
                print!("pci {address}: no interrupts: {error}\n");
                None
            }
        }
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Has entry `number` lead to `event` too; `None` where there is no such entry, or no vector left on the event's core.
    pub(crate) fn claim_at(&mut self, number: u16, event: Event) -> Option<Claim> {
        let index = usize::from(number);
        let entry = *self.entries.get(index)?;
        match entry.vector {
            None => {
                let vector = Vector::claim(event)?;
                if self.program(index, vector).is_none() {
                    vector.release(event);
                    return None;
                }
                self.entries[index].vector = Some(vector);
            }
            Some(vector) if !vector.share(event) => return None,
            Some(_) => {}
        }
        self.entries[index].users += 1;
        Some(Claim {
            entry: number,
            event,
        })
    }

    /// Ends a claim; the entry is masked when nobody is left. An interrupt that is under way still arrives; it has when
    /// the core has done a [flush](crate::cores::Core::ask_to_flush) that it was asked for after this.
    pub(crate) fn release(&mut self, claim: Claim) {
        let index = usize::from(claim.entry);
        let Some(entry) = self.entries.get_mut(index).filter(|entry| entry.users > 0) else {
            return;
        };
        entry.users -= 1;
        let (users, vector) = (entry.users, entry.vector);
        if users == 0 {
            entry.vector = None;
            self.write(index, 12, MASKED);
            // Reading back makes sure that the device has seen the write.
            let _ordered = self.registers.read32(self.offset + index * ENTRY_LEN + 12);
        }
        if let Some(vector) = vector {
            vector.release(claim.event);
        }
    }

    fn program(&self, index: usize, vector: Vector) -> Option<()> {
        // Without interrupt remapping a message can name 8 bits.
        let destination = u8::try_from(cores::by_id(vector.core)?.apic_id).ok()?;
        self.write(index, 12, MASKED);
        self.write(index, 0, MESSAGE_BASE | u32::from(destination) << 12);
        self.write(index, 4, 0);
        self.write(index, 8, u32::from(vector.number));
        self.write(index, 12, 0);
        Some(())
    }

    fn write(&self, index: usize, at: usize, value: u32) {
        self.registers
            .write32(self.offset + index * ENTRY_LEN + at, value);
    }
}
