//! All targets, by what they feed.

use crate::Target;

mod abi_message;
mod acpi;
mod archive;
mod checked_queues;
mod elf;
mod frame;
mod kv_parser;
mod manifest;
mod nvme_driver;
mod nvme_validator;
mod pci;
mod vfio_user;
mod virtio_driver;
mod virtio_rx_validator;
mod virtio_tx_validator;
mod virtqueue;
mod virtual_queue;

/// Every target there is; each has a file of its name in `fuzz_targets/`.
pub const ALL: &[Target] = &[
    abi_message::TARGET,
    acpi::TARGET,
    archive::TARGET,
    checked_queues::TARGET,
    elf::TARGET,
    frame::TARGET,
    kv_parser::TARGET,
    manifest::TARGET,
    nvme_driver::TARGET,
    nvme_validator::TARGET,
    pci::TARGET,
    vfio_user::TARGET,
    virtio_driver::TARGET,
    virtio_rx_validator::TARGET,
    virtio_tx_validator::TARGET,
    virtual_queue::TARGET,
];

/// Takes an answer, whatever it is: an error is one too.
fn any_answer<T>(_answer: T) {}
