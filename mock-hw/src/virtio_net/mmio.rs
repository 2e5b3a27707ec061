//! The MMIO transport (virtio 1.3, 4.2).

use alloc::sync::Arc;
use core::fmt;
use std::sync::Mutex;

use parakernel_core::mmio::{Registers, Width};

use super::{
    Config,
    device::{Net, Transport},
};
use crate::{
    Memory, World,
    memory::RequesterId,
    pci::{Function, Identity, ones},
    sync::lock,
};

const SECTION: &str = "virtio 1.3, 4.2.2";

/// A device without bus: `requester` is what an IOMMU knows it by.
pub(super) fn device(
    world: &World,
    memory: &Memory,
    requester: RequesterId,
    config: Config,
) -> Arc<Mutex<Net>> {
    let identity = Identity {
        vendor: 0,
        device: 0,
        subsystem_vendor: 0,
        subsystem: 0,
        revision: 0,
        class: 0,
    };
    let mut function = Function::new(world, memory, requester, identity);
    function.make_platform_device();
    function.seal();
    Arc::new(Mutex::new(Net::new(function, Transport::Mmio, config)))
}

/// The register file of a virtio-net device over MMIO. Clones are the same registers.
#[derive(Clone)]
pub struct MmioRegisters(pub(super) Arc<Mutex<Net>>);

impl Registers for MmioRegisters {
    fn read(&self, offset: usize, width: Width) -> u64 {
        let mut net = lock(&self.0);
        if net.function.is_gone() || !inside(offset, width) {
            return ones(width);
        }
        let truth = match offset {
            0x100.. => net.read_config_field(offset - 0x100, width),
            _ if width == Width::U32 => u64::from(net.read_register(offset)),
            _ => {
                net.violation(
                    SECTION,
                    format_args!("register {offset:#x} read with {width:?}"),
                );
                return ones(width);
            }
        };
        net.function.faults().bend(truth, width)
    }

    fn write(&self, offset: usize, width: Width, value: u64) {
        let mut net = lock(&self.0);
        if net.function.is_gone() || !inside(offset, width) {
            return;
        }
        match offset {
            0x100.. => net.write_config_field(offset - 0x100),
            _ if width == Width::U32 => {
                net.write_register(offset, u32::try_from(value & 0xffff_ffff).unwrap_or(0));
            }
            _ => net.violation(
                SECTION,
                format_args!("register {offset:#x} written with {width:?}"),
            ),
        }
    }

    fn len(&self) -> usize {
        0x200
    }
}

fn inside(offset: usize, width: Width) -> bool {
    offset.is_multiple_of(width.bytes()) && offset < 0x200
}

impl Net {
    fn read_register(&mut self, offset: usize) -> u32 {
        let selected = self.selected();
        match offset {
            0x000 => 0x7472_6976,
            0x004 => 2,
            0x008 => 1,
            0x00c => 0x4d4b_4350,
            0x010 => self.offered_word(),
            0x034 => selected.map_or(0, |queue| u32::from(queue.max_size)),
            0x044 => selected.map_or(0, |queue| u32::from(queue.ring.is_some())),
            0x060 => u32::from(self.interrupt_status),
            0x070 => u32::from(self.read_status()),
            // There is no shared memory region: its length and base are all ones.
            0x0b0 | 0x0b4 | 0x0b8 | 0x0bc => u32::MAX,
            0x0c0 => selected.map_or(0, |queue| u32::from(queue.resetting.is_some())),
            0x0fc => u32::from(self.generation),
            _ => {
                self.violation(
                    SECTION,
                    format_args!("write-only or unknown register {offset:#x} read"),
                );
                0
            }
        }
    }

    fn write_register(&mut self, offset: usize, value: u32) {
        let [low, high, ..] = value.to_le_bytes();
        let half = u16::from_le_bytes([low, high]);
        match offset {
            0x014 => self.device_select = value,
            0x020 => self.accept_word(value),
            0x024 => self.driver_select = value,
            0x030 => self.queue_select = half,
            0x038 => self.set_queue_size(half),
            0x044 if value == 1 => self.enable_queue(),
            0x044 if value == 0 => self.stop_queue(usize::from(self.queue_select)),
            0x050 => self.notify(value, Width::U32),
            0x064 => self.interrupt_status &= !low,
            0x070 => self.write_status(low),
            0x080 | 0x084 => self.set_area(0, offset == 0x084, value),
            0x090 | 0x094 => self.set_area(1, offset == 0x094, value),
            0x0a0 | 0x0a4 => self.set_area(2, offset == 0x0a4, value),
            0x0ac => {}
            0x0c0 if value == 1 => self.reset_queue(),
            _ => self.violation(
                SECTION,
                format_args!("read-only or unknown register {offset:#x} written"),
            ),
        }
    }
}

impl fmt::Debug for MmioRegisters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MmioRegisters").finish_non_exhaustive()
    }
}
