//! A QEMU without a guest: this process plays the CPU through the `qtest` protocol, and shares the machine's memory.

use alloc::rc::Rc;
use core::{cell::RefCell, ptr::NonNull, time::Duration};
use std::{
    env,
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use parakernel_core::{
    address::{BusAddress, Iova},
    memory::{BlockArena, DmaBlock, PAGE_SIZE, SharedMemory},
    mmio::{Registers, Width},
};
use vm_memory::{FileOffset, MmapRegion};

/// Names a QEMU with the `qtest` accelerator: the program and, on lines of their own, its first arguments. The packages of
/// newer distributions have it; `cargo xtask test --full` fetches one.
const QEMU: &str = "PARAKERNEL_QTEST_QEMU";

/// Bytes of the machine's one disk.
pub(crate) const DISK: u64 = 64 << 20;
/// Bytes of the machine's memory.
const MEMORY: usize = 64 << 20;
/// Where the machine is told to find BAR 0: above its memory, below the APICs.
const BAR: u64 = 0xe000_0000;
/// Device 4 on bus 0.
const DEVICE: u32 = 4 << 11;

/// The machine's memory, shared with QEMU through a file; handed out from address 1 MiB on.
pub(crate) struct Memory {
    region: MmapRegion,
    next: RefCell<usize>,
    path: PathBuf,
}

impl Drop for Memory {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
        drop(fs::remove_file(self.disk()));
    }
}

impl Memory {
    /// Where the disk's bytes are.
    pub(crate) fn disk(&self) -> PathBuf {
        self.path.with_extension("img")
    }

    pub(crate) fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("parakernel-nvme-{}-{name}", std::process::id()));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .unwrap();
        file.set_len(MEMORY as u64).unwrap();
        let region = MmapRegion::from_file(FileOffset::new(file, 0), MEMORY).unwrap();
        Self {
            region,
            next: RefCell::new(1 << 20),
            path,
        }
    }

    fn take(&self, len: usize) -> (NonNull<u8>, u64) {
        let len = len.next_multiple_of(PAGE_SIZE);
        let offset = self.next.replace_with(|next| *next + len);
        assert!(offset + len <= MEMORY, "the machine is out of memory");
        // SAFETY: inside the mapping.
        let place = unsafe { self.region.as_ptr().add(offset) };
        (NonNull::new(place).unwrap(), offset as u64)
    }

    /// Fresh memory for a control half.
    pub(crate) fn block(&self, len: usize) -> DmaBlock<'_> {
        let (place, bus) = self.take(len);
        // SAFETY: mapped as long as `self` lives, zeroed, and handed out once.
        let shared = unsafe { SharedMemory::new(place, len) };
        // SAFETY: the machine's memory starts at address 0 and is what the region shows.
        unsafe { DmaBlock::new(shared, BusAddress::new(bus)) }
    }

    /// Fresh buffers.
    pub(crate) fn arena(&self, count: usize, buffer_len: usize) -> BlockArena<'_> {
        let len = count * buffer_len;
        let (place, bus) = self.take(len);
        // SAFETY: as in `block`; without an IOMMU the bus address is the I/O address.
        unsafe { BlockArena::new(place, len, Iova::new(bus), buffer_len) }.unwrap()
    }
}

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
            assert!(
                self.answers.read_line(&mut line).unwrap() > 0,
                "QEMU ended at {command}"
            );
            // Interrupts are reported in between.
            if let Some(rest) = line.strip_prefix("OK") {
                let number = rest.trim().trim_start_matches("0x");
                return u64::from_str_radix(number, 16).unwrap_or(0);
            }
            assert!(line.starts_with("IRQ"), "{command}: {line}");
        }
    }
}

/// BAR 0 of the machine's NVMe controller. Clones are the same.
#[derive(Clone)]
pub(crate) struct Bar(Rc<RefCell<Link>>);

impl Registers for Bar {
    fn read(&self, offset: usize, width: Width) -> u64 {
        self.ask(&format!("read{} {:#x}", letter(width), BAR + offset as u64))
    }

    fn write(&self, offset: usize, width: Width, value: u64) {
        self.ask(&format!(
            "write{} {:#x} {value:#x}",
            letter(width),
            BAR + offset as u64
        ));
    }

    fn len(&self) -> usize {
        1 << 20
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

impl Bar {
    fn ask(&self, command: &str) -> u64 {
        self.0.borrow_mut().ask(command)
    }

    /// Lets the machine's time pass.
    pub(crate) fn step(&self, nanoseconds: u64) {
        self.ask(&format!("clock_step {nanoseconds}"));
    }

    fn write_config(&self, register: u32, value: u32) {
        self.ask(&format!(
            "outl 0xcf8 {:#x}",
            0x8000_0000 | DEVICE | register
        ));
        self.ask(&format!("outl 0xcfc {value:#x}"));
    }
}

impl embedded_hal::delay::DelayNs for Bar {
    fn delay_ns(&mut self, ns: u32) {
        self.step(ns.into());
        // The controller works in QEMU's own time too.
        std::thread::sleep(Duration::from_nanos(ns.into()));
    }
}

/// Starts a QEMU with `memory`, a drive `disk` and the given devices, of which an `nvme` must be at address 4; `None`,
/// with the reason printed, where there is no QEMU for this.
pub(crate) fn start(memory: &Memory, devices: &[&str]) -> Option<(Bar, Errors)> {
    let Ok(qemu) = env::var(QEMU) else {
        println!("skipped: {QEMU} does not name a QEMU with the qtest accelerator");
        return None;
    };
    let errors = Errors(memory.path.with_extension("err"));
    let disk = memory.disk();
    File::create(&disk)
        .and_then(|file| file.set_len(DISK))
        .unwrap();
    let drive = format!(
        "if=none,id=disk,format=raw,file={},discard=unmap,detect-zeroes=unmap",
        disk.display()
    );
    let backend = format!(
        "memory-backend-file,id=mem,share=on,size={MEMORY},mem-path={}",
        memory.path.display()
    );
    let mut words = qemu.lines();
    let mut child = Command::new(words.next().unwrap_or_default())
        .args(words)
        .args([
            "-nodefaults",
            "-display",
            "none",
            "-accel",
            "qtest",
            "-qtest",
            "stdio",
            "-qtest-log",
            "none",
        ])
        .args([
            "-machine",
            "q35,memory-backend=mem",
            "-m",
            &format!("{}M", MEMORY >> 20),
            "-object",
            &backend,
        ])
        .args(["-trace", "pci_nvme_ub*", "-trace", "pci_nvme_err*"])
        .args(["-drive", &drive])
        .args(devices)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(File::create(&errors.0).unwrap())
        .spawn()
        .unwrap_or_else(|error| panic!("{QEMU}: {error}"));
    let (commands, answers) = (
        child.stdin.take().unwrap(),
        BufReader::new(child.stdout.take().unwrap()),
    );
    let bar = Bar(Rc::new(RefCell::new(Link {
        child,
        commands,
        answers,
    })));
    bar.write_config(0x10, u32::try_from(BAR).unwrap());
    bar.write_config(0x14, 0);
    // Memory space and bus master.
    bar.write_config(0x04, 0x6);
    Some((bar, errors))
}

/// What QEMU complained about: undefined behaviour and errors that its controller traced.
pub(crate) struct Errors(PathBuf);

impl Errors {
    pub(crate) fn read(&self) -> String {
        fs::read_to_string(&self.0).unwrap()
    }
}

impl Drop for Errors {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}
