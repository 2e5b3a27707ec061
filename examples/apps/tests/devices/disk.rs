//! The disk of the machine: the driver's control half, and the kernel's ends of its queues.

use core::sync::atomic::Ordering::{Acquire, Release};
use core::task::Poll;
use core::time::Duration;

use parakernel_core::{
    abi::LeaseRing,
    access::Isolation,
    address::NodeId,
    control::LeaseSpec,
    device::{Limits, Operation, QueueIndex, QueueKind, Waits},
    error::{Error, ErrorKind},
    memory::{DmaBlock, RegionTable, SharedMemory},
    pci::Config as PciConfig,
    queue::Lba,
    ring::{Position, RingSize},
    time::Instant,
    volume::{Identity, Volume},
};
use parakernel_mock_hw::{
    Memory, World,
    memory::Lease,
    nvme::{Config as ModelConfig, Nvme},
    pci::Bar,
};
use parakernel_nvme::{
    admin::{AdminMemory, AdminSlot},
    checked::{CheckedMemory, CheckedQueue, Claim},
    controller::{Config, Controller, ControllerMemory, PairMemory, PairSlot, PairState, QueueId},
    doorbell::RegisterDoorbell,
    queue::{DataPointer, QueueConfig},
    validate::{BusyMark, Rules},
};

use super::machine::{Cutter, DISK, ENTRIES, Pages, REQUESTERS};

const KERNEL: Lease = Lease(0);
const QUEUES: u16 = 3;

/// The blocks that the process has.
pub(crate) const VOLUME: Volume = Volume {
    device: DISK,
    namespace: 1,
    start: Lba::new(100),
    blocks: 400,
    owner: Identity(1),
};

/// What a process is given of a pair.
#[derive(Clone, Copy)]
pub(crate) struct Given {
    pub(crate) shadow: SharedMemory<'static>,
    pub(crate) completion: SharedMemory<'static>,
    pub(crate) pages: Pages,
}

#[derive(Default)]
struct Place {
    rings: Option<[DmaBlock<'static>; 2]>,
    submission: Option<SharedMemory<'static>>,
    vector: Option<u16>,
    given: Option<Given>,
    end: Option<CheckedQueue<'static, RegisterDoorbell<'static, Bar>>>,
    is_fenced: bool,
}

pub(crate) struct DiskCard {
    pub(crate) model: Nvme,
    controller: Controller<'static, Bar>,
    places: [Place; QUEUES as usize],
    /// Gives up waiting for commands in flight at once, as when the time for it is over.
    pub(crate) is_hasty: bool,
}

impl DiskCard {
    pub(crate) fn new(world: &'static World, memory: &'static Memory) -> Self {
        let requester = REQUESTERS[DISK.index()];
        let config = ModelConfig {
            queue_pairs: QUEUES,
            ..ModelConfig::default()
        };
        let model = Nvme::new(world, memory, requester, config);
        model.config_space().enable();
        let space = PciConfig::new(model.config_space()).unwrap();
        space.msi_x().unwrap().unwrap().set_enabled(true);
        let block = || memory.lend(requester, 4096, KERNEL).unwrap();
        let memory = ControllerMemory {
            admin: AdminMemory {
                submission: block(),
                completion: block(),
                data: block(),
                slots: vec![AdminSlot::EMPTY; 8].leak(),
            },
            pairs: Vec::leak((0..QUEUES).map(|_| PairSlot::default()).collect()),
            namespaces: vec![None; 4].leak(),
            shadow: None,
        };
        let config = Config::default();
        let controller = Controller::bring_up(model.bar0(), memory, config, &mut world.clone());
        Self {
            model,
            controller: controller.unwrap(),
            places: [0; QUEUES as usize].map(|_| Place::default()),
            is_hasty: false,
        }
    }

    pub(crate) fn given(&self, queue: QueueIndex) -> Given {
        self.places[queue.index()].given.unwrap()
    }

    /// What the process's end of a queue is made with.
    pub(crate) fn config(&self, queue: QueueIndex) -> QueueConfig<'static> {
        let config = self
            .controller
            .queue_config(id(queue), 1, DataPointer::ByKernel);
        config.unwrap()
    }

    /// Whether the controller has no queues but its own.
    pub(crate) fn is_vacant(&self) -> bool {
        let counts = self.model.counts();
        (
            counts.submission_queues,
            counts.completion_queues,
            counts.moving,
        ) == (1, 1, 0)
    }

    pub(crate) fn prepare(&mut self, spec: &LeaseSpec, mut memory: Cutter) {
        let rings = [64, 16].map(|entry| memory.cut(entry * ENTRIES));
        let [submission, completion] = rings.each_ref().map(DmaBlock::memory);
        let given = Given {
            shadow: memory.cut(64 * ENTRIES).memory(),
            completion,
            pages: memory.pages(),
        };
        self.places[spec.queue.unwrap().index()] = Place {
            rings: Some(rings),
            submission: Some(submission),
            vector: spec.vector.number().map(|n| u16::try_from(n + 1).unwrap()),
            given: Some(given),
            end: None,
            is_fenced: false,
        };
    }

    pub(crate) fn fence(&mut self, queue: QueueIndex) {
        self.places[queue.index()].is_fenced = true;
    }

    /// Takes over what processes published.
    pub(crate) fn service(&mut self, regions: &RegionTable<'_>) {
        for place in self.places.iter_mut().filter(|place| !place.is_fenced) {
            let (Some(end), Some(Given { pages, .. })) = (&mut place.end, place.given) else {
                continue;
            };
            let claimed = |ring: LeaseRing| {
                Position::new(pages.submission.tails[ring as usize].load(Acquire))
            };
            let claim = Claim {
                tail: claimed(LeaseRing::First),
                head: claimed(LeaseRing::Second),
            };
            let accepted = end.service(claim, regions, 64).unwrap();
            pages.status.accepted[LeaseRing::First as usize].store(accepted.as_u32(), Release);
        }
    }

    pub(crate) fn limits(&self) -> Limits {
        let size = RingSize::new(u32::try_from(ENTRIES).unwrap()).unwrap();
        let wait = Config::default().admin_timeout;
        Limits {
            kind: QueueKind::Block,
            queues: QUEUES.into(),
            vectors: QUEUES.into(),
            min_ring: size,
            max_ring: size,
            doorbell_stride: 4,
            first_isolation: Isolation::empty(),
            second_isolation: Isolation::empty(),
            rules: 0,
            node: NodeId::new(0),
            waits: Waits {
                claim: 4 * wait,
                drain: wait,
                stop: 4 * wait,
                steer: Duration::ZERO,
                reset: Duration::from_secs(60),
            },
        }
    }

    pub(crate) fn begin(&mut self, operation: Operation, now: Instant) -> Result<(), ErrorKind> {
        let begun = match operation {
            Operation::Claim(spec) => {
                let place = &mut self.places[spec.queue.index()];
                let [submission, completion] = place.rings.take().unwrap();
                let memory = PairMemory {
                    submission,
                    completion,
                    size: spec.first_ring,
                    vector: place.vector,
                };
                let begun = self.controller.begin_create(id(spec.queue), memory, now);
                begun.map_err(|(error, _)| error)
            }
            Operation::Stop(queue) => self.controller.begin_delete(id(queue), now),
            Operation::Drain(_) | Operation::Flush(_) => Ok(()),
            // Every queue stops here: a device that is not brought back fails the test.
            Operation::Reset | Operation::Silence => return Err(ErrorKind::Unsupported),
        };
        begun.map_err(|error| error.kind())
    }

    pub(crate) fn poll(
        &mut self,
        operation: Operation,
        now: Instant,
    ) -> Poll<Result<(), ErrorKind>> {
        match operation {
            Operation::Claim(spec) => match self.controller.poll_pair(id(spec.queue), now) {
                Poll::Ready(PairState::Live) => {
                    self.start(spec.queue);
                    Poll::Ready(Ok(()))
                }
                Poll::Ready(_) => Poll::Ready(Err(ErrorKind::Device)),
                Poll::Pending => Poll::Pending,
            },
            Operation::Drain(_) if self.is_hasty => Poll::Ready(Ok(())),
            Operation::Drain(queue) => {
                match self.places[queue.index()].end.as_mut().unwrap().drain() {
                    Ok(0) => Poll::Ready(Ok(())),
                    Ok(_) => Poll::Pending,
                    Err(_) => Poll::Ready(Err(ErrorKind::Protocol)),
                }
            }
            Operation::Stop(queue) => match self.controller.poll_pair(id(queue), now) {
                Poll::Ready(PairState::Gone(None)) => {
                    // The memory is the lease's. Polled again, there is none to take.
                    let _was_taken_back = self.controller.take_back(id(queue)).is_err();
                    self.places[queue.index()] = Place::default();
                    Poll::Ready(Ok(()))
                }
                Poll::Ready(_) => Poll::Ready(Err(ErrorKind::Device)),
                Poll::Pending => Poll::Pending,
            },
            Operation::Flush(_) => {
                Poll::Ready(self.controller.check().map_err(|error| error.kind()))
            }
            Operation::Reset | Operation::Silence => Poll::Ready(Err(ErrorKind::Unsupported)),
        }
    }

    /// Makes the kernel's end of a queue that is there.
    fn start(&mut self, queue: QueueIndex) {
        let place = &mut self.places[queue.index()];
        let (None, Some(given), Some(submission)) = (&place.end, place.given, place.submission)
        else {
            return;
        };
        let pair = self.controller.pair(id(queue)).unwrap();
        let data = self.controller.namespaces().next().unwrap().data.unwrap();
        let rules = Rules::new(&VOLUME, &data, self.controller.limits().max_transfer).unwrap();
        let memory = CheckedMemory {
            shadow: given.shadow,
            submission,
            completion: given.completion,
            busy: Vec::leak((0..ENTRIES).map(|_| BusyMark::FREE).collect()),
        };
        let bar = || self.model.bar0();
        let doorbells = [pair.tail_doorbell(bar()), pair.head_doorbell(bar())];
        place.end = CheckedQueue::new(pair.queue, pair.size, memory, rules, doorbells);
    }
}

/// The controller's name of a queue: 0 is the admin queue.
fn id(queue: QueueIndex) -> QueueId {
    QueueId::new(u16::try_from(queue.index() + 1).unwrap()).unwrap()
}
