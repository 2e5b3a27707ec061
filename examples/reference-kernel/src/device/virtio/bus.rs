//! The bus that a virtio card sits on: PCI, or registers at a fixed place.

use parakernel_core::mmio::MappedRegisters;
use parakernel_nic_virtio::transport::mmio::MmioTransport;
use parakernel_nic_virtio::transport::pci::PciTransport;
use parakernel_nic_virtio::transport::{Cause, NotifyAddress, RingAddresses, Status, Transport};

/// A virtio card's registers.
#[derive(Debug)]
pub(crate) enum Bus {
    /// On PCI.
    Pci(PciTransport<MappedRegisters>),
    /// At a fixed place (virtio 1.2 section 4.2).
    Mmio(MmioTransport<MappedRegisters>),
}

/// Functions of the trait, each carried out by whichever it is.
macro_rules! either {
    ($(fn $name:ident(&self $(, $argument:ident: $type:ty)*) $(-> $result:ty)?;)*) => {
        $(fn $name(&self $(, $argument: $type)*) $(-> $result)? {
            match self {
                Self::Pci(bus) => bus.$name($($argument),*),
                Self::Mmio(bus) => bus.$name($($argument),*),
            }
        })*
    };
}

impl Transport for Bus {
    type Registers = MappedRegisters;

    either! {
        fn device_features(&self) -> u64;
        fn accept_features(&self, features: u64);
        fn status(&self) -> Status;
        fn set_status(&self, status: Status);
        fn config_generation(&self) -> u32;
        fn config(&self) -> (&MappedRegisters, usize);
        fn max_entries(&self, queue: u16) -> u32;
        fn enable_queue(&self, queue: u16, ring: &RingAddresses);
        fn is_queue_enabled(&self, queue: u16) -> bool;
        fn start_queue_reset(&self, queue: u16);
        fn is_queue_resetting(&self, queue: u16) -> bool;
        fn set_vector(&self, queue: Option<u16>, vector: Option<u16>) -> bool;
        fn notify_address(&self, queue: u16) -> Option<NotifyAddress>;
        fn notify_registers(&self) -> &MappedRegisters;
        fn notify_stride(&self) -> usize;
        fn take_cause(&self) -> Cause;
    }
}
