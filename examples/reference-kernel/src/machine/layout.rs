//! What the memory of a lease is made of.

use heapless::Vec;
use parakernel_core::control::LeaseSpec;
use parakernel_core::device::QueueKind;

use crate::address_space::Access;
use crate::arch::native;
use crate::device::Device;
use crate::memory::FRAME;

/// Most parts of a lease.
const PARTS_MAX: usize = 16;

/// What a part is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PartKind {
    /// The status page.
    Status,
    /// The submission page.
    Submission,
    /// What the process writes of the first side.
    FirstShadow,
    /// What the device reads of the first side; of a storage queue pair, its submission queue.
    FirstHardware,
    /// What the device writes of the first side, where that is apart; of a storage queue pair, its completion queue.
    FirstCompletion,
    /// The kernel's own notes.
    Notes,
}

/// A part of a lease's memory: whole pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    /// What it is for.
    pub(crate) kind: PartKind,
    /// Where it begins, in bytes.
    pub(crate) offset: usize,
    /// How long it is, in bytes.
    pub(crate) len: usize,
    /// What the process may do with it, if it sees it at all.
    pub(crate) access: Option<Access>,
}

impl Part {
    /// Whether the process can write it, so that it goes when the lease is fenced.
    pub(crate) const fn is_writable(&self) -> bool {
        matches!(self.access, Some(Access::ReadWrite))
    }
}

/// All parts of a lease, one behind the other. The process sees them at the same distances.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout(Vec<Part, PARTS_MAX>);

impl Layout {
    /// The parts of a lease on `device`.
    pub(crate) fn of(device: &Device, spec: &LeaseSpec) -> Self {
        let mut layout = Self::default();
        layout.push(PartKind::Status, 1, Some(Access::Read));
        layout.push(PartKind::Submission, 1, Some(Access::ReadWrite));
        match device.kind() {
            QueueKind::Block => layout.push_block(native(spec.first_ring.entries().into())),
            QueueKind::Network => {}
        }
        layout
    }

    fn push_block(&mut self, entries: usize) {
        self.push(PartKind::FirstShadow, entries * 64, Some(Access::ReadWrite));
        self.push(PartKind::FirstHardware, entries * 64, None);
        self.push(PartKind::FirstCompletion, entries * 16, Some(Access::Read));
        self.push(PartKind::Notes, entries, None);
    }

    fn push(&mut self, kind: PartKind, bytes: usize, access: Option<Access>) {
        let part = Part {
            kind,
            offset: self.len(),
            len: bytes.next_multiple_of(native(FRAME)),
            access,
        };
        debug_assert!(!self.0.is_full(), "a lease has few parts");
        // The assertion says why it is not full.
        let _full = self.0.push(part).is_err();
    }

    fn len(&self) -> usize {
        self.0.last().map_or(0, |part| part.offset + part.len)
    }

    /// How many frames the parts take.
    pub(crate) fn frames(&self) -> usize {
        self.len() / native(FRAME)
    }

    /// The parts.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &Part> {
        self.0.iter()
    }

    /// The part that is for `kind`.
    pub(crate) fn part(&self, kind: PartKind) -> Option<&Part> {
        self.0.iter().find(|part| part.kind == kind)
    }
}
