//! A copy of the project in which a piece of the source was replaced: the project with one check missing, say.
//!
//! The product's own source has no switch that turns a check off. What a build without it would do is tried on a copy.

use crate::{process, workspace::Workspace};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A piece of one file and what takes its place.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(crate) struct Replacement {
    /// The file, from the project's root on.
    pub(crate) file: PathBuf,
    /// The text, which stands in the file exactly once.
    pub(crate) find: String,
    /// What stands there instead.
    pub(crate) replace: String,
}

/// A copy of the project's files.
#[derive(Debug)]
pub(crate) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Makes the folder `name` under the folder for what is built a copy of the project.
    ///
    /// Files that are there already and right keep their times, so that cargo builds anew only what was changed.
    pub(crate) fn copy(workspace: &Workspace, name: &str) -> Result<Self> {
        let root = workspace.scratch(name)?.join("tree");
        for file in files(workspace)? {
            let from = workspace.root.join(&file);
            // Deleted, but not committed yet.
            if !from.is_file() {
                continue;
            }
            let contents = fs::read(&from)?;
            let to = root.join(&file);
            if fs::read(&to).is_ok_and(|there| there == contents) {
                continue;
            }
            fs::create_dir_all(to.parent().unwrap_or(&root))?;
            fs::write(&to, contents).with_context(|| format!("cannot write {}", to.display()))?;
        }
        Ok(Self { root })
    }

    /// Where the copy is.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Replaces a piece of the copy's source.
    ///
    /// Fails where the text does not stand there exactly once: the source has changed, and the replacement must follow.
    pub(crate) fn apply(&self, change: &Replacement) -> Result<()> {
        let path = self.root.join(&change.file);
        let source = fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", change.file.display()))?;
        fs::write(path, change.applied_to(&source)?)?;
        Ok(())
    }
}

impl Replacement {
    fn applied_to(&self, source: &str) -> Result<String> {
        let count = source.matches(&self.find).count();
        ensure!(
            count == 1,
            "this text stands in {} {count} times, not once; the replacement must follow the source:\n{}",
            self.file.display(),
            self.find,
        );
        Ok(source.replace(&self.find, &self.replace))
    }
}

/// The project's files, from its root on: those that git knows, or would with `git add`.
fn files(workspace: &Workspace) -> Result<Vec<PathBuf>> {
    let mut command = Command::new("git");
    command.arg("-C").arg(&workspace.root).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]);
    let list = process::read(&mut command)?;
    Ok(list.split_terminator('\0').map(PathBuf::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(find: &str) -> Replacement {
        Replacement {
            file: "src/lib.rs".into(),
            find: find.into(),
            replace: "true".into(),
        }
    }

    #[test]
    fn a_text_that_stands_there_once_is_replaced() {
        let changed = change("a < b").applied_to("if a < b {").unwrap();
        assert_eq!(changed, "if true {");
    }

    #[test]
    fn a_stale_replacement_names_file_and_text() {
        for source in ["if a <= b {", "if a < b && a < b {"] {
            let error = change("a < b").applied_to(source).unwrap_err().to_string();
            assert!(
                error.contains("src/lib.rs") && error.contains("a < b"),
                "{error}"
            );
        }
    }
}
