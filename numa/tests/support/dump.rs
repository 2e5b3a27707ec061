//! Loads the tables in `tests/data`, each at the physical address that its file name states.

use std::fs;
use std::path::{Path, PathBuf};

use parakernel_core::address::PhysAddr;
use parakernel_numa::acpi::Memory;

/// The tables of one machine.
#[derive(Clone)]
pub(crate) struct Dump {
    pub(crate) tables: Vec<DumpedTable>,
}

/// One table as it lay in memory.
#[derive(Clone)]
pub(crate) struct DumpedTable {
    pub(crate) name: String,
    pub(crate) address: u64,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) const MACHINES: [&str; 4] = ["q35", "demo", "microvm", "x2apic"];

impl Dump {
    /// The dump in the folder `machine`, whose files are named `SIGNATURE@ADDRESS.bin`.
    pub(crate) fn of(machine: &str) -> Self {
        let mut tables: Vec<_> = fs::read_dir(data(machine))
            .unwrap()
            .map(|entry| DumpedTable::load(&entry.unwrap().path()))
            .collect();
        tables.sort_by_key(|table| table.address);
        Self { tables }
    }

    pub(crate) fn rsdp(&self) -> PhysAddr {
        PhysAddr::new(self.table("RSDP").address)
    }

    pub(crate) fn table(&self, name: &str) -> &DumpedTable {
        self.tables
            .iter()
            .find(|table| table.name == name)
            .unwrap_or_else(|| panic!("no {name} in the dump"))
    }
}

impl Memory for Dump {
    fn bytes(&self, address: PhysAddr, len: usize) -> Option<&[u8]> {
        self.tables.iter().find_map(|table| {
            let start = address.as_u64().checked_sub(table.address)?;
            let start = usize::try_from(start).ok()?;
            table.bytes.get(start..start.checked_add(len)?)
        })
    }
}

impl DumpedTable {
    fn load(path: &Path) -> Self {
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let (name, address) = stem.split_once('@').unwrap();
        Self {
            name: name.into(),
            address: u64::from_str_radix(address, 16).unwrap(),
            bytes: fs::read(path).unwrap(),
        }
    }
}

/// A table that ACPICA's compiler made from `tests/data/iasl`.
pub(crate) fn compiled(name: &str) -> Vec<u8> {
    fs::read(data("iasl").join(name).with_extension("bin")).unwrap()
}

fn data(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(folder)
}

/// Makes the bytes of a table add up to zero, and its length field true.
pub(crate) fn seal(table: &mut [u8]) {
    let len = u32::try_from(table.len()).unwrap();
    table[4..8].copy_from_slice(&len.to_le_bytes());
    table[9] = 0;
    table[9] = table
        .iter()
        .fold(0, |sum: u8, byte| sum.wrapping_sub(*byte));
}
