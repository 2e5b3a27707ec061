//! What the firmware's tables say: cores, NUMA nodes, where PCI's configuration space is.
#![expect(unsafe_code, reason = "reads tables that lie in physical memory")]

use core::ops::Range;

use heapless::Vec;
use parakernel_core::address::{NodeId, PhysAddr};

use crate::arch::paging;
use crate::cores::CORES_MAX;

/// Firmware tables lie below this; the boot map ends here.
const REACH: u64 = 1 << 32;
/// Longest table that is looked at.
const TABLE_MAX: u64 = 1 << 20;

/// The machine, as its firmware describes it.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    /// The numbers of the cores' interrupt controllers.
    pub(crate) cores: Vec<u32, CORES_MAX>,
    /// Which node a core belongs to, by interrupt controller.
    core_nodes: Vec<(u32, u32), CORES_MAX>,
    /// Which node memory belongs to.
    pub(crate) memory: Vec<(Range<u64>, u32), 64>,
    /// PCI configuration spaces: address, segment, buses.
    pub(crate) ecam: Vec<Ecam, 8>,
}

/// A PCI configuration space.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ecam {
    /// Where bus 0 of the segment is (or would be).
    pub(crate) base: PhysAddr,
    /// Its segment.
    pub(crate) segment: u16,
    /// Its first bus.
    pub(crate) first_bus: u8,
    /// Its last bus.
    pub(crate) last_bus: u8,
}

impl Machine {
    /// The node of the core with interrupt controller `apic_id`.
    pub(crate) fn node_of(&self, apic_id: u32) -> NodeId {
        let node = self.core_nodes.iter().find(|(id, _)| *id == apic_id);
        NodeId::new(node.map_or(0, |(_, node)| *node))
    }

    /// Reads the tables that the root pointer at `rsdp` leads to.
    pub(crate) fn read(rsdp: u64) -> Self {
        let mut machine = Self::default();
        let root = memory(rsdp, 36).unwrap_or(&[]);
        let (table, width) = match (u64_at(root, 24), u32_at(root, 16)) {
            (Some(xsdt), _) if xsdt != 0 => (xsdt, 8),
            (_, Some(rsdt)) => (u64::from(rsdt), 4),
            _ => return machine,
        };
        for entry in self::table(table)
            .unwrap_or(&[])
            .get(36..)
            .unwrap_or(&[])
            .chunks_exact(width)
        {
            let address = if width == 8 {
                u64_at(entry, 0)
            } else {
                u32_at(entry, 0).map(u64::from)
            };
            if let Some(bytes) = address.and_then(self::table) {
                machine.add(bytes);
            }
        }
        machine
    }

    fn add(&mut self, table: &[u8]) {
        match table.get(..4) {
            Some(b"APIC") => self.add_cores(table),
            Some(b"SRAT") => self.add_affinity(table),
            Some(b"MCFG") => self.add_ecam(table),
            _ => {}
        }
    }

    /// MADT, ACPI 6.5 §5.2.12.
    fn add_cores(&mut self, table: &[u8]) {
        for (kind, entry) in entries(table, 44) {
            let (id, flags) = match kind {
                0 => (entry.get(3).map(|id| u32::from(*id)), u32_at(entry, 4)),
                9 => (u32_at(entry, 4), u32_at(entry, 8)),
                _ => continue,
            };
            if let (Some(id), Some(flags)) = (id, flags)
                && flags & 1 != 0
            {
                let _full = self.cores.push(id).is_err();
            }
        }
    }

    /// SRAT, ACPI 6.5 §5.2.16.
    fn add_affinity(&mut self, table: &[u8]) {
        for (kind, entry) in entries(table, 48) {
            match kind {
                0 if u32_at(entry, 4).is_some_and(|flags| flags & 1 != 0) => {
                    let node = [entry[2], entry[9], entry[10], entry[11]];
                    let _full = self
                        .core_nodes
                        .push((u32::from(entry[3]), u32::from_le_bytes(node)))
                        .is_err();
                }
                1 if u32_at(entry, 28).is_some_and(|flags| flags & 1 != 0) => {
                    let (base, len) = (
                        u64_at(entry, 8).unwrap_or(0),
                        u64_at(entry, 16).unwrap_or(0),
                    );
                    let node = u32_at(entry, 2).unwrap_or(0);
                    let _full = self
                        .memory
                        .push((base..base.saturating_add(len), node))
                        .is_err();
                }
                2 if u32_at(entry, 12).is_some_and(|flags| flags & 1 != 0) => {
                    let (node, id) = (u32_at(entry, 4).unwrap_or(0), u32_at(entry, 8).unwrap_or(0));
                    let _full = self.core_nodes.push((id, node)).is_err();
                }
                _ => {}
            }
        }
    }

    /// MCFG, PCI Firmware 3.0 §4.1.2.
    fn add_ecam(&mut self, table: &[u8]) {
        for entry in table.get(44..).unwrap_or(&[]).chunks_exact(16) {
            let ecam = Ecam {
                base: PhysAddr::new(u64_at(entry, 0).unwrap_or(0)),
                segment: u16::from_le_bytes([entry[8], entry[9]]),
                first_bus: entry[10],
                last_bus: entry[11],
            };
            let _full = self.ecam.push(ecam).is_err();
        }
    }
}

/// Type and bytes of each structure in `table` from offset `at` on.
fn entries(table: &[u8], at: usize) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = table.get(at..).unwrap_or(&[]);
    core::iter::from_fn(move || {
        let len = usize::from(*rest.get(1)?).max(2);
        let (entry, behind) = rest.split_at_checked(len)?;
        rest = behind;
        Some((entry[0], entry))
    })
}

/// The table at `address`.
fn table(address: u64) -> Option<&'static [u8]> {
    let len = u32_at(memory(address, 36)?, 4)?;
    memory(address, u64::from(len))
}

fn memory(address: u64, len: u64) -> Option<&'static [u8]> {
    if address == 0 || len > TABLE_MAX || address.checked_add(len)? > REACH {
        return None;
    }
    // SAFETY: the boot map covers the low 4 GiB; firmware tables are not written to while the kernel reads them.
    Some(unsafe {
        core::slice::from_raw_parts(paging::physical(PhysAddr::new(address)), len as usize)
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
