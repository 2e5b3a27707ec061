//! Virtual functions: a register file of their own over the queues of a pool (82599, 8.3).

use alloc::sync::Arc;
use core::time::Duration;
use std::sync::Mutex;

use parakernel_core::{address::BusAddress, mmio::Width, time::Instant};

use super::{
    device::{Device, REGISTER_BAR},
    interrupt::Cause,
    registers::{rx, tx},
    table::{VIRTUAL, VirtualEntry},
};
use crate::{
    memory::DmaError,
    pci::{Function, Model, Port, ones},
    sync::lock,
    world::{self, Activity, Turn},
};

/// Vectors of a virtual function: two for queues, one for the mailbox.
pub(super) const VECTORS: u16 = 3;

/// Bytes of its register file, and of what holds its MSI-X table.
pub(super) const LEN: usize = 0x4000;
pub(super) const MSIX_LEN: usize = 0x4000;

/// Where its MSI-X table lies (9.4.4.8).
pub(super) const MSIX_BAR: usize = 3;

/// Registers of the physical function.
const CTRL_EXT: usize = 0x0_0018;
const GCR_EXT: usize = 0x1_1050;

/// What the device holds of a virtual function.
#[derive(Debug)]
pub(super) struct Virtual {
    pub(super) port: Port,
    ivar: [u32; 4],
    ivar_misc: u32,
    eitr: [u32; 3],
    /// Causes, those that were signalled, and those that may be: a bit for each vector.
    causes: u32,
    enabled: u32,
    auto_clear: u32,
    auto_mask: u32,
    quiet_until: [Instant; 3],
    counters: [u64; 5],
}

/// The counters of a virtual function.
#[derive(Clone, Copy, Debug)]
enum Counter {
    Received,
    Sent,
    BytesReceived,
    BytesSent,
    Multicast,
}

impl Virtual {
    pub(super) fn new(port: Port) -> Self {
        Self {
            port,
            ivar: [0; 4],
            ivar_misc: 0,
            eitr: [0; 3],
            causes: 0,
            enabled: 0,
            auto_clear: 0,
            auto_mask: 0,
            quiet_until: [Instant::default(); 3],
            counters: [0; 5],
        }
    }

    pub(super) fn reset(&mut self) {
        *self = Self::new(self.port.clone());
    }

    /// Something happened to queue `index` of this function.
    fn queue_event(&mut self, cause: Cause, index: usize) {
        let shift = 16 * (index % 2)
            + if matches!(cause, Cause::Transmit(_)) {
                8
            } else {
                0
            };
        let entry = self.ivar.get(index / 2).map_or(0, |word| word >> shift);
        self.raise(entry);
    }

    pub(super) fn mailbox_event(&mut self) {
        self.raise(self.ivar_misc);
    }

    fn raise(&mut self, entry: u32) {
        if entry & 0x80 != 0 && entry & 0x7f < u32::from(VECTORS) {
            self.causes |= 1 << (entry & 3);
        }
    }

    /// Signals what may be signalled; whether something was, and when the next one may.
    fn signal(&mut self, now: Instant) -> (bool, Option<Instant>) {
        let (mut signalled, mut next) = (false, None);
        for vector in 0..VECTORS {
            let (n, bit) = (usize::from(vector), 1 << vector);
            if self.causes & self.enabled & bit == 0 {
                continue;
            }
            if self.quiet_until[n] > now {
                next = [next, Some(self.quiet_until[n])]
                    .into_iter()
                    .flatten()
                    .min();
                continue;
            }
            // A cause that does not clear itself is seen by its mask alone.
            if self.auto_clear & bit != 0 {
                self.causes &= !bit;
            }
            if self.auto_mask & bit != 0 || self.auto_clear & bit == 0 {
                self.enabled &= !bit;
            }
            let interval = u64::from(self.eitr[n] >> 3 & 0x1ff) * 2048;
            self.quiet_until[n] = now.saturating_add(Duration::from_nanos(interval));
            self.port.raise(vector);
            signalled = true;
        }
        (signalled, next)
    }
}

impl Device {
    /// The virtual function that queue `n` belongs to, and which of its queues that is.
    fn owner(&self, n: usize) -> Option<(usize, usize)> {
        if self.regs.word(GCR_EXT) & 3 == 0 {
            return None;
        }
        let queues = self.queues_of_pool();
        (n / queues < self.sriov.enabled()).then_some((n / queues, n % queues))
    }

    /// The way to memory of queue `n`, where that is not the physical function's.
    fn port_of(&self, n: usize) -> Option<&Port> {
        let (function, _) = self.owner(n)?;
        Some(&self.virtuals[function].port)
    }

    /// Reads memory on behalf of queue `n`.
    pub(super) fn fetch(
        &self,
        n: usize,
        address: BusAddress,
        bytes: &mut [u8],
    ) -> Result<(), DmaError> {
        match self.port_of(n) {
            Some(port) => port.read(address, bytes),
            None => self.function.read(address, bytes),
        }
    }

    /// Writes memory on behalf of queue `n`.
    pub(super) fn deposit(
        &self,
        n: usize,
        address: BusAddress,
        bytes: &[u8],
    ) -> Result<(), DmaError> {
        match self.port_of(n) {
            Some(port) => port.write(address, bytes),
            None => self.function.write(address, bytes),
        }
    }

    /// Whether the event of a queue is a virtual function's, which is told.
    pub(super) fn virtual_event(&mut self, cause: Cause) -> bool {
        let (Cause::Receive(n) | Cause::Transmit(n)) = cause;
        let Some((function, index)) = self.owner(n) else {
            return false;
        };
        self.virtuals[function].queue_event(cause, index);
        true
    }

    /// Signals for all virtual functions; whether something was, and when the next one may.
    pub(super) fn signal_virtuals(&mut self, now: Instant) -> (bool, Option<Instant>) {
        let signals = self.virtuals.iter_mut();
        signals.fold((false, None), |(any, first), function| {
            let (signalled, next) = function.signal(now);
            (any || signalled, [first, next].into_iter().flatten().min())
        })
    }

    pub(super) fn count_virtual(&mut self, cause: Cause, frame: &[u8]) {
        let (Cause::Receive(n) | Cause::Transmit(n)) = cause;
        let Some((function, _)) = self.owner(n) else {
            return;
        };
        let bytes = frame.len() as u64 + 4;
        let counters = &mut self.virtuals[function].counters;
        let mut add = |counter: Counter, more: u64| counters[counter as usize] += more;
        if matches!(cause, Cause::Receive(_)) {
            add(Counter::Received, 1);
            add(Counter::BytesReceived, bytes);
            add(Counter::Multicast, u64::from(frame[0] & 1));
        } else {
            add(Counter::Sent, 1);
            add(Counter::BytesSent, bytes);
        }
    }

    /// Reads register `offset` of virtual function `n`.
    fn read_virtual(&mut self, n: usize, offset: usize) -> u32 {
        if let Some(place) = self.queue_register(n, offset) {
            return self.read32(place);
        }
        let low = |value: u64| u32::try_from(value & 0xffff_ffff).unwrap_or(0);
        let function = &self.virtuals[n];
        let counter = |counter: Counter| function.counters[counter as usize];
        match offset {
            0x0000 | 0x0104 | 0x010c => 0,
            0x0008 => self.status() & 0x80 | 1 << 19,
            0x0010 => self.links(),
            0x0048 => self.frtimer(),
            0x0100 => core::mem::take(&mut self.virtuals[n].causes),
            0x0108 => function.enabled,
            0x0110 => function.auto_clear,
            0x0114 => function.auto_mask,
            0x0120..0x0130 => function.ivar[(offset - 0x0120) / 4],
            0x0140 => function.ivar_misc,
            0x0820..0x082c => function.eitr[(offset - 0x0820) / 4],
            0x0200..0x0240 => self.regs.word(memory(n) + offset - 0x0200),
            0x02fc => self.read_vf_mailbox(n),
            0x0300 => self.regs.word(psrtype(n)),
            0x101c => low(counter(Counter::Received)),
            0x1020 => low(counter(Counter::BytesReceived)),
            0x1024 => low(counter(Counter::BytesReceived) >> 32),
            0x1034 => low(counter(Counter::Multicast)),
            0x201c => low(counter(Counter::Sent)),
            0x2020 => low(counter(Counter::BytesSent)),
            0x2024 => low(counter(Counter::BytesSent) >> 32),
            0x0180..0x018c | 0x3190 => 0,
            _ => {
                self.report_virtual(n, offset, "read");
                0
            }
        }
    }

    /// Writes register `offset` of virtual function `n`.
    fn write_virtual(&mut self, n: usize, offset: usize, value: u32) {
        if let Some(place) = self.queue_register(n, offset) {
            self.write32(place, value);
            return;
        }
        let function = &mut self.virtuals[n];
        match offset {
            0x0000 if value & 1 << 26 != 0 => self.reset_virtual(n),
            0x0100 => function.causes &= !value,
            0x0104 => function.causes |= value & 7,
            0x0108 => function.enabled |= value & 7,
            0x010c => function.enabled &= !value,
            0x0110 => function.auto_clear = value & 7,
            0x0114 => function.auto_mask = value & 7,
            0x0120..0x0130 => function.ivar[(offset - 0x0120) / 4] = value,
            0x0140 => function.ivar_misc = value,
            0x0820..0x082c => function.eitr[(offset - 0x0820) / 4] = value & 0xff8,
            0x0200..0x0240 => self.regs.set(memory(n) + offset - 0x0200, value),
            0x02fc => self.write_vf_mailbox(n, value),
            0x0300 => self.regs.set(psrtype(n), value),
            0x0180..0x018c if value == 0 => {}
            // What can only be read.
            0x0000 | 0x0008 | 0x0010 | 0x0048 | 0x101c | 0x1020 | 0x1024 | 0x1034 | 0x201c
            | 0x2020 | 0x2024 | 0x3190 => {}
            _ => {
                self.report_virtual(n, offset, "written");
            }
        }
    }

    fn report_virtual(&self, n: usize, offset: usize, what: &str) {
        let named =
            |(_, first, count, _): &&VirtualEntry| (*first..first + 4 * count).contains(&offset);
        let name = VIRTUAL
            .iter()
            .find(named)
            .map_or("register", |entry| entry.0);
        let text = format_args!("{name} at {offset:#06x} of virtual function {n} {what}");
        self.function.left_out(text);
    }

    /// The register of the physical function behind one of a queue (8.3.5.7, 8.3.5.8).
    fn queue_register(&self, n: usize, offset: usize) -> Option<usize> {
        let queues = self.queues_of_pool();
        let (first, index) = match offset {
            0x1000..0x1200 => (0x1000, (offset - 0x1000) / 0x40),
            0x2000..0x2200 => (0x2000, (offset - 0x2000) / 0x40),
            _ => return None,
        };
        let inside = (offset - first) % 0x40;
        // Counters lie where the physical function has others.
        let known = match first {
            0x1000 => matches!(
                inside,
                0x00 | 0x04 | 0x08 | 0x0c | 0x10 | 0x14 | 0x18 | 0x28 | 0x2c
            ),
            _ => matches!(
                inside,
                0x00 | 0x04 | 0x08 | 0x0c | 0x10 | 0x18 | 0x28 | 0x38 | 0x3c
            ),
        };
        if !known || index >= queues {
            return None;
        }
        let queue = n * queues + index;
        Some(
            inside
                + if first == 0x1000 {
                    rx(queue)
                } else {
                    tx(queue)
                },
        )
    }

    /// A virtual function begins anew: its queues stop (4.2.2.2).
    pub(super) fn reset_virtual(&mut self, n: usize) {
        self.virtuals[n].reset();
        self.regs.set(psrtype(n), 0);
        let queues = self.queues_of_pool();
        for queue in n * queues..(n + 1) * queues {
            for place in [rx(queue) + 0x28, tx(queue) + 0x28] {
                self.write32(place, 0);
            }
        }
        self.reset_mailbox(n);
    }

    /// Whether the physical function's driver is ready for the virtual ones.
    pub(super) fn is_ready_for_virtuals(&self) -> bool {
        self.regs.word(CTRL_EXT) & 1 << 14 != 0
    }
}

/// The mailbox memory of virtual function `n`.
const fn memory(n: usize) -> usize {
    0x1_3000 + 64 * n
}

/// Its part of PSRTYPE (8.3.5.6.1).
const fn psrtype(n: usize) -> usize {
    0x0_ea00 + 4 * n
}

/// The PCI function of a virtual function.
#[derive(Debug)]
pub(super) struct VirtualModel {
    pub(super) device: Arc<Mutex<Device>>,
    pub(super) n: usize,
    pub(super) function: Function,
}

impl Model for VirtualModel {
    fn function(&mut self) -> &mut Function {
        self.function.come_back();
        &mut self.function
    }

    fn read_bar(&mut self, bar: usize, offset: usize, width: Width) -> u64 {
        if bar != REGISTER_BAR || width == Width::U8 || width == Width::U16 {
            return ones(width);
        }
        let mut device = lock(&self.device);
        let low = u64::from(device.read_virtual(self.n, offset));
        if width == Width::U64 {
            low | u64::from(device.read_virtual(self.n, offset + 4)) << 32
        } else {
            low
        }
    }

    fn write_bar(&mut self, bar: usize, offset: usize, width: Width, value: u64) {
        if bar != REGISTER_BAR || width == Width::U8 || width == Width::U16 {
            return;
        }
        let mut device = lock(&self.device);
        let [low, high] = [value & 0xffff_ffff, value >> 32];
        device.write_virtual(self.n, offset, u32::try_from(low).unwrap_or(0));
        if width == Width::U64 {
            device.write_virtual(self.n, offset + 4, u32::try_from(high).unwrap_or(0));
        }
    }

    /// Function-level reset: the physical function's driver is told (8.2.3.27.4).
    fn reset(&mut self) {
        let mut device = lock(&self.device);
        device.reset_virtual(self.n);
        device.note_function_reset(self.n);
    }
}

impl world::Device for VirtualModel {
    fn step(&mut self, _turn: &mut Turn<'_>) -> Activity {
        let raised = self.function.take_raised();
        if raised == 0 {
            return Activity::Idle;
        }
        for vector in (0..VECTORS).filter(|vector| raised >> vector & 1 == 1) {
            self.function.interrupt(vector);
        }
        Activity::Worked
    }
}
