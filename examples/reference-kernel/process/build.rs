//! Links a process with nothing but the host's toolchain. The probe of the self-test uses this script too.

use std::env;

fn main() {
    let here = env!("CARGO_MANIFEST_DIR");
    let script = format!("{here}/../process/process.ld");
    println!("cargo::rerun-if-changed={script}");
    let linker = [
        "--build-id=none".to_owned(),
        "--gc-sections".to_owned(),
        "-znorelro".to_owned(),
        format!("-T{script}"),
    ];
    // For the `none` targets rustc calls the linker itself, for the host it goes through the C compiler.
    let bare = env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none");
    for argument in linker {
        let prefix = if bare { "" } else { "-Wl," };
        println!("cargo::rustc-link-arg-bins={prefix}{argument}");
    }
    let driver: &[&str] = if bare {
        &["--no-pie"]
    } else {
        &["-nostartfiles", "-nostdlib", "-static", "-no-pie"]
    };
    for argument in driver {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
