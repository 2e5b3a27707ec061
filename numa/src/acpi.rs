//! Checked views of the ACPI tables that describe cores, memory, PCI and remapping units.
//!
//! Firmware tables are input: a length may be wrong, an entry may reach beyond its table, a count may be absurd. Every
//! `parse` here looks at all of a table once (signature, length, checksum, each entry); what it returns can then be
//! walked without errors, without copies and without panics.
//!
//! | view | table | source |
//! |---|---|---|
//! | [`Tables`] | RSDP, RSDT, XSDT | ACPI 6.3 §5.2.5 to §5.2.8 |
//! | [`Madt`] | interrupt controllers: one local APIC per core | ACPI 6.3 §5.2.12 |
//! | [`Srat`] | which core, memory and device belongs to which proximity domain | ACPI 6.3 §5.2.16 |
//! | [`Slit`] | relative distances between proximity domains | ACPI 6.3 §5.2.17 |
//! | [`Hmat`] | latency, bandwidth and memory-side caches | ACPI 6.3 §5.2.27 |
//! | [`Mcfg`] | where PCI configuration space is mapped | PCI Firmware 3.2 §4.1.2 |
//! | [`Dmar`] | DMA remapping units | VT-d 3.3 §8 |
//!
//! A *proximity domain* is firmware's number for a NUMA node; [`topology`](crate::topology) turns it into a dense
//! [`NodeId`](parakernel_core::address::NodeId).

pub mod dmar;
mod entries;
mod error;
pub mod hmat;
pub mod madt;
mod mcfg;
mod memory;
mod slit;
pub mod srat;
mod table;
mod tables;

pub use dmar::Dmar;
pub use error::{Error, Problem};
pub use hmat::Hmat;
pub use madt::Madt;
pub use mcfg::{Mcfg, Segment};
pub use memory::{Memory, Window};
pub use slit::{Distance, Slit};
pub use srat::Srat;
pub use table::{Signature, Table};
pub use tables::Tables;
