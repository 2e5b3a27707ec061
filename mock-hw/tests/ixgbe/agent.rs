//! The host's half of virtual functions, asked as the drivers of virtual functions ask: numbers are those that DPDK and
//! Linux have in common.

use core::time::Duration;

use parakernel_core::{address::BusAddress, mmio::Registers};
use parakernel_mock_hw::{
    Ixgbe, Memory, World,
    ixgbe::Config,
    memory::{Lease, RequesterId},
    pci::Bar,
};

use super::between;

const CARD: RequesterId = RequesterId(0x0500);
const SUCCESS: u32 = 1 << 31;
const FAILURE: u32 = 1 << 30;
const CLEAR: u32 = 1 << 29;

/// A machine with virtual functions only.
struct Machine {
    world: World,
    memory: Memory,
    card: Ixgbe,
}

/// A virtual function and its driver.
struct Function<'a> {
    machine: &'a Machine,
    n: usize,
    bar: Bar,
}

impl Machine {
    fn new(seed: u64) -> Self {
        let world = World::new(seed);
        let memory = world.memory(16 << 20);
        let config = Config {
            virtual_functions: 3,
            ..Config::default()
        };
        let card = Ixgbe::new(&world, &memory, CARD, config);
        card.host_virtual_functions(&world);
        world.run_for(Duration::from_millis(50));
        Self {
            world,
            memory,
            card,
        }
    }

    /// Virtual function `n`, which was reset and may ask.
    fn function(&self, n: usize) -> Function<'_> {
        let function = self.unreset(n);
        let [first, ..] = function.ask([1]);
        assert_eq!(first, 1 | SUCCESS);
        function
    }

    fn unreset(&self, n: usize) -> Function<'_> {
        let endpoint = self.card.virtual_function(n).unwrap();
        endpoint.config_space().enable();
        let bar = endpoint.bar(0);
        Function {
            machine: self,
            n,
            bar,
        }
    }
}

impl Function<'_> {
    /// Waits until one of `bits` of VFMAILBOX was read.
    fn wait(&self, bits: u32) {
        for _ in 0..100 {
            if self.bar.read32(0x02fc) & bits != 0 {
                return;
            }
            self.machine.world.run_for(Duration::from_micros(10));
        }
        panic!("VFMAILBOX never has {bits:#x}");
    }

    /// Sends a message, and reads the answer once it was acknowledged.
    fn ask<const N: usize>(&self, message: [u32; N]) -> [u32; 16] {
        self.bar.write32(0x02fc, 4);
        assert_eq!(self.bar.read32(0x02fc) & 4, 4);
        for (n, word) in message.into_iter().enumerate() {
            self.bar.write32(0x0200 + 4 * n, word);
        }
        // The memory stays ours until the message was read.
        self.bar.write32(0x02fc, 4 | 1);
        self.wait(0x20);
        self.machine.world.run_for(Duration::from_micros(100));
        self.bar.write32(0x02fc, 0);
        self.wait(0x10);
        let answer = core::array::from_fn(|n| self.bar.read32(0x0200 + 4 * n));
        self.bar.write32(0x02fc, 2);
        answer
    }

    #[track_caller]
    fn granted<const N: usize>(&self, message: [u32; N]) -> [u32; 16] {
        let answer = self.ask(message);
        assert_eq!(answer[0], message[0] | SUCCESS | CLEAR, "{message:x?}");
        answer
    }

    #[track_caller]
    fn refused<const N: usize>(&self, message: [u32; N]) {
        assert_eq!(
            self.ask(message)[0],
            message[0] | FAILURE | CLEAR,
            "{message:x?}"
        );
    }

    fn requester(&self) -> RequesterId {
        RequesterId(CARD.0 + 128 + 2 * self.n as u16)
    }

    /// Receive queue `queue` with 15 buffers of 16 KiB; where its ring lies.
    fn receive_queue(&self, queue: usize) -> u64 {
        let lend = |len| {
            let block = self.machine.memory.lend(self.requester(), len, Lease(5));
            block.unwrap().bus_address().as_u64()
        };
        let (ring, buffers) = (lend(4096), lend(16 << 14));
        let bus = self.machine.memory.bus(self.requester());
        for n in 0..16 {
            let address = (buffers + (n << 14)).to_le_bytes();
            bus.write(BusAddress::new(ring + 16 * n), &address).unwrap();
        }
        let place = 0x1000 + 0x40 * queue;
        self.bar.write64(place, ring);
        self.bar.write32(place + 0x08, 256);
        self.bar.write32(place + 0x14, 0x0200_0010);
        self.bar.write32(place + 0x28, 1 << 25);
        self.bar.write32(place + 0x18, 15);
        ring
    }

    /// How many frames arrived in a queue.
    fn arrived(&self, ring: u64) -> usize {
        self.machine.world.settle(10_000);
        let bus = self.machine.memory.bus(self.requester());
        let done = |n: &u64| {
            let status = bus.read_array::<8>(BusAddress::new(ring + 16 * n + 8));
            status.unwrap()[0] & 1 == 1
        };
        (0..16).take_while(done).count()
    }

    fn address(&self) -> [u8; 6] {
        let [_, low, high, ..] = self.ask([1]);
        let [a, b, c, d] = low.to_le_bytes();
        let [e, f, ..] = high.to_le_bytes();
        [a, b, c, d, e, f]
    }
}

#[test]
fn a_function_begins_with_an_address_of_its_own_and_a_version() {
    let machine = Machine::new(1);
    let first = machine.unreset(0);
    // Before its reset it may ask for nothing, and is told so.
    assert_eq!(first.ask([8, 2])[0], 8 | FAILURE);
    let addresses: Vec<_> = (0..3).map(|n| machine.unreset(n).address()).collect();
    assert_eq!(addresses[0][0] & 3, 2);
    assert!(addresses[0] != addresses[1] && addresses[1] != addresses[2]);
    for version in [0, 2, 3, 4, 5] {
        first.granted([8, version]);
    }
    for version in [1, 6, 7, u32::MAX] {
        first.refused([8, version]);
    }
    machine.world.trace().assert_clean();
}

#[test]
fn queues_table_and_key_are_told_in_the_versions_that_have_them() {
    let machine = Machine::new(2);
    let function = machine.function(1);
    function.refused([9]);
    function.granted([8, 2]);
    let [_, tx, rx, vlan, default, ..] = function.granted([9]);
    assert_eq!([tx, rx, vlan, default], [2, 2, 0, 0]);
    function.refused([0x0a]);
    function.refused([0x0c, 1]);
    function.granted([8, 3]);
    let table = function.granted([0x0a]);
    assert_eq!(table[1..9], [0x4444_4444; 8]);
    let key = function.granted([0x0b]);
    assert!(key[1..11].iter().all(|word| *word != 0));
    assert_eq!(key[1], machine.card.bar0().read32(0x5c80));
}

#[test]
fn frames_arrive_by_address_vlan_and_multicast_as_was_asked_for() {
    let machine = Machine::new(3);
    let function = machine.function(2);
    let neighbour = machine.function(0);
    function.granted([8, 5]);
    let (ring, other) = (function.receive_queue(0), neighbour.receive_queue(0));
    let own = [2, 0, 0, 0, 7, 7];
    let [low, high] = [u32::from_le_bytes([2, 0, 0, 0]), 0x0707];
    let mut expected = 0;
    let mut send = |frame: Vec<u8>, arrives: bool| {
        machine.card.wire().send(&frame);
        expected += usize::from(arrives);
        assert_eq!(function.arrived(ring), expected);
        assert_eq!(neighbour.arrived(other), 0);
    };
    let tagged = |id: u8| {
        let mut frame = between([2, 9, 9, 9, 9, 9], own);
        frame.splice(12..12, [0x81, 0, 0, id]);
        frame
    };
    let group = [0x01, 0x00, 0x5e, 0, 0x12, 0x34];
    let to_group = || between([2, 9, 9, 9, 9, 9], group);
    send(between([2, 9, 9, 9, 9, 9], own), false);
    function.granted([2, low, high]);
    send(between([2, 9, 9, 9, 9, 9], own), true);
    send(tagged(5), false);
    function.granted([1 << 16 | 4, 5]);
    send(tagged(5), true);
    send(tagged(6), false);
    function.granted([4, 5]);
    send(tagged(5), false);
    send(to_group(), false);
    // The high 12 bits of the last two bytes.
    function.granted([1 << 16 | 3, 0x341]);
    send(to_group(), true);
    function.granted([0x0c, 0]);
    send(to_group(), false);
    function.granted([0x0c, 2]);
    send(between([2, 9, 9, 9, 9, 9], [1, 0, 0, 0, 0, 1]), true);
    // One more address, then none.
    let more = [2, 0, 0, 0, 8, 8];
    send(between([2, 9, 9, 9, 9, 9], more), false);
    function.granted([1 << 16 | 6, low, 0x0808]);
    send(between([2, 9, 9, 9, 9, 9], more), true);
    function.granted([6, 0, 0]);
    send(between([2, 9, 9, 9, 9, 9], more), false);
    machine.world.trace().assert_clean();
}

#[test]
fn long_frames_and_both_queues_are_a_functions() {
    let machine = Machine::new(4);
    let function = machine.function(0);
    function.granted([5, 9728]);
    function.refused([5, 9729]);
    // The answer that tells its address begins its queues anew.
    let to = function.address();
    let rings = [function.receive_queue(0), function.receive_queue(1)];
    let udp = |port: u16| {
        let mut frame = between([2, 9, 9, 9, 9, 9], to);
        frame.truncate(12);
        frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0]);
        frame.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend(port.to_be_bytes());
        frame.extend([0, 53, 0, 20, 0, 0]);
        frame.resize(60, 0);
        frame
    };
    for port in 1000..1012 {
        machine.card.wire().send(&udp(port));
    }
    // With one queue in its PSRTYPE, all frames go to the first.
    let all: usize = rings.iter().map(|ring| function.arrived(*ring)).sum();
    assert_eq!([all, function.arrived(rings[1])], [12, 0]);
    function.bar.write32(0x0300, 1 << 29);
    let mut jumbo = between([2, 9, 9, 9, 9, 9], to);
    jumbo.resize(9000, 7);
    machine.card.wire().send(&jumbo);
    assert_eq!(function.arrived(rings[0]), 13);
    for port in 2000..2008 {
        machine.card.wire().send(&udp(port));
    }
    assert!(function.arrived(rings[1]) > 0);
    machine.world.trace().assert_clean();
}

#[test]
fn what_a_function_may_not_have_is_refused() {
    let machine = Machine::new(5);
    let function = machine.function(0);
    let theirs = machine.unreset(1).address();
    let low = u32::from_le_bytes([theirs[0], theirs[1], theirs[2], theirs[3]]);
    let high = u32::from(u16::from_le_bytes([theirs[4], theirs[5]]));
    function.granted([8, 5]);
    function.refused([2, low, high]);
    function.refused([1 << 16 | 6, low, high]);
    function.refused([2, 0, 0]);
    function.refused([2, 1, 0]);
    function.refused([31 << 16 | 3, 0]);
    function.refused([0x0c, 3]);
    for request in [0, 7, 0x0d, 0x0e, 0x100, 0xffff] {
        function.refused([request]);
    }
    // Addresses and VLANs run out, and nothing else does.
    let taken = (0..70).filter(|n| function.ask([2 << 16 | 6, 2, 0x100 + n])[0] & SUCCESS != 0);
    assert_eq!(taken.count(), 64);
    let taken = (0..70).filter(|id| function.ask([1 << 16 | 4, 100 + id])[0] & SUCCESS != 0);
    assert_eq!(taken.count(), 64);
    // What was taken is given back by a reset from outside.
    machine.card.virtual_function(0).unwrap().reset();
    let function = machine.function(0);
    function.granted([8, 5]);
    function.granted([2 << 16 | 6, 2, 0x100]);
    function.granted([1 << 16 | 4, 7]);
}

#[test]
fn a_function_that_was_reset_receives_nothing_until_it_asks_again() {
    let machine = Machine::new(6);
    let function = machine.function(0);
    let own = function.address();
    machine.card.virtual_function(0).unwrap().reset();
    machine.world.settle(1000);
    let bar = machine.card.bar0();
    assert_eq!(bar.read32(0x51e0) & 1, 0);
    assert_eq!(bar.read32(0x8110) & 1, 0);
    let function = machine.function(0);
    assert_eq!(bar.read32(0x51e0) & 1, 1);
    let ring = function.receive_queue(0);
    machine.card.wire().send(&between([2, 9, 9, 9, 9, 9], own));
    assert_eq!(function.arrived(ring), 1);
}

#[test]
fn functions_are_told_when_the_link_changes() {
    let machine = Machine::new(7);
    let function = machine.function(0);
    machine.world.settle(1000);
    let _seen = function.bar.read32(0x02fc);
    function.bar.write32(0x02fc, 2);
    machine.world.settle(1000);
    machine.card.set_link(false);
    machine.world.settle(1000);
    assert_eq!(function.bar.read32(0x02fc) & 0x10, 0x10);
    assert_eq!(function.bar.read32(0x0200), 0x100 | CLEAR);
    assert_eq!(function.bar.read32(0x0010) >> 30 & 1, 0);
}

/// Whatever is written to a mailbox, the agent goes on for the others.
#[test]
fn no_message_stops_the_agent() {
    let machine = Machine::new(8);
    let hostile = machine.function(0);
    let mut state = 1_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 32) as u32
    };
    for round in 0..2000 {
        for word in 0..16 {
            hostile.bar.write32(0x0200 + 4 * word, next());
        }
        // Half of them are requests that exist.
        if round % 2 == 0 {
            hostile
                .bar
                .write32(0x0200, next() & 0x00ff_0000 | (round / 2 % 16));
        }
        hostile.bar.write32(0x02fc, next() & 7 | 1);
        machine.world.settle(20);
    }
    // It holds the memory, and hurts only itself.
    hostile.bar.write32(0x02fc, 4 | 1);
    let fine = machine.function(1);
    fine.granted([8, 5]);
    assert!(machine.world.settle(1000) < 1000);
}
