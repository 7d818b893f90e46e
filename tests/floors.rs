//! Holds every import to the floors: a file uses strictly lower floors only, or its own module's folder. Floor 0 is the
//! vocabulary: there a module may also use those that stand above it in the list, which keeps out cycles as well.
//!
//! The floors are read from `src/lib.rs`, where a comment `// Floor N` stands above the modules of that floor. `main.rs`
//! stands on top of all of them. Tests inside the modules are held to the same rule.
#![cfg(test)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A floor, and the place in its list.
type Place = (u32, usize);

/// Every module of the crate with its floor.
fn floors(map: &str) -> BTreeMap<String, Place> {
    let mut floors = BTreeMap::new();
    let mut floor = None;
    for line in map.lines() {
        if let Some(number) = line.strip_prefix("// Floor ") {
            floor = Some(number.trim().parse().expect("// Floor N"));
        }
        if let Some(module) = line.strip_prefix("pub mod ").and_then(|rest| rest.strip_suffix(';')) {
            let floor = floor.expect("no module stands above the first floor");
            floors.insert(module.to_owned(), (floor, floors.len()));
        }
    }
    floors
}

/// The crate's modules that a line of code names: `crate::spool::…`, and each of `crate::{spool::…, record}`.
fn named(code: &str, root: &str) -> Vec<String> {
    let start = format!("{root}::");
    let mut names = Vec::new();
    for (place, _) in code.match_indices(&start) {
        let is_path = code[..place].chars().next_back().is_none_or(|before| !before.is_alphanumeric() && before != '_');
        if is_path {
            names.extend(firsts(&code[place + start.len()..]));
        }
    }
    names
}

/// The first segment of a path, or of every path in a braced list.
fn firsts(path: &str) -> Vec<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(list) = path.strip_prefix('{') else { return vec![word(path)] };
    let (mut depth, mut items) = (0_u32, vec![String::new()]);
    for c in list.chars() {
        match c {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => items.push(String::new()),
            _ if depth == 0 => items.last_mut().expect("never empty").push(c),
            _ => {}
        }
    }
    items.iter().map(|item| word(item.trim())).filter(|item| !item.is_empty()).collect()
}

/// A piece of code: a line, or an import over several lines.
struct Statement {
    /// The number of its first line, from 1.
    line: usize,
    code: String,
    /// Whether it stands in a module inside the file.
    inside: bool,
}

/// The file's code without its comment lines.
fn statements(text: &str) -> Vec<Statement> {
    let mut statements: Vec<Statement> = Vec::new();
    let (mut open, mut inside) = (false, false);
    for (number, line) in (1..).zip(text.lines()) {
        let code = line.trim();
        if code.starts_with("//") {
            continue;
        }
        // rustfmt indents what is inside, and nothing else.
        let starts = line.starts_with("mod ") || line.starts_with("pub mod ");
        inside = (inside && line != "}") || (starts && line.ends_with('{'));
        match statements.last_mut().filter(|_| open) {
            Some(statement) => statement.code += code,
            None => statements.push(Statement { line: number, code: code.to_owned(), inside }),
        }
        // Only a list of imports goes on over several lines.
        let code = &statements.last().expect("just pushed").code;
        open = code.contains("use ") && code.contains('{') && !code.contains(';');
    }
    statements
}

/// How many modules up the longest `super::super::…` of this code leads.
fn climb(code: &str) -> usize {
    (1..).take_while(|steps| code.contains(&"super::".repeat(*steps))).count()
}

/// What is wrong with one file. `module` is the part of the map it belongs to, `None` for `main.rs`.
fn violations(file: &str, module: Option<&str>, text: &str, floors: &BTreeMap<String, Place>) -> Vec<String> {
    let own = module.map_or(Some((u32::MAX, 0)), |module| floors.get(module).copied());
    let Some((own, place)) = own else { return vec![format!("{file}: not on the map in src/lib.rs")] };
    let mut wrong = Vec::new();
    // src/spool/reader.rs is two steps below the crate's root; src/spool/mod.rs and src/host.rs are one.
    let depth = file.split('/').filter(|part| *part != "src" && *part != "mod.rs").count();
    for Statement { line, code, inside } in statements(text) {
        if climb(&code) >= depth + usize::from(inside) {
            wrong.push(format!("{file}:{line}: `super::` up to the root hides where it leads; write `crate::`"));
        }
        let root = if module.is_some() { "crate" } else { "pillion" };
        for name in named(&code, root).into_iter().filter(|name| Some(name.as_str()) != module) {
            match floors.get(&name) {
                None => wrong.push(format!("{file}:{line}: `{root}::{name}` is not on the map in src/lib.rs")),
                Some((floor, _)) if *floor < own => {}
                Some((0, other)) if own == 0 && *other < place => {}
                Some((floor, _)) => wrong.push(format!(
                    "{file}:{line}: {} (floor {own}) uses `{name}` (floor {floor}); a file uses strictly lower floors only",
                    module.unwrap_or("main"),
                )),
            }
        }
    }
    wrong
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => found.extend(sources(&path)),
            false => found.extend(path.extension().is_some_and(|kind| kind == "rs").then_some(path)),
        }
    }
    found.sort();
    found
}

#[test]
fn no_file_ever_imports_its_own_floor_or_a_higher_one() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let floors = floors(&fs::read_to_string(src.join("lib.rs")).expect("the map"));
    assert!(floors.len() > 10, "the map is read: {floors:?}");
    let mut wrong = Vec::new();
    for path in sources(&src) {
        let inside = path.strip_prefix(&src).expect("below src");
        let module = inside.components().next().expect("a name").as_os_str().to_string_lossy();
        let module = module.trim_end_matches(".rs");
        let module = Some(module).filter(|module| *module != "main");
        if module != Some("lib") {
            let text = fs::read_to_string(&path).expect("UTF-8");
            wrong.extend(violations(&format!("src/{}", inside.display()), module, &text, &floors));
        }
    }
    assert!(wrong.is_empty(), "imports against the floors:\n{}", wrong.join("\n"));
}

#[test]
fn no_way_of_writing_an_import_ever_hides_it() {
    let floors = floors(
        "// Floor 0\npub mod base;\npub mod low;\n// Floor 1\npub mod mid;\npub mod side;\n// Floor 2\npub mod top;\n",
    );
    let count = |module, text| violations("x.rs", module, text, &floors).len();
    assert_eq!(count(Some("mid"), "use crate::low::A;\nuse crate::mid::B;\n//! [`crate::top`]\nlet x = 1;"), 0);
    assert_eq!(count(Some("mid"), "use crate::side::A;"), 1);
    assert_eq!(count(Some("mid"), "fn f() { crate::top::run(pub_crate::x) }"), 1);
    assert_eq!(count(Some("low"), "use crate::{\n    low::{A, B},\n    mid,\n    top::C,\n};\nuse crate::side;"), 3);
    assert_eq!(count(Some("low"), "use crate::base::A;"), 0);
    assert_eq!(count(Some("base"), "use crate::low::A;"), 1);
    assert_eq!(count(Some("low"), "use crate::Nowhere;"), 1);
    assert_eq!(count(Some("low"), "use super::top;\nmod tests {\n    use super::*;\n}\nuse super::top;"), 2);
    let climbs = "use super::a;\nuse super::super::top;\nmod tests {\n    use super::super::a;\n}\n";
    assert_eq!(violations("src/low/x.rs", Some("low"), climbs, &floors).len(), 1);
    assert_eq!(count(Some("attic"), ""), 1);
    assert_eq!(count(None, "fn main() { pillion::top::run() }"), 0);
    assert_eq!(count(None, "fn main() { pillion::cellar::run() }"), 1);
    let wrong = violations("src/low.rs", Some("low"), "\nuse crate::top::X;", &floors);
    assert_eq!(wrong, ["src/low.rs:2: low (floor 0) uses `top` (floor 2); a file uses strictly lower floors only"]);
}
