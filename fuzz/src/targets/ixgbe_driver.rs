//! The 82599 driver against a port that lies: registers that say anything, write-backs of anything.
//!
//! The port is brought up, pairs are claimed, used and given back, flows are steered and the port is reset, in any order. The
//! driver may fail, with an error. It may not panic, wait longer than its own limits allow, go on without end, lose or double
//! a buffer, take back what the port may still have, or break the few rules that hold whatever the port says.

mod port;
mod seat;

use core::{cell::RefCell, task::Poll, time::Duration};

use embedded_hal::delay::DelayNs;
use parakernel_core::{
    device::QueueIndex,
    handle::RuleId,
    steering::{Change, IpPrefix, Ipv4Prefix, Mac, Matches, PortRange, Protocol, Vlan},
    time::Instant,
};
use parakernel_nic_ixgbe::{
    device::{Device, Pair, PairState, Setup, Sharing, Vector},
    director::{Capacity, Config, Entry, Masks},
    error::{ModuleError, SteerError},
    filter::Reach,
    functions::{Event, Function, Functions, Grant, Groups},
    hang::Watch,
    id::Kind,
    offload::Metadata,
    pool::PoolNames,
    stats::{PortStatistics, QueueStatistics},
    steering::{Filter, Filters, set_ether_type},
};

use super::any_answer;
use crate::{Report, Target, input::Input};
use port::Port;
use seat::{BUFFERS, Memory, Seat};

pub(super) const TARGET: Target = Target {
    name: "ixgbe_driver",
    run,
    is_validator: false,
    max_len: 512,
};

/// Pairs that have owners here.
const SEATS: usize = 2;
/// The longest that bring-up may take: every step as long as it may.
const LONGEST: u64 = 5_000_000_000;
/// Operations after bring-up.
const OPERATIONS: usize = 64;

/// Virtual functions of a port with pools, at times.
const FUNCTIONS: u8 = 4;
/// The address of pools that the kernel opens itself.
const POOL_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// A clock that runs only while somebody waits.
#[derive(Debug, Default)]
struct Clock(u64);

impl DelayNs for Clock {
    fn delay_ns(&mut self, ns: u32) {
        self.0 += u64::from(ns);
        assert!(self.0 < LONGEST, "a wait without a bound");
    }
}

fn run(bytes: &[u8]) -> Report {
    let input = RefCell::new(Input::new(bytes));
    let port = Port::new(&input);
    let memory = [0, 1].map(Memory::new);
    let mut words = [[0; BUFFERS.count as usize]; SEATS];
    let [first, second] = words.each_mut();
    let seats = [(&memory[0], first), (&memory[1], second)]
        .map(|(memory, words)| Seat::new(memory, memory.pool(words)));
    let mut pairs = [Pair::EMPTY; 12];
    let setup = setup(&mut pairs, &mut input.borrow_mut());
    let mut report = Report::default();
    let device = Device::bring_up(&port, &mut Clock::default(), setup);
    report.note("brought up", device.is_ok());
    if let Ok(device) = device {
        port.choose_distance(&[300, 30, 8, 2000]);
        let (mut filters, mut entries) = ([Filter::UNUSED; 4], [Entry::UNUSED; 4]);
        let mut functions = [Function::EMPTY; FUNCTIONS as usize];
        let run = Run {
            watches: [Watch::NEW; SEATS],
            functions: Functions::new(&mut functions),
            granted: [false; FUNCTIONS as usize],
            port: &port,
            device,
            filters: Filters::new(&mut filters, 0).with_director(&mut entries),
            seats,
            input: &input,
            report: &mut report,
            now: Instant::default(),
            is_in_service: true,
        };
        run.drive();
    }
    report
}

fn setup<'a>(pairs: &'a mut [Pair], input: &mut Input<'_>) -> Setup<'a> {
    let choice = input.byte();
    let director = Config {
        capacity: Capacity::Small,
        masks: Masks::CONNECTION,
    };
    Setup {
        sharing: if choice & 1 == 0 {
            Sharing::Queues
        } else {
            Sharing::Pools
        },
        max_frame: if choice & 2 == 0 { 1514 } else { 9014 },
        functions: if choice & 9 == 9 { FUNCTIONS } else { 0 },
        director: (choice & 5 == 4).then_some(director),
        ..Setup::new(Kind::Sfp, pairs)
    }
}

/// A port in service, and who uses it.
struct Run<'a, 'r> {
    port: &'a Port<'a>,
    device: Device<'a, &'a Port<'a>>,
    filters: Filters<'a>,
    watches: [Watch; SEATS],
    functions: Functions<'a>,
    /// Which functions may have their address.
    granted: [bool; FUNCTIONS as usize],
    seats: [Seat<'a>; SEATS],
    input: &'a RefCell<Input<'a>>,
    report: &'r mut Report,
    now: Instant,
    /// Not after a reset that failed.
    is_in_service: bool,
}

impl Run<'_, '_> {
    fn drive(mut self) {
        for _ in 0..OPERATIONS {
            if self.input.borrow().is_empty() {
                break;
            }
            let choice = self.input.borrow_mut().byte();
            // Mostly a pair that has a seat, now and then one that is not there.
            let seat = [0, 1, 0, 1, 0, 1, 2, 15][usize::from(choice >> 5)];
            let pair = self.first_pair() + seat;
            match choice & 31 {
                0..4 => self.claim(pair),
                4..14 => self.work(seat % 2),
                14..17 => self.release(pair),
                17..21 => self.steer(choice >> 4),
                21..23 => self.ask(choice >> 4),
                23..26 => self.set(choice >> 4),
                26 => self.use_pools(choice >> 4),
                27 | 30 => self.serve_functions(choice >> 5),
                28..30 => any_answer(self.device.poll_drain(pair)),
                _ => self.reset(),
            }
        }
        self.end();
    }

    /// The first pair that is not a virtual function's.
    const fn first_pair(&self) -> u8 {
        2 * self.device.functions()
    }

    fn claim(&mut self, pair: u8) {
        let metadata = self
            .input
            .borrow_mut()
            .choose(&[Metadata::Header, Metadata::None]);
        let before = self.device.pair_state(pair);
        let seat = usize::from(pair - self.first_pair());
        let Some(seat) = self.seats.get_mut(seat) else {
            assert!(before.is_none() || pair < self.device.pairs());
            return;
        };
        if seat.is_taken() {
            // Nothing is lent twice.
            let is_claimable = before == Some(PairState::Free) && self.is_in_service;
            assert!(!is_claimable, "the port has the memory still");
            return;
        }
        let rings = seat.rings();
        let begun = self
            .device
            .begin_claim(pair, rings, Vector::new(pair), self.now);
        let is_right = before == Some(PairState::Free) && self.is_in_service;
        assert_eq!(begun.is_ok(), is_right, "{before:?}");
        if begun.is_err() {
            return;
        }
        seat.prepare(self.port, pair, metadata);
        let device = &mut self.device;
        let claimed = until(&mut self.now, |now| device.poll_claim(pair, now));
        self.report.note("claim", claimed.is_ok());
        let state = self.device.pair_state(pair);
        match claimed {
            Ok(()) => {
                assert_eq!(state, Some(PairState::Active));
                seat.arm();
            }
            Err(_) => assert_ne!(state, Some(PairState::Free)),
        }
    }

    fn work(&mut self, seat: u8) {
        let state = self.device.pair_state(self.first_pair() + seat);
        if state == Some(PairState::Active) {
            self.seats[usize::from(seat)].work(&mut self.input.borrow_mut(), self.report);
        }
    }

    fn release(&mut self, pair: u8) {
        let before = self.device.pair_state(pair);
        let begun = self.device.begin_release(pair, self.now);
        assert_eq!(
            begun.is_ok(),
            before == Some(PairState::Active),
            "{before:?}"
        );
        if begun.is_err() {
            return;
        }
        let device = &mut self.device;
        let released = until(&mut self.now, |now| device.poll_release(pair, now));
        self.report.note("release", released.is_ok());
        let is_free = self.device.pair_state(pair) == Some(PairState::Free);
        assert_eq!(is_free, released.is_ok(), "{released:?}");
        let seat = usize::from(pair - self.first_pair());
        if let (Ok(()), Some(seat)) = (released, self.seats.get_mut(seat)) {
            seat.bury();
        }
    }

    /// After a reset that succeeded nobody has anything, and the port has let go of everything.
    fn reset(&mut self) {
        self.device.begin_reset(self.now);
        let device = &mut self.device;
        let reset = until(&mut self.now, |now| device.poll_reset(now));
        self.report.note("reset", reset.is_ok());
        self.is_in_service = reset.is_ok();
        if reset.is_ok() {
            let mut pairs = self.first_pair()..self.device.pairs();
            assert!(pairs.all(|pair| self.device.pair_state(pair) == Some(PairState::Free)));
            self.seats.iter_mut().for_each(Seat::bury);
            self.filters.restore(&self.device);
            self.functions.restore(&self.device);
            self.check_addresses();
            let restored = self.await_filters();
            self.report.note("rules again", restored.is_ok());
        }
    }

    fn await_filters(&mut self) -> Result<(), SteerError> {
        let (filters, device) = (&mut self.filters, &self.device);
        until(&mut self.now, |now| filters.poll(device, now))
    }

    fn steer(&mut self, choice: u8) {
        let number = self.input.borrow_mut().byte();
        let rule = RuleId::new(u32::from(number & 7), 0);
        let change = if choice & 8 == 0 {
            let matches = matches(self.device.mac(), &mut self.input.borrow_mut());
            let queue = QueueIndex::new((self.input.borrow_mut().byte() & 7).into());
            any_answer(Filters::can_express(&self.device, &matches));
            Change::Add {
                rule,
                matches,
                queue,
            }
        } else {
            Change::Remove { rule }
        };
        let begun = self.filters.change(&self.device, change);
        let changed = begun.and_then(|()| self.await_filters());
        self.report.note("rule", changed.is_ok());
    }

    /// What the port says of itself.
    fn ask(&mut self, choice: u8) {
        let (device, now) = (&self.device, self.now);
        match choice {
            0 => any_answer((device.link(), device.has_module(), device.take_cause())),
            1 | 2 => device.add_statistics(choice, &mut QueueStatistics::default()),
            3 => device.add_port_statistics(&mut PortStatistics::default()),
            4 => any_answer((device.director_room(), device.is_promiscuous())),
            5 => any_answer((device.is_gone(), device.mac(), device.settle_pauses())),
            6 => device.flush(),
            7 | 8 => {
                let module = device.identify_module(&mut Clock::default());
                let is_read = !matches!(
                    module,
                    Err(ModuleError::NoAnswer | ModuleError::Stuck | ModuleError::Semaphore(_))
                );
                self.report.note("module read", is_read);
            }
            9 => assert!(device.dump().count() < 0x2_0000 / 4),
            10..13 => {
                let pair = 2 * device.functions() + (choice & 1);
                let looked = self.watches[usize::from(choice & 1)].look(device, (pair, false), now);
                any_answer(looked);
                self.now = now.saturating_add(Duration::from_millis(700));
            }
            _ => any_answer((device.take_missed(), device.sides(choice))),
        }
    }

    /// What is set for the whole port.
    fn set(&mut self, choice: u8) {
        let device = &self.device;
        // The port has choices to make meanwhile.
        let choices: [u8; 12] = self.input.borrow_mut().bytes();
        let mut input = Input::new(&choices);
        match choice {
            0 => device.set_reach(input.choose(&[Reach::Own, Reach::AllGroups, Reach::Everything])),
            1 => any_answer(device.set_groups(&[Mac(input.bytes())])),
            2 => any_answer(device.spread(&[input.byte(); 40], &[input.byte() & 31; 128])),
            3 => any_answer(vlan(&mut input).map(|vlan| device.set_vlan(vlan, true))),
            4 => {
                let number = input.byte();
                if let Some(vector) = Vector::new(number) {
                    device.set_interval(vector, Duration::from_micros(input.word()));
                    device.arm(vector);
                    device.mask(vector);
                }
            }
            5 => device.set_counter(input.byte(), input.byte()),
            6 => device.watch_port(),
            _ => {
                let rule = (0x8800 | u16::from(input.byte()), input.byte());
                any_answer(set_ether_type(device, choice, Some(rule)));
            }
        }
    }

    fn use_pools(&mut self, pool: u8) {
        let device = &self.device;
        let choices: [u8; 4] = self.input.borrow_mut().bytes();
        let mut input = Input::new(&choices);
        match input.byte() & 3 {
            0 | 1 => {
                let names = PoolNames {
                    mac: Mac(POOL_MAC),
                    vlan: vlan(&mut input),
                };
                any_answer(device.open_pool(pool, names));
            }
            2 => any_answer(device.close_pool(pool)),
            _ => any_answer(device.set_rate(pool, Some(input.byte().into()), 10_000)),
        }
    }

    /// Functions ask for what they like: none gets an address that is not its own.
    fn serve_functions(&mut self, choice: u8) {
        let number = self.input.borrow_mut().byte() % (FUNCTIONS + 1);
        let device = &self.device;
        match choice {
            0..3 => {
                let choices: [u8; 4] = self.input.borrow_mut().bytes();
                let mut input = Input::new(&choices);
                let grant = Grant {
                    mac: Mac(function_mac(number)),
                    vlan: vlan(&mut input).filter(|_| choices[3] & 1 == 0),
                    groups: input.choose(&[Groups::None, Groups::Broadcasts, Groups::Multicasts]),
                };
                let granted = self.functions.grant(device, number, grant).is_ok();
                // A port that lies may say that another has the address.
                assert!(!granted || number < device.functions(), "{number}");
                if let (true, Some(it)) = (granted, self.granted.get_mut(usize::from(number))) {
                    *it = true;
                }
            }
            3 => {
                let revoked = self.functions.revoke(device, number);
                if let (Ok(()), Some(it)) = (revoked, self.granted.get_mut(usize::from(number))) {
                    *it = false;
                }
            }
            4 => self.functions.tell_all(device),
            _ => {
                let report = &mut *self.report;
                self.functions.serve(device, |_, event| {
                    if event != Event::Reset {
                        report.note("function's request", event == Event::Begun);
                    }
                });
            }
        }
        self.check_addresses();
    }

    /// Frames come in to the port's address, to those of the kernel's pools, and to granted ones.
    fn check_addresses(&self) {
        for address in self.port.addresses() {
            let mut functions = (0..FUNCTIONS).zip(self.granted);
            let is_granted =
                functions.any(|(number, granted)| granted && address == function_mac(number));
            let is_known = address == POOL_MAC || address == self.device.mac().0;
            assert!(is_known || is_granted, "{address:x?} is let in");
        }
    }

    /// The port is left as it is, or made to forget all: then everybody has everything back.
    fn end(mut self) {
        let shut = self.device.shut_down(&mut Clock::default());
        self.report.note("shut down", shut.is_ok());
        if shut.is_ok() {
            self.seats.iter_mut().for_each(Seat::bury);
        }
    }
}

/// The address of a virtual function.
const fn function_mac(number: u8) -> [u8; 6] {
    [2, 0, 0, 0, 1, number]
}

fn vlan(input: &mut Input<'_>) -> Option<Vlan> {
    let number = input.below(4096);
    Vlan::new(u16::try_from(number).unwrap_or(0))
}

/// A rule of a few kinds, most of which some filter can express.
fn matches(mac: Mac, input: &mut Input<'_>) -> Matches {
    let host = |last| Some(IpPrefix::V4(Ipv4Prefix::host([10, 0, 0, last].into())));
    let mut matches = Matches::to(mac, IpPrefix::V4(Ipv4Prefix::host([10, 0, 0, 1].into())));
    matches.address = host(input.byte() & 3);
    matches.protocol = input.choose(&[None, Some(Protocol::Udp), Some(Protocol::Tcp)]);
    if input.one_in(4) {
        matches.source = host(9);
    }
    let port = u16::from(input.byte());
    let last = port + u16::from(input.one_in(16));
    if matches.protocol.is_some()
        && let Some(range) = PortRange::new(port, last)
    {
        matches.ports = range;
        if input.one_in(2) {
            matches.source_ports = range;
        }
    }
    matches
}

/// Polls until it is ready, which it must be some time.
fn until<T>(now: &mut Instant, mut poll: impl FnMut(Instant) -> Poll<T>) -> T {
    for _ in 0..100_000 {
        if let Poll::Ready(result) = poll(*now) {
            return result;
        }
        *now = now.saturating_add(Duration::from_micros(100));
    }
    panic!("an operation without an end");
}
