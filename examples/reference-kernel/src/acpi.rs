//! What the firmware's tables say: cores, NUMA nodes, where PCI's configuration space is.
#![expect(
    unsafe_code,
    reason = "lends out firmware tables that lie in physical memory"
)]

use core::ops::Range;

use heapless::Vec;
use parakernel_core::address::{NodeId, PhysAddr};
use parakernel_numa::acpi::madt::ProcessorState;
use parakernel_numa::acpi::srat::MemoryFlags;
use parakernel_numa::acpi::{Error, Memory, Segment, Tables};

use crate::arch::paging;
use crate::cores::CORES_MAX;

/// Firmware tables lie below this; the boot map ends here.
const REACH: u64 = 1 << 32;

/// The machine, as its firmware describes it.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    /// The numbers of the cores' interrupt controllers.
    pub(crate) cores: Vec<u32, CORES_MAX>,
    /// Which node a core belongs to, by interrupt controller.
    core_nodes: Vec<(u32, u32), CORES_MAX>,
    /// Which node memory belongs to.
    pub(crate) memory: Vec<(Range<u64>, u32), 64>,
    /// PCI configuration spaces.
    pub(crate) segments: Vec<Segment, 8>,
}

/// The boot map of the low 4 GiB.
struct BootMap;

impl Memory for BootMap {
    fn bytes(&self, address: PhysAddr, len: usize) -> Option<&[u8]> {
        let end = address.as_u64().checked_add(len as u64)?;
        if address.as_u64() == 0 || end > REACH {
            return None;
        }
        // SAFETY: the boot map covers the low 4 GiB, and nobody writes firmware tables while the kernel reads them.
        Some(unsafe { core::slice::from_raw_parts(paging::physical(address), len) })
    }
}

impl Machine {
    /// Reads the tables that the root pointer at `rsdp` leads to, while the boot map is in place.
    ///
    /// # Errors
    ///
    /// Where a table is broken.
    pub(crate) fn read(rsdp: u64) -> Result<Self, Error> {
        let tables = Tables::new(&BootMap, PhysAddr::new(rsdp))?;
        let mut machine = Self::default();
        if let Some(madt) = tables.madt()? {
            let enabled = madt
                .processors()
                .filter(|core| core.state == ProcessorState::Enabled);
            machine
                .cores
                .extend(enabled.map(|core| core.apic_id).take(CORES_MAX));
        }
        if let Some(srat) = tables.srat()? {
            let cores = srat.processors().filter(|core| core.is_enabled);
            machine.core_nodes.extend(
                cores
                    .map(|core| (core.apic_id, core.domain))
                    .take(CORES_MAX),
            );
            for range in srat
                .memory()
                .filter(|range| range.flags.contains(MemoryFlags::ENABLED))
            {
                let start = range.base.as_u64();
                let _full = machine
                    .memory
                    .push((start..start.saturating_add(range.len), range.domain))
                    .is_err();
            }
        }
        if let Some(mcfg) = tables.mcfg()? {
            machine
                .segments
                .extend(mcfg.segments().take(machine.segments.capacity()));
        }
        Ok(machine)
    }

    /// The node of the core with interrupt controller `apic_id`.
    pub(crate) fn node_of(&self, apic_id: u32) -> NodeId {
        let node = self.core_nodes.iter().find(|(id, _)| *id == apic_id);
        NodeId::new(node.map_or(0, |(_, node)| *node))
    }
}
