//! Event descriptors: how interrupts reach the client.

use std::os::fd::OwnedFd;

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::{Errno, write},
};

use super::wire::{IrqInfo, IrqSet};

/// The kinds of interrupt that a PCI device has in `linux/vfio.h`: lines, MSI, MSI-X, errors, requests.
pub(super) const KINDS: u32 = 5;

/// The index of MSI-X among them.
const MSIX: u32 = 2;

/// `VFIO_IRQ_INFO_EVENTFD`, without `VFIO_IRQ_INFO_NORESIZE`: vectors are added while others are in use. A client that had
/// to start anew for each would lose what is signalled meanwhile.
const INFO_FLAGS: u32 = 1;

/// The MSI-X vectors of the device.
#[derive(Debug)]
pub(super) struct Vectors(Vec<Option<OwnedFd>>);

impl Vectors {
    pub(super) fn new(count: u16) -> Self {
        Self((0..count).map(|_| None).collect())
    }

    /// What there is of kind `index`: only MSI-X vectors.
    pub(super) fn info(&self, index: u32) -> IrqInfo {
        let count = if index == MSIX { self.0.len() } else { 0 };
        IrqInfo {
            argsz: 16,
            flags: if index == MSIX { INFO_FLAGS } else { 0 },
            index,
            count: u32::try_from(count).unwrap_or(0),
        }
    }

    /// Does what `set` says.
    pub(super) fn set(&mut self, set: IrqSet, files: Vec<OwnedFd>) -> Result<(), Errno> {
        let (first, count) = (set.start as usize, set.count as usize);
        let vectors = if set.index == MSIX {
            &mut self.0[..]
        } else {
            &mut []
        };
        let end = first.checked_add(count).ok_or(Errno::INVAL)?;
        let some = vectors.get_mut(first..end).ok_or(Errno::INVAL)?;
        let data = set.flags & IrqSet::DATA;
        match (set.flags & IrqSet::ACTION, data) {
            (IrqSet::ACTION_TRIGGER, IrqSet::DATA_NONE) if count == 0 => {
                self.0.fill_with(|| None);
                Ok(())
            }
            (IrqSet::ACTION_TRIGGER, IrqSet::DATA_EVENTFD) if files.is_empty() => {
                some.fill_with(|| None);
                Ok(())
            }
            (IrqSet::ACTION_TRIGGER, IrqSet::DATA_EVENTFD) if files.len() == count => {
                files.iter().try_for_each(make_non_blocking)?;
                for (vector, file) in some.iter_mut().zip(files) {
                    *vector = Some(file);
                }
                Ok(())
            }
            (IrqSet::ACTION_TRIGGER, IrqSet::DATA_NONE) => some.iter().try_for_each(signal),
            // The client keeps the MSI-X table, and with it the masks.
            (IrqSet::ACTION_MASK | IrqSet::ACTION_UNMASK, IrqSet::DATA_NONE) => Ok(()),
            _ => Err(Errno::INVAL),
        }
    }

    /// Signals `vector`; one without a descriptor, or that does not exist, is not signalled.
    pub(super) fn signal(&self, vector: u16) -> Result<(), Errno> {
        self.0.get(usize::from(vector)).map_or(Ok(()), signal)
    }
}

/// A client may pass anything: a write to it shall fail rather than wait.
fn make_non_blocking(file: &OwnedFd) -> Result<(), Errno> {
    let flags = fcntl_getfl(file)?;
    fcntl_setfl(file, flags | OFlags::NONBLOCK)
}

fn signal(vector: &Option<OwnedFd>) -> Result<(), Errno> {
    let Some(file) = vector else {
        return Ok(());
    };
    match write(file, &1_u64.to_ne_bytes()) {
        // A counter that is full is one that the client has yet to see.
        Ok(_) | Err(Errno::AGAIN) => Ok(()),
        Err(error) => Err(error),
    }
}
