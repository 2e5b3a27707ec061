//! The smallest process: takes a page that devices may reach, says where it is, and ends.

#![no_std]
#![no_main]

use core::fmt::Write;

use heapless::String;
use parakernel_apps::runtime::Runtime;
use parakernel_core::abi::LOG_MAX;
use parakernel_core::address::Direction;
use parakernel_core::memory::PAGE_SIZE;
use parakernel_process::Process;

parakernel_process::entry!(main);

fn main(mut process: Process) -> u64 {
    let Ok((iova, len)) = process.memory(PAGE_SIZE, Direction::Bidirectional) else {
        process.log("no memory");
        return 1;
    };
    let (core, node) = (process.info().core, process.info().node);
    let mut line: String<LOG_MAX> = String::new();
    // It fits.
    let _cut = write!(
        line,
        "hello from core {core} on node {node}: {len} bytes at {iova:#x} are mine"
    )
    .is_err();
    process.log(&line);
    0
}
