//! PCI functions: configuration space, base address registers, MSI-X, and what they gate.
//!
//! Written from the PCI Express Base Specification 4.0: the type 0 header (7.5.1), power management (7.5.2), the PCI
//! Express capability (7.5.3) and MSI-X (7.7.2). A function that may not master the bus makes no transfer and sends no
//! interrupt; one whose memory space is off, or that is not in D0, answers no register access.

mod config;
mod function;
mod msix;

use alloc::sync::Arc;
use core::fmt;
use std::sync::Mutex;

use parakernel_core::mmio::{Registers, Width};

pub(crate) use config::{Capability, Extended, Identity};
pub(crate) use function::{BarLayout, Function, Port, Presence};

use crate::sync::lock;

/// What a device model adds to its PCI function.
pub(crate) trait Model: Send {
    fn function(&mut self) -> &mut Function;

    /// Reads a register; the access is aligned and inside the BAR.
    fn read_bar(&mut self, bar: usize, offset: usize, width: Width) -> u64;

    /// Writes a register; the access is aligned and inside the BAR.
    fn write_bar(&mut self, bar: usize, offset: usize, width: Width, value: u64);

    /// Reads from a capability with a window into the device; `None` for an ordinary read.
    fn read_config(&mut self, _offset: usize, _width: Width) -> Option<u64> {
        None
    }

    /// A write to configuration space was done; for capabilities that the device itself must act upon.
    fn wrote_config(&mut self, _offset: usize, _width: Width) {}

    /// Function-level reset: everything but the identity back to its start.
    fn reset(&mut self);
}

/// The configuration space of a function. Clones are the same space.
#[derive(Clone)]
pub struct ConfigSpace(Arc<Mutex<dyn Model>>);

/// A whole PCI function, for a host that attaches any model alike. Clones are the same function.
#[derive(Clone)]
pub struct Endpoint(Arc<Mutex<dyn Model>>);

/// The registers behind a base address register. Clones are the same registers.
#[derive(Clone)]
pub struct Bar {
    model: Arc<Mutex<dyn Model>>,
    index: usize,
    len: usize,
}

impl ConfigSpace {
    pub(crate) fn new(model: Arc<Mutex<dyn Model>>) -> Self {
        Self(model)
    }

    /// Turns memory space and bus mastering on, as a kernel does before it hands a function to its driver.
    pub fn enable(&self) {
        self.write16(0x04, self.read16(0x04) | 0x0006);
    }
}

impl Endpoint {
    /// How many base address registers a function can have.
    pub const BARS: usize = 6;

    pub(crate) fn new(model: Arc<Mutex<dyn Model>>) -> Self {
        Self(model)
    }

    /// The function's configuration space.
    #[must_use]
    pub fn config_space(&self) -> ConfigSpace {
        ConfigSpace::new(self.0.clone())
    }

    /// The registers behind base address register `index`, less than [`BARS`](Self::BARS); empty where there is none.
    #[must_use]
    pub fn bar(&self, index: usize) -> Bar {
        Bar::new(self.0.clone(), index)
    }

    /// How many MSI-X vectors the function has.
    #[must_use]
    pub fn vectors(&self) -> u16 {
        lock(&self.0).function().vectors()
    }

    /// Function-level reset, as the machine does it around the driver.
    pub fn reset(&self) {
        let mut model = lock(&self.0);
        model.reset();
        model.function().reset();
    }

    /// Leaves the MSI-X table to a host that keeps one of its own: interrupts arrive by the number of their vector,
    /// with address and data 0, whatever the function's table says.
    pub fn leave_msix_table_to_host(&self) {
        lock(&self.0).function().leave_msix_table_to_host();
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").finish_non_exhaustive()
    }
}

impl Registers for ConfigSpace {
    fn read(&self, offset: usize, width: Width) -> u64 {
        let mut model = lock(&self.0);
        let function = model.function();
        if function.is_gone() || !is_access(offset, width, Width::U32, self.len()) {
            return ones(width);
        }
        if let Some(value) = model.read_config(offset, width) {
            return value;
        }
        let function = model.function();
        let truth = function.config().read(offset, width.bytes());
        function.faults().bend(truth, width)
    }

    fn write(&self, offset: usize, width: Width, value: u64) {
        let mut model = lock(&self.0);
        let function = model.function();
        if function.is_gone() || !is_access(offset, width, Width::U32, self.len()) {
            return;
        }
        let reset = function.write_config(offset, width.bytes(), value);
        if reset {
            model.reset();
            model.function().reset();
        } else {
            model.wrote_config(offset, width);
        }
    }

    fn len(&self) -> usize {
        4096
    }
}

impl Bar {
    pub(crate) fn new(model: Arc<Mutex<dyn Model>>, index: usize) -> Self {
        let len = lock(&model).function().bar_len(index);
        Self { model, index, len }
    }
}

impl Registers for Bar {
    fn read(&self, offset: usize, width: Width) -> u64 {
        let mut model = lock(&self.model);
        let function = model.function();
        if !function.answers("read", offset) || !is_access(offset, width, Width::U64, self.len) {
            return ones(width);
        }
        let truth = match function.read_msix(self.index, offset, width.bytes()) {
            Some(value) => value,
            None => model.read_bar(self.index, offset, width),
        };
        model.function().faults().bend(truth, width) & ones(width)
    }

    fn write(&self, offset: usize, width: Width, value: u64) {
        let mut model = lock(&self.model);
        let function = model.function();
        if !function.answers("written", offset) || !is_access(offset, width, Width::U64, self.len) {
            return;
        }
        let value = value & ones(width);
        if !function.write_msix(self.index, offset, width.bytes(), value) {
            model.write_bar(self.index, offset, width, value);
        }
    }

    fn len(&self) -> usize {
        self.len
    }
}

impl fmt::Debug for ConfigSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigSpace").finish_non_exhaustive()
    }
}

impl fmt::Debug for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bar")
            .field("index", &self.index)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// What a read gets that nobody answers.
pub(crate) const fn ones(width: Width) -> u64 {
    u64::MAX >> (64 - 8 * width.bytes())
}

fn is_access(offset: usize, width: Width, widest: Width, len: usize) -> bool {
    let bytes = width.bytes();
    bytes <= widest.bytes() && offset.is_multiple_of(bytes) && offset < len && len - offset >= bytes
}

#[cfg(test)]
mod tests;
