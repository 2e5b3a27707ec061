//! Shadow doorbells: words in memory that a controller looks at by itself (NVMe 1.4 §5.7).

use parakernel_core::{
    memory::{DmaBlock, PAGE_SIZE},
    mmio::Registers,
};

use super::Controller;
use crate::{
    command::{self, Command},
    doorbell::ShadowMemory,
    identify::AdminCommands,
};

impl<R: Registers> Controller<'_, R> {
    /// Whether doorbells have shadows: the controller's choice, and the caller's.
    pub(super) fn has_shadows(&self) -> bool {
        self.shadow.is_some()
            && self
                .data
                .admin_commands
                .contains(AdminCommands::DOORBELL_BUFFER)
    }

    /// Doorbell Buffer Config, if it is to be given.
    pub(super) fn shadow_request(&self) -> Option<Command> {
        let shadow = self.shadow.as_ref().filter(|_| self.has_shadows())?;
        Some(command::doorbell_buffer(
            shadow.values.bus_address(),
            shadow.events.bus_address(),
        ))
    }
}

/// Whether each half of `shadow` is a page.
pub(super) fn is_two_pages(shadow: &ShadowMemory<'_>) -> bool {
    let is_page = |block: &DmaBlock<'_>| {
        block.len() >= PAGE_SIZE && block.bus_address().is_aligned(PAGE_SIZE as u64)
    };
    is_page(&shadow.values) && is_page(&shadow.events)
}
