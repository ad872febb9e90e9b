//! The program `tillgate`.

use std::process::ExitCode;

// Transparent huge pages would cost 7 MiB idle and half as much again per connection.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tillgate::cli::run(std::env::args_os())
}
