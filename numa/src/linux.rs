//! The topology that Linux reports under `/sys`.
//!
//! Nodes and cores keep Linux's numbers as [`domain`](crate::topology::Node::domain) and
//! [`hardware_id`](crate::topology::Core::hardware_id). Linux does not say which physical addresses are where, so the
//! topology has no memory ranges; [`Machine::memory_bytes`] tells how much memory a node has.

use core::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use parakernel_core::address::NodeId;
use parakernel_core::error::ErrorKind;
use parakernel_core::pci;

use crate::acpi::Distance;
use crate::topology::{Builder, Core, DeviceRange, Node, Storage, Topology, TopologyError};

/// What Linux reports of a machine.
#[derive(Clone, Debug)]
pub struct Machine {
    nodes: Vec<Node>,
    cores: Vec<Core>,
    devices: Vec<DeviceRange>,
    distances: Vec<Distance>,
    /// By node.
    memory_bytes: Vec<u64>,
}

/// Why the topology could not be read.
#[derive(Debug)]
#[non_exhaustive]
pub enum LinuxError {
    /// A file or folder could not be read.
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file holds something else than was expected.
    Malformed {
        /// Which.
        path: PathBuf,
        /// What it holds.
        content: String,
    },
    /// What the files say does not go together.
    Topology(TopologyError),
}

impl Machine {
    /// Reads what is under `sys`, which is `/sys` unless a test says otherwise.
    ///
    /// A kernel without NUMA support has one node.
    ///
    /// # Errors
    ///
    /// [`LinuxError`].
    pub fn read(sys: &Path) -> Result<Self, LinuxError> {
        let folder = sys.join("devices/system/node");
        let reports = if folder.is_dir() {
            read_nodes(&folder)?
        } else {
            vec![Report::without_numa(sys)?]
        };
        let devices = read_devices(&sys.join("bus/pci/devices"))?;
        Self::new(&reports, &devices)
    }

    /// The topology, without memory ranges.
    #[must_use]
    pub fn topology(&self) -> Topology<'_> {
        Topology::from_tables(&self.nodes, &self.cores, &self.devices, &self.distances)
    }

    /// How many bytes of memory a node has, free or not.
    #[must_use]
    pub fn memory_bytes(&self, node: NodeId) -> Option<u64> {
        self.memory_bytes.get(node.index()).copied()
    }

    fn new(reports: &[Report], devices: &[(pci::Address, u32)]) -> Result<Self, LinuxError> {
        let count = reports.len();
        let mut cores: Vec<_> = reports.iter().flat_map(Report::cores).collect();
        cores.sort_unstable();
        let mut machine = Self {
            nodes: vec![Node::default(); count],
            cores: vec![Core::default(); cores.len()],
            devices: vec![DeviceRange::default(); devices.len()],
            distances: vec![Distance::LOCAL; count * count],
            memory_bytes: reports.iter().map(|report| report.memory_bytes).collect(),
        };
        let storage = Storage {
            nodes: &mut machine.nodes,
            cores: &mut machine.cores,
            memory: &mut [],
            devices: &mut machine.devices,
            distances: &mut machine.distances,
        };
        fill(storage, reports, &cores, devices).map_err(LinuxError::Topology)?;
        Ok(machine)
    }
}

/// What Linux says about one node.
struct Report {
    number: u32,
    cpus: Vec<u32>,
    /// To each node, in ascending order of their numbers.
    distances: Vec<Distance>,
    memory_bytes: u64,
}

impl Report {
    fn read(folder: &Path, number: u32) -> Result<Self, LinuxError> {
        let folder = folder.join(format!("node{number}"));
        Ok(Self {
            number,
            cpus: parsed(&folder.join("cpulist"), cpu_list)?,
            distances: parsed(&folder.join("distance"), distances)?,
            memory_bytes: parsed(&folder.join("meminfo"), total_memory)?,
        })
    }

    /// The only node of a kernel that does not know nodes.
    fn without_numa(sys: &Path) -> Result<Self, LinuxError> {
        Ok(Self {
            number: 0,
            cpus: parsed(&sys.join("devices/system/cpu/online"), cpu_list)?,
            distances: vec![Distance::LOCAL],
            memory_bytes: 0,
        })
    }

    /// The CPU and node numbers of the node's cores.
    fn cores(&self) -> impl Iterator<Item = (u32, u32)> {
        self.cpus.iter().map(|cpu| (*cpu, self.number))
    }
}

fn fill(
    storage: Storage<'_>,
    reports: &[Report],
    cores: &[(u32, u32)],
    devices: &[(pci::Address, u32)],
) -> Result<(), TopologyError> {
    let mut builder = Builder::new(storage, reports.iter().map(|report| report.number))?;
    for (cpu, node) in cores {
        builder.add_core(*cpu, *node)?;
    }
    for from in reports {
        for (to, distance) in reports.iter().zip(&from.distances) {
            builder.set_distance(from.number, to.number, *distance)?;
        }
    }
    for (function, node) in devices {
        match builder.add_devices(*function, *function, *node) {
            // A node that is not online has no core or memory to be near to.
            Err(TopologyError::UnknownDomain(_)) => {}
            added => added?,
        }
    }
    builder.build().map(drop)
}

/// The folders `node0`, `node1` and so on, in ascending order.
fn read_nodes(folder: &Path) -> Result<Vec<Report>, LinuxError> {
    let names = names(folder)?;
    let numbers = names.iter().filter_map(|name| name.strip_prefix("node"));
    let mut numbers: Vec<u32> = numbers.filter_map(|number| number.parse().ok()).collect();
    numbers.sort_unstable();
    let reports = numbers
        .into_iter()
        .map(|number| Report::read(folder, number));
    reports.collect()
}

/// The PCI functions whose node Linux knows. A machine without PCI has none.
fn read_devices(folder: &Path) -> Result<Vec<(pci::Address, u32)>, LinuxError> {
    if !folder.is_dir() {
        return Ok(vec![]);
    }
    let mut devices = vec![];
    for name in names(folder)? {
        let path = folder.join(&name).join("numa_node");
        // Kernels without NUMA support have no such file.
        let Ok(function) = name.parse() else { continue };
        if !path.exists() {
            continue;
        }
        let node: i64 = parsed(&path, |text| text.parse().ok())?;
        // -1 is "nobody knows".
        if let Ok(node) = u32::try_from(node) {
            devices.push((function, node));
        }
    }
    devices.sort_unstable();
    Ok(devices)
}

fn names(folder: &Path) -> Result<Vec<String>, LinuxError> {
    let unreadable = |source| LinuxError::Read {
        path: folder.into(),
        source,
    };
    let mut names = vec![];
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        names.extend(entry.map_err(unreadable)?.file_name().into_string());
    }
    Ok(names)
}

/// What `parse` makes of the content of the file at `path`.
fn parsed<T>(path: &Path, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, LinuxError> {
    let content = fs::read_to_string(path).map_err(|source| LinuxError::Read {
        path: path.into(),
        source,
    })?;
    parse(content.trim_end()).ok_or_else(|| LinuxError::Malformed {
        path: path.into(),
        content,
    })
}

/// A list such as `0-3,8`; an empty one is a node without cores.
fn cpu_list(text: &str) -> Option<Vec<u32>> {
    let mut cpus = vec![];
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cpus.extend(first.parse::<u32>().ok()?..=last.parse().ok()?);
    }
    Some(cpus)
}

/// Numbers such as `10 21`.
fn distances(text: &str) -> Option<Vec<Distance>> {
    let numbers = text.split_ascii_whitespace();
    numbers
        .map(|number| Distance::new(number.parse().ok()?))
        .collect()
}

/// The bytes of a line such as `Node 0 MemTotal: 524288 kB`.
fn total_memory(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.contains(" MemTotal:"))?;
    let kilobytes: u64 = line.split_ascii_whitespace().nth(3)?.parse().ok()?;
    kilobytes.checked_mul(1024)
}

impl fmt::Display for LinuxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, .. } => write!(f, "cannot read {}", path.display()),
            Self::Malformed { path, content } => {
                write!(f, "{} holds {content:?}", path.display())
            }
            Self::Topology(_) => f.write_str("the files under /sys contradict each other"),
        }
    }
}

impl core::error::Error for LinuxError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            Self::Topology(source) => Some(source),
            Self::Malformed { .. } => None,
        }
    }
}

impl parakernel_core::error::Error for LinuxError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Read { .. } => ErrorKind::Other,
            Self::Malformed { .. } => ErrorKind::Protocol,
            Self::Topology(source) => source.kind(),
        }
    }
}
