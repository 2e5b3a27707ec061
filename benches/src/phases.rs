//! All phases by name.

use crate::{
    Entry, control::Control, entry, ixgbe_control, nic_ixgbe, nic_ixgbe::fault, nic_virtio,
    nothing::Nothing, nvme, peer, steering,
};

/// Every phase, in the order of the report.
pub const PHASES: &[Entry] = &[
    entry::<Nothing>("harness/nothing"),
    entry::<Control>("harness/control"),
    entry::<nic_ixgbe::Spoiled<{ fault::SHARED_COUNTER }>>("harness/shared-counter"),
    entry::<nic_ixgbe::Spoiled<{ fault::FENCE }>>("harness/fence"),
    entry::<nic_ixgbe::Spoiled<{ fault::CHECK }>>("harness/check"),
    entry::<nic_ixgbe::Forward>("nic-ixgbe/forward"),
    entry::<nic_ixgbe::Fixed>("nic-ixgbe/fixed"),
    entry::<nic_ixgbe::ReceiveOnly>("nic-ixgbe/rx"),
    entry::<nic_ixgbe::SendOnly>("nic-ixgbe/tx"),
    entry::<nic_ixgbe::ValidateReceive>("nic-ixgbe/validate-rx"),
    entry::<nic_ixgbe::ValidateTransmit>("nic-ixgbe/validate-tx"),
    entry::<ixgbe_control::Claim>("nic-ixgbe/claim"),
    entry::<ixgbe_control::Steer>("nic-ixgbe/rule"),
    entry::<steering::Insert<0>>("core/rule"),
    entry::<steering::Insert<4096>>("core/rule-among-4096"),
    entry::<nic_virtio::Forward>("nic-virtio/split-forward"),
    entry::<nic_virtio::ValidateReceive>("nic-virtio/validate-rx"),
    entry::<nic_virtio::ValidateTransmit>("nic-virtio/validate-tx"),
    entry::<peer::Forward>("peer/virtio-drivers-forward"),
    entry::<nvme::Process<4096>>("nvme/read-4k"),
    entry::<nvme::Process<16384>>("nvme/read-16k"),
    entry::<nvme::Kernel<4096>>("nvme/checked-4k"),
    entry::<nvme::Kernel<8192>>("nvme/checked-8k"),
    entry::<nvme::Kernel<65536>>("nvme/checked-64k"),
];

/// The phase of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Entry> {
    PHASES.iter().find(|entry| entry.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_does_what_it_is_asked() {
        for entry in PHASES {
            for batch in [1, 8, 32, 128] {
                let (items, _) = (entry.run)(batch, 3);
                assert_eq!(items, batch * 3, "{} at {batch}", entry.name);
            }
        }
    }

    #[test]
    fn names_are_unique() {
        for entry in PHASES {
            assert_eq!(
                PHASES
                    .iter()
                    .filter(|other| other.name == entry.name)
                    .count(),
                1,
                "{}",
                entry.name
            );
        }
    }
}
