//! The registers used, in the specification's order (NVMe 1.4 §3.1; NVMe Base 2.0 §3.1.3).

use core::time::Duration;

use parakernel_core::{
    mmio::{Register, Registers, Window},
    registers,
};

/// The controller's registers, at the beginning of BAR 0.
#[derive(Debug)]
pub struct ControllerBlock;

/// Where the doorbells begin, and the length of the register file without any.
pub const DOORBELLS: usize = 0x1000;

registers! {
    in ControllerBlock;

    /// Controller Capabilities, NVMe 1.4 §3.1.1.
    pub Cap: u64 @ 0x00, read_only {
        /// Maximum Queue Entries Supported, less one; at least 1.
        MQES: bits 0..=15,
        /// Contiguous Queues Required.
        CQR: bit 16,
        /// Worst time for RDY to follow EN, in units of 500 ms.
        TO: bits 24..=31,
        /// Doorbell Stride: 4 bytes shifted left by this.
        DSTRD: bits 32..=35,
        /// Command Sets Supported: the NVM command set is the lowest bit of the field.
        CSS_NVM: bit 37,
        /// Memory Page Size Minimum: 4 KiB shifted left by this.
        MPSMIN: bits 48..=51,
        /// Memory Page Size Maximum, likewise.
        MPSMAX: bits 52..=55,
        /// Controller Ready With Media Support: [`Crto`] holds a time (NVMe Base 2.0 §3.1.3.1).
        CRMS_CRWMS: bit 59,
    }

    /// Version, NVMe 1.4 §3.1.2.
    pub Vs: u32 @ 0x08, read_only {
        /// Tertiary version number.
        TER: bits 0..=7,
        /// Minor version number.
        MNR: bits 8..=15,
        /// Major version number.
        MJR: bits 16..=31,
    }

    /// Controller Configuration, NVMe 1.4 §3.1.5.
    pub Cc: u32 @ 0x14, read_write {
        /// Enable; clearing it resets the controller.
        EN: bit 0,
        /// I/O Command Set Selected: 0 is the NVM command set.
        CSS: bits 4..=6,
        /// Memory Page Size: 4 KiB shifted left by this.
        MPS: bits 7..=10,
        /// Arbitration Mechanism Selected: 0 is round robin.
        AMS: bits 11..=13,
        /// Shutdown Notification: 1 normal, 2 abrupt.
        SHN: bits 14..=15,
        /// I/O Submission Queue Entry Size, log2 of bytes.
        IOSQES: bits 16..=19,
        /// I/O Completion Queue Entry Size, log2 of bytes.
        IOCQES: bits 20..=23,
    }

    /// Controller Status, NVMe 1.4 §3.1.6.
    pub Csts: u32 @ 0x1c, read_only {
        /// Ready.
        RDY: bit 0,
        /// Controller Fatal Status.
        CFS: bit 1,
        /// Shutdown Status: 1 going on, 2 complete.
        SHST: bits 2..=3,
    }

    /// Admin Queue Attributes, NVMe 1.4 §3.1.8.
    pub Aqa: u32 @ 0x24, read_write {
        /// Admin Submission Queue Size, less one.
        ASQS: bits 0..=11,
        /// Admin Completion Queue Size, less one.
        ACQS: bits 16..=27,
    }

    /// Admin Submission Queue Base Address, NVMe 1.4 §3.1.9; aligned to 4 KiB.
    pub Asq: u64 @ 0x28, address {}

    /// Admin Completion Queue Base Address, NVMe 1.4 §3.1.10; aligned to 4 KiB.
    pub Acq: u64 @ 0x30, address {}

    /// Controller Ready Timeouts, NVMe Base 2.0 §3.1.3.22.
    pub Crto: u32 @ 0x68, read_only {
        /// Controller Ready With Media Timeout, in units of 500 ms.
        CRWMT: bits 0..=15,
    }
}

/// The unit of CAP.TO, NVMe 1.4 §3.1.1.
const TIMEOUT_UNIT: Duration = Duration::from_millis(500);

impl Cap {
    /// Entries of the longest I/O queue, 2 to 65,536.
    #[must_use]
    pub fn max_entries(self) -> u32 {
        // The field has 16 bits.
        u32::try_from(self.field(Self::MQES)).unwrap_or(0) + 1
    }

    /// Bytes from one doorbell to the next: 4 to 128 Ki.
    #[must_use]
    pub fn doorbell_stride(self) -> usize {
        4 << self.field(Self::DSTRD)
    }

    /// Byte offset of the tail doorbell of submission queue `queue`, NVMe 1.4 §3.1.24.
    #[must_use]
    pub fn tail_doorbell(self, queue: u16) -> usize {
        DOORBELLS + 2 * usize::from(queue) * self.doorbell_stride()
    }

    /// Byte offset of the head doorbell of completion queue `queue`, NVMe 1.4 §3.1.25.
    #[must_use]
    pub fn head_doorbell(self, queue: u16) -> usize {
        DOORBELLS + (2 * usize::from(queue) + 1) * self.doorbell_stride()
    }

    /// How many I/O queue pairs have both their doorbells in a register file of `len` bytes.
    #[must_use]
    pub fn pairs_with_doorbells(self, len: usize) -> u16 {
        let doorbells = len.saturating_sub(DOORBELLS) / self.doorbell_stride();
        u16::try_from((doorbells / 2).saturating_sub(1)).unwrap_or(u16::MAX)
    }
}

/// The longest time that CAP.TO can tell. `CRTO` could tell nine hours, which nobody who brings up a machine waits.
const MAX_UNITS: u64 = 255;

/// How long the controller may take to become ready, or to stop being so: at most 127.5 seconds.
///
/// A time of 0 is taken as one unit: some controllers report it, and none is that fast.
pub fn ready_timeout<R: Registers>(window: &Window<R, ControllerBlock>, cap: Cap) -> Duration {
    let mut units = cap.field(Cap::TO).max(1);
    if cap.is_set(Cap::CRMS_CRWMS) {
        units = units.max(window.read::<Crto>().field(Crto::CRWMT));
    }
    TIMEOUT_UNIT * u32::try_from(units.min(MAX_UNITS)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use parakernel_core::mmio::Width;

    use super::*;

    /// CAP of QEMU's controller, as it was read there: DSTRD 0, MQES 2047, TO 15, MPSMAX 4.
    const QEMU: u64 = 0x0040_1820_0f01_07ff;

    #[test]
    fn fields_are_where_a_real_controller_has_them() {
        let cap = Cap::from_bits(QEMU);
        assert_eq!(cap.max_entries(), 2048);
        assert_eq!(cap.field(Cap::TO), 15);
        assert!(cap.is_set(Cap::CQR));
        assert!(cap.is_set(Cap::CSS_NVM));
        assert_eq!((cap.field(Cap::MPSMIN), cap.field(Cap::MPSMAX)), (0, 4));
    }

    /// A controller whose every register reads as ones, which is the longest time that it can ask for.
    #[derive(Debug)]
    struct Ones;

    impl Registers for Ones {
        fn read(&self, _offset: usize, width: Width) -> u64 {
            u64::MAX >> (64 - 8 * width.bytes())
        }

        fn write(&self, _offset: usize, _width: Width, _value: u64) {}

        fn len(&self) -> usize {
            DOORBELLS
        }
    }

    /// Found by the fuzz target `nvme_driver`.
    #[test]
    fn nobody_waits_for_hours() {
        let window = Window::new(Ones, 0);
        let longest = Duration::from_millis(127_500);
        assert_eq!(ready_timeout(&window, window.read()), longest);
        assert_eq!(
            ready_timeout(&window, Cap::from_bits(QEMU)),
            TIMEOUT_UNIT * 15
        );
    }

    #[test]
    fn doorbells_of_each_stride_lie_apart_and_the_last_has_room() {
        for dstrd in 0..16 {
            let cap = Cap::from_bits(dstrd << 32);
            let stride = 4 << dstrd;
            assert_eq!(cap.tail_doorbell(0), 0x1000);
            assert_eq!(cap.head_doorbell(0), 0x1000 + stride);
            assert_eq!(cap.tail_doorbell(u16::MAX), 0x1000 + 2 * 65_535 * stride);
            let all = 0x1000 + 2 * 65_536 * stride;
            assert_eq!(cap.pairs_with_doorbells(all), 65_535);
            assert_eq!(cap.pairs_with_doorbells(all - 1), 65_534);
            assert_eq!(cap.pairs_with_doorbells(0x1000), 0);
        }
    }
}
