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
    let (first, more) = blocks.split_first().expect("the README shows a configuration");
    assert_right("README.md", first);
    // The others add to it: they speak of what is in there.
    for block in more {
        let home = Home::new(["mqtt://127.0.0.1:1"]);
        let path = home.path("gateway.toml");
        fs::write(&path, first).unwrap();
        fs::create_dir(home.path("gateway.toml.d")).unwrap();
        fs::write(home.path("gateway.toml.d/more.toml"), block).unwrap();
        let checked = home.run(&["check", "--config", path.to_str().unwrap()], b"");
        assert_eq!(checked.status.code(), Some(0), "{block}\n{}", String::from_utf8_lossy(&checked.stderr));
    }
}

#[test]
fn no_message_in_the_readme_is_one_that_pillion_never_says() {
    fn sources(folder: &Path, text: &mut String) {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            match entry.is_dir() {
                true => sources(&entry, text),
                false => text.push_str(&fs::read_to_string(&entry).unwrap()),
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut said = String::new();
    sources(&root.join("src"), &mut said);
    // Long texts go on in the next line.
    let said = said.replace("\\\n", "\n").split_whitespace().collect::<Vec<_>>().join(" ");
    let page = fs::read_to_string(root.join("README.md")).unwrap();
    let table = page.split("| what you see |").nth(1).expect("the table of what you see");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let messages = rows.map(|row| row.split('`').nth(1).expect("a message in each row")).collect::<Vec<_>>();
    assert!(messages.len() >= 8, "{messages:?}");
    for message in messages.iter().filter(|message| !message.starts_with('"')) {
        assert!(said.contains(message), "nothing in src/ says {message:?}");
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
