//! The topology that Linux reports, from trees made up here and from this machine's own.
#![expect(clippy::unwrap_used, reason = "test helpers fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use parakernel_core::address::{CoreId, NodeId};
use parakernel_core::error::{Error as _, ErrorKind};
use parakernel_numa::linux::{LinuxError, Machine};
use parakernel_numa::topology::{Node, TopologyError};

/// A tree like `/sys`, in a folder of its own.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        if path.exists() {
            fs::remove_dir_all(&path).unwrap();
        }
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, path: &str, content: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn node(&self, number: u32, cpus: &str, distances: &str, kilobytes: u64) {
        let folder = format!("devices/system/node/node{number}");
        self.file(&format!("{folder}/cpulist"), cpus);
        self.file(&format!("{folder}/distance"), distances);
        let total = format!("\nNode {number} MemTotal:       {kilobytes} kB\n");
        self.file(&format!("{folder}/meminfo"), &total);
    }

    fn device(&self, function: &str, node: &str) {
        self.file(&format!("bus/pci/devices/{function}/numa_node"), node);
    }

    fn read(&self) -> Result<Machine, LinuxError> {
        Machine::read(&self.0)
    }
}

fn node(index: u32) -> NodeId {
    NodeId::new(index)
}

#[test]
fn nodes_with_gaps_in_their_numbers() {
    let tree = Tree::new("gaps");
    tree.node(10, "2-3,9\n", "21 10\n", 4096);
    tree.node(2, "0-1,8\n", "10 31\n", 2048);
    tree.file("devices/system/node/possible", "2,10\n");
    tree.device("0000:03:00.1", "10\n");
    tree.device("0000:04:00.0", "-1\n");
    let machine = tree.read().unwrap();
    let topology = machine.topology();
    assert_eq!(topology.nodes(), [Node { domain: 2 }, Node { domain: 10 }]);
    let cpus: Vec<_> = topology
        .cores()
        .iter()
        .map(|core| core.hardware_id)
        .collect();
    assert_eq!(cpus, [0, 1, 2, 3, 8, 9]);
    assert_eq!(topology.node_of_core(CoreId::new(4)), Some(node(0)));
    assert_eq!(topology.node_of_core(CoreId::new(5)), Some(node(1)));
    assert_eq!(topology.distance(node(0), node(1)).as_u8(), 31);
    assert_eq!(topology.distance(node(1), node(0)).as_u8(), 21);
    assert_eq!(
        topology.node_of_device("0000:03:00.1".parse().unwrap()),
        Some(node(1))
    );
    assert_eq!(
        topology.node_of_device("0000:04:00.0".parse().unwrap()),
        None
    );
    assert_eq!(machine.memory_bytes(node(0)), Some(2 << 20));
    assert_eq!(machine.memory_bytes(node(1)), Some(4 << 20));
    assert_eq!(machine.memory_bytes(node(2)), None);
}

#[test]
fn a_node_without_cores() {
    let tree = Tree::new("no-cores");
    tree.node(0, "0\n", "10 20\n", 1);
    tree.node(1, "\n", "20 10\n", 1);
    let machine = tree.read().unwrap();
    assert_eq!(machine.topology().cores_of(node(1)).count(), 0);
    assert_eq!(machine.topology().nodes().len(), 2);
}

#[test]
fn a_kernel_without_numa() {
    let tree = Tree::new("no-numa");
    tree.file("devices/system/cpu/online", "0-3\n");
    tree.file("bus/pci/devices/0000:00:01.0/vendor", "0x8086\n");
    let machine = tree.read().unwrap();
    assert_eq!(machine.topology().cores_of(node(0)).count(), 4);
    assert_eq!(machine.topology().nodes().len(), 1);
}

#[test]
fn files_that_say_something_else_are_named() {
    let tree = Tree::new("malformed");
    for (cpus, distance) in [
        ("0-x", "10"),
        ("0", "9"),
        ("0", "10 300"),
        ("0-4294967296", "10"),
    ] {
        tree.node(0, cpus, distance, 1);
        let error = tree.read().unwrap_err();
        assert!(matches!(error, LinuxError::Malformed { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::Protocol);
    }
    tree.node(0, "0", "10", 1);
    tree.file(
        "devices/system/node/node0/meminfo",
        "Node 0 MemFree: 1 kB\n",
    );
    let error = tree.read().unwrap_err();
    assert!(
        error
            .to_string()
            .contains("node0/meminfo holds \"Node 0 MemFree"),
        "{error}"
    );
}

#[test]
fn files_that_are_missing_are_named() {
    let tree = Tree::new("missing");
    tree.node(0, "0", "10", 1);
    fs::remove_file(tree.0.join("devices/system/node/node0/distance")).unwrap();
    let error = tree.read().unwrap_err();
    assert!(matches!(error, LinuxError::Read { .. }));
    assert!(error.to_string().ends_with("node0/distance"), "{error}");
}

#[test]
fn a_device_on_a_node_that_is_not_online_is_near_no_node() {
    let tree = Tree::new("offline-node");
    tree.node(0, "0", "10", 1);
    tree.device("0000:03:00.0", "7\n");
    tree.device("0000:04:00.0", "0\n");
    let machine = tree.read().unwrap();
    let at = |function: &str| machine.topology().node_of_device(function.parse().unwrap());
    assert_eq!(at("0000:03:00.0"), None);
    assert_eq!(at("0000:04:00.0"), Some(node(0)));
}

#[test]
fn nodes_without_any_core() {
    let tree = Tree::new("no-core-at-all");
    tree.node(0, "\n", "10", 1);
    let error = tree.read().unwrap_err();
    assert!(matches!(
        error,
        LinuxError::Topology(TopologyError::NoCores)
    ));
}

#[test]
#[cfg(target_os = "linux")]
fn this_machine_has_the_cores_that_linux_lists() {
    let machine = Machine::read(Path::new("/sys")).unwrap();
    let listed = fs::read_to_string("/proc/cpuinfo").unwrap();
    let listed = listed
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    assert_eq!(machine.topology().cores().len(), listed);
}
