//! The checked-in table of budgets.

use crate::process;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::{fs, path::Path, process::Command};

/// What a figure may be over its budget, as a part of it.
pub(crate) const TOLERANCE: f64 = 0.01;

/// How the names of phases begin that others have written.
const PEER: &str = "peer/";

/// The table.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Budgets {
    /// The compiler that the budgets hold for.
    pub(crate) rustc: String,
    #[serde(default)]
    budget: Vec<Budget>,
}

/// A line of it.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Budget {
    name: String,
    batch: u32,
    instructions: f64,
}

impl Budgets {
    /// Reads the table.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is no table of budgets", path.display()))
    }

    /// The budget of a figure. Data paths of the project's have no barriers to spend, unless the table says otherwise.
    pub(crate) fn of(&self, name: &str, batch: u32) -> Option<f64> {
        let listed = self
            .budget
            .iter()
            .find(|budget| budget.name == name && budget.batch == batch);
        let is_ours = !name.starts_with(PEER);
        let default = (is_ours && name.ends_with(":barriers")).then_some(0.0);
        listed.map(|budget| budget.instructions).or(default)
    }
}

/// Version of the compiler in use.
pub(crate) fn compiler() -> Result<String> {
    let said = process::read(Command::new("rustc").arg("--version"))?;
    said.split(' ')
        .nth(1)
        .map(str::to_owned)
        .context("rustc does not say its version")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_belongs_to_a_name_and_a_batch() {
        let text = "rustc = \"1.95.0\"\n[[budget]]\nname = \"nvme/read\"\nbatch = 32\ninstructions = 63.4\n";
        let budgets: Budgets = toml::from_str(text).unwrap();
        assert_eq!(budgets.of("nvme/read", 32), Some(63.4));
        assert_eq!(budgets.of("nvme/read", 8), None);
        assert_eq!(budgets.of("nvme/read:barriers", 8), Some(0.0));
        assert_eq!(budgets.of("peer/other:barriers", 8), None);
    }

    #[test]
    fn the_table_of_the_project_can_be_read() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/budgets.toml");
        assert!(Budgets::read(&path).unwrap().rustc.starts_with("1."));
    }

    #[test]
    fn the_compiler_says_its_version() {
        assert!(compiler().unwrap().starts_with("1."));
    }
}
