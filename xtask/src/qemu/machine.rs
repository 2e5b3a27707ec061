//! The machine that QEMU is to be, as its command line.

use super::Qemu;
use crate::{
    cast::{MAC, NAMESPACES},
    disk, serve,
};
use anyhow::{Context, Result};
use clap::ValueEnum;
use core::fmt;
use serde::{Deserialize, Serialize};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// Cores of the machine; half of them on each node.
const CORES: u32 = 8;
/// Memory of each of the two nodes.
const NODE_MEMORY: &str = "512M";
/// Distance between the nodes, in units of a tenth of the local one.
const NODE_DISTANCE: u32 = 21;
/// Queue pairs of the network card on a multi-queue tap.
pub(crate) const QUEUE_PAIRS: u32 = 4;
/// Entries of each ring of the network card.
const RING_ENTRIES: u32 = 256;

/// Form of the network card's rings.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Ring {
    #[default]
    Split,
    Packed,
}

/// Kind of the network card.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Nic {
    /// QEMU's own virtio-net.
    #[default]
    Virtio,
    /// The model of the 82599, over vfio-user.
    Ixgbe,
}

/// Where QEMU's microvm has the registers of virtio devices: so many places, one behind the other.
const MMIO_START: u64 = 0xfeb0_0000;
const MMIO_LEN: u64 = 512;
const MMIO_SLOTS: u64 = 24;

impl fmt::Display for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Split => "split",
            Self::Packed => "packed",
        })
    }
}

/// Kind of the machine.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Board {
    /// A PC with PCI Express, two NUMA nodes, a network card and an SSD.
    #[default]
    Q35,
    /// The smallest there is: no PCI, no nodes, no SSD, virtio over MMIO.
    Microvm,
}

/// How the network card is connected.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) enum Wire {
    /// A tap of this name with [`QUEUE_PAIRS`] queues.
    Tap(String),
    /// QEMU's own network stack, one queue pair, with these rules for forwarding ports.
    User(Vec<String>),
    /// No card.
    None,
}

/// Everything about one boot.
#[derive(Clone, Debug)]
pub(crate) struct Machine<'a> {
    pub(crate) kernel: &'a Path,
    pub(crate) initrd: &'a Path,
    /// The kernel's command line.
    pub(crate) words: &'a str,
    /// Where images, logs and traces are.
    pub(crate) folder: &'a Path,
    pub(crate) wire: &'a Wire,
    pub(crate) board: Board,
    pub(crate) ring: Ring,
    /// Where a model is served that is the network card, instead of QEMU's own.
    pub(crate) model: Option<&'a Path>,
    /// Whether there is an IOMMU in the machine (the kernel need not use it).
    pub(crate) iommu: bool,
    /// Queue pairs of the SSD.
    pub(crate) block_pairs: u16,
    /// Wait for a debugger on TCP port 1234.
    pub(crate) debugger: bool,
}

/// Collects words for the command line.
#[derive(Debug, Default)]
struct Words(Vec<OsString>);

impl Words {
    fn option(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.push(name.into());
        self.0.push(value.into());
    }

    fn flag(&mut self, name: &str) {
        self.0.push(name.into());
    }
}

impl Machine<'_> {
    /// File of the second serial port: log frames.
    pub(crate) fn log_frames(&self) -> PathBuf {
        self.folder.join("com2.defmt")
    }

    /// File of QEMU's traces.
    pub(crate) fn traces(&self) -> PathBuf {
        self.folder.join("traces.log")
    }

    /// QEMU's command line.
    pub(crate) fn arguments(&self, qemu: &Qemu) -> Result<Vec<OsString>> {
        let mut words = Words::default();
        words.flag("-nodefaults");
        words.flag("-no-reboot");
        words.option("-display", "none");
        words.option("-accel", "tcg,thread=multi");
        words.option("-cpu", "max");
        self.board(&mut words);
        words.option("-kernel", self.kernel);
        words.option("-initrd", self.initrd);
        words.option("-append", self.command_line());
        words.option("-device", "isa-debug-exit,iobase=0xf4,iosize=1");
        self.serial_ports(&mut words)?;
        self.network(qemu, &mut words);
        if self.board == Board::Q35 {
            self.disks(&mut words)?;
        }
        if self.debugger {
            words.flag("-s");
            words.flag("-S");
        }
        Ok(words.0)
    }

    fn board(&self, words: &mut Words) {
        words.option("-m", "1G");
        let half = CORES / 2;
        words.option("-smp", format!("{CORES},sockets=2,cores={half},threads=1"));
        match self.board {
            Board::Q35 => {
                words.option("-machine", "q35");
                memory(words, self.model.is_some());
                if self.iommu {
                    words.option("-device", "intel-iommu,intremap=off,caching-mode=off");
                }
            }
            Board::Microvm => {
                words.option("-machine", "microvm,acpi=on,rtc=on,isa-serial=on");
                // The interface of virtio 1.x, not the one before it.
                words.option("-global", "virtio-mmio.force-legacy=false");
            }
        }
    }

    /// What the kernel is told: on that board also where virtio's registers may be, since no table says so.
    fn command_line(&self) -> String {
        let mut line = self.words.to_string();
        if self.board == Board::Microvm {
            for slot in 0..MMIO_SLOTS {
                let start = MMIO_START + slot * MMIO_LEN;
                line.push_str(&format!(" virtio_mmio.device={MMIO_LEN}@{start:#x}"));
            }
        }
        line
    }

    fn serial_ports(&self, words: &mut Words) -> Result<()> {
        words.option("-chardev", "stdio,id=com1,signal=off");
        words.option("-serial", "chardev:com1");
        words.option(
            "-chardev",
            format!("file,id=com2,path={}", escaped(&self.log_frames())?),
        );
        match self.board {
            Board::Q35 => words.option("-serial", "chardev:com2"),
            // That board has one of its own only.
            Board::Microvm => words.option("-device", "isa-serial,index=1,chardev=com2"),
        }
        words.option("-D", self.traces());
        words.option("-trace", "pci_nvme_ub*");
        words.option("-trace", "pci_nvme_err*");
        Ok(())
    }

    fn network(&self, qemu: &Qemu, words: &mut Words) {
        if let Some(socket) = self.model {
            words.option("-device", serve::device(socket, None));
            return;
        }
        let Some((wire, pairs)) = netdev(self.wire) else {
            return;
        };
        words.option("-netdev", wire);
        let multi = if pairs > 1 { "on" } else { "off" };
        let packed = if self.ring == Ring::Packed {
            "on"
        } else {
            "off"
        };
        let in_order = if qemu.in_order { ",in_order=on" } else { "" };
        let device = match self.board {
            // A vector for each ring, one for the control queue, one for changes of configuration.
            Board::Q35 => format!(
                "virtio-net-pci,id=nic,romfile=,disable-legacy=on,page-per-vq=on,vectors={}",
                pairs * 2 + 2
            ),
            Board::Microvm => "virtio-net-device,id=nic".to_owned(),
        };
        words.option(
            "-device",
            format!(
                "{device},netdev=wire,mac={MAC},iommu_platform=on,mq={multi},rss={multi},hash={multi},packed={packed},\
                 rx_queue_size={RING_ENTRIES},tx_queue_size={RING_ENTRIES}{in_order}"
            ),
        );
    }

    fn disks(&self, words: &mut Words) -> Result<()> {
        words.option(
            "-device",
            // A vector for each pair and one for the admin queue, as far as MSI-X goes.
            format!(
                "nvme,id=ssd,serial=parakernel,max_ioqpairs={pairs},msix_qsize={}",
                (u32::from(self.block_pairs) + 1).min(2048),
                pairs = self.block_pairs
            ),
        );
        for namespace in &NAMESPACES {
            let (id, size) = (namespace.id, namespace.block_size);
            let path = disk::image(self.folder, namespace);
            words.option(
                "-drive",
                format!(
                    "if=none,id=disk{id},format=raw,cache=writeback,file={}",
                    escaped(&path)?
                ),
            );
            words.option(
                "-device",
                format!("nvme-ns,bus=ssd,drive=disk{id},nsid={id},logical_block_size={size},physical_block_size={size}"),
            );
        }
        Ok(())
    }
}

/// The wire's option and its number of queue pairs.
fn netdev(wire: &Wire) -> Option<(String, u32)> {
    match wire {
        Wire::None => None,
        Wire::Tap(name) => {
            let tap =
                format!("tap,id=wire,ifname={name},script=no,downscript=no,queues={QUEUE_PAIRS}");
            Some((tap, QUEUE_PAIRS))
        }
        Wire::User(forwards) => {
            let forwards: String = forwards
                .iter()
                .map(|rule| format!(",hostfwd={rule}"))
                .collect();
            // Not `restrict=on`: QEMU drops answers by UDP then, those to forwarded datagrams too.
            let user = format!("user,id=wire,net=10.0.0.0/24,host=10.0.0.1{forwards}");
            Some((user, 1))
        }
    }
}

/// Two nodes, each with half of the cores and of the memory, which models in other programs can map if it is `shared`.
fn memory(words: &mut Words, shared: bool) {
    let kind = if shared {
        "memory-backend-memfd,share=on"
    } else {
        "memory-backend-ram"
    };
    let half = CORES / 2;
    for node in 0..2 {
        let (first, last) = (node * half, node * half + half - 1);
        words.option(
            "-object",
            format!("{kind},id=memory{node},size={NODE_MEMORY}"),
        );
        words.option(
            "-numa",
            format!("node,nodeid={node},cpus={first}-{last},memdev=memory{node}"),
        );
    }
    words.option("-numa", format!("dist,src=0,dst=1,val={NODE_DISTANCE}"));
}

/// A path inside a list of QEMU's options, where a comma is written twice.
fn escaped(path: &Path) -> Result<String> {
    let text = path
        .to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))?;
    Ok(text.replace(',', ",,"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(wire: &Wire, ring: Ring) -> String {
        words_of(Board::Q35, wire, ring)
    }

    fn words_of(board: Board, wire: &Wire, ring: Ring) -> String {
        let qemu = Qemu {
            words: Vec::new(),
            environment: Vec::new(),
            version: "11.1".into(),
            in_order: true,
        };
        let folder = Path::new("/a,b");
        let machine = Machine {
            kernel: folder,
            initrd: folder,
            words: "selftest",
            folder,
            wire,
            board,
            ring,
            model: None,
            iommu: false,
            block_pairs: 64,
            debugger: false,
        };
        let words: Vec<_> = machine
            .arguments(&qemu)
            .unwrap()
            .into_iter()
            .map(|word| word.into_string().unwrap())
            .collect();
        words.join(" ")
    }

    #[test]
    fn a_tap_brings_many_queues_and_the_own_stack_one() {
        let tap = words(&Wire::Tap("t0".into()), Ring::Packed);
        assert!(tap.contains("ifname=t0,script=no,downscript=no,queues=4"));
        assert!(tap.contains("mq=on,rss=on,hash=on,packed=on,"));
        assert!(tap.contains("vectors=10,") && tap.contains(",in_order=on"));
        let user = words(&Wire::User(vec!["udp::9-:7000".into()]), Ring::Split);
        assert!(user.contains("host=10.0.0.1,hostfwd=udp::9-:7000"));
        assert!(user.contains("mq=off,rss=off,hash=off,packed=off,"));
        assert!(!words(&Wire::None, Ring::Split).contains("virtio-net"));
    }

    #[test]
    fn commas_in_paths_are_doubled() {
        assert!(words(&Wire::None, Ring::Split).contains("file=/a,,b/namespace-1.img"));
    }

    #[test]
    fn the_small_board_has_neither_pci_nor_nodes() {
        let small = words_of(Board::Microvm, &Wire::Tap("t0".into()), Ring::Split);
        assert!(small.contains("virtio-net-device") && small.contains("mq=on"));
        for word in ["-pci", "nvme,", "-numa", "vectors"] {
            assert!(!small.contains(word), "{word}");
        }
    }
}
