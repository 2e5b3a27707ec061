//! Structures that QEMU does not make, compiled by ACPICA's `iasl` from `tests/data/iasl`.

use parakernel_core::address::PhysAddr;
use parakernel_core::pci;
use parakernel_numa::acpi::dmar::{self, Hop, ScopeKind, Scopes, Structure};
use parakernel_numa::acpi::hmat::{self, Hierarchy, Measure, Performance};
use parakernel_numa::acpi::madt::{self, Line, Polarity, ProcessorState, Trigger};
use parakernel_numa::acpi::srat::{self, DeviceHandle, MemoryFlags};
use parakernel_numa::acpi::{Dmar, Hmat, Madt, Srat};

use super::dump::compiled;

#[test]
fn madt_entries() {
    let bytes = compiled("apic");
    let madt = Madt::parse(&bytes).unwrap();
    assert!(!madt.has_legacy_controllers());
    assert_eq!(madt.local_apic_address(), PhysAddr::new(0x123_FEE0_0000));
    let expected = [
        madt::Entry::Processor(madt::Processor {
            uid: 7,
            apic_id: 0x42,
            state: ProcessorState::OnlineCapable,
        }),
        madt::Entry::Override(madt::InterruptOverride {
            source: 9,
            input: 0x14,
            line: line(Polarity::Low, Trigger::Level),
        }),
        madt::Entry::NmiSource(madt::NmiSource {
            input: 0x17,
            line: line(Polarity::High, Trigger::Edge),
        }),
        madt::Entry::LocalNmi(madt::LocalNmi {
            uid: Some(7),
            lint: 1,
            line: line(Polarity::Bus, Trigger::Bus),
        }),
        madt::Entry::LocalApicAddress(PhysAddr::new(0x123_FEE0_0000)),
        madt::Entry::Processor(madt::Processor {
            uid: 0xA0B,
            apic_id: 0x10203,
            state: ProcessorState::Enabled,
        }),
        madt::Entry::LocalNmi(madt::LocalNmi {
            uid: None,
            lint: 1,
            line: line(Polarity::High, Trigger::Level),
        }),
        madt::Entry::Other(15),
    ];
    assert_eq!(madt.entries().collect::<Vec<_>>(), expected);
}

const fn line(polarity: Polarity, trigger: Trigger) -> Line {
    Line { polarity, trigger }
}

#[test]
fn srat_entries() {
    let bytes = compiled("srat");
    let srat = Srat::parse(&bytes).unwrap();
    let core = |apic_id, domain, is_enabled| {
        srat::Entry::Processor(srat::ProcessorAffinity {
            apic_id,
            domain,
            is_enabled,
        })
    };
    let device = |device, domain| {
        srat::Entry::Initiator(srat::InitiatorAffinity {
            device,
            domain,
            is_enabled: true,
        })
    };
    let pci = DeviceHandle::Pci(pci::Address::new(3, 0xAF, 3, 3).unwrap());
    let acpi = DeviceHandle::Acpi {
        hid: *b"PARK0001",
        uid: [1, 2, 3, 4],
    };
    let expected = [
        core(0x42, 0x105, true),
        core(0x43, 0, false),
        srat::Entry::Memory(srat::MemoryAffinity {
            base: PhysAddr::new(0x10_8000_0000),
            len: 1 << 30,
            domain: 7,
            flags: MemoryFlags::all(),
        }),
        core(0x10203, 0x105, true),
        srat::Entry::Other(3),
        device(pci, 0x105),
        device(acpi, 7),
    ];
    assert_eq!(srat.entries().collect::<Vec<_>>(), expected);
    assert_eq!(srat.processors().count(), 2);
    assert_eq!(srat.initiators().count(), 2);
}

#[test]
fn dmar_structures() {
    let bytes = compiled("dmar");
    let dmar = Dmar::parse(&bytes).unwrap();
    assert_eq!(dmar.address_width(), 39);
    let flags = dmar::Flags::INTERRUPT_REMAPPING | dmar::Flags::DMA_CONTROL_OPT_IN;
    assert_eq!(dmar.flags(), flags);
    let [first, second] = dmar.units().collect::<Vec<_>>()[..] else {
        panic!("two units expected");
    };
    assert_eq!((first.segment, first.serves_rest), (1, false));
    assert_eq!(first.registers, PhysAddr::new(0xC5FF_C000));
    assert_eq!((second.segment, second.serves_rest), (0, true));
    let [endpoint, bridge] = first.scopes.iter().collect::<Vec<_>>()[..] else {
        panic!("two scopes expected");
    };
    assert_eq!(
        (endpoint.kind, endpoint.start_bus),
        (ScopeKind::Endpoint, 0x3A)
    );
    assert_eq!(
        endpoint.path().collect::<Vec<_>>(),
        [hop(2, 3), hop(0x1F, 7)]
    );
    assert_eq!(endpoint.function(1), None);
    assert_eq!(bridge.function(1), pci::Address::new(1, 0x40, 5, 0));
    let ids: Vec<_> = second
        .scopes
        .iter()
        .map(|scope| (scope.kind, scope.enumeration_id))
        .collect();
    assert_eq!(ids, [(ScopeKind::IoApic, 12), (ScopeKind::Hpet, 1)]);
}

#[test]
fn dmar_regions_ports_and_affinity() {
    let bytes = compiled("dmar");
    let dmar = Dmar::parse(&bytes).unwrap();
    let [region] = dmar.reserved_regions().collect::<Vec<_>>()[..] else {
        panic!("one region expected");
    };
    assert_eq!(region.segment, 2);
    assert_eq!(region.base, PhysAddr::new(0x7BA1_0000));
    assert_eq!(region.last, PhysAddr::new(0x7BA2_FFFF));
    let functions = |scopes: Scopes<'_>, segment| -> Vec<_> {
        let functions = scopes.iter().filter_map(|scope| scope.function(segment));
        functions.map(|function| function.to_string()).collect()
    };
    assert_eq!(functions(region.scopes, 2), ["0002:00:14.0"]);
    let affinity = dmar::UnitAffinity {
        registers: PhysAddr::new(0xC5FF_C000),
        domain: 0x105,
    };
    assert_eq!(dmar.affinities().collect::<Vec<_>>(), [affinity]);
    let [
        ..,
        Structure::Ats(ports),
        Structure::Affinity(_),
        Structure::Other(4),
    ] = dmar.structures().collect::<Vec<_>>()[..]
    else {
        panic!("ports, affinity and a namespace device expected");
    };
    assert_eq!((ports.segment, ports.all), (3, false));
    assert_eq!(functions(ports.scopes, 3), ["0003:17:04.0"]);
}

const fn hop(device: u8, function: u8) -> Hop {
    Hop { device, function }
}

#[test]
fn hmat_structures() {
    let bytes = compiled("hmat");
    let hmat = Hmat::parse(&bytes).unwrap();
    let [
        hmat::Structure::Memory(memory),
        hmat::Structure::Locality(locality),
    ] = hmat.structures().collect::<Vec<_>>()[..]
    else {
        panic!("memory and a matrix expected");
    };
    assert_eq!((memory.memory, memory.initiator), (9, None));
    assert_eq!(locality.measure, Measure::WriteBandwidth);
    assert_eq!(locality.hierarchy, Hierarchy::Cache(2));
    assert_eq!(locality.initiators().collect::<Vec<_>>(), [3]);
    assert_eq!(locality.targets().collect::<Vec<_>>(), [9, 10, 11]);
    assert_eq!(locality.performance(3, 9), Performance::Unknown);
    assert_eq!(locality.performance(3, 10), Performance::Unreachable);
    assert_eq!(locality.performance(3, 11), Performance::Known(700));
}
