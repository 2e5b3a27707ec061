//! An SFP+ module at the two wires of I2CCTL: SFF-8472 behind an I2C bus that software drives bit by bit.

/// A module, and the state of the bus.
#[derive(Debug)]
pub(super) struct Sfp {
    /// The page at A0h: what it is.
    identity: [u8; 256],
    /// The page at A2h: how it is.
    diagnosis: [u8; 256],
    present: bool,
    lines: Lines,
    /// Whether the module pulls the data line down.
    pulls: bool,
    state: State,
    /// The byte that is on its way, and how many of its bits were.
    byte: u8,
    bits: u8,
    /// The page that was addressed, and the place in it that the next access goes to.
    page: Page,
    place: u8,
}

/// What the driver puts on the two lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Lines {
    clock: bool,
    data: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Page {
    Identity,
    Diagnosis,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Nobody was addressed.
    Idle,
    /// The byte after a start condition: whom it is for.
    Address,
    /// The byte after that: the place in the page.
    Place,
    /// Bytes to be written.
    Writing,
    /// The module was addressed for reading, and acknowledges that.
    Answering,
    /// Bytes that the module sends.
    Reading,
}

impl Sfp {
    pub(super) fn new() -> Self {
        Self {
            identity: identity(),
            diagnosis: diagnosis(),
            present: true,
            lines: Lines {
                clock: true,
                data: true,
            },
            pulls: false,
            state: State::Idle,
            byte: 0,
            bits: 0,
            page: Page::Identity,
            place: 0,
        }
    }

    pub(super) const fn is_present(&self) -> bool {
        self.present
    }

    pub(super) const fn set_present(&mut self, present: bool) {
        self.present = present;
        self.state = State::Idle;
        self.pulls = false;
    }

    /// I2CCTL as it reads: the lines as they are, and as the driver wants them.
    pub(super) const fn read(&self) -> u32 {
        let Lines { clock, data } = self.lines;
        let line = data && !self.pulls;
        (clock as u32) | (clock as u32) << 1 | (line as u32) << 2 | (data as u32) << 3
    }

    /// I2CCTL written: bit 1 is the clock, bit 3 the data.
    pub(super) fn write(&mut self, value: u32) {
        let before = self.lines;
        let lines = Lines {
            clock: value & 2 != 0,
            data: value & 8 != 0,
        };
        match (before.clock, lines.clock) {
            (true, true) if before.data != lines.data => self.condition(lines.data),
            (false, true) => self.sample(lines.data),
            (true, false) => self.drive(),
            _ => {}
        }
        self.lines = lines;
    }

    /// The data line changes while the clock is high: a start, or a stop when it rises.
    fn condition(&mut self, rises: bool) {
        self.state = if rises || !self.present {
            State::Idle
        } else {
            State::Address
        };
        (self.byte, self.bits, self.pulls) = (0, 0, false);
    }

    /// The clock rises: a bit is read, by the module or by the driver.
    fn sample(&mut self, data: bool) {
        if self.bits < 8 {
            if self.state != State::Reading {
                self.byte = self.byte << 1 | u8::from(data);
            }
            self.bits += 1;
            return;
        }
        self.bits = 9;
        // The driver does not acknowledge the last byte that it wants.
        if self.state == State::Reading && data {
            self.state = State::Idle;
        }
    }

    /// The clock falls: the next bit is put on the line.
    fn drive(&mut self) {
        match self.bits {
            8 => {
                self.pulls = match self.state {
                    State::Idle | State::Answering | State::Reading => false,
                    State::Address | State::Place | State::Writing => self.take(),
                };
            }
            9 => {
                (self.bits, self.pulls) = (0, false);
                if matches!(self.state, State::Answering | State::Reading) {
                    self.state = State::Reading;
                    self.byte = self.next();
                    self.put();
                }
            }
            _ if self.state == State::Reading => self.put(),
            _ => {}
        }
    }

    fn put(&mut self) {
        self.pulls = self.byte & (0x80 >> self.bits) == 0;
    }

    /// A byte arrived; whether it is acknowledged.
    fn take(&mut self) -> bool {
        let byte = self.byte;
        self.byte = 0;
        match self.state {
            State::Address => self.address(byte),
            State::Place => {
                self.place = byte;
                self.state = State::Writing;
            }
            State::Writing => self.place = self.place.wrapping_add(1),
            State::Idle | State::Answering | State::Reading => {}
        }
        self.state != State::Idle
    }

    fn address(&mut self, byte: u8) {
        match byte & 0xfe {
            0xa0 => self.page = Page::Identity,
            0xa2 => self.page = Page::Diagnosis,
            _ => {
                self.state = State::Idle;
                return;
            }
        }
        self.state = if byte & 1 == 0 {
            State::Place
        } else {
            State::Answering
        };
    }

    fn next(&mut self) -> u8 {
        let page = match self.page {
            Page::Identity => &self.identity,
            Page::Diagnosis => &self.diagnosis,
        };
        let byte = page[usize::from(self.place)];
        self.place = self.place.wrapping_add(1);
        byte
    }
}

/// SFF-8472, table 4-1: a 10GBASE-SR module with an LC connector.
fn identity() -> [u8; 256] {
    let mut page = [0; 256];
    page[..20].copy_from_slice(&[
        0x03, 0x04, 0x07, 0x10, 0, 0, 0, 0, 0, 0, 0, 0x06, 0x67, 0, 0, 0, 8, 2, 0, 30,
    ]);
    text(&mut page[20..36], "PARAKERNEL");
    page[37..40].copy_from_slice(&[0x00, 0x00, 0x00]);
    text(&mut page[40..56], "MODEL-SR");
    text(&mut page[56..60], "1");
    // 850 nm.
    page[60..62].copy_from_slice(&850_u16.to_be_bytes());
    page[63] = sum(&page[..63]);
    // Loss of signal, fault and disable lines.
    page[65] = 0x1a;
    text(&mut page[68..84], "0000000001");
    text(&mut page[84..92], "260101");
    // Diagnosis, calibrated inside, average power; alarms; SFF-8472 revision 10.2.
    page[92..95].copy_from_slice(&[0x68, 0xb0, 0x03]);
    page[95] = sum(&page[64..95]);
    page
}

/// SFF-8472, tables 9-5 and 9-11: thresholds, and a module that is well.
fn diagnosis() -> [u8; 256] {
    /// High alarm, low alarm, high warning, low warning; of temperature, voltage, bias, sent and received power.
    const THRESHOLDS: [[u16; 4]; 5] = [
        [0x4e00, 0xf300, 0x4900, 0xf800],
        [0x90ec, 0x7148, 0x8ca0, 0x7530],
        [0x2134, 0x07d0, 0x1f40, 0x09c4],
        [0x31ef, 0x07cb, 0x2710, 0x09d0],
        [0x4ddd, 0x0062, 0x3dea, 0x009b],
    ];
    /// 38 °C, 3.3 V, 8 mA, 0.6 mW, 0.5 mW.
    const VALUES: [u16; 5] = [0x2600, 33_000, 4000, 6000, 5000];

    let mut page = [0; 256];
    for (n, value) in THRESHOLDS.iter().flatten().enumerate() {
        page[2 * n..2 * n + 2].copy_from_slice(&value.to_be_bytes());
    }
    for (n, value) in VALUES.iter().enumerate() {
        page[96 + 2 * n..98 + 2 * n].copy_from_slice(&value.to_be_bytes());
    }
    // Calibrated inside: slopes of 1.
    for offset in [76, 80, 84, 88] {
        page[offset] = 1;
    }
    page[68..72].copy_from_slice(&1_f32.to_be_bytes());
    page[95] = sum(&page[..95]);
    page
}

fn text(place: &mut [u8], text: &str) {
    place.fill(b' ');
    place[..text.len()].copy_from_slice(text.as_bytes());
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A driver's side of the bus.
    struct Driver(Sfp);

    impl Driver {
        /// Puts the lines as bit 0 (clock) and bit 1 (data) say; what is on the data line then.
        fn set(&mut self, lines: u32) -> bool {
            self.0.write((lines & 1) << 1 | (lines & 2) << 2);
            self.0.read() & 4 != 0
        }

        fn start(&mut self) {
            for lines in [2, 3, 1, 0] {
                self.set(lines);
            }
        }

        fn stop(&mut self) {
            for lines in [0, 1, 3] {
                self.set(lines);
            }
        }

        /// Clocks one bit; what was on the line.
        fn bit(&mut self, data: bool) -> bool {
            let data = u32::from(data) << 1;
            self.set(data);
            let line = self.set(data | 1);
            self.set(data);
            line
        }

        /// Whether the byte was acknowledged.
        fn send(&mut self, byte: u8) -> bool {
            for n in (0..8).rev() {
                self.bit(byte >> n & 1 == 1);
            }
            !self.bit(true)
        }

        fn receive(&mut self, last: bool) -> u8 {
            let byte = (0..8).fold(0, |byte, _| byte << 1 | u8::from(self.bit(true)));
            self.bit(last);
            byte
        }

        fn read(&mut self, device: u8, place: u8, count: usize) -> Option<Vec<u8>> {
            self.start();
            let there = self.send(device) && self.send(place);
            self.start();
            let there = there && self.send(device | 1);
            let bytes = (0..count).map(|n| self.receive(n + 1 == count)).collect();
            self.stop();
            there.then_some(bytes)
        }
    }

    #[test]
    fn a_driver_reads_both_pages_and_nobody_else_answers() {
        let mut driver = Driver(Sfp::new());
        assert_eq!(driver.read(0xa0, 0, 4).unwrap(), [0x03, 0x04, 0x07, 0x10]);
        assert_eq!(driver.read(0xa2, 96, 2).unwrap(), [0x26, 0x00]);
        assert_eq!(driver.read(0xa0, 20, 10).unwrap(), *b"PARAKERNEL");
        assert_eq!(driver.read(0x50, 0, 1), None);
        driver.0.set_present(false);
        assert_eq!(driver.read(0xa0, 0, 1), None);
    }
}
