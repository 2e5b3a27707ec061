//! The virtio-net model driven by software that nobody here wrote: the `virtio-drivers` crate, on a thread of its own.
#![expect(unsafe_code, reason = "the crate's `Hal` is an unsafe trait")]
#![expect(clippy::unwrap_used, reason = "a test")]

use alloc::sync::Arc;
use core::{
    cell::RefCell,
    ptr::NonNull,
    sync::atomic::{AtomicBool, Ordering},
};
use std::thread;

use parakernel_core::{
    address::{Direction, PhysAddr as Physical},
    mmio::{Registers, Width},
};
use parakernel_mock_hw::{
    Memory, VirtioNet, World,
    memory::{Lease, PAGE, Range, RequesterId},
    virtio_net::{Config, Features, MmioRegisters},
};
use virtio_drivers::{
    BufferDirection, Hal, PhysAddr, Result,
    device::net::VirtIONet,
    transport::{DeviceStatus, DeviceType, InterruptStatus, Transport},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

extern crate alloc;

const DEVICE: RequesterId = RequesterId(0x0300);

thread_local! {
    /// The machine of the test that runs on this thread.
    static MEMORY: RefCell<Option<Memory>> = const { RefCell::new(None) };
}

/// The machine's memory, in the words of the other crate. Every buffer is bounced: the device reaches only what is
/// shared with it, and only as long as it is.
struct Machine;

impl Machine {
    fn memory() -> Memory {
        MEMORY.with_borrow(|memory| memory.clone().unwrap())
    }

    fn take(memory: &Memory, len: usize, direction: BufferDirection) -> Range {
        let range = memory.allocate(len).unwrap();
        let direction = match direction {
            BufferDirection::DriverToDevice => Direction::ToDevice,
            BufferDirection::DeviceToDriver => Direction::FromDevice,
            BufferDirection::Both => Direction::Bidirectional,
        };
        memory.grant(DEVICE, range, direction, Lease(range.start.as_u64()));
        range
    }

    fn give_back(memory: &Memory, address: PhysAddr, len: usize) {
        memory.end(Lease(address));
        memory.free(Range {
            start: Physical::new(address),
            len: len.next_multiple_of(PAGE),
        });
    }
}

// SAFETY: `dma_alloc` hands out zeroed pages of the allocation behind `Memory`, which `MEMORY` keeps alive, and
// nothing else in this program makes references to them.
unsafe impl Hal for Machine {
    fn dma_alloc(pages: usize, direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let memory = Self::memory();
        let range = Self::take(&memory, pages * PAGE, direction);
        (range.start.as_u64(), memory.pointer(range).unwrap())
    }

    unsafe fn dma_dealloc(address: PhysAddr, _pointer: NonNull<u8>, pages: usize) -> i32 {
        Self::give_back(&Self::memory(), address, pages * PAGE);
        0
    }

    unsafe fn mmio_phys_to_virt(_address: PhysAddr, _size: usize) -> NonNull<u8> {
        unreachable!("the transport is this test's own")
    }

    unsafe fn share(buffer: NonNull<[u8]>, direction: BufferDirection) -> PhysAddr {
        let memory = Self::memory();
        let range = Self::take(&memory, buffer.len(), direction);
        // SAFETY: valid and not accessed by others during this call, as the caller promises.
        let bytes = unsafe { buffer.as_ref() };
        assert!(memory.poke(range.start, bytes));
        range.start.as_u64()
    }

    unsafe fn unshare(address: PhysAddr, mut buffer: NonNull<[u8]>, direction: BufferDirection) {
        let memory = Self::memory();
        if direction != BufferDirection::DriverToDevice {
            // SAFETY: valid and not accessed by others during this call, as the caller promises.
            let bytes = unsafe { buffer.as_mut() };
            assert!(memory.peek(Physical::new(address), bytes));
        }
        Self::give_back(&memory, address, buffer.len());
    }
}

/// The registers over MMIO, in the words of the other crate.
struct Mmio(MmioRegisters);

impl Mmio {
    fn address(&self, offset: usize, address: PhysAddr) {
        self.0
            .write32(offset, (address & 0xffff_ffff).try_into().unwrap());
        self.0
            .write32(offset + 4, (address >> 32).try_into().unwrap());
    }
}

impl Transport for Mmio {
    fn device_type(&self) -> DeviceType {
        self.0.read32(0x008).try_into().unwrap()
    }

    fn read_device_features(&mut self) -> u64 {
        (0..2).fold(0, |features, half| {
            self.0.write32(0x014, half);
            features | u64::from(self.0.read32(0x010)) << (32 * half)
        })
    }

    fn write_driver_features(&mut self, features: u64) {
        for half in 0..2 {
            self.0.write32(0x024, half);
            self.0.write32(
                0x020,
                (features >> (32 * half) & 0xffff_ffff).try_into().unwrap(),
            );
        }
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.0.write32(0x030, queue.into());
        self.0.read32(0x034)
    }

    fn notify(&mut self, queue: u16) {
        self.0.write32(0x050, queue.into());
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_retain(self.0.read32(0x070))
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.0.write32(0x070, status.bits());
    }

    fn set_guest_page_size(&mut self, _size: u32) {
        // The crate does not look at FEATURES_OK again; this comes right after it was set.
        assert!(self.get_status().contains(DeviceStatus::FEATURES_OK));
    }

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        table: PhysAddr,
        driver: PhysAddr,
        device: PhysAddr,
    ) {
        self.0.write32(0x030, queue.into());
        self.0.write32(0x038, size);
        self.address(0x080, table);
        self.address(0x090, driver);
        self.address(0x0a0, device);
        self.0.write32(0x044, 1);
    }

    fn queue_unset(&mut self, queue: u16) {
        self.0.write32(0x030, queue.into());
        self.0.write32(0x044, 0);
        while self.0.read32(0x044) != 0 {}
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.0.write32(0x030, queue.into());
        self.0.read32(0x044) != 0
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        let pending = self.0.read32(0x060);
        self.0.write32(0x064, pending);
        InterruptStatus::from_bits_truncate(pending)
    }

    fn read_config_generation(&self) -> u32 {
        self.0.read32(0x0fc)
    }

    /// Reads each field with its own width: half words as such, anything else byte by byte.
    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        let mut value = T::new_zeroed();
        let bytes = value.as_mut_bytes();
        if bytes.len() == 2 {
            bytes.copy_from_slice(&self.0.read16(0x100 + offset).to_le_bytes());
        } else {
            for (n, byte) in bytes.iter_mut().enumerate() {
                *byte = self
                    .0
                    .read(0x100 + offset + n, Width::U8)
                    .try_into()
                    .unwrap();
            }
        }
        Ok(value)
    }

    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        _offset: usize,
        _value: T,
    ) -> Result<()> {
        unreachable!("the driver of a network device writes no configuration")
    }
}

/// Lets the devices of `world` work on another thread while `drive` runs.
fn while_devices_work(world: &World, drive: impl FnOnce()) {
    let stop = Arc::new(AtomicBool::new(false));
    let devices = thread::spawn({
        let (world, stop) = (world.clone(), stop.clone());
        move || {
            while !stop.load(Ordering::Relaxed) {
                if !world.step() {
                    thread::yield_now();
                }
            }
        }
    });
    drive();
    stop.store(true, Ordering::Relaxed);
    devices.join().unwrap();
}

#[test]
fn virtio_drivers_sends_and_receives_through_the_model() {
    let world = World::new(7);
    let memory = world.memory(4 << 20);
    MEMORY.set(Some(memory.clone()));
    let features = Features::all()
        - Features::RING_PACKED
        - Features::ACCESS_PLATFORM
        - Features::NOTIFICATION_DATA;
    let config = Config {
        features,
        ..Config::default()
    };
    let net = VirtioNet::mmio(&world, &memory, DEVICE, config.clone());
    net.wire().loop_back();
    while_devices_work(&world, || {
        let mut driver =
            VirtIONet::<Machine, _, 16>::new(Mmio(net.mmio_registers()), 2048).unwrap();
        assert_eq!(driver.mac_address(), config.mac);
        for n in 0..500_usize {
            let frame: Vec<u8> = (0..60 + n % 1400)
                .map(|byte| (byte ^ n).to_le_bytes()[0])
                .collect();
            let mut buffer = driver.new_tx_buffer(frame.len());
            buffer.packet_mut().copy_from_slice(&frame);
            driver.send(buffer).unwrap();
            let received = loop {
                match driver.receive() {
                    Ok(received) => break received,
                    Err(virtio_drivers::Error::NotReady) => thread::yield_now(),
                    Err(error) => unreachable!("{error}"),
                }
            };
            assert!(received.packet() == frame);
            driver.recycle_rx_buffer(received).unwrap();
        }
    });
    assert_eq!(net.counts().received, 500);
    world.trace().assert_clean();
    assert!(memory.escapes().is_empty());
    MEMORY.set(None);
}
