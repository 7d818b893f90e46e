//! temporary
fn main() -> std::process::ExitCode {
    let file = std::env::args().nth(3).unwrap_or_default();
    pillion::cli::run::run(std::path::Path::new(&file), None)
}
