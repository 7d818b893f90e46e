//! The Yocto layer: what the recipe says of crates, files, users and licences holds against the files that say it
//! first. bitbake's own parser reads the recipe, oelint-adv checks it; tests/run installs both. No image is built here:
//! yocto/README.md says what that leaves open.

// clippy.toml exempts test functions; this exempts what they share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PROJECT: &str = env!("CARGO_MANIFEST_DIR");
const RECIPES: &str = "yocto/meta-pillion/recipes-connectivity/pillion";

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(PROJECT).join(path)).unwrap()
}

/// The one recipe; its name has the version.
fn recipe() -> PathBuf {
    Path::new(PROJECT).join(RECIPES).join(concat!("pillion_", env!("CARGO_PKG_VERSION"), ".bb"))
}

/// A program of the Python that tests/run installs; `None`, and a word about it, where that is not there.
fn python(program: &str) -> Option<Command> {
    let path = Path::new(PROJECT).join("target/test-python/bin").join(program);
    let probe = Command::new(path.with_file_name("python")).args(["-c", "import bb, oelint_adv"]).output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        println!("SKIPPED: target/test-python has no bitbake-setup and oelint-adv (tests/run installs them)");
        return None;
    }
    Some(Command::new(path))
}

fn stdout(output: Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}{stderr}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout).unwrap()
}

/// What bitbake makes of the recipe, with `image` as `${D}`; see yocto_recipe.py.
fn parsed(image: &Path) -> Option<Value> {
    let script = Path::new(PROJECT).join("tests/yocto_recipe.py");
    let output = python("python")?.arg("-B").arg(script).arg(recipe()).arg(image).output().unwrap();
    Some(serde_json::from_str(&stdout(output)).unwrap())
}

fn variable<'a>(parsed: &'a Value, name: &str) -> &'a str {
    parsed["variables"][name].as_str().unwrap_or_else(|| panic!("the recipe does not set {name}"))
}

/// Name, version and checksum of every crate that Cargo.lock takes from a registry, as lines of the recipe.
fn locked() -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for package in read("Cargo.lock").split("[[package]]").skip(1) {
        let value = |key: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
            line.map(|value| value.trim_matches('"').to_owned())
        };
        let (name, version) = (value("name").unwrap(), value("version").unwrap());
        let Some(source) = value("source") else { continue };
        assert!(source.starts_with("registry+"), "{name} {version} is from {source}: the recipe knows crates only");
        lines.insert(format!("crate://crates.io/{name}/{version};name={name}-{version}"));
        lines.insert(format!("SRC_URI[{name}-{version}.sha256sum] = \"{}\"", value("checksum").unwrap()));
    }
    lines
}

#[test]
fn no_crate_of_the_recipe_is_missing_nor_too_many() {
    let list = read(&format!("{RECIPES}/pillion-crates.inc"));
    let lines = list.lines().map(|line| line.trim_end_matches('\\').trim());
    let listed: BTreeSet<String> =
        lines.filter(|line| line.contains("://") || line.contains("[")).map(str::to_owned).collect();
    let locked = locked();
    let (missing, too_many): (Vec<_>, Vec<_>) =
        (locked.difference(&listed).collect(), listed.difference(&locked).collect());
    assert!(
        missing.is_empty() && too_many.is_empty(),
        "the recipe's crates are not those of Cargo.lock: run yocto/update-crates\n\
         missing: {missing:#?}\ntoo many: {too_many:#?}"
    );
}

#[test]
fn no_crate_goes_unchecked_by_the_build_system() {
    let Some(parsed) = parsed(Path::new("/nowhere")) else { return };
    let sources = parsed["sources"].as_object().unwrap();
    let unchecked: Vec<_> =
        sources.iter().filter(|(_, checksum)| !checksum.is_string()).map(|(name, _)| name).collect();
    assert!(unchecked.is_empty(), "without a checksum: {unchecked:?}");
    assert_eq!(sources.len() * 2, locked().len());
    assert_eq!(Path::new(variable(&parsed, "EXTERNALSRC")), Path::new(PROJECT).canonicalize().unwrap());
}

/// Every file that the Debian package takes from `systemd/` or from cargo, as it is installed, with its mode.
fn packaged() -> BTreeMap<PathBuf, u32> {
    let mut files = BTreeMap::new();
    let manifest = read("Cargo.toml");
    for line in manifest.lines().filter_map(|line| line.trim().strip_prefix("[\"")) {
        let [source, target, mode] = line.split('"').step_by(2).take(3).collect::<Vec<_>>()[..] else { continue };
        let mode = u32::from_str_radix(mode, 8).unwrap();
        let sources = if let Some((start, _)) = source.split_once("*@.*") {
            let (folder, start) = start.rsplit_once('/').unwrap();
            let names = fs::read_dir(Path::new(PROJECT).join(folder)).unwrap().map(|entry| entry.unwrap().file_name());
            names
                .map(|name| name.into_string().unwrap())
                .filter(|name| name.starts_with(start) && name.contains("@."))
                .collect()
        } else if source.starts_with("systemd/") || source.starts_with("target/release/") {
            vec![source.rsplit('/').next().unwrap().to_owned()]
        } else {
            continue;
        };
        for name in sources {
            let target = if target.ends_with('/') { format!("{target}{name}") } else { target.to_owned() };
            files.insert(Path::new("/").join(target), mode);
        }
    }
    files
}

/// Every file below `folder`, as if that were `/`, with its mode.
fn installed(root: &Path, folder: &Path, files: &mut BTreeMap<PathBuf, u32>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() {
            installed(root, &entry.path(), files);
        } else {
            let path = Path::new("/").join(entry.path().strip_prefix(root).unwrap());
            files.insert(path, metadata.permissions().mode() & 0o777);
        }
    }
}

#[test]
fn no_file_of_the_debian_package_is_missing_in_the_image() {
    let image = tempfile::tempdir().unwrap();
    let Some(parsed) = parsed(image.path()) else { return };
    // The group exists where bitbake runs this, but not here.
    let script = format!(
        "set -e; install() {{ command install $(echo \"$@\" | sed 's/-g pillion//'); }}\n{}\ndo_install",
        parsed["do_install"].as_str().unwrap()
    );
    stdout(Command::new("sh").args(["-c", &script]).env("BINARY", env!("CARGO_BIN_EXE_pillion")).output().unwrap());

    let mut files = BTreeMap::new();
    installed(image.path(), image.path(), &mut files);
    let link = Path::new("/usr/lib/systemd/system/gateway.service.wants/pillion@gateway.service");
    assert!(files.remove(link).is_some(), "gateway.service does not start its sidecar");
    let link = image.path().join(link.strip_prefix("/").unwrap());
    assert!(link.canonicalize().unwrap().ends_with("usr/lib/systemd/system/pillion@.service"));
    assert_eq!(files, packaged());

    let in_package = |path: &Path| {
        let patterns = ["FILES:pillion", "FILES:pillion-doc"].map(|name| variable(&parsed, name));
        let patterns = patterns.into_iter().flat_map(str::split_whitespace);
        patterns.map(|pattern| pattern.trim_end_matches("/*")).any(|folder| path.starts_with(folder))
    };
    let left_out: Vec<_> = files.keys().filter(|path| !in_package(path)).collect();
    assert!(left_out.is_empty(), "installed, but in no package: {left_out:?}");
    assert!(files.contains_key(Path::new(variable(&parsed, "CONFFILES:pillion"))));
    for unit in variable(&parsed, "SYSTEMD_SERVICE:pillion").split_whitespace() {
        assert!(files.contains_key(&Path::new("/usr/lib/systemd/system").join(unit)), "there is no {unit}");
    }
    assert_eq!(variable(&parsed, "SYSTEMD_AUTO_ENABLE:pillion"), "disable", "a template can't be enabled");
}

#[test]
fn the_image_never_has_another_user_than_sysusers_would_make() {
    let Some(parsed) = parsed(Path::new("/nowhere")) else { return };
    let sysusers = read("systemd/pillion.sysusers");
    let lines: Vec<Vec<&str>> = sysusers.lines().map(|line| line.split_whitespace().collect()).collect();
    let member_of: BTreeSet<&str> = lines.iter().filter(|line| line[0] == "m").map(|line| line[2]).collect();
    let home = *lines.iter().find(|line| line[0] == "u").unwrap().last().unwrap();

    let arguments: Vec<&str> = variable(&parsed, "USERADD_PARAM:pillion").split_whitespace().collect();
    let after = |option: &str| arguments[arguments.iter().position(|argument| *argument == option).unwrap() + 1];
    assert_eq!(after("--groups").split(',').collect::<BTreeSet<_>>(), member_of);
    assert_eq!(after("--home-dir"), home);
    assert_eq!(arguments.last(), Some(&"pillion"));
    // Debian's and base-passwd's; the others are the recipe's to add.
    let groups =
        variable(&parsed, "GROUPADD_PARAM:pillion").split(';').map(|group| group.split_whitespace().last().unwrap());
    assert_eq!(groups.chain(["dialout"]).collect::<BTreeSet<_>>(), member_of);
}

#[test]
fn no_licence_goes_unsaid() {
    let recipe = fs::read_to_string(recipe()).expect("the recipe's name has the version of Cargo.toml");
    let said = recipe.lines().find_map(|line| line.strip_prefix("LICENSE = ")).unwrap();
    let said: BTreeSet<&str> = said.split(['"', '(', ')', '|', '&', ' ']).filter(|name| !name.is_empty()).collect();
    // Where pillion runs. Macros are not linked, nor is what they use.
    let tree =
        "tree --locked --prefix none --format {l}|{p} --edges normal,no-proc-macro --target aarch64-unknown-linux-gnu";
    let tree = stdout(Command::new(env!("CARGO")).args(tree.split(' ')).current_dir(PROJECT).output().unwrap());
    let mut needed = BTreeSet::new();
    for (licence, package) in tree.lines().filter_map(|line| line.split_once('|')) {
        for part in licence.replace(['(', ')'], "").split(" AND ") {
            let choice: Vec<&str> = part.split(" OR ").flat_map(|part| part.split('/')).map(str::trim).collect();
            assert!(
                choice.iter().any(|name| said.contains(name)),
                "the recipe's LICENSE says nothing of {package}: {licence}"
            );
            needed.extend(choice.into_iter().map(str::to_owned));
        }
    }
    let too_many: Vec<_> = said.iter().filter(|name| !needed.contains(**name)).collect();
    assert!(too_many.is_empty(), "no crate needs the licences {too_many:?}");

    // As bitbake does it.
    for file in recipe.lines().filter_map(|line| line.trim().strip_prefix("file://LICENSE")) {
        let (end, sum) = file.trim_end_matches([' ', '\\']).split_once(";md5=").unwrap();
        let name = format!("LICENSE{end}");
        let output = Command::new("md5sum").arg(Path::new(PROJECT).join(&name)).output().unwrap();
        assert!(stdout(output).starts_with(sum), "{name} is not what LIC_FILES_CHKSUM says");
    }
}

#[test]
fn no_rule_of_the_recipe_linter_is_broken() {
    let layer = Path::new(PROJECT).join("yocto/meta-pillion");
    for release in ["scarthgap", "wrynose", "blacksail"] {
        let Some(mut linter) = python("oelint-adv") else { return };
        // There is no bug tracker and no entry among the CVEs to name, no use on the build machine, and no network here.
        for rule in
            ["var.suggestedvar.BUGTRACKER", "var.suggestedvar.CVE_PRODUCT", "var.bbclassextend", "vars.homepageping"]
        {
            linter.arg("--suppress").arg(format!("oelint.{rule}"));
        }
        linter
            .args(["--suppress", "oelint.vars.homepageping", "--quiet", "--release", release])
            .arg(recipe())
            .arg(layer.join("conf/layer.conf"));
        let output = linter.arg(layer.join("conf/fragments/sidecar.conf")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.trim().is_empty(), "{release}: {said}");
    }
}
