//! The attacker: tries what a process must not be able to do, one attack a life.
//!
//! Arguments: `life` (how many attacks were tried before), `attack` and `device` (`nvme`, `nic` or `kernel`; only
//! these), `victim` (the bus address that attacks by DMA aim at), and those of every block and network process.
//!
//! It writes raw entries into its rings, by layouts of its own, so that no check of a driver is in its way. What it
//! says in the log:
//!
//! | line | means |
//! |---|---|
//! | `attack NAME DEVICE` | what comes next must not work |
//! | `refused NAME DEVICE HOW` | the kernel said no, and let the process live |
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
use parakernel_process::Process;
use plan::{Attack, Target};
use stage::{Seen, Stage};

parakernel_process::entry!(main);

fn main(mut process: Process) -> u64 {
    let Some((attack, target)) = plan::choose(process.arguments()) else {
        process.log("no attack is left to try");
        return 0;
    };
    let mut stage = Stage::new(process, attack, target);
    let tried = perform(&mut stage, attack, target);
    stage.conclude(tried)
}

fn perform(stage: &mut Stage, attack: Attack, target: Target) -> Result<Seen, &'static str> {
    match (attack, target) {
        (_, Target::Nvme) => nvme::perform(stage, attack),
        (_, Target::Kernel) => Ok(system::wild_pointers(stage)),
        (_, Target::Nic) => nic::perform(stage, attack),
    }
}
