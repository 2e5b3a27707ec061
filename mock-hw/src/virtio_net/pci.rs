//! The PCI transport (virtio 1.3, 4.1): capabilities, common configuration, notifications.

use alloc::sync::Arc;
use std::sync::Mutex;

use parakernel_core::mmio::Width;

use super::{
    Config,
    device::{Net, Transport},
};
use crate::{
    Memory, World,
    bytes::{put, u32_at},
    memory::RequesterId,
    pci::{BarLayout, Capability, Function, Identity, Model, ones},
};

/// Where the structures lie in BAR 4; MSI-X lies in BAR 2.
const ISR: usize = 0x1000;
const DEVICE: usize = 0x2000;
const NOTIFY: usize = 0x3000;

const COMMON: &str = "virtio 1.3, 4.1.4.3";

/// A capability of type `kind` for `len` bytes at `offset` of BAR 4; `extra` follows.
fn capability(kind: u8, offset: usize, len: usize, extra: &[u8]) -> Capability {
    let mut body = vec![0; 14];
    body[0] = u8::try_from(16 + extra.len()).unwrap_or(0);
    body[1] = kind;
    body[2] = 4;
    put(
        &mut body,
        6,
        &u32::try_from(offset).unwrap_or(0).to_le_bytes(),
    );
    put(
        &mut body,
        10,
        &u32::try_from(len).unwrap_or(0).to_le_bytes(),
    );
    body.extend(extra);
    Capability {
        id: 0x09,
        body,
        writable: Vec::new(),
    }
}

/// A virtio-net function.
pub(super) fn device(
    world: &World,
    memory: &Memory,
    requester: RequesterId,
    config: Config,
) -> Arc<Mutex<Net>> {
    let identity = Identity {
        vendor: 0x1af4,
        device: 0x1041,
        subsystem_vendor: 0x1af4,
        subsystem: 0x1100,
        revision: 1,
        // Network, Ethernet.
        class: 0x02_00_00,
    };
    let mut function = Function::new(world, memory, requester, identity);
    let vectors = usize::from(config.vectors);
    let pending = (vectors * 16).next_multiple_of(4096);
    let len = (pending + vectors.div_ceil(64) * 8).next_power_of_two();
    function.add_bar(BarLayout { index: 2, len });
    function.add_msix(config.vectors, 2, 0, pending);
    let window = add_structures(&mut function, &config);
    function.seal();
    let transport = Transport::Pci { window };
    Arc::new(Mutex::new(Net::new(function, transport, config)))
}

/// BAR 4 and the capabilities that say what lies where in it; returns the offset of the window's.
fn add_structures(function: &mut Function, config: &Config) -> usize {
    let last = 2 * usize::from(config.queue_pairs);
    let multiplier = usize::try_from(config.notify_multiplier).unwrap_or(0);
    let notify_len = (last * multiplier + 4).next_multiple_of(4);
    let len = (NOTIFY + notify_len).next_power_of_two();
    function.add_bar(BarLayout { index: 4, len });
    let multiplier = config.notify_multiplier.to_le_bytes();
    function.add_capability(&capability(1, 0, 0x40, &[]));
    function.add_capability(&capability(2, NOTIFY, notify_len, &multiplier));
    function.add_capability(&capability(3, ISR, 1, &[]));
    function.add_capability(&capability(4, DEVICE, 24, &[]));
    let mut window = capability(5, 0, 0, &[0; 4]);
    // The driver chooses bar, offset, length and data.
    window.writable = vec![0; 18];
    window.writable[2] = 0xff;
    window.writable[6..18].fill(0xff);
    function.add_capability(&window)
}

impl Net {
    fn read_common(&mut self, offset: usize) -> u64 {
        let area = |queue: &super::queue::Queue, index: usize, high: bool| {
            let area = queue.areas[index];
            if high { area >> 32 } else { area & 0xffff_ffff }
        };
        let selected = self.selected();
        match offset {
            0x00 => u64::from(self.device_select),
            0x04 => u64::from(self.offered_word()),
            0x08 => u64::from(self.driver_select),
            0x0c => u64::from(self.accepted_word()),
            0x10 => u64::from(self.config_vector),
            0x12 => self.queues.len() as u64,
            0x14 => u64::from(self.read_status()),
            0x15 => u64::from(self.generation),
            0x16 => u64::from(self.queue_select),
            0x18 => selected.map_or(0, |queue| u64::from(queue.size)),
            0x1a => selected.map_or(0xffff, |queue| u64::from(queue.vector)),
            0x1c => selected.map_or(0, |queue| u64::from(queue.ring.is_some())),
            0x1e if self.config.notify_multiplier == 0 => 0,
            0x1e => u64::from(self.queue_select),
            0x20..0x38 => {
                selected.map_or(0, |queue| area(queue, (offset - 0x20) / 8, offset % 8 == 4))
            }
            0x3a => selected.map_or(0, |queue| u64::from(queue.resetting.is_some())),
            // Queue notify data needs NOTIF_CONFIG_DATA, which is never offered.
            _ => 0,
        }
    }

    fn write_common(&mut self, offset: usize, value: u32) {
        let [low, high, ..] = value.to_le_bytes();
        let half = u16::from_le_bytes([low, high]);
        match offset {
            0x00 => self.device_select = value,
            0x08 => self.driver_select = value,
            0x0c => self.accept_word(value),
            0x10 => self.config_vector = self.map_vector(half),
            0x14 => self.write_status(low),
            0x16 => self.queue_select = half,
            0x18 => self.set_queue_size(half),
            0x1a => self.set_queue_vector(half),
            0x1c if half == 1 => self.enable_queue(),
            0x1c => self.violation(COMMON, format_args!("queue_enable written with {half}")),
            0x20..0x38 => self.set_area((offset - 0x20) / 8, offset % 8 == 4, value),
            0x3a if half == 1 => self.reset_queue(),
            0x3a => self.violation(COMMON, format_args!("queue_reset written with {half}")),
            _ => self.violation(
                COMMON,
                format_args!("read-only or unknown field {offset:#x} written"),
            ),
        }
    }

    /// Checks that a field of the common configuration is accessed with its own width (4.1.3.1).
    fn check_width(&self, offset: usize, width: Width) -> bool {
        let natural = match offset {
            0x14 | 0x15 => Width::U8,
            0x10 | 0x12 | 0x16 | 0x18 | 0x1a | 0x1c | 0x1e | 0x38 | 0x3a => Width::U16,
            _ => Width::U32,
        };
        let fits = natural == width;
        if !fits {
            let text = format_args!(
                "common configuration at {offset:#x} accessed with {width:?}, not {natural:?}"
            );
            self.violation("virtio 1.3, 4.1.3.1", text);
        }
        fits
    }

    /// What the window from configuration space is set to: bar, offset, width.
    fn window(&mut self) -> Option<(usize, usize, Width)> {
        let Transport::Pci { window } = self.transport else {
            return None;
        };
        let raw = self.function.config().read_bytes::<20>(window);
        let width = match u32_at(&raw, 12) {
            1 => Width::U8,
            2 => Width::U16,
            4 => Width::U32,
            _ => return None,
        };
        let offset = usize::try_from(u32_at(&raw, 8)).ok()?;
        let bar = usize::from(raw[4]);
        let len = if bar < 6 {
            self.function.bar_len(bar)
        } else {
            0
        };
        let inside =
            offset.is_multiple_of(width.bytes()) && offset.checked_add(width.bytes())? <= len;
        inside.then_some((bar, offset, width))
    }
}

impl Model for Net {
    fn function(&mut self) -> &mut Function {
        &mut self.function
    }

    fn read_bar(&mut self, bar: usize, offset: usize, width: Width) -> u64 {
        if bar != 4 {
            return ones(width);
        }
        match offset {
            0..0x40 if self.check_width(offset, width) => self.read_common(offset),
            0..0x40 => ones(width),
            ISR => u64::from(core::mem::take(&mut self.interrupt_status)),
            DEVICE..0x2018 => self.read_config_field(offset - DEVICE, width),
            _ => {
                self.violation(
                    "virtio 1.3, 4.1.4",
                    format_args!("BAR 4 read at {offset:#x}, where nothing is"),
                );
                ones(width)
            }
        }
    }

    fn write_bar(&mut self, bar: usize, offset: usize, width: Width, value: u64) {
        if bar != 4 {
            return;
        }
        let low = u32::try_from(value & 0xffff_ffff).unwrap_or(0);
        match offset {
            0..0x40 if self.check_width(offset, width) => self.write_common(offset, low),
            0..0x40 => {}
            DEVICE..0x2018 => self.write_config_field(offset - DEVICE),
            NOTIFY.. => self.notified(offset - NOTIFY, low, width),
            _ => self.violation(
                "virtio 1.3, 4.1.4",
                format_args!("BAR 4 written at {offset:#x}, where nothing is"),
            ),
        }
    }

    fn read_config(&mut self, offset: usize, width: Width) -> Option<u64> {
        let Transport::Pci { window } = self.transport else {
            return None;
        };
        if offset != window + 16 {
            return None;
        }
        let (bar, at, wide) = self.window()?;
        (wide == width).then(|| self.read_bar(bar, at, wide))
    }

    fn wrote_config(&mut self, offset: usize, width: Width) {
        let Transport::Pci { window } = self.transport else {
            return;
        };
        if offset != window + 16 {
            return;
        }
        if let Some((bar, at, wide)) = self.window()
            && wide == width
        {
            let value = self.function.config().read(offset, width.bytes());
            self.write_bar(bar, at, wide, value);
        }
    }

    fn reset(&mut self) {
        self.reset_device();
    }
}

impl Net {
    /// The address must be that of the queue (4.1.4.4).
    fn notified(&mut self, offset: usize, value: u32, width: Width) {
        let index = u16::try_from(value & 0xffff).unwrap_or(0);
        let multiplier = usize::try_from(self.config.notify_multiplier).unwrap_or(0);
        if offset != usize::from(index) * multiplier {
            let text = format_args!(
                "queue {index} notified at offset {offset:#x} of the notification structure"
            );
            self.violation("virtio 1.3, 4.1.4.4", text);
        }
        self.notify(value, width);
    }
}
