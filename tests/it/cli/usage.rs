//! What the program says about itself.

use crate::harness::{run, stderr, stdout};

#[test]
fn help_has_examples_and_exit_codes() {
    let output = run(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    for part in ["Examples:", "ferromq produce", "Exit codes: 0 done, 1 failed, 2", "--ports-file", "completions"] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    for family in ["server", "config", "topic", "group", "produce", "consume", "health", "completions"] {
        let output = run(&[family, "--help"]);
        assert_eq!(output.status.code(), Some(0), "{family}");
        assert!(family == "server" || stdout(&output).contains("Example"), "{family} has no example");
    }
}

#[test]
fn version_is_one_line_with_the_number() {
    let output = run(&["--version"]);
    assert_eq!(stdout(&output), format!("ferromq {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_command_line_that_is_not_understood_exits_with_2() {
    for args in [
        &["nonsense"][..],
        &["--nonsense"],
        &["topic"],
        &["topic", "create"],
        &["topic", "create", "T", "--type", "odd"],
        &["topic", "update", "T"],
        &["consume", "T"],
        &["produce", "T", "body", "--prop", "novalue"],
        &["produce", "T", "body", "--endpoint", "nowhere"],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stdout(&output).is_empty(), "{args:?} prints to standard output");
        assert!(!stderr(&output).is_empty(), "{args:?} says nothing");
    }
}

#[test]
fn completions_are_printed_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = run(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        assert!(stdout(&output).contains("ferromq"), "{shell}");
    }
}

#[test]
fn nobody_there_is_one_line_with_the_address_and_the_cure() {
    for args in [
        &["health", "--admin", "127.0.0.1:1"][..],
        &["topic", "list", "--admin", "127.0.0.1:1"],
        &["produce", "T", "body", "--endpoint", "127.0.0.1:1"],
        &["consume", "T", "--group", "g", "--endpoint", "127.0.0.1:1"],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let text = stderr(&output);
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("127.0.0.1:1: Connection refused") && text.contains("is the server running"), "{text}");
    }
}
