//! Bring-up, operations, and a queue whose owner has the device's rings and doorbell.

use parakernel_core::{
    access::{AccessMode, Policy, Side, choose},
    device::{Operation, QueueDevice, QueueIndex, QueueSpec},
    memory::{BlockArena, BlockBuffer},
    queue::{BlockOperation, BlockQueue, BlockRequest},
};
use skeleton_disk::{
    error::{BringUpError, OperationError, QueueError, Status},
    queue::Queue,
    regs::TailDoorbell,
};

use crate::{
    DATA, Disk, Machine, N, QUEUE, RINGS, exchange,
    model::{Defect, Model},
    request, spec,
};

/// The data half on the device's own rings.
fn queue<'m>(disk: &Disk<'m>, arena: &BlockArena<'_>) -> Queue<'m, TailDoorbell<Model>, N> {
    let doorbell = TailDoorbell::new(disk.machine.model.clone());
    Queue::new(disk.commands, disk.answers, arena, doorbell)
}

#[test]
fn blocks_come_back_as_they_were_written_whatever_the_order() {
    for seed in 0..100 {
        let machine = Machine::new(seed, Defect::None);
        let disk = machine.claimed();
        assert_eq!(disk.control.blocks(), 64);
        let mut arena = machine.arena();
        let mut queue = queue(&disk, &arena);
        exchange(&mut queue, &mut arena, || {
            machine.world.step();
        });
        assert!(!machine.model.has_failed());
        assert_eq!(machine.memory.escapes(), []);
    }
}

#[test]
fn a_claimed_queue_sees_no_answer_of_the_one_before() {
    let machine = Machine::new(1, Defect::None);
    let mut disk = machine.bring_up().unwrap();
    for _ in 0..2 {
        disk.perform(Operation::Claim(spec()));
        let mut arena = machine.arena();
        let mut queue = queue(&disk, &arena);
        let read = request(BlockOperation::Read, 3, arena.take());
        assert_eq!(queue.submit([read]), Ok(1));
        let early = queue.poll(8, |_| panic!("nothing was answered yet"));
        assert_eq!(early, Ok(0));
        machine.world.settle(100);
        let ended = queue.poll(8, |done| assert_eq!(done.status, Ok(())));
        assert_eq!(ended, Ok(1));
        disk.perform(Operation::Drain(QUEUE));
        disk.perform(Operation::Stop(QUEUE));
    }
}

#[test]
fn what_the_disk_refuses_is_a_status() {
    let machine = Machine::new(1, Defect::None);
    let disk = machine.claimed();
    let mut arena = machine.arena();
    let mut queue = queue(&disk, &arena);
    let beyond = request(BlockOperation::Read, 64, arena.take());
    assert_eq!(queue.submit([beyond]), Ok(1));
    machine.world.settle(100);
    let refused = queue.poll(1, |done| assert_eq!(done.status, Err(Status::NoBlock)));
    assert_eq!(refused, Ok(1));
}

#[test]
fn what_the_disk_can_never_do_comes_back_and_is_not_published() {
    let machine = Machine::new(1, Defect::None);
    let disk = machine.claimed();
    let mut arena = machine.arena();
    let refuse = |wrong: BlockRequest, arena: &BlockArena<'_>| {
        let (blocks, index) = (wrong.blocks, wrong.buffer.as_ref().map(BlockBuffer::index));
        let Err(QueueError::Request(back)) = queue(&disk, arena).submit([wrong]) else {
            panic!("{blocks} blocks were taken");
        };
        assert_eq!(back.buffer.map(|buffer| buffer.index()), index);
    };
    for blocks in [0, 9, 256, u32::MAX] {
        let read = request(BlockOperation::Read, 0, arena.take());
        refuse(BlockRequest { blocks, ..read }, &arena);
    }
    let without_buffer = request(BlockOperation::Read, 0, None);
    refuse(
        BlockRequest {
            blocks: 1,
            ..without_buffer
        },
        &arena,
    );
    refuse(request(BlockOperation::Deallocate, 0, None), &arena);
    refuse(request(BlockOperation::Flush, 0, arena.take()), &arena);
    assert_eq!(machine.model.unanswered(), 0);
}

#[test]
fn a_disk_that_lies_ends_the_queue() {
    for (defect, honest) in [(Defect::AnswersStrangers, 0), (Defect::AnswersTwice, 1)] {
        let machine = Machine::new(1, defect);
        let disk = machine.claimed();
        let mut arena = machine.arena();
        let mut queue = queue(&disk, &arena);
        let reads = [1, 2].map(|lba| request(BlockOperation::Read, lba, arena.take()));
        assert_eq!(queue.submit(reads), Ok(2));
        machine.world.settle(100);
        let mut ended = 0;
        let lie = queue.poll(8, |_| ended += 1);
        assert!(matches!(lie, Err(QueueError::NotInFlight(_))), "{defect:?}");
        assert!(ended <= honest, "{defect:?}: {ended}");
    }
}

#[test]
fn a_disk_that_is_stuck_gone_or_another_ends_the_bring_up() {
    let outcome = |defect| Machine::new(1, defect).bring_up().map(drop);
    assert_eq!(outcome(Defect::None), Ok(()));
    let stuck = outcome(Defect::NeverStops);
    assert!(matches!(stuck, Err(BringUpError::Reset(_))));
    let (other, gone) = (outcome(Defect::WrongId), outcome(Defect::Removed));
    assert_eq!(other, Err(BringUpError::Identity(0x1234)));
    assert_eq!(gone, Err(BringUpError::Identity(0xffff_ffff)));
}

#[test]
fn nothing_moves_after_stop_and_flush() {
    for seed in 0..50 {
        let machine = Machine::new(seed, Defect::None);
        let mut disk = machine.claimed();
        let mut arena = machine.arena();
        let mut queue = queue(&disk, &arena);
        let reads = [1, 2, 3, 4].map(|lba| request(BlockOperation::Read, lba, arena.take()));
        assert_eq!(queue.submit(reads), Ok(4));
        for _ in 0..seed % 5 {
            machine.world.step();
        }
        disk.perform(Operation::Stop(QUEUE));
        disk.perform(Operation::Flush(QUEUE));
        machine.memory.end(DATA);
        machine.memory.end(RINGS);
        machine.world.settle(100);
        assert_eq!(machine.memory.escapes(), []);
    }
}

#[test]
fn a_queue_that_was_not_stopped_is_caught() {
    let machine = Machine::new(1, Defect::None);
    let disk = machine.claimed();
    let mut arena = machine.arena();
    let mut queue = queue(&disk, &arena);
    let read = request(BlockOperation::Read, 1, arena.take());
    assert_eq!(queue.submit([read]), Ok(1));
    machine.memory.end(DATA);
    machine.world.settle(100);
    assert_eq!(machine.memory.escapes().len(), 1);
    let failed = queue.poll(1, |done| assert_eq!(done.status, Err(Status::Transfer)));
    assert_eq!(failed, Ok(1));
}

#[test]
fn silence_holds_at_once_and_for_good() {
    for seed in 0..50 {
        let machine = Machine::new(seed, Defect::None);
        let mut disk = machine.claimed();
        let mut arena = machine.arena();
        let mut queue = queue(&disk, &arena);
        let reads = [1, 2, 3, 4].map(|lba| request(BlockOperation::Read, lba, arena.take()));
        assert_eq!(queue.submit(reads), Ok(4));
        for _ in 0..seed % 5 {
            machine.world.step();
        }
        let (now, moved) = (machine.world.now(), machine.memory.log().len());
        assert_eq!(disk.control.begin(Operation::Silence, now), Ok(()));
        machine.world.settle(100);
        // Whether or not another claim is refused, no transfer comes of it.
        let _claim = disk.control.begin(Operation::Claim(spec()), now);
        machine.world.settle(100);
        assert_eq!(machine.memory.log().len(), moved);
    }
}

#[test]
fn the_control_half_states_facts_and_refuses_what_it_has_not() {
    let machine = Machine::new(1, Defect::None);
    let mut disk = machine.bring_up().unwrap();
    let facts = disk.control.limits().isolation(Side::Block);
    let mode = choose(Side::Block, facts, Policy::INTEGRITY, AccessMode::Direct);
    assert_eq!(mode, AccessMode::Checked);
    let queue = QueueIndex::new(1);
    let another = Operation::Claim(QueueSpec { queue, ..spec() });
    let now = machine.world.now();
    let refused = Err(OperationError::NoSuchQueue);
    assert_eq!(disk.control.begin(another, now), refused);
    disk.perform(Operation::Claim(spec()));
    let twice = disk.control.begin(Operation::Claim(spec()), now);
    assert_eq!(twice, Err(OperationError::Running));
}
