//! Links a process: see the build script of `parakernel-process`, whose linker script it uses.

use std::env;

fn main() {
    let script = "../../../examples/reference-kernel/process/process.ld";
    let script = format!("{}/{script}", env!("CARGO_MANIFEST_DIR"));
    println!("cargo::rerun-if-changed={script}");
    let linker = ["--build-id=none", "--gc-sections", "-znorelro"];
    for argument in linker {
        println!("cargo::rustc-link-arg-bins=-Wl,{argument}");
    }
    println!("cargo::rustc-link-arg-bins=-Wl,-T{script}");
    for argument in ["-nostartfiles", "-nostdlib", "-static", "-no-pie"] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
