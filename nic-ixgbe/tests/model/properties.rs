//! One property over driver and model: whatever is done in whatever order, every operation ends as it must, and each frame
//! reaches whom the rules in force said when it came, byte for byte, or is counted where it was dropped.
//!
//! The reference is a list of frames for each owner and a list of rules, read by etherparse. What is asked for as it cannot be
//! at the moment (a rule for a pair that is nobody's) is passed over, so that sequences shrink well.

use alloc::collections::VecDeque;
use core::task::Poll;

use parakernel_core::{
    device::QueueIndex,
    handle::RuleId,
    queue::{RxQueue, TxQueue},
    steering::Change,
};
use parakernel_mock_hw::{
    fault::{Fault, When},
    memory::Lease,
    pci::Bar,
};
use parakernel_nic_ixgbe::{
    device::{Device, Pair, PairState, Setup},
    director::{Capacity, Config, Entry, Field, Masks},
    doorbell::Tail,
    error::{PairError, RingError, SteerError},
    id::Kind as Kind82599,
    offload::{Metadata, Received},
    stats::QueueStatistics,
    steering::{DROP_QUEUE, Filter, Filters},
};
use proptest::prelude::*;

use crate::packets::{Net, Outgoing, Packet, Transport, look};
use crate::rig::{Card, LAYOUT, MAC, Machine, N, Owned, claim, poll, receive, release};
use crate::steps::{Flaw, KERNEL, Kind, PAIRS, PORT, SOURCE, Step, step};

/// The counter of what is dropped as no rule is in force any more.
const DROPPED: u8 = 15;

/// The owner of a pair, and what it is to see.
struct Seat<'a> {
    /// The end of the addresses that it sends from; nobody else ever has it.
    id: u16,
    lease: Lease,
    owned: Owned<'a, Tail<Bar>>,
    /// Frames for it, in the order in which they came.
    coming: VecDeque<Vec<u8>>,
    /// Frames of its own that are to be on the wire, in this order.
    going: VecDeque<Vec<u8>>,
    got: u64,
    missed: u64,
    counted: QueueStatistics,
    is_stuck: bool,
}

/// A rule in force.
struct Rule {
    host: u8,
    kind: Kind,
    pair: usize,
}

struct Bench<'a> {
    machine: &'a Machine,
    device: Card<'a>,
    filters: Filters<'a>,
    seats: [Option<Seat<'a>>; PAIRS],
    /// Those whose queue did not stop: the card keeps what they had.
    quarantined: Vec<Seat<'a>>,
    /// Frames that the card has not looked at, as far as is known.
    on_wire: VecDeque<Vec<u8>>,
    rules: Vec<Rule>,
    removed: Vec<(u8, Kind)>,
    /// Frames whose rule was removed, and what the card says of them.
    dropped: u64,
    counted: QueueStatistics,
    /// For all that must be unlike everything before.
    serial: u16,
    is_link_up: bool,
    /// Rules are the Flow Director's, which knows flows to one port only.
    by_director: bool,
}

fn mac_of(id: u16) -> [u8; 6] {
    let [high, low] = id.to_be_bytes();
    [2, 0xAA, 0, 0, high, low]
}

impl<'a> Bench<'a> {
    /// A port that steers by five-tuple filters, or by its Flow Director alone.
    fn new(machine: &'a Machine, by_director: bool) -> Self {
        let masks = Masks {
            source_bits: 0,
            source_port: Field::Ignored,
            ..Masks::CONNECTION
        };
        let capacity = Capacity::Small;
        let setup = Setup {
            max_frame: 9014,
            director: by_director.then_some(Config { capacity, masks }),
            ..Setup::new(Kind82599::Sfp, vec![Pair::EMPTY; PAIRS].leak())
        };
        let mut clock = machine.world.clone();
        let device = Device::bring_up(machine.card.bar0(), &mut clock, setup).unwrap();
        let tuples = if by_director { 0 } else { 128 };
        let filters = Filters::new(vec![Filter::UNUSED; tuples].leak(), 0)
            .with_director(vec![Entry::UNUSED; 16].leak());
        let mut bench = Self {
            machine,
            device,
            filters,
            seats: [(); PAIRS].map(|()| None),
            quarantined: Vec::new(),
            on_wire: VecDeque::new(),
            rules: Vec::new(),
            removed: Vec::new(),
            dropped: 0,
            counted: QueueStatistics::default(),
            serial: 0,
            is_link_up: true,
            by_director,
        };
        bench.set_link(true);
        bench.device.set_counter(DROP_QUEUE, DROPPED);
        bench.claim(KERNEL);
        bench
    }

    fn next_serial(&mut self) -> u16 {
        self.serial += 1;
        self.serial
    }

    /// A payload unlike all before.
    fn payload(&mut self, len: usize) -> Vec<u8> {
        let [high, low] = self.next_serial().to_be_bytes();
        (0..len)
            .map(|n| match n % 16 {
                0 => high,
                1 => low,
                other => (other + n / 16) as u8,
            })
            .collect()
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        let start = self.machine.world.now().as_nanos();
        match step {
            Step::Arrive { .. } => self.arrive(&step),
            Step::Burst(host, count) => (0..count).for_each(|_| {
                self.arrive(&Step::Arrive {
                    host,
                    net: Net::V4,
                    transport: Transport::Udp,
                    is_port: true,
                    is_source: true,
                    len: 8000,
                    flaw: Flaw::None,
                });
            }),
            Step::Send { .. } => self.send(&step)?,
            Step::Work(steps) => {
                self.machine.world.settle(steps);
                self.judge_wire()?;
            }
            Step::Check(pair) => self.check(pair)?,
            Step::Add { host, kind, pair } => self.add_rule(host, kind, pair)?,
            Step::Remove(host) => self.remove_rule(host)?,
            Step::Claim(pair) if self.seats[pair].is_none() => {
                if self.device.pair_state(pair as u8) == Some(PairState::Free) {
                    self.claim(pair);
                }
            }
            Step::Claim(_) => {}
            Step::Drain(pair) => self.drain(pair)?,
            Step::Release(pair) => self.release(pair)?,
            Step::Stick(pair) => self.stick(pair),
            Step::Link(is_up) => self.set_link(is_up),
            Step::Reset => self.reset()?,
        }
        let took_ns = self.machine.world.now().as_nanos() - start;
        prop_assert!(took_ns < 5_000_000_000, "{took_ns} ns");
        Ok(())
    }

    fn arrive(&mut self, step: &Step) {
        let &Step::Arrive {
            host,
            net,
            transport,
            is_port,
            is_source,
            len,
            flaw,
        } = step
        else {
            return;
        };
        let packet = Packet {
            macs: [[6; 6], MAC],
            net,
            addresses: [
                if is_source { SOURCE } else { [10, 1, 2, 3] },
                [10, 0, 0, host],
            ],
            transport,
            port: if is_port { PORT } else { PORT + 1 },
            payload: self.payload(len),
        };
        let mut frame = packet.frame();
        match flaw {
            Flaw::None => {}
            Flaw::IpSum if net == Net::V4 => frame[24] ^= 1,
            Flaw::IpSum | Flaw::L4Sum => *frame.last_mut().unwrap() ^= 0x10,
            Flaw::Tagged => drop(frame.splice(12..12, [0x81, 0, 0, 5])),
        }
        self.machine.wire.send(&frame);
        self.on_wire.push_back(frame);
    }

    /// What the card has taken in since the last time went where the rules in force lead.
    fn sync(&mut self) -> Result<(), TestCaseError> {
        while self.on_wire.len() > self.machine.wire.waiting() {
            let frame = self.on_wire.pop_front().unwrap();
            let seen = look(&frame);
            let host = seen.addresses.map(|[_, to]| to[3]);
            if seen.tag.is_some() {
                continue;
            }
            let rule = self
                .rules
                .iter()
                .find(|rule| Some(rule.host) == host && rule.kind.is_about(&seen));
            let is_removed = self
                .removed
                .iter()
                .any(|(of, kind)| Some(*of) == host && kind.is_about(&seen));
            match rule {
                None if is_removed => self.dropped += 1,
                rule => {
                    let pair = rule.map_or(KERNEL, |rule| rule.pair);
                    let seat = self.seats[pair].as_mut();
                    let seat =
                        seat.ok_or_else(|| TestCaseError::fail("a rule without an owner"))?;
                    seat.coming.push_back(frame);
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let &Step::Send {
            pair,
            net,
            transport,
            offload,
            tag,
            len,
            part,
        } = step
        else {
            return Ok(());
        };
        let payload = self.payload(len);
        let Some(seat) = &mut self.seats[pair] else {
            return Ok(());
        };
        let [high, low] = seat.id.to_be_bytes();
        let outgoing = Outgoing {
            packet: Packet {
                macs: [mac_of(seat.id), [6; 6]],
                net,
                addresses: [[10, 0, high, low], [10, 1, 2, 3]],
                transport,
                port: PORT,
                payload,
            },
            offload,
            tag,
        };
        let (bytes, header) = outgoing.given();
        let segments = bytes.len().div_ceil(part);
        let sent = seat.owned.send_with(&bytes, part, header);
        // With a context it must leave one descriptor of the ring free.
        if segments + 1 > N - 1 && sent != Ok(false) {
            prop_assert_eq!(sent, Err(RingError::Frame { segments }));
        } else if sent.map_err(fail)? {
            seat.going.extend(outgoing.expected());
        }
        Ok(())
    }

    /// What is on the wire is what the owners sent, each one's in its order.
    fn judge_wire(&mut self) -> Result<(), TestCaseError> {
        for frame in self.machine.wire.take_all() {
            let seats = self.seats.iter_mut().flatten();
            let seat = seats
                .chain(&mut self.quarantined)
                .find(|seat| frame[6..12] == mac_of(seat.id));
            let seat = seat.ok_or_else(|| TestCaseError::fail("a frame of nobody's"))?;
            let expected = seat.going.pop_front();
            let seen = look(&frame);
            prop_assert!(
                expected.as_ref() == Some(&frame),
                "{} bytes, not {:?}: {:?}",
                frame.len(),
                expected.as_ref().map(Vec::len),
                (seen, expected.as_deref().map(look))
            );
            prop_assert!(
                seen.ip_sum != Some(false) && seen.l4_sum == Some(true),
                "{seen:?}"
            );
        }
        Ok(())
    }

    /// An owner looks for frames, and gives the card all the buffers that it has.
    fn check(&mut self, pair: usize) -> Result<(), TestCaseError> {
        self.sync()?;
        self.judge_wire()?;
        let Some(seat) = &mut self.seats[pair] else {
            return Ok(());
        };
        let owned = &mut seat.owned;
        owned.tx.reclaim(&mut owned.pool).map_err(fail)?;
        for (frame, header) in receive(&mut owned.rx, &mut owned.pool).map_err(fail)? {
            while seat.coming.front().is_some_and(|next| *next != frame) {
                seat.coming.pop_front();
                seat.missed += 1;
            }
            let found = seat.coming.pop_front();
            prop_assert!(found.is_some(), "a frame that is not pair {pair}'s");
            seat.got += 1;
            let (done, seen) = (Received::from_bytes(&header).completion, look(&frame));
            let said = (done.ip_checksum(), done.l4_checksum());
            prop_assert_eq!(said, (seen.ip_sum, seen.l4_sum));
        }
        seat.owned.rx.arm(&mut seat.owned.pool);
        Ok(())
    }

    /// Nothing is on its way: what an owner did not get was dropped for want of buffers, and is counted.
    fn account(&mut self, pair: usize) -> Result<(), TestCaseError> {
        self.check(pair)?;
        let Some(seat) = &mut self.seats[pair] else {
            return Ok(());
        };
        seat.missed += seat.coming.len() as u64;
        seat.coming.clear();
        self.device.add_statistics(pair as u8, &mut seat.counted);
        let counted = (seat.counted.received, seat.counted.dropped);
        prop_assert_eq!((seat.got, seat.missed), counted, "pair {}", pair);
        Ok(())
    }

    /// Changes a rule, and waits until the change is in force.
    fn change(&mut self, change: Change) -> Result<Result<(), SteerError>, TestCaseError> {
        if self.by_director {
            // Nothing comes in while the change is under way, of which nobody knows where it goes.
            self.machine.settle();
        }
        self.sync()?;
        let (filters, device) = (&mut self.filters, &self.device);
        let begun = filters.change(device, change);
        Ok(begun.and_then(|()| poll(self.machine, |now| filters.poll(device, now))))
    }

    fn add_rule(&mut self, host: u8, kind: Kind, pair: usize) -> Result<(), TestCaseError> {
        let is_taken = self.rules.iter().any(|rule| rule.host == host);
        if is_taken || self.seats[pair].is_none() {
            return Ok(());
        }
        let added = self.change(Change::Add {
            rule: RuleId::new(host.into(), 0),
            matches: kind.matches(host),
            queue: QueueIndex::new(pair as u32),
        })?;
        if self.by_director && matches!(kind, Kind::Host | Kind::Source) {
            // A five-tuple filter could say it, but there is none.
            prop_assert_eq!(added, Err(SteerError::Full));
            return Ok(());
        }
        added.map_err(fail)?;
        self.rules.push(Rule { host, kind, pair });
        self.removed
            .retain(|(of, other)| *of != host || !kind.overlaps(*other));
        Ok(())
    }

    fn remove_rule(&mut self, host: u8) -> Result<(), TestCaseError> {
        let rule = RuleId::new(host.into(), 0);
        self.change(Change::Remove { rule })?.map_err(fail)?;
        if let Some(at) = self.rules.iter().position(|rule| rule.host == host) {
            let rule = self.rules.swap_remove(at);
            self.removed.push((host, rule.kind));
        }
        Ok(())
    }

    fn claim(&mut self, pair: usize) {
        let id = self.next_serial();
        let lease = Lease(id.into());
        self.device.set_counter(pair as u8, pair as u8);
        let terms = (lease, Metadata::Header);
        let owned = claim(self.machine, &mut self.device, pair as u8, terms).unwrap();
        let mut junk = QueueStatistics::default();
        self.device.add_statistics(pair as u8, &mut junk);
        self.seats[pair] = Some(Seat {
            id,
            lease,
            owned,
            coming: VecDeque::new(),
            going: VecDeque::new(),
            got: 0,
            missed: 0,
            counted: QueueStatistics::default(),
            is_stuck: false,
        });
    }

    /// All that an owner gave the card is sent, unless the card cannot.
    fn drain(&mut self, pair: usize) -> Result<(), TestCaseError> {
        let is_able = |seat: &Seat<'_>| !seat.is_stuck && self.is_link_up;
        if self.seats[pair].as_ref().is_some_and(is_able) {
            let drained = poll(self.machine, |_| self.device.poll_drain(pair as u8));
            drained.map_err(fail)?;
            self.judge_wire()?;
            let left = self.seats[pair].as_ref().map(|seat| seat.going.len());
            prop_assert_eq!(left, Some(0));
        }
        Ok(())
    }

    /// Revokes a lease, whatever is under way: rules first, then the queues.
    fn release(&mut self, pair: usize) -> Result<(), TestCaseError> {
        if self.seats[pair].is_none() {
            return Ok(());
        }
        let hosts: Vec<u8> = self
            .rules
            .iter()
            .filter(|rule| rule.pair == pair)
            .map(|rule| rule.host)
            .collect();
        for host in hosts {
            self.remove_rule(host)?;
        }
        let released = release(self.machine, &mut self.device, pair as u8);
        self.machine.settle();
        self.account(pair)?;
        let seat = self.seats[pair].take().unwrap();
        if seat.is_stuck {
            let is_kept = matches!(released, Err(PairError::Quarantined(_)));
            prop_assert!(is_kept, "{released:?}");
            let state = self.device.pair_state(pair as u8);
            prop_assert_eq!(state, Some(PairState::Quarantined));
            self.quarantined.push(seat);
            return Ok(());
        }
        prop_assert_eq!(released, Ok(()));
        self.bury(seat)
    }

    /// The card has let go of all that an owner had.
    fn bury(&self, seat: Seat<'_>) -> Result<(), TestCaseError> {
        self.machine.memory.end(seat.lease);
        prop_assert_eq!(seat.owned.bury(), usize::from(LAYOUT.count));
        Ok(())
    }

    fn stick(&mut self, pair: usize) {
        if let Some(seat) = &mut self.seats[pair]
            && !seat.is_stuck
        {
            seat.is_stuck = true;
            let fault = Fault::StuckQueue(pair as u16);
            self.machine.card.faults().inject(fault, When::Always);
        }
    }

    fn set_link(&mut self, is_up: bool) {
        self.machine.card.set_link(is_up);
        self.is_link_up = is_up;
        let device = &self.device;
        poll(self.machine, |_| {
            if device.link().is_up == is_up {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        });
    }

    /// Ends everybody's lease; the kernel begins anew, and all rules drop.
    fn reset(&mut self) -> Result<(), TestCaseError> {
        self.sync()?;
        self.judge_wire()?;
        self.machine.card.faults().clear_all();
        self.device.begin_reset(self.machine.world.now());
        let device = &mut self.device;
        poll(self.machine, |now| device.poll_reset(now)).map_err(fail)?;
        let (filters, device) = (&mut self.filters, &self.device);
        filters.restore(device);
        poll(self.machine, |now| filters.poll(device, now)).map_err(fail)?;
        self.judge_wire()?;
        for rule in self.rules.drain(..) {
            self.removed.push((rule.host, rule.kind));
        }
        let seats: Vec<_> = self.seats.iter_mut().filter_map(Option::take).collect();
        for seat in seats
            .into_iter()
            .chain(core::mem::take(&mut self.quarantined))
        {
            self.bury(seat)?;
        }
        self.set_link(true);
        self.machine.settle();
        // Nobody was there for what came.
        prop_assert_eq!(self.machine.wire.waiting(), 0);
        self.on_wire.clear();
        self.device.set_counter(DROP_QUEUE, DROPPED);
        let mut junk = QueueStatistics::default();
        self.device.add_statistics(DROPPED, &mut junk);
        (self.dropped, self.counted) = (0, QueueStatistics::default());
        let mut pairs = 0..PAIRS as u8;
        prop_assert!(pairs.all(|pair| self.device.pair_state(pair) == Some(PairState::Free)));
        self.claim(KERNEL);
        Ok(())
    }

    /// All that is under way ends, all of it is accounted for, and all pairs are given back.
    fn end(mut self) -> Result<(), TestCaseError> {
        self.set_link(true);
        self.machine.settle();
        // A full queue has dropped what was for it: nothing waits behind it.
        for pair in 0..PAIRS {
            self.account(pair)?;
        }
        self.machine.settle();
        for pair in 0..PAIRS {
            self.account(pair)?;
            if let Some(seat) = &self.seats[pair]
                && !seat.is_stuck
            {
                prop_assert_eq!((seat.going.len(), seat.owned.tx.in_flight()), (0, 0));
            }
        }
        self.device.add_statistics(DROPPED, &mut self.counted);
        prop_assert_eq!(self.dropped, self.counted.dropped);
        for pair in 0..PAIRS {
            self.release(pair)?;
        }
        if !self.quarantined.is_empty() {
            self.reset()?;
            self.release(KERNEL)?;
        }
        self.machine.assert_clean();
        Ok(())
    }
}

fn fail(error: impl core::fmt::Debug) -> TestCaseError {
    TestCaseError::fail(format!("{error:?}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn each_frame_reaches_its_owner_and_every_operation_ends(
        seed in any::<u64>(),
        by_director in any::<bool>(),
        steps in prop::collection::vec(step(), 0..100),
    ) {
        let machine = Machine::new(seed);
        let mut bench = Bench::new(&machine, by_director);
        for step in steps {
            bench.step(step)?;
        }
        bench.end()?;
    }
}
