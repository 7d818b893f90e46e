//! `pillion check`: placeholder.
pub fn run(_file: &std::path::Path, _instance: Option<&str>) -> std::process::ExitCode {
    super::exit::INTERNAL.into()
}
