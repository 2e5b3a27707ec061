//! Lines that the host writes on COM1.

use heapless::String;

use crate::serial::COM1;

/// Longest line; what is longer is dropped whole.
const LINE_MAX: usize = 128;
/// Most bytes that are read in one turn.
const BUDGET: usize = 256;

/// A line being read.
#[derive(Debug, Default)]
pub(crate) struct Console {
    line: String<LINE_MAX>,
    is_too_long: bool,
}

impl Console {
    /// The next line, if it is complete.
    pub(crate) fn poll(&mut self) -> Option<String<LINE_MAX>> {
        for _ in 0..BUDGET {
            let byte = COM1.receive()?;
            if byte != b'\n' && byte != b'\r' {
                self.is_too_long |= self.line.push(char::from(byte)).is_err();
                continue;
            }
            let line = core::mem::take(&mut self.line);
            let is_whole = !core::mem::take(&mut self.is_too_long);
            if is_whole && !line.is_empty() {
                return Some(line);
            }
        }
        None
    }
}
