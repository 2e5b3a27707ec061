//! The attacker: tries what a process must not be able to do, one attack a life.
//!
//! Arguments: `life` (how many attacks were tried before), `only` (these attacks, each `NAME:DEVICE`, with commas between;
//! the devices are `nvme`, `nic`, `ixgbe` and `kernel`), what to aim at (`victim`: the bus address of memory of another process;
//! `spare`: that of memory that is no process's; `secret`: where the kernel has what another process was told), and those of
//! every block and network process. With `role=bait` it attacks nobody: it publishes a frame and a block, says so to nobody,
//! and does nothing more, so that whatever moves was moved by somebody else.
//!
//! It writes raw entries into its rings, by layouts of its own, so that no check of a driver is in its way. What it
//! says in the log:
//!
//! | line | means |
//! |---|---|
//! | `attack NAME DEVICE` | what comes next must not work |
//! | `survived NAME DEVICE WHAT` | the process was not stopped; `WHAT` it sees of the effect |
//! | `cannot try NAME DEVICE WHY` | there was no attack |
//! | `no attack is left to try` | all were tried in earlier lives |

#![no_std]
#![no_main]

mod frame;
mod nic;
mod nvme;
mod plan;
mod stage;
mod system;

use parakernel_apps::runtime::Runtime;
use parakernel_core::queue::Doorbell;
use parakernel_process::Process;
use plan::{Attack, Target};
use stage::{Seen, Stage};

parakernel_process::entry!(main);

fn main(mut process: Process) -> u64 {
    if process.arguments().value("role") == Some("bait") {
        return bait(process);
    }
    let Some((attack, target)) = plan::choose(process.arguments()) else {
        process.log("no attack is left to try");
        return 0;
    };
    let mut stage = Stage::new(process, attack, target);
    let tried = perform(&mut stage, attack, target);
    stage.conclude(tried)
}

/// Publishes without a call, and goes on without one. The line in the log is the last call, and takes nothing over.
fn bait(mut process: Process) -> u64 {
    // Waiting for an answer takes over what was published: first all is asked for.
    let block = nvme::bait(&mut process);
    let baits = block.and_then(|block| Ok([block, nic::bait(&mut process)?]));
    match baits {
        Ok(baits) => {
            for (mut doorbell, tail) in baits {
                doorbell.ring(tail);
            }
            process.log("the bait is laid");
            system::go_on()
        }
        Err(reason) => {
            process.log(reason);
            1
        }
    }
}

fn perform(stage: &mut Stage, attack: Attack, target: Target) -> Result<Seen, &'static str> {
    match (attack, target) {
        (_, Target::Nvme) => nvme::perform(stage, attack),
        (_, Target::Kernel) => system::wild_pointers(stage),
        (_, Target::Nic | Target::Ixgbe) => nic::perform(stage, attack),
    }
}
