//! Which frame goes to which queue: five-tuple filters and the Flow Director for flows, `EtherType` filters for what the
//! kernel wants for itself.
//!
//! No filter looks at the MAC address. Without pools it need not: every frame that comes in has the port's own address, or
//! is meant for several (a broadcast to an IP address goes where that address's frames go), and a rule for another address
//! is refused. With no VLAN let in frames are untagged. So a filter on addresses, protocol and ports is exact. What is
//! ambiguous (fragments, IPv6, all else) matches no filter and goes to queue 0, which is the kernel's.
//!
//! Five-tuple filters come first. A rule that is none, or for which there is none left, goes to the Flow Director, where the
//! port was brought up [with one](crate::director): then a change may take some microseconds, and is polled. Whether
//! such a rule matches fragments, where it is about addresses only, is the card's matter: those that it does not match go to
//! queue 0 as well.

use core::task::Poll;

use parakernel_core::{
    handle::RuleId,
    mmio::{Register, Registers},
    steering::{Change, IpPrefix, Matches, PortRange, Protocol, Steering},
    time::Instant,
};

use crate::{
    device::{Device, Sharing},
    director::{Director, Entry, Field, Masks},
    error::SteerError,
    regs::QUEUES,
    regs::table::{Daqf, EtherTypeBlock, Etqf, Etqs, FiveTupleBlock, Ftqf, L34timir, Saqf, Sdpqf},
};

/// How many flow rules the port has room for without the Flow Director.
pub const FILTERS: usize = 128;

/// The queue that is never on, unless all can be claimed: what is led there is dropped (§4.6.7.1).
/// See [`Device::drop_queue`].
pub const DROP_QUEUE: u8 = 127;

/// Which of two filters that match wins: the one of a rule in force before one of a rule that was removed (§7.1.2.5).
const IN_FORCE: u64 = 7;
const REMOVED: u64 = 1;

/// What is known of a filter, in the caller's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Filter(State);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Unused,
    InForce(RuleId, Matches),
    /// Its frames go to the drop queue, where there is one, until a rule is added that some of them match.
    Removed(Matches),
}

impl Filter {
    /// Room for one, to fill the slice with that [`Filters::new`] takes.
    pub const UNUSED: Self = Self(State::Unused);
}

/// The flow rules of a port without pools.
#[derive(Debug)]
pub struct Filters<'a> {
    filters: &'a mut [Filter],
    /// Which of them are unused, and which are those of rules that were removed: a bit for each.
    unused: u128,
    removed: u128,
    director: Director<'a>,
    /// The queue of [`QueueIndex`](parakernel_core::device::QueueIndex) 0.
    first: u8,
}

/// A rule as the filter's registers hold it.
#[derive(Clone, Copy)]
struct Tuple {
    source: u32,
    destination: u32,
    ports: Sdpqf,
    tuple: Ftqf,
}

impl<'a> Filters<'a> {
    /// No rule; `filters` has room for as many as there may be, at most [`FILTERS`]. Queue 0 of those to be claimed is the
    /// queue `first`.
    #[must_use]
    pub fn new(filters: &'a mut [Filter], first: u8) -> Self {
        filters.fill(Filter::UNUSED);
        let count = filters.len().min(FILTERS);
        Self {
            filters: filters.get_mut(..count).unwrap_or_default(),
            unused: (0..count).fold(0, |bits, index| bits | 1 << index),
            removed: 0,
            director: Director::new(&mut []),
            first,
        }
    }

    /// The same, with room for filters of the Flow Director that the port was brought up with.
    #[must_use]
    pub fn with_director(self, entries: &'a mut [Entry]) -> Self {
        Self {
            director: Director::new(entries),
            ..self
        }
    }

    /// The filters of the Flow Director, for flows that no rule of the control plane's can say. Their rules are removed
    /// through [`change`](Self::change) or by itself.
    #[must_use]
    pub const fn director(&mut self) -> &mut Director<'a> {
        &mut self.director
    }

    /// Whether exactly these frames can be led to a queue. By a five-tuple filter: untagged, to one IPv4 address of the
    /// port's, of any or one protocol, to and from any or one port, from any or one address. By the Flow Director: what fits
    /// its masks.
    #[must_use]
    pub fn can_express<R: Registers>(device: &Device<'_, R>, matches: &Matches) -> bool {
        check(device, matches).is_ok()
    }

    /// Makes a change; it is in force when [`poll`](Self::poll) says so: at once, unless the Flow Director is asked.
    ///
    /// # Errors
    ///
    /// [`SteerError::Unsupported`] where the rule cannot be expressed, [`SteerError::Masks`] where the Flow Director compares
    /// other things than the rule is about, [`SteerError::NoSuchQueue`] where its queue is none that can be led to,
    /// [`SteerError::Full`] where all filters are those of rules in force, [`SteerError::Busy`] while another change is under
    /// way in the Flow Director.
    pub fn change<R: Registers>(
        &mut self,
        device: &Device<'_, R>,
        change: Change,
    ) -> Result<(), SteerError> {
        match change {
            Change::Add {
                rule,
                matches,
                queue,
            } => {
                let queue = u8::try_from(queue.index()).ok();
                let queue = queue.and_then(|queue| queue.checked_add(self.first));
                let queue = queue.filter(|&it| it < QUEUES && Some(it) != device.drop_queue());
                let queue = queue.ok_or(SteerError::NoSuchQueue)?;
                self.add(device, (rule, matches), queue)
            }
            Change::Remove { rule } => {
                self.director.settle()?;
                self.remove(device, rule);
                self.director.begin_remove(device, rule)
            }
        }
    }

    /// Looks whether the change that was made last is in force, or all rules are [restored](Self::restore); asked again, it
    /// says the same.
    ///
    /// # Errors
    ///
    /// As [`Director::poll`].
    pub fn poll<R: Registers>(
        &mut self,
        device: &Device<'_, R>,
        now: Instant,
    ) -> Poll<Result<(), SteerError>> {
        self.director.poll(device, now)
    }

    /// Tells the port of all rules again, after it was reset: their frames are dropped until they are added again. To be
    /// [polled](Self::poll) until it is done, before anything is received for a process.
    pub fn restore<R: Registers>(&mut self, device: &Device<'_, R>) {
        self.director.begin_restore();
        for index in 0..self.filters.len() {
            if let Some(State::InForce(_, matches) | State::Removed(matches)) = self.state(index) {
                self.set(index, retire(device, index, matches));
            }
        }
    }

    fn add<R: Registers>(
        &mut self,
        device: &Device<'_, R>,
        (rule, matches): (RuleId, Matches),
        queue: u8,
    ) -> Result<(), SteerError> {
        let kinds = check(device, &matches)?;
        self.director.settle()?;
        if let Some(tuple) = kinds.tuple
            && let Some(index) = self.place_for(&matches, kinds.is_for_director)
        {
            return self.write(device, (rule, matches), (index, tuple, queue));
        }
        let flow = device.director().and_then(|it| it.masks.flow(&matches));
        let flow = flow.ok_or(SteerError::Full)?;
        let begun = self.director.begin_add(device, (rule, flow), Some(queue));
        match (begun, kinds.tuple) {
            // No room there either: that of a rule that was removed.
            (Err(SteerError::Full), Some(tuple)) => {
                let index = self.place_for(&matches, false).ok_or(SteerError::Full)?;
                self.write(device, (rule, matches), (index, tuple, queue))
            }
            (begun, _) => begun.map(|()| self.release_covered(device, &matches)),
        }
    }

    /// Puts a rule in force by a five-tuple filter.
    fn write<R: Registers>(
        &mut self,
        device: &Device<'_, R>,
        (rule, matches): (RuleId, Matches),
        (index, tuple, queue): (usize, Tuple, u8),
    ) -> Result<(), SteerError> {
        self.set(index, State::InForce(rule, matches));
        write(device, index, &tuple, (queue, IN_FORCE));
        self.release_covered(device, &matches);
        Ok(())
    }

    /// The filter of the same flow that was removed, else an unused one, else any that was removed, unless the Flow Director
    /// may have room: the frames of that one then go to the kernel's queue, as those of no rule do.
    fn place_for(&self, matches: &Matches, has_other: bool) -> Option<usize> {
        let is_same = |&index: &usize| self.state(index) == Some(State::Removed(*matches));
        let same = bits(self.removed).find(is_same);
        let other = bits(self.removed).find(|_| !has_other);
        same.or_else(|| bits(self.unused).next()).or(other)
    }

    /// Filters of removed rules that the new one speaks about are of no more use.
    fn release_covered<R: Registers>(&mut self, device: &Device<'_, R>, matches: &Matches) {
        for index in bits(self.removed) {
            if matches!(self.state(index), Some(State::Removed(other)) if other.overlaps(matches)) {
                self.set(index, State::Unused);
                switch_off(device, index);
            }
        }
    }

    /// Leads the frames of a rule to the drop queue; one that is not known is out already.
    fn remove<R: Registers>(&mut self, device: &Device<'_, R>, rule: RuleId) {
        for index in 0..self.filters.len() {
            if let Some(State::InForce(id, matches)) = self.state(index)
                && id == rule
            {
                self.set(index, retire(device, index, matches));
            }
        }
    }

    /// What is known of a filter.
    fn state(&self, index: usize) -> Option<State> {
        self.filters.get(index).map(|filter| filter.0)
    }

    fn set(&mut self, index: usize, state: State) {
        let Some(filter) = self.filters.get_mut(index) else {
            return;
        };
        filter.0 = state;
        let bit = 1 << index;
        let only_if = |is_so: bool| if is_so { bit } else { 0 };
        self.unused = self.unused & !bit | only_if(state == State::Unused);
        self.removed = self.removed & !bit | only_if(matches!(state, State::Removed(_)));
    }
}

/// The numbers of the bits that are set.
fn bits(mut set: u128) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let lowest = set.trailing_zeros();
        set &= set.checked_sub(1)?;
        Some(lowest as usize)
    })
}

/// Leads the frames of a filter to the drop queue, or with those of no rule to the kernel's where there is none.
fn retire<R: Registers>(device: &Device<'_, R>, index: usize, matches: Matches) -> State {
    match (device.drop_queue(), tuple_of(&matches)) {
        (Some(queue), Some(tuple)) => {
            write(device, index, &tuple, (queue, REMOVED));
            State::Removed(matches)
        }
        _ => {
            switch_off(device, index);
            State::Unused
        }
    }
}

/// A port with its rules, as the control plane steers it.
#[derive(Debug)]
pub struct Steered<'s, 'a, R> {
    /// The port.
    pub device: &'s Device<'a, R>,
    /// Its rules.
    pub filters: &'s mut Filters<'a>,
}

impl<R: Registers> Steering for Steered<'_, '_, R> {
    type Error = SteerError;

    fn can_express(&self, matches: &Matches) -> bool {
        Filters::can_express(self.device, matches)
    }

    fn begin_change(&mut self, change: Change, _now: Instant) -> Result<(), SteerError> {
        self.filters.change(self.device, change)
    }

    fn poll_change(&mut self, _change: Change, now: Instant) -> Poll<Result<(), SteerError>> {
        self.filters.poll(self.device, now)
    }
}

/// What a rule can be: one of these at least.
struct Kinds {
    tuple: Option<Tuple>,
    is_for_director: bool,
}

/// Whether a rule can be expressed, and how.
fn check<R: Registers>(device: &Device<'_, R>, matches: &Matches) -> Result<Kinds, SteerError> {
    let is_exact = device.sharing() == Sharing::Queues
        && !device.is_promiscuous()
        && matches.mac == device.mac();
    if !is_exact {
        return Err(SteerError::Unsupported);
    }
    let masks = device.director().map(|config| config.masks);
    // Five-tuple filters would match frames of all VLANs.
    let has_tags = masks.is_some_and(|masks| masks.vlan == Field::Compared);
    let tuple = tuple_of(matches).filter(|_| !has_tags && matches.vlan.is_none());
    let is_for_director = masks.is_some_and(|masks| masks.flow(matches).is_some());
    let could_be = masks.is_some() && Masks::of(matches).is_some();
    match (tuple.is_some() || is_for_director, could_be) {
        (true, _) => Ok(Kinds {
            tuple,
            is_for_director,
        }),
        (false, true) => Err(SteerError::Masks),
        (false, false) => Err(SteerError::Unsupported),
    }
}

/// The filter of a rule; `None` where there is none that matches exactly the same.
///
/// INTERPRETATION(missing): that a filter which looks at ports matches no fragment; listed in `ASSUMPTIONS.md`.
fn tuple_of(matches: &Matches) -> Option<Tuple> {
    let destination = host(matches.address)?;
    let source = match matches.source {
        None => None,
        some => Some(host(some)?),
    };
    let port = port(matches.ports)?;
    let source_port = self::port(matches.source_ports)?;
    let has_ports = port.is_some() || source_port.is_some();
    if has_ports && matches.protocol.is_none() {
        return None;
    }
    let masked = |is_absent: bool| u64::from(is_absent);
    let protocol = match matches.protocol {
        Some(Protocol::Tcp) | None => 0,
        Some(Protocol::Udp) => 1,
    };
    // Each port's first byte lies lowest.
    let swapped = |port: Option<u16>| u64::from(port.unwrap_or(0).swap_bytes());
    Some(Tuple {
        source: source.unwrap_or(0),
        destination,
        ports: Sdpqf::default()
            .with(Sdpqf::SOURCE_PORT, swapped(source_port))
            .with(Sdpqf::DESTINATION_PORT, swapped(port)),
        tuple: Ftqf::default()
            .with(Ftqf::PROTOCOL, protocol)
            .with(Ftqf::MASK_PROTOCOL, masked(matches.protocol.is_none()))
            .with(Ftqf::MASK_SOURCE_ADDRESS, masked(source.is_none()))
            .with(Ftqf::MASK_SOURCE_PORT, masked(source_port.is_none()))
            .with(Ftqf::MASK_DESTINATION_PORT, masked(port.is_none()))
            .with(Ftqf::POOL_MASK, 1),
    })
}

/// The one address of a prefix, its first byte lowest; `None` for several, and for IPv6, which these filters do not know.
fn host(prefix: Option<IpPrefix>) -> Option<u32> {
    match prefix {
        Some(IpPrefix::V4(prefix)) if prefix.len() == 32 => {
            Some(u32::from_le_bytes(prefix.address().octets()))
        }
        Some(IpPrefix::V4(_) | IpPrefix::V6(_)) | None => None,
    }
}

/// The one port of a range, or none where it is all; `None` for several.
fn port(range: PortRange) -> Option<Option<u16>> {
    if range.is_all() {
        Some(None)
    } else if range.first() == range.last() {
        Some(Some(range.first()))
    } else {
        None
    }
}

/// Where the registers of a filter are.
fn place(index: usize) -> Option<usize> {
    FiveTupleBlock::base(u8::try_from(index).ok()?)
}

/// Writes a filter, on as its last step. One that is on already is off in between: its frames go to the kernel's queue.
fn write<R: Registers>(
    device: &Device<'_, R>,
    index: usize,
    tuple: &Tuple,
    (queue, priority): (u8, u64),
) {
    let Some(base) = place(index) else {
        return;
    };
    let row = device.row::<FiveTupleBlock>(base);
    let timir = L34timir::default()
        .with(L34timir::RESERVED_13, 0x40)
        .with(L34timir::RX_QUEUE, queue.into());
    let on = tuple
        .tuple
        .with(Ftqf::PRIORITY, priority)
        .with(Ftqf::QUEUE_ENABLE, 1);
    let is_same = row.read::<Daqf>().bits() == u64::from(tuple.destination)
        && row.read::<Saqf>().bits() == u64::from(tuple.source)
        && row.read::<Sdpqf>() == tuple.ports;
    if !is_same {
        row.write(Ftqf::default());
        row.write(Saqf::from_bits(tuple.source.into()));
        row.write(Daqf::from_bits(tuple.destination.into()));
        row.write(tuple.ports);
    }
    // The same flow changes its queue in one write.
    row.write(timir);
    row.write(on);
}

fn switch_off<R: Registers>(device: &Device<'_, R>, index: usize) {
    if let Some(base) = place(index) {
        device.row::<FiveTupleBlock>(base).write(Ftqf::default());
    }
}

/// Leads frames of an `EtherType` to `queue` by filter `index`, 0 to 7, or nowhere in particular. IPv4 and IPv6 are not for
/// these filters: they would go before the five-tuple ones (§7.1.2.3).
///
/// Nobody keeps them: after a reset of the port they are to be set again.
///
/// # Errors
///
/// [`SteerError::Unsupported`] for IP, [`SteerError::NoSuchQueue`] for a filter or a queue that there is not, or the
/// [drop queue](Device::drop_queue).
pub fn set_ether_type<R: Registers>(
    device: &Device<'_, R>,
    index: u8,
    rule: Option<(u16, u8)>,
) -> Result<(), SteerError> {
    let base = EtherTypeBlock::base(index).ok_or(SteerError::NoSuchQueue)?;
    let row = device.row::<EtherTypeBlock>(base);
    row.write(Etqf::default());
    let Some((ether_type, queue)) = rule else {
        row.write(Etqs::default());
        return Ok(());
    };
    if ether_type == 0x0800 || ether_type == 0x86DD {
        return Err(SteerError::Unsupported);
    }
    if queue >= QUEUES || device.drop_queue() == Some(queue) {
        return Err(SteerError::NoSuchQueue);
    }
    let select = Etqs::default().with(Etqs::RX_QUEUE, queue.into());
    row.write(select.with(Etqs::QUEUE_ENABLE, 1));
    let filter = Etqf::default().with(Etqf::ETYPE, ether_type.into());
    row.write(filter.with(Etqf::FILTER_ENABLE, 1));
    Ok(())
}
