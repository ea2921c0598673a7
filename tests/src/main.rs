//! The binary `cairn` under another name, built together with the tests that run it.

fn main() -> std::process::ExitCode {
    cairn_cli::main()
}
