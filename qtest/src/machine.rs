use std::{
    cell::RefCell,
    env,
    fs::File,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    rc::Rc,
    time::Duration,
};

use embedded_hal::delay::DelayNs;
use parakernel_core::mmio::{Registers, Width};

use crate::Memory;

/// Names a QEMU with the `qtest` accelerator: the program and, on lines of their own, its first arguments. The packages of
/// newer distributions have it.
const QEMU: &str = "PARAKERNEL_QTEST_QEMU";

/// A machine that runs.
#[derive(Debug)]
pub struct Machine {
    all: Part,
}

impl Machine {
    /// Starts a QEMU with this `-machine` and these further arguments, whose memory is `memory`.
    ///
    /// # Panics
    ///
    /// Where there is no QEMU for this.
    #[must_use]
    pub fn start(memory: &Memory, machine: &str, arguments: &[&str]) -> Self {
        let qemu = env::var(QEMU).unwrap_or_else(|_| {
            panic!(
                "{QEMU} has to name a QEMU with the qtest accelerator, as `cargo xtask test --full --only qtest` does"
            )
        });
        let backend = format!(
            "memory-backend-file,id=mem,share=on,size={},mem-path={}",
            Memory::LEN,
            memory.path("memory").display()
        );
        let mut words = qemu.lines();
        let mut child = Command::new(words.next().unwrap_or_default())
            .args(words)
            .args(["-nodefaults", "-display", "none", "-accel", "qtest"])
            .args(["-qtest", "stdio", "-qtest-log", "none"])
            .args(["-machine", &format!("{machine},memory-backend=mem")])
            .args(["-m", &format!("{}M", Memory::LEN >> 20)])
            .args(["-object", &backend])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(memory.path("errors")).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("{QEMU}: {error}"));
        let commands = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let link = Link {
            child,
            commands,
            answers,
        };
        let all = Part {
            link: Rc::new(RefCell::new(link)),
            base: 0,
            len: usize::MAX,
        };
        Self { all }
    }

    /// `len` bytes of the machine's addresses from `base` on.
    #[must_use]
    pub fn part(&self, base: u64, len: usize) -> Part {
        Part {
            base,
            len,
            ..self.all.clone()
        }
    }

    /// The configuration space of a PCI device on bus 0.
    #[must_use]
    pub fn config_space(&self, device: u8) -> ConfigSpace {
        ConfigSpace {
            ports: self.all.clone(),
            device: u32::from(device) << 11,
        }
    }

    /// The machine's time, which passes while somebody waits.
    #[must_use]
    pub fn clock(&self) -> Part {
        self.all.clone()
    }
}

#[derive(Debug)]
struct Link {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Drop for Link {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Link {
    fn ask(&mut self, command: &str) -> u64 {
        writeln!(self.commands, "{command}").unwrap();
        let mut line = String::new();
        loop {
            line.clear();
            let len = self.answers.read_line(&mut line).unwrap();
            assert!(len > 0, "QEMU ended at {command}");
            // Interrupts are reported in between.
            if let Some(rest) = line.strip_prefix("OK") {
                let number = rest.trim().trim_start_matches("0x");
                return u64::from_str_radix(number, 16).unwrap_or(0);
            }
            assert!(line.starts_with("IRQ"), "{command}: {line}");
        }
    }
}

/// Registers of the machine, from an address on. Clones are the same.
#[derive(Clone, Debug)]
pub struct Part {
    link: Rc<RefCell<Link>>,
    base: u64,
    len: usize,
}

impl Part {
    fn ask(&self, command: &str) -> u64 {
        self.link.borrow_mut().ask(command)
    }

    /// A part of the part.
    #[must_use]
    pub fn part(&self, offset: usize, len: usize) -> Self {
        Self {
            base: self.base + offset as u64,
            len,
            ..self.clone()
        }
    }

    /// Lets the machine's time pass.
    pub fn step(&self, nanoseconds: u64) {
        self.ask(&format!("clock_step {nanoseconds}"));
    }
}

impl Registers for Part {
    fn read(&self, offset: usize, width: Width) -> u64 {
        let at = self.base + offset as u64;
        self.ask(&format!("read{} {at:#x}", letter(width)))
    }

    fn write(&self, offset: usize, width: Width, value: u64) {
        let at = self.base + offset as u64;
        self.ask(&format!("write{} {at:#x} {value:#x}", letter(width)));
    }

    fn len(&self) -> usize {
        self.len
    }
}

/// Lets the devices work: QEMU does that in its own time too, between two commands.
impl DelayNs for Part {
    fn delay_ns(&mut self, ns: u32) {
        self.step(ns.into());
        std::thread::sleep(Duration::from_nanos(ns.into()));
    }
}

const fn letter(width: Width) -> char {
    match width {
        Width::U8 => 'b',
        Width::U16 => 'w',
        Width::U32 => 'l',
        Width::U64 => 'q',
    }
}

/// A PCI device's configuration space, through the two ports.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    ports: Part,
    device: u32,
}

impl ConfigSpace {
    /// Places the memory BAR whose register is `register`, which may have 64 bits, at `address` below 4 GiB; switches
    /// memory and bus mastering on.
    pub fn place(&self, register: usize, address: u32) {
        self.write32(register, address);
        self.write32(register + 4, 0);
        self.write16(0x04, 6);
    }

    fn select(&self, offset: usize) {
        let register = u32::try_from(offset & 0xFC).unwrap();
        let address = 0x8000_0000 | self.device | register;
        self.ports.ask(&format!("outl 0xcf8 {address:#x}"));
    }
}

impl Registers for ConfigSpace {
    fn read(&self, offset: usize, width: Width) -> u64 {
        self.select(offset);
        let port = 0xCFC + offset % 4;
        self.ports.ask(&format!("in{} {port:#x}", letter(width)))
    }

    fn write(&self, offset: usize, width: Width, value: u64) {
        self.select(offset);
        let port = 0xCFC + offset % 4;
        self.ports
            .ask(&format!("out{} {port:#x} {value:#x}", letter(width)));
    }

    fn len(&self) -> usize {
        256
    }
}
