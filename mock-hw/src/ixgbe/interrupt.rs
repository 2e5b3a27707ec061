//! Causes, masks, moderation, vectors (82599, 7.3 and 8.2.3.5).

use core::time::Duration;

use parakernel_core::time::Instant;

use super::device::Device;

/// Registers.
const EIAC: usize = 0x0_0810;
const EIAM: usize = 0x0_0890;
const EIAM_EX: usize = 0x0_0ad0;
const GPIE: usize = 0x0_0898;
const IVAR: usize = 0x0_0900;
const IVAR_MISC: usize = 0x0_0a00;

/// GPIE: MSI-X with several vectors; reading EICR leaves the other causes; automatic masking.
const GPIE_MULTIPLE_MSIX: u32 = 1 << 4;
const GPIE_OCD: u32 = 1 << 5;
const GPIE_EIAME: u32 = 1 << 30;

/// Causes other than queues: EICR bits 16 to 30.
const OTHER: u32 = 0x7fff_0000;

/// Link status changed.
pub(super) const LSC: u32 = 1 << 20;
/// A frame found no room in the packet buffer.
pub(super) const RX_MISS: u32 = 1 << 17;

/// How many vectors there are.
pub(super) const VECTORS: usize = 64;

#[derive(Debug)]
pub(super) struct Interrupts {
    /// Vectors with an event: the low ones are EICR's bits.
    pending: u64,
    /// Those of them that were signalled and not cleared since: another event changes nothing.
    signalled: u64,
    /// Vectors that may signal.
    enabled: u64,
    /// Causes other than queues, and which of them may signal.
    other: u32,
    other_enabled: u32,
    /// Other causes that came since the last signal for them.
    other_new: bool,
    /// When each vector may signal again.
    quiet_until: [Instant; VECTORS],
    eitr: [u32; 129],
}

impl Default for Interrupts {
    fn default() -> Self {
        Self {
            pending: 0,
            signalled: 0,
            enabled: 0,
            other: 0,
            other_enabled: 0,
            other_new: false,
            quiet_until: [Instant::default(); VECTORS],
            eitr: [0; 129],
        }
    }
}

/// Which queue an event belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cause {
    Receive(usize),
    Transmit(usize),
}

impl Device {
    /// Something happened to a queue.
    pub(super) fn queue_event(&mut self, cause: Cause) {
        if self.virtual_event(cause) {
            return;
        }
        let (queue, shift) = match cause {
            Cause::Receive(queue) => (queue, 0),
            Cause::Transmit(queue) => (queue, 8),
        };
        let entry = self.regs.word(IVAR + 4 * (queue / 2)) >> (16 * (queue % 2) + shift);
        if let Some(vector) = vector(entry) {
            self.interrupts.pending |= 1 << vector;
        }
    }

    /// One of the other causes happened.
    pub(super) fn other_event(&mut self, cause: u32) {
        self.interrupts.other |= cause & OTHER;
        self.interrupts.other_new = true;
    }

    /// Signals what may be signalled at `now`; when the next vector may be.
    pub(super) fn signal(&mut self, now: Instant) -> Option<Instant> {
        self.signal_other(now);
        let mut next: Option<Instant> = None;
        let interrupts = &self.interrupts;
        let mut ready = interrupts.pending & interrupts.enabled & !interrupts.signalled;
        while ready != 0 {
            let vector = ready.trailing_zeros() as usize;
            ready &= ready - 1;
            let until = self.interrupts.quiet_until[vector];
            if until > now {
                next = Some(next.map_or(until, |other| other.min(until)));
                continue;
            }
            self.auto_clear(vector);
            self.auto_mask(vector);
            self.send(vector, now);
        }
        next
    }

    /// The other causes have one vector, and their causes stay in EICR.
    fn signal_other(&mut self, now: Instant) {
        let interrupts = &mut self.interrupts;
        if !interrupts.other_new || interrupts.other & interrupts.other_enabled == 0 {
            return;
        }
        let Some(vector) = vector(self.regs.word(IVAR_MISC) >> 8) else {
            return;
        };
        self.interrupts.other_new = false;
        if self.regs.word(GPIE) & GPIE_EIAME != 0 {
            self.interrupts.other_enabled &= !(self.regs.word(EIAM) & OTHER);
        }
        self.interrupts.other &= !(self.regs.word(EIAC) & OTHER);
        self.send(vector, now);
    }

    /// EIAC says which of the low 16 vectors clear their cause by being signalled; the others always do (7.3.1.5).
    fn auto_clear(&mut self, vector: usize) {
        if vector >= 16 || self.regs.word(EIAC) >> vector & 1 == 1 {
            self.interrupts.pending &= !(1 << vector);
        } else {
            self.interrupts.signalled |= 1 << vector;
        }
    }

    fn auto_mask(&mut self, vector: usize) {
        if self.regs.word(GPIE) & GPIE_EIAME == 0 {
            return;
        }
        let low = self.regs.wide(EIAM_EX) | u64::from(self.regs.word(EIAM) & 0xffff);
        self.interrupts.enabled &= !(low & 1 << vector);
    }

    fn send(&mut self, vector: usize, now: Instant) {
        let interval = u64::from(self.interrupts.eitr[vector] >> 3 & 0x1ff) * 2048;
        self.interrupts.quiet_until[vector] = now.saturating_add(Duration::from_nanos(interval));
        if self.regs.word(GPIE) & GPIE_MULTIPLE_MSIX == 0 && vector > 0 {
            let text = format_args!("interrupt {vector} without GPIE.Multiple_MSIX");
            self.function.violation("82599, 7.3.4.1", text);
            return;
        }
        self.function.interrupt(u16::try_from(vector).unwrap_or(0));
    }

    /// EICR: causes; reading clears them, all or only the other ones.
    pub(super) fn read_eicr(&mut self) -> u32 {
        let value = self.interrupts.causes();
        self.interrupts.other = 0;
        if self.regs.word(GPIE) & GPIE_OCD == 0 {
            self.interrupts.clear(0xffff);
        }
        value
    }

    pub(super) fn write_eics(&mut self, value: u32) {
        self.interrupts.pending |= u64::from(value & 0xffff);
        if value & OTHER != 0 {
            self.other_event(value & OTHER);
        }
    }
}

impl Interrupts {
    /// EICR and EICS as they read.
    pub(super) fn causes(&self) -> u32 {
        let low = u32::try_from(self.pending & 0xffff).unwrap_or(0);
        low | self.other | u32::from(self.other != 0) << 31
    }

    pub(super) fn clear(&mut self, causes: u32) {
        let low = u64::from(causes & 0xffff);
        self.pending &= !low;
        self.signalled &= !low;
        self.other &= !causes;
    }

    pub(super) fn mask(&self) -> u32 {
        u32::try_from(self.enabled & 0xffff).unwrap_or(0) | self.other_enabled
    }

    pub(super) const fn enable(&mut self, causes: u32) {
        self.unmask((causes & 0xffff) as u64);
        self.other_enabled |= causes & OTHER;
        // A cause that came while it was masked signals now.
        self.other_new |= self.other & causes & OTHER != 0;
    }

    pub(super) const fn disable(&mut self, causes: u32) {
        self.enabled &= !((causes & 0xffff) as u64);
        self.other_enabled &= !(causes & OTHER);
    }

    /// The extended registers: 32 vectors each.
    pub(super) const fn mask_ex(&self, half: usize) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "one half at a time")]
        {
            (self.enabled >> (32 * half)) as u32
        }
    }

    pub(super) const fn enable_ex(&mut self, half: usize, vectors: u32) {
        self.unmask((vectors as u64) << (32 * half));
    }

    /// A cause that is there when its mask goes signals (again).
    const fn unmask(&mut self, vectors: u64) {
        self.signalled &= !(vectors & !self.enabled);
        self.enabled |= vectors;
    }

    pub(super) const fn disable_ex(&mut self, half: usize, vectors: u32) {
        self.enabled &= !((vectors as u64) << (32 * half));
    }

    pub(super) const fn raise_ex(&mut self, half: usize, vectors: u32) {
        self.pending |= (vectors as u64) << (32 * half);
    }

    pub(super) fn eitr(&self, n: usize) -> u32 {
        self.eitr.get(n).copied().unwrap_or(0)
    }

    /// The interval, in bits 11 to 3, in units of 2.048 us at 10 Gb/s; bit 31 leaves the running timer alone.
    pub(super) fn set_eitr(&mut self, n: usize, value: u32) {
        const KEEPS: u32 = 0x00f8_8ff8;

        if let Some(eitr) = self.eitr.get_mut(n) {
            *eitr = value & KEEPS;
        }
        if value >> 31 == 0
            && let Some(until) = self.quiet_until.get_mut(n)
        {
            *until = Instant::default();
        }
    }
}

/// The vector in an entry of the vector allocation registers, if it is valid.
fn vector(entry: u32) -> Option<usize> {
    (entry & 0x80 != 0).then_some((entry & 0x3f) as usize)
}
