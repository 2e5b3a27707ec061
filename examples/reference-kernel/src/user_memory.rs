//! Access to a process's memory, through the kernel's own map of it: no address that a process names is ever
//! dereferenced.
#![expect(unsafe_code, reason = "copies from a process's frames")]

use crate::arch::native;
use crate::arch::paging::{self, Flags, Tables, USER};

/// The memory of a process, as the core that runs it may read it.
///
/// Core 0 may change the tables meanwhile. It frees what it unmapped only after this core has flushed its
/// translations, which it does when it is not in a system call: a page found here stays what it is until the copy is
/// done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UserMemory(Tables);

/// The process may not access all of a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BadAddress;

impl UserMemory {
    /// The memory that `tables` map.
    pub(crate) const fn new(tables: Tables) -> Self {
        Self(tables)
    }

    /// Copies from the process; `to` may be written in part if the range is bad.
    pub(crate) fn read(self, from: u64, to: &mut [u8]) -> Result<(), BadAddress> {
        let len = to.len();
        self.for_each_part(from, len, |part, range| {
            let to = &mut to[range];
            // SAFETY: `part` lies in a mapped frame for as many bytes; the process and devices may write it
            // meanwhile, so it is copied from without a reference.
            unsafe { core::ptr::copy_nonoverlapping(part, to.as_mut_ptr(), to.len()) };
        })
    }

    /// Calls `copy` for each part of the range that lies in one page: where it is mapped, and which bytes of the
    /// whole it is.
    fn for_each_part(
        self,
        start: u64,
        len: usize,
        mut copy: impl FnMut(*const u8, core::ops::Range<usize>),
    ) -> Result<(), BadAddress> {
        let end = start.checked_add(len as u64).ok_or(BadAddress)?;
        if start < USER.start || end > USER.end {
            return Err(BadAddress);
        }
        let mut at = start;
        while at < end {
            let page = self.0.lookup(at).ok_or(BadAddress)?;
            if !page.flags.contains(Flags::USER_ACCESSIBLE) {
                return Err(BadAddress);
            }
            let offset = at % page.size.bytes();
            let count = (page.size.bytes() - offset).min(end - at);
            let done = native(at - start);
            let part = paging::physical(page.frame).wrapping_add(native(offset));
            copy(part.cast_const(), done..done + native(count));
            at += count;
        }
        Ok(())
    }
}
