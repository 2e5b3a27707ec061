//! Which attack is this life's.

use parakernel_process::Arguments;

/// What is tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Attack {
    /// DMA to an address in none of the process's regions.
    OutsideRegions,
    /// DMA to another process's region.
    ForeignRegion,
    /// DMA into a region that devices may only read.
    ReadOnlyTarget,
    /// A write behind the end of the volume.
    ForeignLba,
    /// A write to another namespace.
    ForeignNamespace,
    /// A command that leaves the volume without saying so in the fields that others have.
    ForbiddenOpcode,
    /// A second use of what the device has not finished with.
    SlotInFlight,
    /// More entries published than the rings have room for.
    TailJump,
    /// Ringing for a queue that is another's.
    ForeignDoorbell,
    /// System calls with pointers to memory that is not the process's.
    WildPointer,
    /// A frame with another process's source address.
    ForeignSource,
    /// A frame from another card's address.
    ForeignMac,
    /// A frame that has the other end of the wire stop sending, for everybody.
    Pause,
    /// A frame in which only a machine may speak of itself.
    Lldp,
    /// An ARP message that gives another's address away.
    ForeignArp,
    /// A descriptor of the 82599's older format, which inserts a checksum wherever it says.
    LegacyDescriptor,
    /// Lengths of headers that have the 82599 insert a checksum into an address.
    HeaderLies,
    /// A tag of another VLAN, inserted by the 82599.
    ForeignTag,
    /// A packet that the 82599 is to cut into crumbs.
    TinySegments,
    /// A frame longer than any.
    LongFrame,
    /// A packet of more parts than the 82599 can take, which hangs it.
    EndlessPacket,
    /// Going on, whatever becomes of the leases.
    NoStop,
}

/// What is attacked by way of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    /// The storage controller.
    Nvme,
    /// The network card.
    Nic,
    /// The network card, where it is an 82599.
    Ixgbe,
    /// System calls that have to do with no device.
    Kernel,
}

/// All attacks, one a life.
const LIVES: [(Attack, Target); 29] = [
    (Attack::OutsideRegions, Target::Nvme),
    (Attack::OutsideRegions, Target::Nic),
    (Attack::ForeignRegion, Target::Nvme),
    (Attack::ForeignRegion, Target::Nic),
    (Attack::ReadOnlyTarget, Target::Nvme),
    (Attack::ReadOnlyTarget, Target::Nic),
    (Attack::ForeignLba, Target::Nvme),
    (Attack::ForeignNamespace, Target::Nvme),
    (Attack::ForbiddenOpcode, Target::Nvme),
    (Attack::SlotInFlight, Target::Nvme),
    (Attack::SlotInFlight, Target::Nic),
    (Attack::TailJump, Target::Nvme),
    (Attack::TailJump, Target::Nic),
    (Attack::ForeignDoorbell, Target::Nvme),
    (Attack::ForeignDoorbell, Target::Nic),
    (Attack::WildPointer, Target::Kernel),
    (Attack::ForeignSource, Target::Nic),
    (Attack::ForeignMac, Target::Nic),
    (Attack::Pause, Target::Nic),
    (Attack::Lldp, Target::Nic),
    (Attack::ForeignArp, Target::Nic),
    (Attack::LegacyDescriptor, Target::Ixgbe),
    (Attack::HeaderLies, Target::Ixgbe),
    (Attack::ForeignTag, Target::Ixgbe),
    (Attack::TinySegments, Target::Ixgbe),
    (Attack::LongFrame, Target::Ixgbe),
    (Attack::EndlessPacket, Target::Ixgbe),
    (Attack::NoStop, Target::Nvme),
    (Attack::NoStop, Target::Nic),
];

impl Attack {
    /// Its name in the manifest and on the console.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::OutsideRegions => "outside-regions",
            Self::ForeignRegion => "foreign-region",
            Self::ReadOnlyTarget => "read-only-target",
            Self::ForeignLba => "foreign-lba",
            Self::ForeignNamespace => "foreign-namespace",
            Self::ForbiddenOpcode => "forbidden-opcode",
            Self::SlotInFlight => "slot-in-flight",
            Self::TailJump => "tail-jump",
            Self::ForeignDoorbell => "foreign-doorbell",
            Self::WildPointer => "wild-pointer",
            Self::ForeignSource => "foreign-source",
            Self::ForeignMac => "foreign-mac",
            Self::Pause => "pause",
            Self::Lldp => "lldp",
            Self::ForeignArp => "foreign-arp",
            Self::LegacyDescriptor => "legacy-descriptor",
            Self::HeaderLies => "header-lies",
            Self::ForeignTag => "foreign-tag",
            Self::TinySegments => "tiny-segments",
            Self::LongFrame => "long-frame",
            Self::EndlessPacket => "endless-packet",
            Self::NoStop => "no-stop",
        }
    }
}

impl Target {
    /// Its name as an argument and on the console.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nvme => "nvme",
            Self::Nic => "nic",
            Self::Ixgbe => "ixgbe",
            Self::Kernel => "kernel",
        }
    }

    /// Whether the process has one.
    fn is_there(self, arguments: Arguments) -> bool {
        match self {
            Self::Nvme => arguments.value("nvme").is_some() && arguments.value("volumes").is_some(),
            Self::Nic => arguments.value("nic").is_some() && arguments.value("ip").is_some(),
            Self::Ixgbe => {
                Self::Nic.is_there(arguments) && arguments.value("card") == Some("ixgbe")
            }
            Self::Kernel => true,
        }
    }
}

/// The attack of life number `life` among those that `only` leaves, where the process has the device; `None` after the last.
pub(crate) fn choose(arguments: Arguments) -> Option<(Attack, Target)> {
    let only = arguments.value("only");
    let is_wanted = |attack: &Attack, target: &Target| {
        only.is_none_or(|only| {
            let mut wanted = only.split(',').filter_map(|pair| pair.split_once(':'));
            wanted.any(|pair| pair == (attack.name(), target.name()))
        })
    };
    let mut left = LIVES
        .into_iter()
        .filter(|(attack, target)| target.is_there(arguments) && is_wanted(attack, target));
    let life = arguments.parse("life").unwrap_or(0);
    left.nth(life)
}
