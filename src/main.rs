//! The program: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Where a handler is refused, a signal ends the program all the same.
    let _ = keepstone::cli::signals::end_at_once(|| keepstone::cli::report_cancelled(std::env::args_os()));
    keepstone::cli::run(std::env::args_os())
}
