//! The `overcoat` program.

fn main() -> std::process::ExitCode {
    overcoat::cli::main()
}
