//! The header and its example, as a C and a C++ compiler see them.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails where something is missing"
)]

use core::mem::offset_of;
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use mock_hw_c::{Code, Config, Host};

const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Werror", "-pedantic"];

/// A program that this test needs.
#[track_caller]
fn need(program: &str, package: &str) -> PathBuf {
    find(program).unwrap_or_else(|| {
        panic!("`{program}` is missing; install it with: sudo apt-get install -y {package}")
    })
}

fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// The folder of this package.
fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where cargo has put the libraries of this package: beside this test.
fn libraries() -> PathBuf {
    let own = env::current_exe().unwrap();
    own.parent().unwrap().to_owned()
}

/// A compiler that knows the header, and tells all it dislikes.
fn compiler(program: &str, package_of_it: &str) -> Command {
    let mut command = Command::new(need(program, package_of_it));
    command
        .args(WARNINGS)
        .arg("-I")
        .arg(package().join("include"));
    command
}

#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{text}{errors}",
        output.status
    );
    text
}

/// Builds the example against one of the libraries.
fn example(name: &str, link: &[&str]) -> PathBuf {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let mut search = std::ffi::OsString::from("-Wl,-rpath,");
    search.push(libraries());
    run(compiler("cc", "gcc")
        .arg("-std=c11")
        .arg("-o")
        .arg(&program)
        .arg(package().join("examples/models.c"))
        .arg("-L")
        .arg(libraries())
        .args(link)
        .arg(search));
    program
}

#[track_caller]
fn check_output(text: &str) {
    let starts = [
        "82599: received and sent",
        "NVMe: \"",
        "virtio-net: the common",
    ];
    for (line, start) in text.lines().zip(starts) {
        assert!(line.starts_with(start), "{text}");
    }
    assert_eq!(text.lines().count(), starts.len(), "{text}");
}

#[test]
fn the_example_in_c_runs_on_the_shared_library() {
    let program = example("models-shared", &["-lmock_hw_c"]);
    check_output(&run(&mut Command::new(program)));
}

#[test]
fn the_example_in_c_runs_on_the_static_library() {
    let link = ["-l:libmock_hw_c.a", "-lpthread", "-ldl", "-lm"];
    let program = example("models-static", &link);
    check_output(&run(&mut Command::new(&program)));
    let Some(valgrind) = find("valgrind") else {
        println!("not run under valgrind, which is not here");
        return;
    };
    let options = ["-q", "--error-exitcode=9", "--leak-check=full"];
    check_output(&run(Command::new(valgrind).args(options).arg(program)));
}

#[test]
fn the_header_is_one_for_cpp_too() {
    let file = write("header.cpp", "#include \"mock_hw.h\"\n");
    run(compiler("c++", "g++").arg("-fsyntax-only").arg(file));
}

/// Structures and numbers are the same on both sides.
#[test]
fn the_header_and_the_library_agree() {
    let mut text = String::from("#include \"mock_hw.h\"\n");
    let mut assert = |what: &str, value: i128| {
        text += &format!("_Static_assert({what} == {value}, \"{what}\");\n");
    };
    macro_rules! same {
        ($kind:ident as $name:literal, $($field:ident)*) => {
            assert(concat!("sizeof(", $name, ")"), size_of::<$kind>() as i128);
            $(assert(
                concat!("offsetof(", $name, ", ", stringify!($field), ")"),
                offset_of!($kind, $field) as i128,
            );)*
        };
    }
    same!(Host as "struct mock_hw_host", size user dma_read dma_write interrupt);
    same!(Config as "struct mock_hw_config", size mac queue_pairs queue_entries vectors
        virtual_functions reserved block_len reserved2 blocks features);
    for code in Code::ALL {
        let name = format!("MOCK_HW_E_{}", format!("{code:?}").to_uppercase());
        assert(&name, code.number().into());
    }
    assert("MOCK_HW_VERSION", mock_hw_c::mock_hw_version().into());
    run(compiler("cc", "gcc")
        .args(["-std=c11", "-fsyntax-only"])
        .arg(write("layout.c", &text)));
}

/// "In the header" means in the library, with the same number of arguments, and the other way round.
#[test]
fn the_header_has_all_functions_and_no_other() {
    let header = fs::read_to_string(package().join("include/mock_hw.h")).unwrap();
    let source = fs::read_to_string(package().join("src/exports.rs")).unwrap();
    let declared = functions(&header, ");", |before| {
        !before.contains('*') || before.contains("char *")
    });
    let exported = functions(&source, ") -> ", |before| {
        before.contains("extern \"C\" fn")
    });
    assert!(exported.len() > 20, "{exported:?}");
    assert_eq!(declared, exported);
}

/// The functions that a text declares, with how many arguments each takes, in the order of their names.
fn functions(text: &str, end: &str, is_one: impl Fn(&str) -> bool) -> Vec<(String, usize)> {
    let mut found: Vec<(String, usize)> = text
        .match_indices("mock_hw_")
        .filter_map(|(at, _)| {
            let line = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
            let before = &text[line..at];
            let (name, rest) = text[at..].split_once('(')?;
            let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            let is_declared =
                !before.trim().is_empty() && !before.starts_with([' ', '/', '#', '*']);
            if !is_name || !is_declared || !is_one(before) {
                return None;
            }
            let (arguments, _) = rest.split_once(end)?;
            let arguments = arguments
                .split(',')
                .filter(|argument| !argument.trim().is_empty() && argument.trim() != "void");
            Some((name.to_owned(), arguments.count()))
        })
        .collect();
    found.sort();
    found
}

fn write(name: &str, text: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, text).unwrap();
    path
}
