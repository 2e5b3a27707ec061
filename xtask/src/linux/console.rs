//! The guest's console, a file that grows while it is read.

use anyhow::{Context, Result};
use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

/// Reads what was written since the last time.
#[derive(Debug)]
pub(super) struct Console {
    path: PathBuf,
    file: File,
    /// The beginning of a line whose end is not written yet.
    rest: Vec<u8>,
}

impl Console {
    pub(super) fn open(path: &Path) -> Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: File::open(path).with_context(|| format!("cannot read {}", path.display()))?,
            rest: Vec::new(),
        })
    }

    /// The lines that were ended since the last call.
    pub(super) fn lines(&mut self) -> Result<Vec<String>> {
        self.file
            .read_to_end(&mut self.rest)
            .with_context(|| format!("cannot read {}", self.path.display()))?;
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(Vec::new());
        };
        let rest = self.rest.split_off(end + 1);
        let whole = core::mem::replace(&mut self.rest, rest);
        let text = String::from_utf8_lossy(&whole);
        Ok(text.lines().map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, io::Write as _};

    #[test]
    fn a_line_is_told_once_and_when_it_is_whole() {
        let path = std::env::temp_dir().join(format!("xtask-console-{}", std::process::id()));
        let mut guest = File::create(&path).unwrap();
        let mut console = Console::open(&path).unwrap();
        assert!(console.lines().unwrap().is_empty());
        guest.write_all(b"one\r\ntwo\nthr").unwrap();
        assert_eq!(console.lines().unwrap(), ["one", "two"]);
        guest.write_all(b"ee\n").unwrap();
        assert_eq!(console.lines().unwrap(), ["three"]);
        assert!(console.lines().unwrap().is_empty());
        fs::remove_file(path).unwrap();
    }
}
