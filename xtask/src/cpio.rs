//! Writes an initial RAM disk: a cpio archive in the "newc" form, files and folders only.
//!
//! The form is the Linux kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`: a header of ASCII
//! hexadecimal numbers, the name with its terminating zero, the content, each padded to a multiple of four bytes.

use anyhow::{Context, Result, ensure};

const MAGIC: &str = "070701";
const TRAILER: &str = "TRAILER!!!";

/// A regular file that everyone may read and run, and a folder.
const MODE: u32 = 0o100_755;
const FOLDER: u32 = 0o040_755;

/// An archive under construction.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    files: u32,
}

impl Archive {
    /// Adds a file.
    pub(crate) fn add(&mut self, name: &str, content: &[u8]) -> Result<()> {
        ensure!(
            !name.is_empty() && !name.starts_with('/') && name != TRAILER,
            "`{name}` is no name for a file in an archive"
        );
        self.files += 1;
        self.entry(name, content, MODE)
    }

    /// Adds a folder, which is to come before what lies in it.
    pub(crate) fn add_folder(&mut self, name: &str) -> Result<()> {
        self.files += 1;
        self.entry(name, &[], FOLDER)
    }

    /// The finished archive.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>> {
        self.files = 0;
        self.entry(TRAILER, &[], 0)?;
        Ok(self.bytes)
    }

    fn entry(&mut self, name: &str, content: &[u8], mode: u32) -> Result<()> {
        let size = u32::try_from(content.len())
            .with_context(|| format!("`{name}` is too long for an archive"))?;
        let name_size = u32::try_from(name.len() + 1)
            .with_context(|| format!("`{name}` is too long a name"))?;
        // Inode, mode, owner, group, links, time, size, device (two pairs), length of the name, checksum (unused).
        let fields = [self.files, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(MAGIC.as_bytes());
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::Write as _,
        process::{Command, Stdio},
    };

    fn archive() -> Vec<u8> {
        let mut archive = Archive::default();
        archive.add("manifest", b"kernel seconds=1\n").unwrap();
        archive
            .add("bin/echo", &[0x7f, b'E', b'L', b'F', 1])
            .unwrap();
        archive.finish().unwrap()
    }

    #[test]
    fn everything_is_where_the_form_says() {
        let bytes = archive();
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[54..62], b"00000011", "size of the first file");
        assert_eq!(&bytes[110..119], b"manifest\0");
        assert_eq!(&bytes[120..137], b"kernel seconds=1\n");
        assert_eq!(
            &bytes[140..146],
            b"070701",
            "the second header begins at a multiple of four"
        );
        assert!(bytes.ends_with(b"TRAILER!!!\0\0\0\0"));
    }

    #[test]
    fn names_that_would_confuse_a_reader_are_refused() {
        for name in ["", "/bin/echo", "TRAILER!!!"] {
            assert!(Archive::default().add(name, &[]).is_err(), "{name}");
        }
    }

    /// The `cpio` program reads what was written here; without it there is nothing to compare with.
    #[test]
    fn the_cpio_program_agrees() {
        crate::tools::CPIO.present();
        let listed = |args: &[&str]| {
            let mut cpio = Command::new("cpio")
                .args(args)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            cpio.stdin.take().unwrap().write_all(&archive()).unwrap();
            let output = cpio.wait_with_output().unwrap();
            assert!(output.status.success());
            output.stdout
        };
        assert_eq!(listed(&["--quiet", "-t"]), b"manifest\nbin/echo\n");
        assert_eq!(
            listed(&["--quiet", "-i", "--to-stdout", "manifest"]),
            b"kernel seconds=1\n"
        );
    }
}
