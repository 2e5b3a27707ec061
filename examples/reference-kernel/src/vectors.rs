//! Interrupt vectors of devices: which event each stands for.

use crate::cores::Core;

/// Notes that device vector `vector` fired on this core.
pub(crate) fn fire(vector: u8) {
    let _ = (vector, Core::this());
}
