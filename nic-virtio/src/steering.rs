//! Which frame goes to which queue: receive-side scaling, made exact by a key with one bit.
//!
//! RSS picks a queue by a hash over the addresses of a frame, and whoever sends can pick its source address: with a
//! common key that would be a lottery. A [key with a single bit set](OneBitKey) makes the hash's low bits a copy of seven
//! bits of the header, so each of 128 classes of destination addresses has exactly one queue, whatever the source.

use core::{net::Ipv4Addr, task::Poll};

use bitflags::bitflags;
use parakernel_core::{
    device::QueueIndex,
    handle::RuleId,
    steering::{Change, ClassSet, IpPrefix, Mac, Matches, NameGrant, OneBitKey, PortRange},
    time::Instant,
};

use crate::{control::Command, device::Device, error::CommandError, transport::Transport};

bitflags! {
    /// What is hashed, §5.1.6.4.3.1.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct HashTypes: u32 {
        /// Source and destination address of IPv4 packets.
        const IPV4 = 1 << 0;
        /// The same and the ports, of TCP over IPv4.
        const TCP_V4 = 1 << 1;
        /// The same and the ports, of UDP over IPv4.
        const UDP_V4 = 1 << 2;
        /// Source and destination address of IPv6 packets.
        const IPV6 = 1 << 3;
        /// The same and the ports, of TCP over IPv6.
        const TCP_V6 = 1 << 4;
        /// The same and the ports, of UDP over IPv6.
        const UDP_V6 = 1 << 5;
    }
}

/// Number of classes: entries of the table. Every device allows as many (§5.1.4).
pub const CLASSES: usize = OneBitKey::CLASSES;

/// Length of the key in bytes. Every device allows as many (§5.1.4).
pub const KEY_LEN: usize = 40;

/// The key: classes of IPv4 destination addresses.
pub const KEY: OneBitKey = OneBitKey::Ipv4Destination;

/// The class of an IPv4 destination address: its low seven bits, in reverse.
///
/// Addresses that are equal modulo 128 share a class.
#[must_use]
pub const fn class_of(address: [u8; 4]) -> u8 {
    let [a, b, c, d] = address;
    match KEY.class_of_address(Ipv4Addr::new(a, b, c, d)) {
        Some(class) => class,
        // The key is one that looks at addresses.
        None => 0,
    }
}

/// Where frames go: one receive queue for each class, and one for all that is not hashed.
///
/// Hashed are IPv4 packets, TCP, UDP and all others alike, fragments included; everything else (ARP, IPv6) goes to the
/// default queue. IPv6 has to stay out: under this key it would be steered by its source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Classes {
    /// Receive queue of each class: the number of its pair.
    pub pairs: [u16; CLASSES],
    /// The pair that gets frames which are not hashed.
    pub default: u16,
}

impl Classes {
    /// What is hashed. IPv4 alone: with the types for ports, the ports would be hashed too, behind the bits that count.
    pub const HASH_TYPES: HashTypes = HashTypes::IPV4;

    /// All classes to `pair`, which also gets what is not hashed.
    #[must_use]
    pub const fn all_to(pair: u16) -> Self {
        Self {
            pairs: [pair; CLASSES],
            default: pair,
        }
    }

    /// Sends the class of an IPv4 destination address to `pair`.
    pub fn set(&mut self, address: [u8; 4], pair: u16) {
        if let Some(entry) = self.pairs.get_mut(usize::from(class_of(address))) {
            *entry = pair;
        }
    }

    /// Sends all classes in `set` to `pair`.
    pub fn set_all(&mut self, set: ClassSet, pair: u16) {
        for class in set.iter() {
            if let Some(entry) = self.pairs.get_mut(usize::from(class)) {
                *entry = pair;
            }
        }
    }

    /// The largest pair named.
    pub(crate) fn largest(&self) -> u16 {
        self.pairs.iter().copied().fold(self.default, u16::max)
    }
}

/// A flow rule that is in force, or about to be, in the caller's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClassRule {
    rule: RuleId,
    classes: ClassSet,
}

/// How the last change ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Settled(Result<(), CommandError>),
    /// The change is under way; where it fails, the table becomes what it was.
    Changing,
}

/// The flow rules of a device that steers by classes of destination addresses.
///
/// Only rules about IPv4 destinations can be expressed, and only one rule for each class: see
/// [`can_express`](Self::can_express). Everything else goes to the kernel's own pair.
#[derive(Debug)]
pub struct ClassRules<'a> {
    rules: &'a mut [Option<ClassRule>],
    classes: Classes,
    /// What the device was last told.
    before: Classes,
    /// The place in `rules` that the last change wrote to, and what was there.
    undo: Option<(usize, Option<ClassRule>)>,
    /// The kernel's own pair.
    home: u16,
    /// The pair of [`QueueIndex`] 0.
    first: u16,
    state: State,
}

impl<'a> ClassRules<'a> {
    /// No rule: all frames go to the pair `home`, which the kernel keeps. Queue 0 of those to be claimed is the pair
    /// `first`. `rules` has room for as many rules as there may be.
    #[must_use]
    pub fn new(rules: &'a mut [Option<ClassRule>], home: u16, first: u16) -> Self {
        rules.fill(None);
        Self {
            rules,
            classes: Classes::all_to(home),
            before: Classes::all_to(home),
            undo: None,
            home,
            first,
            state: State::Settled(Ok(())),
        }
    }

    /// Where frames go.
    #[must_use]
    pub const fn classes(&self) -> &Classes {
        &self.classes
    }

    /// Tells the device where frames go while there is no rule, or again after it was reset.
    ///
    /// # Errors
    ///
    /// As [`Device::begin_command`].
    pub fn begin<T: Transport>(
        &mut self,
        device: &mut Device<'_, T>,
        now: Instant,
    ) -> Result<(), CommandError> {
        let classes = &self.classes;
        let pairs = u16::try_from(device.pairs()).unwrap_or(u16::MAX);
        device.begin_command(&Command::Steer { classes, pairs }, now)?;
        self.state = State::Changing;
        Ok(())
    }

    /// Whether exactly these frames can be led to a queue: all those to an IPv4 address of the device's, untagged, of
    /// classes that no rule has.
    ///
    /// Addresses that are equal modulo 128 share a class: the kernel sees to it that no two grants on a device do
    /// ([`OneBitKey::classes`]).
    #[must_use]
    pub fn can_express<T: Transport>(&self, device: &Device<'_, T>, matches: &Matches) -> bool {
        classes_of(device, matches).is_some_and(|classes| {
            let is_taken = |other: &ClassRule| other.classes.overlaps(classes);
            !self.rules.iter().flatten().any(is_taken)
        })
    }

    /// Begins a change.
    ///
    /// # Errors
    ///
    /// [`CommandError::Unsupported`] where the rule cannot be expressed or there is no room for it,
    /// [`CommandError::Argument`] where there is no such rule, and as [`Device::begin_command`].
    pub fn begin_change<T: Transport>(
        &mut self,
        device: &mut Device<'_, T>,
        change: Change,
        now: Instant,
    ) -> Result<(), CommandError> {
        if self.state == State::Changing {
            return Err(CommandError::Busy);
        }
        self.before = self.classes.clone();
        self.undo = None;
        let result = match change {
            Change::Add {
                rule,
                matches,
                queue,
            } => self.add(device, rule, &matches, queue),
            Change::Remove { rule } => self.remove(rule),
        };
        let result = result.and_then(|()| self.begin(device, now));
        if result.is_err() {
            self.undo();
        }
        result
    }

    /// Makes everything what it was before the last change.
    fn undo(&mut self) {
        self.classes = self.before.clone();
        if let Some((index, was)) = self.undo.take()
            && let Some(room) = self.rules.get_mut(index)
        {
            *room = was;
        }
    }

    /// Looks whether the change is in force. Polled again, it says the same.
    ///
    /// # Errors
    ///
    /// As [`Device::poll_command`]; frames then go where they went before, as far as the device is to be believed.
    pub fn poll_change<T: Transport>(
        &mut self,
        device: &mut Device<'_, T>,
        now: Instant,
    ) -> Poll<Result<(), CommandError>> {
        if let State::Settled(result) = self.state {
            return Poll::Ready(result);
        }
        device.poll_command(now).map(|result| {
            if result.is_err() {
                self.undo();
            } else {
                self.before = self.classes.clone();
                self.undo = None;
            }
            self.state = State::Settled(result);
            result
        })
    }

    fn add<T: Transport>(
        &mut self,
        device: &Device<'_, T>,
        rule: RuleId,
        matches: &Matches,
        queue: QueueIndex,
    ) -> Result<(), CommandError> {
        if !self.can_express(device, matches) {
            return Err(CommandError::Unsupported);
        }
        let classes = classes_of(device, matches).ok_or(CommandError::Unsupported)?;
        let pair = u16::try_from(queue.index()).ok();
        let pair = pair.and_then(|pair| pair.checked_add(self.first));
        let pair = pair.ok_or(CommandError::Argument)?;
        let index = self.rules.iter().position(Option::is_none);
        let index = index.ok_or(CommandError::Unsupported)?;
        self.replace(index, Some(ClassRule { rule, classes }));
        self.classes.set_all(classes, pair);
        Ok(())
    }

    /// Writes a place of the table; what was there.
    fn replace(&mut self, index: usize, rule: Option<ClassRule>) -> Option<ClassRule> {
        let was = core::mem::replace(self.rules.get_mut(index)?, rule);
        self.undo = Some((index, was));
        was
    }

    fn remove(&mut self, rule: RuleId) -> Result<(), CommandError> {
        let is_it = |room: &Option<ClassRule>| room.is_some_and(|other| other.rule == rule);
        let index = self.rules.iter().position(is_it);
        let index = index.ok_or(CommandError::Argument)?;
        let found = self.replace(index, None).ok_or(CommandError::Argument)?;
        self.classes.set_all(found.classes, self.home);
        Ok(())
    }
}

/// The classes of a rule that speaks of a destination alone; `None` for others.
fn classes_of<T: Transport>(device: &Device<'_, T>, matches: &Matches) -> Option<ClassSet> {
    let Some(IpPrefix::V4(prefix)) = matches.address else {
        return None;
    };
    let mac = Mac(device.limits().mac?);
    // What a rule says beyond the destination's address cannot be told by its class.
    if *matches != Matches::to(mac, IpPrefix::V4(prefix)) || !device.can_steer() {
        return None;
    }
    let names = NameGrant {
        mac,
        vlan: None,
        ipv4: Some(prefix),
        ipv6: None,
        ports: PortRange::ALL,
    };
    Some(KEY.classes(&names))
}
