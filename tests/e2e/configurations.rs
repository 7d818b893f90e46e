//! Every configuration that is shown to users is a right one.

use crate::common::sidecar::Home;
use std::fs;
use std::path::{Path, PathBuf};

fn assert_right(name: &str, text: &str) {
    let home = Home::new(["mqtt://127.0.0.1:1"]);
    let path = home.path("gateway.toml");
    fs::write(&path, text).unwrap();
    let checked = home.run(&["check", "--config", path.to_str().unwrap()], b"");
    let told = String::from_utf8_lossy(&checked.stderr);
    assert_eq!(checked.status.code(), Some(0), "{name}:\n{text}\n{told}");
}

/// The blocks of this language in a page of Markdown.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let start = format!("```{language}\n");
    page.split(&start).skip(1).map(|part| part.split("```").next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn no_configuration_in_the_readme_is_wrong() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let blocks = blocks(&page, "toml");
    assert!(!blocks.is_empty(), "the README shows no configuration");
    for block in blocks {
        assert_right("README.md", &block);
    }
}

#[test]
fn no_shipped_configuration_is_wrong() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    let shipped: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|kind| kind == "toml")).collect();
    for path in shipped {
        assert_right(&path.display().to_string(), &fs::read_to_string(&path).unwrap());
    }
}
