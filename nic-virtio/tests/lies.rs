//! A device that writes what it likes, where it likes, into rings and headers: a queue may stop for good, but it never
//! panics, never gives a buffer out twice, and never says that one holds more than fits.
#![expect(unsafe_code, reason = "the device's memory is shared")]
#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    reason = "plays a device: what does not fit is a failed test"
)]

use core::{
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use parakernel_core::{
    address::Iova,
    error::ErrorKind,
    memory::{Arena, ArenaLayout, Pool, Segment, SegmentList, SharedMemory},
    queue::{Doorbell, RxQueue, TxQueue},
    ring::Position,
};
use parakernel_nic_virtio::{
    error::RingError,
    rx::{Receiver, Spread},
    tx::{HeaderSource, Sender},
    virtqueue::{Order, ReceiveFormat, TransmitFormat, packed::Packed, split::Split},
};
use proptest::prelude::*;

const N: usize = 8;
const LAYOUT: ArenaLayout = ArenaLayout {
    stride: 192,
    headroom: 64,
    header: 12,
    count: 20,
};
const CAPACITY: usize = 128;
const HEADER: usize = 12;

/// Words of a page, and of the memory of each side.
const PAGE: usize = 512;
const WORDS: usize = 4 * PAGE;
const _: () = assert!(Split::<N>::BYTES <= 8 * WORDS && Packed::<N>::BYTES <= 8 * WORDS);

#[repr(C, align(4096))]
struct Memory([AtomicU64; WORDS]);

impl Memory {
    fn new() -> Box<Self> {
        Box::new(Self([const { AtomicU64::new(0) }; WORDS]))
    }

    fn base(&self) -> NonNull<u8> {
        NonNull::from(self).cast()
    }

    fn shared(&self) -> SharedMemory<'_> {
        // SAFETY: atomics that live as long as the result.
        unsafe { SharedMemory::new(self.base(), 8 * WORDS) }
    }

    fn pool<'a>(&'a self, words: &'a mut [u32]) -> Pool<'a> {
        // SAFETY: used for nothing but buffers, all in this thread.
        let arena = unsafe { Arena::new(self.base(), Iova::new(0x10_0000), LAYOUT) };
        Pool::new(arena.unwrap(), words)
    }

    /// Sets 16 bits at byte `offset`.
    fn store16(&self, offset: usize, value: u16) {
        let word = &self.0[offset / 8];
        let mut bytes = word.load(Relaxed).to_le_bytes();
        bytes[offset % 8..][..2].copy_from_slice(&value.to_le_bytes());
        word.store(u64::from_le_bytes(bytes), Relaxed);
    }
}

/// A layout, as the device writes to it.
trait Wire<'a>: ReceiveFormat + TransmitFormat {
    fn make(memory: &'a Memory) -> Self;

    /// Says as completion number `at` that `id` was used, and that `len` bytes of it were written.
    fn say(memory: &Memory, at: u32, id: u32, len: u32);

    /// Says that `count` completions were written, where the layout has a place for that.
    fn count(memory: &Memory, count: u32);
}

impl<'a> Wire<'a> for Split<'a, N> {
    fn make(memory: &'a Memory) -> Self {
        Self::in_block(memory.shared()).unwrap()
    }

    fn say(memory: &Memory, at: u32, id: u32, len: u32) {
        let element = u64::from(id) | u64::from(len) << 32;
        memory.0[(Split::<N>::USED + 8) / 8 + at as usize % N].store(element, Relaxed);
    }

    fn count(memory: &Memory, count: u32) {
        memory.store16(Split::<N>::USED + 6, count as u16);
    }
}

impl<'a> Wire<'a> for Packed<'a, N> {
    fn make(memory: &'a Memory) -> Self {
        Self::in_block(memory.shared()).unwrap()
    }

    fn say(memory: &Memory, at: u32, id: u32, len: u32) {
        let is_first_round = (at as usize / N).is_multiple_of(2);
        let marks = if is_first_round { 0x8080 << 48 } else { 0 };
        let rest = u64::from(len) | u64::from(id & 0xFFFF) << 32 | marks;
        memory.0[at as usize % N * 2 + 1].store(rest, Relaxed);
    }

    fn count(_memory: &Memory, _count: u32) {}
}

struct Unheard;

impl Doorbell for Unheard {
    fn ring(&mut self, _tail: Position) {}

    fn accepted(&self, rung: Position) -> Position {
        rung
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// The device does as it should, with the next buffer of the ring.
    Complete { len: u32 },
    /// It says something of a buffer, truly or not.
    Say { ahead: u32, id: u32, len: u32 },
    /// Its count of completions jumps.
    Jump(u32),
    /// It writes anywhere in the ring's memory.
    Write { word: usize, value: u64 },
    /// It says in a buffer that the frame has so many.
    Buffers { buffer: usize, count: u16 },
    /// It says so in all of them.
    AllBuffers(u16),
    /// The driver looks for what was completed.
    Poll(usize),
    /// The driver arms or sends; frames to send have so many parts.
    Offer(usize),
    /// The application returns what it has.
    Return,
}

fn step() -> impl Strategy<Value = Step> {
    let len = || {
        prop_oneof![
            4 => 13..=140_u32,
            1 => 139..=142_u32,
            1 => 0..300_u32,
            1 => any::<u32>(),
        ]
    };
    let id = prop_oneof![4 => 0..N as u32, 1 => 0..20_u32, 1 => any::<u32>()];
    let ahead = prop_oneof![4 => 0..2_u32, 1 => 0..2 * N as u32];
    let word = prop_oneof![0..2 * N, Just(PAGE), 2 * PAGE..2 * PAGE + N + 2, 0..WORDS];
    let value = prop_oneof![
        any::<u64>(),
        (0..N as u64, 0..2_u64).prop_map(|(id, round)| id << 32 | 40 | (round * 0x8080) << 48),
    ];
    prop_oneof![
        8 => len().prop_map(|len| Step::Complete { len }),
        2 => (ahead, id, len()).prop_map(|(ahead, id, len)| Step::Say { ahead, id, len }),
        1 => (0..=N as u32 + 2).prop_map(Step::Jump),
        1 => (word, value).prop_map(|(word, value)| Step::Write { word, value }),
        2 => (0..20_usize, prop_oneof![0..4_u16, any::<u16>()])
            .prop_map(|(buffer, count)| Step::Buffers { buffer, count }),
        1 => (1..4_u16).prop_map(Step::AllBuffers),
        4 => (1..20_usize).prop_map(Step::Poll),
        3 => (1..4_usize).prop_map(Step::Offer),
        2 => Just(Step::Return),
    ]
}

/// The device, and the buffers that neither pool nor queue has.
struct Bench<'a> {
    ring: &'a Memory,
    buffers: &'a Memory,
    completed: u32,
    pool: Pool<'a>,
    held: Vec<Segment>,
}

impl<'a> Bench<'a> {
    fn new(ring: &'a Memory, buffers: &'a Memory, words: &'a mut [u32]) -> Self {
        let bench = Self {
            ring,
            buffers,
            completed: 0,
            pool: buffers.pool(words),
            held: Vec::new(),
        };
        bench.say_all_buffers(1);
        bench
    }

    fn say_all_buffers(&self, count: u16) {
        for buffer in 0..usize::from(LAYOUT.count) {
            self.say_buffers(buffer, count);
        }
    }

    fn say_buffers(&self, buffer: usize, count: u16) {
        let frame = buffer * LAYOUT.stride as usize + LAYOUT.headroom as usize;
        self.buffers.store16(frame - 2, count);
    }

    /// What the device does, or the application on its own.
    fn step<'f, F: Wire<'f>>(&mut self, step: &Step) {
        let at = self.completed;
        match *step {
            Step::Complete { len } => {
                F::say(self.ring, at, at % N as u32, len);
                self.completed += 1;
                F::count(self.ring, self.completed);
            }
            Step::Say { ahead, id, len } => {
                F::say(self.ring, at + ahead, id, len);
                self.completed += u32::from(ahead == 0);
                F::count(self.ring, self.completed);
            }
            Step::Jump(count) => F::count(self.ring, at + count),
            Step::Write { word, value } => self.ring.0[word].store(value, Relaxed),
            Step::Buffers { buffer, count } => self.say_buffers(buffer, count),
            Step::AllBuffers(count) => self.say_all_buffers(count),
            Step::Return => {
                for segment in self.held.drain(..) {
                    self.pool.put(segment);
                }
            }
            Step::Poll(_) | Step::Offer(_) => {}
        }
    }

    /// Takes what a poll returned, and looks at every byte of it.
    fn hold(&mut self, mut frames: SegmentList<'_>) {
        while let Some(segment) = frames.pop() {
            let bytes = self.pool.arena().bytes(&segment);
            assert!(bytes.len() <= CAPACITY + HEADER);
            drop(bytes.to_vec());
            assert!(
                self.held.iter().all(|held| held.index() != segment.index()),
                "buffer {} was given out twice",
                segment.index()
            );
            self.held.push(segment);
        }
    }

    /// That every buffer is there once, where no queue has any.
    fn settle(mut self) {
        let mut seen = [false; LAYOUT.count as usize];
        let free = core::iter::from_fn(|| self.pool.take());
        for segment in free.chain(self.held.drain(..)) {
            let was_seen = core::mem::replace(&mut seen[usize::from(segment.index())], true);
            assert!(!was_seen, "buffer {} is there twice", segment.index());
        }
        assert_eq!(seen, [true; LAYOUT.count as usize], "a buffer was lost");
    }
}

fn receive<'a, F: Wire<'a>>(ring: &'a Memory, steps: &[Step], options: (Order, Spread)) {
    let buffers = Memory::new();
    let mut words = [0; LAYOUT.count as usize];
    let mut bench = Bench::new(ring, &buffers, &mut words);
    let mut rx = Receiver::<_, _, N>::new(F::make(ring), Unheard, &LAYOUT, options).unwrap();
    rx.arm(&mut bench.pool);
    for step in steps {
        bench.step::<F>(step);
        match *step {
            Step::Poll(budget) => {
                let mut words = [0; 32];
                let mut frames = SegmentList::new(&mut words);
                let taken = rx.poll(&mut bench.pool, &mut frames, budget);
                assert!(taken.is_ok_and(|taken| taken <= budget) || is_protocol(taken));
                bench.hold(frames);
            }
            Step::Offer(_) => {
                rx.arm(&mut bench.pool);
            }
            _ => {}
        }
    }
    let Unheard = rx.dismantle(&mut bench.pool);
    bench.settle();
}

fn send<'a, F: Wire<'a>>(ring: &'a Memory, steps: &[Step], order: Order) {
    let buffers = Memory::new();
    let mut words = [0; LAYOUT.count as usize];
    let mut bench = Bench::new(ring, &buffers, &mut words);
    let options = (order, HeaderSource::Queue);
    let arena = bench.pool.arena().again();
    let mut tx = Sender::<_, _, N>::new(F::make(ring), Unheard, arena, options).unwrap();
    for step in steps {
        bench.step::<F>(step);
        match *step {
            Step::Poll(_) => {
                let reclaimed = tx.reclaim(&mut bench.pool);
                assert!(reclaimed.is_ok_and(|count| count <= N) || is_protocol(reclaimed));
            }
            Step::Offer(parts) if bench.pool.free() >= parts => {
                let mut words = [0; 4];
                let mut frames = SegmentList::new(&mut words);
                for part in 1..=parts {
                    let segment = bench.pool.take().unwrap().with_len(60);
                    frames.push(segment.with_more(part < parts)).unwrap();
                }
                assert!(tx.submit(&mut frames).unwrap() <= 1);
                frames.clear_into(&mut bench.pool);
            }
            _ => {}
        }
    }
    let Unheard = tx.dismantle(&mut bench.pool);
    bench.settle();
}

fn is_protocol(result: Result<usize, RingError>) -> bool {
    result.is_err_and(|error| error.kind() == ErrorKind::Protocol)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_receiver_is_not_fooled(
        steps in prop::collection::vec(step(), 1..150),
        is_packed: bool,
        in_order: bool,
        merged: bool,
    ) {
        let order = if in_order { Order::InOrder } else { Order::Any };
        let spread = if merged { Spread::Merged } else { Spread::Single };
        let ring = Memory::new();
        if is_packed {
            receive::<Packed<'_, N>>(&ring, &steps, (order, spread));
        } else {
            receive::<Split<'_, N>>(&ring, &steps, (order, spread));
        }
    }

    #[test]
    fn a_sender_is_not_fooled(
        steps in prop::collection::vec(step(), 1..150),
        is_packed: bool,
        in_order: bool,
    ) {
        let order = if in_order { Order::InOrder } else { Order::Any };
        let ring = Memory::new();
        if is_packed {
            send::<Packed<'_, N>>(&ring, &steps, order);
        } else {
            send::<Split<'_, N>>(&ring, &steps, order);
        }
    }
}

/// What a queue of `F` with everything armed says of one completion.
fn verdict<'a, F: Wire<'a>>(ring: &'a Memory, said: &[(u32, u32)], buffers: u16) -> RingError {
    let memory = Memory::new();
    let mut words = [0; LAYOUT.count as usize];
    let mut bench = Bench::new(ring, &memory, &mut words);
    let options = (Order::Any, Spread::Merged);
    let mut rx = Receiver::<_, _, N>::new(F::make(ring), Unheard, &LAYOUT, options).unwrap();
    assert_eq!(rx.arm(&mut bench.pool), N);
    bench.say_all_buffers(buffers);
    for (at, &(id, len)) in (0..).zip(said) {
        F::say(ring, at, id, len);
    }
    F::count(ring, said.len() as u32);
    let mut words = [0; 32];
    let mut frames = SegmentList::new(&mut words);
    rx.poll(&mut bench.pool, &mut frames, 32).unwrap_err()
}

/// The shapes of descriptor bugs that other drivers had, each with the error that says so.
#[test]
fn each_lie_has_its_name() {
    let all = |said: &[(u32, u32)], buffers, error: RingError| {
        assert_eq!(
            verdict::<Split<'_, N>>(&Memory::new(), said, buffers),
            error
        );
        assert_eq!(
            verdict::<Packed<'_, N>>(&Memory::new(), said, buffers),
            error
        );
    };
    let posted = (CAPACITY + HEADER) as u32;
    all(&[(8, 60)], 1, RingError::Id(8));
    all(&[(65535, 60)], 1, RingError::Id(65535));
    all(&[(3, 60), (3, 60)], 1, RingError::Id(3));
    for len in [0, 11, 12, posted + 1, u32::MAX] {
        all(&[(0, len)], 1, RingError::Length { len, posted });
    }
    for count in [0, 9, 65535] {
        all(&[(0, 60)], count, RingError::BufferCount(count));
    }
    all(&[(0, 60)], 2, RingError::BufferCount(2));
    let ring = Memory::new();
    let jump = RingError::IndexJump {
        claimed: 9,
        outstanding: 8,
    };
    assert_eq!(verdict::<Split<'_, N>>(&ring, &[(0, 60); 9], 1), jump);
}
