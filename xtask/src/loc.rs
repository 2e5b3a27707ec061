//! `cargo xtask loc`: how much code has to be trusted.

use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// A part of the trusted base: a folder without the files that run inside a process only.
#[derive(Clone, Copy, Debug)]
struct Part {
    name: &'static str,
    folder: &'static str,
    /// Files and folders that only processes run, and those of other systems.
    untrusted: &'static [&'static str],
}

/// Kernel, core, control halves and validators (the documentation's chapter on trust says why these and no others).
const TRUSTED: [Part; 6] = [
    Part {
        name: "parakernel-core",
        folder: "parakernel-core/src",
        untrusted: &[],
    },
    Part {
        // With the data half: the kernel runs it for its own queue pair.
        name: "nic-virtio",
        folder: "nic-virtio/src",
        untrusted: &[],
    },
    Part {
        // The same.
        name: "nic-ixgbe",
        folder: "nic-ixgbe/src",
        untrusted: &[],
    },
    Part {
        name: "nvme, control half",
        folder: "nvme/src",
        untrusted: &["queue.rs", "queue"],
    },
    Part {
        name: "numa",
        folder: "numa/src",
        untrusted: &["linux.rs"],
    },
    Part {
        name: "reference kernel",
        folder: "examples/reference-kernel",
        untrusted: &["process", "probe", "build.rs"],
    },
];

/// What holds tests, and what cargo builds, in any folder.
const NEVER: [&str; 3] = ["tests", "tests.rs", "target"];

/// Lines of one file or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lines {
    code: usize,
    comments: usize,
    unsafe_blocks: usize,
}

impl core::ops::AddAssign for Lines {
    fn add_assign(&mut self, other: Self) {
        self.code += other.code;
        self.comments += other.comments;
        self.unsafe_blocks += other.unsafe_blocks;
    }
}

/// Prints the table.
pub(crate) fn run(workspace: &Workspace) -> Result<ExitCode> {
    println!(
        "{:<26} {:>6} {:>9} {:>7}",
        "trusted base", "code", "comments", "unsafe"
    );
    let mut total = Lines::default();
    for part in TRUSTED {
        let mut lines = Lines::default();
        for file in part.sources(&workspace.root)? {
            let text = fs::read_to_string(&file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            lines += count(&text);
        }
        println!(
            "{:<26} {:>6} {:>9} {:>7}",
            part.name, lines.code, lines.comments, lines.unsafe_blocks
        );
        total += lines;
    }
    println!(
        "{:<26} {:>6} {:>9} {:>7}",
        "total", total.code, total.comments, total.unsafe_blocks
    );
    println!("\nWithout blank lines and tests; `unsafe` counts blocks, functions and impls.");
    Ok(ExitCode::SUCCESS)
}

impl Part {
    /// The Rust files that are trusted.
    fn sources(&self, root: &Path) -> Result<Vec<PathBuf>> {
        let folder = root.join(self.folder);
        let untrusted: Vec<_> = self
            .untrusted
            .iter()
            .map(|name| folder.join(name))
            .collect();
        if let Some(gone) = untrusted.iter().find(|path| !path.exists()) {
            bail!(
                "{} is not there: correct the list in xtask/src/loc.rs",
                gone.display()
            );
        }
        let mut files = Vec::new();
        collect(&folder, &untrusted, &mut files)?;
        Ok(files)
    }
}

/// Adds the Rust files below a folder, without those given and without tests.
fn collect(folder: &Path, without: &[PathBuf], files: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let is_test = NEVER.iter().any(|name| path.ends_with(name));
        if is_test || without.contains(&path) {
            continue;
        }
        if path.is_dir() {
            collect(&path, without, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// Counts the lines of a file up to its test module, which is the last thing in it.
fn count(text: &str) -> Lines {
    let mut lines = Lines::default();
    for line in text
        .lines()
        .map(str::trim)
        .take_while(|line| *line != "#[cfg(test)]")
    {
        if line.starts_with("//") {
            lines.comments += 1;
        } else if !line.is_empty() {
            lines.code += 1;
            lines.unsafe_blocks += line
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .filter(|word| *word == "unsafe")
                .count();
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_name_what_is_there() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for part in TRUSTED {
            assert!(!part.sources(root).unwrap().is_empty(), "{}", part.name);
        }
    }

    #[test]
    fn tests_and_blank_lines_do_not_count() {
        let text = "//! Doc.\n\nfn f() {\n    // Why.\n    unsafe { g() }\n    unsafe_code();\n}\n#[cfg(test)]\nmod tests {}\n";
        assert_eq!(
            count(text),
            Lines {
                code: 4,
                comments: 2,
                unsafe_blocks: 1
            }
        );
    }
}
