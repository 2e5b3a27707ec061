//! The stages of `cargo xtask test`, in their order.

use super::stage::{Plan, Stage, When};
use crate::{
    publish::WITH_STD,
    qemu::{Choice, Qemu},
    tools,
    workspace::{Package, Workspace, cargo},
};
use anyhow::{Context, Result};
use core::time::Duration;
use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

/// The bare-metal target every library has to build for.
const BARE_METAL: &str = "x86_64-unknown-none";

/// Features of a package up to which every combination is built; above, each alone, none and all.
const MOST_COMBINED_FEATURES: usize = 4;

/// All stages, in their order.
pub(crate) const STAGES: &[Stage] = &[
    Stage {
        name: "fmt",
        about: "formatting",
        when: When::Quick,
        limit: Duration::from_secs(60),
        plan: fmt,
    },
    Stage {
        name: "clippy",
        about: "lints, warnings denied",
        when: When::Quick,
        limit: Duration::from_secs(480),
        plan: clippy,
    },
    Stage {
        name: "doc",
        about: "documentation, warnings denied",
        when: When::Quick,
        limit: Duration::from_secs(240),
        plan: doc,
    },
    Stage {
        name: "unit",
        about: "unit, property and documentation tests",
        when: When::Quick,
        limit: Duration::from_secs(600),
        plan: unit,
    },
    Stage {
        name: "features",
        about: "every combination of features",
        when: When::Quick,
        limit: Duration::from_secs(240),
        plan: features,
    },
    Stage {
        name: "no-std",
        about: "libraries for x86_64-unknown-none",
        when: When::Quick,
        limit: Duration::from_secs(120),
        plan: no_std,
    },
    Stage {
        name: "msrv",
        about: "libraries with the oldest compiler promised",
        when: When::Quick,
        limit: Duration::from_secs(240),
        plan: msrv,
    },
    Stage {
        name: "fuzz",
        about: "each fuzz target for a few seconds",
        when: When::Usual,
        limit: Duration::from_secs(300),
        plan: fuzz,
    },
    Stage {
        name: "bench",
        about: "instruction budgets",
        when: When::Usual,
        limit: Duration::from_secs(300),
        plan: bench,
    },
    Stage {
        name: "self-test",
        about: "the kernel tests itself in QEMU",
        when: When::Usual,
        limit: Duration::from_secs(150),
        plan: self_test,
    },
    Stage {
        name: "processes",
        about: "the processes of docs/writing-a-process.md, booted as it says",
        when: When::Usual,
        limit: Duration::from_secs(240),
        plan: processes,
    },
    Stage {
        name: "sabotage",
        about: "the kernel breaks its own rules and is stopped",
        when: When::Usual,
        limit: Duration::from_secs(120),
        plan: sabotage,
    },
    Stage {
        name: "demo",
        about: "everything at once, split rings",
        when: When::Usual,
        limit: Duration::from_secs(240),
        plan: demo,
    },
    Stage {
        name: "demo-packed",
        about: "everything at once, packed rings",
        when: When::Usual,
        limit: Duration::from_secs(180),
        plan: demo_packed,
    },
    Stage {
        name: "demo-ixgbe",
        about: "everything at once, on the model of the 82599, whose cable is pulled now and then",
        when: When::Usual,
        limit: Duration::from_secs(180),
        plan: demo_ixgbe,
    },
    Stage {
        name: "demo-sealed",
        about: "two network processes on sealed receive rings",
        when: When::Usual,
        limit: Duration::from_secs(120),
        plan: demo_sealed,
    },
    Stage {
        name: "demo-user",
        about: "everything at once, on virtual queues over user-mode networking",
        when: When::Usual,
        limit: Duration::from_secs(120),
        plan: demo_user,
    },
    Stage {
        name: "demo-mmio",
        about: "two network processes on a machine without PCI",
        when: When::Usual,
        limit: Duration::from_secs(120),
        plan: demo_mmio,
    },
    Stage {
        name: "restarts",
        about: "a process killed and restarted 50 times",
        when: When::Usual,
        limit: Duration::from_secs(240),
        plan: restarts,
    },
    Stage {
        name: "resets",
        about: "card and SSD reset under traffic, and everybody goes on",
        when: When::Usual,
        limit: Duration::from_secs(240),
        plan: resets,
    },
    Stage {
        name: "resets-ixgbe",
        about: "the model of the 82599 and the SSD reset under traffic, and everybody goes on",
        when: When::Usual,
        limit: Duration::from_secs(120),
        plan: resets_ixgbe,
    },
    Stage {
        name: "early-free",
        about: "a kernel that frees memory too early is found out",
        when: When::Usual,
        limit: Duration::from_secs(120),
        plan: early_free,
    },
    Stage {
        name: "early-free-ixgbe",
        about: "the same with the model of the 82599, which writes on",
        when: When::Usual,
        limit: Duration::from_secs(120),
        plan: early_free_ixgbe,
    },
    Stage {
        name: "pairs",
        about: "one process with 200 NVMe queue pairs",
        when: When::Usual,
        limit: Duration::from_secs(90),
        plan: pairs,
    },
    Stage {
        name: "attacks",
        about: "each attack without the check against it",
        when: When::Usual,
        limit: Duration::from_secs(720),
        plan: attacks,
    },
    Stage {
        name: "attacks-ixgbe-few",
        about: "attacks on the 82599's descriptors succeed without the check against them",
        when: When::Usual,
        limit: Duration::from_secs(600),
        plan: attacks_ixgbe_few,
    },
    Stage {
        name: "linux",
        about: "stock Linux drivers on the models",
        when: When::Usual,
        limit: Duration::from_secs(720),
        plan: linux,
    },
    Stage {
        name: "publish",
        about: "packages ready for a registry",
        when: When::Full,
        limit: Duration::from_secs(900),
        plan: publish,
    },
    Stage {
        name: "qtest",
        about: "the drivers on a newer QEMU's devices, without a guest",
        when: When::Full,
        limit: Duration::from_secs(600),
        plan: qtest,
    },
    Stage {
        name: "demo-iommu",
        about: "everything at once, with an IOMMU in the machine",
        when: When::Full,
        limit: Duration::from_secs(180),
        plan: demo_iommu,
    },
    Stage {
        name: "demo-new",
        about: "everything at once, split rings, a newer QEMU",
        when: When::Full,
        limit: Duration::from_secs(400),
        plan: demo_new,
    },
    Stage {
        name: "demo-new-packed",
        about: "everything at once, packed rings, a newer QEMU",
        when: When::Full,
        limit: Duration::from_secs(180),
        plan: demo_new_packed,
    },
    Stage {
        name: "resets-sealed",
        about: "card and SSD reset under two network processes on sealed receive rings",
        when: When::Full,
        limit: Duration::from_secs(120),
        plan: resets_sealed,
    },
    Stage {
        name: "restarts-long",
        about: "a process killed and restarted 1,000 times",
        when: When::Full,
        limit: Duration::from_secs(900),
        plan: restarts_long,
    },
    Stage {
        name: "restarts-ixgbe",
        about: "processes on the model of the 82599 killed and restarted; the kernel tests itself on it",
        when: When::Full,
        limit: Duration::from_secs(400),
        plan: restarts_ixgbe,
    },
    Stage {
        name: "attacks-ixgbe",
        about: "attacks on the 82599 succeed without the check against them",
        when: When::Full,
        limit: Duration::from_secs(1800),
        plan: attacks_ixgbe,
    },
    Stage {
        name: "linux-planted",
        about: "stock Linux drivers find defects planted in the models",
        when: When::Full,
        limit: Duration::from_secs(2400),
        plan: linux_planted,
    },
    Stage {
        name: "linux-long",
        about: "stock Linux drivers on the models, 1 GiB and 100 reloads each",
        when: When::Full,
        limit: Duration::from_secs(7200),
        plan: linux_long,
    },
    Stage {
        name: "mutants",
        about: "bugs planted in the validators are found",
        when: When::Full,
        limit: Duration::from_secs(1200),
        plan: mutants,
    },
    Stage {
        name: "sharing",
        about: "no partition touches a cache line that another writes",
        when: When::Full,
        limit: Duration::from_secs(900),
        plan: sharing,
    },
    Stage {
        name: "fuzz-long",
        about: "each fuzz target for five minutes",
        when: When::Full,
        limit: Duration::from_secs(7200),
        plan: fuzz_long,
    },
];

/// `cargo` with these words.
fn run(words: &[&str]) -> Command {
    let mut command = cargo();
    command.args(words);
    command
}

/// The workspaces beside the root's: manifest, and where their build goes.
fn others(workspace: &Workspace) -> Vec<(PathBuf, PathBuf)> {
    let all = [
        (workspace.kernel_manifest(), workspace.target.join("kernel")),
        (workspace.fuzz_manifest(), workspace.target.join("fuzz")),
    ];
    all.into_iter()
        .filter(|(manifest, _)| manifest.exists())
        .collect()
}

fn with_others(
    workspace: &Workspace,
    root: Command,
    other: impl Fn(&Path, &Path) -> Command,
) -> Result<Plan> {
    let mut commands = vec![root];
    commands.extend(
        others(workspace)
            .iter()
            .map(|(manifest, target)| other(manifest, target)),
    );
    Ok(Plan::Run(commands))
}

fn fmt(workspace: &Workspace) -> Result<Plan> {
    with_others(
        workspace,
        run(&["fmt", "--all", "--check"]),
        |manifest, _| {
            let mut command = run(&["fmt", "--all", "--check", "--manifest-path"]);
            command.arg(manifest);
            command
        },
    )
}

fn clippy(workspace: &Workspace) -> Result<Plan> {
    let root = run(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--",
        "-D",
        "warnings",
    ]);
    with_others(workspace, root, |manifest, target| {
        let mut command = run(&["clippy", "--workspace", "--manifest-path"]);
        command
            .arg(manifest)
            .arg("--target-dir")
            .arg(target)
            .args(["--", "-D", "warnings"]);
        command
    })
}

fn doc(workspace: &Workspace) -> Result<Plan> {
    let mut root = run(&["doc", "--workspace", "--no-deps", "--all-features"]);
    root.env("RUSTDOCFLAGS", "-D warnings");
    with_others(workspace, root, |manifest, target| {
        let mut command = run(&[
            "doc",
            "--workspace",
            "--no-deps",
            "--document-private-items",
            "--manifest-path",
        ]);
        command
            .arg(manifest)
            .arg("--target-dir")
            .arg(target)
            .env("RUSTDOCFLAGS", "-D warnings");
        command
    })
}

fn unit(workspace: &Workspace) -> Result<Plan> {
    for tool in tools::FOR_UNIT_TESTS {
        tool.need()?;
    }
    let mut commands = vec![run(&["test", "--workspace"])];
    // The kernel's parsers are tested on the host; the fuzz targets are run, not tested.
    if workspace.kernel_manifest().exists() {
        let mut kernel = run(&["test", "--workspace", "--manifest-path"]);
        kernel
            .arg(workspace.kernel_manifest())
            .arg("--target-dir")
            .arg(workspace.target.join("kernel"));
        commands.push(kernel);
    }
    Ok(Plan::Run(commands))
}

fn features(workspace: &Workspace) -> Result<Plan> {
    let mut commands = Vec::new();
    for package in workspace.published() {
        for set in combinations(package) {
            let mut command = run(&[
                "check",
                "--quiet",
                "--lib",
                "--no-default-features",
                "--package",
                &package.name,
            ]);
            command.args(["--features", &set.join(",")]);
            commands.push(command);
        }
    }
    Ok(Plan::Run(commands))
}

/// The sets of features to build a package with.
fn combinations(package: &Package) -> Vec<Vec<&str>> {
    let names: Vec<_> = package
        .features
        .keys()
        .map(String::as_str)
        .filter(|name| *name != "default")
        .collect();
    if names.len() > MOST_COMBINED_FEATURES {
        let alone = names.iter().map(|name| vec![*name]);
        return core::iter::once(Vec::new())
            .chain(alone)
            .chain([names.clone()])
            .collect();
    }
    let chosen = |set: usize| {
        names
            .iter()
            .enumerate()
            .filter(move |(bit, _)| set >> bit & 1 == 1)
            .map(|(_, name)| *name)
    };
    (0..1 << names.len())
        .map(|set| chosen(set).collect())
        .collect()
}

/// The libraries that work without an operating system: all but the models and their C interface.
fn bare_libraries(workspace: &Workspace) -> impl Iterator<Item = &Package> {
    workspace
        .published()
        .filter(|package| !WITH_STD.contains(&package.name.as_str()))
}

fn no_std(workspace: &Workspace) -> Result<Plan> {
    let sysroot = crate::process::read(Command::new("rustc").args(["--print", "sysroot"]))?;
    if !Path::new(sysroot.trim())
        .join("lib/rustlib")
        .join(BARE_METAL)
        .exists()
    {
        return Ok(Plan::Skip(format!(
            "target not installed; `rustup target add {BARE_METAL}` installs it"
        )));
    }
    let build = |package: &Package| {
        run(&[
            "build",
            "--lib",
            "--target",
            BARE_METAL,
            "--package",
            &package.name,
        ])
    };
    Ok(Plan::Run(bare_libraries(workspace).map(build).collect()))
}

fn msrv(workspace: &Workspace) -> Result<Plan> {
    let oldest = workspace
        .published()
        .find_map(|package| package.rust_version.as_deref())
        .context("no package says `rust-version`")?;
    let Some(rustup) = tools::find("rustup") else {
        return Ok(Plan::Skip("rustup is not here".into()));
    };
    let installed = crate::process::read(Command::new(&rustup).args(["toolchain", "list"]))?;
    let Some(toolchain) = installed
        .lines()
        .filter_map(|line| line.split(' ').next())
        .find(|name| name.starts_with(oldest))
    else {
        return Ok(Plan::Skip(format!(
            "toolchain not installed; `rustup toolchain install {oldest}` installs it"
        )));
    };
    let check = |package: &Package| {
        let mut command = Command::new(&rustup);
        command.args([
            "run",
            toolchain,
            "cargo",
            "check",
            "--lib",
            "--package",
            &package.name,
        ]);
        command
            .arg("--target-dir")
            .arg(workspace.target.join("msrv"))
            .env_remove("RUSTC")
            .env_remove("CARGO");
        command.env("PATH", env::var_os("PATH").unwrap_or_default());
        command
    };
    Ok(Plan::Run(workspace.published().map(check).collect()))
}

/// This program itself, once with each of these lines of words.
fn again(lines: &[&[&str]]) -> Result<Plan> {
    let own = env::current_exe().context("cannot find this program's own file")?;
    let command = |words: &&[&str]| {
        let mut command = Command::new(&own);
        command.args(*words);
        command
    };
    Ok(Plan::Run(lines.iter().map(command).collect()))
}

/// A boot with these words, or why there can be none.
fn boot(workspace: &Workspace, words: &[&str]) -> Result<Plan> {
    if !workspace.kernel_manifest().exists() {
        return Ok(Plan::Skip("no reference kernel".into()));
    }
    again(&[words])
}

fn fuzz(workspace: &Workspace) -> Result<Plan> {
    if !workspace.fuzz_manifest().exists() {
        return Ok(Plan::Skip("no fuzz targets".into()));
    }
    again(&[&["fuzz", "--sample", "100000"], &["fuzz", "--seconds", "3"]])
}

fn mutants(workspace: &Workspace) -> Result<Plan> {
    if !workspace.fuzz_manifest().exists() {
        return Ok(Plan::Skip("no fuzz targets".into()));
    }
    again(&[&["mutants"]])
}

fn fuzz_long(workspace: &Workspace) -> Result<Plan> {
    if !workspace.fuzz_manifest().exists() {
        return Ok(Plan::Skip("no fuzz targets".into()));
    }
    again(&[
        &["fuzz", "--seconds", "300"],
        &["fuzz", "--sample", "10000000"],
    ])
}

fn linux(workspace: &Workspace) -> Result<Plan> {
    on_models(
        workspace,
        &[
            &["linux-on-model", "nvme"],
            &["linux-on-model", "virtio-net"],
            &["linux-on-model", "ixgbe"],
            &["linux-on-model", "ixgbevf"],
        ],
    )
}

fn linux_planted(workspace: &Workspace) -> Result<Plan> {
    on_models(
        workspace,
        &[
            &["linux-on-model", "nvme", "--planted"],
            &["linux-on-model", "virtio-net", "--planted"],
            &["linux-on-model", "ixgbe", "--planted"],
            &["linux-on-model", "ixgbevf", "--planted"],
        ],
    )
}

fn linux_long(workspace: &Workspace) -> Result<Plan> {
    on_models(
        workspace,
        &[
            &["linux-on-model", "nvme", "--full"],
            &["linux-on-model", "virtio-net", "--full"],
            &["linux-on-model", "ixgbe", "--full"],
            &["linux-on-model", "ixgbevf", "--full"],
        ],
    )
}

/// Guests on the models, if there is a QEMU that takes them.
fn on_models(workspace: &Workspace, commands: &[&[&str]]) -> Result<Plan> {
    match Qemu::with_vfio_user(workspace, &Choice::System) {
        Ok(_) => again(commands),
        Err(reason) => Ok(Plan::Skip(format!("{reason:#}"))),
    }
}

/// The tests that talk to QEMU's devices by its `qtest` protocol, which the newer suites' packages have.
fn qtest(workspace: &Workspace) -> Result<Plan> {
    let start = match Qemu::choose(workspace, &Choice::New) {
        Ok(qemu) => qemu.command(),
        Err(reason) => return Ok(Plan::Skip(format!("{reason:#}"))),
    };
    let words = core::iter::once(start.get_program()).chain(start.get_args());
    let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
    let mut command = run(&[
        "test",
        "--package",
        "parakernel-qtest",
        "--features",
        "qemu",
    ]);
    command.env("PARAKERNEL_QTEST_QEMU", words.join("\n"));
    command.envs(
        start
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    Ok(Plan::Run(vec![command]))
}

fn bench(_: &Workspace) -> Result<Plan> {
    again(&[&["bench"]])
}

fn sharing(_: &Workspace) -> Result<Plan> {
    again(&[&["bench", "--sharing"]])
}

fn publish(_: &Workspace) -> Result<Plan> {
    again(&[&["publish-check"]])
}

fn self_test(workspace: &Workspace) -> Result<Plan> {
    boot(workspace, &["qemu", "--self-test"])
}

/// The script that the page names, with the build of the other boots.
fn processes(workspace: &Workspace) -> Result<Plan> {
    tools::QEMU.need()?;
    tools::CPIO.need()?;
    let folder = workspace.root.join("docs/examples/skeleton-process");
    let mut command = Command::new(folder.join("boot.sh"));
    command.arg(workspace.target.join("kernel"));
    Ok(Plan::Run(vec![command]))
}

fn sabotage(workspace: &Workspace) -> Result<Plan> {
    boot(workspace, &["qemu", "--sabotage"])
}

fn demo(workspace: &Workspace) -> Result<Plan> {
    boot(workspace, &["demo"])
}

fn demo_packed(workspace: &Workspace) -> Result<Plan> {
    boot(workspace, &["demo", "--ring", "packed"])
}

fn demo_sealed(workspace: &Workspace) -> Result<Plan> {
    let words = ["demo", "--cast", "echo0,kv0", "--policy", "integrity"];
    boot(workspace, &words)
}

fn demo_user(workspace: &Workspace) -> Result<Plan> {
    boot(workspace, &["demo", "--net", "user"])
}

fn demo_mmio(workspace: &Workspace) -> Result<Plan> {
    let words = ["demo", "--board", "microvm", "--net", "user"];
    boot(workspace, &[&words[..], &["--cast", "echo0,kv0"]].concat())
}

fn demo_iommu(workspace: &Workspace) -> Result<Plan> {
    boot(workspace, &["demo", "--iommu"])
}

fn demo_new(workspace: &Workspace) -> Result<Plan> {
    boot(workspace, &["demo", "--qemu", "new"])
}

fn demo_new_packed(workspace: &Workspace) -> Result<Plan> {
    boot(workspace, &["demo", "--qemu", "new", "--ring", "packed"])
}

fn restarts(workspace: &Workspace) -> Result<Plan> {
    boot(workspace, &["qemu", "--restarts", "50"])
}

fn resets(workspace: &Workspace) -> Result<Plan> {
    boot(workspace, &["qemu", "--resets"])
}

fn resets_sealed(workspace: &Workspace) -> Result<Plan> {
    let words = ["qemu", "--resets", "--policy", "integrity"];
    boot(workspace, &[&words[..], &["--cast", "echo0,kv0"]].concat())
}

fn resets_ixgbe(workspace: &Workspace) -> Result<Plan> {
    on_models(workspace, &[&["qemu", "--nic", "ixgbe", "--resets"]])
}

fn pairs(workspace: &Workspace) -> Result<Plan> {
    boot(workspace, &["qemu", "--pairs", "200"])
}

fn early_free(workspace: &Workspace) -> Result<Plan> {
    boot(workspace, &["qemu", "--early-free"])
}

fn early_free_ixgbe(workspace: &Workspace) -> Result<Plan> {
    on_models(workspace, &[&["qemu", "--nic", "ixgbe", "--early-free"]])
}

fn restarts_long(workspace: &Workspace) -> Result<Plan> {
    boot(
        workspace,
        &["qemu", "--restarts", "1000", "--seconds", "800"],
    )
}

fn demo_ixgbe(workspace: &Workspace) -> Result<Plan> {
    on_models(
        workspace,
        &[&[
            "demo",
            "--nic",
            "ixgbe",
            "--requests",
            "4000",
            "--unplug",
            "4",
        ]],
    )
}

fn restarts_ixgbe(workspace: &Workspace) -> Result<Plan> {
    on_models(
        workspace,
        &[
            &["qemu", "--nic", "ixgbe", "--restarts", "50"],
            &["qemu", "--nic", "ixgbe", "--self-test"],
        ],
    )
}

/// One for each kind of check: bits, lengths of headers, limits, names.
fn attacks_ixgbe_few(workspace: &Workspace) -> Result<Plan> {
    let mut words = vec!["attack", "--nic", "ixgbe"];
    for name in [
        "legacy-descriptor",
        "header-lies",
        "tiny-segments",
        "endless-packet",
        "foreign-arp",
    ] {
        words.extend(["--only", name]);
    }
    on_models(workspace, &[&words])
}

fn attacks_ixgbe(workspace: &Workspace) -> Result<Plan> {
    on_models(workspace, &[&["attack", "--nic", "ixgbe"]])
}

fn attacks(workspace: &Workspace) -> Result<Plan> {
    boot(workspace, &["attack"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(features: &[&str]) -> Package {
        let features: serde_json::Map<_, _> = features
            .iter()
            .map(|name| ((*name).to_owned(), serde_json::json!([])))
            .collect();
        serde_json::from_value(serde_json::json!({
            "name": "p", "version": "0.1.0", "manifest_path": "/p/Cargo.toml", "features": features, "targets": [],
            "description": null, "keywords": [], "categories": [], "metadata": null, "rust_version": null, "publish": null,
        }))
        .unwrap()
    }

    #[test]
    fn few_features_are_built_in_every_combination() {
        let package = package(&["default", "a", "b"]);
        assert_eq!(
            combinations(&package),
            [vec![], vec!["a"], vec!["b"], vec!["a", "b"]]
        );
    }

    #[test]
    fn many_features_are_built_alone_and_together() {
        let package = package(&["a", "b", "c", "d", "e"]);
        let sets = combinations(&package);
        assert_eq!(sets.len(), 7);
        assert_eq!(sets.first(), Some(&vec![]));
        assert_eq!(sets.last(), Some(&vec!["a", "b", "c", "d", "e"]));
    }
}
