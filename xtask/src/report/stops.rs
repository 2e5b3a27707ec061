//! The attacks that the rogue process tries, and what has to stop each of them.

use crate::console::Attack;
use core::ops::Range;

/// The network card, of whose queue pairs the attacker needs one.
pub(super) const NIC: &str = "nic";
const NVME: &str = "nvme";
/// The network card where it is an 82599: attacks by what only its descriptors can say.
pub(crate) const IXGBE: &str = "ixgbe";

/// The attack that only an interrupt ends.
pub(crate) const NO_STOP: &str = "no-stop";

/// Where the kernel maps what a process has of devices; in between nothing is mapped, nor is any code or stack of its own.
const LEASES: Range<u64> = 0x40_0000_0000..0x80_0000_0000;

/// What has to stop an attack. Anything else that ends the attacker, above all a bug of its own, hides whether the attack works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// A rule of the validator's: what it says begins, and ends, so.
    Rule(&'static str, &'static str),
    /// A page fault where a lease's memory could lie.
    PageFault,
    /// Every call was refused.
    Refusal,
    /// An interrupt, once its time was over.
    Interrupt,
}

impl Stop {
    const OUTSIDE: Self = Self::Rule("", " lie outside the process's regions");
    const DIRECTION: Self = Self::Rule("the region at ", " does not allow FromDevice");
    const BUSY: Self = Self::Rule("entry ", " is still in flight");
    const TAIL: Self = Self::Rule("tail jumps from ", "");
    const FORBIDDEN: Self = Self::Rule("0x", " has bits that are not allowed");
    const LENGTH: Self = Self::Rule("a length of ", " bytes is not allowed");

    /// A part of a frame that is not the process's own.
    const fn spoofed(start: &'static str) -> Self {
        Self::Rule(start, " is not the process's own")
    }

    /// Whether this is what stopped an attack, which the kernel says in the words `by`.
    fn is(self, by: &str) -> bool {
        match self {
            Self::Rule(start, end) => by.starts_with(start) && by.ends_with(end),
            Self::PageFault => fault_address(by).is_some_and(|it| LEASES.contains(&it)),
            Self::Refusal => by.starts_with("refusing all its ") && by.ends_with(" calls"),
            Self::Interrupt => by.starts_with("an interrupt, "),
        }
    }
}

/// The address that a page fault was about.
fn fault_address(by: &str) -> Option<u64> {
    let (address, _) = by.strip_prefix("page fault at 0x")?.split_once(' ')?;
    u64::from_str_radix(address, 16).ok()
}

/// Every attack that the rogue process tries, the device that it tries it on, and what stops it, in its order.
pub(crate) const ATTACKS: [(&str, &str, Stop); 29] = [
    ("outside-regions", NVME, Stop::OUTSIDE),
    ("outside-regions", NIC, Stop::OUTSIDE),
    ("foreign-region", NVME, Stop::OUTSIDE),
    ("foreign-region", NIC, Stop::OUTSIDE),
    ("read-only-target", NVME, Stop::DIRECTION),
    ("read-only-target", NIC, Stop::DIRECTION),
    (
        "foreign-lba",
        NVME,
        Stop::Rule("", " lie outside the volume"),
    ),
    (
        "foreign-namespace",
        NVME,
        Stop::Rule("namespace ", " is not the process's"),
    ),
    (
        "forbidden-opcode",
        NVME,
        Stop::Rule("opcode ", " is not allowed"),
    ),
    ("slot-in-flight", NVME, Stop::BUSY),
    ("slot-in-flight", NIC, Stop::BUSY),
    ("tail-jump", NVME, Stop::TAIL),
    ("tail-jump", NIC, Stop::TAIL),
    ("foreign-doorbell", NVME, Stop::PageFault),
    ("foreign-doorbell", NIC, Stop::PageFault),
    ("wild-pointer", "kernel", Stop::Refusal),
    ("foreign-source", NIC, Stop::spoofed("the frame's Ipv4")),
    ("foreign-mac", NIC, Stop::spoofed("the frame's Mac")),
    ("pause", NIC, Stop::spoofed("the frame's EtherType")),
    ("lldp", NIC, Stop::spoofed("the frame's EtherType")),
    ("foreign-arp", NIC, Stop::spoofed("the frame's Arp")),
    ("legacy-descriptor", IXGBE, Stop::FORBIDDEN),
    ("header-lies", IXGBE, Stop::spoofed("the frame's Layers")),
    ("foreign-tag", IXGBE, Stop::FORBIDDEN),
    ("tiny-segments", IXGBE, Stop::FORBIDDEN),
    ("long-frame", IXGBE, Stop::LENGTH),
    (
        "endless-packet",
        IXGBE,
        Stop::Rule("the chain at ", " does not end as it must"),
    ),
    (NO_STOP, NVME, Stop::Interrupt),
    (NO_STOP, NIC, Stop::Interrupt),
];

/// What is wrong with how these attacks ended, each of which has to be tried once; those on the card only if the processes have
/// queues of its own, which `card` names then.
pub(super) fn judge(attacks: &[Attack], card: Option<&str>, failures: &mut Vec<String>) {
    for (name, device, _) in ATTACKS {
        let is_it = |attack: &&Attack| attack.name == name && attack.device == device;
        let is_wanted = match device {
            NIC => card.is_some(),
            IXGBE => card == Some(IXGBE),
            _ => true,
        };
        let wanted = usize::from(is_wanted);
        let tried = attacks.iter().filter(is_it).count();
        if tried != wanted {
            failures.push(format!(
                "attack {name} on {device} was tried {tried} times, not {wanted}"
            ));
        }
    }
    for attack in attacks {
        let mut known = ATTACKS.into_iter();
        match known.find(|(name, device, _)| (*name, *device) == (&attack.name, &attack.device)) {
            None => failures.push(format!("there is no such {attack}")),
            Some(_) if !attack.stopped => failures.push(attack.to_string()),
            Some((.., stop)) if stop.is(&attack.by) => {}
            Some((.., stop)) => failures.push(format!("{attack}, instead of {stop:?}")),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What the kernel said of all of them in a boot in which all went well.
    const BY: [&str; 29] = [
        "512 bytes at 0x99c000 lie outside the process's regions",
        "2060 bytes at 0x99c000 lie outside the process's regions",
        "512 bytes at 0x99c000 lie outside the process's regions",
        "2060 bytes at 0x99c000 lie outside the process's regions",
        "the region at 0x2000002000 does not allow FromDevice",
        "the region at 0x2000010000 does not allow FromDevice",
        "1 blocks at 17408 lie outside the volume",
        "namespace 3 is not the process's",
        "opcode 0x19 is not allowed",
        "entry 7 is still in flight",
        "entry 0 is still in flight",
        "tail jumps from 10 to 70",
        "tail jumps from 0 to 257",
        "page fault at 0x4002801000 by 0x406672 (error 0x6)",
        "page fault at 0x4002801000 by 0x406672 (error 0x6)",
        "refusing all its 16 calls",
        "the frame's Ipv4 is not the process's own",
        "the frame's Mac is not the process's own",
        "the frame's EtherType is not the process's own",
        "the frame's EtherType is not the process's own",
        "the frame's Arp is not the process's own",
        "0x1824070f1c0060 has bits that are not allowed",
        "the frame's Layers is not the process's own",
        "0x2000806b300080 has bits that are not allowed",
        "0x128380ab300080 has bits that are not allowed",
        "a length of 4000 bytes is not allowed",
        "the chain at 39 does not end as it must",
        "an interrupt, 500 ms after its queues began to be taken back",
        "an interrupt, 500 ms after its queues began to be taken back",
    ];

    /// All attacks on an 82599, each stopped by what has to stop it.
    fn stopped() -> Vec<Attack> {
        stopped_with(IXGBE)
    }

    /// All attacks with this card, each stopped by what has to stop it.
    pub(in crate::report) fn stopped_with(card: &str) -> Vec<Attack> {
        let told = ATTACKS.into_iter().zip(BY);
        let told = told.filter(|((_, device, _), _)| *device != IXGBE || card == IXGBE);
        told.map(|((name, device, _), by)| Attack {
            name: name.into(),
            device: device.into(),
            stopped: true,
            by: by.into(),
            ..Attack::default()
        })
        .collect()
    }

    fn judged(index: usize, by: &str) -> Vec<String> {
        let mut attacks = stopped();
        attacks[index].by = by.into();
        let mut failures = Vec::new();
        judge(&attacks, Some(IXGBE), &mut failures);
        failures
    }

    #[test]
    fn each_attack_has_to_be_stopped_by_what_is_there_for_that() {
        for (index, by) in BY.iter().enumerate() {
            assert!(judged(index, by).is_empty(), "{by}");
            let crashes = [
                "page fault at 0x0 by 0x406672 (error 0x4)",
                "page fault at 0x406000 by 0x406672 (error 0x7)",
                "page fault at 0x7ffcfffeffff by 0x406672 (error 0x6)",
                "illegal instruction by 0x406672",
                "stopped",
                "",
            ];
            for crash in crashes {
                assert_eq!(judged(index, crash).len(), 1, "{by}: {crash}");
            }
            for (other, (.., stop)) in BY.into_iter().zip(ATTACKS) {
                let is_same = stop == ATTACKS[index].2;
                assert_eq!(judged(index, other).is_empty(), is_same, "{by}: {other}");
            }
        }
    }
}
