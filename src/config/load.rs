//! Files in, configuration out: reading, drop-ins, and the order of things.
//!
//! `gateway.toml` comes first, then the `*.toml` files of `gateway.toml.d/` in name order (hidden ones aside). A file
//! that can't be read is a problem like any other. [`parse`] does all but the reading and touches no file itself.

use super::Config;
use super::problem::{Problem, Problems};
use super::reader::{Report, Source};
use super::sections::{self, Context};
use super::syntax;
use super::tree::{self, Table};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The largest configuration file in bytes: a thousand times what anyone writes, and little memory.
pub const MAX_FILE_BYTES: u64 = 1 << 20;
/// The most drop-in files.
const MOST_DROP_INS: usize = 100;

/// What a configuration depends on besides its files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The host's name, for `{host}`.
    pub host: String,
    /// `--instance`.
    pub instance: Option<String>,
    /// `$STATE_DIRECTORY`, which systemd sets: the default of `state_dir`.
    pub state_directory: Option<PathBuf>,
    /// `$RUNTIME_DIRECTORY`, likewise: the default of `runtime_dir`.
    pub runtime_directory: Option<PathBuf>,
    /// `$CREDENTIALS_DIRECTORY`, likewise: where files with secrets are looked for first.
    pub credentials_directory: Option<PathBuf>,
}

impl Surroundings {
    /// Reads the variables that systemd sets for a unit (systemd.exec(5)).
    pub fn from_env(host: String, instance: Option<String>) -> Self {
        Surroundings::from_variables(host, instance, |name| std::env::var_os(name))
    }

    fn from_variables(host: String, instance: Option<String>, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        // A unit can have several directories; the variable then holds them all with colons between.
        let first = |name| {
            let value = variable(name)?;
            let first = value.as_bytes().split(|byte| *byte == b':').next()?;
            (!first.is_empty()).then(|| PathBuf::from(OsString::from_vec(first.to_vec())))
        };
        Surroundings {
            host,
            instance,
            state_directory: first("STATE_DIRECTORY"),
            runtime_directory: first("RUNTIME_DIRECTORY"),
            credentials_directory: first("CREDENTIALS_DIRECTORY"),
        }
    }
}

/// A valid configuration and what is unwise about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Things that work and that the user may want to know.
    pub warnings: Vec<Problem>,
}

/// Reads `file` and its drop-ins.
///
/// # Errors
/// All problems at once, files that can't be read among them.
pub fn load(file: &Path, surroundings: &Surroundings) -> Result<Loaded, Problems> {
    let mut sources = Vec::new();
    let mut unread = Vec::new();
    match read(file) {
        Ok(source) => sources.push(source),
        Err(problem) => return Err(Problems { list: vec![problem], omitted: 0 }),
    }
    let (drop_ins, unreadable) = drop_ins(file);
    unread.extend(unreadable);
    for drop_in in drop_ins {
        match read(&drop_in) {
            Ok(source) => sources.push(source),
            Err(problem) => unread.push(problem),
        }
    }
    let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let folder = absolute.parent().unwrap_or(Path::new("/"));
    parse_sources(&sources, unread, surroundings, folder, &|path| path.is_file())
}

/// Makes a configuration of texts: the main file first, then its drop-ins in the order in which they are merged.
///
/// `folder` is where relative paths start; `is_file` says whether a credential is there.
///
/// # Errors
/// All problems at once.
pub fn parse(
    sources: &[Source],
    surroundings: &Surroundings,
    folder: &Path,
    is_file: &dyn Fn(&Path) -> bool,
) -> Result<Loaded, Problems> {
    parse_sources(sources, Vec::new(), surroundings, folder, is_file)
}

fn parse_sources(
    sources: &[Source],
    unread: Vec<Problem>,
    surroundings: &Surroundings,
    folder: &Path,
    is_file: &dyn Fn(&Path) -> bool,
) -> Result<Loaded, Problems> {
    let mut report = Report::new(sources, unread);
    let mut merged = Table::new();
    for (file, source) in sources.iter().enumerate() {
        tree::merge(&mut merged, syntax::document(file, source, &mut report));
    }
    let main = sources.first().and_then(|source| source.path().file_name()).unwrap_or_default().to_string_lossy();
    let stem = main.strip_suffix(".toml").unwrap_or(&main);
    let context = Context { surroundings, stem, folder, is_file };
    let config = sections::read(&merged, &mut report, &context);
    let warnings = report.finish()?;
    Ok(Loaded { config, warnings })
}

/// The drop-in files of `file` in name order, and the problem if they can't be listed.
fn drop_ins(file: &Path) -> (Vec<PathBuf>, Option<Problem>) {
    let mut folder = file.as_os_str().to_owned();
    folder.push(if file.extension().is_some_and(|extension| extension == "toml") { ".d" } else { ".toml.d" });
    let folder = PathBuf::from(folder);
    let is_drop_in = |path: &PathBuf| {
        let name = path.file_name().map(OsStrExt::as_bytes).unwrap_or_default();
        name.ends_with(b".toml") && !name.starts_with(b".")
    };
    let listed = fs::read_dir(&folder).and_then(|entries| {
        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
        let drop_ins = paths.filter(|path| path.as_ref().map_or(true, is_drop_in));
        drop_ins.take(MOST_DROP_INS + 1).collect::<io::Result<Vec<PathBuf>>>()
    });
    match listed {
        Ok(mut drop_ins) if drop_ins.len() <= MOST_DROP_INS => {
            drop_ins.sort();
            (drop_ins, None)
        }
        Ok(_) => {
            (Vec::new(), Some(about(&folder, format!("holds more than {MOST_DROP_INS} files; merge some of them"))))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => (Vec::new(), None),
        Err(error) => (Vec::new(), Some(about(&folder, format!("the folder of drop-in files can't be read: {error}")))),
    }
}

fn read(path: &Path) -> Result<Source, Problem> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
    match read {
        Err(error) => Err(about(path, format!("can't be read: {error}{}", advice(&error)))),
        Ok(length) if u64::try_from(length).is_ok_and(|length| length > MAX_FILE_BYTES) => {
            Err(about(path, "is larger than 1 MiB; this can't be a configuration of pillion".to_owned()))
        }
        Ok(_) => match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(Source::new(path, text)),
            Err(error) => {
                let sound = bytes.get(..error.valid_up_to()).unwrap_or_default();
                let sound = Source::new(path, &String::from_utf8_lossy(sound));
                let (line, column) = sound.position(sound.text().len());
                let message = "not UTF-8 text; save the file as UTF-8".to_owned();
                Err(Problem { line, column, ..about(path, message) })
            }
        },
    }
}

/// What to do about a file that can't be read, where that is not plain.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; the service runs as user and group pillion, which must be allowed to",
        _ => "",
    }
}

fn about(path: &Path, message: String) -> Problem {
    Problem { file: path.to_owned(), line: 0, column: 0, key: String::new(), message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    struct Folder(TempDir);

    impl Folder {
        fn new() -> Self {
            Folder(TempDir::new().unwrap())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
            let path = self.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }

        fn load(&self) -> Result<Loaded, Problems> {
            load(&self.path("gateway.toml"), &surroundings())
        }

        /// The problems, one a line, without this folder's name.
        fn problems(&self) -> String {
            let text = self.load().unwrap_err().to_string();
            text.replace(&format!("{}/", self.0.path().display()), "")
        }
    }

    fn surroundings() -> Surroundings {
        Surroundings { host: "pi".to_owned(), ..Surroundings::default() }
    }

    #[test]
    fn an_empty_file_never_needs_more_than_defaults() {
        let folder = Folder::new();
        folder.write("gateway.toml", "");
        let Loaded { config, warnings } = folder.load().unwrap();
        assert_eq!(warnings, []);
        assert_eq!(config.instance, "gateway");
        assert_eq!(config.state_dir, Path::new("/var/lib/pillion/gateway"));
        assert_eq!(config.runtime_dir, Path::new("/run/pillion/gateway"));
        assert_eq!(config.mqtt.client_id, "pi-gateway");
        assert_eq!(config.mqtt.topic_prefix, "pillion/pi/gateway");
        assert_eq!(config.serial, []);
    }

    #[test]
    fn drop_ins_never_merge_in_another_order_than_their_names() {
        let folder = Folder::new();
        folder.write(
            "gateway.toml",
            "[mqtt]\ninflight = 1\nusername = \"main\"\n[[serial]]\nname = \"a\"\npath = \"/dev/a\"\nbaud = 300\n",
        );
        folder.write("gateway.toml.d/20-b.toml", "mqtt.inflight = 3\n[[serial]]\nname = \"a\"\npath = \"/dev/z\"\n");
        folder.write("gateway.toml.d/10-a.toml", "mqtt.inflight = 2\n[[serial]]\nname = \"b\"\npath = \"/dev/b\"\n");
        folder.write("gateway.toml.d/.hidden.toml", "not = [TOML");
        folder.write("gateway.toml.d/30-off.toml.bak", "not = [TOML");
        let config = folder.load().unwrap().config;
        assert_eq!(config.mqtt.inflight, 3);
        assert_eq!(config.mqtt.username.as_deref(), Some("main"));
        let devices: Vec<_> =
            config.serial.iter().map(|s| (s.name.as_str(), s.line.path.to_str().unwrap(), s.line.baud)).collect();
        assert_eq!(devices, [("a", "/dev/z", 300), ("b", "/dev/b", 9600)]);
    }

    #[test]
    fn a_drop_in_that_adds_to_a_list_of_tables_never_takes_the_others_away() {
        let folder = Folder::new();
        folder.write(
            "gateway.toml",
            "[app]\nunit = \"old.service\"\n[homeassistant]\nenable = true\n\
             [[homeassistant.sensor]]\ndevice = \"meter\"\nfield = \"u\"\nname = \"U\"\n\
             [[homeassistant.sensor]]\ndevice = \"meter\"\nfield = \"i\"\nname = \"I\"\n\
             [[managed_file]]\nkey = \"one\"\npath = \"/etc/one\"\nhealthy_within = \"2s\"\n\
             [[modbus]]\nname = \"bus\"\npath = \"/dev/b\"\n[[modbus.unit]]\nname = \"meter\"\nunit = 1\n\
             [[modbus.unit.poll]]\nname = \"u\"\naddress = 0\ntable = \"holding\"\n\
             [[modbus.unit.poll]]\nname = \"i\"\naddress = 1\ntable = \"holding\"\n",
        );
        folder.write(
            "gateway.toml.d/more.toml",
            "[app]\nunit = \"new.service\"\n\
             [[homeassistant.sensor]]\ndevice = \"meter\"\nfield = \"i\"\nname = \"Current\"\n\
             [[managed_file]]\nkey = \"one\"\npath = \"/etc/other\"\n[[managed_file]]\nkey = \"two\"\npath = \"/etc/two\"\n\
             [[modbus]]\nname = \"bus\"\n[[modbus.unit]]\nname = \"meter\"\n\
             [[modbus.unit.poll]]\nname = \"i\"\naddress = 7\n[[modbus.unit.poll]]\nname = \"p\"\naddress = 2\ntable = \"holding\"\n\
             [[modbus.unit]]\nname = \"pump\"\nunit = 2\n\
             [[modbus.unit.poll]]\nname = \"on\"\ntable = \"coil\"\naddress = 0\n",
        );
        let config = folder.load().unwrap().config;
        assert_eq!(config.app.unit.as_deref(), Some("new.service"));
        let sensors: Vec<_> = config.homeassistant.sensors.iter().map(|sensor| sensor.name.as_deref()).collect();
        assert_eq!(sensors, [Some("U"), Some("Current")]);
        let files: Vec<_> =
            config.managed_files.iter().map(|f| (f.path.to_str().unwrap(), f.healthy_within.as_secs())).collect();
        assert_eq!(files, [("/etc/other", 2), ("/etc/two", 60)]);
        let units = &config.modbus[0].units;
        let polls = |unit: &crate::config::modbus::Unit| {
            unit.polls.iter().map(|poll| (poll.name.clone(), poll.address)).collect::<Vec<_>>()
        };
        assert_eq!(units.iter().map(|unit| unit.name.as_str()).collect::<Vec<_>>(), ["meter", "pump"]);
        assert_eq!(polls(&units[0]), [("u".into(), 0), ("i".into(), 7), ("p".into(), 2)]);
    }

    #[test]
    fn a_problem_never_names_the_wrong_file_after_the_merge() {
        let folder = Folder::new();
        folder.write("gateway.toml", "\n[mqtt]\ninflight = 0\nkeep_alive = \"1h\"\n[[serial]]\nname = \"a\"\n");
        folder
            .write("gateway.toml.d/a.toml", "[mqtt]\nkeep_alive = 7\n\n[[serial]]\nname = \"a\"\npaht = \"/dev/a\"\n");
        folder.write(
            "gateway.toml.d/b.toml",
            "[[serial]]\nname = \"b\"\npath = \"/dev/b\"\n[[serial]]\nname = \"b\"\npath = \"/dev/c\"",
        );
        assert_eq!(
            folder.problems(),
            "gateway.toml:3:12: mqtt.inflight: 0 is out of range; give 1 to 65535, such as 128\n\
             gateway.toml:5:1: serial.a.path: is missing; give one, such as path = \"/dev/serial/by-id/usb-…\"\n\
             gateway.toml.d/a.toml:2:14: mqtt.keep_alive: 7 has no unit; write \"7s\" for seconds (units: ms, s, m, h, d)\n\
             gateway.toml.d/a.toml:6:1: serial.a.paht: unknown key; did you mean `path`?\n\
             gateway.toml.d/b.toml:5:8: serial.b.name: \"b\" is taken by the device at gateway.toml.d/b.toml:2; give each \
             device its own name"
        );
    }

    #[test]
    fn devices_never_vanish_behind_a_serial_that_is_no_list() {
        let folder = Folder::new();
        folder.write("gateway.toml", "[serial]\nname = \"a\"\npath = \"/dev/a\"\n");
        folder.write("gateway.toml.d/b.toml", "[[serial]]\nname = \"b\"\npath = \"/dev/b\"\n");
        let problem = "gateway.toml:1:1: serial: a table is not a list; write [[serial]] once for each device";
        assert_eq!(folder.problems(), problem);
        folder.write("gateway.toml", "[[serial]]\nname = \"a\"\npath = \"/dev/a\"\n");
        folder.write("gateway.toml.d/b.toml", "serial = 5");
        let problem = "gateway.toml.d/b.toml:1:10: serial: 5 is not a list; write [[serial]] once for each device";
        assert_eq!(folder.problems(), problem);
        folder.write("gateway.toml", "[app]\nunit = \"gateway.service\"\n");
        folder.write("gateway.toml.d/b.toml", "app.unit = [\"other.service\"]");
        let problems = folder.problems();
        assert!(problems.starts_with("gateway.toml.d/b.toml:1:12: app.unit: "), "{problems}");
    }

    #[test]
    fn a_file_that_cannot_be_read_never_goes_unmentioned() {
        let folder = Folder::new();
        assert_eq!(folder.problems(), "gateway.toml: can't be read: No such file or directory (os error 2)");
        folder.write("gateway.toml", "baud = 1\n[[serial]]\nname = \"a\"\n");
        folder.write("gateway.toml.d/good.toml", "");
        fs::create_dir(folder.path("gateway.toml.d/folder.toml")).unwrap();
        symlink("/nowhere/at/all", folder.path("gateway.toml.d/gone.toml")).unwrap();
        assert_eq!(
            folder.problems(),
            "gateway.toml:1:1: baud: unknown key; it belongs in [[serial]]\n\
             gateway.toml.d/folder.toml: can't be read: Is a directory (os error 21)\n\
             gateway.toml.d/gone.toml: can't be read: No such file or directory (os error 2)",
            "the path that seems to be missing may stand in one of them"
        );
        fs::remove_dir_all(folder.path("gateway.toml.d")).unwrap();
        folder.write("gateway.toml", "");
        folder.write("gateway.toml.d", "");
        assert_eq!(
            folder.problems(),
            "gateway.toml.d: the folder of drop-in files can't be read: Not a directory (os error 20)"
        );
    }

    #[test]
    fn what_is_no_text_is_never_parsed() {
        let folder = Folder::new();
        folder.write("gateway.toml", b"# gr\xc3\xbcn\n# gr\xfcn\n");
        assert_eq!(folder.problems(), "gateway.toml:2:5: not UTF-8 text; save the file as UTF-8");
        folder.write("gateway.toml", vec![b'\n'; 1 << 20]);
        assert!(folder.load().is_ok(), "1 MiB is the limit and not beyond it");
        folder.write("gateway.toml", vec![b'\n'; (1 << 20) + 1]);
        let problem = "gateway.toml: is larger than 1 MiB; this can't be a configuration of pillion";
        assert_eq!(folder.problems(), problem);
    }

    #[test]
    fn too_many_drop_ins_never_fill_the_memory() {
        let folder = Folder::new();
        folder.write("gateway.toml", "");
        (0..=MOST_DROP_INS).for_each(|number| folder.write(&format!("gateway.toml.d/{number}.toml"), ""));
        assert_eq!(folder.problems(), "gateway.toml.d: holds more than 100 files; merge some of them");
    }

    #[test]
    fn a_password_file_is_never_looked_for_in_the_working_folder() {
        let folder = Folder::new();
        folder.write("gateway.toml", "[mqtt]\nusername = \"gw\"\npassword_file = \"mqtt.password\"\n");
        folder.write("credentials/other", "");
        let surroundings = Surroundings { credentials_directory: Some(folder.path("credentials")), ..surroundings() };
        let resolved = || load(&folder.path("gateway.toml"), &surroundings).unwrap().config.mqtt.password_file;
        assert_eq!(resolved(), Some(folder.path("mqtt.password")));
        folder.write("credentials/mqtt.password", "");
        assert_eq!(resolved(), Some(folder.path("credentials/mqtt.password")));
    }

    #[test]
    fn a_list_of_directories_is_never_taken_for_one() {
        let variables = |name: &str| match name {
            "STATE_DIRECTORY" => Some(OsString::from("/var/lib/a:/var/lib/b")),
            "RUNTIME_DIRECTORY" => Some(OsString::from("")),
            "CREDENTIALS_DIRECTORY" => Some(OsString::from("/run/credentials/x")),
            _ => None,
        };
        let surroundings = Surroundings::from_variables("pi".to_owned(), None, variables);
        assert_eq!(surroundings.state_directory, Some(PathBuf::from("/var/lib/a")));
        assert_eq!(surroundings.runtime_directory, None);
        assert_eq!(surroundings.credentials_directory, Some(PathBuf::from("/run/credentials/x")));
    }
}
