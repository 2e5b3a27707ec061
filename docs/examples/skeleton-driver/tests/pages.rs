//! The pages quote code that compiles, and their links lead somewhere.
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers may panic as their test"
)]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The checkout.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every Markdown file below `folder` that belongs to the project.
fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            pages(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

/// The fenced blocks of `page` that follow a comment `<!-- FILE -->`, with that file.
fn quotes(page: &str) -> impl Iterator<Item = (&str, &str)> {
    page.split("<!-- from ").skip(1).filter_map(|rest| {
        let (file, rest) = rest.split_once(" -->\n```rust\n")?;
        let (code, _) = rest.split_once("```")?;
        Some((file, code))
    })
}

/// Without indentation, so that a page may quote from inside an `impl`.
fn flat(code: &str) -> String {
    let lines = code.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn each_quotation_is_in_its_file() {
    let mut count = 0;
    for name in ["writing-a-driver.md", "writing-a-process.md"] {
        let page = read(&root().join("docs").join(name));
        assert_eq!(page.matches("<!-- from ").count(), quotes(&page).count());
        for (file, code) in quotes(&page) {
            let source = flat(&read(&root().join(file)));
            for part in code.split("// …\n") {
                assert!(source.contains(&flat(part)), "{name}, {file}:\n{part}");
            }
            count += 1;
        }
    }
    assert!(count > 10, "{count} quotations found");
}

/// The targets of the links in `page`, code blocks aside.
fn links(page: &str) -> Vec<String> {
    let text: String = page.split("```").step_by(2).collect();
    let targets = text.split("](").skip(1);
    let targets = targets.filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target.to_owned()).collect()
}

/// A heading as the address that a web page gives it.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    let kept: String = heading.trim().chars().filter(kept).collect();
    kept.to_lowercase().replace(' ', "-")
}

fn has_anchor(page: &Path, wanted: &str) -> bool {
    let text = read(page);
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let mut anchors = headings.map(|line| anchor(line.trim_start_matches('#')));
    anchors.any(|anchor| anchor == wanted)
}

#[test]
fn each_relative_link_leads_to_a_file_or_a_heading() {
    let (mut found, mut broken, mut count) = (Vec::new(), Vec::new(), 0);
    pages(&root(), &mut found);
    for page in &found {
        for link in links(&read(page)) {
            // Addresses on the web, and names that rustdoc resolves.
            if link.contains("://") || link.contains("::") || link.starts_with("mailto:") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((&link, ""));
            let target = match file {
                "" => page.clone(),
                _ => page.parent().unwrap().join(file),
            };
            let is_good = target.exists() && (heading.is_empty() || has_anchor(&target, heading));
            if !is_good {
                broken.push(format!("{}: {link}", page.display()));
            }
            count += 1;
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(count > 50, "{count} links found");
}
