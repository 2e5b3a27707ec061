//! The regions of a PCI device in `linux/vfio.h`: six BARs, the expansion ROM, configuration space, VGA.

use parakernel_core::mmio::{Registers, Width};

use crate::pci::{Bar, ConfigSpace, Endpoint};

/// How many there are.
pub(super) const COUNT: u32 = 9;

/// The index of configuration space among them.
const CONFIG: u32 = 7;

#[derive(Debug)]
pub(super) struct Regions {
    bars: [Bar; Endpoint::BARS],
    config: ConfigSpace,
}

impl Regions {
    pub(super) fn new(endpoint: &Endpoint) -> Self {
        Self {
            bars: core::array::from_fn(|index| endpoint.bar(index)),
            config: endpoint.config_space(),
        }
    }

    /// The length of region `index` in bytes, 0 where the device has none.
    pub(super) fn len(&self, index: u32) -> usize {
        self.registers(index)
            .map_or(0, |(registers, _)| registers.len())
    }

    /// Reads `bytes` at `offset` of region `index`, which must lie inside.
    pub(super) fn read(&self, index: u32, offset: u64, bytes: &mut [u8]) -> Option<()> {
        let (registers, widest) = self.registers(index)?;
        let mut at = inside(registers, offset, bytes.len())?;
        let mut rest = bytes;
        while let Some(width) = natural(at, rest.len(), widest) {
            let (part, after) = rest.split_at_mut(width.bytes());
            part.copy_from_slice(&registers.read(at, width).to_le_bytes()[..width.bytes()]);
            at += width.bytes();
            rest = after;
        }
        Some(())
    }

    /// Writes `bytes` at `offset` of region `index`, which must lie inside.
    pub(super) fn write(&self, index: u32, offset: u64, bytes: &[u8]) -> Option<()> {
        let (registers, widest) = self.registers(index)?;
        let mut at = inside(registers, offset, bytes.len())?;
        let mut rest = bytes;
        while let Some(width) = natural(at, rest.len(), widest) {
            let (part, after) = rest.split_at(width.bytes());
            let mut value = [0; 8];
            value[..part.len()].copy_from_slice(part);
            registers.write(at, width, u64::from_le_bytes(value));
            at += width.bytes();
            rest = after;
        }
        Some(())
    }

    /// The registers behind region `index`, and their widest access.
    fn registers(&self, index: u32) -> Option<(&dyn Registers, Width)> {
        if index == CONFIG {
            return Some((&self.config, Width::U32));
        }
        let bar = self.bars.get(usize::try_from(index).ok()?)?;
        Some((bar, Width::U64))
    }
}

/// `offset` as an index, if `len` bytes, at least one, lie inside from there on.
fn inside(registers: &dyn Registers, offset: u64, len: usize) -> Option<usize> {
    let offset = usize::try_from(offset).ok()?;
    let end = offset.checked_add(len)?;
    (len > 0 && end <= registers.len()).then_some(offset)
}

/// The widest aligned access at `offset` that `left` bytes allow; `None` at their end.
fn natural(offset: usize, left: usize, widest: Width) -> Option<Width> {
    [Width::U64, Width::U32, Width::U16, Width::U8]
        .into_iter()
        .find(|width| {
            let bytes = width.bytes();
            bytes <= left && bytes <= widest.bytes() && offset.is_multiple_of(bytes)
        })
}
