//! An interface of a hardware pair and the kernel's virtual queue, with a kernel in between that lets pass what it should.
#![expect(clippy::unwrap_used, unsafe_code, reason = "tests; shares memory")]

extern crate alloc;

mod wire;

use alloc::rc::Rc;
use core::{cell::Cell, ptr::NonNull, sync::atomic::AtomicU64};

use parakernel_core::{
    memory::SharedMemory,
    queue::Doorbell,
    ring::{Position, RingSize},
    time,
    virtual_queue::{
        Delivery, ReceivePort, TransmitPort, VirtualLayout, VirtualReceiver, VirtualSender,
    },
};
use parakernel_smoltcp::{Device, Joined, Link, Memory, QueuePair, instant, is_discovery};
use smoltcp::{
    iface::{Config, Interface, SocketSet},
    socket::udp,
    wire::{EthernetAddress, IpCidr, Ipv4Address},
};
use wire::{Behaviour, Rx, Shared, Tx, direction, pool, words};

const ENTRIES: u32 = 8;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// A doorbell's two words.
#[derive(Clone)]
struct Words(Rc<[Cell<u32>; 2]>);

impl Words {
    fn new() -> Self {
        Self(Rc::new([Cell::new(0), Cell::new(0)]))
    }

    fn tail(&self) -> Position {
        Position::new(self.0[0].get())
    }

    fn accept(&self, position: Position) {
        self.0[1].set(position.as_u32());
    }
}

impl Doorbell for Words {
    fn ring(&mut self, tail: Position) {
        self.0[0].set(tail.as_u32());
    }

    fn accepted(&self, _rung: Position) -> Position {
        Position::new(self.0[1].get())
    }
}

/// The kernel's end of a process's virtual queue, and its place between that process and everybody else.
struct Kernel {
    receive: (ReceivePort<'static>, Words),
    transmit: (TransmitPort<'static>, Words),
    from_outside: Shared,
    /// Frames from outside that were steered.
    steered: usize,
    to_outside: Shared,
    to_hardware: Shared,
    /// Frames through the virtual queue, in and out.
    slow: [usize; 2],
}

impl Kernel {
    /// One turn of the event loop: steers what came from outside, and takes what the process sent.
    fn turn(&mut self) {
        let (port, words) = &mut self.receive;
        port.offer(words.tail()).unwrap();
        let seen = &self.from_outside.borrow().seen;
        for frame in seen.iter().skip(self.steered) {
            if is_discovery(frame) || frame[..6] != MAC {
                assert_eq!(port.deliver(frame), Delivery::Delivered);
                self.slow[0] += 1;
            } else {
                self.to_hardware.borrow_mut().put(frame.clone());
            }
        }
        self.steered = seen.len();
        words.accept(port.filled());
        let (port, words) = &mut self.transmit;
        let mut buffer = [0; 1520];
        let outside = &self.to_outside;
        let taken = port.take(words.tail(), 4, &mut buffer, |frame| {
            assert!(is_discovery(frame), "only discovery may leave this way");
            outside.borrow_mut().put(frame.to_vec());
            Ok(true)
        });
        self.slow[1] += taken.unwrap();
        words.accept(port.emptied());
    }
}

/// Memory of one direction of the virtual queue, never freed.
fn shared(layout: VirtualLayout) -> SharedMemory<'static> {
    let words = (0..layout.bytes().div_ceil(8)).map(|_| AtomicU64::new(0));
    let words: &'static [AtomicU64] = words.collect::<Vec<_>>().leak();
    // SAFETY: atomics that are never freed.
    unsafe { SharedMemory::new(NonNull::from(words).cast(), size_of_val(words)) }
}

/// A process's device, the kernel that it hangs on, and the queue pair of the host outside.
fn partition() -> (
    Device<'static, impl Link>,
    Kernel,
    QueuePair<'static, Rx, Tx>,
) {
    let (outside_tx, _, from_outside) = direction(Behaviour::default());
    let (fast_tx, outside_rx, to_outside) = direction(Behaviour::default());
    let (_, fast_rx, to_hardware) = direction(Behaviour::default());
    let layout = VirtualLayout {
        entries: RingSize::new(ENTRIES).unwrap(),
        slot_bytes: 1520,
    };
    let (to_process, from_process) = (shared(layout), shared(layout));
    let (rx_bell, tx_bell) = (Words::new(), Words::new());

    let mut receive = pool(200);
    let arena = receive.arena().again();
    let slow_rx = VirtualReceiver::new(to_process, layout, rx_bell.clone()).unwrap();
    let slow_tx =
        VirtualSender::new(from_process, layout, tx_bell.clone(), arena, words(32)).unwrap();
    let link = Joined::new(
        QueuePair::new(fast_rx, fast_tx, words(32)),
        QueuePair::new(slow_rx, slow_tx, words(32)),
    );
    let memory = Memory {
        transmit: receive.split_off(32, words(32)),
        receive,
        words: words(64),
        scratch: &mut [],
    };
    let kernel = Kernel {
        receive: (ReceivePort::new(to_process, layout).unwrap(), rx_bell),
        transmit: (TransmitPort::new(from_process, layout).unwrap(), tx_bell),
        from_outside,
        steered: 0,
        to_outside,
        to_hardware,
        slow: [0; 2],
    };
    let outside = QueuePair::new(outside_rx, outside_tx, words(64));
    (Device::new(link, memory, 1514), kernel, outside)
}

fn interface<L: Link>(device: &mut Device<'_, L>, mac: [u8; 6]) -> Interface {
    let config = Config::new(EthernetAddress(mac).into());
    let mut interface = Interface::new(config, device, instant(time::Instant::default()));
    interface.update_ip_addrs(|addresses| {
        let address = Ipv4Address::new(10, 0, 0, mac[5]);
        addresses.push(IpCidr::new(address.into(), 24)).unwrap();
    });
    interface
}

fn socket(port: u16) -> udp::Socket<'static> {
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 16], vec![0; 8192]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(port).unwrap();
    socket
}

#[test]
fn the_stack_sees_one_device_and_the_kernel_sees_only_discovery_and_broadcasts() {
    const ROUNDS: usize = 50;
    let (mut device, mut kernel, outside) = partition();
    let memory = Memory {
        receive: pool(128),
        transmit: pool(32),
        words: words(64),
        scratch: &mut [],
    };
    let mut outside = Device::new(outside, memory, 1514);
    let mut process = interface(&mut device, MAC);
    let mut host = interface(&mut outside, [2, 0, 0, 0, 0, 2]);
    let (mut serving, mut asking) = (SocketSet::new(Vec::new()), SocketSet::new(Vec::new()));
    let (service, asker) = (serving.add(socket(7)), asking.add(socket(8)));
    let (mut asked, mut answered) = (0, 0);
    for millisecond in 0..1000 {
        let now = instant(time::Instant::from_nanos(millisecond * 1_000_000));
        outside.fill(16).unwrap();
        host.poll(now, &mut outside, &mut asking);
        outside.flush().unwrap();
        kernel.turn();
        device.fill(16).unwrap();
        process.poll(now, &mut device, &mut serving);
        device.flush().unwrap();

        let socket = serving.get_mut::<udp::Socket<'_>>(service);
        while let Ok((datagram, from)) = socket.recv() {
            let datagram = datagram.to_vec();
            socket.send_slice(&datagram, from).unwrap();
        }
        let socket = asking.get_mut::<udp::Socket<'_>>(asker);
        while let Ok((datagram, _)) = socket.recv() {
            assert_eq!(datagram, answered.to_string().as_bytes());
            answered += 1;
        }
        if asked < ROUNDS && asked == answered {
            let to = (Ipv4Address::new(10, 0, 0, 1), 7);
            socket.send_slice(asked.to_string().as_bytes(), to).unwrap();
            asked += 1;
        }
    }
    assert_eq!((asked, answered), (ROUNDS, ROUNDS));
    // The host's question and the process's answer: the requests teach the process the host's address.
    let [delivered, taken] = kernel.slow;
    assert!(
        (1..=2).contains(&delivered) && (1..=2).contains(&taken),
        "{:?}",
        kernel.slow
    );
    assert_eq!(kernel.to_hardware.borrow().seen.len(), ROUNDS);
}
