//! A peer for comparison: `VirtIONetRaw` of the `virtio-drivers` crate, forwarding frames on a ring pair of 512.
//!
//! The work is what the project's own forwarding phase does: receive, touch one byte, send, reclaim, arm again. The
//! device asks for no notifications, so no doorbell is in the figure.
#![expect(
    clippy::std_instead_of_alloc,
    reason = "a program for the host has the standard library"
)]
#![expect(
    unsafe_code,
    reason = "the peer takes buffers by unsafe calls, and memory by a trait that is unsafe to implement"
)]

use crate::Phase;
use core::{
    alloc::Layout,
    cell::Cell,
    hint::black_box,
    ptr::{NonNull, with_exposed_provenance_mut},
    sync::atomic::{AtomicU16, AtomicU32, Ordering},
};
use parakernel_core::memory::SharedMemory;
use std::{
    alloc::{alloc_zeroed, dealloc, handle_alloc_error},
    rc::Rc,
};
use virtio_drivers::{
    BufferDirection, Error, Hal, PAGE_SIZE, PhysAddr,
    device::net::VirtIONetRaw,
    transport::{DeviceStatus, DeviceType, InterruptStatus, Transport},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Entries of each ring.
const ENTRIES: usize = 512;
/// Buffers armed for receiving; as many again can be on their way out.
const ARMED: usize = ENTRIES / 2;
/// Bytes of a buffer: an odd number of cache lines, so that buffers spread over the cache.
const STRIDE: usize = 2112;
/// Bytes of the header before each frame, with `num_buffers`; virtio 1.3, 5.1.6.
const HEADER: u32 = 12;
/// Bytes of a frame.
const FRAME: u32 = 64;
/// `VIRTIO_F_VERSION_1`; virtio 1.3, 6.
const VERSION_1: u64 = 1 << 32;
/// `VIRTQ_USED_F_NO_NOTIFY`; virtio 1.3, 2.7.8.
const NO_NOTIFY: u16 = 1;

/// Memory whose address on the bus is its address.
#[derive(Debug)]
struct Identity;

fn layout(pages: usize) -> Layout {
    Layout::from_size_align(pages * PAGE_SIZE, PAGE_SIZE).unwrap_or(Layout::new::<u8>())
}

// SAFETY: pages come zeroed, aligned and unshared from the allocator, and go back to it with the layout they came with.
unsafe impl Hal for Identity {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let layout = layout(pages);
        // SAFETY: a ring has at least one page, so the layout is not empty.
        let pointer = unsafe { alloc_zeroed(layout) };
        let Some(memory) = NonNull::new(pointer) else {
            handle_alloc_error(layout)
        };
        (address(pointer.expose_provenance()), memory)
    }

    unsafe fn dma_dealloc(_: PhysAddr, memory: NonNull<u8>, pages: usize) -> i32 {
        // SAFETY: the caller returns what `dma_alloc` gave for as many pages.
        unsafe { dealloc(memory.as_ptr(), layout(pages)) };
        0
    }

    unsafe fn mmio_phys_to_virt(_: PhysAddr, _: usize) -> NonNull<u8> {
        // The transport below has no registers in memory.
        NonNull::dangling()
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        address(buffer.cast::<u8>().as_ptr().expose_provenance())
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

const fn address(place: usize) -> PhysAddr {
    // A `usize` has 64 bits here.
    place as PhysAddr
}

/// Where the driver put a queue: its available and its used ring.
#[derive(Clone, Copy, Debug, Default)]
struct Areas {
    available: PhysAddr,
    used: PhysAddr,
}

/// A transport without registers, which tells the device where the queues are.
#[derive(Debug)]
struct Direct {
    areas: Rc<[Cell<Areas>; 2]>,
    status: DeviceStatus,
}

impl Transport for Direct {
    fn device_type(&self) -> DeviceType {
        DeviceType::Network
    }

    fn read_device_features(&mut self) -> u64 {
        VERSION_1
    }

    fn write_driver_features(&mut self, _: u64) {}

    fn max_queue_size(&mut self, _: u16) -> u32 {
        1024
    }

    fn notify(&mut self, _: u16) {}

    fn get_status(&self) -> DeviceStatus {
        self.status
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.status = status;
    }

    fn set_guest_page_size(&mut self, _: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(&mut self, queue: u16, _: u32, _: PhysAddr, available: PhysAddr, used: PhysAddr) {
        if let Some(areas) = self.areas.get(usize::from(queue)) {
            areas.set(Areas { available, used });
        }
    }

    fn queue_unset(&mut self, _: u16) {}

    fn queue_used(&mut self, _: u16) -> bool {
        false
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::empty()
    }

    fn read_config_generation(&self) -> u32 {
        0
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, _: usize) -> Result<T, Error> {
        Ok(T::new_zeroed())
    }

    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        _: usize,
        _: T,
    ) -> Result<(), Error> {
        Ok(())
    }
}

/// The device's side of a queue.
#[derive(Debug)]
struct DeviceQueue {
    available_index: &'static AtomicU16,
    available: &'static [AtomicU16],
    used_index: &'static AtomicU16,
    used: &'static [[AtomicU32; 2]],
    done: u16,
}

impl DeviceQueue {
    /// A view of the rings at `areas`, asking for no notifications.
    ///
    /// # Safety
    ///
    /// The rings must have [`ENTRIES`] entries, and live until the end of the program.
    unsafe fn new(areas: Areas) -> Option<Self> {
        let memory = |place: PhysAddr, len| {
            let base = NonNull::new(with_exposed_provenance_mut(usize::try_from(place).ok()?))?;
            // SAFETY: the caller vouches for the rings, and the driver views them as atomics.
            Some(unsafe { SharedMemory::<'static>::new(base, len) })
        };
        let available = memory(areas.available, 4 + ENTRIES * 2)?;
        let used = memory(areas.used, 4 + ENTRIES * 8)?;
        used.view::<AtomicU16>(0)?
            .store(NO_NOTIFY, Ordering::Relaxed);
        Some(Self {
            available_index: available.view(2)?,
            available: available.slice(4, ENTRIES)?,
            used_index: used.view(2)?,
            used: used.slice(4, ENTRIES)?,
            done: 0,
        })
    }

    /// Completes up to `budget` chains, each with `len` bytes written.
    fn complete(&mut self, budget: usize, len: u32) {
        let offered = self
            .available_index
            .load(Ordering::Acquire)
            .wrapping_sub(self.done);
        for _ in 0..usize::from(offered).min(budget) {
            let slot = usize::from(self.done) % ENTRIES;
            let head = self.available[slot].load(Ordering::Relaxed);
            let [id, written] = &self.used[slot];
            id.store(u32::from(head), Ordering::Relaxed);
            written.store(len, Ordering::Relaxed);
            self.done = self.done.wrapping_add(1);
        }
        self.used_index.store(self.done, Ordering::Release);
    }
}

/// Forwards every frame.
pub(crate) struct Forward {
    net: VirtIONetRaw<Identity, Direct, ENTRIES>,
    rx: DeviceQueue,
    tx: DeviceQueue,
    buffers: Box<[[u8; STRIDE]]>,
    free: Vec<u16>,
    /// Buffer behind each token.
    receiving: Box<[u16]>,
    sending: Box<[u16]>,
}

impl Phase for Forward {
    #[expect(
        clippy::expect_used,
        reason = "a bench without its peer set up has nothing to say"
    )]
    fn new() -> Self {
        let areas = Rc::new([Cell::default(), Cell::default()]);
        let transport = Direct {
            areas: Rc::clone(&areas),
            status: DeviceStatus::empty(),
        };
        let net = VirtIONetRaw::new(transport).expect("the peer accepts this device");
        // SAFETY: the driver allocated the rings for `ENTRIES` entries; the process ends before it frees them.
        let rx = unsafe { DeviceQueue::new(areas[0].get()) }.expect("a receive queue");
        // SAFETY: as above.
        let tx = unsafe { DeviceQueue::new(areas[1].get()) }.expect("a transmit queue");
        let buffers = vec![[0; STRIDE]; ENTRIES].into_boxed_slice();
        let tokens = vec![0; ENTRIES].into_boxed_slice();
        let free = (0..ENTRIES)
            .filter_map(|index| u16::try_from(index).ok())
            .collect();
        let mut forward = Self {
            net,
            rx,
            tx,
            buffers,
            free,
            receiving: tokens.clone(),
            sending: tokens,
        };
        for _ in 0..ARMED {
            forward.arm().expect("room for half a ring");
        }
        forward
    }

    fn prepare(&mut self, batch: usize) {
        self.rx.complete(batch, HEADER + FRAME);
        self.tx.complete(ENTRIES, 0);
    }

    fn measured(&mut self, batch: usize) -> usize {
        self.reclaim();
        (0..batch).take_while(|_| self.forward().is_some()).count()
    }
}

impl Forward {
    #[inline]
    fn arm(&mut self) -> Option<()> {
        let index = self.free.pop()?;
        let buffer = &mut self.buffers[usize::from(index)];
        // SAFETY: nobody looks at the buffer before the token comes back: it is in no list meanwhile.
        let token = unsafe { self.net.receive_begin(buffer) }.ok()?;
        self.receiving[usize::from(token)] = index;
        Some(())
    }

    #[inline]
    fn forward(&mut self) -> Option<()> {
        let token = self.net.poll_receive()?;
        let index = self.receiving[usize::from(token)];
        let buffer = &mut self.buffers[usize::from(index)];
        // SAFETY: `receiving` remembers the buffer that this token was given for.
        let (header, len) = unsafe { self.net.receive_complete(token, buffer) }.ok()?;
        black_box(buffer[header]);
        self.net.fill_buffer_header(buffer).ok()?;
        // SAFETY: nobody looks at the buffer before the token comes back: it is in no list meanwhile.
        let token = unsafe { self.net.transmit_begin(&buffer[..header + len]) }.ok()?;
        self.sending[usize::from(token)] = index;
        self.arm()
    }

    #[inline]
    fn reclaim(&mut self) {
        while let Some(token) = self.net.poll_transmit() {
            let index = self.sending[usize::from(token)];
            let len = usize::try_from(HEADER + FRAME).unwrap_or(STRIDE);
            let buffer = &self.buffers[usize::from(index)][..len];
            // SAFETY: `sending` remembers the buffer that this token was given for, and all frames are of one length.
            if unsafe { self.net.transmit_complete(token, buffer) }.is_err() {
                return;
            }
            self.free.push(index);
        }
    }
}
