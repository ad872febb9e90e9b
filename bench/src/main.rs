//! The `lab` program: `cargo lab run`, `cargo lab compare`, `cargo demo`.

// The same allocator as the product, which runs inside this program in one of its roles.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    tillgate_bench::cli::main(std::env::args_os())
}
