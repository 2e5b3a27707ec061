//! A process that does what the kernel's self-test tells it to, mostly wrong things.
//!
//! It exits with 0 if the kernel answered as it must, with 1 if not; the wrong things must not let it get that far.

#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "does what the kernel must not let pass")]

// Defines what the compiler expects of a C library.
use freestanding as _;

use core::arch::{asm, global_asm};
use core::panic::PanicInfo;
use core::ptr::{self, NonNull};

use parakernel_core::abi::{
    Call, CallError, LOG_MAX, MESSAGE_WORDS, Message, OutcomeRing, ProcessInfo, VERSION,
};
use parakernel_core::memory::SharedMemory;
use parakernel_core::ring::Position;

global_asm!(".globl _start", "_start:", "jmp {main}", main = sym main, options(att_syntax));

unsafe extern "sysv64" {
    static _start: u8;
}

extern "sysv64" fn main(info: &'static ProcessInfo) -> ! {
    let good = match arguments(info) {
        "exit" => true,
        "log" => log(),
        "info" => info.version == VERSION && info.core > 0 && info.tsc_hz > 1_000_000,
        "sse" => sse(info),
        "wild-pointers" => wild_pointers(info),
        "unknown-call" => call(1000, 0, 0) == CallError::UnknownCall as u64,
        "wait" => wait(info),
        "request" => request(info),
        "interrupt" => interrupt(info),
        "memory" => memory(info),
        "touch-revoked" => touch_revoked(info),
        other => misbehave(other, info),
    };
    exit(u64::from(!good))
}

fn arguments(info: &ProcessInfo) -> &'static str {
    let start = ptr::with_exposed_provenance(native(info.arguments));
    // SAFETY: the kernel maps the arguments before the process starts and never changes them.
    let bytes = unsafe { core::slice::from_raw_parts(start, info.arguments_len as usize) };
    let text = core::str::from_utf8(bytes).unwrap_or("");
    // A process of the manifest is told who it is first.
    text.rsplit(' ').next().unwrap_or("")
}

/// An address as this processor has it.
#[expect(clippy::cast_possible_truncation, reason = "both have 64 bits")]
const fn native(address: u64) -> usize {
    address as usize
}

/// Nanoseconds on the kernel's clock.
fn now(info: &ProcessInfo) -> u64 {
    let ticks = u128::from(timestamp() - info.tsc_start);
    u64::try_from(ticks * 1_000_000_000 / u128::from(info.tsc_hz)).unwrap_or(u64::MAX)
}

/// A request comes back as an outcome, through the ring.
fn request(info: &ProcessInfo) -> bool {
    let Some(base) = NonNull::new(ptr::with_exposed_provenance_mut(native(info.outcomes))) else {
        return false;
    };
    // SAFETY: the kernel maps the ring before the process starts, and only the ring views it.
    let memory = unsafe { SharedMemory::new(base, OutcomeRing::bytes(info.outcome_entries)) };
    let Some(ring) = OutcomeRing::new(memory, info.outcome_entries) else {
        return false;
    };
    let mut consumed = Position::START;
    (0..100_u64).all(|round| {
        let sent = Message {
            words: [round; MESSAGE_WORDS],
        };
        let accepted = call(Call::Request as u64, (&raw const sent).addr() as u64, 0);
        let mut got = None;
        // Ten seconds in all: the kernel answers at once, but emulated cores share few real ones.
        for _ in 0..10_000 {
            got = ring.consume(consumed);
            if got.is_some() {
                break;
            }
            call(Call::Wait as u64, now(info) + 1_000_000, 0);
        }
        consumed = consumed.after();
        accepted == 0 && got == Some(sent)
    })
}

fn log() -> bool {
    let say = |text: &[u8]| {
        call(
            Call::Log as u64,
            text.as_ptr().addr() as u64,
            text.len() as u64,
        )
    };
    let bad = CallError::BadArgument as u64;
    say(b"a probe speaks") == 0
        && say(&[b'x'; LOG_MAX + 1]) == bad
        && say(b"\nPASS") == bad
        && say(b"\xff") == bad
}

/// Vector registers keep their values while interrupts come and go.
fn sse(info: &ProcessInfo) -> bool {
    let start = timestamp();
    let mut low = 1.0_f64;
    while timestamp() - start < info.tsc_hz / 100 {
        let value = 0x0123_4567_89ab_cdef_u64;
        let mut back: u64;
        // SAFETY: only registers are used, and said so.
        unsafe {
            asm!(
                "movq xmm7, {value}",
                "mov {count}, 1000",
                "2: pause",
                "dec {count}",
                "jnz 2b",
                "movq {back}, xmm7",
                value = in(reg) value,
                count = out(reg) _,
                back = out(reg) back,
                out("xmm7") _,
                options(nomem, nostack)
            );
        }
        low *= 1.0 + f64::from(u8::from(back != value));
    }
    low == 1.0
}

fn wild_pointers(info: &ProcessInfo) -> bool {
    let here = ptr::from_ref(info).addr() as u64;
    let wild = [
        0,
        8,
        0xffff,
        0x3000_0000,
        here + 4090,
        0x7fff_ffff_fff0,
        1 << 47,
        u64::MAX - 3,
        0xffff_8000_0010_0000,
        0xffff_ffff_8010_0000,
    ];
    let bad = CallError::BadPointer as u64;
    wild.iter().all(|at| {
        call(Call::Log as u64, *at, 16) == bad && call(Call::Request as u64, *at, 0) == bad
    }) && call(Call::Log as u64, here, u64::MAX) == CallError::BadArgument as u64
        && call(Call::Submit as u64, 7, 0) == CallError::BadLease as u64
}

/// A deadline ends the wait, and not too early.
fn wait(info: &ProcessInfo) -> bool {
    let deadline = now(info) + 5_000_000;
    call(Call::Wait as u64, deadline, 0) == 0 && now(info) >= deadline
}

/// An interrupt ends the wait long before the deadline.
fn interrupt(info: &ProcessInfo) -> bool {
    let start = now(info);
    ask_and_wait(info, 20);
    now(info) < start + 15_000_000_000
}

/// Memory that the kernel gives is zeroed, writable, and its own in each page; system calls reach all of it.
fn memory(info: &ProcessInfo) -> bool {
    const START: usize = 0x4000_0000;
    const LEN: usize = 5 << 20;
    const PAGE: usize = 4096;
    ask_and_wait(info, 20);
    let word = |page: usize| ptr::with_exposed_provenance_mut::<u64>(START + page * PAGE);
    let pages = 0..LEN / PAGE;
    // SAFETY: the kernel has given the range to this process alone.
    let is_zeroed = pages
        .clone()
        .all(|page| unsafe { word(page).read_volatile() } == 0);
    for page in pages.clone() {
        // SAFETY: as above.
        unsafe { word(page).write_volatile(page as u64) };
    }
    // SAFETY: as above.
    let is_kept = pages
        .clone()
        .all(|page| unsafe { word(page).read_volatile() } == page as u64);
    // Zero bytes are text, but control characters: the kernel has read them, across pages of both sizes, and refuses
    // them.
    let crosses = [(4 << 20) - 100, (2 << 20) - 100, 4096 - 100];
    let is_read = crosses.iter().all(|at| {
        call(Call::Log as u64, (START + at) as u64, 200) == CallError::BadArgument as u64
    });
    let is_bounded =
        call(Call::Log as u64, (START + LEN - 100) as u64, 200) == CallError::BadPointer as u64;
    is_zeroed && is_kept && is_read && is_bounded
}

/// Sends a request and waits for the outcome, at most as many seconds.
fn ask_and_wait(info: &ProcessInfo, seconds: u64) {
    let ready = Message::default();
    call(Call::Request as u64, (&raw const ready).addr() as u64, 0);
    call(Call::Wait as u64, now(info) + seconds * 1_000_000_000, 0);
}

/// Reads a page that the kernel gives and takes away again.
fn touch_revoked(info: &ProcessInfo) -> bool {
    const CONTENT: u64 = 0x5afe;
    let page = ptr::with_exposed_provenance::<u64>(0x2000_0000);
    ask_and_wait(info, 20);
    // SAFETY: none; the kernel takes the page away, which must end the process.
    while unsafe { page.read_volatile() } == CONTENT {}
    false
}

/// Does what must end the process; whatever comes back is wrong.
fn misbehave(what: &str, info: &ProcessInfo) -> bool {
    let kernel = ptr::with_exposed_provenance::<u8>(0xffff_ffff_8010_0000);
    let code = (&raw const _start).cast_mut();
    match what {
        // SAFETY: none; the kernel must stop this one and the others here.
        "read-kernel" => _ = unsafe { kernel.read_volatile() },
        // SAFETY: as above.
        "write-code" => unsafe { code.write_volatile(0) },
        // SAFETY: as above.
        "write-info" => unsafe {
            ptr::from_ref(info)
                .cast::<u8>()
                .cast_mut()
                .write_volatile(0);
        },
        // SAFETY: as above.
        "run-data" => unsafe { asm!("push 0xc3", "call rsp", "pop rax") },
        // SAFETY: as above.
        "null" => unsafe { asm!("mov rax, [0]", out("rax") _) },
        "overflow" => _ = overflow(1),
        // SAFETY: as above.
        "divide" => unsafe {
            asm!("div {0:e}", in(reg) 0, inout("eax") 1 => _, inout("edx") 0 => _);
        },
        // SAFETY: as above.
        "privileged" => unsafe { asm!("cli") },
        // SAFETY: as above.
        "illegal" => unsafe { asm!("ud2") },
        "spin" => spin(),
        // SAFETY: the flag, AC, means something only together with CR0.AM, which the kernel does not set.
        "spin-with-ac" => unsafe {
            asm!("pushfq", "or dword ptr [rsp], 0x40000", "popfq");
            spin()
        },
        _ => {}
    }
    false
}

fn spin() -> ! {
    loop {
        core::hint::spin_loop();
    }
}

/// Runs off the stack.
#[expect(unconditional_recursion, reason = "that is the point")]
fn overflow(depth: u64) -> u64 {
    let page = core::hint::black_box([depth; 512]);
    overflow(page[7] + 1) + page[3]
}

fn timestamp() -> u64 {
    // SAFETY: the kernel lets processes read the counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

fn exit(code: u64) -> ! {
    call(Call::Exit as u64, code, 0);
    loop {
        core::hint::spin_loop();
    }
}

fn call(number: u64, first: u64, second: u64) -> u64 {
    let result;
    // SAFETY: the kernel checks every argument; it keeps all registers but those named here.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") first,
            in("rsi") second,
            out("rcx") _,
            out("r11") _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            options(nostack)
        );
    }
    result
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    exit(2)
}
