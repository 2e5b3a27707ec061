//! The bytes of a configuration space, and which of them a driver can change.

use crate::bytes::{array_at, put, u16_at};

/// What a function is, in the words of its header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) vendor: u16,
    pub(crate) device: u16,
    pub(crate) subsystem_vendor: u16,
    pub(crate) subsystem: u16,
    pub(crate) revision: u8,
    /// Class, subclass and programming interface, 8 bits each.
    pub(crate) class: u32,
}

/// A capability: its id, and the bytes after id and next pointer.
#[derive(Clone, Debug)]
pub(crate) struct Capability {
    pub(crate) id: u8,
    pub(crate) body: Vec<u8>,
    /// Bits of `body` that can be written; missing bytes cannot.
    pub(crate) writable: Vec<u8>,
}

impl Capability {
    /// Power management: version 3, no PME; D0 and D3hot by the low bits of control, no soft reset (bit 3).
    pub(super) fn power_management() -> Self {
        Self {
            id: 0x01,
            body: vec![0x03, 0x00, 0x08, 0x00, 0, 0],
            writable: vec![0, 0, 0x03],
        }
    }

    /// PCI Express: an endpoint of version 2, with function-level reset (bit 28 of device capabilities).
    pub(super) fn express() -> Self {
        let mut body = vec![0; 0x3a];
        body[0] = 0x02;
        put(&mut body, 2, &0x1000_8002_u32.to_le_bytes());
        // Link: 8 lanes of 5 GT/s, able and in use.
        put(&mut body, 0x0a, &0x0000_0082_u32.to_le_bytes());
        put(&mut body, 0x10, &0x1082_u16.to_le_bytes());
        put(&mut body, 0x2a, &0x0000_0006_u32.to_le_bytes());
        put(&mut body, 0x2e, &0x0002_u16.to_le_bytes());
        // Device control at first: relaxed ordering and no-snoop enabled, reads of up to 512 bytes.
        put(&mut body, 6, &0x2810_u16.to_le_bytes());
        let mut writable = vec![0; 8];
        put(&mut writable, 6, &0x7fff_u16.to_le_bytes());
        Self {
            id: 0x10,
            body,
            writable,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Space {
    bytes: Vec<u8>,
    writable: Vec<u8>,
    /// The bytes after a reset.
    initial: Vec<u8>,
    next: usize,
    last_pointer: usize,
    /// Where the last extended capability lies.
    last_extended: Option<usize>,
}

/// An extended capability: id, version, and the bytes after its header.
#[derive(Clone, Debug)]
pub(crate) struct Extended {
    pub(crate) id: u16,
    pub(crate) version: u8,
    pub(crate) body: Vec<u8>,
    /// Bits of `body` that can be written; missing bytes cannot.
    pub(crate) writable: Vec<u8>,
}

impl Extended {
    /// Advanced Error Reporting (PCIe 4.0, 7.8.4): masks and severities can be set; no error is ever reported.
    pub(crate) fn error_reporting() -> Self {
        let mut body = vec![0; 0x28];
        let mut writable = vec![0; 0x28];
        // Uncorrectable: mask and severity; correctable: mask, advisory errors at first.
        put(&mut body, 0x08, &0x0006_2030_u32.to_le_bytes());
        put(&mut body, 0x10, &0x0000_2000_u32.to_le_bytes());
        put(&mut writable, 0x04, &0x001f_f030_u32.to_le_bytes());
        put(&mut writable, 0x08, &0x001f_f030_u32.to_le_bytes());
        put(&mut writable, 0x10, &0x0000_31c1_u32.to_le_bytes());
        Self {
            id: 0x0001,
            version: 1,
            body,
            writable,
        }
    }

    /// Alternative Routing-ID (7.8.7): no next function, no function groups.
    pub(crate) fn alternative_routing() -> Self {
        Self {
            id: 0x000e,
            version: 1,
            body: vec![0; 4],
            writable: Vec::new(),
        }
    }
}

impl Space {
    /// A type 0 header (PCIe 4.0, 7.5.1).
    pub(super) fn new(identity: Identity) -> Self {
        let mut space = Self {
            bytes: vec![0; 4096],
            writable: vec![0; 4096],
            initial: Vec::new(),
            next: 0x40,
            last_pointer: 0x34,
            last_extended: None,
        };
        put(&mut space.bytes, 0x00, &identity.vendor.to_le_bytes());
        put(&mut space.bytes, 0x02, &identity.device.to_le_bytes());
        // Status: there is a capability list.
        put(&mut space.bytes, 0x06, &0x0010_u16.to_le_bytes());
        put(&mut space.bytes, 0x08, &[identity.revision]);
        put(&mut space.bytes, 0x09, &identity.class.to_le_bytes()[..3]);
        put(
            &mut space.bytes,
            0x2c,
            &identity.subsystem_vendor.to_le_bytes(),
        );
        put(&mut space.bytes, 0x2e, &identity.subsystem.to_le_bytes());
        // Command: memory space, bus master, parity and SERR response, INTx disable.
        put(&mut space.writable, 0x04, &0x0546_u16.to_le_bytes());
        put(&mut space.writable, 0x0c, &[0xff]);
        put(&mut space.writable, 0x3c, &[0xff]);
        space
    }

    /// A 64-bit memory BAR of `len` bytes, a power of two; its low bits say so.
    pub(super) fn add_bar(&mut self, index: usize, len: usize, prefetchable: bool) {
        let offset = 0x10 + 4 * index;
        let flags: u32 = if prefetchable { 0xc } else { 0x4 };
        put(&mut self.bytes, offset, &flags.to_le_bytes());
        let mask = !(len as u64 - 1);
        put(&mut self.writable, offset, &mask.to_le_bytes());
    }

    /// Lets the next capability lie at `offset`, for devices whose drivers know the place.
    pub(super) const fn continue_at(&mut self, offset: usize) {
        self.next = offset;
    }

    /// Adds a capability at the end of the list; returns its offset.
    pub(super) fn add_capability(&mut self, capability: &Capability) -> usize {
        let at = self.next;
        let pointer = u8::try_from(at).unwrap_or(0);
        put(&mut self.bytes, self.last_pointer, &[pointer]);
        put(&mut self.bytes, at, &[capability.id, 0]);
        put(&mut self.bytes, at + 2, &capability.body);
        put(&mut self.writable, at + 2, &capability.writable);
        self.last_pointer = at + 1;
        self.next = (at + 2 + capability.body.len()).next_multiple_of(4);
        at
    }

    /// Adds an extended capability at `at`; the first one lies at 0x100 (7.6.2).
    pub(super) fn add_extended(&mut self, at: usize, capability: &Extended) {
        if let Some(last) = self.last_extended {
            let next = u16::try_from(at << 4).unwrap_or(0);
            let low = self.bytes[last + 2] & 0x0f;
            put(&mut self.bytes, last + 2, &next.to_le_bytes());
            self.bytes[last + 2] |= low;
        }
        put(&mut self.bytes, at, &capability.id.to_le_bytes());
        put(&mut self.bytes, at + 2, &[capability.version & 0x0f]);
        put(&mut self.bytes, at + 4, &capability.body);
        put(&mut self.writable, at + 4, &capability.writable);
        self.last_extended = Some(at);
    }

    /// Takes the bytes as they are now for those after a reset.
    pub(super) fn seal(&mut self) {
        self.initial = self.bytes.clone();
    }

    pub(super) fn reset(&mut self) {
        self.bytes.clone_from(&self.initial);
    }

    pub(crate) fn read(&self, offset: usize, width: usize) -> u64 {
        let mut value = [0; 8];
        value[..width].copy_from_slice(&self.bytes[offset..offset + width]);
        u64::from_le_bytes(value)
    }

    pub(crate) fn read_bytes<const N: usize>(&self, offset: usize) -> [u8; N] {
        array_at(&self.bytes, offset)
    }

    pub(crate) fn read16(&self, offset: usize) -> u16 {
        u16_at(&self.bytes, offset)
    }

    pub(crate) fn write(&mut self, offset: usize, width: usize, value: u64) {
        for (n, new) in value.to_le_bytes()[..width].iter().enumerate() {
            let mask = self.writable[offset + n];
            let byte = &mut self.bytes[offset + n];
            *byte = (*byte & !mask) | (new & mask);
        }
    }
}
