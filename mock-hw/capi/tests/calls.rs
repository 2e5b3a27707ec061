//! Calls that go wrong, and calls that the example does not make.
#![expect(
    unsafe_code,
    clippy::unwrap_used,
    reason = "a test calls the C interface"
)]
#![expect(
    clippy::borrow_as_ptr,
    clippy::cognitive_complexity,
    clippy::multiple_unsafe_ops_per_block,
    reason = "a caller in C has lists of such calls, too"
)]

use core::{ffi::c_void, ptr};
use std::{sync::Mutex, thread};

use mock_hw_c::*;

/// `MOCK_HW_…`, as the header has them.
const IXGBE: u32 = 1;
const VIRTIO_NET: u32 = 2;
const NVME: u32 = 3;
const OK: i32 = 0;
const POINTER: i32 = -1;
const HANDLE: i32 = -2;
const ARGUMENT: i32 = -3;
const VERSION: i32 = -4;
const UNSUPPORTED: i32 = -5;
const SPACE: i32 = -6;
const EMPTY: i32 = -7;
const FULL: i32 = -8;
const CALLBACK: i32 = -9;

/// The result of a call that writes one value.
fn get<T: Default>(call: impl FnOnce(*mut T) -> i32) -> Result<T, i32> {
    let mut value = T::default();
    match call(&raw mut value) {
        OK => Ok(value),
        code => Err(code),
    }
}

/// A caller's machine: 64 KiB from address 0 on, the requesters that came, and the interrupts.
#[derive(Default)]
struct Machine(Mutex<State>);

#[derive(Default)]
struct State {
    requesters: Vec<u16>,
    interrupts: Vec<(u16, u16, u32)>,
    /// What a call out of a callback gave.
    inside: Option<i32>,
    world: u64,
}

unsafe extern "C" fn refuse_read(
    user: *mut c_void,
    own: u16,
    _: u64,
    _: *mut c_void,
    _: usize,
) -> i32 {
    // SAFETY: `user` is the machine of the test, which lives longer than its world.
    let machine = unsafe { &*user.cast::<Machine>() };
    let mut state = machine.0.lock().unwrap();
    state.requesters.push(own);
    state.inside = Some(mock_hw_run(state.world, 1));
    1
}

unsafe extern "C" fn refuse_write(
    _: *mut c_void,
    _: u16,
    _: u64,
    _: *const c_void,
    _: usize,
) -> i32 {
    1
}

unsafe extern "C" fn note(user: *mut c_void, own: u16, vector: u16, _: u64, data: u32) {
    // SAFETY: as above.
    let machine = unsafe { &*user.cast::<Machine>() };
    machine
        .0
        .lock()
        .unwrap()
        .interrupts
        .push((own, vector, data));
}

fn host(machine: &Machine) -> Host {
    Host {
        size: size_of::<Host>(),
        user: ptr::from_ref(machine).cast_mut().cast(),
        dma_read: Some(refuse_read),
        dma_write: Some(refuse_write),
        interrupt: Some(note),
    }
}

fn config() -> Config {
    Config {
        size: size_of::<Config>(),
        mac: [0; 6],
        queue_pairs: 0,
        queue_entries: 0,
        vectors: 0,
        virtual_functions: 0,
        reserved: 0,
        block_len: 0,
        reserved2: 0,
        blocks: 0,
        features: 0,
    }
}

fn world() -> u64 {
    // SAFETY: `get` hands over a place for the result.
    get(|world| unsafe { mock_hw_world_create(7, world) }).unwrap()
}

fn create(world: u64, kind: u32, host: *const Host, config: *const Config) -> Result<u64, i32> {
    // SAFETY: the tests' structures are whole, and their machines outlive their worlds.
    get(|device| unsafe { mock_hw_create(world, kind, host, config, device) })
}

fn read(device: u64, bar: u32, offset: u64, width: u32) -> Result<u64, i32> {
    // SAFETY: `get` hands over a place for the result.
    get(|value| unsafe { mock_hw_bar_read(device, bar, offset, width, value) })
}

fn step(world: u64, limit: u64) -> Result<u64, i32> {
    // SAFETY: `get` hands over a place for the result.
    get(|done| unsafe { mock_hw_step(world, limit, done) })
}

fn virtual_function(device: u64, n: u16) -> Result<u64, i32> {
    // SAFETY: `get` hands over a place for the result.
    get(|function| unsafe { mock_hw_virtual_function(device, n, function) })
}

#[test]
fn handles_that_stand_for_nothing_are_found_out() {
    let machine = Machine::default();
    let world = world();
    let nic = create(world, IXGBE, &host(&machine), ptr::null()).unwrap();
    for handle in [0, u64::MAX, world] {
        assert_eq!(read(handle, 0, 0, 4), Err(HANDLE));
        assert_eq!(mock_hw_destroy(handle), HANDLE);
    }
    assert_eq!(step(nic, 1), Err(HANDLE));
    assert_eq!(mock_hw_destroy(nic), OK);
    assert_eq!(mock_hw_destroy(nic), HANDLE);
    let disk = create(world, NVME, &host(&machine), ptr::null()).unwrap();
    assert_eq!(mock_hw_world_destroy(world), OK);
    assert_eq!(mock_hw_world_destroy(world), HANDLE);
    assert_eq!(mock_hw_enable(disk), HANDLE);
    assert_eq!(
        create(world, NVME, &host(&machine), ptr::null()),
        Err(HANDLE)
    );
}

#[test]
fn pointers_that_are_null_or_misaligned_are_found_out() {
    let machine = Machine::default();
    let host = host(&machine);
    let world = world();
    let nic = create(world, IXGBE, &host, ptr::null()).unwrap();
    let mut words = [0_u64; 4];
    let odd = (&raw mut words).cast::<u8>().wrapping_add(1);
    let none = ptr::null_mut::<u64>();
    // SAFETY: null and misaligned places are not written to, and `words` has room for the rest.
    unsafe {
        assert_eq!(mock_hw_world_create(1, none), POINTER);
        assert_eq!(mock_hw_world_create(1, odd.cast()), POINTER);
        assert_eq!(mock_hw_now(world, none), POINTER);
        assert_eq!(mock_hw_step(world, 1, none), OK);
        assert_eq!(mock_hw_step(world, 1, odd.cast()), POINTER);
        assert_eq!(mock_hw_bar_read(nic, 0, 0, 4, none), POINTER);
        assert_eq!(mock_hw_config_read(nic, 0, 4, odd.cast()), POINTER);
        assert_eq!(mock_hw_frame_in(nic, ptr::null(), 60), POINTER);
        assert_eq!(
            mock_hw_frame_out(nic, ptr::null_mut(), 60, (&raw mut words).cast()),
            POINTER
        );
        assert_eq!(
            mock_hw_frame_out(nic, odd.cast(), 1, ptr::null_mut()),
            POINTER
        );
        assert_eq!(
            mock_hw_create(world, IXGBE, ptr::null(), ptr::null(), none),
            POINTER
        );
        assert_eq!(mock_hw_fault_counts(nic, none, none), POINTER);
    }
    assert_eq!(create(world, IXGBE, ptr::null(), ptr::null()), Err(POINTER));
    let deaf = Host {
        dma_write: None,
        ..host
    };
    assert_eq!(create(world, IXGBE, &deaf, ptr::null()), Err(POINTER));
    assert_eq!(mock_hw_world_destroy(world), OK);
}

#[test]
fn structures_of_other_versions_are_read_or_refused() {
    #[repr(C)]
    struct Later {
        host: Host,
        more: u64,
    }

    let machine = Machine::default();
    let world = world();
    let mut later = Later {
        host: host(&machine),
        more: 0,
    };
    later.host.size = size_of::<Later>();
    assert!(create(world, NVME, (&raw const later).cast(), ptr::null()).is_ok());
    later.more = 1;
    assert_eq!(
        create(world, NVME, (&raw const later).cast(), ptr::null()),
        Err(VERSION)
    );
    for size in [0, 8, size_of::<Host>() - 1, usize::MAX] {
        later.host.size = size;
        assert_eq!(create(world, NVME, &later.host, ptr::null()), Err(VERSION));
    }
    assert_eq!(mock_hw_world_destroy(world), OK);
}

#[test]
fn what_a_kind_of_device_does_not_take_is_refused() {
    type Change = fn(&mut Config);

    let machine = Machine::default();
    let host = host(&machine);
    let world = world();
    let refused: [(u32, Change); 14] = [
        (0, |_| ()),
        (4, |_| ()),
        (IXGBE, |config| config.queue_pairs = 4),
        (IXGBE, |config| config.virtual_functions = 64),
        (IXGBE, |config| config.blocks = 1),
        (IXGBE, |config| config.reserved = 1),
        (VIRTIO_NET, |config| config.features = 1 << 63),
        (VIRTIO_NET, |config| config.queue_pairs = 0x8000),
        (VIRTIO_NET, |config| config.virtual_functions = 1),
        (NVME, |config| config.mac = [2; 6]),
        (NVME, |config| config.block_len = 1024),
        (NVME, |config| config.queue_entries = 1),
        (NVME, |config| config.blocks = u64::MAX),
        (NVME, |config| config.vectors = 2049),
    ];
    for (n, (kind, change)) in refused.into_iter().enumerate() {
        let mut config = config();
        change(&mut config);
        assert_eq!(create(world, kind, &host, &config), Err(ARGUMENT), "{n}");
    }
    assert_eq!(mock_hw_world_destroy(world), OK);
}

#[test]
fn accesses_that_no_bus_has_are_refused() {
    let machine = Machine::default();
    let world = world();
    let nic = create(world, IXGBE, &host(&machine), ptr::null()).unwrap();
    // Memory space is off: nobody answers, and the call is right.
    assert_eq!(read(nic, 0, 0, 4), Ok(0xffff_ffff));
    assert_eq!(mock_hw_enable(nic), OK);
    assert_eq!(read(nic, 0, 8, 4).map(|status| status >> 19 & 1), Ok(1));
    let wrong = [
        (0, 0, 3),
        (0, 2, 4),
        (0, 0x2_0000, 4),
        (0, u64::MAX, 1),
        (1, 0, 4),
        (6, 0, 4),
    ];
    for (bar, offset, width) in wrong {
        assert_eq!(
            read(nic, bar, offset, width),
            Err(ARGUMENT),
            "{bar} {offset:#x} {width}"
        );
        assert_eq!(mock_hw_bar_write(nic, bar, offset, width, 0), ARGUMENT);
    }
    for (offset, width) in [(4096, 4), (0, 8), (1, 2)] {
        assert_eq!(mock_hw_config_write(nic, offset, width, 0), ARGUMENT);
    }
    assert_eq!(mock_hw_set_link(nic, 2), ARGUMENT);
    assert_eq!(mock_hw_fault(nic, 16, 0, 3, 0), ARGUMENT);
    // SAFETY: `get` hands over a place for the result.
    let len = |bar| get(|len| unsafe { mock_hw_bar_len(nic, bar, len) });
    assert_eq!(
        [len(0), len(1), len(4), len(6)],
        [Ok(0x2_0000), Ok(0), Ok(0x4000), Err(ARGUMENT)]
    );
    assert_eq!(mock_hw_world_destroy(world), OK);
}

/// An NVMe controller with its admin queue at 0, and one command in it.
fn busy_disk(world: u64, host: &Host) -> u64 {
    let disk = create(world, NVME, host, ptr::null()).unwrap();
    assert_eq!(mock_hw_enable(disk), OK);
    for (offset, value) in [
        (0x24, 0x0007_0007),
        (0x28, 0),
        (0x30, 0x1000),
        (0x14, 0x0046_0001),
    ] {
        assert_eq!(mock_hw_bar_write(disk, 0, offset, 4, value), OK);
    }
    assert_eq!(mock_hw_run(world, 100_000_000), OK);
    assert_eq!(read(disk, 0, 0x1c, 4), Ok(1));
    assert_eq!(mock_hw_bar_write(disk, 0, 0x1000, 4, 1), OK);
    disk
}

#[test]
fn a_callback_that_refuses_is_a_bus_that_refuses_and_cannot_call_the_library() {
    let machine = Machine::default();
    let world = world();
    machine.0.lock().unwrap().world = world;
    let disk = busy_disk(world, &host(&machine));
    assert!(step(world, 100).unwrap() > 0);
    // SAFETY: `get` hands over a place for the result.
    let requester = get(|requester| unsafe { mock_hw_requester(disk, requester) }).unwrap();
    let state = machine.0.lock().unwrap();
    assert_eq!(state.requesters.first(), Some(&requester));
    assert_eq!(state.inside, Some(CALLBACK));
    drop(state);
    // The controller says that it cannot go on.
    assert_eq!(read(disk, 0, 0x1c, 4).map(|status| status & 2), Ok(2));
    assert_eq!(mock_hw_world_destroy(world), OK);
}

#[test]
fn no_callback_comes_after_the_end() {
    let machine = Machine::default();
    let world = world();
    let disk = busy_disk(world, &host(&machine));
    assert_eq!(mock_hw_destroy(disk), OK);
    assert_eq!(step(world, 100), Ok(0));
    assert!(machine.0.lock().unwrap().requesters.is_empty());
    assert_eq!(mock_hw_world_destroy(world), OK);
}

#[test]
fn virtual_functions_come_with_their_card_and_go_with_it() {
    let machine = Machine::default();
    let world = world();
    let config = Config {
        virtual_functions: 3,
        ..config()
    };
    let card = create(world, IXGBE, &host(&machine), &config).unwrap();
    let function = virtual_function(card, 2).unwrap();
    assert_eq!(virtual_function(card, 3), Err(UNSUPPORTED));
    assert_eq!(virtual_function(function, 0), Err(UNSUPPORTED));
    // A kernel turns them on: NumVFs, VF Enable and VF Memory Space Enable.
    assert_eq!(mock_hw_config_write(card, 0x170, 2, 3), OK);
    assert_eq!(mock_hw_config_write(card, 0x168, 2, 0x19), OK);
    assert_eq!(mock_hw_enable(function), OK);
    // SAFETY: `get` hands over a place for the result.
    let id = get(|value| unsafe { mock_hw_config_read(function, 0, 4, value) });
    assert_eq!(id, Ok(0x10ed_8086));
    // SAFETY: `get` hands over a place for the result.
    let requester = |of| get(|requester| unsafe { mock_hw_requester(of, requester) });
    assert_eq!(
        requester(function),
        requester(card).map(|card| card + 128 + 4)
    );
    assert_eq!(mock_hw_destroy(function), UNSUPPORTED);
    assert_eq!(mock_hw_set_link(function, 1), UNSUPPORTED);
    assert_eq!(mock_hw_destroy(card), OK);
    assert_eq!(mock_hw_enable(function), HANDLE);
    assert_eq!(mock_hw_world_destroy(world), OK);
}

#[test]
fn interrupts_come_with_their_vector_and_data() {
    let machine = Machine::default();
    let world = world();
    let nic = create(world, IXGBE, &host(&machine), ptr::null()).unwrap();
    assert_eq!(mock_hw_enable(nic), OK);
    for (bar, offset, value) in [
        (4, 0x30, 0xfee0_0000), // Entry 3
        (4, 0x38, 0x77),
        (4, 0x3c, 0),
        (0, 0x0898, 0x8000_0030), // GPIE
        (0, 0x0880, 1 << 3),      // EIMS
    ] {
        assert_eq!(mock_hw_bar_write(nic, bar, offset, 4, value), OK);
    }
    assert_eq!(mock_hw_config_write(nic, 0x72, 2, 0x8000), OK);
    assert_eq!(mock_hw_bar_write(nic, 0, 0x0808, 4, 1 << 3), OK); // EICS
    assert_eq!(mock_hw_run(world, 1_000_000), OK);
    assert_eq!(machine.0.lock().unwrap().interrupts, [(0x0100, 3, 0x77)]);
    assert_eq!(mock_hw_world_destroy(world), OK);
}

#[test]
fn what_a_driver_does_wrong_is_in_the_trace() {
    let machine = Machine::default();
    let world = world();
    let nic = create(world, IXGBE, &host(&machine), ptr::null()).unwrap();
    let entry = |capacity: usize| {
        let (mut kind, mut text, mut len) = (0, vec![0_u8; 512], 0);
        assert!(capacity <= text.len());
        let place = text.as_mut_ptr().cast();
        // SAFETY: there is room for `capacity` bytes, a number and a length.
        let code = unsafe { mock_hw_trace(world, &mut kind, place, capacity, &mut len) };
        (
            code,
            kind,
            String::from_utf8(text[..len].to_vec()).unwrap(),
            len,
        )
    };
    while entry(512).0 == OK {}
    assert_eq!(entry(512).0, EMPTY);
    // Memory space is off.
    assert!(read(nic, 0, 0, 4).is_ok());
    let (code, _, _, len) = entry(0);
    assert_eq!(code, SPACE);
    assert_eq!(entry(len).0, SPACE);
    let (code, kind, text, _) = entry(len + 1);
    assert_eq!((code, kind), (OK, 1), "{text}");
    assert!(text.contains("violation"), "{text}");
    assert_eq!(mock_hw_world_destroy(world), OK);
}

#[test]
fn frames_that_are_too_long_or_too_many_are_refused() {
    let machine = Machine::default();
    let world = world();
    let nic = create(world, VIRTIO_NET, &host(&machine), ptr::null()).unwrap();
    let disk = create(world, NVME, &host(&machine), ptr::null()).unwrap();
    let bytes = vec![0_u8; 65_537];
    // SAFETY: `bytes` has as many.
    let send = |device, len: usize| unsafe { mock_hw_frame_in(device, bytes.as_ptr().cast(), len) };
    assert_eq!(send(nic, 0), ARGUMENT);
    assert_eq!(send(nic, 65_537), ARGUMENT);
    assert_eq!(send(disk, 60), UNSUPPORTED);
    assert_eq!(mock_hw_connect(nic, disk), UNSUPPORTED);
    let sent = (0..70_000).take_while(|_| send(nic, 1) == OK).count();
    assert_eq!((sent, send(nic, 1)), (65_536, FULL));
    assert_eq!(mock_hw_world_destroy(world), OK);
}

#[test]
fn a_world_takes_255_devices() {
    let machine = Machine::default();
    let world = world();
    for _ in 0..255 {
        let disk = create(world, NVME, &host(&machine), ptr::null()).unwrap();
        assert_eq!(mock_hw_destroy(disk), OK);
    }
    assert_eq!(create(world, NVME, &host(&machine), ptr::null()), Err(FULL));
    assert_eq!(mock_hw_world_destroy(world), OK);
}

#[test]
fn faults_take_effect_and_are_counted() {
    let machine = Machine::default();
    let world = world();
    let nic = create(world, IXGBE, &host(&machine), ptr::null()).unwrap();
    assert_eq!(mock_hw_enable(nic), OK);
    assert_eq!(mock_hw_fault(nic, 7, 0, 3, 0), OK); // Removal
    // EICS: an interrupt to send is an opportunity.
    for (offset, value) in [(0x0880, 8), (0x0808, 8)] {
        assert_eq!(mock_hw_bar_write(nic, 0, offset, 4, value), OK);
    }
    assert_eq!(mock_hw_run(world, 1_000_000), OK);
    let (mut injected, mut activated) = (0, 0);
    // SAFETY: there is room for two numbers.
    let code = unsafe { mock_hw_fault_counts(nic, &mut injected, &mut activated) };
    assert_eq!((code, injected), (OK, 1));
    assert!(activated > 0);
    assert_eq!(read(nic, 0, 8, 4), Ok(0xffff_ffff));
    assert_eq!(mock_hw_fault_clear(nic), OK);
    assert_eq!(mock_hw_world_destroy(world), OK);
}

#[test]
fn threads_may_share_a_world() {
    let machine = Machine::default();
    let world = world();
    let disk = busy_disk(world, &host(&machine));
    thread::scope(|scope| {
        for n in 0..4_u32 {
            scope.spawn(move || {
                for _ in 0..500 {
                    assert!(step(world, 3).is_ok());
                    assert!(read(disk, 0, 0x1c, 4).is_ok());
                    assert_eq!(mock_hw_bar_write(disk, 0, 0x1000, 4, u64::from(n)), OK);
                    assert_eq!(mock_hw_run(world, 10), OK);
                }
            });
        }
    });
    assert_eq!(mock_hw_world_destroy(world), OK);
}

#[test]
fn every_code_has_its_message() {
    let text = |code| {
        // SAFETY: the library's texts end with 0 and are there for ever.
        unsafe { core::ffi::CStr::from_ptr(mock_hw_message(code)) }.to_owned()
    };
    let mut all: Vec<_> = Code::ALL.iter().map(|code| text(code.number())).collect();
    all.push(text(0));
    all.push(text(1));
    assert_eq!(text(i32::MIN), text(1));
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count);
}
