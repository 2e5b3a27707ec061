//! The two serial ports: COM1 for plain text, COM2 for `defmt` frames.
#![expect(unsafe_code, reason = "drives the serial ports' registers")]

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use uart_16550::backend::PioBackend;
use uart_16550::{Config, Uart16550};

/// Most polls for a byte to leave; at 115200 baud it takes 87 us, less than this many port reads.
const SEND_POLLS_MAX: u32 = 10_000;
/// A port that one core at a time uses.
pub(crate) struct Port {
    base: u16,
    busy: AtomicBool,
}

/// Plain text.
pub(crate) static COM1: Port = Port::new(0x3f8);
/// `defmt` frames.
pub(crate) static COM2: Port = Port::new(0x2f8);

impl Port {
    const fn new(base: u16) -> Self {
        Self {
            base,
            busy: AtomicBool::new(false),
        }
    }

    /// Sets the port up; to be called once for each, before it is used.
    pub(crate) fn init(&self) {
        // A port that is not there swallows bytes, which is the best to be done about it.
        let _absent = self.uart().init(Config::default()).is_err();
    }

    /// Keeps other cores out until [`release`](Self::release); waits for them.
    ///
    /// Whoever holds the port lets go soon: kernel code is not interrupted, a line is short, and a byte that the port does not
    /// take is dropped. A core that is stopped while it holds the port never lets go; that happens only when another panics,
    /// which [takes](Self::take_for_good) the port and ends the machine, and stops whoever waits here.
    pub(crate) fn acquire(&self) {
        while self.busy.swap(true, Ordering::Acquire) {
            while self.busy.load(Ordering::Relaxed) {
                core::hint::spin_loop();
            }
        }
    }

    /// Takes the port from whoever holds it, for the last words: all other cores are stopped or about to be, and nobody lets go of
    /// it any more. What may be lost is the end of another core's line, nothing in memory: what a port protects besides itself is
    /// not looked at again.
    pub(crate) fn take_for_good(&self) {
        self.busy.store(true, Ordering::Relaxed);
    }

    /// Lets other cores in.
    pub(crate) fn release(&self) {
        self.busy.store(false, Ordering::Release);
    }

    /// Sends `bytes`; drops what the port does not take in time. To be called between `acquire` and `release`.
    pub(crate) fn send(&self, bytes: &[u8]) {
        let mut uart = self.uart();
        for byte in bytes {
            let _dropped = (0..SEND_POLLS_MAX).all(|_| uart.try_send_byte(*byte).is_err());
        }
    }

    /// A byte that the other side has sent, if there is one.
    pub(crate) fn receive(&self) -> Option<u8> {
        self.uart().try_receive_byte().ok()
    }

    fn uart(&self) -> Uart16550<PioBackend> {
        // SAFETY: the ports are those of a PC's first two serial ports, which touch no memory. `acquire` keeps other cores out, but
        // for one that panics, at which lines may mix.
        let uart = unsafe { Uart16550::new_port(self.base) };
        match uart {
            Ok(uart) => uart,
            // The two bases above do not overflow the port space.
            Err(_) => crate::arch::cpu::stop(),
        }
    }
}

/// Writes text to COM1 as part of a line that is held.
struct Text;

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        COM1.send(text.as_bytes());
        Ok(())
    }
}

/// Prints to COM1 without a break by another core.
pub(crate) fn print(arguments: fmt::Arguments<'_>) {
    COM1.acquire();
    // `Text` never fails; an argument's formatter that does has already shown what it could.
    let _incomplete = Text.write_fmt(arguments).is_err();
    COM1.release();
}

/// Prints the last words to COM1, whoever else is in the middle of a line.
pub(crate) fn print_last(arguments: fmt::Arguments<'_>) {
    COM1.take_for_good();
    let _incomplete = Text.write_fmt(arguments).is_err();
}

/// Prints to COM1 like `print!` does to standard output.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => {
        $crate::serial::print(format_args!($($argument)*))
    };
}
