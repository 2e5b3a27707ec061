//! What untrusted bytes may become: the only way from a process's ring to a device's.
//!
//! A process writes descriptors and commands in the device's own format into a shadow ring. The kernel copies each
//! entry once, and hands the *copy* to the queue's validator, so nothing can change between check and use. What the
//! validator accepts comes back as [`Validated`], translated, and nothing else is taken by the functions that write
//! hardware rings.

use core::fmt;

use crate::{
    address::{Direction, Iova},
    error::{Error, ErrorKind},
    memory::RegionTable,
    queue::Lba,
};

/// Checks whole submissions of one queue: a packet, a chain or a command, never a part of one.
///
/// A validator has state (busy marks, positions), because safety is no property of a single descriptor.
pub trait DescriptorValidator: Sized {
    /// A submission as copied from the shadow ring.
    type Submission;
    /// What the hardware ring gets.
    type Accepted;
    /// A type that only the validator's own module can make a value of.
    type Seal;

    /// Checks `submission` and translates its addresses.
    ///
    /// # Errors
    ///
    /// What the process did that it may not. Nothing of the submission may reach the device then.
    fn validate(
        &mut self,
        submission: Self::Submission,
        regions: &RegionTable<'_>,
    ) -> Result<Validated<Self>, Violation>;
}

/// A submission that validator `V` accepted.
///
/// It is tagged with its validator, not with the descriptor, and made with a seal that only the validator has: no
/// other code can make one, not even another validator of the same format.
pub struct Validated<V: DescriptorValidator>(V::Accepted);

impl<V: DescriptorValidator> Validated<V> {
    /// Marks `accepted` as accepted by `V`.
    #[inline]
    pub fn new(accepted: V::Accepted, _seal: V::Seal) -> Self {
        Self(accepted)
    }

    /// What the hardware ring gets.
    #[inline]
    pub fn into_inner(self) -> V::Accepted {
        self.0
    }
}

impl<V: DescriptorValidator<Accepted: fmt::Debug>> fmt::Debug for Validated<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Validated").field(&self.0).finish()
    }
}

/// What a process did that it may not. It ends the process; nobody else is disturbed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Violation {
    /// The device would touch memory outside the process's regions, or leave the region that the range begins in; or the
    /// range is empty or wraps.
    OutsideRegions {
        /// First byte.
        iova: Iova,
        /// Bytes.
        len: u64,
    },
    /// The device would move data in a direction that the region does not allow.
    Direction {
        /// First byte.
        iova: Iova,
        /// The direction asked for.
        wanted: Direction,
    },
    /// A range that lies in one region but not in one piece of bus-contiguous memory.
    AcrossExtents {
        /// First byte.
        iova: Iova,
        /// Bytes.
        len: u64,
    },
    /// A tail further ahead than the ring has free entries, or behind one that was published before.
    TailJump {
        /// The tail that the process claimed.
        claimed: u32,
        /// The tail that the kernel had accepted.
        accepted: u32,
    },
    /// An entry, or a command id, that is still in flight.
    Busy {
        /// Its slot or id.
        id: u32,
    },
    /// An index beyond the ring or table it points into.
    IndexOutOfRange {
        /// The index.
        index: u32,
    },
    /// A chain longer than its queue allows, one that has a loop, or one that ends nowhere.
    Chain {
        /// Where it starts.
        head: u32,
    },
    /// A bit, type or flag that processes may not use.
    Forbidden {
        /// The field as the process wrote it.
        field: u64,
    },
    /// A command that processes may not give.
    Opcode {
        /// The command.
        opcode: u8,
    },
    /// A length that the device's rules or the frame's own forbid.
    Length {
        /// The length, in bytes.
        len: u64,
    },
    /// A namespace that is not the process's volume's.
    Namespace {
        /// Its id.
        id: u32,
    },
    /// Blocks outside the process's volume.
    OutsideVolume {
        /// First block.
        lba: Lba,
        /// Number of blocks.
        blocks: u64,
    },
    /// A frame with an address that the process was not granted.
    Spoofed {
        /// What of the frame was not the process's own.
        field: SpoofedField,
    },
}

/// The part of a frame that [`Violation::Spoofed`] found to be another's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum SpoofedField {
    /// The source MAC address.
    Mac,
    /// The VLAN tag.
    Vlan,
    /// The IPv4 source address.
    Ipv4,
    /// The IPv6 source address.
    Ipv6,
    /// The source port.
    Port,
    /// The sender of an ARP or neighbour discovery message, or that it was sent here at all.
    Arp,
    /// An `EtherType` that only the kernel may send, such as PAUSE or LLDP.
    EtherType,
    /// A header that is cut short, so nothing can be said about it.
    Truncated,
    /// The lengths of headers by which the device would write into the frame: they are not the frame's.
    Layers,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::OutsideRegions { iova, len } => {
                write!(
                    f,
                    "{len} bytes at {iova:#x} lie outside the process's regions"
                )
            }
            Self::Direction { iova, wanted } => {
                write!(f, "the region at {iova:#x} does not allow {wanted:?}")
            }
            Self::AcrossExtents { iova, len } => {
                write!(f, "{len} bytes at {iova:#x} are not contiguous on the bus")
            }
            Self::TailJump { claimed, accepted } => {
                write!(f, "tail jumps from {accepted} to {claimed}")
            }
            Self::Busy { id } => write!(f, "entry {id} is still in flight"),
            Self::IndexOutOfRange { index } => write!(f, "index {index} is out of range"),
            Self::Chain { head } => write!(f, "the chain at {head} does not end as it must"),
            Self::Forbidden { field } => write!(f, "{field:#x} has bits that are not allowed"),
            Self::Opcode { opcode } => write!(f, "opcode {opcode:#04x} is not allowed"),
            Self::Length { len } => write!(f, "a length of {len} bytes is not allowed"),
            Self::Namespace { id } => write!(f, "namespace {id} is not the process's"),
            Self::OutsideVolume { lba, blocks } => {
                write!(
                    f,
                    "{blocks} blocks at {} lie outside the volume",
                    lba.as_u64()
                )
            }
            Self::Spoofed { field } => write!(f, "the frame's {field:?} is not the process's own"),
        }
    }
}

impl core::error::Error for Violation {}

impl Error for Violation {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Denied
    }
}
