//! What the tables of QEMU say must be what its command line (`tests/data/dump.sh`) asked for.

use parakernel_core::address::PhysAddr;
use parakernel_core::pci;
use parakernel_numa::acpi::dmar::{self, ScopeKind};
use parakernel_numa::acpi::hmat::{Hierarchy, Measure, MemorySideCache, Performance};
use parakernel_numa::acpi::madt::{Entry, ProcessorState};
use parakernel_numa::acpi::madt::{InterruptOverride, IoApic, Line, LocalNmi, Polarity, Trigger};
use parakernel_numa::acpi::srat::MemoryFlags;
use parakernel_numa::acpi::{Distance, Segment, Signature, Tables};

use super::dump::{Dump, MACHINES};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

#[test]
fn every_table_is_found_at_the_place_where_it_was_dumped() {
    for machine in MACHINES {
        let dump = Dump::of(machine);
        let tables = Tables::new(&dump, dump.rsdp()).unwrap();
        for address in tables.addresses() {
            let dumped = dump
                .tables
                .iter()
                .find(|table| table.address == address.as_u64())
                .unwrap();
            let signature = Signature::new(dumped.name.as_bytes().try_into().unwrap());
            let found = tables.find(signature).unwrap().unwrap();
            assert_eq!(found.as_bytes(), dumped.bytes, "{machine}: {signature}");
        }
        assert!(tables.addresses().count() >= 2);
        assert!(tables.find(Signature::new(*b"NONE")).unwrap().is_none());
    }
}

#[test]
fn eight_cores_with_consecutive_apic_ids() {
    let dump = Dump::of("q35");
    let madt = Tables::new(&dump, dump.rsdp())
        .unwrap()
        .madt()
        .unwrap()
        .unwrap();
    let cores: Vec<_> = madt.processors().collect();
    assert_eq!(cores.len(), 8);
    for (index, core) in (0..).zip(cores) {
        assert_eq!((core.uid, core.apic_id), (index, index));
        assert_eq!(core.state, ProcessorState::Enabled);
    }
    assert_eq!(madt.local_apic_address(), PhysAddr::new(0xFEE0_0000));
    assert!(madt.has_legacy_controllers());
}

#[test]
fn one_io_apic_and_the_wiring_of_a_pc() {
    let dump = Dump::of("q35");
    let madt = Tables::new(&dump, dump.rsdp())
        .unwrap()
        .madt()
        .unwrap()
        .unwrap();
    let io_apic = IoApic {
        id: 0,
        address: PhysAddr::new(0xFEC0_0000),
        first_input: 0,
    };
    assert_eq!(madt.io_apics().collect::<Vec<_>>(), [io_apic]);
    let wiring = |source, input, polarity, trigger| InterruptOverride {
        source,
        input,
        line: Line { polarity, trigger },
    };
    let level = |source: u8| wiring(source, source.into(), Polarity::High, Trigger::Level);
    let timer = wiring(0, 2, Polarity::Bus, Trigger::Bus);
    let expected = [timer, level(5), level(9), level(10), level(11)];
    assert_eq!(madt.overrides().collect::<Vec<_>>(), expected);
    let nmi = LocalNmi {
        uid: None,
        lint: 1,
        line: Line {
            polarity: Polarity::Bus,
            trigger: Trigger::Bus,
        },
    };
    assert_eq!(madt.entries().last(), Some(Entry::LocalNmi(nmi)));
}

#[test]
fn the_second_socket_is_the_second_domain() {
    let dump = Dump::of("q35");
    let srat = Tables::new(&dump, dump.rsdp())
        .unwrap()
        .srat()
        .unwrap()
        .unwrap();
    let domains: Vec<_> = srat
        .processors()
        .map(|core| (core.apic_id, core.domain))
        .collect();
    let expected: Vec<_> = (0..8).map(|core| (core, core / 4)).collect();
    assert_eq!(domains, expected);
}

#[test]
fn memory_is_split_at_the_hole_below_4_gib() {
    let dump = Dump::of("q35");
    let srat = Tables::new(&dump, dump.rsdp())
        .unwrap()
        .srat()
        .unwrap()
        .unwrap();
    let ranges: Vec<_> = srat
        .memory()
        .map(|range| (range.base.as_u64(), range.len, range.domain))
        .collect();
    // Node 0 has 2 GiB, with the hole for legacy devices between 640 KiB and 1 MiB; node 1 has 4 GiB.
    let expected = [
        (0, 640 << 10, 0),
        (MIB, 2 * GIB - MIB, 0),
        (4 * GIB, 4 * GIB, 1),
    ];
    assert_eq!(ranges, expected);
    assert!(
        srat.memory()
            .all(|range| range.flags == MemoryFlags::ENABLED)
    );
}

#[test]
fn distances_are_those_of_the_command_line_in_both_directions() {
    let dump = Dump::of("q35");
    let slit = Tables::new(&dump, dump.rsdp())
        .unwrap()
        .slit()
        .unwrap()
        .unwrap();
    assert_eq!(slit.domains(), 2);
    let distance = |from, to| slit.distance(from, to).map(Distance::as_u8);
    assert_eq!(distance(0, 0), Some(10));
    assert_eq!(distance(0, 1), Some(21));
    assert_eq!(distance(1, 0), Some(31));
    assert_eq!(distance(1, 1), Some(10));
    assert_eq!(distance(2, 0), None);
    assert_eq!(distance(0, u32::MAX), None);
}

#[test]
fn configuration_space_of_256_buses() {
    for machine in ["q35", "demo", "x2apic"] {
        let dump = Dump::of(machine);
        let mcfg = Tables::new(&dump, dump.rsdp())
            .unwrap()
            .mcfg()
            .unwrap()
            .unwrap();
        let base = PhysAddr::new(0xB000_0000);
        let segment = Segment {
            segment: 0,
            base,
            first_bus: 0,
            last_bus: 255,
        };
        assert_eq!(mcfg.segments().collect::<Vec<_>>(), [segment]);
        assert_eq!(segment.mapped_len(), 256 * MIB);
        let place = |segment| mcfg.function(pci::Address::new(segment, 1, 2, 3).unwrap());
        assert_eq!(place(0), base.checked_add(0x0011_3000));
        assert_eq!(place(1), None);
    }
}

#[test]
fn a_remapping_unit_with_its_devices() {
    let dump = Dump::of("q35");
    let dmar = Tables::new(&dump, dump.rsdp())
        .unwrap()
        .dmar()
        .unwrap()
        .unwrap();
    assert_eq!(dmar.address_width(), 48);
    assert_eq!(dmar.flags(), dmar::Flags::INTERRUPT_REMAPPING);
    let [unit] = dmar.units().collect::<Vec<_>>()[..] else {
        panic!("one unit expected");
    };
    assert_eq!(unit.registers, PhysAddr::new(0xFED9_0000));
    assert_eq!(unit.segment, 0);
    let scopes: Vec<_> = unit
        .scopes
        .iter()
        .map(|scope| (scope.kind, scope.function(0).unwrap().to_string()))
        .collect();
    // The I/O APIC has a place outside the machine's buses; then VGA, network card, two root ports, LPC, SATA, SMBus.
    let expected = [
        (ScopeKind::IoApic, "0000:ff:00.0".into()),
        (ScopeKind::Endpoint, "0000:00:00.0".into()),
        (ScopeKind::Endpoint, "0000:00:01.0".into()),
        (ScopeKind::Endpoint, "0000:00:02.0".into()),
        (ScopeKind::SubHierarchy, "0000:00:03.0".into()),
        (ScopeKind::SubHierarchy, "0000:00:04.0".into()),
        (ScopeKind::Endpoint, "0000:00:1f.0".into()),
        (ScopeKind::Endpoint, "0000:00:1f.2".into()),
        (ScopeKind::Endpoint, "0000:00:1f.3".into()),
    ];
    assert_eq!(scopes, expected);
    assert!(dmar.ats_ports().next().unwrap().all);
    assert_eq!(dmar.reserved_regions().count(), 0);
}

#[test]
fn latencies_and_bandwidths_are_those_of_the_command_line() {
    let dump = Dump::of("q35");
    let hmat = Tables::new(&dump, dump.rsdp())
        .unwrap()
        .hmat()
        .unwrap()
        .unwrap();
    let [latency, bandwidth] = hmat.localities().collect::<Vec<_>>()[..] else {
        panic!("two matrices expected");
    };
    assert_eq!(latency.measure, Measure::AccessLatency);
    assert_eq!(bandwidth.measure, Measure::AccessBandwidth);
    let expected = [
        (0, 0, 5, 400),
        (0, 1, 15, 200),
        (1, 0, 20, 100),
        (1, 1, 10, 300),
    ];
    for (from, to, nanoseconds, megabytes) in expected {
        let picoseconds = Performance::Known(nanoseconds * 1000);
        assert_eq!(latency.performance(from, to), picoseconds);
        assert_eq!(
            bandwidth.performance(from, to),
            Performance::Known(megabytes)
        );
    }
    assert_eq!(latency.performance(0, 2), Performance::Unknown);
    assert_eq!(latency.hierarchy, Hierarchy::Memory);
}

#[test]
fn memory_is_attached_to_its_own_node_and_has_a_cache() {
    let dump = Dump::of("q35");
    let hmat = Tables::new(&dump, dump.rsdp())
        .unwrap()
        .hmat()
        .unwrap()
        .unwrap();
    let attached: Vec<_> = hmat
        .memories()
        .map(|memory| (memory.memory, memory.initiator))
        .collect();
    assert_eq!(attached, [(0, Some(0)), (1, Some(1))]);
    let cache = |memory, size, line| MemorySideCache {
        memory,
        size,
        levels: 1,
        level: 1,
        line,
    };
    assert_eq!(
        hmat.caches().collect::<Vec<_>>(),
        [cache(0, 10 << 10, 8), cache(1, 20 << 10, 16)]
    );
}

#[test]
fn more_cores_than_8_bits_can_name() {
    let dump = Dump::of("x2apic");
    let tables = Tables::new(&dump, dump.rsdp()).unwrap();
    let madt = tables.madt().unwrap().unwrap();
    let ids: Vec<_> = madt.processors().map(|core| core.apic_id).collect();
    assert_eq!(ids, (0..260).collect::<Vec<_>>());
    let started = |state| madt.processors().filter(|core| core.state == state).count();
    assert_eq!(started(ProcessorState::Enabled), 1);
    let srat = tables.srat().unwrap().unwrap();
    let domains: Vec<_> = srat
        .processors()
        .map(|core| (core.apic_id, core.domain))
        .collect();
    let expected: Vec<_> = (0..260)
        .map(|core| (core, u32::from(core >= 250)))
        .collect();
    assert_eq!(domains, expected);
}

#[test]
fn a_machine_without_numa_or_pci_tables() {
    let dump = Dump::of("microvm");
    let tables = Tables::new(&dump, dump.rsdp()).unwrap();
    assert_eq!(tables.madt().unwrap().unwrap().processors().count(), 3);
    assert!(tables.srat().unwrap().is_none());
    assert!(tables.slit().unwrap().is_none());
    assert!(tables.hmat().unwrap().is_none());
    assert!(tables.mcfg().unwrap().is_none());
    assert!(tables.dmar().unwrap().is_none());
}
