//! The `acpi` crate must read the same from QEMU's MADT and MCFG.
#![expect(unsafe_code, reason = "the crate maps physical memory, here a dump")]

use core::ptr::NonNull;
use std::rc::Rc;

use acpi::madt::{Madt, MadtEntry};
use acpi::mcfg::Mcfg;
use acpi::{AcpiHandler, AcpiTables, PhysicalMapping};
use parakernel_core::address::PhysAddr;
use parakernel_numa::acpi::madt::{Entry, ProcessorState};
use parakernel_numa::acpi::{Memory as _, Tables};

use super::dump::{Dump, MACHINES};

#[derive(Clone)]
struct Handler(Rc<Dump>);

impl AcpiHandler for Handler {
    unsafe fn map_physical_region<T>(
        &self,
        address: usize,
        len: usize,
    ) -> PhysicalMapping<Self, T> {
        let bytes = self.0.bytes(PhysAddr::new(address as u64), len).unwrap();
        let start = NonNull::from(bytes).cast();
        // SAFETY: `start` points to `len` bytes, which the dump keeps alive; the types that the crate maps are packed
        // structures of integers.
        unsafe { PhysicalMapping::new(address, start, len, len, self.clone()) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}

fn peer(dump: &Dump) -> AcpiTables<Handler> {
    let rsdp = usize::try_from(dump.rsdp().as_u64()).unwrap();
    let mut dump = dump.clone();
    // The crate looks at 36 bytes, whatever the revision.
    for table in dump.tables.iter_mut().filter(|table| table.name == "RSDP") {
        table.bytes.resize(36, 0);
    }
    let handler = Handler(Rc::new(dump));
    // SAFETY: the dump has a root pointer there.
    unsafe { AcpiTables::from_rsdp(handler, rsdp) }.unwrap()
}

#[test]
fn cores_and_interrupt_controllers() {
    for machine in MACHINES {
        let dump = Dump::of(machine);
        let madt = Tables::new(&dump, dump.rsdp())
            .unwrap()
            .madt()
            .unwrap()
            .unwrap();
        let theirs = peer(&dump).find_table::<Madt>().unwrap();
        let mut count = 0;
        for (ours, theirs) in madt.entries().zip(theirs.get().entries()) {
            compare(ours, &theirs);
            count += 1;
        }
        assert_eq!(count, madt.entries().count(), "{machine}");
        assert_eq!(count, theirs.get().entries().count(), "{machine}");
    }
}

fn compare(ours: Entry, theirs: &MadtEntry<'_>) {
    match (ours, theirs) {
        (Entry::Processor(core), MadtEntry::LocalApic(entry)) => {
            assert_eq!(
                (core.uid, core.apic_id),
                (entry.processor_id.into(), entry.apic_id.into())
            );
            assert_eq!(
                core.state == ProcessorState::Enabled,
                { entry.flags } & 1 != 0
            );
        }
        (Entry::Processor(core), MadtEntry::LocalX2Apic(entry)) => {
            assert_eq!(
                (core.uid, core.apic_id),
                (entry.processor_uid, entry.x2apic_id)
            );
            assert_eq!(
                core.state == ProcessorState::Enabled,
                { entry.flags } & 1 != 0
            );
        }
        (Entry::IoApic(chip), MadtEntry::IoApic(entry)) => {
            let first_input = entry.global_system_interrupt_base;
            assert_eq!((chip.id, chip.first_input), (entry.io_apic_id, first_input));
            assert_eq!(chip.address.as_u64(), u64::from(entry.io_apic_address));
        }
        (Entry::Override(wiring), MadtEntry::InterruptSourceOverride(entry)) => {
            assert_eq!(wiring.source, entry.irq);
            assert_eq!(wiring.input, { entry.global_system_interrupt });
        }
        (Entry::LocalNmi(nmi), MadtEntry::LocalApicNmi(entry)) => {
            assert_eq!((nmi.uid, entry.processor_id), (None, 0xFF));
            assert_eq!(nmi.lint, entry.nmi_line);
        }
        (Entry::LocalNmi(nmi), MadtEntry::X2ApicNmi(entry)) => {
            assert_eq!((nmi.uid, { entry.processor_uid }), (None, u32::MAX));
            assert_eq!(nmi.lint, entry.nmi_line);
        }
        (ours, _) => panic!("{ours:?} is something else for the other crate"),
    }
}

#[test]
fn configuration_space() {
    for machine in ["q35", "demo", "x2apic"] {
        let dump = Dump::of(machine);
        let mcfg = Tables::new(&dump, dump.rsdp())
            .unwrap()
            .mcfg()
            .unwrap()
            .unwrap();
        let theirs = peer(&dump).find_table::<Mcfg>().unwrap();
        let theirs: Vec<_> = theirs
            .entries()
            .iter()
            .map(|entry| {
                let buses = (entry.bus_number_start, entry.bus_number_end);
                (entry.pci_segment_group, entry.base_address, buses)
            })
            .collect();
        let ours: Vec<_> = mcfg
            .segments()
            .map(|range| {
                (
                    range.segment,
                    range.base.as_u64(),
                    (range.first_bus, range.last_bus),
                )
            })
            .collect();
        assert_eq!(ours, theirs);
    }
}
