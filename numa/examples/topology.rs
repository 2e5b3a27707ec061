//! Prints the topology that ACPI tables describe: nodes, cores, memory, distances, and where queues would go.
//!
//! `cargo run --example topology [FOLDER]`, where `FOLDER` holds tables as `SIGNATURE@ADDRESS.bin`; without it, the
//! tables of a QEMU machine with two nodes, `tests/data/q35`.

use core::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use parakernel_core::address::{CoreId, NodeId, PhysAddr};
use parakernel_numa::acpi::{Distance, Dmar, Mcfg, Memory, Tables, Window};
use parakernel_numa::placement::{nearest, place};
use parakernel_numa::topology::{
    Builder, Core, DeviceRange, MemoryRange, Node, Sources, Storage, Topology,
};

fn main() -> Result<(), Box<dyn Error>> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/q35");
    let files = load(&env::args().nth(1).map_or(default, PathBuf::from))?;
    let windows: Vec<_> = files
        .iter()
        .map(|file| Window::new(file.address, &file.bytes))
        .collect();
    let rsdp = files.iter().find(|file| file.name == "RSDP");
    let tables = Tables::new(&windows[..], rsdp.ok_or("no RSDP")?.address)?;

    let sources = Sources::read(&tables)?;
    let storage = Storage {
        nodes: &mut [Node::default(); 8],
        cores: &mut [Core::default(); 64],
        memory: &mut [MemoryRange::default(); 16],
        devices: &mut [DeviceRange::default(); 16],
        distances: &mut [Distance::LOCAL; 64],
    };
    let topology = Builder::from_acpi(storage, &sources)?.build()?;
    for node in (0..).map(NodeId::new).take(topology.nodes().len()) {
        print_node(&topology, node);
        print_placement(&topology, node);
    }
    print_devices(&tables)
}

fn print_node(topology: &Topology<'_>, node: NodeId) {
    let cores: Vec<_> = topology.cores_of(node).map(CoreId::index).collect();
    println!("node {}: cores {cores:?}", node.index());
    for range in topology.memory_of(node) {
        println!("  memory from {:#x} to {:#x}", range.base, range.end());
    }
    for other in nearest(topology, node) {
        let distance = topology.distance(node, other).as_u8();
        println!("  distance {distance} to node {}", other.index());
    }
}

/// Says which cores the queues of a device on `node` get, one after the other.
fn print_placement(topology: &Topology<'_>, node: NodeId) {
    let all = (0..).map(CoreId::new).take(topology.cores().len());
    let mut free: Vec<_> = all.collect();
    let mut chosen = vec![];
    while let Some(placement) = place(topology, &[node], free.iter().copied()) {
        free.retain(|core| *core != placement.core);
        chosen.push(placement.core.index());
    }
    println!("  queues of a device here go to cores {chosen:?}");
}

fn print_devices<M: Memory + ?Sized>(tables: &Tables<'_, M>) -> Result<(), Box<dyn Error>> {
    for range in tables.mcfg()?.iter().flat_map(Mcfg::segments) {
        let (first, last) = (range.first_bus, range.last_bus);
        println!(
            "PCI segment {}, buses {first} to {last} at {:#x}",
            range.segment,
            range.start()
        );
    }
    for unit in tables.dmar()?.iter().flat_map(Dmar::units) {
        println!(
            "IOMMU at {:#x}, {} devices",
            unit.registers,
            unit.scopes.iter().count()
        );
    }
    Ok(())
}

struct File {
    name: String,
    address: PhysAddr,
    bytes: Vec<u8>,
}

fn load(folder: &Path) -> Result<Vec<File>, Box<dyn Error>> {
    let mut files = vec![];
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let Some((name, address)) = stem.and_then(|stem| stem.split_once('@')) else {
            continue;
        };
        files.push(File {
            name: name.into(),
            address: PhysAddr::new(u64::from_str_radix(address, 16)?),
            bytes: fs::read(&path)?,
        });
    }
    Ok(files)
}
