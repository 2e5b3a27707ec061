//! The README's example is the program `examples/loopback.rs`, whole, and a short one. The README is the crate's
//! documentation, so that the same text is run as its test.

#[test]
fn the_readme_quotes_the_example_as_it_is() {
    let readme = include_str!("../README.md");
    let example = include_str!("../examples/loopback.rs");
    let quoted: Vec<&str> = readme.split("```").collect();
    assert!(
        quoted
            .iter()
            .any(|block| block.strip_prefix("rust\n") == Some(example))
    );
    assert!(example.lines().count() < 40);
}
