//! A second, newer QEMU, without root and without touching the system: Debian's packages of a newer suite, unpacked
//! below the target folder.

use super::Qemu;
use crate::{
    apt::{self, Wanted},
    workspace::Workspace,
};
use anyhow::Result;
use std::path::Path;

/// Suites that have a QEMU of 10.1 or newer, in the order they are tried.
const WANTED: Wanted = Wanted {
    folder: "second-qemu",
    what: "a newer QEMU",
    suites: &["forky", "trixie-backports"],
    packages: &["qemu-system-x86"],
    otherwise: "build QEMU 10.1 or newer and give it with `--qemu PATH`",
};

/// The unpacked QEMU, fetched at the first call.
pub(crate) fn fetch(workspace: &Workspace) -> Result<Qemu> {
    let tree = apt::fetch(workspace, WANTED)?;
    start_through_own_loader(&tree)
}

/// The QEMU in `tree`, run with that tree's own loader, libraries, firmware and modules.
fn start_through_own_loader(tree: &Path) -> Result<Qemu> {
    let (loader, libraries) = apt::loader(tree, &["usr/lib/x86_64-linux-gnu/pulseaudio"])?;
    let mut words = vec![
        loader.into_os_string(),
        "--library-path".into(),
        libraries.into(),
        tree.join("usr/bin/qemu-system-x86_64").into_os_string(),
    ];
    for part in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
        words.extend(["-L".into(), tree.join(part).into_os_string()]);
    }
    let modules = tree.join("usr/lib/x86_64-linux-gnu/qemu").into_os_string();
    Qemu::with(words, vec![("QEMU_MODULE_DIR".into(), modules)])
}
