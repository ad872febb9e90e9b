//! The `lab` program: `cargo lab run`, `cargo lab compare`, `cargo demo`.

fn main() -> std::process::ExitCode {
    tillgate_bench::cli::main(std::env::args_os())
}
