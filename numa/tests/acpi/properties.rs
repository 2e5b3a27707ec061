//! No bytes whatever make a view panic, hang, or contradict itself.

use parakernel_core::address::PhysAddr;
use parakernel_core::pci;
use parakernel_numa::acpi::{Dmar, Hmat, Madt, Mcfg, Slit, Srat, Tables, Window, hmat};
use proptest::prelude::*;

use super::dump::{Dump, MACHINES, compiled, seal};

/// Parses `bytes` as everything, and walks all that was accepted.
fn walk_all(bytes: &[u8]) -> usize {
    let mut accepted = 0;
    if let Ok(madt) = Madt::parse(bytes) {
        accepted += 1;
        let _ = (madt.local_apic_address(), madt.entries().count());
    }
    if let Ok(srat) = Srat::parse(bytes) {
        accepted += 1;
        let fits = |range: &parakernel_numa::acpi::srat::MemoryAffinity| {
            range.base.checked_add(range.len).is_some()
        };
        assert!(srat.memory().all(|range| fits(&range)));
    }
    if let Ok(slit) = Slit::parse(bytes) {
        accepted += 1;
        let domains = u32::try_from(slit.domains()).unwrap();
        let mut pairs = (0..domains).flat_map(|from| (0..domains).map(move |to| (from, to)));
        assert!(pairs.all(|(from, to)| slit.distance(from, to).is_some()));
    }
    if let Ok(mcfg) = Mcfg::parse(bytes) {
        accepted += 1;
        for range in mcfg.segments() {
            let last = pci::Address::new(range.segment, range.last_bus, 31, 7).unwrap();
            let last = range.function(last).and_then(|last| last.checked_add(4096));
            assert_eq!(last, range.start().checked_add(range.mapped_len()));
        }
    }
    accepted + usize::from(walk_dmar(bytes)) + usize::from(walk_hmat(bytes))
}

fn walk_dmar(bytes: &[u8]) -> bool {
    let Ok(dmar) = Dmar::parse(bytes) else {
        return false;
    };
    let all = (dmar.units().map(|unit| unit.scopes))
        .chain(dmar.reserved_regions().map(|region| region.scopes))
        .chain(dmar.ats_ports().map(|ports| ports.scopes));
    for scopes in all {
        assert!(scopes.iter().all(|scope| scope.path().count() > 0));
    }
    true
}

fn walk_hmat(bytes: &[u8]) -> bool {
    let Ok(hmat) = Hmat::parse(bytes) else {
        return false;
    };
    for matrix in hmat.localities() {
        for initiator in matrix.initiators() {
            for target in matrix.targets() {
                let _ = matrix.performance(initiator, target);
            }
        }
    }
    let is_matrix = |structure| matches!(structure, hmat::Structure::Locality(_));
    assert_eq!(
        hmat.structures().filter(|s| is_matrix(*s)).count(),
        hmat.localities().count()
    );
    true
}

fn valid_table() -> impl Strategy<Value = Vec<u8>> {
    let mut tables = vec![];
    for machine in MACHINES {
        let dump = Dump::of(machine);
        let wanted = ["APIC", "SRAT", "SLIT", "HMAT", "MCFG", "DMAR"];
        let has_view = |name: &str| wanted.contains(&name);
        tables.extend(
            dump.tables
                .into_iter()
                .filter(|t| has_view(&t.name))
                .map(|t| t.bytes),
        );
    }
    tables.extend(["apic", "srat", "dmar", "hmat"].map(compiled));
    prop::sample::select(tables)
}

/// Bytes that lengths and counts are most likely to be wrong with.
fn nasty_byte() -> impl Strategy<Value = u8> {
    prop_oneof![Just(0), Just(1), Just(0xFF), Just(0x7F), any::<u8>()]
}

proptest! {
    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        walk_all(&bytes);
    }

    #[test]
    fn random_bodies_behind_a_valid_header(
        mut table in valid_table(),
        body in prop::collection::vec(nasty_byte(), 0..300),
    ) {
        table.truncate(36);
        table.extend(body);
        seal(&mut table);
        walk_all(&table);
    }

    #[test]
    fn valid_tables_with_a_few_bytes_changed(
        mut table in valid_table(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), nasty_byte()), 0..6),
    ) {
        let intact = changes.is_empty();
        for (index, byte) in changes {
            let index = index.index(table.len() - 36) + 36;
            table[index] = byte;
        }
        seal(&mut table);
        let accepted = walk_all(&table);
        prop_assert!(!intact || accepted == 1);
    }

    #[test]
    fn valid_tables_cut_anywhere(table in valid_table(), cut in any::<prop::sample::Index>()) {
        let mut table = table;
        let len = cut.index(table.len() + 1);
        prop_assert_eq!(walk_all(&table[..len]), usize::from(len == table.len()));
        table.truncate(len.max(36));
        seal(&mut table);
        walk_all(&table);
    }

    #[test]
    fn root_pointers_and_root_tables_with_bytes_changed(
        machine in prop::sample::select(&MACHINES[..]),
        in_pointer in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..2),
        in_root in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let mut dump = Dump::of(machine);
        let rsdp = dump.rsdp();
        for table in &mut dump.tables {
            let changes = match table.name.as_str() {
                "RSDP" => &in_pointer,
                "RSDT" | "XSDT" => &in_root,
                _ => continue,
            };
            let len = table.bytes.len();
            for (index, byte) in changes {
                table.bytes[index.index(len)] = *byte;
            }
            if table.name != "RSDP" {
                seal(&mut table.bytes);
            }
        }
        if let Ok(tables) = Tables::new(&dump, rsdp) {
            let _ = (tables.madt(), tables.srat(), tables.slit(), tables.mcfg());
            prop_assert!(tables.addresses().count() < 20);
        }
    }

    #[test]
    fn memory_of_random_bytes(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        base in any::<u64>(),
        rsdp in any::<u64>(),
    ) {
        let window = Window::new(PhysAddr::new(base), &bytes);
        prop_assert!(Tables::new(&window, PhysAddr::new(rsdp)).is_err());
    }
}
