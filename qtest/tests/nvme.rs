//! The NVMe driver against QEMU's controller, which nobody here wrote.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::panic_in_result_fn,
    reason = "helpers of tests fail as tests do"
)]

extern crate alloc;

use core::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    task::Poll,
};

use std::fs::File;

use parakernel_core::{
    address::BusAddress,
    memory::{BlockArena, BlockBuffer},
    mmio::Registers,
    queue::{BlockOperation, BlockQueue, BlockRequest, Lba},
    ring::RingSize,
    time::Instant,
};
use parakernel_nvme::{
    admin::{AdminMemory, AdminSlot, Strays},
    command::LogPage,
    controller::{
        AbortOutcome, Config, Controller, ControllerMemory, Event, Pair, PairMemory, PairSlot,
        PairState, QueueId,
    },
    doorbell::{RegisterDoorbell, ShadowMemory},
    error::{AdminError, NamespaceError},
    log::Warnings,
    namespace::NamespaceSlot,
    prp::{ChainedTables, ListTables},
    queue::{CommandTable, DataPointer, Queue, QueueConfig, RangeMemory, Rings},
    status::Status,
};
use parakernel_qtest::{Machine, Memory, Part};

const ENTRIES: usize = 64;
/// Bytes of the machine's one disk.
const DISK: u64 = 64 << 20;
/// Where BAR 0 is put: above the machine's memory, below the APICs. It has 1 MiB.
const BAR: u32 = 0xE000_0000;

type Bar = Part;

/// Starts a machine with a drive `disk` and the given devices, of which an `nvme` must be at address 4; its BAR 0. What its
/// controller traces of undefined behaviour and errors is among the complaints.
fn start(memory: &Memory, devices: &[&str]) -> Bar {
    let disk = memory.path("disk");
    File::create(&disk)
        .and_then(|file| file.set_len(DISK))
        .unwrap();
    let drive = format!(
        "if=none,id=disk,format=raw,file={},discard=unmap,detect-zeroes=unmap",
        disk.display()
    );
    let traced = ["-trace", "pci_nvme_ub*", "-trace", "pci_nvme_err*"];
    let arguments = [&traced[..], &["-drive", &drive], devices].concat();
    let machine = Machine::start(memory, "q35", &arguments);
    machine.config_space(4).place(0x10, BAR);
    machine.part(BAR.into(), 1 << 20)
}

/// The tables that a controller's records live in.
struct Tables<'m> {
    admin: [AdminSlot; 8],
    pairs: Vec<PairSlot<'m>>,
    namespaces: [NamespaceSlot; 4],
}

impl Tables<'_> {
    fn new(pairs: usize) -> Self {
        Self {
            admin: [AdminSlot::EMPTY; 8],
            pairs: (0..pairs).map(|_| PairSlot::default()).collect(),
            namespaces: [None; 4],
        }
    }
}

fn bring_up<'m>(bar: &Bar, memory: &'m Memory, tables: &'m mut Tables<'m>) -> Controller<'m, Bar> {
    bring_up_with(bar, memory, tables, None)
}

fn bring_up_with<'m>(
    bar: &Bar,
    memory: &'m Memory,
    tables: &'m mut Tables<'m>,
    shadow: Option<ShadowMemory<'m>>,
) -> Controller<'m, Bar> {
    let admin = AdminMemory {
        submission: memory.block(4096),
        completion: memory.block(4096),
        data: memory.block(4096),
        slots: &mut tables.admin,
    };
    let memory = ControllerMemory {
        admin,
        pairs: &mut tables.pairs,
        namespaces: &mut tables.namespaces,
        shadow,
    };
    Controller::bring_up(bar.clone(), memory, Config::default(), &mut bar.clone()).unwrap()
}

/// Polls until there is a result; the machine's time is the clock.
fn wait<T>(bar: &Bar, mut poll: impl FnMut(Instant) -> Poll<T>) -> T {
    for microsecond in 0..1_000_000 {
        if let Poll::Ready(result) = poll(Instant::from_nanos(microsecond * 1000)) {
            return result;
        }
        bar.step(1000);
    }
    panic!("nothing came of it");
}

fn pair_memory(memory: &Memory) -> PairMemory<'_> {
    PairMemory {
        submission: memory.block(64 * ENTRIES),
        completion: memory.block(4096),
        size: RingSize::new(64).unwrap(),
        vector: None,
    }
}

fn create<'m>(
    bar: &Bar,
    controller: &mut Controller<'m, Bar>,
    memory: &'m Memory,
) -> (Pair<'m>, Rings<'m, ENTRIES>) {
    let pair = pair_memory(memory);
    let rings = Rings::new(pair.submission.memory(), pair.completion.memory()).unwrap();
    let unused = |queue: &QueueId| {
        controller.poll_pair(*queue, Instant::default()) == Poll::Ready(PairState::Gone(None))
    };
    let queue = (1..=3).filter_map(QueueId::new).find(unused).unwrap();
    controller
        .begin_create(queue, pair, Instant::default())
        .map_err(|(error, _)| error)
        .unwrap();
    assert_eq!(
        wait(bar, |now| controller.poll_pair(queue, now)),
        PairState::Live
    );
    (controller.pair(queue).unwrap(), rings)
}

/// A byte that tells block, offset and round apart.
fn pattern(lba: u64, offset: usize, round: u8) -> u8 {
    let word = lba.wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ (offset as u64).wrapping_mul(0x2545_f491_4f6c_dd1d);
    (word >> 32).to_le_bytes()[0] ^ round
}

/// A queue in service, its buffers, and the machine whose time passes while it waits.
struct Disk<'m> {
    bar: Bar,
    queue: Queue<'m, RegisterDoorbell<'m, Bar>, ENTRIES>,
    arena: BlockArena<'m>,
    buffer: Option<BlockBuffer>,
    block: u64,
    /// Everything goes by these, where they are.
    chained: Option<ChainedTables>,
}

impl<'m> Disk<'m> {
    fn new(
        bar: &Bar,
        controller: &mut Controller<'m, Bar>,
        memory: &'m Memory,
        commands: &'m mut CommandTable<ENTRIES>,
        pointer: impl FnOnce(&BlockArena<'_>) -> DataPointer,
    ) -> Self {
        let (pair, rings) = create(bar, controller, memory);
        let namespace = *controller.namespaces().next().unwrap();
        let mut arena = memory.block_arena(1, 4 << 20);
        let ranges = memory.block(4096);
        let config = QueueConfig {
            queue: pair.queue,
            namespace: namespace.id,
            blocks: namespace.data.unwrap(),
            max_transfer: controller.limits().max_transfer,
            pointer: pointer(&arena),
            ranges: Some(RangeMemory {
                memory: ranges.memory(),
                address: ranges.bus_address().as_u64(),
            }),
        };
        let doorbells = [
            pair.tail_doorbell(bar.clone()),
            pair.head_doorbell(bar.clone()),
        ];
        let queue = Queue::new(config, rings, commands, &arena, doorbells).unwrap();
        let buffer = arena.take();
        let block = 1 << namespace.data.unwrap().block_shift;
        Self {
            bar: bar.clone(),
            queue,
            arena,
            buffer,
            block,
            chained: None,
        }
    }

    /// Carries out one request and waits for it.
    fn run(&mut self, operation: BlockOperation, lba: u64, blocks: u64) -> Result<(), Status> {
        use BlockOperation::{Read, Write, WriteThrough};
        let has_data = matches!(operation, Read | Write | WriteThrough);
        let request = BlockRequest {
            operation,
            lba: Lba::new(lba),
            blocks: u32::try_from(blocks).unwrap(),
            buffer: if has_data { self.buffer.take() } else { None },
            user: lba,
        };
        match &self.chained {
            None => assert_eq!(self.queue.submit([request]), Ok(1)),
            Some(tables) => self.queue.submit_chained(request, tables).unwrap(),
        }
        let Self {
            bar, queue, buffer, ..
        } = self;
        wait(bar, |_| {
            let mut status = None;
            let done = queue.poll(8, |done| {
                assert_eq!(done.user, lba);
                *buffer = buffer.take().or(done.buffer);
                status = Some(done.status);
            });
            done.unwrap();
            status.map_or(Poll::Pending, Poll::Ready)
        })
    }

    fn write(&mut self, operation: BlockOperation, lba: u64, blocks: u64, round: u8) {
        let len = usize::try_from(blocks * self.block).unwrap();
        let bytes = self.arena.bytes_mut(self.buffer.as_mut().unwrap());
        for (offset, byte) in bytes[..len].iter_mut().enumerate() {
            *byte = pattern(lba, offset, round);
        }
        self.run(operation, lba, blocks).unwrap();
    }

    /// Reads blocks, and gives the bytes that differ from what they should be.
    fn wrong(&mut self, lba: u64, blocks: u64, expected: impl Fn(usize) -> u8) -> usize {
        self.arena
            .bytes_mut(self.buffer.as_mut().unwrap())
            .fill(0xee);
        self.run(BlockOperation::Read, lba, blocks).unwrap();
        let len = usize::try_from(blocks * self.block).unwrap();
        let bytes = self.arena.bytes(self.buffer.as_ref().unwrap());
        let wrong = (0..len)
            .filter(|&offset| bytes[offset] != expected(offset))
            .count();
        wrong + bytes[len..].iter().filter(|&&byte| byte != 0xee).count()
    }
}

/// Both tables of the arena's page addresses, written into fresh memory.
fn lists(memory: &Memory, arena: &BlockArena<'_>) -> ListTables {
    let pages = u64::from(arena.count()) * arena.buffer_len() as u64 / 4096;
    let block = memory.block(usize::try_from(ListTables::bytes(pages)).unwrap());
    let tables = ListTables::at(block.bus_address().as_u64(), pages);
    for table in [tables.even, tables.odd] {
        let offset = usize::try_from(table - block.bus_address().as_u64()).unwrap();
        let entries = block
            .memory()
            .slice::<AtomicU64>(offset, usize::try_from(pages).unwrap())
            .unwrap();
        for (page, entry) in (0..).zip(entries) {
            entry.store((arena.iova_base().as_u64() + page * 4096).to_le(), Relaxed);
        }
    }
    tables
}

/// Every transfer from one block up to MDTS in steps, reads, writes, flushes, zeroes and deallocations.
fn exercise(
    name: &str,
    device: &str,
    pointer: impl FnOnce(&Memory, &BlockArena<'_>) -> DataPointer,
) {
    let memory = Memory::new(name);
    let bar = start(&memory, &["-device", device]);
    let mut tables = Tables::new(8);
    let mut commands = CommandTable::new();
    let shadow = name.starts_with("shadow").then(|| ShadowMemory {
        values: memory.block(4096),
        events: memory.block(4096),
    });
    let mut controller = bring_up_with(&bar, &memory, &mut tables, shadow);
    let max = controller.limits().max_transfer.unwrap();
    let mut disk = Disk::new(&bar, &mut controller, &memory, &mut commands, |arena| {
        pointer(&memory, arena)
    });
    let most = max / disk.block;
    let sizes = (1..=most.min(40))
        .chain((most.min(41)..=most).step_by(97))
        .chain([most - 1, most]);
    for (round, blocks) in (1..).zip(sizes) {
        let lba = u64::from(round) * 3;
        disk.write(BlockOperation::Write, lba, blocks, round);
        assert_eq!(
            disk.wrong(lba, blocks, |offset| pattern(lba, offset, round)),
            0,
            "{blocks} blocks"
        );
    }
    disk.write(BlockOperation::WriteThrough, 100, 16, 0x55);
    disk.run(BlockOperation::Flush, 0, 0).unwrap();
    let image = std::fs::read(memory.path("disk")).unwrap();
    let start = usize::try_from(100 * disk.block).unwrap();
    let stored = &image[start..start + usize::try_from(16 * disk.block).unwrap()];
    assert!(
        stored
            .iter()
            .enumerate()
            .all(|(offset, &byte)| byte == pattern(100, offset, 0x55))
    );
    disk.run(BlockOperation::WriteZeroes, 104, 4).unwrap();
    assert_eq!(disk.wrong(104, 4, |_| 0), 0);
    disk.run(BlockOperation::Deallocate, 100, 8).unwrap();
    let outside = disk.run(BlockOperation::Read, DISK / disk.block, 1);
    assert_eq!(outside.unwrap_err().type_and_code(), 0x080);
    let complaints = memory.complaints();
    // The one that was asked for.
    let expected = |line: &str| line.contains("lba_range") || line.contains("status 0x4080");
    assert!(complaints.lines().all(expected), "{complaints}");
}

#[test]
fn blocks_of_512_bytes_are_read_as_they_were_written() {
    exercise(
        "b512",
        "nvme,drive=disk,serial=p,addr=4",
        |memory, arena| DataPointer::Lists(lists(memory, arena)),
    );
}

#[test]
fn blocks_of_4096_bytes_are_read_as_they_were_written() {
    let device =
        "nvme,drive=disk,serial=p,addr=4,mdts=8,logical_block_size=4096,physical_block_size=4096";
    exercise("b4096", device, |memory, arena| {
        DataPointer::Lists(lists(memory, arena))
    });
}

#[test]
fn chained_lists_carry_more_than_a_megabyte() {
    let memory = Memory::new("chain");
    let devices = ["-device", "nvme,drive=disk,serial=p,addr=4,mdts=9"];
    let bar = start(&memory, &devices);
    let mut tables = Tables::new(8);
    let mut commands = CommandTable::new();
    let mut controller = bring_up(&bar, &memory, &mut tables);
    let max = controller.limits().max_transfer.unwrap();
    assert_eq!(max, 2 << 20);
    let mut disk = Disk::new(&bar, &mut controller, &memory, &mut commands, |_| {
        DataPointer::Sgl
    });
    let pages = disk.arena.buffer_len() as u64 / 4096;
    let block = memory.block(usize::try_from(ChainedTables::bytes(pages)).unwrap());
    let first = disk.arena.iova_base().as_u64();
    let addresses: Vec<_> = (0..pages)
        .map(|page| BusAddress::new(first + page * 4096))
        .collect();
    disk.chained = ChainedTables::write(&block, addresses.into_iter());
    for (round, blocks) in (1..).zip([1, 8, 9, 16, 17, 2048, 2049, 3000, 4088, 4095, 4096]) {
        disk.write(BlockOperation::Write, 11, blocks, round);
        assert_eq!(
            disk.wrong(11, blocks, |offset| pattern(11, offset, round)),
            0,
            "{blocks} blocks"
        );
    }
    assert_eq!(memory.complaints(), "");
}

#[test]
fn sgl_descriptors_do_without_lists() {
    exercise("sgl", "nvme,drive=disk,serial=p,addr=4", |_, _| {
        DataPointer::Sgl
    });
}

#[test]
fn shadow_doorbells_are_seen() {
    exercise(
        "shadow",
        "nvme,drive=disk,serial=p,addr=4",
        |memory, arena| DataPointer::Lists(lists(memory, arena)),
    );
}

/// Queue pairs come and go; a reset takes them, and they are revived.
#[test]
fn pairs_are_created_deleted_lost_and_revived() {
    let memory = Memory::new("pairs");
    let devices = ["-device", "nvme,drive=disk,serial=p,addr=4,max_ioqpairs=3"];
    let bar = start(&memory, &devices);
    let mut tables = Tables::new(8);
    let mut controller = bring_up(&bar, &memory, &mut tables);
    assert_eq!(controller.limits().pairs, 3);
    let pairs: Vec<_> = (0..3)
        .map(|_| create(&bar, &mut controller, &memory).0.queue)
        .collect();
    let more = pair_memory(&memory);
    let (error, more) = controller
        .begin_create(pairs[1], more, Instant::default())
        .unwrap_err();
    assert_eq!(error, AdminError::Pair);
    let (error, more) = controller
        .begin_create(QueueId::new(4).unwrap(), more, Instant::default())
        .unwrap_err();
    assert_eq!(error, AdminError::Argument);
    controller
        .begin_delete(pairs[1], Instant::default())
        .unwrap();
    assert_eq!(
        controller.take_back(pairs[1]).unwrap_err(),
        AdminError::Pair
    );
    assert_eq!(
        wait(&bar, |now| controller.poll_pair(pairs[1], now)),
        PairState::Gone(None)
    );
    controller.take_back(pairs[1]).unwrap();
    let again = pairs[1];
    controller
        .begin_create(again, more, Instant::default())
        .map_err(|(error, _)| error)
        .unwrap();
    assert_eq!(
        wait(&bar, |now| controller.poll_pair(again, now)),
        PairState::Live
    );
    controller.begin_reset(Instant::default());
    wait(&bar, |now| controller.poll_reset(now)).unwrap();
    for queue in pairs {
        assert_eq!(
            controller.poll_pair(queue, Instant::default()),
            Poll::Ready(PairState::Lost)
        );
        controller.begin_revive(queue, Instant::default()).unwrap();
        assert_eq!(
            wait(&bar, |now| controller.poll_pair(queue, now)),
            PairState::Live
        );
    }
    controller.begin_scan(Instant::default()).unwrap();
    wait(&bar, |now| controller.poll_scan(now)).unwrap();
    assert_eq!(controller.namespaces().count(), 1);
    assert_eq!(controller.strays(), Strays::default());
    assert_eq!(memory.complaints(), "");
}

/// Logs, an abort, an event, a shutdown.
#[test]
fn the_admin_queue_serves_logs_aborts_events_and_shutdown() {
    let memory = Memory::new("admin");
    let devices = ["-device", "nvme,drive=disk,serial=p,addr=4"];
    let bar = start(&memory, &devices);
    let mut tables = Tables::new(8);
    let mut controller = bring_up(&bar, &memory, &mut tables);
    let queue = create(&bar, &mut controller, &memory).0.queue;
    controller
        .begin_log(LogPage::Health, Instant::default())
        .unwrap();
    let health = wait(&bar, |now| {
        controller
            .poll_log(now)
            .map(|log| log.unwrap().health().unwrap())
    });
    assert_eq!(
        (health.warnings, health.temperature, health.spare),
        (Warnings::empty(), 0x143, 0)
    );
    controller
        .begin_log(LogPage::Errors, Instant::default())
        .unwrap();
    let entries = wait(&bar, |now| {
        controller
            .poll_log(now)
            .map(|log| log.unwrap().errors().count())
    });
    assert_eq!(entries, 0);
    controller
        .begin_abort(queue, 5, Instant::default())
        .unwrap();
    let abort = wait(&bar, |now| controller.poll_abort(now)).unwrap();
    assert_eq!(abort, AbortOutcome::NotAborted);
    assert_eq!(controller.poll_event(Instant::default()), Ok(None));
    // A doorbell of a queue that does not exist: QEMU reports it as an event.
    bar.write32(0x1000 + 2 * 9 * 4, 1);
    let event = wait(&bar, |now| {
        controller
            .poll_event(now)
            .unwrap()
            .map_or(Poll::Pending, Poll::Ready)
    });
    assert_eq!(event, Event::Error { info: 0 });
    controller.begin_shutdown(Instant::default());
    wait(&bar, |now| controller.poll_shutdown(now)).unwrap();
    assert!(
        memory
            .complaints()
            .lines()
            .all(|line| line.contains("db_wr_invalid_sq")),
        "{}",
        memory.complaints()
    );
}

/// Namespaces with different blocks, some of them with metadata; and as many queue pairs as the protocol has.
#[test]
fn namespaces_and_queue_pairs_are_found_up_to_the_last() {
    let memory = Memory::new("many");
    let devices = [
        "-device",
        "nvme,id=ssd,serial=p,addr=4,max_ioqpairs=65535",
        "-device",
        "nvme-ns,drive=disk,bus=ssd,nsid=1",
        "-drive",
        "if=none,id=large,driver=null-co,read-zeroes=on,size=32M",
        "-device",
        "nvme-ns,drive=large,bus=ssd,nsid=7,logical_block_size=4096,physical_block_size=4096",
        "-drive",
        "if=none,id=meta,driver=null-co,read-zeroes=on,size=32M",
        "-device",
        "nvme-ns,drive=meta,bus=ssd,nsid=9,ms=8",
    ];
    let bar = start(&memory, &devices);
    let mut tables = Tables::new(65_535);
    let mut controller = bring_up(&bar, &memory, &mut tables);
    assert_eq!(controller.limits().pairs, 65_535);
    let found: Vec<_> = controller
        .namespaces()
        .map(|found| (found.id.as_u32(), found.data.map(|data| data.block_shift)))
        .collect();
    assert_eq!(
        found,
        [
            (1, Ok(9)),
            (7, Ok(12)),
            (9, Err(NamespaceError::Metadata { bytes: 8 }))
        ]
    );
    for id in [1, 2, 40_000, 65_535].map(|id| QueueId::new(id).unwrap()) {
        controller
            .begin_create(id, pair_memory(&memory), Instant::default())
            .map_err(|(error, _)| error)
            .unwrap();
        assert_eq!(
            wait(&bar, |now| controller.poll_pair(id, now)),
            PairState::Live
        );
        controller.begin_delete(id, Instant::default()).unwrap();
        assert_eq!(
            wait(&bar, |now| controller.poll_pair(id, now)),
            PairState::Gone(None)
        );
    }
    assert_eq!(memory.complaints(), "");
}
