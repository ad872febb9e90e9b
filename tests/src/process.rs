//! The program as a process of its own: the same entry as `tillgate`, for tests that send it
//! signals. Cargo offers no path to another package's binary.

fn main() -> std::process::ExitCode {
    tillgate::cli::run(std::env::args_os())
}
