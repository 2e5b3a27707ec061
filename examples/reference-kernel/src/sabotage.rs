//! `sabotage=WHAT` on the command line: the kernel does what its own protections must stop, so that a test sees them
//! stop it.
#![expect(unsafe_code, reason = "breaks the kernel's own rules, on purpose")]

use core::hint::black_box;

use crate::arch::{layout, paging};
use crate::print;
use parakernel_core::address::PhysAddr;

/// Code that only returns.
static RETURN: [u8; 1] = [0xc3];

/// Does `what`; comes back only if nothing stopped it.
pub(crate) fn commit(what: &str) {
    print!("sabotage: {what}\n");
    match what {
        "panic" => panic!("as ordered"),
        "stack" => _ = recurse(black_box(1)),
        "write-code" => write(layout::code_start()),
        "write-constant" => write((&raw const RETURN).cast_mut().cast()),
        "run-constant" => run((&raw const RETURN).cast()),
        "run-memory" => run(paging::physical(PhysAddr::new(layout::LOAD_ADDRESS))),
        _ => print!("sabotage: unknown\n"),
    }
    print!("FAIL sabotage: {what} went through\n");
}

fn write(place: *mut u8) {
    // SAFETY: none; the page must be mapped read-only.
    unsafe { place.write_volatile(0) };
}

fn run(place: *const u8) {
    // SAFETY: none; the page must be mapped not executable.
    let code: extern "sysv64" fn() = unsafe { core::mem::transmute(place) };
    code();
}

/// Runs off the stack, onto the page below it, which must not be mapped.
#[expect(unconditional_recursion, reason = "that is the point")]
fn recurse(depth: u64) -> u64 {
    let page = black_box([depth; 512]);
    recurse(page[7] + 1) + page[3]
}
