//! The devices of the machine, and the kernel's own queue pairs on them.

use heapless::Vec;
use kernel_formats::command_line;
use kernel_formats::manifest::Ring;
use parakernel_core::address::PhysAddr;
use parakernel_core::device::DeviceId;

use crate::arch::native;
use crate::boot::Kernel;
use crate::device::Device;
use crate::device::ixgbe::IxgbeNet;
use crate::device::net::NetDevice;
use crate::device::nvme::NvmeDevice;
use crate::device::virtio::VirtioNet;
use crate::machine::{DEVICES_MAX, Devices};
use crate::print;
use crate::slow_path::SlowPath;

/// Brings up the devices that there are drivers for.
pub(super) fn devices(kernel: &mut Kernel, ring: Ring) -> Devices {
    let mut devices = Vec::new();
    for index in 0..kernel.functions.len() {
        let Some(function) = kernel.functions.get(index).copied() else {
            break;
        };
        let device = if NvmeDevice::is(function) {
            NvmeDevice::bring_up(kernel, function).map(Device::Nvme)
        } else if VirtioNet::is(function) {
            let card = VirtioNet::bring_up(kernel, function, ring);
            card.map(|card| Device::Net(NetDevice::Virtio(card)))
        } else if IxgbeNet::is(function) {
            let card = IxgbeNet::bring_up(kernel, function);
            card.map(|card| Device::Net(NetDevice::Ixgbe(card)))
        } else {
            None
        };
        let Some(device) = device else { continue };
        let device = kernel.frames.place(device.node(), device);
        if device.is_none_or(|device| devices.push(device).is_err()) {
            print!("pci {}: too many devices\n", function.address);
        }
    }
    for place in command_line::devices(kernel.command_line, "virtio_mmio.device") {
        let place = (PhysAddr::new(place.start), native(place.len));
        let Some(card) = VirtioNet::bring_up_at(kernel, place, ring) else {
            continue;
        };
        let device = Device::Net(NetDevice::Virtio(card));
        let device = kernel.frames.place(device.node(), device);
        if device.is_none_or(|device| devices.push(device).is_err()) {
            print!("{:?}: too many devices\n", place.0);
        }
    }
    devices
}

/// Starts the kernel's own pair on each card. A card where that fails is of no use to anybody.
pub(super) fn slow_paths(
    kernel: &mut Kernel,
    devices: &mut Devices,
) -> Vec<&'static mut SlowPath, DEVICES_MAX> {
    let mut paths = Vec::new();
    for (number, device) in (0..).zip(devices) {
        let Device::Net(card) = &mut **device else {
            continue;
        };
        let node = card.node();
        let path = SlowPath::start(kernel, card, DeviceId::new(number));
        let path = path.and_then(|path| kernel.frames.place(node, path));
        if path.is_none_or(|path| paths.push(path).is_err()) {
            print!("device {number}: the kernel's own queue pair does not start\n");
        }
    }
    paths
}
