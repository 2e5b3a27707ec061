//! One PCI function: what all device models share.

mod port;

use alloc::sync::Arc;
use core::{fmt, sync::atomic::Ordering};

use parakernel_core::address::BusAddress;

pub(crate) use port::{Port, Presence};

use super::{
    Endpoint,
    config::{Capability, Extended, Identity, Space},
    msix::Msix,
};
use crate::{
    Memory, World,
    fault::{Fault, Faults},
    interrupt::{Interrupts, Message},
    memory::{Bus, DmaError, RequesterId},
    trace::{Entry, Kind, Trace},
    world::Clock,
};
use port::Shared;

/// A base address register and where MSI-X lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BarLayout {
    pub(crate) index: usize,
    /// A power of two.
    pub(crate) len: usize,
}

/// How interrupts leave the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Delivery {
    /// As MSI-X messages, as the table says.
    Messages,
    /// By the number of the vector: the host keeps the table and its masks.
    Vectors,
    /// Over a line of its own.
    Line,
}

#[derive(Debug)]
pub(crate) struct Function {
    config: Space,
    msix: Msix,
    msix_capability: usize,
    express_capability: usize,
    power_capability: usize,
    bars: [usize; Endpoint::BARS],
    bus: Bus,
    clock: Clock,
    trace: Trace,
    interrupts: Interrupts,
    faults: Faults,
    removed: bool,
    /// What others who work on the function's behalf may see and do.
    shared: Arc<Shared>,
    /// Bus mastering was on since the last reset: whoever turned it off again did so to stop the device.
    was_master: bool,
    delivery: Delivery,
}

impl Function {
    /// A function with power management and PCI Express capabilities and the `bars`.
    pub(crate) fn new(
        world: &World,
        memory: &Memory,
        requester: RequesterId,
        identity: Identity,
    ) -> Self {
        /// Where power management ends.
        const NEXT: usize = 0x48;
        Self::with_express_at(NEXT, world, memory, requester, identity)
    }

    /// The same, the PCI Express capability lying at `offset`.
    pub(crate) fn with_express_at(
        offset: usize,
        world: &World,
        memory: &Memory,
        requester: RequesterId,
        identity: Identity,
    ) -> Self {
        let mut config = Space::new(identity);
        let power_capability = config.add_capability(&Capability::power_management());
        config.continue_at(offset);
        let express_capability = config.add_capability(&Capability::express());
        Self {
            config,
            msix: Msix::new(0, 0, 0, 0),
            msix_capability: 0,
            express_capability,
            power_capability,
            bars: [0; Endpoint::BARS],
            bus: memory.bus(requester),
            clock: world.clock(),
            trace: world.trace(),
            interrupts: world.interrupts(),
            faults: Faults::new(world.seed() ^ u64::from(requester.0)),
            removed: false,
            shared: Arc::default(),
            was_master: false,
            delivery: Delivery::Messages,
        }
    }

    pub(crate) fn add_bar(&mut self, bar: BarLayout) {
        self.config.add_bar(bar.index, bar.len, false);
        self.bars[bar.index] = bar.len;
    }

    /// Lets the next capability lie at `offset`, for devices whose drivers know the place.
    pub(crate) const fn continue_at(&mut self, offset: usize) {
        self.config.continue_at(offset);
    }

    /// Adds `count` vectors, 1 to 2,048, whose table lies at `table` and pending bits at `pending` of `bar`.
    pub(crate) fn add_msix(&mut self, count: u16, bar: usize, table: usize, pending: usize) {
        let place = |offset: usize| {
            let offset = u32::try_from(offset).unwrap_or(0);
            (offset | u32::try_from(bar).unwrap_or(0)).to_le_bytes()
        };
        let mut body = (count - 1).to_le_bytes().to_vec();
        body.extend(place(table));
        body.extend(place(pending));
        let capability = Capability {
            id: 0x11,
            body,
            writable: vec![0, 0xc0],
        };
        self.msix_capability = self.config.add_capability(&capability);
        self.msix = Msix::new(count, bar, table, pending);
    }

    pub(crate) fn add_capability(&mut self, capability: &Capability) -> usize {
        self.config.add_capability(capability)
    }

    /// Adds an extended capability at `at`.
    pub(crate) fn add_extended(&mut self, at: usize, capability: &Extended) {
        self.config.add_extended(at, capability);
    }

    /// Makes it a device on no bus that could be off: it always masters memory, and has one interrupt line.
    pub(crate) fn make_platform_device(&mut self) {
        self.config.write(0x04, 2, 0x0006);
        self.delivery = Delivery::Line;
    }

    /// Leaves the MSI-X table to a host that keeps one of its own: a vector is delivered whatever the table here says.
    pub(crate) const fn leave_msix_table_to_host(&mut self) {
        self.delivery = Delivery::Vectors;
    }

    /// How many MSI-X vectors there are.
    pub(crate) const fn vectors(&self) -> u16 {
        self.msix.count()
    }

    /// Ends the construction.
    pub(crate) fn seal(&mut self) {
        self.config.seal();
    }

    pub(crate) fn config(&mut self) -> &mut Space {
        &mut self.config
    }

    pub(crate) const fn faults(&self) -> &Faults {
        &self.faults
    }

    pub(crate) const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The length of a BAR in bytes, 0 where there is none.
    pub(crate) fn bar_len(&self, index: usize) -> usize {
        self.bars.get(index).copied().unwrap_or(0)
    }

    /// Whether the device was pulled, or is not there for another reason.
    pub(crate) fn is_gone(&self) -> bool {
        self.removed || !self.shared.has(Presence::Configurable)
    }

    /// Begins anew where the function was absent meanwhile.
    pub(crate) fn come_back(&mut self) {
        if self.shared.was_absent.swap(false, Ordering::AcqRel) {
            self.reset();
        }
    }

    /// A way to memory and vectors for a model that works on this function's behalf.
    pub(crate) fn port(&self) -> Port {
        Port {
            bus: self.bus.clone(),
            shared: self.shared.clone(),
        }
    }

    /// The vectors that such a model raised since the last call, a bit each.
    pub(crate) fn take_raised(&self) -> u64 {
        self.shared.raised.swap(0, Ordering::AcqRel)
    }

    /// Tells such a model whether transfers get through.
    fn share(&self) {
        let open = self.is_master() && self.is_awake() && !self.is_gone();
        self.shared.open.store(open, Ordering::Release);
    }

    /// Pulls the device, or puts it back, in its state after power-up.
    pub(crate) fn set_gone(&mut self, gone: bool) {
        self.removed = gone;
        self.reset();
    }

    /// Configuration space and MSI-X as after power-up.
    pub(crate) fn reset(&mut self) {
        self.config.reset();
        self.msix.reset();
        self.was_master = false;
        self.share();
    }

    /// Whether register accesses get through; reports those that do not although the device is there.
    pub(super) fn answers(&self, what: &str, offset: usize) -> bool {
        if self.is_gone() {
            return false;
        }
        if !self.shared.has(Presence::Whole) {
            let text = format_args!("register {offset:#x} {what} without VF Memory Space Enable");
            self.violation("SR-IOV 1.1, 3.3.3.4", text);
            return false;
        }
        let memory_space = self.config.read16(0x04) & 0x2 != 0;
        if !memory_space {
            self.violation(
                "PCIe 4.0, 7.5.1.1.3",
                format_args!("register {offset:#x} {what} with memory space off"),
            );
        }
        let awake = self.is_awake();
        if !awake {
            self.violation(
                "PCIe 4.0, 5.3.1.4",
                format_args!("register {offset:#x} {what} in D3hot"),
            );
        }
        memory_space && awake
    }

    /// Writes configuration space; whether the driver asked for a function-level reset.
    pub(super) fn write_config(&mut self, offset: usize, width: usize, value: u64) -> bool {
        self.config.write(offset, width, value);
        self.share();
        self.was_master |= self.config.read16(0x04) & 0x4 != 0;
        if self.msix_capability != 0 {
            let control = self.config.read16(self.msix_capability + 2);
            self.msix.enabled = control & 0x8000 != 0;
            self.msix.function_masked = control & 0x4000 != 0;
            self.send_pending();
        }
        // Initiate Function Level Reset is bit 15 of device control, and reads as 0.
        let control = self.express_capability + 8;
        let last = offset + width - 1;
        (offset..=last).contains(&(control + 1))
            && value >> (8 * (control + 1 - offset)) & 0x80 != 0
    }

    pub(super) fn read_msix(&self, bar: usize, offset: usize, width: usize) -> Option<u64> {
        self.msix.read(bar, offset, width)
    }

    pub(super) fn write_msix(
        &mut self,
        bar: usize,
        offset: usize,
        width: usize,
        value: u64,
    ) -> bool {
        let taken = self.msix.write(bar, offset, width, value);
        if taken && width < 4 {
            self.violation(
                "PCIe 4.0, 7.7.2",
                format_args!("MSI-X table at {offset:#x} accessed with {width} bytes"),
            );
        }
        if taken {
            self.send_pending();
        }
        taken
    }

    /// How many MSI-X vectors there are is for [`add_msix`](Self::add_msix) to say; whether `vector` is one.
    pub(crate) const fn has_vector(&self, vector: u16) -> bool {
        self.msix.is_valid(vector)
    }

    pub(crate) const fn uses_msix(&self) -> bool {
        self.msix.enabled
    }

    /// Sends the interrupt `vector`, now or when it is unmasked.
    pub(crate) fn interrupt(&mut self, vector: u16) {
        if !self.msix.enabled && self.delivery != Delivery::Line {
            // INTx is level-triggered and needs a status register to be acknowledged.
            if self.config.read16(0x04) & 0x0400 == 0 {
                self.left_out(format_args!("INTx asserted for vector {vector}"));
            }
            return;
        }
        if self.faults.fires(Fault::LostInterrupt) {
            self.fault(format_args!("interrupt {vector} lost"));
            return;
        }
        match self.delivery {
            Delivery::Line => self.deliver(vector, 0, 0),
            Delivery::Vectors if self.is_master() => self.deliver(vector, 0, 0),
            Delivery::Vectors => {}
            Delivery::Messages => {
                self.msix.raise(vector);
                self.send_pending();
            }
        }
    }

    /// Reads memory by DMA.
    pub(crate) fn read(&self, address: BusAddress, bytes: &mut [u8]) -> Result<(), DmaError> {
        let allowed = self.may_transfer(address);
        if allowed.is_err() {
            bytes.fill(0xff);
        }
        allowed.and_then(|()| self.bus.read(address, bytes))
    }

    pub(crate) fn read_array<const N: usize>(
        &self,
        address: BusAddress,
    ) -> Result<[u8; N], DmaError> {
        let mut bytes = [0; N];
        self.read(address, &mut bytes)?;
        Ok(bytes)
    }

    /// Writes memory by DMA.
    pub(crate) fn write(&self, address: BusAddress, bytes: &[u8]) -> Result<(), DmaError> {
        self.may_transfer(address)
            .and_then(|()| self.bus.write(address, bytes))
    }

    pub(crate) fn violation(&self, section: &'static str, text: fmt::Arguments<'_>) {
        self.record(Kind::Violation { section }, text);
    }

    pub(crate) fn left_out(&self, text: fmt::Arguments<'_>) {
        self.record(Kind::LeftOut, text);
    }

    pub(crate) fn fault(&self, text: fmt::Arguments<'_>) {
        self.record(Kind::Fault, text);
    }

    pub(crate) fn note(&self, text: fmt::Arguments<'_>) {
        self.record(Kind::Note, text);
    }

    fn record(&self, kind: Kind, text: fmt::Arguments<'_>) {
        self.trace.record(Entry {
            at: self.clock.now(),
            device: self.bus.requester(),
            kind,
            text: text.to_string(),
        });
    }

    fn may_transfer(&self, address: BusAddress) -> Result<(), DmaError> {
        if self.is_gone() {
            return Err(DmaError::NotMaster(address));
        }
        if !self.is_master() || !self.is_awake() {
            if !self.was_master {
                let text = format_args!(
                    "work for the device at {address:#x}, and bus mastering was never on"
                );
                self.violation("PCIe 4.0, 7.5.1.1.3", text);
            }
            return Err(DmaError::NotMaster(address));
        }
        if self.faults.fires(Fault::IommuFault) {
            self.fault(format_args!("transfer at {address:#x} refused"));
            return Err(self.bus.refuse(address));
        }
        Ok(())
    }

    fn is_awake(&self) -> bool {
        self.config.read16(self.power_capability + 4) & 3 == 0
    }

    fn is_master(&self) -> bool {
        self.config.read16(0x04) & 0x4 != 0
    }

    fn send_pending(&mut self) {
        while self.is_master() && !self.is_gone() {
            let Some((vector, address, data)) = self.msix.take() else {
                break;
            };
            self.deliver(vector, address, data);
        }
    }

    fn deliver(&self, vector: u16, address: u64, data: u32) {
        self.interrupts.deliver(Message {
            requester: self.bus.requester(),
            vector,
            address,
            data,
            at: self.clock.now(),
        });
    }
}
