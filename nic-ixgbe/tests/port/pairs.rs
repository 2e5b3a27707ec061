//! Queue pairs: claimed, drained, released, quarantined.

use core::{ptr::NonNull, sync::atomic::AtomicU64, task::Poll, time::Duration};

use parakernel_core::{
    address::BusAddress,
    error::ErrorKind,
    memory::{DmaBlock, SharedMemory},
    time::Instant,
};
use parakernel_nic_ixgbe::{
    device::{Device, PairRings, PairState, ReceiveRing, Sharing, TransmitRing, Vector},
    error::PairError,
};

use crate::{
    bring_up::{bring_up, bring_up_with},
    fake::{Fault, Port, rx},
};

/// A block of `len` bytes that nobody looks at, at `bus`.
#[expect(unsafe_code, reason = "the port does no DMA")]
fn block(len: usize, bus: u64) -> DmaBlock<'static> {
    let words: &'static [AtomicU64] = (0..len.div_ceil(8))
        .map(|_| AtomicU64::new(0))
        .collect::<Vec<_>>()
        .leak();
    // SAFETY: leaked atomics.
    let memory = unsafe { SharedMemory::new(NonNull::from(words).cast(), len) };
    // SAFETY: the port does no DMA; addresses are only compared.
    unsafe { DmaBlock::new(memory, BusAddress::new(bus)) }
}

fn rings() -> PairRings {
    PairRings {
        receive: ReceiveRing::new(&block(16 * 512, 0x1_2345_6000), 2048).unwrap(),
        transmit: TransmitRing::new(&block(16 * 256, 0x2_0000_0080), &block(16, 0x3_0000_0010))
            .unwrap(),
    }
}

struct Rig<'p> {
    port: &'p Port,
    device: Device<'static, &'p Port>,
    now: Instant,
}

impl<'p> Rig<'p> {
    fn new(port: &'p Port, sharing: Sharing) -> Self {
        Self {
            port,
            device: bring_up(port, sharing).unwrap(),
            now: Instant::from_nanos(0),
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.saturating_add(time);
        self.port
            .clock
            .0
            .set(self.port.clock.0.get() + u64::try_from(time.as_nanos()).unwrap());
    }

    /// Polls until it is ready; the result and how long that took, in microseconds.
    fn until<T>(
        &mut self,
        mut poll: impl FnMut(&mut Device<'static, &'p Port>, Instant) -> Poll<T>,
    ) -> (T, u64) {
        let mut waited_us = 0;
        loop {
            if let Poll::Ready(result) = poll(&mut self.device, self.now) {
                return (result, waited_us);
            }
            assert!(waited_us < 2_000_000, "a wait without an end");
            self.pass(Duration::from_micros(10));
            waited_us += 10;
        }
    }

    fn claim(&mut self, pair: u8) -> Result<(), PairError> {
        self.device
            .begin_claim(pair, rings(), Vector::new(5), self.now)?;
        self.until(|device, now| device.poll_claim(pair, now)).0
    }

    fn release(&mut self, pair: u8) -> (Result<(), PairError>, u64) {
        self.device.begin_release(pair, self.now).unwrap();
        self.until(|device, now| device.poll_release(pair, now))
    }
}

#[test]
fn a_pair_is_set_up_as_the_datasheet_says() {
    let port = Port::new(Fault::None);
    let mut rig = Rig::new(&port, Sharing::Queues);
    port.log.borrow_mut().clear();
    rig.claim(70).unwrap();
    assert!(
        port.log.borrow().len() <= 20,
        "few writes, or claiming is slow"
    );
    let (receive, transmit) = (rx(70), 0x6000 + 0x40 * 70);
    assert_eq!(
        [0x0, 0x4, 0x8].map(|at| port.peek(receive + at)),
        [0x2345_6000, 1, 8192]
    );
    assert_eq!(port.peek(receive + 0x14), 2 | 1 << 25 | 1 << 28);
    assert_eq!(
        [0x0, 0x4, 0x8].map(|at| port.peek(transmit + at)),
        [0x80, 2, 4096]
    );
    assert_eq!([0x38, 0x3C].map(|at| port.peek(transmit + at)), [0x11, 3]);
    // Both queues of pair 70 by vector 5.
    assert_eq!(port.peek(0x900 + 4 * 35), 0x8585);
    assert_eq!(rig.device.pair_state(70), Some(PairState::Active));
    assert_eq!(Device::<&Port>::receive_tail(70), Some(0xD198));
    assert_eq!(Device::<&Port>::transmit_tail(70), Some(0x7198));
    assert_eq!(Device::<&Port>::receive_tail(128), None);
}

#[test]
fn memory_comes_back_only_after_the_grace_time() {
    let port = Port::new(Fault::None);
    let mut rig = Rig::new(&port, Sharing::Queues);
    rig.claim(3).unwrap();
    let (result, waited_us) = rig.release(3);
    assert_eq!(result, Ok(()));
    // 30 µs until the queue says that it is off, 100 µs of grace.
    assert!((130..160).contains(&waited_us), "{waited_us}");
    assert_eq!(port.peek(0x904), 0);
    assert_eq!(rig.device.pair_state(3), Some(PairState::Free));
    rig.claim(3).unwrap();
}

#[test]
fn a_queue_that_does_not_obey_is_quarantined_until_a_reset() {
    for fault in [Fault::StuckReceiveQueue, Fault::StuckTransmitQueue] {
        let port = Port::new(Fault::None);
        let mut rig = Rig::new(&port, Sharing::Queues);
        rig.claim(3).unwrap();
        port.fault.set(fault);
        let (result, waited_us) = rig.release(3);
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Timeout);
        assert!(waited_us <= 100_010);
        assert_eq!(rig.device.pair_state(3), Some(PairState::Quarantined));
        assert_eq!(
            rig.device.begin_claim(3, rings(), None, rig.now),
            Err(PairError::WrongState)
        );
        assert_eq!(rig.claim(4).unwrap_err().kind(), ErrorKind::Timeout);
        port.fault.set(Fault::None);
        rig.claim(5).unwrap();
        let now = rig.now;
        rig.device.begin_reset(now);
        rig.until(Device::poll_reset).0.unwrap();
        rig.claim(3).unwrap();
    }
}

#[test]
fn a_port_that_goes_away_keeps_its_memory() {
    let port = Port::new(Fault::None);
    let mut rig = Rig::new(&port, Sharing::Queues);
    rig.claim(3).unwrap();
    port.fault.set(Fault::GoneAtStop);
    let (result, _) = rig.release(3);
    assert_eq!(result, Err(PairError::Removed));
    assert_eq!(rig.device.pair_state(3), Some(PairState::Quarantined));
}

#[test]
fn a_pair_is_drained_when_head_and_tail_meet() {
    let port = Port::new(Fault::None);
    let mut rig = Rig::new(&port, Sharing::Queues);
    rig.claim(0).unwrap();
    port.poke(0x6018, 7);
    port.poke(0x6010, 5);
    assert!(rig.device.poll_drain(0).is_pending());
    port.poke(0x6010, 7);
    assert_eq!(rig.device.poll_drain(0), Poll::Ready(Ok(())));
    assert_eq!(
        rig.device.poll_drain(1),
        Poll::Ready(Err(PairError::WrongState))
    );
}

#[test]
fn all_pairs_have_owners_and_are_free_again() {
    let cases = [
        (Sharing::Queues, 127, Some(127)),
        (Sharing::Queues, 128, None),
        (Sharing::Pools, 128, None),
    ];
    for (sharing, count, drop_queue) in cases {
        let port = Port::new(Fault::None);
        let mut rig = Rig::new(&port, sharing);
        rig.device = bring_up_with(&port, sharing, count.into()).unwrap();
        assert_eq!(
            (rig.device.pairs(), rig.device.drop_queue()),
            (count, drop_queue)
        );
        for pair in 0..count {
            rig.claim(pair).unwrap();
        }
        let beyond = rig.device.begin_claim(count, rings(), None, rig.now);
        assert_eq!(beyond, Err(PairError::NoSuchPair(count)));
        for pair in 0..count {
            rig.release(pair).0.unwrap();
        }
        assert!((0..count).all(|pair| rig.device.pair_state(pair) == Some(PairState::Free)));
    }
}

#[test]
fn memory_that_is_no_rings_is_refused() {
    let head = block(16, 0x10);
    assert!(ReceiveRing::new(&block(16 * 8, 0x80), 1024).is_some());
    for (len, bus) in [
        (16 * 7, 0x80),
        (16 * 4, 0x80),
        (16 * 12, 0x80),
        (16 * 8, 0x40),
        (16 * 16384, 0),
    ] {
        assert!(
            ReceiveRing::new(&block(len, bus), 1024).is_none(),
            "{len} {bus:#x}"
        );
        assert!(
            TransmitRing::new(&block(len, bus), &head).is_none(),
            "{len} {bus:#x}"
        );
    }
    for posted in [0, 1023, 1500, 17 * 1024] {
        assert!(ReceiveRing::new(&block(16 * 8, 0x80), posted).is_none());
    }
    for (len, bus) in [(16, 8), (3, 0x10)] {
        assert!(TransmitRing::new(&block(16 * 8, 0x80), &block(len, bus)).is_none());
    }
}

#[test]
fn nothing_is_claimed_while_the_port_is_reset() {
    let port = Port::new(Fault::None);
    let mut rig = Rig::new(&port, Sharing::Queues);
    rig.claim(1).unwrap();
    let now = rig.now;
    rig.device.begin_reset(now);
    let states = |rig: &Rig<'_>| [0, 1].map(|pair| rig.device.pair_state(pair));
    // Queues are on until the reset has ended: nobody may take a pair's memory for free.
    assert_eq!(states(&rig), [Some(PairState::Resetting); 2]);
    assert_eq!(rig.claim(0), Err(PairError::WrongState));
    port.fault.set(Fault::StuckDma);
    rig.until(Device::poll_reset).0.unwrap_err();
    assert_eq!(states(&rig), [Some(PairState::Quarantined); 2]);
    assert_eq!(rig.claim(0), Err(PairError::WrongState));
    port.fault.set(Fault::None);
    let now = rig.now;
    rig.device.begin_reset(now);
    rig.until(Device::poll_reset).0.unwrap();
    assert_eq!(states(&rig), [Some(PairState::Free); 2]);
    rig.claim(0).unwrap();
}

#[test]
fn a_port_that_is_shut_down_was_reset_and_is_off() {
    let port = Port::new(Fault::None);
    let rig = Rig::new(&port, Sharing::Queues);
    rig.device.shut_down(&mut port.clock.clone()).unwrap();
    assert_eq!(port.resets.get(), 2);
    assert_eq!((port.peek(0x3000), port.peek(0x18)), (0, 0));
    let port = Port::new(Fault::None);
    let rig = Rig::new(&port, Sharing::Queues);
    port.fault.set(Fault::StuckReset);
    let error = rig.device.shut_down(&mut port.clock.clone()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
}
