//! The device at work: one chain, one buffer or one used entry at a time, in seeded order.

use alloc::collections::VecDeque;
use core::time::Duration;

use parakernel_core::time::Instant;

use super::{
    chain::{Broken, Chain},
    device::Net,
    features::Features,
    queue::{Job, Queue, Ring, Role},
};
use crate::{
    fault::Fault,
    pci::Function,
    random::Random,
    world::{Activity, Device, Turn},
};

/// What the device can do next.
#[derive(Clone, Copy, Debug)]
enum Action {
    /// Take a frame off the wire.
    Arrive,
    /// Look for a chain of this queue.
    Take(u16),
    /// Find room for the next frame of this receive queue.
    Fill(u16),
    /// Move the next buffer of the oldest job of this queue.
    Move(u16),
    /// Give chains of this queue back.
    Give(u16),
}

impl Device for Net {
    fn step(&mut self, turn: &mut Turn<'_>) -> Activity {
        let timer = self.live(turn.now);
        if self.function.is_gone() {
            return Activity::Idle;
        }
        self.break_down();
        let actions = self.actions();
        let Some(action) = actions.get(turn.random.index(actions.len())) else {
            return timer.map_or(Activity::Idle, Activity::Waiting);
        };
        let (index, result) = match *action {
            Action::Arrive => {
                self.arrive();
                (0, Ok(()))
            }
            Action::Take(index) => (index, self.take(index, turn.random)),
            Action::Fill(index) => (index, self.fill(index)),
            Action::Move(index) => (index, self.transfer(index)),
            Action::Give(index) => (index, self.give(index, turn.random)),
        };
        if let Err(why) = result {
            self.break_ring(index, &why);
        }
        Activity::Worked
    }
}

impl Net {
    /// Chains of one queue that the device works on at once.
    const IN_HAND: usize = 16;

    /// Moves on where a timer ran out; when the next one does.
    fn live(&mut self, now: Instant) -> Option<Instant> {
        if self.resetting.is_some_and(|until| until <= now) {
            self.reset_device();
        }
        if self.link_back.is_some_and(|until| until <= now) {
            self.link_back = None;
            self.link_up = true;
            self.config_changed();
        }
        let mut next = [self.resetting, self.link_back].into_iter().flatten().min();
        for index in 0..self.queues.len() {
            match self.queues[index].resetting {
                Some(until) if until <= now => self.stop_queue(index),
                Some(until) => next = Some(next.map_or(until, |other| other.min(until))),
                None => {}
            }
        }
        next
    }

    /// Faults of the whole device.
    fn break_down(&mut self) {
        if !self.is_live() {
            return;
        }
        let faults = self.function.faults().clone();
        if faults.fires(Fault::FatalStatus) {
            self.function.fault(format_args!("device needs reset"));
            self.need_reset();
        }
        if faults.fires(Fault::LinkFlap) {
            self.function.fault(format_args!("link down"));
            self.link_up = false;
            self.link_back = Some(self.later(Duration::from_millis(1)));
            self.config_changed();
        }
        if faults.fires(Fault::Removal) {
            self.function.fault(format_args!("removed"));
            self.remove();
        }
    }

    /// Pulls the device.
    pub(super) fn remove(&mut self) {
        self.reset_device();
        self.function.set_gone(true);
    }

    fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.wire.waiting() > 0 {
            actions.push(Action::Arrive);
        }
        let live = self.is_live();
        for (index, queue) in (0_u16..).zip(&self.queues) {
            // Transfers that were begun go on until a reset is complete.
            if !queue.jobs.is_empty() {
                actions.push(Action::Move(index));
            }
            if !live || queue.ring.is_none() || queue.resetting.is_some() {
                continue;
            }
            if !queue.finished.is_empty() {
                actions.push(Action::Give(index));
            }
            let receives = matches!(self.role(index), Some(Role::Receive(_)));
            if receives && !queue.backlog.is_empty() && queue.jobs.is_empty() {
                // Without room the device waits for a notification.
                if queue.awake || !queue.quiet {
                    actions.push(Action::Fill(index));
                }
            } else if !receives && queue.awake && queue.held() < Self::IN_HAND {
                actions.push(Action::Take(index));
            }
        }
        actions
    }

    /// Takes the next chain of a transmit or control queue, or goes to sleep.
    fn take(&mut self, index: u16, random: &mut Random) -> Result<(), Broken> {
        if self.function.faults().fires(Fault::StuckQueue(index)) {
            self.function
                .fault(format_args!("queue {index} not served"));
            self.queues[usize::from(index)].awake = false;
            return Ok(());
        }
        let taken = self.with_ring(index, |queue, ring, function| {
            let chain = ring.take(function)?;
            if chain.is_none() {
                ring.ask_notification(function, true)?;
                queue.quiet = false;
                queue.awake = ring.has_available(function)?;
            } else if !queue.quiet && random.chance(300) {
                ring.ask_notification(function, false)?;
                queue.quiet = true;
            }
            Ok(chain)
        })?;
        let Some(Some(chain)) = taken else {
            return Ok(());
        };
        if self.role(index) == Some(Role::Control)
            && self.function.faults().fires(Fault::AdminTimeout)
        {
            self.function
                .fault(format_args!("control command swallowed"));
            return Ok(());
        }
        self.begin(index, chain);
        Ok(())
    }

    fn begin(&mut self, index: u16, chain: Chain) {
        let job = Job {
            pieces: chain.readable.iter().copied().collect(),
            bytes: vec![0; chain.readable_len().min(Self::FRAME_LIMIT)],
            chains: vec![(chain, 0)],
            done: 0,
            to_host: false,
        };
        self.queues[usize::from(index)].jobs.push_back(job);
    }

    /// Finds chains for the oldest frame of the backlog; asks for a notification where there are too few.
    fn fill(&mut self, index: u16) -> Result<(), Broken> {
        if self.function.faults().fires(Fault::StuckQueue(index)) {
            self.function
                .fault(format_args!("queue {index} not served"));
            self.queues[usize::from(index)].backlog.clear();
            return Ok(());
        }
        let mergeable = self.features.contains(Features::MRG_RXBUF);
        let least = self.least_buffer();
        let outcome = self.with_ring(index, |queue, ring, function| {
            find_room(
                queue,
                ring,
                mergeable,
                |chain| check_receive_chain(function, index, chain, least),
                function,
            )
        })?;
        let queue = &mut self.queues[usize::from(index)];
        match outcome {
            None | Some(Room::None) => {}
            Some(Room::TooSmall) => {
                queue.backlog.pop_front();
                self.counts.dropped += 1;
            }
            Some(Room::Enough) => {
                if let Some(frame) = queue.backlog.pop_front() {
                    let chains = core::mem::take(&mut queue.taken);
                    queue.jobs.push_back(receive_job(frame, chains, mergeable));
                }
            }
        }
        Ok(())
    }

    /// Moves the next buffer of the oldest job; after the last one it takes effect.
    fn transfer(&mut self, index: u16) -> Result<(), Broken> {
        if self.function.faults().fires(Fault::ResetMidDma) {
            self.function
                .fault(format_args!("reset in the middle of a transfer"));
            self.reset_device();
            return Ok(());
        }
        let queue = &mut self.queues[usize::from(index)];
        let Some(job) = queue.jobs.front_mut() else {
            return Ok(());
        };
        if let Some(piece) = job.pieces.pop_front() {
            let end = (job.done + piece.len).min(job.bytes.len());
            let bytes = &mut job.bytes[job.done..end];
            let moved = if job.to_host {
                self.function.write(piece.address, bytes)
            } else {
                self.function.read(piece.address, bytes)
            };
            job.done = end;
            return moved.map_err(Broken::from);
        }
        let finished = queue.jobs.pop_front();
        let stopping = queue.resetting.is_some();
        if let (Some(job), false) = (finished, stopping || !self.is_live()) {
            self.finish(index, job);
        }
        Ok(())
    }

    fn finish(&mut self, index: u16, mut job: Job) {
        match self.role(index) {
            Some(Role::Transmit(pair)) => self.transmit(pair, &job),
            Some(Role::Control) => {
                let written = self.command(index, &job);
                if let Some((_, len)) = job.chains.first_mut() {
                    *len = written;
                }
            }
            Some(Role::Receive(_)) => self.counts.received += 1,
            None => {}
        }
        self.queues[usize::from(index)].finished.extend(job.chains);
    }

    /// Gives chains back: received frames in order and whole, others as they come, or batched with `IN_ORDER`.
    fn give(&mut self, index: u16, random: &mut Random) -> Result<(), Broken> {
        let in_order = self.features.contains(Features::IN_ORDER);
        let role = self.role(index);
        let interrupt = self.with_ring(index, |queue, ring, function| {
            let count = queue.finished.len();
            if matches!(role, Some(Role::Receive(_))) {
                let chains: Vec<_> = queue.finished.drain(..).collect();
                ring.give(function, &chains)?;
            } else if in_order {
                let batch: Vec<_> = queue.finished.drain(..1 + random.index(count)).collect();
                ring.give_batch(function, &batch)?;
            } else if let Some(chain) = queue.finished.remove(random.index(count)) {
                ring.give(function, &[chain])?;
            }
            ring.wants_interrupt(function)
        })?;
        if interrupt == Some(true) {
            self.queue_used(index);
        }
        Ok(())
    }

    /// Bytes that a receive buffer must have: those of the header where a frame may span buffers (5.1.6.3.1); else those of
    /// the largest frame that the agreed MTU allows (5.1.4.2), or of an ordinary one where none is agreed on (5.1.6.3.1).
    fn least_buffer(&self) -> usize {
        let header = self.features.header_len();
        if self.features.contains(Features::MRG_RXBUF) {
            return header;
        }
        let mtu = self
            .features
            .contains(Features::MTU)
            .then_some(usize::from(self.config.mtu));
        header + 14 + mtu.unwrap_or(1500)
    }

    /// Works on a queue with its ring, if it has one.
    fn with_ring<T>(
        &mut self,
        index: u16,
        work: impl FnOnce(&mut Queue, &mut Ring, &Function) -> Result<T, Broken>,
    ) -> Result<Option<T>, Broken> {
        let Some(queue) = self.queues.get_mut(usize::from(index)) else {
            return Ok(None);
        };
        let Some(mut ring) = queue.ring.take() else {
            return Ok(None);
        };
        let result = work(queue, &mut ring, &self.function);
        queue.ring = Some(ring);
        result.map(Some)
    }
}

/// Takes chains for the oldest frame of the backlog until there is room for it.
fn find_room(
    queue: &mut Queue,
    ring: &mut Ring,
    mergeable: bool,
    check: impl Fn(&Chain),
    function: &Function,
) -> Result<Room, Broken> {
    let Some(len) = queue.backlog.front().map(Vec::len) else {
        return Ok(Room::None);
    };
    loop {
        let room: usize = queue.taken.iter().map(Chain::writable_len).sum();
        if room >= len {
            queue.quiet = false;
            return Ok(Room::Enough);
        }
        if !mergeable && !queue.taken.is_empty() {
            return Ok(Room::TooSmall);
        }
        let Some(chain) = ring.take(function)? else {
            ring.ask_notification(function, true)?;
            queue.awake = ring.has_available(function)?;
            // From here on only a notification helps.
            queue.quiet = !queue.awake;
            return Ok(Room::None);
        };
        check(&chain);
        queue.taken.push(chain);
    }
}

/// Whether the chains taken have room for a frame.
#[derive(Clone, Copy, Debug)]
enum Room {
    Enough,
    /// One chain was taken, which must do and does not.
    TooSmall,
    /// There is no further chain.
    None,
}

/// The job that writes `frame`, its header first, to `chains`, which have room for it.
fn receive_job(mut frame: Vec<u8>, chains: Vec<Chain>, mergeable: bool) -> Job {
    let buffers = if mergeable {
        u16::try_from(chains.len()).unwrap_or(0)
    } else {
        1
    };
    crate::bytes::put(&mut frame, 10, &buffers.to_le_bytes());
    let mut left = frame.len();
    let mut pieces = VecDeque::new();
    let chains = chains
        .into_iter()
        .map(|chain| {
            let len = chain.writable_len().min(left);
            left -= len;
            pieces.extend(chain.writable.iter().copied());
            (chain, len)
        })
        .collect();
    Job {
        chains,
        pieces,
        bytes: frame,
        done: 0,
        to_host: true,
    }
}

/// Receive buffers are device-writable and large enough (5.1.6.3.1).
fn check_receive_chain(function: &Function, index: u16, chain: &Chain, least: usize) {
    if !chain.readable.is_empty() {
        function.violation(
            "virtio 1.3, 5.1.6.3",
            format_args!("queue {index}: a device-readable receive buffer"),
        );
    }
    if chain.writable_len() < least {
        let text = format_args!(
            "queue {index}: a receive buffer of {} bytes, not {least}",
            chain.writable_len()
        );
        function.violation("virtio 1.3, 5.1.4.2 and 5.1.6.3.1", text);
    }
}
