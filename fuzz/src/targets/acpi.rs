//! The firmware's tables: real ones, damaged, each alone and all of a machine together.

use parakernel_core::address::{NodeId, PhysAddr};
use parakernel_numa::{
    acpi::{Distance, Dmar, Hmat, Madt, Mcfg, Slit, Srat, Table, Tables, Window},
    topology::{Builder, Core, DeviceRange, MemoryRange, Node, Sources, Storage},
};

use super::any_answer;
use crate::{Report, Target, input::Input};

pub(super) const TARGET: Target = Target {
    name: "acpi",
    run,
    is_validator: true,
    max_len: 64,
};

macro_rules! dump {
    ($($name:literal @ $address:literal),* $(,)?) => {
        &[$(($address, include_bytes!(concat!("../../../numa/tests/data/q35/", $name)))),*]
    };
}

/// The tables of a QEMU machine, each where it lay.
const MACHINE: &[(u64, &[u8])] = dump![
    "RSDP@000f5950.bin" @ 0x000f_5950,
    "RSDT@7ffe29e5.bin" @ 0x7ffe_29e5,
    "APIC@7ffe2561.bin" @ 0x7ffe_2561,
    "SRAT@7ffe2649.bin" @ 0x7ffe_2649,
    "SLIT@7ffe2799.bin" @ 0x7ffe_2799,
    "HMAT@7ffe27c9.bin" @ 0x7ffe_27c9,
    "MCFG@7ffe28f1.bin" @ 0x7ffe_28f1,
    "DMAR@7ffe292d.bin" @ 0x7ffe_292d,
    "FACP@7ffe246d.bin" @ 0x7ffe_246d,
];

/// Tables that ACPICA's compiler made, with every kind of entry.
const COMPILED: &[&[u8]] = &[
    include_bytes!("../../../numa/tests/data/iasl/apic.bin"),
    include_bytes!("../../../numa/tests/data/iasl/srat.bin"),
    include_bytes!("../../../numa/tests/data/iasl/dmar.bin"),
    include_bytes!("../../../numa/tests/data/iasl/hmat.bin"),
];

fn run(bytes: &[u8]) -> Report {
    let input = &mut Input::new(bytes);
    let mut report = Report::default();
    if input.byte() & 3 == 0 {
        machine(input, &mut report);
        return report;
    }
    let which = usize::from(input.byte()) % (MACHINE.len() + COMPILED.len());
    let whole = MACHINE
        .get(which)
        .map_or_else(|| COMPILED[which - MACHINE.len()], |(_, table)| table);
    let mut table = whole.to_vec();
    damage(input, &mut table);
    read(&table, &mut report);
    report
}

/// Changes a few bytes, sometimes the length, and mostly makes the checksum right again.
fn damage(input: &mut Input<'_>, table: &mut Vec<u8>) {
    for _ in 0..input.below(4).min(table.len() as u64) {
        let place = usize::from(u16::from_le_bytes(input.bytes())) % table.len();
        table[place] = match input.byte() {
            0..0x40 => 0,
            0x40..0x80 => 0xff,
            _ => input.byte(),
        };
    }
    if input.one_in(16) {
        table.truncate(usize::from(input.byte()));
    }
    if table.len() >= 36 && !input.one_in(16) {
        table[9] = 0;
        let sum = table.iter().fold(0_u8, |sum, &byte| sum.wrapping_add(byte));
        table[9] = sum.wrapping_neg();
    }
}

/// Reads a table as what it says it is; entries are counted, so a walk without an end would be seen.
fn read(table: &[u8], report: &mut Report) {
    let signature = table.get(..4).unwrap_or_default();
    let most = table.len();
    let count = match signature {
        b"APIC" => Madt::parse(table).map(|madt| madt.entries().count()),
        b"SRAT" => Srat::parse(table).map(|srat| srat.entries().count()),
        b"SLIT" => Slit::parse(table).map(|slit| distances(&slit)),
        b"HMAT" => Hmat::parse(table).map(|hmat| latencies(&hmat, most)),
        b"MCFG" => Mcfg::parse(table).map(|mcfg| mcfg.segments().count()),
        b"DMAR" => Dmar::parse(table).map(|dmar| scopes(&dmar)),
        _ => return,
    };
    report.note("damaged table", count.is_ok());
    assert!(count.is_ok_and(|count| count <= most) || count.is_err());
    if let (Ok(_), Some(len)) = (count, table.get(4..8)) {
        let len = u32::from_le_bytes([len[0], len[1], len[2], len[3]]);
        assert!(len as usize <= table.len() && len as usize >= Table::HEADER_LEN);
    }
}

fn distances(slit: &Slit<'_>) -> usize {
    let domains = u32::try_from(slit.domains()).expect("a small table");
    let pairs = (0..domains).flat_map(|from| (0..domains).map(move |to| (from, to)));
    for (from, to) in pairs {
        let distance = slit.distance(from, to);
        assert!(from != to || distance.is_none_or(|distance| distance == Distance::LOCAL));
    }
    assert_eq!(slit.distance(domains, 0), None);
    slit.domains()
}

fn latencies(hmat: &Hmat<'_>, most: usize) -> usize {
    for locality in hmat.localities() {
        assert!(locality.initiators().count() <= most && locality.targets().count() <= most);
        for initiator in locality.initiators().take(4) {
            for target in locality.targets().take(4) {
                any_answer(locality.performance(initiator, target));
            }
        }
    }
    hmat.structures().count() + hmat.memories().count() + hmat.caches().count()
}

fn scopes(dmar: &Dmar<'_>) -> usize {
    let units = dmar.units().flat_map(|unit| unit.scopes.iter());
    let hops: usize = units.map(|scope| scope.path().count()).sum();
    hops + dmar.structures().count() + dmar.reserved_regions().count() + dmar.affinities().count()
}

/// A machine some of whose tables are damaged: it gets a topology, or is refused.
fn machine(input: &mut Input<'_>, report: &mut Report) {
    let mut tables: Vec<(u64, Vec<u8>)> = MACHINE
        .iter()
        .map(|&(address, table)| (address, table.to_vec()))
        .collect();
    for _ in 0..input.below(3) {
        let which = usize::from(input.byte()) % tables.len();
        damage(input, &mut tables[which].1);
    }
    let windows: Vec<Window<'_>> = tables
        .iter()
        .map(|(address, table)| Window::new(PhysAddr::new(*address), table))
        .collect();
    let memory = windows.as_slice();
    let read =
        Tables::new(memory, PhysAddr::new(MACHINE[0].0)).and_then(|tables| Sources::read(&tables));
    report.note("damaged machine", read.is_ok());
    if let Ok(sources) = read {
        build(&sources);
    }
}

/// The topology has a node for each core and each range of memory, or there is none.
fn build(sources: &Sources<'_>) {
    let storage = Storage {
        nodes: &mut [Node::default(); 8],
        cores: &mut [Core::default(); 32],
        memory: &mut [MemoryRange::default(); 16],
        devices: &mut [DeviceRange::default(); 8],
        distances: &mut [Distance::LOCAL; 64],
    };
    let Ok(topology) = Builder::from_acpi(storage, sources).and_then(Builder::build) else {
        return;
    };
    let nodes = topology.nodes();
    for (from, _) in nodes.iter().enumerate() {
        let from = NodeId::new(u32::try_from(from).expect("few"));
        assert_eq!(topology.distance(from, from), Distance::LOCAL);
        for range in topology.memory_of(from) {
            assert_eq!(topology.node_of_memory(range.base), Some(from));
            assert!(range.end() >= range.base);
        }
        assert!(topology.cores_of(from).count() <= topology.cores().len());
    }
}
