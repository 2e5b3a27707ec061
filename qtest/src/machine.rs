//! A QEMU without a guest: this process plays the CPU through the `qtest` protocol, and shares the machine's memory.

use std::{
    cell::RefCell,
    env,
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    ptr::NonNull,
    rc::Rc,
    time::Duration,
};

use parakernel_core::{
    address::{BusAddress, Iova},
    memory::{Arena, ArenaLayout, DmaBlock, PAGE_SIZE, SharedMemory},
    mmio::{Registers, Width},
};
use vm_memory::{FileOffset, MmapRegion};

/// Names a QEMU with the `qtest` accelerator: the program and, on lines of their own, its first arguments. The packages of
/// newer distributions have it; `cargo xtask test --full` fetches one.
const QEMU: &str = "PARAKERNEL_QTEST_QEMU";
/// Bytes of the machine's memory.
const MEMORY: usize = 64 << 20;
/// Where a PCI machine is told to find BAR 4: above its memory, below the APICs.
const BAR: u64 = 0xE000_0000;
/// Device 4 on bus 0.
const DEVICE: u32 = 4 << 11;
/// The last of microvm's windows for virtio devices, which it fills from the end, and their length.
const WINDOW: u64 = 0xFEB0_0000;
const WINDOW_LEN: usize = 512;
const WINDOWS: u64 = 24;

/// Where the card is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Board {
    /// On PCI, of a `q35` machine.
    Q35,
    /// Memory-mapped, of a `microvm` machine.
    Microvm,
}

/// The files of one machine.
struct Files(PathBuf);

impl Files {
    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// The machine's memory, shared with QEMU through a file, handed out from address 1 MiB on; and the other end of its
/// network cable.
pub(crate) struct Outside {
    region: MmapRegion,
    next: RefCell<usize>,
    cable: UnixDatagram,
    files: Files,
}

impl Outside {
    pub(crate) fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("parakernel-net-{}-{name}", std::process::id()));
        drop(fs::remove_dir_all(&path));
        fs::create_dir(&path).unwrap();
        let files = Files(path);
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create_new(true);
        let file = options.open(files.path("memory")).unwrap();
        file.set_len(MEMORY as u64).unwrap();
        let region = MmapRegion::from_file(FileOffset::new(file, 0), MEMORY).unwrap();
        let cable = UnixDatagram::bind(files.path("here")).unwrap();
        cable
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        Self {
            region,
            next: RefCell::new(1 << 20),
            cable,
            files,
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
    pub(crate) fn arena(&self, layout: ArenaLayout) -> Arena<'_> {
        let (place, bus) = self.take(layout.bytes());
        // SAFETY: as in `block`; without an IOMMU the bus address is the I/O address.
        unsafe { Arena::new(place, Iova::new(bus), layout) }.unwrap()
    }

    /// Sends a frame to the card.
    pub(crate) fn send(&self, frame: &[u8]) {
        self.cable.send_to(frame, self.files.path("there")).unwrap();
    }

    /// Waits for a frame of the card's.
    pub(crate) fn receive(&self) -> Vec<u8> {
        let mut frame = vec![0; 16 << 10];
        let len = self.cable.recv(&mut frame).unwrap();
        frame.truncate(len);
        frame
    }

    /// What QEMU complained about.
    pub(crate) fn complaints(&self) -> String {
        fs::read_to_string(self.files.path("errors")).unwrap()
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
#[derive(Clone)]
pub(crate) struct Part {
    link: Rc<RefCell<Link>>,
    base: u64,
    len: usize,
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

const fn letter(width: Width) -> char {
    match width {
        Width::U8 => 'b',
        Width::U16 => 'w',
        Width::U32 => 'l',
        Width::U64 => 'q',
    }
}

impl Part {
    fn ask(&self, command: &str) -> u64 {
        self.link.borrow_mut().ask(command)
    }

    /// A part of the part.
    pub(crate) fn part(&self, offset: usize, len: usize) -> Self {
        Self {
            link: self.link.clone(),
            base: self.base + offset as u64,
            len,
        }
    }
}

/// The card's PCI configuration space, through the two ports.
pub(crate) struct ConfigSpace(Part);

impl Registers for ConfigSpace {
    fn read(&self, offset: usize, width: Width) -> u64 {
        self.select(offset);
        let port = 0xCFC + offset % 4;
        self.0.ask(&format!("in{} {port:#x}", letter(width)))
    }

    fn write(&self, offset: usize, width: Width, value: u64) {
        self.select(offset);
        let port = 0xCFC + offset % 4;
        self.0
            .ask(&format!("out{} {port:#x} {value:#x}", letter(width)));
    }

    fn len(&self) -> usize {
        256
    }
}

impl ConfigSpace {
    fn select(&self, offset: usize) {
        let address = 0x8000_0000 | DEVICE | (offset as u32 & 0xFC);
        self.0.ask(&format!("outl 0xcf8 {address:#x}"));
    }
}

/// Lets the card work: QEMU does that in its own time, between two commands.
#[derive(Clone)]
pub(crate) struct Clock(Part);

impl embedded_hal::delay::DelayNs for Clock {
    fn delay_ns(&mut self, ns: u32) {
        self.0.ask(&format!("clock_step {ns}"));
        std::thread::sleep(Duration::from_nanos(ns.into()));
    }
}

/// A machine that runs.
pub(crate) struct Machine {
    pub(crate) clock: Clock,
    /// All addresses.
    all: Part,
}

impl Machine {
    /// Starts a QEMU on `board` with a virtio-net card that has the options `card`; `None`, with the reason printed, where
    /// there is no QEMU for this.
    pub(crate) fn start(outside: &Outside, board: Board, card: &str) -> Option<Self> {
        let Ok(qemu) = env::var(QEMU) else {
            println!("skipped: {QEMU} does not name a QEMU with the qtest accelerator");
            return None;
        };
        let mut words = qemu.lines();
        let mut child = Command::new(words.next().unwrap_or_default())
            .args(words)
            .args(["-nodefaults", "-display", "none", "-accel", "qtest"])
            .args(["-qtest", "stdio", "-qtest-log", "none"])
            .args(arguments(&outside.files.0, board, card))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(outside.files.path("errors")).unwrap())
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
        Some(Self {
            clock: Clock(all.clone()),
            all,
        })
    }

    /// The card's configuration space, with BAR 4 placed and memory and bus mastering on.
    pub(crate) fn config_space(&self) -> ConfigSpace {
        let space = ConfigSpace(self.all.clone());
        space.write32(0x20, BAR as u32);
        space.write32(0x24, 0);
        space.write16(0x04, 6);
        space
    }

    /// A part of the card's BAR 4.
    pub(crate) fn bar(&self, offset: usize, len: usize) -> Part {
        self.all.part(BAR as usize + offset, len)
    }

    /// The card's registers, on a board without PCI.
    pub(crate) fn window(&self) -> Part {
        let windows = (0..WINDOWS).map(|n| WINDOW as usize + n as usize * WINDOW_LEN);
        let parts = windows.map(|base| self.all.part(base, WINDOW_LEN));
        // A window without a device has device id 0.
        let mut found = parts.filter(|part| part.read32(8) == 1);
        found.next().expect("a network card in one of the windows")
    }
}

fn arguments(files: &Path, board: Board, card: &str) -> Vec<String> {
    let (here, there) = (files.join("here"), files.join("there"));
    let megabytes = MEMORY >> 20;
    let memory = files.join("memory");
    let (machine, device) = match board {
        Board::Q35 => ("q35", "virtio-net-pci,addr=4,disable-legacy=on"),
        Board::Microvm => ("microvm,acpi=off", "virtio-net-device"),
    };
    [
        "-machine",
        &format!("{machine},memory-backend=mem"),
        "-m",
        &format!("{megabytes}M"),
        "-object",
        &format!(
            "memory-backend-file,id=mem,share=on,size={megabytes}M,mem-path={}",
            memory.display()
        ),
        "-global",
        "virtio-mmio.force-legacy=false",
        "-netdev",
        &format!(
            "dgram,id=net,local.type=unix,local.path={},remote.type=unix,remote.path={}",
            there.display(),
            here.display()
        ),
        "-device",
        &format!("{device},netdev=net{card}"),
    ]
    .map(str::to_owned)
    .to_vec()
}
