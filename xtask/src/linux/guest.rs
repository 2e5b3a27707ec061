//! The guest: Debian's packages, and the RAM disk that is made of them.

use super::Device;
use crate::{
    apt::{self, Wanted},
    cpio::Archive,
    process,
    workspace::Workspace,
};
use anyhow::{Context, Result, bail};
use core::time::Duration;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The kernel, and the programs that the checks use.
const WANTED: Wanted = Wanted {
    folder: "linux-guest",
    what: "a Linux kernel and programs for the guest",
    suites: &["bookworm", "trixie"],
    packages: &[
        "linux-image-amd64",
        "busybox-static",
        "ethtool",
        "iproute2",
        "iputils-ping",
        "e2fsprogs",
        "fio",
        "nvme-cli",
    ],
    otherwise: "run this on Debian, or in a container of it, with a mirror that answers",
};

/// What all scripts have in common, and the scripts.
const COMMON: &str = include_str!("guest/common.sh");
const NETWORK: &str = include_str!("guest/network.sh");
const VIRTIO_NET: &str = include_str!("guest/virtio-net.sh");
const IXGBE: &str = include_str!("guest/ixgbe.sh");
const IXGBEVF: &str = include_str!("guest/ixgbevf.sh");
const NVME: &str = include_str!("guest/nvme.sh");

/// How much the guest does.
#[derive(Clone, Debug)]
pub(super) struct Amount {
    pub(super) mebibytes: u32,
    pub(super) reloads: u32,
    /// How long one download may take.
    pub(super) patience: Duration,
    /// The checks to make, with those that they rest on; none for all.
    pub(super) only: Vec<String>,
}

/// The unpacked packages.
pub(super) fn packages(workspace: &Workspace) -> Result<PathBuf> {
    apt::fetch(workspace, WANTED)
}

/// The kernel's image.
pub(super) fn kernel(tree: &Path) -> Result<PathBuf> {
    let images = fs::read_dir(tree.join("boot")).context("the packages have no kernel")?;
    images
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"))
        })
        .context("the packages have no kernel")
}

impl Device {
    /// The module that is tested: what it depends on comes with it.
    const fn module(self) -> &'static str {
        match self {
            Self::Ixgbe => "ixgbe",
            Self::Ixgbevf => "ixgbevf",
            Self::VirtioNet => "virtio_net",
            Self::Nvme => "nvme",
        }
    }

    /// Further modules; those that this kernel has built in need not be there.
    const fn more_modules(self) -> &'static [&'static str] {
        match self {
            Self::Ixgbe => &["8021q"],
            // Loaded first, the virtual functions have the first names.
            Self::Ixgbevf => &["8021q", "ixgbevf", "ixgbe"],
            Self::VirtioNet => &["virtio_pci", "8021q"],
            Self::Nvme => &["crc32c_generic", "libcrc32c", "ext4"],
        }
    }

    const fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Ixgbe | Self::Ixgbevf | Self::VirtioNet => &["ethtool", "ip", "ping"],
            Self::Nvme => &["mkfs.ext4", "e2fsck", "fio", "nvme"],
        }
    }

    fn script(self) -> String {
        match self {
            Self::Ixgbe => [COMMON, NETWORK, IXGBE].concat(),
            Self::Ixgbevf => [COMMON, NETWORK, IXGBEVF].concat(),
            Self::VirtioNet => [COMMON, NETWORK, VIRTIO_NET].concat(),
            Self::Nvme => [COMMON, NVME].concat(),
        }
    }
}

/// Writes the RAM disk for `device` to `place`.
pub(super) fn write(tree: &Path, device: Device, amount: &Amount, place: &Path) -> Result<()> {
    let mut archive = Archive::default();
    for folder in [
        "bin", "programs", "modules", "lib64", "proc", "sys", "dev", "tmp", "mnt",
    ] {
        archive.add_folder(folder)?;
    }
    let busybox = program(tree, "busybox")?;
    archive.add("bin/busybox", &read(&busybox)?)?;
    add_modules(&mut archive, tree, device)?;
    add_programs(&mut archive, tree, device.programs())?;
    let script = format!(
        "#!/bin/busybox sh\nMIB={}\nRELOADS={}\nPATIENCE={}\nONLY='{}'\nMODULE={}\n{}",
        amount.mebibytes,
        amount.reloads,
        amount.patience.as_secs(),
        amount.only.join(" "),
        device.module(),
        device.script()
    );
    archive.add("init", script.as_bytes())?;
    fs::write(place, archive.finish()?).with_context(|| format!("cannot write {}", place.display()))
}

/// Whether the guest of `device` has a check of this name.
pub(super) fn has_check(device: Device, name: &str) -> bool {
    device.script().lines().any(|line| {
        let mut words = line.split_whitespace();
        matches!(words.next(), Some("check" | "need")) && words.next() == Some(name)
    })
}

/// Adds the modules, and the order in which they are to be loaded.
fn add_modules(archive: &mut Archive, tree: &Path, device: Device) -> Result<()> {
    let mut known = BTreeMap::new();
    index(&tree.join("lib/modules"), &mut known)?;
    let mut order = Vec::new();
    for name in device.more_modules() {
        if known.contains_key(*name) {
            load(name, &known, &mut order)?;
        }
    }
    load(device.module(), &known, &mut order)?;
    for name in &order {
        archive.add(&format!("modules/{name}.ko"), &read(&known[name])?)?;
    }
    archive.add("modules/order", (order.join("\n") + "\n").as_bytes())
}

/// All modules below `folder`, by their names.
fn index(folder: &Path, known: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("no {}", folder.display()))? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .replace('-', "_");
        if path.is_dir() {
            index(&path, known)?;
        } else if let Some(name) = name.strip_suffix(".ko") {
            known.insert(name.to_owned(), path);
        }
    }
    Ok(())
}

/// Puts what `name` depends on, and then `name`, into `order`.
fn load(name: &str, known: &BTreeMap<String, PathBuf>, order: &mut Vec<String>) -> Result<()> {
    if order.iter().any(|other| other == name) {
        return Ok(());
    }
    let path = known
        .get(name)
        .with_context(|| format!("the kernel has no module `{name}`"))?;
    for dependency in dependencies(&read(path)?) {
        load(&dependency, known, order)?;
    }
    order.push(name.to_owned());
    Ok(())
}

/// The names after `depends=` in a module's information section.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let list = module.get(start + KEY.len()..).unwrap_or_default();
    let end = list.iter().position(|byte| *byte == 0).unwrap_or(0);
    String::from_utf8_lossy(&list[..end])
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

/// Adds programs with the libraries that they need.
fn add_programs(archive: &mut Archive, tree: &Path, names: &[&str]) -> Result<()> {
    let (loader, folders) = apt::loader(tree, &["usr/lib/x86_64-linux-gnu/ceph"])?;
    let mut libraries = BTreeMap::new();
    libraries.insert("ld-linux-x86-64.so.2".to_owned(), loader.clone());
    for name in names {
        let path = program(tree, name)?;
        archive.add(&format!("programs/{name}"), &read(&path)?)?;
        let listed = process::read(
            Command::new(&loader)
                .args(["--library-path", &folders, "--list"])
                .arg(&path),
        )?;
        for library in listed.lines().filter_map(library_of) {
            let name = library
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            libraries.entry(name).or_insert(library);
        }
    }
    for (name, path) in libraries {
        archive.add(&format!("lib64/{name}"), &read(&path)?)?;
    }
    Ok(())
}

/// The path in a line of the loader's list: `name => path (address)`.
fn library_of(line: &str) -> Option<PathBuf> {
    let (_, place) = line.split_once("=> ")?;
    place.split_whitespace().next().map(PathBuf::from)
}

fn program(tree: &Path, name: &str) -> Result<PathBuf> {
    let places = ["bin", "sbin", "usr/bin", "usr/sbin"].map(|folder| tree.join(folder).join(name));
    let Some(path) = places.into_iter().find(|path| path.exists()) else {
        bail!("the packages have no program `{name}`");
    };
    Ok(path)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_of_a_module_are_found() {
        let module = b"\x7fELF..\0license=GPL\0depends=mdio,xfrm-algo\0name=ixgbe\0";
        assert_eq!(dependencies(module), ["mdio", "xfrm_algo"]);
        assert!(dependencies(b"\0depends=\0").is_empty());
        assert!(dependencies(b"").is_empty());
    }

    #[test]
    fn a_library_is_what_the_loader_says() {
        let line = "\tlibmnl.so.0 => /tree/lib/libmnl.so.0 (0x00007f0)";
        assert_eq!(
            library_of(line).as_deref(),
            Some(Path::new("/tree/lib/libmnl.so.0"))
        );
        assert_eq!(library_of("\tlinux-vdso.so.1 (0x00007ff)"), None);
    }
}
