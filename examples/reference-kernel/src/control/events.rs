//! What the control plane says, and who has to know.

use heapless::Vec;
use parakernel_core::abi::{Codec, LeaseState};
use parakernel_core::control::{Event, LeaseSpec, Outcome, Tag};
use parakernel_core::device::DeviceId;
use parakernel_core::handle::ProcessId;
use parakernel_core::steering::NameGrant;

use super::Control;
use crate::capacity::NAMES;
use crate::device::Device;
use crate::machine::Terms;
use crate::print;
use crate::queues::network::GRANTS_MAX;

impl Control {
    /// Carries out what the control plane has to say.
    pub(super) fn handle(&mut self, event: Event) {
        match event {
            Event::Deliver {
                process,
                tag,
                outcome,
            } => self.deliver(process, tag, &outcome),
            Event::Ended(process) => {
                self.plane.platform_mut().leave(process);
            }
            Event::DeviceUp(device, epoch) => {
                print!("device {} works again, epoch {epoch}\n", device.as_u32());
                self.restart_slow_path(device);
            }
            Event::DeviceGone(device) => print!("device {} is gone\n", device.as_u32()),
            Event::DeviceLoose(device) => print!(
                "device {} is out of service, but not off the bus: what it may reach is never used again\n",
                device.as_u32()
            ),
        }
    }

    /// Starts the kernel's own pair again on a card that was reset.
    fn restart_slow_path(&mut self, device: DeviceId) {
        let machine = self.plane.platform_mut();
        let card = machine.devices.get_mut(device.index());
        let mut paths = self.slow_paths.iter_mut();
        let path = paths.find(|path| path.device() == device);
        if let (Some(path), Some(card)) = (path, card)
            && let Device::Net(card) = &mut **card
            && !path.restart(card)
        {
            print!(
                "device {}: the kernel's own queue pair does not start\n",
                device.as_u32()
            );
        }
    }

    fn activate(&mut self, spec: &LeaseSpec) -> bool {
        const { assert!(NAMES <= GRANTS_MAX, "a queue checks all names") };
        let mut grants: Vec<NameGrant, GRANTS_MAX> = Vec::new();
        for names in self.plane.grants().of(spec.process, spec.device) {
            if grants.push(*names).is_err() {
                return false;
            }
        }
        let epoch = self.plane.free_of(spec.device);
        let terms = Terms {
            policy: self.policy,
            grants: &grants,
            epoch: epoch.map_or_else(Default::default, |(_, _, epoch)| epoch),
        };
        self.plane.platform_mut().activate(spec, &terms)
    }

    fn deliver(&mut self, process: ProcessId, tag: Option<Tag>, outcome: &Outcome) {
        let Some(core) = self.plane.platform().core_of(process) else {
            return;
        };
        let is_usable = match *outcome {
            Outcome::Claimed { lease, .. } | Outcome::Rearmed { lease } => {
                let spec = self.plane.lease(lease).map(|(spec, _)| *spec);
                spec.is_some_and(|spec| self.activate(&spec))
            }
            Outcome::Lost { lease, epoch } => {
                if let Some((spec, _)) = self.plane.lease(lease) {
                    let state = LeaseState::Lost;
                    self.plane.platform().tell(spec, state, Some(epoch));
                }
                true
            }
            Outcome::Registered { .. }
            | Outcome::Released { .. }
            | Outcome::Revoked { .. }
            | Outcome::Quarantined { .. }
            | Outcome::RuleAdded { .. }
            | Outcome::RuleRemoved { .. }
            | Outcome::Refused(_)
            | _ => true,
        };
        let message = outcome.encode(tag);
        let seat = self.kernel().seats.at(core);
        let is_told = seat.is_some_and(|seat| seat.deliver(&message).is_ok());
        if !is_usable || !is_told {
            print!("core {}: {outcome:?} does not arrive\n", core.index());
            self.stop(core);
        }
    }
}
