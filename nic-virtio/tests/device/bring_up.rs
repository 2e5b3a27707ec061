//! From reset to service, and what can go wrong on the way.

use std::time::Duration;

use parakernel_core::mmio::{Registers, Width};
use parakernel_mock_hw::{
    fault::{Fault, When},
    memory::Lease,
    virtio_net::{Config, Features as Offered},
};
use parakernel_nic_virtio::{
    control::Command,
    device::{Device, Pair, PairState, Setup},
    error::{CommandError, InitError, PairError, Structure},
    features::Features,
    steering::Classes,
    transport::{
        Transport,
        mmio::MmioTransport,
        pci::{Layout, PciTransport},
    },
    virtqueue::{packed::Packed, split::Split},
};
use proptest::prelude::*;

use super::rig::{
    Bus, DEVICE, KERNEL, MAC, Machine, N, Ring, claim, command, everything, jumbo, poll, udp,
};

#[test]
fn all_features_that_are_wanted_and_offered_are_agreed_on() {
    let machine = Machine::new(1, Bus::Pci, everything());
    let mut pairs = [Pair::EMPTY; 4];
    let wanted = Features::PARTITION | Features::RING_PACKED | Features::IN_ORDER;
    let transport = machine.pci().unwrap();
    // It says before anything is agreed on how much memory is of use.
    assert_eq!(Device::most_pairs(&transport), 4);
    let device = machine.bring_up(transport, wanted, &mut pairs).unwrap();
    let never_offered = Features::SPEED_DUPLEX;
    assert_eq!(device.features(), wanted - never_offered);
    assert_eq!(machine.net.features().bits(), device.features().bits());
    assert_eq!(device.limits().mac, Some(MAC));
    assert_eq!(device.limits().mtu, Some(1500));
    assert_eq!(device.limits().pairs, 4);
    assert!(device.has_config_vector());
    assert!(device.link().unwrap().is_up);
    assert!(machine.net.is_driven());
    machine.world.trace().assert_clean();
}

#[test]
fn nothing_is_agreed_on_that_nobody_wants() {
    let machine = Machine::new(1, Bus::Mmio, everything());
    let mut pairs = [Pair::EMPTY; 4];
    let transport = machine.mmio().unwrap();
    let device = machine
        .bring_up(transport, Features::empty(), &mut pairs)
        .unwrap();
    let needed = Features::VERSION_1 | Features::ACCESS_PLATFORM | Features::ORDER_PLATFORM;
    assert_eq!(device.features(), needed);
    assert_eq!(device.pairs(), 1);
    assert_eq!(device.limits().mac, None);
    machine.world.trace().assert_clean();
}

#[test]
fn a_device_that_does_not_come_out_of_reset_is_given_up() {
    let machine = Machine::new(1, Bus::Pci, everything());
    let (mut one, mut other) = ([Pair::EMPTY; 1], [Pair::EMPTY; 1]);
    let wanted = Features::PARTITION;
    let device = machine
        .bring_up(machine.pci().unwrap(), wanted, &mut one)
        .unwrap();
    machine.net.faults().inject(Fault::SlowReady, When::Always);
    let result = device.shut_down(&mut machine.world.clone()).map(drop);
    assert!(matches!(result, Err(InitError::Reset(_))), "{result:?}");
    let result = machine
        .bring_up(machine.pci().unwrap(), wanted, &mut other)
        .map(drop);
    assert!(matches!(result, Err(InitError::Reset(_))), "{result:?}");
    assert!(machine.world.now().as_nanos() < 3_000_000_000);
}

#[test]
fn a_device_that_is_gone_is_told_from_one_that_hangs() {
    let machine = Machine::new(1, Bus::Pci, everything());
    let transport = machine.pci().unwrap();
    machine.net.remove();
    let mut pairs = [Pair::EMPTY; 1];
    let result = machine.bring_up(transport, Features::PARTITION, &mut pairs);
    assert_eq!(result.err(), Some(InitError::Removed));
    assert!(machine.pci().is_err());
}

#[test]
fn a_legacy_device_is_refused() {
    let features = Offered::all() - Offered::VERSION_1;
    let machine = Machine::new(
        1,
        Bus::Pci,
        Config {
            features,
            ..Config::default()
        },
    );
    let mut pairs = [Pair::EMPTY; 1];
    let result = machine.bring_up(machine.pci().unwrap(), Features::PARTITION, &mut pairs);
    assert_eq!(result.err(), Some(InitError::Legacy));
}

/// The first registers of a card, and no more.
#[derive(Debug)]
struct Cut<R> {
    registers: R,
    len: usize,
}

impl<R: Registers> Registers for Cut<R> {
    fn read(&self, offset: usize, width: Width) -> u64 {
        assert!(offset + width.bytes() <= self.len, "nothing is there");
        self.registers.read(offset, width)
    }

    fn write(&self, offset: usize, width: Width, value: u64) {
        self.registers.write(offset, width, value);
    }

    fn len(&self) -> usize {
        self.len
    }
}

/// Found by the fuzz target `virtio_driver`.
#[test]
fn a_configuration_too_short_for_its_features_is_refused() {
    for len in 0x101..0x118 {
        let machine = Machine::new(1, Bus::Mmio, everything());
        let registers = machine.net.mmio_registers();
        let transport = MmioTransport::new(Cut { registers, len }).unwrap();
        let mut pairs = [Pair::EMPTY; 1];
        let result = machine.bring_up(transport, Features::PARTITION, &mut pairs);
        let expected = Some(InitError::Structure(Structure::Device));
        assert_eq!(result.err(), expected, "{len:#x}");
    }
}

#[test]
fn a_page_for_each_doorbell_is_found() {
    for (notify_multiplier, own_page) in [(0, false), (4, false), (4096, true)] {
        let config = Config {
            notify_multiplier,
            ..everything()
        };
        let machine = Machine::new(1, Bus::Pci, config);
        let mut pairs = [Pair::EMPTY; 4];
        let transport = machine.pci().unwrap();
        let device = machine
            .bring_up(transport, Features::PARTITION, &mut pairs)
            .unwrap();
        assert_eq!(device.has_doorbell_page(2), own_page);
        let register = device.notify_register(3).unwrap();
        assert_eq!(register.address.offset, 3 * notify_multiplier as usize);
    }
}

fn brings_up_and_commands<T: Transport<Registers: Clone>>(
    machine: &Machine,
    transport: T,
    wanted: Features,
) {
    let mut pairs = [Pair::EMPTY; 4];
    let mut device = machine.bring_up(transport, wanted, &mut pairs).unwrap();
    let others = [[2, 0, 0, 0, 0, 7], [2, 0, 0, 0, 0, 8]];
    let group = [[1, 0, 0x5E, 0, 0, 1]];
    for step in [
        Command::Promiscuous(true),
        Command::Promiscuous(false),
        Command::AllMulticast(true),
        Command::MacTable {
            unicast: &others,
            multicast: &group,
        },
        Command::MacAddress([2, 0, 0, 0, 0, 9]),
        Command::AddVlan(7),
        Command::RemoveVlan(7),
    ] {
        assert_eq!(command(machine, &mut device, &step), Ok(()), "{step:?}");
    }
    assert_eq!(
        command(machine, &mut device, &Command::AddVlan(4096)),
        Err(CommandError::Argument)
    );
    let many = vec![[2; 6]; 1000];
    let table = Command::MacTable {
        unicast: &many,
        multicast: &[],
    };
    assert_eq!(
        command(machine, &mut device, &table),
        Err(CommandError::Argument)
    );
    machine.world.trace().assert_clean();
}

#[test]
fn commands_are_carried_out_over_both_transports_and_layouts() {
    for layout in [
        Features::empty(),
        Features::RING_PACKED,
        Features::IN_ORDER,
        Features::NOTIFICATION_DATA,
    ] {
        let wanted = Features::PARTITION | layout;
        let machine = Machine::new(3, Bus::Pci, everything());
        brings_up_and_commands(&machine, machine.pci().unwrap(), wanted);
        let machine = Machine::new(3, Bus::Mmio, everything());
        brings_up_and_commands(&machine, machine.mmio().unwrap(), wanted);
    }
}

#[test]
fn a_command_without_its_feature_is_not_sent() {
    let machine = Machine::new(1, Bus::Pci, everything());
    let mut pairs = [Pair::EMPTY; 1];
    let wanted = Features::PARTITION - Features::RSS - Features::CTRL_VLAN;
    let mut device = machine
        .bring_up(machine.pci().unwrap(), wanted, &mut pairs)
        .unwrap();
    let classes = Classes::all_to(0);
    for step in [
        Command::AddVlan(1),
        Command::Steer {
            classes: &classes,
            pairs: 1,
        },
    ] {
        assert_eq!(
            command(&machine, &mut device, &step),
            Err(CommandError::Unsupported)
        );
    }
}

#[test]
fn a_command_that_is_not_answered_ends_and_its_queue_is_used_no_more() {
    let machine = Machine::new(1, Bus::Pci, everything());
    let mut pairs = [Pair::EMPTY; 1];
    let transport = machine.pci().unwrap();
    let mut device = machine
        .bring_up(transport, Features::PARTITION, &mut pairs)
        .unwrap();
    machine.net.faults().inject(Fault::AdminTimeout, When::NEXT);
    let result = command(&machine, &mut device, &Command::Promiscuous(true));
    assert!(
        matches!(result, Err(CommandError::Timeout(_))),
        "{result:?}"
    );
    let result = command(&machine, &mut device, &Command::Promiscuous(true));
    assert_eq!(result, Err(CommandError::Broken));
    assert_eq!(
        device.poll_command(machine.world.now()),
        std::task::Poll::Ready(Err(CommandError::Broken))
    );
}

#[test]
fn only_enabled_queues_are_steered_to() {
    let machine = Machine::new(1, Bus::Pci, everything());
    let mut pairs = [Pair::EMPTY; 2];
    let transport = machine.pci().unwrap();
    let mut device = machine
        .bring_up(transport, Features::PARTITION, &mut pairs)
        .unwrap();
    let mut steer = |pair, pairs| {
        let classes = Classes::all_to(pair);
        command(
            &machine,
            &mut device,
            &Command::Steer {
                classes: &classes,
                pairs,
            },
        )
    };
    assert_eq!(steer(1, 2), Ok(()));
    assert_eq!(steer(1, 1), Err(CommandError::Argument));
    assert_eq!(steer(2, 3), Err(CommandError::Argument));
    assert_eq!(command(&machine, &mut device, &Command::Pairs(2)), Ok(()));
    assert_eq!(
        command(&machine, &mut device, &Command::Pairs(3)),
        Err(CommandError::Argument)
    );
    assert_eq!(
        command(&machine, &mut device, &Command::Pairs(0)),
        Err(CommandError::Argument)
    );
}

#[test]
fn the_link_and_a_request_for_a_reset_are_seen() {
    let machine = Machine::new(1, Bus::Pci, everything());
    let mut pairs = [Pair::EMPTY; 1];
    let transport = machine.pci().unwrap();
    let device = machine
        .bring_up(transport, Features::PARTITION, &mut pairs)
        .unwrap();
    machine.net.set_link(false);
    assert!(!device.link().unwrap().is_up);
    assert!(!device.needs_reset());
    machine.net.need_reset();
    assert!(device.needs_reset());
    let transport = device.shut_down(&mut machine.world.clone()).unwrap();
    let mut pairs = [Pair::EMPTY; 1];
    let device = machine
        .bring_up(transport, Features::PARTITION, &mut pairs)
        .unwrap();
    assert!(!device.needs_reset());
}

/// Without `RING_RESET` a pair can be used once; with a reset that does not end it is quarantined.
#[test]
fn a_pair_that_does_not_stop_is_quarantined() {
    let machine = Machine::new(1, Bus::Pci, everything());
    let mut pairs = [Pair::EMPTY; 4];
    let wanted = Features::PARTITION - Features::RING_RESET;
    let mut device = machine
        .bring_up(machine.pci().unwrap(), wanted, &mut pairs)
        .unwrap();
    let mut words = [0; 96];
    claim::<Split<'_, N>, _>(&machine, &mut device, 0, KERNEL, &mut words).unwrap();
    assert_eq!(
        device.begin_release(0, machine.world.now()),
        Err(PairError::NoQueueReset)
    );
    assert_eq!(device.pair_state(0), Some(PairState::Quarantined));

    let config = Config {
        reset_delay: Duration::from_secs(1),
        ..everything()
    };
    let machine = Machine::new(1, Bus::Pci, config);
    let mut pairs = [Pair::EMPTY; 4];
    let transport = machine.pci().unwrap();
    let mut device = machine
        .bring_up(transport, Features::PARTITION, &mut pairs)
        .unwrap();
    let mut words = [0; 96];
    let result = claim::<Split<'_, N>, _>(&machine, &mut device, 0, KERNEL, &mut words);
    assert!(matches!(result, Err(PairError::Quarantined(_))));
    assert_eq!(device.pair_state(0), Some(PairState::Quarantined));
}

/// A ring larger than the device allows, a pair twice, a pair that is not there.
#[test]
fn claims_that_cannot_be_are_refused() {
    let config = Config {
        queue_size: 16,
        ..everything()
    };
    let machine = Machine::new(1, Bus::Pci, config);
    let mut pairs = [Pair::EMPTY; 4];
    let wanted = Features::PARTITION | Features::RING_PACKED;
    let mut device = machine
        .bring_up(machine.pci().unwrap(), wanted, &mut pairs)
        .unwrap();
    let mut words = [0; 96];
    let result = claim::<Packed<'_, N>, _>(&machine, &mut device, 0, KERNEL, &mut words);
    assert_eq!(result.err(), Some(PairError::Entries(16)));
    assert_eq!(
        device.notify_register(9),
        Err(PairError::Refused { queue: 9 })
    );
    let release = device.begin_release(0, machine.world.now());
    assert_eq!(release, Err(PairError::WrongState));
    let release = device.begin_release(4, machine.world.now());
    assert_eq!(release, Err(PairError::NoSuchPair(4)));
    let release = poll(&machine, |now| device.poll_release(0, now));
    assert_eq!(release, Err(PairError::WrongState));
}

/// Registers that read as bytes of a fixed string, over and over: a device that lies about everything.
struct Liar(Vec<u8>);

impl Registers for Liar {
    fn read(&self, offset: usize, width: Width) -> u64 {
        (0..width.bytes()).fold(0, |value, n| {
            value | u64::from(self.0[(offset + n) % self.0.len()]) << (8 * n)
        })
    }

    fn write(&self, _offset: usize, _width: Width, _value: u64) {}

    fn len(&self) -> usize {
        4096
    }
}

proptest! {
    /// Capabilities are parsed, or refused; never a panic, never a loop.
    #[test]
    fn any_configuration_space_is_parsed_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 256)) {
        bytes[..4].copy_from_slice(&[0xF4, 0x1A, 0x41, 0x10]);
        bytes[6] |= 0x10;
        if let Ok(config) = parakernel_core::pci::Config::new(Liar(bytes))
            && let Ok(layout) = Layout::parse(&config)
        {
            for range in [layout.common, layout.notify, layout.isr, layout.device] {
                prop_assert!(range.bar <= 5 && range.len > 0);
                prop_assert!(range.offset.checked_add(range.len).is_some());
            }
        }
    }

    /// Whatever the registers read, bring-up ends in success or in an error within its bound.
    #[test]
    fn bring_up_ends_whatever_the_registers_read(bytes in prop::collection::vec(any::<u8>(), 1..512)) {
        let machine = Machine::new(1, Bus::Mmio, Config::default());
        machine.net.faults().lie(bytes);
        let mut pairs = [Pair::EMPTY; 4];
        if let Ok(transport) = MmioTransport::new(machine.net.mmio_registers()) {
            let result: Result<Device<'_, _>, _> =
                machine.bring_up(transport, Features::PARTITION, &mut pairs);
            drop(result);
        }
        prop_assert!(machine.world.now().as_nanos() < 3_000_000_000);
    }
}

/// A queue that nobody claims is enabled before its first claim, and again after each release: a device that spreads frames
/// over its queues before it steers them has to find a ring in each.
fn idles_between_claims<'a, F: Ring<'a>>(machine: &'a Machine) {
    let slots = vec![Pair::EMPTY; 2].leak();
    let transport = machine.pci().unwrap();
    let wanted = Features::PARTITION | F::FEATURES;
    let mut device = machine.bring_up(transport, wanted, slots).unwrap();
    let is_enabled = |device: &Device<'_, _>| {
        let transport: &PciTransport<_> = device.transport();
        [2, 3].map(|queue| transport.is_queue_enabled(queue))
    };
    for round in 1..4 {
        assert_eq!(is_enabled(&device), [true; 2], "before claim {round}");
        let words = vec![0; 96].leak();
        let owned = claim::<F, _>(machine, &mut device, 1, Lease(round), words).unwrap();
        device.nudge();
        machine.settle();
        device.begin_release(1, machine.world.now()).unwrap();
        poll(machine, |now| device.poll_release(1, now)).unwrap();
        assert_eq!(is_enabled(&device), [true; 2], "after release {round}");
        drop(owned);
        // The device reads a ring with nothing in it, and touches nothing of the lease that is over.
        machine.memory.end(Lease(round));
        device.nudge();
        machine.settle();
        assert!(machine.memory.escapes().is_empty());
    }
    machine.world.trace().assert_clean();
}

#[test]
fn a_pair_that_nobody_claims_is_enabled() {
    for offered in [Offered::all(), Offered::all() - Offered::NOTIFICATION_DATA] {
        let config = Config {
            features: offered,
            ..Config::default()
        };
        idles_between_claims::<Split<'_, N>>(&Machine::new(1, Bus::Pci, config.clone()));
        idles_between_claims::<Packed<'_, N>>(&Machine::new(1, Bus::Pci, config));
    }
}

/// Without merged buffers an MTU whose frames do not fit a buffer is not agreed on (§5.1.4.2), and buffers that do not hold
/// an ordinary frame are refused (§5.1.6.3.1); the model would see both.
#[test]
fn buffers_hold_the_frames_that_are_agreed_on() {
    let negotiated = |mtu, capacity, wanted| {
        let machine = Machine::new(
            1,
            Bus::Pci,
            Config {
                mtu,
                ..everything()
            },
        );
        let setup = Setup {
            wanted,
            control: machine.memory.lend(DEVICE, 4096, KERNEL).unwrap(),
            idle: machine.memory.lend(DEVICE, 4096, KERNEL).unwrap(),
            pairs: &mut [Pair::EMPTY],
            config_vector: None,
            capacity,
        };
        let transport = machine.pci().unwrap();
        let device = Device::bring_up(transport, &mut machine.world.clone(), setup);
        device.map(|device| device.limits().mtu)
    };
    let (split, merged) = (
        Features::PARTITION,
        Features::PARTITION | Features::MRG_RXBUF,
    );
    assert_eq!(negotiated(9000, 9014, split).unwrap(), Some(9000));
    assert_eq!(negotiated(9000, 9013, split).unwrap(), None);
    assert_eq!(negotiated(9000, 1514, split).unwrap(), None);
    assert_eq!(negotiated(1000, 1014, split).unwrap(), Some(1000));
    assert_eq!(negotiated(9000, 200, merged).unwrap(), Some(9000));
    for (mtu, capacity) in [(9000, 1513), (1000, 1013)] {
        let refused = negotiated(mtu, capacity, split);
        assert_eq!(refused.unwrap_err(), InitError::Memory);
    }
}

#[test]
fn frames_arrive_where_the_device_s_mtu_is_not_agreed_on() {
    let machine = Machine::new(1, Bus::Pci, jumbo());
    let mut slots = [Pair::EMPTY; 1];
    let transport = machine.pci().unwrap();
    let mut device = machine
        .bring_up(transport, Features::PARTITION, &mut slots)
        .unwrap();
    let words = &mut [0; 96];
    let mut owned = claim::<Split<'_, N>, _>(&machine, &mut device, 0, KERNEL, words).unwrap();
    let frame = udp(MAC, [10, 0, 0, 1], [10, 0, 0, 2], 1514);
    machine.net.wire().send(&frame);
    machine.settle();
    assert_eq!(owned.receive().unwrap(), [frame]);
    machine.world.trace().assert_clean();
}
