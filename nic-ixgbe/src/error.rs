//! What can go wrong, one type per operation.

use core::fmt;

use parakernel_core::{
    error::{Error, ErrorKind},
    steering::Mac,
    time::Timeout,
};

/// Implements `core::error::Error` and the family's own, from a `kind` function.
macro_rules! error {
    ($name:ident) => {
        impl core::error::Error for $name {}

        impl Error for $name {
            fn kind(&self) -> ErrorKind {
                self.kind()
            }
        }
    };
}

/// What a device did to a ring that it may not. The queue is of no more use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum RingError {
    /// A head that lies beyond what the device was given, or beyond the ring.
    Head {
        /// What the device wrote.
        head: u32,
        /// Descriptors that it had.
        outstanding: u32,
    },
    /// A length of 0, or above that of a buffer.
    Length {
        /// What the device said it wrote, in bytes.
        len: u32,
        /// What it could have written.
        posted: u32,
    },
    /// A frame that goes on through every buffer that the device had.
    Endless,
    /// A frame to send that has no byte, more segments than the ring has room for, a segment that is too long, or an
    /// offload that does not fit its length.
    Frame {
        /// Its number of segments.
        segments: usize,
    },
}

impl RingError {
    /// The class of this error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Frame { .. } => ErrorKind::InvalidArgument,
            Self::Head { .. } | Self::Length { .. } | Self::Endless => ErrorKind::Protocol,
        }
    }
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head { head, outstanding } => write!(
                f,
                "the device wrote head {head} with {outstanding} descriptors outstanding"
            ),
            Self::Length { len, posted } => {
                write!(f, "the device wrote {len} bytes into a buffer of {posted}")
            }
            Self::Endless => f.write_str("a frame does not end within the ring"),
            Self::Frame { segments } => write!(f, "a frame of {segments} segments cannot be sent"),
        }
    }
}

error!(RingError);

/// Why a port could not be brought up, or reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum InitError {
    /// The register file is shorter than the port's, §8.1.
    Registers {
        /// Its length in bytes.
        len: usize,
    },
    /// The registers read as all ones: there is no port, or no longer.
    Removed,
    /// The port did not come out of reset.
    Reset(Timeout),
    /// The EEPROM was not read.
    Eeprom(Timeout),
    /// There is no EEPROM, or none that is valid.
    NoEeprom,
    /// The EEPROM's words do not add up.
    Checksum {
        /// What it says.
        stored: u16,
        /// What they need.
        computed: u16,
    },
    /// The EEPROM has a section where no word can be read, at this word.
    EepromSection(u16),
    /// The firmware found the EEPROM, or itself, at fault.
    Firmware {
        /// What it says, §8.2.3.4.10.
        code: u8,
    },
    /// DMA was not initialised.
    Dma(Timeout),
    /// The firmware did not give the MAC's registers back.
    Semaphore(Timeout),
    /// The receive path was not emptied.
    ReceivePath(Timeout),
    /// The Flow Director was not set up.
    Director(Timeout),
    /// The Flow Director cannot compare that, or not with pools.
    Masks,
    /// So many virtual functions cannot be, or not without pools.
    Functions(u8),
    /// The EEPROM holds an address that no station may have.
    Mac(Mac),
    /// Frames cannot be so long.
    MaxFrame(u16),
}

impl InitError {
    /// The class of this error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Registers { .. } => ErrorKind::Unsupported,
            Self::Removed => ErrorKind::Removed,
            Self::Reset(_)
            | Self::Eeprom(_)
            | Self::Dma(_)
            | Self::Semaphore(_)
            | Self::ReceivePath(_)
            | Self::Director(_) => ErrorKind::Timeout,
            Self::NoEeprom
            | Self::Firmware { .. }
            | Self::Checksum { .. }
            | Self::EepromSection(_) => ErrorKind::Device,
            Self::Mac(_) => ErrorKind::Protocol,
            Self::MaxFrame(_) | Self::Masks | Self::Functions(_) => ErrorKind::InvalidArgument,
        }
    }
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registers { len } => write!(f, "{len} bytes of registers are too few"),
            Self::Removed => f.write_str("the port is gone"),
            Self::Reset(timeout) => write!(f, "the port did not come out of reset: {timeout}"),
            Self::Eeprom(timeout) => write!(f, "the EEPROM was not read: {timeout}"),
            Self::NoEeprom => f.write_str("there is no valid EEPROM"),
            Self::Checksum { stored, computed } => write!(
                f,
                "the EEPROM's checksum is {stored:#06x} and should be {computed:#06x}"
            ),
            Self::EepromSection(word) => {
                write!(f, "the EEPROM cannot have a section at {word:#06x}")
            }
            Self::Firmware { code } => write!(f, "the firmware reports error {code:#x}"),
            Self::Dma(timeout) => write!(f, "DMA was not initialised: {timeout}"),
            Self::Semaphore(timeout) => write!(f, "the firmware keeps the MAC: {timeout}"),
            Self::ReceivePath(timeout) => write!(f, "the receive path stays full: {timeout}"),
            Self::Director(timeout) => write!(f, "the Flow Director was not set up: {timeout}"),
            Self::Masks => f.write_str("the Flow Director cannot compare that"),
            Self::Functions(count) => write!(f, "{count} virtual functions cannot be"),
            Self::Mac(mac) => write!(f, "{mac} is no station's address"),
            Self::MaxFrame(len) => write!(f, "frames of {len} bytes are too long"),
        }
    }
}

error!(InitError);

/// Why a virtual function could not be brought up, or did not get what it asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum VfError {
    /// The register file is shorter than the function's, §8.3.
    Registers {
        /// Its length in bytes.
        len: usize,
    },
    /// The registers read as all ones.
    Removed,
    /// The port's driver is not there, or not ready.
    NotReady(Timeout),
    /// The port's driver did not answer.
    NoAnswer(Timeout),
    /// The port's driver said no.
    Refused,
    /// The port was reset: the function has to be reset too.
    Reset,
    /// The port's driver gave the function an address that no station may have.
    Mac(Mac),
    /// The port's driver gave the function a number of queues that it cannot have.
    Queues {
        /// Transmit queues.
        transmit: u32,
        /// Receive queues.
        receive: u32,
    },
    /// More groups than a message holds, or an address that is no group's.
    Groups,
    /// Something else is asked for, or the function is not in service.
    Busy,
    /// Nothing was asked for.
    Idle,
}

impl VfError {
    /// The class of this error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Registers { .. } => ErrorKind::Unsupported,
            Self::Removed => ErrorKind::Removed,
            Self::NotReady(_) | Self::NoAnswer(_) => ErrorKind::Timeout,
            Self::Refused => ErrorKind::Denied,
            Self::Reset => ErrorKind::Device,
            Self::Mac(_) | Self::Queues { .. } => ErrorKind::Protocol,
            Self::Groups | Self::Busy | Self::Idle => ErrorKind::InvalidArgument,
        }
    }
}

impl fmt::Display for VfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registers { len } => write!(f, "{len} bytes of registers are too few"),
            Self::Removed => f.write_str("the function is gone"),
            Self::NotReady(timeout) => write!(f, "the port's driver is not ready: {timeout}"),
            Self::NoAnswer(timeout) => write!(f, "the port's driver does not answer: {timeout}"),
            Self::Refused => f.write_str("the port's driver refuses it"),
            Self::Reset => f.write_str("the port was reset"),
            Self::Mac(mac) => write!(f, "{mac} is no station's address"),
            Self::Queues { transmit, receive } => {
                write!(f, "a function has not {transmit} and {receive} queues")
            }
            Self::Groups => f.write_str("these groups do not fit into a message"),
            Self::Busy => f.write_str("something else is asked for"),
            Self::Idle => f.write_str("nothing was asked for"),
        }
    }
}

error!(VfError);

/// Why a module was not identified, or is none for the port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ModuleError {
    /// The port has no cage.
    NoCage,
    /// There is no module in the cage.
    Missing,
    /// The firmware did not give the module's bus away, or back.
    Semaphore(Timeout),
    /// The module, or something else on the bus, holds the clock down.
    Stuck,
    /// Nobody on the bus answers.
    NoAnswer,
    /// It is no SFP+ module; its identifier by SFF-8024.
    NotSfp(u8),
    /// What it says of itself does not add up.
    Checksum,
    /// It is for nothing that the port's link can be: 10GBASE-SR, 10GBASE-LR, and copper cables, passive or limiting.
    Unsupported {
        /// Which 10 Gb/s media it is for, byte 3 by SFF-8472.
        ten_gigabit: u8,
        /// Which 1 Gb/s media, byte 6.
        one_gigabit: u8,
        /// What cable it is, byte 8.
        cable: u8,
    },
}

impl ModuleError {
    /// The class of this error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NoCage | Self::NotSfp(_) | Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::Missing => ErrorKind::Removed,
            Self::Semaphore(_) => ErrorKind::Timeout,
            Self::Stuck | Self::NoAnswer => ErrorKind::Device,
            Self::Checksum => ErrorKind::Protocol,
        }
    }
}

impl fmt::Display for ModuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCage => f.write_str("the port has no cage for a module"),
            Self::Missing => f.write_str("there is no module"),
            Self::Semaphore(timeout) => write!(f, "the firmware keeps the module: {timeout}"),
            Self::Stuck => f.write_str("the module's bus is stuck"),
            Self::NoAnswer => f.write_str("the module does not answer"),
            Self::NotSfp(identifier) => write!(f, "a module of kind {identifier:#04x} is no SFP+"),
            Self::Checksum => f.write_str("what the module says of itself does not add up"),
            Self::Unsupported {
                ten_gigabit,
                one_gigabit,
                cable,
            } => write!(
                f,
                "the module is not supported: 10 Gb/s {ten_gigabit:#04x}, 1 Gb/s {one_gigabit:#04x}, cable {cable:#04x}"
            ),
        }
    }
}

error!(ModuleError);

/// Why a queue pair could not be claimed or released.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum PairError {
    /// The port has no such pair.
    NoSuchPair(u8),
    /// The pair is not in the state that the operation starts from.
    WrongState,
    /// A queue did not start or stop: the pair is quarantined with its memory until the port is reset.
    Quarantined(Timeout),
    /// The registers read as all ones.
    Removed,
}

impl PairError {
    /// The class of this error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchPair(_) | Self::WrongState => ErrorKind::InvalidArgument,
            Self::Quarantined(_) => ErrorKind::Timeout,
            Self::Removed => ErrorKind::Removed,
        }
    }
}

impl fmt::Display for PairError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchPair(pair) => write!(f, "there is no queue pair {pair}"),
            Self::WrongState => f.write_str("the queue pair is in another state"),
            Self::Quarantined(timeout) => write!(f, "a queue did not obey: {timeout}"),
            Self::Removed => f.write_str("the port is gone"),
        }
    }
}

error!(PairError);

/// Why a pool was not opened, or a rate not set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum PoolError {
    /// The port was not brought up with pools.
    NoPools,
    /// There is no such pool, or it is the kernel's.
    NoSuchPool(u8),
    /// An address that no station may have.
    Mac(Mac),
    /// The address is the port's own, another pool's, or granted to another function.
    Taken(Mac),
    /// All VLAN filters are in use.
    NoVlanFilter,
    /// All further addresses are in use.
    NoAddress,
    /// A rate of nothing, or too far below the link's.
    Rate {
        /// The rate.
        rate_mbps: u32,
    },
}

impl PoolError {
    /// The class of this error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NoPools => ErrorKind::Unsupported,
            Self::NoSuchPool(_) | Self::Mac(_) | Self::Taken(_) | Self::Rate { .. } => {
                ErrorKind::InvalidArgument
            }
            Self::NoVlanFilter | Self::NoAddress => ErrorKind::Exhausted,
        }
    }
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPools => f.write_str("the port has no pools"),
            Self::NoSuchPool(pool) => write!(f, "there is no pool {pool} to open"),
            Self::Mac(mac) => write!(f, "{mac} is no station's address"),
            Self::Taken(mac) => write!(f, "{mac} is somebody else's address"),
            Self::NoVlanFilter => f.write_str("all VLAN filters are in use"),
            Self::NoAddress => f.write_str("all further addresses are in use"),
            Self::Rate { rate_mbps } => write!(f, "{rate_mbps} Mb/s is no rate that can be set"),
        }
    }
}

error!(PoolError);

/// Why steering was not changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum SteerError {
    /// No filter matches exactly these frames.
    Unsupported,
    /// The queue is none that frames can be led to.
    NoSuchQueue,
    /// All filters are those of rules in force.
    Full,
    /// The Flow Director was brought up to compare other things than the rule is about, or it is not said what it compares.
    Masks,
    /// The Flow Director has another change under way.
    Busy,
    /// The Flow Director did not carry a command out: whether the filter is there is unknown until the port is reset.
    Director(Timeout),
    /// The Flow Director carried a command out, and says that the filter is not as it should be.
    Refused,
}

impl SteerError {
    /// The class of this error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Unsupported => ErrorKind::Unsupported,
            Self::NoSuchQueue => ErrorKind::InvalidArgument,
            Self::Full => ErrorKind::Exhausted,
            Self::Masks => ErrorKind::Unsupported,
            Self::Busy => ErrorKind::InvalidArgument,
            Self::Director(_) => ErrorKind::Timeout,
            Self::Refused => ErrorKind::Device,
        }
    }
}

impl fmt::Display for SteerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported => f.write_str("no filter matches exactly these frames"),
            Self::NoSuchQueue => f.write_str("there is no such queue to lead frames to"),
            Self::Full => f.write_str("all filters are in use"),
            Self::Masks => f.write_str("the Flow Director compares other things"),
            Self::Busy => f.write_str("the Flow Director has another change under way"),
            Self::Director(timeout) => write!(f, "the Flow Director does not obey: {timeout}"),
            Self::Refused => f.write_str("the Flow Director does not have the filter as it should"),
        }
    }
}

error!(SteerError);
