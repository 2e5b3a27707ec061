//! The devices that may write to memory, so that they can be stopped however the kernel ends.

use parakernel_core::pci::PciError;

use crate::once::Once;
use crate::pci::Function;

/// Most functions that may be bus masters.
const MASTERS_MAX: usize = 64;

static MASTERS: [Once<&'static Function>; MASTERS_MAX] = [const { Once::new() }; MASTERS_MAX];

/// Lets `function` start transactions: DMA and interrupts.
///
/// # Errors
///
/// Where its capabilities are broken, or too many functions are bus masters already.
pub(crate) fn allow(function: &'static Function) -> Result<(), PciError> {
    let is_known = |cell: &Once<&Function>| {
        cell.get()
            .is_some_and(|known| known.address == function.address)
    };
    let is_kept =
        MASTERS.iter().any(is_known) || MASTERS.iter().any(|cell| cell.set(function).is_ok());
    if !is_kept {
        return Err(PciError::Removed);
    }
    function.config.set_bus_master(true)
}

/// Takes `function` off the bus: it starts no transaction any more.
pub(crate) fn forbid(function: &Function) {
    // Switching off does not look at the capabilities, which is all that can fail.
    let _broken = function.config.set_bus_master(false).is_err();
}

/// Leaves all devices quiet: none may write to memory any more. Called when the kernel ends, however it does.
pub(crate) fn quiet() {
    for function in MASTERS.iter().filter_map(Once::get) {
        forbid(function);
    }
}
