//! An NVMe controller: the driver's control half, as the control plane works it.

use core::task::Poll;
use core::time::Duration;

use parakernel_core::abi::BlockMap;
use parakernel_core::access::Isolation;
use parakernel_core::address::NodeId;
use parakernel_core::device::{Limits, Operation, QueueIndex, QueueKind, QueueSpec, Waits};
use parakernel_core::error::{Error, ErrorKind};
use parakernel_core::memory::DmaBlock;
use parakernel_core::mmio::MappedRegisters;
use parakernel_core::ring::RingSize;
use parakernel_core::time::Instant;
use parakernel_core::volume::Volume;
use parakernel_nvme::admin::{AdminMemory, AdminSlot};
use parakernel_nvme::checked::{CheckedMemory, CheckedQueue};
use parakernel_nvme::controller::{
    Config, Controller, ControllerMemory, PairMemory, PairSlot, PairState, QueueId,
};
use parakernel_nvme::error::AdminError;
use parakernel_nvme::namespace::{NamespaceId, NamespaceSlot};
use parakernel_nvme::validate::Rules;

use crate::arch::native;
use crate::boot::Kernel;
use crate::memory::{FRAME, Owner};
use crate::pci::Function;
use crate::pci::msix::MsiX;
use crate::queues::block::{BlockQueue, Doorbell};
use crate::{capacity, devices, print, time};

/// Class code of an NVMe controller: mass storage, non-volatile memory, NVM Express.
const CLASS: u32 = 0x01_08_02;
/// Namespaces that there is room for; the log says how many more there are.
const NAMESPACES: usize = 1024;
const ADMIN_SLOTS: usize = 64;
/// The shortest rings offered: one entry is always left free.
const MIN_RING: u32 = 2;

/// Memory of a pair until it is made.
type Rings = [DmaBlock<'static>; 2];

/// A queue that processes may claim.
#[derive(Debug, Default)]
struct Place {
    /// Its memory, until the controller has it.
    rings: Option<Rings>,
    /// The entry of the interrupt table that its completions raise.
    vector: Option<u16>,
    /// The kernel's end, once its process is fenced.
    fenced: Option<BlockQueue>,
}

/// A controller.
#[derive(Debug)]
pub(crate) struct NvmeDevice {
    controller: Controller<'static, &'static MappedRegisters>,
    function: &'static Function,
    registers: &'static MappedRegisters,
    msix: Option<MsiX>,
    places: &'static mut [Place],
    node: NodeId,
    /// For the self-test: no queue stops.
    refuses_to_stop: bool,
}

/// What a queue on a volume is made with.
pub(crate) struct Setting {
    /// What its commands are checked against.
    pub(crate) rules: Rules,
    /// What its process is to know.
    pub(crate) map: BlockMap,
}

impl NvmeDevice {
    /// Whether `function` is such a device.
    pub(crate) fn is(function: &Function) -> bool {
        function.identity.class == CLASS
    }

    /// Brings the controller up; `None` where that fails, which the log says why.
    pub(crate) fn bring_up(kernel: &mut Kernel, function: &'static Function) -> Option<Self> {
        let address = function.address;
        let registers = function.map_bar(0, &mut kernel.tables, &mut kernel.frames, &kernel.memory);
        let registers = registers
            .map_err(|error| print!("nvme {address}: {error:?}\n"))
            .ok()?;
        let node = kernel.node_of(function);
        let registers: &'static MappedRegisters = kernel.frames.place(node, registers)?;
        devices::allow(function)
            .map_err(|error| print!("nvme {address}: {error:?}\n"))
            .ok()?;
        let msix = MsiX::of(kernel, function, (0, registers));
        let most = Controller::most_pairs(registers);
        let books = size_of::<PairSlot<'_>>() + size_of::<Place>();
        let most = capacity::affordable(&kernel.frames, &address, (most, books));
        let memory = capacity::told(&address, memory(kernel, node, most))?;
        let controller =
            Controller::bring_up(registers, memory, Config::default(), &mut time::Spin)
                .map_err(|error| print!("nvme {address}: {error}\n"))
                .ok()?;
        let pairs = controller.limits().pairs;
        print!("nvme {address}: {pairs} queue pairs\n");
        let left_out = controller.namespaces_left_out();
        if left_out > 0 {
            print!("nvme {address}: {left_out} namespaces more than there is room for\n");
        }
        let frames = &mut kernel.frames;
        let places = frames.place_with(node, native(pairs.into()), Place::default);
        let places = capacity::told(&address, places)?;
        Some(Self {
            controller,
            function,
            registers,
            msix,
            places,
            node,
            refuses_to_stop: false,
        })
    }

    /// For the self-test: has no queue stop any more, as a controller that does not answer, or stop again.
    pub(crate) const fn refuse_to_stop(&mut self, refuses: bool) {
        self.refuses_to_stop = refuses;
    }

    /// The node that it hangs on.
    pub(crate) const fn node(&self) -> NodeId {
        self.node
    }

    /// Its interrupt table.
    pub(crate) const fn interrupts(&mut self) -> Option<&mut MsiX> {
        self.msix.as_mut()
    }

    /// Keeps the memory of a queue until it is made.
    pub(crate) fn prepare(&mut self, queue: QueueIndex, rings: Rings, vector: Option<u16>) {
        if let Some(place) = self.places.get_mut(queue.index()) {
            *place = Place {
                rings: Some(rings),
                vector,
                fenced: None,
            };
        }
    }

    /// What a queue that is confined to `volume` is made with; `None` where there is no such namespace.
    pub(crate) fn setting(&self, queue: QueueIndex, volume: &Volume) -> Option<Setting> {
        let namespace = self
            .controller
            .namespace(NamespaceId::new(volume.namespace)?)?;
        let data = namespace.data.ok()?;
        let rules = Rules::new(volume, &data, self.controller.limits().max_transfer)?;
        Some(Setting {
            rules,
            map: BlockMap {
                queue: id(queue)?.as_u16(),
                block_shift: data.block_shift,
                namespace: volume.namespace,
                namespace_blocks: data.blocks,
                first: volume.start.as_u64(),
                blocks: volume.blocks,
                max_transfer: rules.max_transfer(),
            },
        })
    }

    /// The kernel's end of a queue that was made.
    pub(crate) fn checked(
        &self,
        queue: QueueIndex,
        memory: CheckedMemory<'static>,
        rules: Rules,
    ) -> Option<CheckedQueue<'static, Doorbell>> {
        let pair = self.controller.pair(id(queue)?)?;
        let doorbells = [
            pair.tail_doorbell(self.registers),
            pair.head_doorbell(self.registers),
        ];
        CheckedQueue::new(pair.queue, pair.size, memory, rules, doorbells)
    }

    /// Takes over the kernel's end of a queue whose process is fenced, to let what is in flight finish.
    pub(crate) fn take_over(&mut self, queue: QueueIndex, pair: BlockQueue) {
        if let Some(place) = self.places.get_mut(queue.index()) {
            place.fenced = Some(pair);
        }
    }

    /// Looks at the controller's events; whether it has failed.
    pub(crate) fn turn(&mut self, now: Instant) -> bool {
        match self.controller.poll_event(now) {
            Ok(Some(event)) => {
                print!("nvme: event {event:?}\n");
                false
            }
            // A reset ended what asked for events. That is no failure, least of all one that wants another reset.
            Ok(None) | Err(AdminError::Reset) => false,
            Err(error) => {
                print!("nvme: {error}\n");
                true
            }
        }
    }

    pub(super) fn limits(&self) -> Limits {
        let limits = self.controller.limits();
        // Entry 0 is for the admin queue, which is polled.
        let vectors = self.msix.as_ref().map_or(0, |msix| msix.len() - 1);
        let waits = Config::default().admin_timeout;
        Limits {
            kind: QueueKind::Block,
            queues: limits.pairs.into(),
            vectors: u32::try_from(vectors).unwrap_or(u32::MAX),
            min_ring: RingSize::at_most(MIN_RING).unwrap_or(RingSize::ONE),
            max_ring: RingSize::at_most(limits.entries).unwrap_or(RingSize::ONE),
            doorbell_stride: u32::try_from(limits.doorbell_stride).unwrap_or(0),
            // Commands carry addresses, namespace and blocks, and doorbells share a page.
            first_isolation: Isolation::empty(),
            second_isolation: Isolation::empty(),
            rules: 0,
            node: self.node,
            waits: Waits {
                claim: 4 * waits,
                drain: waits,
                stop: 4 * waits,
                steer: Duration::ZERO,
                reset: Duration::from_secs(60),
            },
        }
    }

    pub(super) fn begin(&mut self, operation: Operation, now: Instant) -> Result<(), ErrorKind> {
        match operation {
            Operation::Claim(spec) => self.begin_claim(&spec, now),
            Operation::Drain(_) | Operation::Flush(_) => Ok(()),
            Operation::Stop(_) if self.refuses_to_stop => Err(ErrorKind::Timeout),
            Operation::Stop(queue) => {
                let queue = id(queue).ok_or(ErrorKind::InvalidArgument)?;
                self.controller
                    .begin_delete(queue, now)
                    .map_err(|error| error.kind())
            }
            Operation::Reset => {
                self.controller.begin_reset(now);
                Ok(())
            }
            Operation::Silence => {
                devices::forbid(self.function);
                Ok(())
            }
        }
    }

    pub(super) fn poll(
        &mut self,
        operation: Operation,
        now: Instant,
    ) -> Poll<Result<(), ErrorKind>> {
        match operation {
            Operation::Claim(spec) => self.poll_claim(spec.queue, now),
            Operation::Drain(queue) => self.poll_drain(queue),
            Operation::Stop(queue) => self.poll_stop(queue, now),
            // Reading a register comes after all that the controller wrote before it answered.
            Operation::Flush(_) => {
                Poll::Ready(self.controller.check().map_err(|error| error.kind()))
            }
            Operation::Silence => Poll::Ready(Ok(())),
            Operation::Reset => self.poll_reset(now),
        }
    }

    /// What the kernel had of pairs that were fenced goes before their memory is cleared and used anew.
    fn poll_reset(&mut self, now: Instant) -> Poll<Result<(), ErrorKind>> {
        let reset = self.controller.poll_reset(now);
        if reset.is_ready() {
            self.places.iter_mut().for_each(|place| place.fenced = None);
        }
        reset.map_err(|error| error.kind())
    }

    fn begin_claim(&mut self, spec: &QueueSpec, now: Instant) -> Result<(), ErrorKind> {
        let queue = id(spec.queue).ok_or(ErrorKind::InvalidArgument)?;
        let place = self.places.get_mut(spec.queue.index());
        let place = place.ok_or(ErrorKind::InvalidArgument)?;
        let [submission, completion] = place.rings.take().ok_or(ErrorKind::InvalidArgument)?;
        if spec.first_ring != spec.second_ring {
            return Err(ErrorKind::Unsupported);
        }
        // A pair that a reset took leaves its memory, which is the lease's own, behind.
        let _none_before = self.controller.take_back(queue).is_err();
        let memory = PairMemory {
            submission,
            completion,
            size: spec.first_ring,
            vector: place.vector,
        };
        self.controller
            .begin_create(queue, memory, now)
            .map_err(|(error, _)| error.kind())
    }

    fn poll_claim(&mut self, queue: QueueIndex, now: Instant) -> Poll<Result<(), ErrorKind>> {
        let Some(queue) = id(queue) else {
            return Poll::Ready(Err(ErrorKind::InvalidArgument));
        };
        self.controller
            .poll_pair(queue, now)
            .map(|state| match state {
                PairState::Live => Ok(()),
                PairState::Gone(error) => {
                    Err(error.map_or(ErrorKind::Protocol, |error| error.kind()))
                }
                PairState::Quarantined(error) => Err(error.kind()),
                PairState::Lost | _ => Err(ErrorKind::Device),
            })
    }

    /// Lets commands in flight end. What the process published and the kernel did not take over is nobody's.
    fn poll_drain(&mut self, queue: QueueIndex) -> Poll<Result<(), ErrorKind>> {
        let place = self.places.get_mut(queue.index());
        let Some(pair) = place.and_then(|place| place.fenced.as_mut()) else {
            return Poll::Ready(Ok(()));
        };
        match pair.drain() {
            Ok(0) => Poll::Ready(Ok(())),
            Ok(_) => Poll::Pending,
            Err(_) => Poll::Ready(Err(ErrorKind::Protocol)),
        }
    }

    fn poll_stop(&mut self, index: QueueIndex, now: Instant) -> Poll<Result<(), ErrorKind>> {
        let Some(queue) = id(index) else {
            return Poll::Ready(Err(ErrorKind::InvalidArgument));
        };
        let state = self.controller.poll_pair(queue, now);
        state.map(|state| match state {
            PairState::Gone(_) | PairState::Lost => {
                // The memory is the lease's, which frees it; here only the name is given up. Polled again, it is gone.
                let _was_taken_back = self.controller.take_back(queue).is_err();
                if let Some(place) = self.places.get_mut(index.index()) {
                    *place = Place::default();
                }
                Ok(())
            }
            PairState::Quarantined(error) => Err(error.kind()),
            PairState::Live | _ => Err(ErrorKind::Device),
        })
    }
}

/// The controller's name of a queue: 0 is the admin queue.
fn id(queue: QueueIndex) -> Option<QueueId> {
    QueueId::new(u16::try_from(queue.as_u32().checked_add(1)?).ok()?)
}

/// Memory for the driver's tables, so many pairs among them, and the admin queue.
fn memory(kernel: &mut Kernel, node: NodeId, pairs: usize) -> Option<ControllerMemory<'static>> {
    let frames = &mut kernel.frames;
    let mut page = || frames.dma_block(node, native(FRAME), Owner::KERNEL);
    let (submission, completion, data) = (page()?, page()?, page()?);
    Some(ControllerMemory {
        admin: AdminMemory {
            submission,
            completion,
            data,
            slots: frames.place_slice(node, ADMIN_SLOTS, AdminSlot::EMPTY)?,
        },
        pairs: frames.place_with(node, pairs, PairSlot::default)?,
        namespaces: frames.place_with(node, NAMESPACES, || NamespaceSlot::None)?,
        shadow: None,
    })
}
