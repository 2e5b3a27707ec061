//! Memory that belongs to somebody else: the guest of a virtual machine, or a program in another language.

use parakernel_core::address::BusAddress;

/// Memory outside of this process's models, reached by bus addresses.
///
/// A host of a model implements it: for QEMU by what it mapped, for the C interface by two callbacks. There is no
/// audit and no IOMMU in front of it: what the owner did not map is not there.
pub trait HostMemory: Send + Sync {
    /// Reads `bytes` at `address`; whether all of it is there and may be read.
    fn read(&self, address: BusAddress, bytes: &mut [u8]) -> bool;

    /// Writes `bytes` at `address`; whether all of it is there and may be written.
    fn write(&self, address: BusAddress, bytes: &[u8]) -> bool;
}
