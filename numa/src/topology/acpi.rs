//! A topology from firmware tables.

use parakernel_core::address::PhysAddr;
use parakernel_core::pci;

use super::{Builder, Storage, TopologyError};
use crate::acpi::dmar::{ScopeKind, Unit};
use crate::acpi::madt::ProcessorState;
use crate::acpi::srat::DeviceHandle;
use crate::acpi::{Dmar, Error, Madt, Memory, Problem, Signature, Slit, Srat, Tables};

/// The firmware tables that a topology is made of.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// The cores.
    pub madt: Madt<'a>,
    /// What is on which node; without it, all is on one node.
    pub srat: Option<Srat<'a>>,
    /// The distances; without it, all other nodes are equally far.
    pub slit: Option<Slit<'a>>,
    /// The remapping units, which may know the node of their devices.
    pub dmar: Option<Dmar<'a>>,
}

impl<'a> Sources<'a> {
    /// Finds and checks the tables.
    ///
    /// # Errors
    ///
    /// The first error of one of the tables; [`Problem::Missing`] if there is no MADT.
    pub fn read<M: Memory + ?Sized>(tables: &Tables<'a, M>) -> Result<Self, Error> {
        let missing = Error::new(Signature::MADT, 0, Problem::Missing);
        Ok(Self {
            madt: tables.madt()?.ok_or(missing)?,
            srat: tables.srat()?,
            slit: tables.slit()?,
            dmar: tables.dmar()?,
        })
    }

    /// The proximity domains that something is on.
    fn domains(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.srat.into_iter().flat_map(|srat| {
            let cores = srat.processors().map(|core| core.domain);
            let memory = srat.memory().map(|range| range.domain);
            let devices = srat.initiators().map(|device| device.domain);
            cores.chain(memory).chain(devices)
        })
    }

    /// The proximity domain of the core with this APIC id.
    fn domain_of(&self, apic_id: u32) -> Option<u32> {
        let mut cores = self.srat.as_ref()?.processors();
        cores
            .find(|core| core.apic_id == apic_id)
            .map(|core| core.domain)
    }
}

impl<'s> Builder<'s> {
    /// Starts with what firmware says: cores, memory, distances, and the devices whose node it states.
    ///
    /// Cores are those that are enabled, in the order of the MADT: core 0 is the one that booted. A core that the SRAT
    /// does not place is on node 0, and without an SRAT all memory is.
    ///
    /// Devices are known from generic initiators of the SRAT and from remapping units with an affinity. Firmware states
    /// the nodes of most host bridges only in the ACPI namespace (`_PXM`), which needs an interpreter: a caller that
    /// knows better adds more with [`add_devices`](Self::add_devices).
    ///
    /// # Errors
    ///
    /// Any [`TopologyError`] of an addition.
    pub fn from_acpi(storage: Storage<'s>, sources: &Sources<'_>) -> Result<Self, TopologyError> {
        let mut builder = Self::new(storage, sources.domains())?;
        builder.add_cores(sources)?;
        builder.add_all_memory(sources)?;
        builder.set_distances(sources);
        builder.add_initiators(sources)?;
        builder.add_remapped_devices(sources)?;
        Ok(builder)
    }

    fn add_cores(&mut self, sources: &Sources<'_>) -> Result<(), TopologyError> {
        let first = self.domain(0).unwrap_or_default();
        let cores = sources.madt.processors();
        for core in cores.filter(|core| core.state == ProcessorState::Enabled) {
            let domain = sources.domain_of(core.apic_id);
            self.add_core(core.apic_id, domain.unwrap_or(first))?;
        }
        Ok(())
    }

    fn add_all_memory(&mut self, sources: &Sources<'_>) -> Result<(), TopologyError> {
        let Some(srat) = sources.srat else {
            let first = self.domain(0).unwrap_or_default();
            return self.add_memory(PhysAddr::new(0), u64::MAX, first);
        };
        srat.memory()
            .try_for_each(|range| self.add_memory(range.base, range.len, range.domain))
    }

    fn set_distances(&mut self, sources: &Sources<'_>) {
        let Some(slit) = sources.slit else { return };
        let count = self.node_count();
        for (from, to) in (0..count).flat_map(|from| (0..count).map(move |to| (from, to))) {
            let domains = self.domain(from).zip(self.domain(to));
            if let Some(distance) = domains.and_then(|(from, to)| slit.distance(from, to)) {
                self.put_distance(from, to, distance);
            }
        }
    }

    fn add_initiators(&mut self, sources: &Sources<'_>) -> Result<(), TopologyError> {
        let Some(srat) = sources.srat else {
            return Ok(());
        };
        for initiator in srat.initiators() {
            if let DeviceHandle::Pci(function) = initiator.device {
                self.add_devices(function, function, initiator.domain)?;
            }
        }
        Ok(())
    }

    fn add_remapped_devices(&mut self, sources: &Sources<'_>) -> Result<(), TopologyError> {
        let Some(dmar) = sources.dmar else {
            return Ok(());
        };
        for affinity in dmar.affinities() {
            // A domain that nothing else is on is no node, so the unit says nothing about nearness.
            if self.node(affinity.domain).is_err() {
                continue;
            }
            let mut units = dmar.units();
            if let Some(unit) = units.find(|unit| unit.registers == affinity.registers) {
                self.add_devices_of(&unit, affinity.domain)?;
            }
        }
        Ok(())
    }

    /// Adds the devices that `unit` remaps. What is below bridges is left out: only they know their buses.
    fn add_devices_of(&mut self, unit: &Unit<'_>, domain: u32) -> Result<(), TopologyError> {
        if unit.serves_rest {
            let first = pci::Address::from_requester(unit.segment, 0);
            let last = pci::Address::from_requester(unit.segment, u16::MAX);
            return self.add_devices(first, last, domain);
        }
        let scopes = unit.scopes.iter();
        let endpoints = scopes.filter(|scope| scope.kind == ScopeKind::Endpoint);
        for function in endpoints.filter_map(|scope| scope.function(unit.segment)) {
            self.add_devices(function, function, domain)?;
        }
        Ok(())
    }
}
