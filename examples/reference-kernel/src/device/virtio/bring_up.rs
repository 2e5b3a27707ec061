//! From a function on a bus, or registers somewhere, to a card in service.

use core::fmt;

use kernel_formats::manifest::Ring;
use parakernel_core::address::{NodeId, PhysAddr};
use parakernel_core::mmio::MappedRegisters;
use parakernel_nic_virtio::device::{Device, Pair, Setup};
use parakernel_nic_virtio::features::Features;
use parakernel_nic_virtio::steering::{CLASSES, ClassRules};
use parakernel_nic_virtio::transport::mmio::MmioTransport;
use parakernel_nic_virtio::transport::pci::{BarRange, Layout, PciTransport};

use super::bus::Bus;
use super::{Card, KERNEL_PAIR, Place, VirtioNet};
use crate::arch::native;
use crate::boot::Kernel;
use crate::machine::FRAMES;
use crate::memory::{FRAME, Owner};
use crate::pci::Function;
use crate::pci::msix::MsiX;
use crate::{capacity, devices, print, time};

/// A card that was found, by whatever name.
struct Found<N> {
    name: N,
    function: Option<&'static Function>,
    bus: Bus,
    notify: MappedRegisters,
    notify_start: Option<PhysAddr>,
    msix: Option<MsiX>,
}

impl VirtioNet {
    /// Whether `function` is such a device.
    pub(crate) fn is(function: &Function) -> bool {
        Layout::parse(&function.config).is_ok()
    }

    /// Brings the card up with rings of one form; `None` where that fails, which the log says why.
    pub(crate) fn bring_up(
        kernel: &mut Kernel,
        function: &'static Function,
        ring: Ring,
    ) -> Option<Self> {
        let address = function.address;
        let layout = Layout::parse(&function.config).ok()?;
        let node = kernel.node_of(function);
        let mut bars = Bars::new(kernel, function);
        let notify = bars.part(layout.notify)?;
        let transport = PciTransport::new(&layout, |range| bars.part(range));
        let transport = transport
            .map_err(|error| print!("virtio-net {address}: {error}\n"))
            .ok()?;
        let notify_start = bars.start(layout.notify);
        let table = bars.whole(
            function
                .config
                .msi_x()
                .ok()
                .flatten()
                .map(|it| it.table().bar),
        );
        devices::allow(function)
            .map_err(|error| print!("virtio-net {address}: {error:?}\n"))
            .ok()?;
        let msix = table.and_then(|(bar, registers)| MsiX::of(kernel, function, (bar, &registers)));
        let found = Found {
            name: address,
            function: Some(function),
            bus: Bus::Pci(transport),
            notify,
            notify_start,
            msix,
        };
        Self::start(kernel, found, ring, node)
    }

    /// Brings up the card whose registers are `len` bytes at `start`, if there is one.
    pub(crate) fn bring_up_at(
        kernel: &mut Kernel,
        (start, len): (PhysAddr, usize),
        ring: Ring,
    ) -> Option<Self> {
        let registers = kernel.map_registers(start, len)?;
        let notify = registers.part(0, len)?;
        let bus = Bus::Mmio(MmioTransport::new(registers).ok()?);
        let node = kernel.frames.node_with_memory(NodeId::new(0));
        let found = Found {
            name: start,
            function: None,
            bus,
            notify,
            notify_start: None,
            msix: None,
        };
        Self::start(kernel, found, ring, node)
    }

    fn start(
        kernel: &mut Kernel,
        found: Found<impl fmt::Debug>,
        ring: Ring,
        node: NodeId,
    ) -> Option<Self> {
        let name = found.name;
        let notify: &'static MappedRegisters = kernel.frames.place(node, found.notify)?;
        let most = Card::most_pairs(&found.bus);
        let books = size_of::<Pair>() + size_of::<Place>();
        let most = capacity::affordable(&kernel.frames, &name, (most, books));
        let setup = setup(kernel, node, (wanted(ring), most));
        let setup = capacity::told(&name, setup)?;
        let card = Device::bring_up(found.bus, &mut time::Spin, setup);
        let card = card
            .map_err(|error| print!("virtio-net {name:?}: {error}\n"))
            .ok()?;
        let pairs = card.pairs();
        print!(
            "virtio-net {name:?}: {pairs} queue pairs, {:?}\n",
            card.features()
        );
        let mut device = Self {
            card,
            function: found.function,
            notify,
            notify_start: found.notify_start,
            msix: found.msix,
            places: &mut [],
            rules: ClassRules::new(
                kernel.frames.place_slice(node, CLASSES, None)?,
                KERNEL_PAIR,
                KERNEL_PAIR + 1,
            ),
            node,
            nudge_at: time::now(),
            resets: 0,
        };
        // Without exact steering no pair can be given away: all frames arrive at the kernel's own.
        let offered = if device.steers() { pairs - 1 } else { 0 };
        let places = kernel.frames.place_with(node, offered, Place::default);
        device.places = capacity::told(&name, places)?;
        Some(device)
    }
}

fn wanted(ring: Ring) -> Features {
    match ring {
        Ring::Split => Features::PARTITION,
        Ring::Packed => Features::PARTITION | Features::RING_PACKED,
    }
}

/// Memory for the driver, and for so many pairs.
fn setup(
    kernel: &mut Kernel,
    node: NodeId,
    (wanted, pairs): (Features, usize),
) -> Option<Setup<'static>> {
    let frames = &mut kernel.frames;
    let mut page = || frames.dma_block(node, native(FRAME), Owner::KERNEL);
    let (control, idle) = (page()?, page()?);
    Some(Setup {
        wanted,
        control,
        idle,
        pairs: frames.place_slice(node, pairs, Pair::EMPTY)?,
        config_vector: None,
        capacity: FRAMES.capacity(),
    })
}

/// Base addresses, each mapped once.
struct Bars<'k> {
    kernel: &'k mut Kernel,
    function: &'static Function,
    mapped: [Option<MappedRegisters>; 6],
}

impl<'k> Bars<'k> {
    const fn new(kernel: &'k mut Kernel, function: &'static Function) -> Self {
        Self {
            kernel,
            function,
            mapped: [const { None }; 6],
        }
    }

    fn bar(&mut self, bar: u8) -> Option<&MappedRegisters> {
        let slot = self.mapped.get_mut(usize::from(bar))?;
        if slot.is_none() {
            let (tables, frames) = (&mut self.kernel.tables, &mut self.kernel.frames);
            let memory = &self.kernel.memory;
            *slot = self.function.map_bar(bar, tables, frames, memory).ok();
        }
        slot.as_ref()
    }

    fn part(&mut self, range: BarRange) -> Option<MappedRegisters> {
        let (offset, len) = (native(range.offset.into()), native(range.len.into()));
        self.bar(range.bar)?.part(offset, len)
    }

    fn whole(&mut self, bar: Option<u8>) -> Option<(u8, MappedRegisters)> {
        let bar = bar?;
        let registers = self.bar(bar)?;
        Some((
            bar,
            registers.part(0, parakernel_core::mmio::Registers::len(registers))?,
        ))
    }

    /// The physical address of a range.
    fn start(&self, range: BarRange) -> Option<PhysAddr> {
        let bar = self.function.config.bar(range.bar)?;
        PhysAddr::new(bar.address).checked_add(range.offset.into())
    }
}
