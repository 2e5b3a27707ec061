//! The queues of the process on this core: the part of the kernel that is on the data path.

use parakernel_core::abi::CallError;

/// What core 0 has a core change about the leases of its process. No driver grants any in this kernel yet.
#[derive(Debug)]
pub(crate) enum Change {}

/// The leases of a process, as the core sees them that runs it.
#[derive(Debug, Default)]
pub(crate) struct Leases {}

impl Leases {
    /// Carries out a change; core 0 sends them in order, and none is carried out within a system call.
    #[expect(
        clippy::unused_self,
        reason = "no driver grants leases in this kernel yet"
    )]
    pub(crate) const fn apply(&mut self, change: Change) {
        match change {}
    }

    /// Takes over what the process has published for the lease named `handle`.
    ///
    /// # Errors
    ///
    /// If the process has no such lease.
    #[expect(
        clippy::unused_self,
        reason = "no driver grants leases in this kernel yet"
    )]
    pub(crate) const fn submit(&mut self, _handle: u64) -> Result<u64, CallError> {
        Err(CallError::BadLease)
    }

    /// Takes over what the process has published for each of its leases.
    #[expect(
        clippy::unused_self,
        reason = "no driver grants leases in this kernel yet"
    )]
    pub(crate) const fn submit_all(&mut self) {}

    /// Whether a queue has news that the process has not seen.
    #[expect(
        clippy::unused_self,
        reason = "no driver grants leases in this kernel yet"
    )]
    pub(crate) const fn has_news(&self) -> bool {
        false
    }
}
