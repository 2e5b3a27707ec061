//! The SR-IOV capability: what makes virtual functions come and go (82599, 9.4.4; SR-IOV 1.1, 3.3).

use super::{
    device::Device,
    virtual_function::{LEN, MSIX_LEN},
};
use crate::{
    bytes::put,
    pci::{Extended, Presence},
};

/// Where it lies in configuration space.
pub(super) const AT: usize = 0x160;

/// The first virtual function's number, after the physical one's, and from one to the next: with Alternative Routing-ID.
pub(super) const OFFSET: u16 = 0x80;
pub(super) const STRIDE: u16 = 2;

/// Control and the number of virtual functions.
const CONTROL: usize = AT + 0x08;
const NUMBER: usize = AT + 0x10;

/// Control: virtual functions are there; their registers answer.
const ENABLE: u16 = 1;
const MEMORY_SPACE: u16 = 1 << 3;

/// Which virtual functions are there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Sriov {
    enabled: usize,
    has_memory_space: bool,
    /// The machine hides the capability, and keeps all of them on.
    kept: bool,
}

impl Sriov {
    /// How many virtual functions are there.
    pub(super) const fn enabled(self) -> usize {
        self.enabled
    }
}

/// The capability of a card with `total` virtual functions.
pub(super) fn capability(total: u8) -> Extended {
    /// Pages of 4 KiB, 8, 64, 256 KiB, 1 and 4 MiB.
    const PAGE_SIZES: u32 = 0x553;
    /// A base address register: in memory, of 64 bits.
    const WIDE: u32 = 0x4;

    let mut body = vec![0; 0x3c];
    let mut writable = vec![0; 0x3c];
    let mut field = |at: usize, bytes: &[u8], mask: &[u8]| {
        put(&mut body, at - 4, bytes);
        put(&mut writable, at - 4, mask);
    };
    let total = u16::from(total).to_le_bytes();
    field(
        0x08,
        &[0, 0],
        &(ENABLE | MEMORY_SPACE | 1 << 4).to_le_bytes(),
    );
    field(0x0c, &total, &[]);
    field(0x0e, &total, &[]);
    field(0x10, &[0, 0], &[0xff, 0]);
    field(0x14, &OFFSET.to_le_bytes(), &[]);
    field(0x16, &STRIDE.to_le_bytes(), &[]);
    field(0x1a, &0x10ed_u16.to_le_bytes(), &[]);
    field(0x1c, &PAGE_SIZES.to_le_bytes(), &[]);
    field(0x20, &1_u32.to_le_bytes(), &PAGE_SIZES.to_le_bytes());
    // Base address registers 0 and 3.
    for (at, len) in [(0x24, LEN), (0x30, MSIX_LEN)] {
        field(at, &WIDE.to_le_bytes(), &(!(len as u64 - 1)).to_le_bytes());
    }
    Extended {
        id: 0x0010,
        version: 1,
        body,
        writable,
    }
}

impl Device {
    /// Something was written to configuration space.
    pub(super) fn wrote_capability(&mut self, offset: usize, width: usize) {
        let touches = |at: usize| offset < at + 2 && at < offset + width;
        if self.virtuals.is_empty() || self.sriov.kept || !touches(CONTROL) && !touches(NUMBER) {
            return;
        }
        let config = self.function.config();
        let (control, number) = (config.read16(CONTROL), config.read16(NUMBER));
        let wanted = if control & ENABLE == 0 {
            0
        } else {
            usize::from(number)
        };
        if touches(NUMBER) && self.sriov.enabled > 0 && wanted != self.sriov.enabled {
            let text = format_args!("NumVFs set to {number} while VF Enable is set");
            self.violation("SR-IOV 1.1, 3.3.7", text);
        }
        if wanted > self.virtuals.len() {
            let text = format_args!("NumVFs is {number}, TotalVFs {}", self.virtuals.len());
            self.violation("SR-IOV 1.1, 3.3.7", text);
        }
        self.set_virtuals(Sriov {
            enabled: wanted.min(self.virtuals.len()),
            has_memory_space: control & MEMORY_SPACE != 0,
            ..self.sriov
        });
    }

    /// The capability is as at first.
    pub(super) fn end_virtuals(&mut self) {
        self.set_virtuals(Sriov {
            enabled: 0,
            has_memory_space: false,
            ..self.sriov
        });
    }

    /// All virtual functions are there from now on.
    pub(super) fn keep_virtuals(&mut self) {
        self.set_virtuals(Sriov {
            kept: true,
            ..self.sriov
        });
    }

    fn set_virtuals(&mut self, mut to: Sriov) {
        if to.kept {
            to.enabled = self.virtuals.len();
            to.has_memory_space = true;
        }
        for n in 0..self.virtuals.len() {
            let presence = match (n < to.enabled, to.has_memory_space) {
                (false, _) => Presence::Absent,
                (true, false) => Presence::Configurable,
                (true, true) => Presence::Whole,
            };
            if presence == Presence::Absent && n < self.sriov.enabled {
                self.reset_virtual(n);
            }
            self.virtuals[n].port.set_presence(presence);
        }
        self.sriov = to;
    }
}
