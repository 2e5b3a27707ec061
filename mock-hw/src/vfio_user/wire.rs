//! What goes over the socket, in the byte order of the host.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Before each message: 16 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Header {
    pub(super) id: u16,
    pub(super) command: u16,
    /// Of the whole message.
    pub(super) size: u32,
    pub(super) flags: u32,
    pub(super) error: u32,
}

impl Header {
    pub(super) const LEN: usize = size_of::<Self>();

    const TYPE: u32 = 0xf;
    const REPLY: u32 = 1;
    const NO_REPLY: u32 = 1 << 4;
    const ERROR: u32 = 1 << 5;

    pub(super) const fn request(id: u16, command: u16) -> Self {
        Self {
            id,
            command,
            size: 0,
            flags: 0,
            error: 0,
        }
    }

    /// The header that answers this one.
    pub(super) const fn reply(self) -> Self {
        Self {
            flags: Self::REPLY,
            error: 0,
            ..self
        }
    }

    /// The header that refuses this one.
    pub(super) const fn refusal(self, error: u32) -> Self {
        Self {
            flags: Self::REPLY | Self::ERROR,
            error,
            ..self
        }
    }

    pub(super) const fn is_request(self) -> bool {
        self.flags & Self::TYPE == 0
    }

    pub(super) const fn is_reply(self) -> bool {
        self.flags & Self::TYPE == Self::REPLY
    }

    pub(super) const fn wants_reply(self) -> bool {
        self.flags & Self::NO_REPLY == 0
    }

    pub(super) const fn is_error(self) -> bool {
        self.flags & Self::ERROR != 0
    }
}

/// Numbers of the commands.
pub(super) mod command {
    pub(in super::super) const VERSION: u16 = 1;
    pub(in super::super) const DMA_MAP: u16 = 2;
    pub(in super::super) const DMA_UNMAP: u16 = 3;
    pub(in super::super) const DEVICE_GET_INFO: u16 = 4;
    pub(in super::super) const DEVICE_GET_REGION_INFO: u16 = 5;
    pub(in super::super) const DEVICE_GET_IRQ_INFO: u16 = 7;
    pub(in super::super) const DEVICE_SET_IRQS: u16 = 8;
    pub(in super::super) const REGION_READ: u16 = 9;
    pub(in super::super) const REGION_WRITE: u16 = 10;
    pub(in super::super) const DMA_READ: u16 = 11;
    pub(in super::super) const DMA_WRITE: u16 = 12;
    pub(in super::super) const DEVICE_RESET: u16 = 13;
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Version {
    pub(super) major: u16,
    pub(super) minor: u16,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct DmaMap {
    pub(super) argsz: u32,
    pub(super) flags: u32,
    pub(super) offset: u64,
    pub(super) address: u64,
    pub(super) size: u64,
}

impl DmaMap {
    pub(super) const READABLE: u32 = 1;
    pub(super) const WRITEABLE: u32 = 2;
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct DmaUnmap {
    pub(super) argsz: u32,
    pub(super) flags: u32,
    pub(super) address: u64,
    pub(super) size: u64,
}

impl DmaUnmap {
    /// `VFIO_DMA_UNMAP_FLAG_ALL`: whatever is mapped.
    pub(super) const ALL: u32 = 2;
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct DeviceInfo {
    pub(super) argsz: u32,
    pub(super) flags: u32,
    pub(super) regions: u32,
    pub(super) irqs: u32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct RegionInfo {
    pub(super) argsz: u32,
    pub(super) flags: u32,
    pub(super) index: u32,
    pub(super) cap_offset: u32,
    pub(super) size: u64,
    pub(super) offset: u64,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct IrqInfo {
    pub(super) argsz: u32,
    pub(super) flags: u32,
    pub(super) index: u32,
    pub(super) count: u32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct IrqSet {
    pub(super) argsz: u32,
    pub(super) flags: u32,
    pub(super) index: u32,
    pub(super) start: u32,
    pub(super) count: u32,
}

impl IrqSet {
    pub(super) const DATA: u32 = 7;
    pub(super) const DATA_NONE: u32 = 1;
    pub(super) const DATA_EVENTFD: u32 = 4;
    pub(super) const ACTION: u32 = 0x38;
    pub(super) const ACTION_MASK: u32 = 8;
    pub(super) const ACTION_UNMASK: u32 = 0x10;
    pub(super) const ACTION_TRIGGER: u32 = 0x20;
}

/// A read of a region, and the first part of a write and of the answers to both.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct RegionAccess {
    pub(super) offset: u64,
    pub(super) region: u32,
    pub(super) count: u32,
}

/// A read of the client's memory, and the first part of a write and of the answer.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct DmaAccess {
    pub(super) address: u64,
    pub(super) count: u64,
}
