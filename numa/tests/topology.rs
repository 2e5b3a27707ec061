//! Topologies of QEMU's machines, of made-up ones, and where queues are placed on them.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test helpers fail by panicking"
)]

use parakernel_core::address::{CoreId, NodeId, PhysAddr};
use parakernel_core::pci;
use parakernel_numa::acpi::{Distance, Dmar, Srat, Tables};
use parakernel_numa::placement::{nearest, place};
use parakernel_numa::topology::{
    Builder, Core, DeviceRange, MemoryRange, Node, Sources, Storage, Table, Topology, TopologyError,
};
use proptest::prelude::*;

use dump::{Dump, MACHINES, compiled};

#[path = "support/dump.rs"]
mod dump;

const GIB: u64 = 1 << 30;

/// Room for a topology, more than any test needs unless it says otherwise.
struct Room {
    nodes: Vec<Node>,
    cores: Vec<Core>,
    memory: Vec<MemoryRange>,
    devices: Vec<DeviceRange>,
    distances: Vec<Distance>,
}

impl Room {
    fn new() -> Self {
        Self {
            nodes: vec![Node::default(); 8],
            cores: vec![Core::default(); 300],
            memory: vec![MemoryRange::default(); 16],
            devices: vec![DeviceRange::default(); 16],
            distances: vec![Distance::LOCAL; 64],
        }
    }

    fn storage(&mut self) -> Storage<'_> {
        Storage {
            nodes: &mut self.nodes,
            cores: &mut self.cores,
            memory: &mut self.memory,
            devices: &mut self.devices,
            distances: &mut self.distances,
        }
    }
}

fn of_machine<'r>(machine: &str, room: &'r mut Room) -> Topology<'r> {
    let dump = Dump::of(machine);
    let tables = Tables::new(&dump, dump.rsdp()).unwrap();
    let sources = Sources::read(&tables).unwrap();
    Builder::from_acpi(room.storage(), &sources)
        .unwrap()
        .build()
        .unwrap()
}

fn node(index: u32) -> NodeId {
    NodeId::new(index)
}

fn cores(ids: impl IntoIterator<Item = u32>) -> Vec<CoreId> {
    ids.into_iter().map(CoreId::new).collect()
}

fn function(text: &str) -> pci::Address {
    text.parse().unwrap()
}

fn ranges(topology: &Topology<'_>, at: NodeId) -> Vec<(u64, u64)> {
    let memory = topology.memory_of(at);
    memory
        .map(|range| (range.base.as_u64(), range.end().as_u64()))
        .collect()
}

#[test]
fn the_reference_machine_has_four_cores_and_half_a_gigabyte_per_node() {
    let mut room = Room::new();
    let topology = of_machine("demo", &mut room);
    assert_eq!(topology.nodes().len(), 2);
    assert_eq!(topology.cores_of(node(0)).collect::<Vec<_>>(), cores(0..4));
    assert_eq!(topology.cores_of(node(1)).collect::<Vec<_>>(), cores(4..8));
    assert_eq!(
        ranges(&topology, node(0)),
        [(0, 640 << 10), (1 << 20, GIB / 2)]
    );
    assert_eq!(ranges(&topology, node(1)), [(GIB / 2, GIB)]);
    assert_eq!(topology.distance(node(0), node(1)).as_u8(), 21);
    assert_eq!(topology.distance(node(1), node(1)), Distance::LOCAL);
}

#[test]
fn memory_is_found_by_its_address() {
    let mut room = Room::new();
    let topology = of_machine("q35", &mut room);
    let at = |address| topology.node_of_memory(PhysAddr::new(address));
    assert_eq!(at(0), Some(node(0)));
    assert_eq!(at((640 << 10) - 1), Some(node(0)));
    assert_eq!(at(640 << 10), None);
    assert_eq!(at(2 * GIB - 1), Some(node(0)));
    assert_eq!(at(2 * GIB), None);
    assert_eq!(at(4 * GIB), Some(node(1)));
    assert_eq!(at(8 * GIB), None);
    assert_eq!(at(u64::MAX), None);
}

#[test]
fn what_a_memory_map_offers_is_cut_at_node_boundaries() {
    let mut room = Room::new();
    let topology = of_machine("demo", &mut room);
    let split = |base, len| -> Vec<_> {
        let parts = topology.split(PhysAddr::new(base), len);
        parts
            .map(|part| (part.base.as_u64(), part.len, part.node))
            .collect()
    };
    let (near, far) = (node(0), node(1));
    assert_eq!(
        split(GIB / 2 - 4096, 8192),
        [(GIB / 2 - 4096, 4096, near), (GIB / 2, 4096, far)]
    );
    assert_eq!(
        split(0x9_F000, 0x6_2000),
        [(0x9_F000, 0x1000, near), (0x10_0000, 0x1000, near)]
    );
    assert_eq!(split(GIB, u64::MAX), []);
    assert_eq!(split(GIB / 2, 0), []);
}

#[test]
fn a_machine_without_srat_is_one_node_with_all_memory() {
    let mut room = Room::new();
    let topology = of_machine("microvm", &mut room);
    assert_eq!(topology.nodes(), [Node { domain: 0 }]);
    assert_eq!(topology.cores_of(node(0)).collect::<Vec<_>>(), cores(0..3));
    assert_eq!(
        topology.node_of_memory(PhysAddr::new(123 * GIB)),
        Some(node(0))
    );
    assert_eq!(topology.distance(node(0), node(0)), Distance::LOCAL);
    assert_eq!(topology.distance(node(0), node(1)), Distance::UNREACHABLE);
}

#[test]
fn cores_that_cannot_be_started_do_not_count() {
    let mut room = Room::new();
    let topology = of_machine("x2apic", &mut room);
    assert_eq!(topology.cores().len(), 1);
    assert_eq!(topology.nodes().len(), 2);
    assert_eq!(topology.distance(node(0), node(1)), Distance::REMOTE);
}

#[test]
fn devices_are_near_the_node_of_their_handle_or_of_their_remapping_unit() {
    let dump = Dump::of("q35");
    let tables = Tables::new(&dump, dump.rsdp()).unwrap();
    let (srat, dmar) = (compiled("srat"), compiled("dmar"));
    let sources = Sources {
        srat: Some(Srat::parse(&srat).unwrap()),
        dmar: Some(Dmar::parse(&dmar).unwrap()),
        ..Sources::read(&tables).unwrap()
    };
    let mut room = Room::new();
    let mut builder = Builder::from_acpi(room.storage(), &sources).unwrap();
    builder
        .add_devices(function("0000:40:00.0"), function("0000:4f:1f.7"), 7)
        .unwrap();
    builder
        .add_devices(function("0000:42:00.0"), function("0000:42:00.0"), 0x105)
        .unwrap();
    let topology = builder.build().unwrap();
    let domains: Vec<_> = topology.nodes().iter().map(|node| node.domain).collect();
    assert_eq!(domains, [7, 0x105]);
    let at = |text| topology.node_of_device(function(text));
    assert_eq!(at("0003:af:03.3"), Some(node(1)));
    assert_eq!(at("0003:af:03.4"), None);
    // The unit's path crosses a bridge, and the bridge's own scope names a tree: only they know their buses.
    assert_eq!(at("0001:3a:02.3"), None);
    assert_eq!(at("0000:41:00.0"), Some(node(0)));
    assert_eq!(at("0000:42:00.0"), Some(node(1)));
    assert_eq!(at("0000:50:00.0"), None);
}

#[test]
fn a_unit_that_serves_the_rest_places_the_rest() {
    let mut dmar = compiled("dmar");
    // Give the affinity to the second unit, whose registers are at 0xD37FC000, and domain 7.
    let affinity = dmar.len() - 17 - 20;
    assert_eq!(dmar[affinity..affinity + 4], [3, 0, 20, 0]);
    dmar[affinity + 8..affinity + 12].copy_from_slice(&0xD37F_C000_u32.to_le_bytes());
    dmar[affinity + 16..affinity + 20].copy_from_slice(&7_u32.to_le_bytes());
    dump::seal(&mut dmar);
    let srat = compiled("srat");
    let dump = Dump::of("q35");
    let tables = Tables::new(&dump, dump.rsdp()).unwrap();
    let sources = Sources {
        srat: Some(Srat::parse(&srat).unwrap()),
        dmar: Some(Dmar::parse(&dmar).unwrap()),
        ..Sources::read(&tables).unwrap()
    };
    let mut room = Room::new();
    let topology = Builder::from_acpi(room.storage(), &sources)
        .unwrap()
        .build()
        .unwrap();
    assert_eq!(
        topology.node_of_device(function("0000:12:0a.1")),
        Some(node(0))
    );
    assert_eq!(topology.node_of_device(function("0001:12:0a.1")), None);
}

#[test]
fn slices_that_are_too_short_are_named() {
    let dump = Dump::of("q35");
    let tables = Tables::new(&dump, dump.rsdp()).unwrap();
    let sources = Sources::read(&tables).unwrap();
    let error = |shorten: fn(&mut Room)| {
        let mut room = Room::new();
        shorten(&mut room);
        Builder::from_acpi(room.storage(), &sources)
            .map(drop)
            .unwrap_err()
    };
    let full = |table, capacity| TopologyError::Full { table, capacity };
    assert_eq!(error(|room| room.nodes.truncate(1)), full(Table::Nodes, 1));
    assert_eq!(error(|room| room.cores.truncate(7)), full(Table::Cores, 7));
    assert_eq!(
        error(|room| room.memory.truncate(2)),
        full(Table::Memory, 2)
    );
    assert_eq!(
        error(|room| room.distances.truncate(3)),
        full(Table::Distances, 3)
    );
    assert_eq!(
        full(Table::Cores, 7).to_string(),
        "7 entries are too few for the table of cores"
    );
}

#[test]
fn who_speaks_last_of_a_device_is_believed() {
    let mut room = Room::new();
    let mut builder = Builder::new(room.storage(), [0, 1]).unwrap();
    builder.add_core(0, 0).unwrap();
    let (card, whole_bus) = (function("81:00.0"), function("81:1f.7"));
    builder.add_devices(card, card, 0).unwrap();
    builder.add_devices(card, card, 1).unwrap();
    builder.add_devices(card, whole_bus, 0).unwrap();
    let topology = builder.build().unwrap();
    assert_eq!(topology.node_of_device(card), Some(node(1)));
    assert_eq!(topology.node_of_device(whole_bus), Some(node(0)));
}

#[test]
fn contradictions_are_refused() {
    let mut room = Room::new();
    let mut builder = Builder::new(room.storage(), [3, 1]).unwrap();
    assert_eq!(builder.add_core(0, 2), Err(TopologyError::UnknownDomain(2)));
    assert_eq!(
        builder.set_distance(1, 2, Distance::LOCAL),
        Err(TopologyError::UnknownDomain(2))
    );
    let last = PhysAddr::new(u64::MAX);
    assert_eq!(builder.add_memory(last, 2, 1), Err(TopologyError::Range));
    let (low, high) = (function("00:01.0"), function("00:02.0"));
    assert_eq!(builder.add_devices(high, low, 1), Err(TopologyError::Range));
    let other = function("0001:00:03.0");
    assert_eq!(
        builder.add_devices(low, other, 1),
        Err(TopologyError::Range)
    );
    assert_eq!(builder.build().unwrap_err(), TopologyError::NoCores);

    let mut builder = Builder::new(room.storage(), [3, 1]).unwrap();
    builder.add_core(0, 1).unwrap();
    builder
        .add_memory(PhysAddr::new(0x3000), 0x1000, 3)
        .unwrap();
    builder
        .add_memory(PhysAddr::new(0x1000), 0x2001, 1)
        .unwrap();
    let overlap = TopologyError::Overlap(PhysAddr::new(0x3000));
    assert_eq!(builder.build().unwrap_err(), overlap);
}

#[test]
fn a_core_is_added_once() {
    let mut room = Room::new();
    let mut builder = Builder::new(room.storage(), [0, 1]).unwrap();
    for (id, domain) in [(4, 1), (2, 0), (4, 0)] {
        builder.add_core(id, domain).unwrap();
    }
    let topology = builder.build().unwrap();
    assert_eq!(topology.cores().len(), 2);
    assert_eq!(topology.core(4), Some(CoreId::new(0)));
    assert_eq!(topology.core(2), Some(CoreId::new(1)));
    assert_eq!(topology.core(3), None);
    assert_eq!(topology.node_of_core(CoreId::new(0)), Some(node(1)));
    assert_eq!(topology.node_of_core(CoreId::new(2)), None);
}

/// Three nodes with two cores each: 0 and 1 are near each other, 2 is reached from 1 only.
fn three_nodes(room: &mut Room) -> Topology<'_> {
    let mut builder = Builder::new(room.storage(), 0..3).unwrap();
    for core in 0..6 {
        builder.add_core(core, core / 2).unwrap();
    }
    let distance = |number| Distance::new(number).unwrap();
    for (from, to, number) in [
        (0, 1, 12),
        (1, 0, 12),
        (0, 2, 255),
        (2, 0, 40),
        (1, 2, 30),
        (2, 1, 12),
    ] {
        builder.set_distance(from, to, distance(number)).unwrap();
    }
    builder.build().unwrap()
}

#[test]
fn a_queue_is_placed_on_the_nearest_free_core() {
    let mut room = Room::new();
    let topology = three_nodes(&mut room);
    let placed = |device, free: &[u32]| {
        let free = cores(free.iter().copied());
        let placement = place(&topology, &[node(device)], free)?;
        Some((placement.core, placement.node, placement.distance))
    };
    assert_eq!(
        placed(1, &[5, 4, 3, 2, 1, 0]),
        Some((CoreId::new(2), node(1), 10))
    );
    assert_eq!(placed(1, &[0, 3]), Some((CoreId::new(3), node(1), 10)));
    // Cores 0 and 4 are equally far from node 1: the lower one is taken.
    assert_eq!(placed(1, &[4, 0]), Some((CoreId::new(0), node(0), 12)));
    // Node 0 cannot reach node 2.
    assert_eq!(placed(2, &[0, 1, 3]), Some((CoreId::new(3), node(1), 30)));
    assert_eq!(placed(2, &[0, 1]), None);
    assert_eq!(placed(2, &[]), None);
    assert_eq!(placed(2, &[77]), None);
}

#[test]
fn a_core_between_two_devices() {
    let mut room = Room::new();
    let topology = three_nodes(&mut room);
    let placement = place(&topology, &[node(1), node(2)], cores(0..6)).unwrap();
    assert_eq!((placement.core, placement.distance), (CoreId::new(4), 22));
    let anywhere = place(&topology, &[], cores([5, 3])).unwrap();
    assert_eq!((anywhere.core, anywhere.distance), (CoreId::new(3), 0));
}

#[test]
fn memory_is_looked_for_at_home_first() {
    let mut room = Room::new();
    let topology = three_nodes(&mut room);
    let order = |home| {
        nearest(&topology, node(home))
            .map(NodeId::index)
            .collect::<Vec<_>>()
    };
    assert_eq!(order(0), [0, 1]);
    assert_eq!(order(1), [1, 0, 2]);
    assert_eq!(order(2), [2, 1, 0]);
    assert_eq!(order(3), []);
}

/// Memory ranges of two nodes in units of a page, near each other so that they often touch and overlap.
fn some_ranges() -> impl Strategy<Value = Vec<(u64, u64, u32)>> {
    prop::collection::vec((0..64_u64, 0..8_u64, 0..2_u32), 1..8)
}

proptest! {
    /// Each page is on the node of the range that holds it; two nodes in one page are an overlap.
    #[test]
    fn memory_agrees_with_a_page_by_page_list(ranges in some_ranges()) {
        let mut room = Room::new();
        let mut builder = Builder::new(room.storage(), [0, 1]).unwrap();
        builder.add_core(0, 0).unwrap();
        for (base, len, domain) in &ranges {
            builder.add_memory(PhysAddr::new(base * 4096), len * 4096, *domain).unwrap();
        }
        let owner = |page: u64, domain| {
            let holds = |&&(base, len, owner): &&(u64, u64, u32)| {
                owner == domain && (base..base + len).contains(&page)
            };
            ranges.iter().any(|range| holds(&range))
        };
        let is_torn = (0..80).any(|page| owner(page, 0) && owner(page, 1));
        match builder.build() {
            Err(error) => {
                prop_assert!(is_torn, "{error}");
            }
            Ok(topology) => {
                prop_assert!(!is_torn);
                for page in 0..80 {
                    let expected = (0..2).find(|domain| owner(page, *domain)).map(NodeId::new);
                    prop_assert_eq!(topology.node_of_memory(PhysAddr::new(page * 4096)), expected);
                }
            }
        }
    }

    /// The order of preference is what sorting gives.
    #[test]
    fn nearest_agrees_with_sorting(distances in prop::collection::vec(10..14_u8, 16), home in 0..4_u32) {
        let mut room = Room::new();
        let mut builder = Builder::new(room.storage(), 0..4).unwrap();
        builder.add_core(0, 0).unwrap();
        for (index, distance) in (0..).zip(&distances) {
            let distance = Distance::new(*distance).unwrap();
            builder.set_distance(index / 4, index % 4, distance).unwrap();
        }
        let topology = builder.build().unwrap();
        let mut expected: Vec<_> = (0..4).map(NodeId::new).collect();
        expected.sort_by_key(|to| topology.distance(NodeId::new(home), *to));
        prop_assert_eq!(nearest(&topology, NodeId::new(home)).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn every_machine_places_each_of_its_cores() {
    for machine in MACHINES {
        let mut room = Room::new();
        let topology = of_machine(machine, &mut room);
        let mut free: Vec<_> = (0..topology.cores().len())
            .map(|core| u32::try_from(core).unwrap())
            .collect();
        while !free.is_empty() {
            let placement = place(&topology, &[node(0)], cores(free.iter().copied())).unwrap();
            free.retain(|core| CoreId::new(*core) != placement.core);
        }
    }
}
