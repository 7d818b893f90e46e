//! The `pillion` program: hands over to the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    pillion::cli::main()
}
