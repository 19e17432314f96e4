//! Man pages and completions, out of the definitions of the command line itself.
//!
//! `cargo run --example pages -- FOLDER` writes `dsn.1`, `dsn-get.1` and so on, and the completions
//! `dsn.bash`, `_dsn` (zsh) and `dsn.fish`. They are not in the program, which stays small.

use std::io::Error;
use std::path::Path;

#[path = "../src/cli/args/mod.rs"]
#[expect(dead_code, reason = "the definitions alone are used here")]
mod args;

fn main() -> Result<(), Error> {
    let Some(folder) = std::env::args_os().nth(1) else {
        return Err(Error::other("name the folder: cargo run --example pages -- FOLDER"));
    };
    write(Path::new(&folder))
}

/// Writes all of them into a folder, which is made.
pub fn write(folder: &Path) -> Result<(), Error> {
    use clap_complete::Shell;
    std::fs::create_dir_all(folder)?;
    let mut definitions = args::Arguments::definitions();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut definitions, "dsn", folder)?;
    }
    clap_mangen::generate_to(args::Arguments::definitions(), folder)
}
