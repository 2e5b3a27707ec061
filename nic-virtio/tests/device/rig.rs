//! A machine with a virtio-net device, and what a kernel and its processes do with it.

use std::time::Duration;

use parakernel_core::{
    memory::{ArenaLayout, Pool, SegmentList},
    mmio::{Registers, Width},
    pci::Config as PciConfig,
    queue::{RxQueue, TxQueue},
};
use parakernel_mock_hw::{
    Memory, World,
    memory::{Lease, RequesterId, Translation},
    virtio_net::{Config, Features as Offered, VirtioNet},
};
use parakernel_nic_virtio::{
    control::Command,
    device::{Device, Pair, PairRings, Setup, Vectors},
    error::{CommandError, InitError, PairError, RingError},
    features::Features,
    notify::Notifier,
    rx::{Receiver, Spread},
    transport::{
        RingAddresses, Transport,
        mmio::MmioTransport,
        pci::{BarRange, Layout, PciTransport},
    },
    tx::{HeaderSource, Sender},
    virtqueue::{CheckedFormat, packed::Packed, split::Split},
};

pub(crate) const N: usize = 32;
pub(crate) const LAYOUT: ArenaLayout = ArenaLayout {
    stride: 2112,
    headroom: 64,
    header: 12,
    count: 96,
};
pub(crate) const DEVICE: RequesterId = RequesterId(0x0100);
pub(crate) const KERNEL: Lease = Lease(0);

/// A layout of rings, as a kernel puts it into a block.
pub(crate) trait Ring<'a>: CheckedFormat {
    const BYTES: usize;
    const FEATURES: Features;
    fn make(block: &parakernel_core::memory::DmaBlock<'a>) -> (Self, RingAddresses);
}

impl<'a> Ring<'a> for Split<'a, N> {
    const BYTES: usize = Split::<N>::BYTES;
    const FEATURES: Features = Features::empty();

    fn make(block: &parakernel_core::memory::DmaBlock<'a>) -> (Self, RingAddresses) {
        (
            Self::in_block(block.memory()).unwrap(),
            Self::addresses(block),
        )
    }
}

impl<'a> Ring<'a> for Packed<'a, N> {
    const BYTES: usize = Packed::<N>::BYTES;
    const FEATURES: Features = Features::RING_PACKED;

    fn make(block: &parakernel_core::memory::DmaBlock<'a>) -> (Self, RingAddresses) {
        (
            Self::in_block(block.memory()).unwrap(),
            Self::addresses(block),
        )
    }
}

/// A part of a BAR, or all of the registers of an MMIO device.
#[derive(Clone)]
pub(crate) struct Part<R> {
    registers: R,
    offset: usize,
    len: usize,
}

impl<R: Registers> Registers for Part<R> {
    fn read(&self, offset: usize, width: Width) -> u64 {
        if offset + width.bytes() > self.len {
            return u64::MAX >> (64 - 8 * width.bytes());
        }
        self.registers.read(self.offset + offset, width)
    }

    fn write(&self, offset: usize, width: Width, value: u64) {
        if offset + width.bytes() <= self.len {
            self.registers.write(self.offset + offset, width, value);
        }
    }

    fn len(&self) -> usize {
        self.len
    }
}

pub(crate) type PciRegisters = Part<parakernel_mock_hw::pci::Bar>;

/// A machine.
pub(crate) struct Machine {
    pub(crate) world: World,
    pub(crate) memory: Memory,
    pub(crate) net: VirtioNet,
}

impl Machine {
    pub(crate) fn new(seed: u64, bus: Bus, config: Config) -> Self {
        let world = World::new(seed);
        let memory = world.memory(8 << 20);
        memory.translate(DEVICE, Translation::Mapped);
        let net = match bus {
            Bus::Pci => VirtioNet::pci(&world, &memory, DEVICE, config),
            Bus::Mmio => VirtioNet::mmio(&world, &memory, DEVICE, config),
        };
        Self { world, memory, net }
    }

    pub(crate) fn pci(&self) -> Result<PciTransport<PciRegisters>, InitError> {
        self.net.config_space().enable();
        let config = PciConfig::new(self.net.config_space()).map_err(InitError::Pci)?;
        if let Ok(Some(vectors)) = config.msi_x() {
            vectors.set_enabled(true);
        }
        let layout = Layout::parse(&config)?;
        PciTransport::new(&layout, |range| self.map(range))
    }

    fn map(&self, range: BarRange) -> Option<PciRegisters> {
        let registers = self.net.bar(range.bar.into());
        let (offset, len) = (range.offset as usize, range.len as usize);
        (offset + len <= registers.len()).then_some(Part {
            registers,
            offset,
            len,
        })
    }

    pub(crate) fn mmio(
        &self,
    ) -> Result<MmioTransport<parakernel_mock_hw::virtio_net::MmioRegisters>, InitError> {
        MmioTransport::new(self.net.mmio_registers())
    }

    /// Brings the device up with `pairs` pairs.
    pub(crate) fn bring_up<'a, T: Transport>(
        &'a self,
        transport: T,
        wanted: Features,
        pairs: &'a mut [Pair],
    ) -> Result<Device<'a, T>, InitError> {
        let setup = Setup {
            wanted,
            control: self.memory.lend(DEVICE, 4096, KERNEL).unwrap(),
            idle: self.memory.lend(DEVICE, 4096, KERNEL).unwrap(),
            pairs,
            config_vector: Some(0),
            capacity: LAYOUT.capacity(),
        };
        Device::bring_up(transport, &mut self.world.clone(), setup)
    }

    /// Lets a second pass, or less.
    pub(crate) fn settle(&self) {
        self.world.settle(100_000);
    }
}

/// Which bus a device is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bus {
    Pci,
    Mmio,
}

/// Carries out a command, while the device works.
pub(crate) fn command<T: Transport>(
    machine: &Machine,
    device: &mut Device<'_, T>,
    command: &Command<'_>,
) -> Result<(), CommandError> {
    device.begin_command(command, machine.world.now())?;
    poll(machine, |now| device.poll_command(now))
}

/// Polls an operation until it is ready, for three seconds at most: no operation may take longer.
pub(crate) fn poll<V>(
    machine: &Machine,
    mut look: impl FnMut(parakernel_core::time::Instant) -> std::task::Poll<V>,
) -> V {
    for _ in 0..3000 {
        if let std::task::Poll::Ready(value) = look(machine.world.now()) {
            return value;
        }
        machine.world.run_for(Duration::from_millis(1));
    }
    panic!("the operation did not end");
}

/// A queue pair that a process has to itself, and its buffers.
pub(crate) struct Owned<'a, F, R> {
    pub(crate) rx: Receiver<F, Notifier<F, R>, N>,
    pub(crate) tx: Sender<'a, F, Notifier<F, R>, N>,
    pub(crate) pool: Pool<'a>,
}

/// Claims `pair` under `lease`, and arms it.
pub(crate) fn claim<'a, F: Ring<'a>, T: Transport<Registers: Clone>>(
    machine: &'a Machine,
    device: &mut Device<'_, T>,
    pair: u16,
    lease: Lease,
    words: &'a mut [u32],
) -> Result<Owned<'a, F, T::Registers>, PairError> {
    let rings = [0, 1].map(|_| {
        let block = machine.memory.lend(DEVICE, F::BYTES, lease).unwrap();
        F::make(&block)
    });
    let [(rx_ring, rx_addresses), (tx_ring, tx_addresses)] = rings;
    let arena = machine.memory.lend_arena(DEVICE, LAYOUT, lease).unwrap();
    let mut pool = Pool::new(arena, words);
    let (order, events) = (device.order(), device.events());
    let registers = device.transport().notify_registers().clone();
    let bell = |device: &Device<'_, T>, ring, queue| {
        let register = device.notify_register(queue)?;
        Ok(Notifier::new(ring, registers.clone(), register, events))
    };
    let spread = if device.features().contains(Features::MRG_RXBUF) {
        Spread::Merged
    } else {
        Spread::Single
    };
    let rx_bell = bell(device, rx_ring, 2 * pair)?;
    let tx_bell = bell(device, tx_ring, 2 * pair + 1)?;
    let mut rx = Receiver::new(rx_ring, rx_bell, &LAYOUT, (order, spread)).unwrap();
    let options = (order, HeaderSource::Queue);
    let tx = Sender::new(tx_ring, tx_bell, pool.arena().again(), options).unwrap();
    let rings = PairRings {
        receive: rx_addresses,
        transmit: tx_addresses,
    };
    let vectors = Vectors {
        receive: Some(1 + pair),
        transmit: None,
    };
    device.begin_claim(pair, rings, vectors, machine.world.now())?;
    poll(machine, |now| device.poll_claim(pair, now))?;
    rx.arm(&mut pool);
    Ok(Owned { rx, tx, pool })
}

impl<F: CheckedFormat, R: Registers> Owned<'_, F, R> {
    pub(crate) fn send(&mut self, frame: &[u8], part: usize) -> Result<bool, RingError> {
        send(&mut self.tx, &mut self.pool, frame, part)
    }

    pub(crate) fn receive(&mut self) -> Result<Vec<Vec<u8>>, RingError> {
        receive(&mut self.rx, &mut self.pool)
    }
}

/// Submits `frame` in segments of `part` bytes; `false` where there is no room.
pub(crate) fn send(
    tx: &mut impl TxQueue<Error = RingError>,
    pool: &mut Pool<'_>,
    frame: &[u8],
    part: usize,
) -> Result<bool, RingError> {
    let mut words = [0; 64];
    let mut list = SegmentList::new(&mut words);
    let count = frame.len().div_ceil(part);
    if pool.free() < count {
        return Ok(false);
    }
    for (number, bytes) in frame.chunks(part).enumerate() {
        let mut segment = pool.take().unwrap().with_len(bytes.len());
        pool.arena().bytes_mut(&mut segment).copy_from_slice(bytes);
        list.push(segment.with_more(number + 1 < count)).unwrap();
    }
    let sent = tx.submit(&mut list);
    list.clear_into(pool);
    Ok(sent? == 1)
}

/// Takes all frames that have arrived.
pub(crate) fn receive(
    rx: &mut impl RxQueue<Error = RingError>,
    pool: &mut Pool<'_>,
) -> Result<Vec<Vec<u8>>, RingError> {
    let mut frames = vec![Vec::new()];
    loop {
        let mut words = [0; 64];
        let mut list = SegmentList::new(&mut words);
        let result = rx.poll(pool, &mut list, 16);
        while let Some(segment) = list.pop() {
            let last = frames.last_mut().unwrap();
            last.extend_from_slice(pool.arena().bytes(&segment));
            if !segment.has_more() {
                frames.push(Vec::new());
            }
            pool.put(segment);
        }
        if result? == 0 {
            frames.pop();
            return Ok(frames);
        }
    }
}

/// A UDP packet in an Ethernet frame, `len` bytes long.
pub(crate) fn udp(mac: [u8; 6], from: [u8; 4], to: [u8; 4], len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|n| n as u8).collect();
    frame[..6].copy_from_slice(&mac);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, from[3]]);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14..34].fill(0);
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&(len as u16 - 14).to_be_bytes());
    frame[22] = 64;
    frame[23] = 17;
    frame[26..30].copy_from_slice(&from);
    frame[30..34].copy_from_slice(&to);
    frame[38..40].copy_from_slice(&(len as u16 - 34).to_be_bytes());
    frame
}

pub(crate) const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];

/// Everything on offer.
pub(crate) fn everything() -> Config {
    Config {
        features: Offered::all(),
        ..Config::default()
    }
}

/// Everything on offer, and frames of up to 9,014 bytes, which need several buffers each.
pub(crate) fn jumbo() -> Config {
    Config {
        mtu: 9000,
        ..everything()
    }
}
