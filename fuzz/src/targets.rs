//! All targets, by what they feed.

use crate::Target;

mod nvme_validator;
mod virtio_rx_validator;
mod virtio_tx_validator;
mod virtqueue;

/// Every target there is; each has a file of its name in `fuzz_targets/`.
pub const ALL: &[Target] = &[
    nvme_validator::TARGET,
    virtio_rx_validator::TARGET,
    virtio_tx_validator::TARGET,
];
