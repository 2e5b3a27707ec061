//! A capture file that Wireshark reads: the classic pcap format, with nanoseconds.

use std::{
    fs::File,
    io::{self, BufWriter, Write as _},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

/// A capture file. It is complete when it is dropped.
#[derive(Debug)]
pub struct Capture(BufWriter<File>);

impl Capture {
    /// Begins a capture at `path`.
    ///
    /// # Errors
    ///
    /// Where the file cannot be written.
    pub fn create(path: &Path) -> io::Result<Self> {
        /// Magic number for nanoseconds, version 2.4, no time zone, whole frames of up to 256 KiB, Ethernet.
        const HEADER: [u32; 6] = [0xa1b2_3c4d, 0x0004_0002, 0, 0, 0x4_0000, 1];

        let mut file = BufWriter::new(File::create(path)?);
        for word in HEADER {
            file.write_all(&word.to_le_bytes())?;
        }
        Ok(Self(file))
    }

    /// Adds `frame`, as of now.
    ///
    /// # Errors
    ///
    /// Where the file cannot be written.
    pub fn record(&mut self, frame: &[u8]) -> io::Result<()> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let seconds = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
        let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        for word in [seconds, now.subsec_nanos(), len, len] {
            self.0.write_all(&word.to_le_bytes())?;
        }
        self.0.write_all(frame)
    }
}
