//! The queues of the process on a core: the part of the kernel that is on the data path.
//!
//! The process's core serves them in its system calls; core 0 puts leases in and takes them out. [`Gate`] keeps the two apart.

use core::fmt;
use core::sync::atomic::Ordering;

use parakernel_core::abi::{ALL_LEASES, CallError, LeaseState, StatusPage, SubmissionPage};
use parakernel_core::access::AccessMode;
use parakernel_core::address::{Iova, NodeId};
use parakernel_core::device::DeviceId;
use parakernel_core::handle::{LeaseId, ProcessId, Slot};
use parakernel_core::memory::{ExtentSlot, PageSlot, RegionStorage, RegionTable};
use parakernel_core::validate::Violation;

use crate::gate::Gate;
use crate::memory::Frames;
use crate::report::Counters;

pub(crate) mod block;
pub(crate) mod network;
pub(crate) mod software;

use block::BlockQueue;
use network::NetworkQueue;
use software::VirtualQueue;

/// Where memory of processes begins in their I/O address space, and, since both have the same numbers, in their address space.
pub(crate) const APERTURE: Iova = Iova::new(0x20_0000_0000);
/// How many pages of it a process may register.
const APERTURE_PAGES: usize = 32 * 1024;
/// Most regions of a process.
pub(crate) const REGIONS_MAX: usize = 64;
/// Most entries of a ring that one call takes over, so that calls are short.
const BUDGET: u32 = 256;

/// A lease, as the core sees it that serves it.
#[derive(Debug)]
pub(crate) struct Lease {
    /// Its name.
    pub(crate) id: LeaseId,
    /// Its device.
    pub(crate) device: DeviceId,
    /// What the process writes.
    pub(crate) submission: &'static SubmissionPage,
    /// What the kernel writes.
    pub(crate) status: &'static StatusPage,
    /// How the first and the second side are reached.
    pub(crate) modes: (AccessMode, AccessMode),
    /// Whether an interrupt says that something has arrived.
    pub(crate) has_vector: bool,
    /// Its queue.
    pub(crate) queue: Queue,
}

/// A queue in one of its forms. They lie in a table, where the largest decides.
#[expect(
    clippy::large_enum_variant,
    reason = "a table of leases is made once, for any of them"
)]
#[derive(Debug)]
pub(crate) enum Queue {
    /// A storage queue pair in `Checked` mode.
    Block(BlockQueue),
    /// A queue pair of a network card.
    Network(NetworkQueue),
    /// A queue pair that the kernel moves frames through.
    Virtual(VirtualQueue),
}

/// Why a queue is of no more use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The process did what it may not.
    Process(Violation),
    /// The device broke its protocol.
    Device,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(violation) => violation.fmt(f),
            Self::Device => f.write_str("the device broke its protocol"),
        }
    }
}

/// What stops a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    /// The call fails.
    Call(CallError),
    /// The process has broken a rule, and ends.
    Violation(Violation),
    /// A device has; it must be reset.
    Device(DeviceId),
}

/// The regions and leases of the process on one core.
#[derive(Debug)]
pub(crate) struct Queues {
    /// Where its devices may go.
    pub(crate) regions: RegionTable<'static>,
    leases: &'static mut [Option<Lease>],
    /// Whether something has arrived that no wait has returned for.
    has_news: bool,
    /// What earlier leases have done.
    past: Counters,
}

impl Queues {
    /// Room for the regions of the processes of a core on `node`, and for no lease yet; `None` where there is no memory.
    pub(crate) fn place(frames: &mut Frames, node: NodeId) -> Option<&'static Gate<Self>> {
        let storage = RegionStorage {
            regions: frames.place_with(node, REGIONS_MAX, || Slot::EMPTY)?,
            extents: frames.place_slice(node, REGIONS_MAX, ExtentSlot::EMPTY)?,
            pages: frames.place_slice(node, APERTURE_PAGES, PageSlot::EMPTY)?,
        };
        let nobody = ProcessId::new(u32::MAX, u32::MAX);
        let queues = Self {
            // Regions are made of frames, which are memory: no BAR and nothing of the firmware's is among them.
            regions: RegionTable::new(nobody, APERTURE, storage, &[]).ok()?,
            leases: &mut [],
            has_news: false,
            past: Counters::default(),
        };
        let gate: &'static Gate<Self> = frames.place(node, Gate::new(queues))?;
        Some(gate)
    }

    /// Makes room for `count` leases in memory of `node`, while there is none; whether there is that much. Room is never given
    /// back, so the one process that a core has in its lives takes it once.
    pub(crate) fn make_room(&mut self, frames: &mut Frames, node: NodeId, count: usize) -> bool {
        if self.leases.len() >= count {
            return true;
        }
        if self.leases.iter().any(Option::is_some) {
            return false;
        }
        match frames.place_with(node, count, || None) {
            Some(leases) => self.leases = leases,
            None => return false,
        }
        true
    }

    /// Begins with another process. The last one has no lease and no region any more.
    pub(crate) fn reassign(&mut self, process: ProcessId) {
        self.regions.reassign(process);
        self.has_news = false;
    }

    /// Puts a lease in; whether there was room.
    pub(crate) fn add(&mut self, lease: Lease) -> bool {
        match self.leases.iter_mut().find(|slot| slot.is_none()) {
            Some(slot) => {
                *slot = Some(lease);
                true
            }
            None => false,
        }
    }

    /// Takes a lease out: calls for it are refused from now on, and none is under way, since this core is behind the gate.
    pub(crate) fn take(&mut self, id: LeaseId) -> Option<Lease> {
        let is_it = |slot: &&mut Option<Lease>| slot.as_ref().is_some_and(|lease| lease.id == id);
        let mut lease = self.leases.iter_mut().find(is_it)?.take()?;
        // What the device has done and nobody has looked at counts too. A fault that shows only now concerns nobody: the lease
        // is over, and taking its queue back looks for itself.
        let _is_news = lease.look();
        lease.count(&mut self.past);
        Some(lease)
    }

    /// Tells the process that all its leases are ending. Until each is [taken](Self::take) it works.
    pub(crate) fn announce_end(&self) {
        for lease in self.leases.iter().flatten() {
            let state = LeaseState::Revoked as u32;
            lease.status.state.store(state, Ordering::Release);
        }
    }

    /// What the queues have done, those that are gone included.
    pub(crate) fn counters(&self) -> Counters {
        let mut counters = self.past;
        counters.queues = 0;
        for lease in self.leases.iter().flatten() {
            lease.count(&mut counters);
            counters.queues += 1;
        }
        counters
    }

    /// Notes that a rule was broken.
    pub(crate) const fn note_violation(&mut self) {
        self.past.violations += 1;
    }

    /// Whether a device has more of the process's entries than a ring of its holds.
    pub(crate) fn is_overfull(&self) -> bool {
        let mut leases = self.leases.iter().flatten();
        leases.any(|lease| match &lease.queue {
            Queue::Network(queue) => queue.is_overfull(),
            Queue::Block(_) | Queue::Virtual(_) => false,
        })
    }

    /// Takes over what the process has published for the lease named `handle`, or for all.
    pub(crate) fn submit(&mut self, handle: u64) -> Result<(), Stop> {
        if handle == ALL_LEASES {
            return self.submit_all();
        }
        let id = LeaseId::from_bits(handle);
        let mut leases = self.leases.iter_mut().flatten();
        let lease = leases.find(|lease| lease.id == id);
        let lease = lease.ok_or(Stop::Call(CallError::BadLease))?;
        let served = lease.serve(&self.regions);
        self.has_news |= settle(lease, served)?;
        Ok(())
    }

    fn submit_all(&mut self) -> Result<(), Stop> {
        for lease in self.leases.iter_mut().flatten() {
            let served = lease.serve(&self.regions);
            self.has_news |= settle(lease, served)?;
        }
        Ok(())
    }

    /// Whether something has arrived since this last said so.
    pub(crate) fn take_news(&mut self) -> Result<bool, Stop> {
        for lease in self.leases.iter_mut().flatten() {
            let looked = lease.look();
            self.has_news |= settle(lease, looked)?;
        }
        Ok(core::mem::take(&mut self.has_news))
    }

    /// Whether the process has published frames for core 0 to send.
    pub(crate) fn has_frames(&self) -> bool {
        self.leases
            .iter()
            .flatten()
            .any(|lease| match &lease.queue {
                Queue::Virtual(queue) => queue.has_frames(lease.submission),
                Queue::Block(_) | Queue::Network(_) => false,
            })
    }

    /// Copies a frame of `device` to the process; whether it has a virtual queue there.
    pub(crate) fn deliver(&mut self, device: DeviceId, frame: &[u8]) -> bool {
        let mut leases = self.leases.iter_mut().flatten();
        let queue = leases.find_map(|lease| match &mut lease.queue {
            Queue::Virtual(queue) if lease.device == device => Some((queue, lease.status)),
            Queue::Virtual(_) | Queue::Block(_) | Queue::Network(_) => None,
        });
        match queue {
            Some((queue, status)) => {
                queue.deliver(status, frame);
                true
            }
            None => false,
        }
    }

    /// Takes one frame that the process has published for `device` into `buffer`, which is as long as a frame may be; its
    /// length, or `None` where there is no frame.
    pub(crate) fn take_frame(
        &mut self,
        device: DeviceId,
        buffer: &mut [u8],
    ) -> Result<Option<usize>, Violation> {
        for lease in self.leases.iter_mut().flatten() {
            if let Queue::Virtual(queue) = &mut lease.queue
                && lease.device == device
                && let Some(len) = queue.take((lease.submission, lease.status), buffer)?
            {
                return Ok(Some(len));
            }
        }
        Ok(None)
    }

    /// Asks the devices to say when something arrives. Whether all of them can: else somebody has to look from time to time.
    pub(crate) fn arm(&mut self) -> bool {
        self.leases
            .iter_mut()
            .flatten()
            .map(Lease::arm)
            .fold(true, |all, is_armed| all & is_armed)
    }
}

/// Says whose fault it is.
fn settle(lease: &Lease, result: Result<bool, Fault>) -> Result<bool, Stop> {
    result.map_err(|fault| match fault {
        Fault::Process(violation) => Stop::Violation(violation),
        Fault::Device => Stop::Device(lease.device),
    })
}

impl Lease {
    /// Takes over what the process has published; whether something has arrived.
    fn serve(&mut self, regions: &RegionTable<'_>) -> Result<bool, Fault> {
        match &mut self.queue {
            Queue::Block(queue) => queue.serve(self.submission, self.status, regions, BUDGET),
            Queue::Network(queue) => queue.serve(self.submission, self.status, regions, BUDGET),
            Queue::Virtual(queue) => queue.serve(self.submission),
        }
    }

    /// Whether something has arrived.
    fn look(&mut self) -> Result<bool, Fault> {
        match &mut self.queue {
            Queue::Block(queue) => queue.look(),
            Queue::Network(queue) => queue.look(),
            Queue::Virtual(queue) => Ok(queue.look()),
        }
    }

    /// Asks for an interrupt when something arrives; whether there will be one.
    fn arm(&mut self) -> bool {
        match &mut self.queue {
            // Completions always raise their vector.
            Queue::Block(_) => self.has_vector,
            Queue::Network(queue) => {
                queue.arm();
                self.has_vector
            }
            // Core 0 wakes the process.
            Queue::Virtual(_) => true,
        }
    }

    fn count(&self, counters: &mut Counters) {
        match &self.queue {
            Queue::Block(queue) => {
                counters.ios += queue.completed();
                counters.mode = name(self.modes.0);
            }
            Queue::Network(queue) => {
                counters.rx_frames += queue.received;
                counters.rx_bytes += queue.received_bytes;
                counters.tx_frames += queue.sent;
                counters.tx_bytes += queue.sent_bytes();
                counters.mode = name(self.modes.1);
                counters.rx_mode = name(self.modes.0);
            }
            Queue::Virtual(queue) => {
                counters.rx_frames += queue.received;
                counters.rx_bytes += queue.received_bytes;
                counters.tx_frames += queue.sent;
                counters.tx_bytes += queue.sent_bytes;
                counters.dropped += queue.dropped;
                if counters.mode.is_empty() {
                    counters.mode = name(self.modes.1);
                    counters.rx_mode = name(self.modes.0);
                }
            }
        }
    }
}

/// A mode as the host knows it.
pub(crate) const fn name(mode: AccessMode) -> &'static str {
    match mode {
        AccessMode::Direct => "direct",
        AccessMode::Sealed => "sealed",
        AccessMode::Checked => "checked",
        AccessMode::Virtual => "virtual",
    }
}
