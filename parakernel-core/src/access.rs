//! How a queue reaches a process: the four access modes, and the function that chooses one.
//!
//! What real hardware lets one give away safely differs per device. A driver states facts ([`Isolation`]), the kernel's
//! owner states what must hold ([`Policy`]), and [`choose`] takes the cheapest mode that is sound under both. A process
//! may ask for a stricter mode, never for a weaker one.
//!
//! | mode | who checks DMA | kernel on the data path |
//! |---|---|---|
//! | [`Direct`](AccessMode::Direct) | the IOMMU | not at all |
//! | [`Sealed`](AccessMode::Sealed) | the kernel, once, when it fills the descriptors | not at all |
//! | [`Checked`](AccessMode::Checked) | the kernel, copying each entry | one call per queue pair and batch |
//! | [`Virtual`](AccessMode::Virtual) | the kernel, copying the data | per batch |
//!
//! ```
//! use parakernel_core::access::{AccessMode, Isolation, Policy, Side, choose};
//!
//! let nic = Isolation::STEERS_EXACTLY | Isolation::FIXED_DESCRIPTORS | Isolation::OWN_DOORBELL_PAGE;
//! let fastest = AccessMode::Direct;
//! assert_eq!(choose(Side::Receive, nic, Policy::INTEGRITY, fastest), AccessMode::Sealed);
//! assert_eq!(choose(Side::Transmit, nic, Policy::INTEGRITY, fastest), AccessMode::Checked);
//! assert_eq!(choose(Side::Transmit, nic, Policy::NO_SPOOF, fastest), AccessMode::Virtual);
//! ```

use core::fmt;

use bitflags::bitflags;

/// How a queue reaches a process; in the order of growing strictness and cost.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u8)]
pub enum AccessMode {
    /// The process maps rings and doorbell, writable; an IOMMU confines the device.
    Direct,
    /// The process maps descriptors that the kernel filled once, read-only, and an index ring and its own doorbell page.
    Sealed,
    /// The process maps a shadow ring; the kernel copies, validates and translates each entry into the hardware ring.
    Checked,
    /// The process maps a software queue; the kernel copies the data.
    Virtual,
}

impl AccessMode {
    /// All modes, the cheapest first.
    pub const ALL: [Self; 4] = [Self::Direct, Self::Sealed, Self::Checked, Self::Virtual];
}

/// Which queue of a device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Side {
    /// A network receive queue.
    Receive,
    /// A network transmit queue.
    Transmit,
    /// A storage queue pair.
    Block,
}

bitflags! {
    /// Facts about one queue of one device on one platform. Each that holds opens cheaper modes; none closes one.
    ///
    /// A fact that nobody knows does not hold.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Isolation: u16 {
        /// The process that gets the queue gets the whole function with it.
        const WHOLE_FUNCTION = 1 << 0;
        /// The function is alone in a translating IOMMU's group: access control services on, address translation
        /// services off. (A virtio device without ACCESS_PLATFORM bypasses the IOMMU.)
        const OWN_GROUP = 1 << 1;
        /// Interrupts are remapped, and their source is checked.
        const REMAPPED_INTERRUPTS = 1 << 2;
        /// The function's domain holds nothing that the kernel believes and the device can write, such as admin
        /// completions or queue contexts.
        const NO_KERNEL_STRUCTURES = 1 << 3;
        /// The page of the queue's doorbell holds nothing else: no ring base, no doorbell of another owner.
        const OWN_DOORBELL_PAGE = 1 << 4;
        /// A function that hangs disturbs no other.
        const CONTAINS_HANGS = 1 << 5;
        /// The device never writes descriptors, each chain is one descriptor, the three areas of the ring lie on pages
        /// of their own, and neither indirect descriptors nor notification data are in use.
        const FIXED_DESCRIPTORS = 1 << 6;
        /// An index or length that makes no sense stops the queue it was given to at most.
        const CONTAINS_BAD_INDEX = 1 << 7;
        /// A full receive queue drops frames; it does not make others wait.
        const DROPS_WHEN_FULL = 1 << 8;
        /// Frames come to the queue by exact rules about addresses, never by learning or by a hash of the sender's choice.
        const STEERS_EXACTLY = 1 << 9;
        /// The device drops frames that leave with another's addresses, PAUSE and LLDP among them.
        const FILTERS_SPOOFING = 1 << 10;
        /// A frame may be sent from two buffers, so that the kernel can put a checked copy of its headers in front.
        const SPLITS_FRAMES = 1 << 11;
    }
}

bitflags! {
    /// What must hold beside integrity, which always must: no foreign memory, blocks or frames.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Policy: u8 {
        /// A process cannot stop another's queue.
        const AVAILABILITY = 1 << 0;
        /// A process cannot send with another's addresses, nor PAUSE, LLDP or foreign ARP.
        const NO_SPOOF = 1 << 1;
    }
}

impl Policy {
    /// Nothing beside integrity.
    pub const INTEGRITY: Self = Self::empty();
}

/// What keeps a mode from being sound.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Obstacle {
    /// The mode does not exist for this kind of queue.
    NotThisQueue,
    /// Other owners use the same function.
    SharedFunction,
    /// No IOMMU confines the function alone.
    NoOwnGroup,
    /// The function could forge interrupts.
    ForgedInterrupts,
    /// The function could write what the kernel believes.
    KernelStructures,
    /// The doorbell's page holds more than the doorbell.
    SharedDoorbell,
    /// The device writes descriptors, so that what was checked does not last.
    ChangingDescriptors,
    /// Frames cannot be led to the queue exactly.
    Steering,
    /// The process could hang other functions.
    SpreadingHang,
    /// The process could break the device with an index.
    BadIndex,
    /// The process could make others' frames wait.
    Blocking,
    /// Nobody would notice spoofed frames.
    Spoofing,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotThisQueue => "there is no such mode for this kind of queue",
            Self::SharedFunction => "the function has other users",
            Self::NoOwnGroup => "no IOMMU confines the function alone",
            Self::ForgedInterrupts => "interrupts are not remapped",
            Self::KernelStructures => "the device could write what the kernel believes",
            Self::SharedDoorbell => "the doorbell shares its page",
            Self::ChangingDescriptors => "the device rewrites descriptors",
            Self::Steering => "frames cannot be steered exactly",
            Self::SpreadingHang => "a hang would spread to other functions",
            Self::BadIndex => "a bad index would break the device",
            Self::Blocking => "a full queue would block others",
            Self::Spoofing => "spoofed frames would go unnoticed",
        })
    }
}

/// Who looks at the addresses that a frame is sent with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum SourceCheck {
    /// Nobody: the policy does not ask for it.
    Unchecked,
    /// The device's filter.
    Device,
    /// The kernel, on a copy of the headers that it sends in their place.
    HeaderCopy,
    /// The kernel, on the copy of the whole frame.
    FrameCopy,
}

/// The cheapest mode that is sound, `at_least` as strict as the process asked for.
#[must_use]
pub fn choose(
    side: Side,
    isolation: Isolation,
    policy: Policy,
    at_least: AccessMode,
) -> AccessMode {
    let strict_enough = AccessMode::ALL.into_iter().filter(|mode| *mode >= at_least);
    let mut sound = strict_enough.filter(|mode| obstacle(*mode, side, isolation, policy).is_none());
    sound.next().unwrap_or(AccessMode::Virtual)
}

/// The first reason why `mode` would not be sound, or `None` where it is.
#[must_use]
pub fn obstacle(
    mode: AccessMode,
    side: Side,
    isolation: Isolation,
    policy: Policy,
) -> Option<Obstacle> {
    let applies = |rule: &&Rule| {
        rule.mode == mode && rule.sides.contains(&side) && policy.contains(rule.policy)
    };
    let mut broken = RULES
        .iter()
        .filter(applies)
        .filter(|rule| !isolation.intersects(rule.facts));
    broken.next().map(|rule| rule.otherwise)
}

/// Who checks the addresses of frames sent in `mode`.
#[must_use]
pub fn source_check(mode: AccessMode, isolation: Isolation, policy: Policy) -> SourceCheck {
    if mode == AccessMode::Virtual {
        SourceCheck::FrameCopy
    } else if !policy.contains(Policy::NO_SPOOF) {
        SourceCheck::Unchecked
    } else if isolation.contains(Isolation::FILTERS_SPOOFING) {
        SourceCheck::Device
    } else {
        SourceCheck::HeaderCopy
    }
}

/// A condition for a mode: on these sides, under this policy, one of the facts must hold.
struct Rule {
    mode: AccessMode,
    sides: &'static [Side],
    policy: Policy,
    facts: Isolation,
    otherwise: Obstacle,
}

const fn rule(
    mode: AccessMode,
    sides: &'static [Side],
    policy: Policy,
    facts: Isolation,
    otherwise: Obstacle,
) -> Rule {
    Rule {
        mode,
        sides,
        policy,
        facts,
        otherwise,
    }
}

/// All conditions; a mode is sound where none of its own is broken.
#[rustfmt::skip]
const RULES: &[Rule] = {
    use AccessMode::{Checked, Direct, Sealed};
    const ALL: &[Side] = &[Side::Receive, Side::Transmit, Side::Block];
    const NOT_RX: &[Side] = &[Side::Transmit, Side::Block];
    const RX: &[Side] = &[Side::Receive];
    const TX: &[Side] = &[Side::Transmit];
    const ALWAYS: Policy = Policy::INTEGRITY;
    const AVAILABLE: Policy = Policy::AVAILABILITY;
    const NO_SPOOF: Policy = Policy::NO_SPOOF;
    const COPY: Isolation = Isolation::FILTERS_SPOOFING.union(Isolation::SPLITS_FRAMES);
    &[
        rule(Direct, ALL, ALWAYS, Isolation::WHOLE_FUNCTION, Obstacle::SharedFunction),
        rule(Direct, ALL, ALWAYS, Isolation::OWN_GROUP, Obstacle::NoOwnGroup),
        rule(Direct, ALL, ALWAYS, Isolation::REMAPPED_INTERRUPTS, Obstacle::ForgedInterrupts),
        rule(Direct, ALL, ALWAYS, Isolation::NO_KERNEL_STRUCTURES, Obstacle::KernelStructures),
        rule(Direct, ALL, ALWAYS, Isolation::OWN_DOORBELL_PAGE, Obstacle::SharedDoorbell),
        rule(Direct, RX, ALWAYS, Isolation::STEERS_EXACTLY, Obstacle::Steering),
        rule(Direct, ALL, AVAILABLE, Isolation::CONTAINS_HANGS, Obstacle::SpreadingHang),
        rule(Direct, TX, NO_SPOOF, Isolation::FILTERS_SPOOFING, Obstacle::Spoofing),

        rule(Sealed, NOT_RX, ALWAYS, Isolation::empty(), Obstacle::NotThisQueue),
        rule(Sealed, RX, ALWAYS, Isolation::OWN_DOORBELL_PAGE, Obstacle::SharedDoorbell),
        rule(Sealed, RX, ALWAYS, Isolation::FIXED_DESCRIPTORS, Obstacle::ChangingDescriptors),
        rule(Sealed, RX, ALWAYS, Isolation::STEERS_EXACTLY, Obstacle::Steering),
        rule(Sealed, RX, AVAILABLE, Isolation::CONTAINS_BAD_INDEX, Obstacle::BadIndex),
        rule(Sealed, RX, AVAILABLE, Isolation::DROPS_WHEN_FULL, Obstacle::Blocking),

        rule(Checked, RX, ALWAYS, Isolation::STEERS_EXACTLY, Obstacle::Steering),
        rule(Checked, RX, AVAILABLE, Isolation::DROPS_WHEN_FULL, Obstacle::Blocking),
        rule(Checked, TX, NO_SPOOF, COPY, Obstacle::Spoofing),
    ]
};

#[cfg(test)]
mod tests {
    use super::*;

    const SIDES: [Side; 3] = [Side::Receive, Side::Transmit, Side::Block];

    fn policies() -> impl Iterator<Item = Policy> {
        (0..=Policy::all().bits()).map(Policy::from_bits_truncate)
    }

    fn isolations() -> impl Iterator<Item = Isolation> {
        (0..=Isolation::all().bits()).map(Isolation::from_bits_truncate)
    }

    /// Soundness as ARCHITECTURE puts it, one sentence after the other.
    fn is_sound(mode: AccessMode, side: Side, has: Isolation, policy: Policy) -> bool {
        let available = policy.contains(Policy::AVAILABILITY);
        let spoof_safe = !policy.contains(Policy::NO_SPOOF)
            || side != Side::Transmit
            || has.contains(Isolation::FILTERS_SPOOFING);
        let steered = side != Side::Receive || has.contains(Isolation::STEERS_EXACTLY);
        let waits_for_nobody =
            !available || side != Side::Receive || has.contains(Isolation::DROPS_WHEN_FULL);
        match mode {
            AccessMode::Direct => {
                let confined = Isolation::WHOLE_FUNCTION
                    | Isolation::OWN_GROUP
                    | Isolation::REMAPPED_INTERRUPTS
                    | Isolation::NO_KERNEL_STRUCTURES
                    | Isolation::OWN_DOORBELL_PAGE;
                let hangs_alone = !available || has.contains(Isolation::CONTAINS_HANGS);
                has.contains(confined) && hangs_alone && spoof_safe && steered
            }
            AccessMode::Sealed => {
                let fixed = Isolation::FIXED_DESCRIPTORS | Isolation::OWN_DOORBELL_PAGE;
                let index_is_harmless = !available || has.contains(Isolation::CONTAINS_BAD_INDEX);
                side == Side::Receive
                    && has.contains(fixed)
                    && steered
                    && index_is_harmless
                    && waits_for_nobody
            }
            AccessMode::Checked => {
                let copied = has.contains(Isolation::SPLITS_FRAMES);
                (spoof_safe || copied) && steered && waits_for_nobody
            }
            AccessMode::Virtual => true,
        }
    }

    #[test]
    fn the_cheapest_sound_mode_is_chosen_for_every_device_and_policy() {
        for has in isolations() {
            for policy in policies() {
                for side in SIDES {
                    for at_least in AccessMode::ALL {
                        let mut modes =
                            AccessMode::ALL.into_iter().filter(|mode| *mode >= at_least);
                        let cheapest = modes.find(|mode| is_sound(*mode, side, has, policy));
                        let chosen = choose(side, has, policy, at_least);
                        assert_eq!(Some(chosen), cheapest, "{side:?} {has:?} {policy:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn no_fact_closes_a_mode_and_no_policy_opens_one() {
        for has in isolations() {
            for policy in policies() {
                for side in SIDES {
                    let chosen = choose(side, has, policy, AccessMode::Direct);
                    for fact in Isolation::all().iter() {
                        assert!(choose(side, has | fact, policy, AccessMode::Direct) <= chosen);
                    }
                    for stricter in policies() {
                        let under = choose(side, has, policy | stricter, AccessMode::Direct);
                        assert!(under >= chosen);
                    }
                }
            }
        }
    }

    /// With every fact but one, under every policy: what is left, and why.
    #[test]
    fn each_missing_fact_has_its_downgrade() {
        use AccessMode::{Checked, Direct, Sealed, Virtual};
        let expected = [
            (Isolation::WHOLE_FUNCTION, [Sealed, Checked, Checked]),
            (Isolation::OWN_GROUP, [Sealed, Checked, Checked]),
            (Isolation::REMAPPED_INTERRUPTS, [Sealed, Checked, Checked]),
            (Isolation::NO_KERNEL_STRUCTURES, [Sealed, Checked, Checked]),
            (Isolation::OWN_DOORBELL_PAGE, [Checked, Checked, Checked]),
            (Isolation::CONTAINS_HANGS, [Sealed, Checked, Checked]),
            (Isolation::FIXED_DESCRIPTORS, [Direct, Direct, Direct]),
            (Isolation::CONTAINS_BAD_INDEX, [Direct, Direct, Direct]),
            (Isolation::DROPS_WHEN_FULL, [Direct, Direct, Direct]),
            (Isolation::STEERS_EXACTLY, [Virtual, Direct, Direct]),
            (Isolation::FILTERS_SPOOFING, [Direct, Checked, Direct]),
            (Isolation::SPLITS_FRAMES, [Direct, Direct, Direct]),
        ];
        for (missing, modes) in expected {
            let has = Isolation::all() - missing;
            let chosen = SIDES.map(|side| choose(side, has, Policy::all(), Direct));
            assert_eq!(chosen, modes, "without {missing:?}");
        }
        assert_eq!(expected.len(), Isolation::all().iter().count());
    }

    /// A shared function, with every fact but one, under every policy.
    #[test]
    fn each_missing_fact_has_its_downgrade_on_a_shared_function() {
        use AccessMode::{Checked, Sealed, Virtual};
        let shared = Isolation::all() - Isolation::WHOLE_FUNCTION;
        let receive = |missing| choose(Side::Receive, shared - missing, Policy::all(), Sealed);
        assert_eq!(receive(Isolation::empty()), Sealed);
        assert_eq!(receive(Isolation::FIXED_DESCRIPTORS), Checked);
        assert_eq!(receive(Isolation::OWN_DOORBELL_PAGE), Checked);
        assert_eq!(receive(Isolation::CONTAINS_BAD_INDEX), Checked);
        assert_eq!(receive(Isolation::DROPS_WHEN_FULL), Virtual);
        assert_eq!(receive(Isolation::STEERS_EXACTLY), Virtual);
        let transmit = |missing| choose(Side::Transmit, shared - missing, Policy::all(), Sealed);
        assert_eq!(transmit(Isolation::empty()), Checked);
        assert_eq!(transmit(Isolation::FILTERS_SPOOFING), Checked);
        assert_eq!(transmit(Isolation::SPLITS_FRAMES), Checked);
        assert_eq!(
            transmit(Isolation::FILTERS_SPOOFING | Isolation::SPLITS_FRAMES),
            Virtual
        );
    }

    #[test]
    fn somebody_checks_addresses_whenever_the_policy_says_so() {
        for has in isolations() {
            for policy in policies() {
                let mode = choose(Side::Transmit, has, policy, AccessMode::Direct);
                let checked = source_check(mode, has, policy) != SourceCheck::Unchecked;
                assert!(checked || !policy.contains(Policy::NO_SPOOF));
                if source_check(mode, has, policy) == SourceCheck::HeaderCopy {
                    assert_eq!(mode, AccessMode::Checked);
                    assert!(has.contains(Isolation::SPLITS_FRAMES));
                }
            }
        }
    }

    #[test]
    fn every_obstacle_is_met_somewhere() {
        let mut met = std::collections::HashSet::new();
        for missing in Isolation::all().iter() {
            for mode in AccessMode::ALL {
                for side in SIDES {
                    let has = Isolation::all() - missing;
                    met.extend(obstacle(mode, side, has, Policy::all()));
                }
            }
        }
        met.extend(obstacle(
            AccessMode::Checked,
            Side::Transmit,
            Isolation::empty(),
            Policy::all(),
        ));
        let expected: std::collections::HashSet<_> =
            RULES.iter().map(|rule| rule.otherwise).collect();
        assert_eq!(met, expected);
    }
}
