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
use core::ptr;

use kernel_abi::{Call, EVENT_KERNEL, Error, INFO_ADDRESS, Info, LOG_MAX};

global_asm!(".globl _start", "_start:", "jmp {main}", main = sym main, options(att_syntax));

extern "sysv64" fn main() -> ! {
    let info = info();
    let good = match info.argument() {
        "exit" => true,
        "log" => log(),
        "info" => info.version == 1 && info.core > 0 && info.tsc_hz > 1_000_000,
        "sse" => sse(),
        "wild-pointers" => wild_pointers(),
        "unknown-call" => call(1000, [0; 4]) == Error::UnknownCall.code(),
        "wait" => wait(),
        other => misbehave(other),
    };
    exit(u64::from(!good))
}

fn info() -> &'static Info {
    let info = ptr::with_exposed_provenance::<Info>(INFO_ADDRESS as usize);
    // SAFETY: the kernel maps the page before the process starts and never changes it.
    unsafe { &*info }
}

fn log() -> bool {
    let text = "a probe speaks";
    let long = [b'x'; LOG_MAX + 1];
    call(
        Call::Log as u64,
        [text.as_ptr().addr() as u64, text.len() as u64, 0, 0],
    ) == 0
        && call(
            Call::Log as u64,
            [long.as_ptr().addr() as u64, long.len() as u64, 0, 0],
        ) == Error::BadArgument.code()
        && call(Call::Log as u64, ["\nPASS".as_ptr().addr() as u64, 5, 0, 0])
            == Error::BadArgument.code()
}

/// Vector registers keep their values while interrupts come and go.
fn sse() -> bool {
    let start = timestamp();
    let mut low = 1.0_f64;
    while timestamp() - start < info().tsc_hz / 100 {
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

fn wild_pointers() -> bool {
    let code = (main as extern "sysv64" fn() -> !) as usize as u64;
    let wild = [
        0,
        8,
        0xffff,
        0x3000_0000,
        INFO_ADDRESS + 4090,
        0x7fff_ffff_fff0,
        1 << 47,
        u64::MAX - 3,
        0xffff_8000_0010_0000,
        0xffff_ffff_8010_0000,
    ];
    wild.iter().all(|pointer| {
        call(Call::Log as u64, [*pointer, 16, 0, 0]) == Error::BadAddress.code()
            && call(Call::Request as u64, [*pointer, 0, 0, 0]) == Error::BadAddress.code()
    }) && call(Call::Log as u64, [code, u64::MAX, 0, 0]) == Error::BadArgument.code()
        && call(Call::Submit as u64, [7, 0, 0, 0]) == Error::UnknownLease.code()
}

fn wait() -> bool {
    let tick = info().tsc_hz / 1000;
    let deadline = timestamp() + 5 * tick;
    let events = call(Call::Wait as u64, [deadline, 0, 0, 0]);
    let slept = timestamp() >= deadline;
    (events == 0 && slept) || events == EVENT_KERNEL
}

/// Does what must end the process; whatever comes back is wrong.
fn misbehave(what: &str) -> bool {
    let kernel = ptr::with_exposed_provenance::<u8>(0xffff_ffff_8010_0000);
    let code = ptr::with_exposed_provenance_mut::<u8>((main as extern "sysv64" fn() -> !) as usize);
    match what {
        // SAFETY: none; the kernel must stop this one and the others here.
        "read-kernel" => _ = unsafe { kernel.read_volatile() },
        // SAFETY: as above.
        "write-code" => unsafe { code.write_volatile(0) },
        // SAFETY: as above.
        "write-info" => unsafe {
            ptr::with_exposed_provenance_mut::<u8>(INFO_ADDRESS as usize).write_volatile(0)
        },
        // SAFETY: as above.
        "run-data" => unsafe { asm!("push 0xc3", "call rsp", "pop rax") },
        // SAFETY: as above.
        "null" => unsafe { asm!("mov rax, [0]", out("rax") _) },
        "overflow" => _ = overflow(1),
        // SAFETY: as above.
        "divide" => unsafe {
            asm!("div {0:e}", in(reg) 0, inout("eax") 1 => _, inout("edx") 0 => _)
        },
        // SAFETY: as above.
        "privileged" => unsafe { asm!("cli") },
        // SAFETY: as above.
        "illegal" => unsafe { asm!("ud2") },
        "spin" => loop {
            core::hint::spin_loop();
        },
        _ => {}
    }
    false
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
    call(Call::Exit as u64, [code, 0, 0, 0]);
    loop {
        core::hint::spin_loop();
    }
}

fn call(number: u64, [a, b, c, d]: [u64; 4]) -> u64 {
    let result;
    // SAFETY: the kernel checks every argument; it keeps all registers but those named here.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
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
