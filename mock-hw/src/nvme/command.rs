//! The 64 bytes of a submission queue entry (NVMe 1.4, 4.2).

use crate::bytes::{array_at, u16_at, u32_at, u64_at};

#[derive(Clone, Debug)]
pub(super) struct Command(pub(super) [u8; 64]);

impl Command {
    pub(super) fn opcode(&self) -> u8 {
        self.0[0]
    }

    /// Bits 1:0 of byte 1: part of a fused operation.
    pub(super) fn fuse(&self) -> u8 {
        self.0[1] & 3
    }

    /// Bits 7:6 of byte 1: 0 for PRPs, 1 and 2 for SGLs, 3 reserved.
    pub(super) fn psdt(&self) -> u8 {
        self.0[1] >> 6
    }

    /// Bits 5:2 of byte 1.
    pub(super) fn reserved_flags(&self) -> u8 {
        self.0[1] & 0x3c
    }

    pub(super) fn id(&self) -> u16 {
        u16_at(&self.0, 2)
    }

    pub(super) fn namespace(&self) -> u32 {
        u32_at(&self.0, 4)
    }

    pub(super) fn metadata_pointer(&self) -> u64 {
        u64_at(&self.0, 16)
    }

    pub(super) fn prp1(&self) -> u64 {
        u64_at(&self.0, 24)
    }

    pub(super) fn prp2(&self) -> u64 {
        u64_at(&self.0, 32)
    }

    /// The SGL descriptor in place of the PRPs.
    pub(super) fn sgl(&self) -> [u8; 16] {
        array_at(&self.0, 24)
    }

    /// Command dword `n`, 10 to 15.
    pub(super) fn dword(&self, n: usize) -> u32 {
        u32_at(&self.0, 4 * n)
    }

    /// Starting LBA of I/O commands: dwords 10 and 11.
    pub(super) fn lba(&self) -> u64 {
        u64_at(&self.0, 40)
    }

    /// Number of logical blocks: bits 15:0 of dword 12, counted from zero.
    pub(super) fn blocks(&self) -> u64 {
        u64::from(self.dword(12) & 0xffff) + 1
    }
}
