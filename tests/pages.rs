//! Man pages and completions: made, and taken by those who read them.

#[path = "../examples/pages.rs"]
#[expect(dead_code, reason = "it is run by this test instead of by its own main")]
mod made;

use std::process::Command;

#[test]
fn they_are_made_of_the_definitions_and_are_well_formed() {
    let folder = tempfile::tempdir().unwrap();
    made::write(folder.path()).unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    for (name, words) in [
        ("dsn.1", &["dsn\\-watch(1)", "Exit codes"][..]),
        ("dsn-watch.1", &["\\-\\-initial", "\\-\\-reconnect"]),
        ("dsn-on.1", &["DSN_VALUE", "\\-\\-retry", "before it is ended"]),
        ("dsn-wait-synced.1", &["newest version"]),
        ("dsn.bash", &["--reconnect", "synced"]),
        ("_dsn", &["--reconnect", "synced"]),
        ("dsn.fish", &["reconnect", "synced"]),
    ] {
        let text = read(name);
        assert!(words.iter().all(|word| text.contains(word)), "{name}: {text}");
    }
    let run = read("dsn-run.1");
    assert!(run.contains("bootstrap") && !run.contains("timeout"), "{run}");
    for (program, arguments, name) in [
        ("bash", &["-n"][..], "dsn.bash"),
        ("zsh", &["-n"], "_dsn"),
        ("fish", &["--no-execute"], "dsn.fish"),
    ] {
        let mut command = Command::new(program);
        match command.args(arguments).arg(folder.path().join(name)).output() {
            Ok(output) => assert!(
                output.status.success() && output.stderr.is_empty(),
                "{name}: {}",
                String::from_utf8_lossy(&output.stderr)
            ),
            Err(_) => eprintln!("SKIPPED: {program} is not here, so {name} was not tried"),
        }
    }
}
