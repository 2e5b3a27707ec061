//! Stock memcached clients against the store, over the host's loopback: libmemcached's tools, which nobody here wrote.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[expect(dead_code, reason = "its main function")]
#[path = "../examples/kv_on_tcp.rs"]
mod kv_on_tcp;

use std::{
    io::{self, ErrorKind},
    net::TcpListener,
    path::PathBuf,
    process::{Command, Output},
    thread,
};

/// The names that a tool has: Debian calls `memcat` `memccat`, and so on.
fn names(tool: &str) -> [String; 2] {
    [format!("memc{tool}"), format!("mem{tool}")]
}

/// Runs one of libmemcached's tools.
fn run(tool: &str, arguments: &[&str]) -> Output {
    let found = names(tool).into_iter().find_map(|name| {
        let output = Command::new(name).args(arguments).output();
        let missing = |error: &io::Error| error.kind() == ErrorKind::NotFound;
        let found = !output.as_ref().is_err_and(missing);
        found.then(|| output.unwrap())
    });
    found.unwrap_or_else(|| {
        panic!(
            "libmemcached's tools are missing; install them with: sudo apt-get install -y libmemcached-tools"
        )
    })
}

/// Runs a tool that has to succeed, and returns what it says.
fn succeed(tool: &str, arguments: &[&str]) -> Vec<u8> {
    let output = run(tool, arguments);
    assert!(output.status.success(), "{tool} {arguments:?}: {output:?}");
    output.stdout
}

/// A file of `bytes` in a folder of this process's own.
fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("parakernel-kv-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn libmemcached_s_tools_find_a_memcached() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || kv_on_tcp::serve(&listener));

    let port_word = port.to_string();
    let capable = run("capable", &["-a", "-h", "127.0.0.1", "-p", &port_word]);
    let said = String::from_utf8_lossy(&capable.stdout);
    assert!(capable.status.success(), "{said}");
    assert!(said.contains("All tests passed"), "{said}");

    let servers = format!("--servers=127.0.0.1:{port}");
    let large: Vec<u8> = (0..900_000_u32)
        .map(|at| (at / 3).to_le_bytes()[0])
        .collect();
    let large_file = file("large", &large);
    let small_file = file("small", b"hello");
    let paths = [large_file.to_str().unwrap(), small_file.to_str().unwrap()];
    succeed("cp", &[&servers, paths[0], paths[1]]);
    assert_eq!(succeed("cat", &[&servers, "small"]), b"hello\n");
    // The tool adds a line end.
    assert!(succeed("cat", &[&servers, "large"]).strip_suffix(b"\n") == Some(&large));
    succeed("exist", &[&servers, "small"]);
    succeed("touch", &[&servers, "--expire=100", "small"]);
    succeed("ping", &[&servers]);
    let statistics = String::from_utf8(succeed("stat", &[&servers])).unwrap();
    assert!(statistics.contains("curr_items"), "{statistics}");
    succeed("rm", &[&servers, "small"]);
    assert!(!run("exist", &[&servers, "small"]).status.success());
    for load in ["get", "mget", "set"] {
        let kind = format!("--test={load}");
        succeed(
            "slap",
            &[&servers, "--concurrency=4", "--execute-number=200", &kind],
        );
    }
    succeed("flush", &[&servers]);
    assert!(!run("exist", &[&servers, "large"]).status.success());
    std::fs::remove_dir_all(large_file.parent().unwrap()).unwrap();
}
