//! Memory: registered within a quota, given back when nothing can reach it.

use core::task::Poll;

use super::{
    ControlPlane, Job, MemoryEntry, MemoryWish, Outcome, Platform, Progress, Purpose, Refusal, Tag,
    entries::{Life, MemoryStage},
    queues::Queued,
};
use crate::{
    error::{Error, ErrorKind},
    handle::{MemoryId, ProcessId},
    memory::RegionError,
};

impl<P: Platform> ControlPlane<'_, P> {
    pub(super) fn register_memory(
        &mut self,
        process: ProcessId,
        tag: Tag,
        wish: MemoryWish,
    ) -> Result<(), Refusal> {
        if wish.pages == 0 || !wish.pages.is_multiple_of(wish.page_size.pages()) {
            return Err(Refusal::OutOfRange);
        }
        let owner = self.processes.get(process).ok_or(Refusal::NoSuchHandle)?;
        let pages = owner.used.pages.checked_add(wish.pages);
        if owner.used.regions >= owner.quota.regions
            || pages.is_none_or(|pages| pages > owner.quota.pages)
        {
            return Err(Refusal::Quota);
        }
        if self.memories.len() == self.memories.capacity() {
            return Err(Refusal::Exhausted);
        }
        let purpose = Purpose::Region {
            pages: wish.pages,
            page_size: wish.page_size,
            node: wish.node.unwrap_or(owner.node),
        };
        let memory = self.platform.allocate(purpose).ok_or(Refusal::Exhausted)?;
        let placed = self.platform.register(process, memory, wish.direction);
        let (region, iova) = placed.map_err(|error| {
            // Nobody has seen it, so it still holds zeroes.
            self.platform.free(memory);
            refusal_of(error)
        })?;
        let entry = MemoryEntry {
            process,
            memory,
            region,
            stage: MemoryStage::Registered,
            tag: None,
            queued: Queued::default(),
        };
        let id = self
            .memories
            .insert(entry)
            .map_err(|_| Refusal::Exhausted)?;
        if let Some(owner) = self.processes.get_mut(process) {
            owner.used.regions += 1;
            owner.used.pages += memory.pages;
        }
        let outcome = Outcome::Registered {
            memory: id,
            iova,
            pages: wish.pages,
        };
        self.answer(process, Some(tag), outcome);
        Ok(())
    }

    pub(super) fn release_memory(
        &mut self,
        process: ProcessId,
        tag: Tag,
        memory: MemoryId,
    ) -> Result<(), Refusal> {
        let entry = self
            .memories
            .get(memory)
            .filter(|entry| entry.process == process);
        let entry = entry.ok_or(Refusal::NoSuchHandle)?;
        if entry.stage != MemoryStage::Registered || self.has_queue(process) {
            return Err(Refusal::InUse);
        }
        self.begin_release(memory, Some(tag));
        Ok(())
    }

    /// Whether the process has, or had and left behind, a hardware queue. Any descriptor of it might point to any region of the
    /// process, until the queue has stopped.
    fn has_queue(&self, process: ProcessId) -> bool {
        self.leases()
            .any(|(spec, _)| spec.process == process && spec.queue.is_some())
    }

    /// Goes on with the regions of a process that has ended, if none of its quarantined queues is left.
    pub(super) fn release_kept(&mut self, process: ProcessId) {
        let owner = self.processes.get(process);
        if owner.is_some_and(|owner| owner.kept == 0) || self.has_queue(process) {
            return;
        }
        for index in 0..self.memories.capacity() {
            let Some((memory, entry)) = self.memories.at(index) else {
                continue;
            };
            if entry.process == process && entry.stage == MemoryStage::Kept {
                self.set_stage_of(memory, MemoryStage::Zeroing);
                self.enqueue(Job::Memory(memory));
            }
        }
    }

    fn set_stage_of(&mut self, memory: MemoryId, stage: MemoryStage) {
        let Some(entry) = self.memories.get_mut(memory) else {
            return;
        };
        let was_kept = core::mem::replace(&mut entry.stage, stage) == MemoryStage::Kept;
        if let Some(owner) = self.processes.get_mut(entry.process) {
            owner.kept -= u32::from(was_kept);
            owner.kept += u32::from(stage == MemoryStage::Kept);
        }
    }

    pub(super) fn begin_release(&mut self, memory: MemoryId, tag: Option<Tag>) {
        let Some(entry) = self.memories.get_mut(memory) else {
            return;
        };
        entry.stage = MemoryStage::Unregistering;
        entry.tag = tag;
        self.platform.begin_unregister(entry.process, entry.region);
        self.enqueue(Job::Memory(memory));
    }

    pub(super) fn step_memory(&mut self, id: MemoryId) -> Progress {
        let Some(entry) = self.memories.get_mut(id) else {
            return Progress::Idle;
        };
        if entry.stage == MemoryStage::Unregistering
            && self
                .platform
                .poll_unregister(entry.process, entry.region)
                .is_ready()
        {
            return self.unregistered(id);
        }
        match entry.stage {
            MemoryStage::Registered | MemoryStage::Kept => return Progress::Idle,
            MemoryStage::Unregistering => return Progress::Again,
            MemoryStage::Zeroing => {}
        }
        if self.platform.zero(entry.memory) == Poll::Pending {
            return Progress::Again;
        }
        self.platform.free(entry.memory);
        let (process, tag, pages) = (entry.process, entry.tag, entry.memory.pages);
        self.memories.remove(id);
        if let Some(owner) = self.processes.get_mut(process) {
            owner.used.regions -= 1;
            owner.used.pages -= pages;
        }
        self.answer(process, tag, Outcome::Released { memory: id });
        self.enqueue(Job::Process(process));
        Progress::Idle
    }

    /// Nothing remembers the region any more. What a process gives back no queue can reach; what a dead one left behind stays as
    /// long as one of its queues is quarantined.
    fn unregistered(&mut self, id: MemoryId) -> Progress {
        let Some(entry) = self.memories.get(id) else {
            return Progress::Idle;
        };
        let process = entry.process;
        let owner = self.processes.get(process);
        let has_ended = owner.is_none_or(|owner| owner.life != Life::Running);
        if has_ended && self.has_queue(process) {
            self.set_stage_of(id, MemoryStage::Kept);
            self.enqueue(Job::Process(process));
            return Progress::Idle;
        }
        self.set_stage_of(id, MemoryStage::Zeroing);
        Progress::Again
    }
}

fn refusal_of(error: RegionError) -> Refusal {
    if error.kind() == ErrorKind::Exhausted {
        Refusal::Exhausted
    } else {
        Refusal::OutOfRange
    }
}
