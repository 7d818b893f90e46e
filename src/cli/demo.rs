//! `pillion demo`: placeholder.
pub fn run() -> std::process::ExitCode {
    super::exit::INTERNAL.into()
}
