//! Processes: what they start with, and how nothing is left of them.

use core::fmt;

use super::{
    ControlPlane, Event, Job, Platform, ProcessEntry, Progress, Quota,
    entries::{Life, MemoryStage},
    queues::Queued,
};
use crate::{
    address::{CoreId, NodeId},
    device::DeviceId,
    error::{Error, ErrorKind},
    handle::ProcessId,
    steering::{GrantError, NameGrant, OwnedGrant},
    volume::Identity,
};

/// What a process is given when it starts.
#[derive(Clone, Copy, Debug)]
pub struct ProcessSpec<'s> {
    /// Who it runs for; volumes belong to identities.
    pub identity: Identity,
    /// The core that is its own.
    pub core: CoreId,
    /// That core's node.
    pub node: NodeId,
    /// How much it may have.
    pub quota: Quota,
    /// The names that it may use on each NIC.
    pub grants: &'s [(DeviceId, NameGrant)],
}

/// Why a process was not started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum StartError {
    /// The table of processes is full.
    Full,
    /// The core has a process.
    CoreInUse {
        /// That process.
        by: ProcessId,
    },
    /// The names cannot be granted.
    Grant(GrantError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("there is no room for another process"),
            Self::CoreInUse { by } => write!(f, "the core belongs to process {by}"),
            Self::Grant(error) => fmt::Display::fmt(error, f),
        }
    }
}

impl core::error::Error for StartError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Grant(error) => Some(error),
            Self::Full | Self::CoreInUse { .. } => None,
        }
    }
}

impl Error for StartError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Full => ErrorKind::Exhausted,
            Self::CoreInUse { .. } => ErrorKind::Denied,
            Self::Grant(error) => error.kind(),
        }
    }
}

impl<P: Platform> ControlPlane<'_, P> {
    /// Takes in a process that is about to run.
    ///
    /// # Errors
    ///
    /// [`StartError`]; nothing has changed then.
    pub fn start_process(&mut self, spec: &ProcessSpec<'_>) -> Result<ProcessId, StartError> {
        if let Some((by, _)) = self
            .processes
            .iter()
            .find(|(_, other)| other.core == spec.core)
        {
            return Err(StartError::CoreInUse { by });
        }
        let entry = ProcessEntry {
            identity: spec.identity,
            core: spec.core,
            node: spec.node,
            quota: spec.quota,
            used: Quota::NONE,
            quarantined: 0,
            kept: 0,
            life: Life::Running,
            queued: Queued::default(),
        };
        let process = self.processes.insert(entry).map_err(|_| StartError::Full)?;
        for &(device, names) in spec.grants {
            let grant = OwnedGrant {
                owner: process,
                device,
                names,
            };
            if let Err(error) = self.grants.insert(grant) {
                self.grants.remove_all(process);
                self.processes.remove(process);
                return Err(StartError::Grant(error));
            }
        }
        Ok(process)
    }

    /// Ends a process, whatever it is at: it exited, broke a rule, or is to be stopped. It no longer runs.
    ///
    /// All that it had is taken back; [`Event::Ended`] says when nothing is left but what a quarantined queue might reach. Its
    /// core and its names stay its own until then.
    pub fn end_process(&mut self, process: ProcessId) {
        let Some(entry) = self.processes.get_mut(process) else {
            return;
        };
        if entry.life != Life::Running {
            return;
        }
        entry.life = Life::Ending;
        self.revoke_all(process);
        self.enqueue(Job::Process(process));
    }

    /// The end of a process: its leases first, then its memory, then its names. What is quarantined stays behind.
    pub(super) fn step_process(&mut self, process: ProcessId) -> Progress {
        let Some(entry) = self.processes.get_mut(process) else {
            return Progress::Idle;
        };
        // Each lease, and each region, takes this job up again when it has ended, or is quarantined or kept.
        if entry.life == Life::Running || entry.used.leases > entry.quarantined {
            return Progress::Idle;
        }
        let is_first = entry.life == Life::Ending;
        entry.life = Life::Releasing;
        let has_memory = entry.used.regions > entry.kept;
        if is_first {
            self.release_all_memory(process);
        }
        if has_memory {
            return Progress::Idle;
        }
        self.grants.remove_all(process);
        self.processes.remove(process);
        self.say(Event::Ended(process));
        Progress::Idle
    }

    fn release_all_memory(&mut self, process: ProcessId) {
        for index in 0..self.memories.capacity() {
            if let Some((memory, entry)) = self.memories.at(index)
                && entry.process == process
                && entry.stage == MemoryStage::Registered
            {
                self.begin_release(memory, None);
            }
        }
    }
}
