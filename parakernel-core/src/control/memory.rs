//! Memory: registered within a quota, given back when nothing can reach it.

use core::task::Poll;

use super::{
    ControlPlane, Job, MemoryEntry, MemoryWish, Outcome, Platform, Progress, Purpose, Refusal, Tag,
    entries::MemoryStage, queues::Queued,
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
        // Any descriptor of any hardware queue of the process might point there, until the queue has stopped.
        let may_reach = |spec: &super::LeaseSpec| spec.process == process && spec.queue.is_some();
        if entry.stage != MemoryStage::Registered || self.leases().any(|(spec, _)| may_reach(spec))
        {
            return Err(Refusal::InUse);
        }
        self.begin_release(memory, Some(tag));
        Ok(())
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
            entry.stage = MemoryStage::Zeroing;
        }
        match entry.stage {
            MemoryStage::Registered => return Progress::Idle,
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
}

fn refusal_of(error: RegionError) -> Refusal {
    if error.kind() == ErrorKind::Exhausted {
        Refusal::Exhausted
    } else {
        Refusal::OutOfRange
    }
}
