//! Which core should serve a device's queue, and where its memory should come from.

use parakernel_core::address::{CoreId, NodeId};

use crate::acpi::Distance;
use crate::topology::Topology;

/// A core for the queues of some devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Placement {
    /// The core.
    pub core: CoreId,
    /// Where it is.
    pub node: NodeId,
    /// The sum of the distances to the devices' nodes.
    pub distance: u32,
}

/// The free core that is nearest to all of `devices` together, or `None` if no free core reaches them all.
///
/// `devices` are the nodes of the devices whose queues the core will serve; a device of which nobody knows the node is
/// left out. Of equally near cores, the lowest is chosen. The memory of a queue is best taken from the device's node
/// (see [`nearest`]): the device writes it whether or not the core looks.
pub fn place(
    topology: &Topology<'_>,
    devices: &[NodeId],
    free: impl IntoIterator<Item = CoreId>,
) -> Option<Placement> {
    free.into_iter()
        .filter_map(|core| placement(topology, devices, core))
        .min_by_key(|placement| (placement.distance, placement.core))
}

/// What it would mean to serve `devices` from `core`.
fn placement(topology: &Topology<'_>, devices: &[NodeId], core: CoreId) -> Option<Placement> {
    let node = topology.node_of_core(core)?;
    let distance = devices.iter().try_fold(0_u32, |sum, device| {
        let distance = topology.distance(node, *device);
        let is_reachable = distance != Distance::UNREACHABLE;
        is_reachable.then(|| sum.saturating_add(distance.as_u8().into()))
    })?;
    Some(Placement {
        core,
        node,
        distance,
    })
}

/// The nodes that `home` can reach, the nearest first: `home` itself, as a rule. Of equally near ones, the lowest.
///
/// The order in which to look for memory when `home` has none left.
pub fn nearest<'t>(
    topology: &Topology<'t>,
    home: NodeId,
) -> impl Iterator<Item = NodeId> + use<'t> {
    let topology = *topology;
    let rank = move |node| (topology.distance(home, node), node);
    let next = move |last: Option<(Distance, NodeId)>| {
        (0..)
            .map(NodeId::new)
            .take(topology.nodes().len())
            .map(rank)
            .filter(|(distance, _)| *distance != Distance::UNREACHABLE)
            .filter(|candidate| last.is_none_or(|last| last < *candidate))
            .min()
    };
    core::iter::successors(next(None), move |last| next(Some(*last))).map(|(_, node)| node)
}
