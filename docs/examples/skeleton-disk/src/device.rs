//! The control half.

use core::{task::Poll, time::Duration};

use embedded_hal::delay::DelayNs;
use parakernel_core::{
    access::Isolation,
    address::NodeId,
    device::{Limits, Operation, QueueDevice, QueueKind, QueueSpec, Waits},
    memory::DmaBlock,
    mmio::{Register, Registers, Window},
    ring::RingSize,
    time::{Instant, Timeout, wait_until},
};

use crate::{
    error::{BringUpError, OperationError},
    regs::{self, Answers, Blocks, Commands, Control, Ctrl, Id, Size, Status},
    ring::{Answer, Command},
};

/// How long a stop may take, §4.
const STOP: Duration = Duration::from_millis(10);
/// How long a start may take, §5.
const START: Duration = Duration::from_millis(1);
/// How often bring-up looks.
const INTERVAL: Duration = Duration::from_micros(10);
/// How long what a ring holds may take: INTERPRETATION(missing): §6 sets no limit.
const DRAIN: Duration = Duration::from_secs(1);

/// The two rings.
#[derive(Debug)]
pub struct RingMemory<'a> {
    /// For the commands.
    pub commands: DmaBlock<'a>,
    /// For the answers.
    pub answers: DmaBlock<'a>,
    /// Entries of either; 2 to 256.
    pub size: RingSize,
}

impl<'a> RingMemory<'a> {
    fn parts(&self) -> Option<(&'a [Command], &'a [Answer])> {
        let entries = usize::try_from(self.size.entries()).ok()?;
        let aligned = [&self.commands, &self.answers]
            .iter()
            .all(|block| block.bus_address().is_aligned(64));
        let commands = self.commands.memory().slice(0, entries)?;
        let answers = self.answers.memory().slice(0, entries)?;
        ((2..=256).contains(&entries) && aligned).then_some((commands, answers))
    }
}

/// The disk, as the kernel has it.
#[derive(Debug)]
pub struct Shelf<'a, R> {
    bar: Window<R, Control>,
    rings: RingMemory<'a>,
    node: NodeId,
}

impl<'a, R: Registers> Shelf<'a, R> {
    /// Brings the device up: identifies it and makes it idle.
    ///
    /// # Errors
    ///
    /// Where it is another device, has too little memory, or does not stop.
    pub fn bring_up(
        registers: R,
        rings: RingMemory<'a>,
        node: NodeId,
        delay: &mut impl DelayNs,
    ) -> Result<Self, BringUpError> {
        let bar = Window::new(registers, 0);
        let device = Self { bar, rings, node };
        device.identify()?;
        device.rings.parts().ok_or(BringUpError::Rings)?;
        device.reset(delay).map_err(BringUpError::Reset)?;
        Ok(device)
    }

    /// Number of blocks of the disk.
    pub fn blocks(&self) -> u64 {
        self.bar.read::<Blocks>().bits()
    }

    /// §1.
    fn identify(&self) -> Result<(), BringUpError> {
        let len = self.bar.registers().len();
        if len < regs::LEN {
            return Err(BringUpError::Registers(len));
        }
        let id = self.bar.read::<Id>().bits();
        if id != regs::ID {
            return Err(BringUpError::Identity(id));
        }
        Ok(())
    }

    /// §4. The device may be a master of the bus from here on, until it is silenced.
    fn reset(&self, delay: &mut impl DelayNs) -> Result<(), Timeout> {
        self.bar.write(Ctrl::from_bits(0).with(Ctrl::MASTER, 1));
        wait_until(delay, STOP, INTERVAL, || {
            !self.status().is_set(Status::RUNNING)
        })
    }

    fn status(&self) -> Status {
        self.bar.read()
    }

    /// §5.
    #[expect(unsafe_code, reason = "tells the device where its rings are")]
    fn start(&mut self, spec: &QueueSpec) -> Result<(), OperationError> {
        let size = self.rings.size;
        if spec.queue.index() != 0 || spec.first_ring != size || spec.second_ring != size {
            return Err(OperationError::NoSuchQueue);
        }
        if self.status().is_set(Status::RUNNING) {
            return Err(OperationError::Running);
        }
        let (_, answers) = self.rings.parts().ok_or(OperationError::NoSuchQueue)?;
        // An answer that the last queue got here must not pass for one of the new queue's.
        answers.iter().for_each(Answer::clear);
        let commands = Commands::from_bits(self.rings.commands.bus_address().as_u64());
        // SAFETY: the block is the device's until this value is gone, and holds all entries: `parts`.
        unsafe { self.bar.write_address(commands) };
        let answers = Answers::from_bits(self.rings.answers.bus_address().as_u64());
        // SAFETY: as above.
        unsafe { self.bar.write_address(answers) };
        self.bar.write(Size::from_bits(size.entries().into()));
        self.bar.modify(|ctrl: Ctrl| ctrl.with(Ctrl::RUN, 1));
        Ok(())
    }
}

impl<R: Registers> QueueDevice for Shelf<'_, R> {
    type Error = OperationError;

    fn limits(&self) -> Limits {
        let size = self.rings.size;
        Limits {
            kind: QueueKind::Block,
            queues: 1,
            vectors: 0,
            min_ring: size,
            max_ring: size,
            doorbell_stride: 0x1000,
            // The doorbell's page holds nothing else, §1; a bad tail or id stops the only queue, §6.
            first_isolation: Isolation::OWN_DOORBELL_PAGE | Isolation::CONTAINS_BAD_INDEX,
            second_isolation: Isolation::empty(),
            rules: 0,
            node: self.node,
            waits: Waits {
                claim: START,
                drain: DRAIN,
                stop: STOP,
                steer: Duration::ZERO,
                reset: STOP,
            },
        }
    }

    fn begin(&mut self, operation: Operation, _now: Instant) -> Result<(), OperationError> {
        match operation {
            Operation::Claim(spec) => self.start(&spec)?,
            // The fence before it took the doorbell away, so nothing more is published.
            Operation::Drain(_) | Operation::Flush(_) => {}
            Operation::Stop(_) | Operation::Reset => {
                self.bar.modify(|ctrl: Ctrl| ctrl.with(Ctrl::RUN, 0));
            }
            // Nothing sets MASTER again. INTERPRETATION(missing): it may be cleared while the device runs, §4.
            Operation::Silence => self.bar.write(Ctrl::from_bits(0)),
        }
        Ok(())
    }

    fn poll(&mut self, operation: Operation, _now: Instant) -> Poll<Result<(), OperationError>> {
        let status = self.status();
        if status.bits() == u32::MAX.into() {
            return Poll::Ready(Err(OperationError::Removed));
        }
        let running = status.is_set(Status::RUNNING);
        let done = match operation {
            Operation::Claim(_) => running,
            Operation::Drain(_) if status.is_set(Status::FAILED) => {
                return Poll::Ready(Err(OperationError::Failed));
            }
            Operation::Drain(_) => !status.is_set(Status::BUSY),
            Operation::Stop(_) | Operation::Reset => !running,
            // The read of STATUS comes back after all transfers.
            Operation::Flush(_) | Operation::Silence => true,
        };
        if done {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }
}
