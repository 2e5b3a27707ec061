//! Every developer and user command of the project: `cargo xtask …`.
fn main() {}
