//! The sentences of `ARCHITECTURE.md` and the rules of the house, held against the source.
//!
//! Each rule returns complaints that name file, line and cure. An exception is an entry in a table here, with its reason.

mod source;

use std::{fs, path::Path};

use source::Source;

/// Who may see whom, and which crates a room may not know.
struct Fence {
    room: &'static str,
    /// Rooms of this crate that it sees.
    sees: &'static [&'static str],
    /// Paths that it may not name.
    never: &'static [&'static str],
}

const WIRE: &[&str] = &["tonic", "prost", "hyper", "tower", "std::path", "memmap2", "rustix", "std::net::Tcp"];

const FENCES: [Fence; 8] = [
    Fence { room: "types", sees: &[], never: &["tokio", "tonic", "prost", "hyper", "std::fs", "std::thread"] },
    Fence { room: "meter", sees: &[], never: &["tokio", "tonic", "prost", "hyper", "std::fs", "std::time"] },
    Fence { room: "store", sees: &["meter", "types"], never: &["tokio", "tonic", "prost", "hyper", "tower"] },
    Fence { room: "broker", sees: &["store", "meter", "types"], never: WIRE },
    Fence { room: "remoting", sees: &["types"], never: &["tonic", "prost", "hyper", "memmap2"] },
    Fence { room: "namesrv", sees: &["remoting", "types"], never: &["tonic", "prost", "hyper", "memmap2"] },
    Fence {
        room: "proxy",
        sees: &["broker", "namesrv", "auth", "proto", "types", "drain", "observe", "meter"],
        never: &["memmap2"],
    },
    Fence {
        room: "classic",
        sees: &["remoting", "broker", "namesrv", "auth", "types", "drain", "observe"],
        never: &["tonic", "prost", "memmap2"],
    },
];

#[test]
fn rooms_see_only_what_the_plan_lets_them_see() {
    let complain = |source: &Source| {
        let Some(fence) = FENCES.iter().find(|f| f.room == source.room()) else { return Vec::new() };
        let mut found = Vec::new();
        for (line, seen) in source.rooms_seen() {
            if seen != fence.room && !fence.sees.contains(&seen.as_str()) {
                found.push(
                    source.complaint(line, format!("`{}` may not know `{seen}`; see {:?}", fence.room, fence.sees)),
                );
            }
        }
        for path in fence.never {
            for line in source.lines_naming(path) {
                found.push(source.complaint(line, format!("`{}` may not name `{path}`", fence.room)));
            }
        }
        found
    };
    let planted = Source::planted("src/store/x.rs", "use crate::{broker::Broker, types::Clock};\nuse tokio::spawn;\n");
    assert_eq!(complain(&planted).len(), 2);
    hold(complain);
}

/// Words that only some files may use.
struct Reserved {
    words: &'static [&'static str],
    /// Files, or folders that end in `/`.
    to: &'static [&'static str],
    cure: &'static str,
}

const RESERVED: [Reserved; 4] = [
    Reserved {
        words: &["env::var", "env::vars", "env::var_os", "env::vars_os"],
        to: &["src/config.rs", "src/config/"],
        cure: "only config reads the environment; take the value from there",
    },
    Reserved {
        words: &["Instant::now", "SystemTime::now"],
        // The command line is a client of the server and measures from outside.
        to: &["src/types/time.rs", "src/cli/"],
        cure: "only types/time.rs reads clocks; take a Clock",
    },
    Reserved {
        words: &["std::fs", "fs::", "File::create", "OpenOptions", "tokio::fs"],
        // Configuration and certificates are read; the ports file and what a user asks the command line for are written.
        to: &[
            "src/store/",
            "src/config.rs",
            "src/config/",
            "src/cli/",
            "src/server.rs",
            "src/server/",
            "src/proxy/tls.rs",
        ],
        cure: "only store/ touches files; go through Store",
    },
    Reserved {
        words: &["unsafe"],
        to: &["src/store/mmap.rs", "src/memcpy.rs"],
        cure: "unsafe lives in store/mmap.rs and memcpy.rs alone; use a safe interface, or another crate's",
    },
];

#[test]
fn clocks_files_environment_and_unsafe_stay_in_their_rooms() {
    let complain = |source: &Source| {
        let mut found = Vec::new();
        for rule in &RESERVED {
            if rule.to.iter().any(|to| source.path == *to || (to.ends_with('/') && source.path.starts_with(to))) {
                continue;
            }
            for word in rule.words {
                for line in source.lines_naming(word) {
                    found.push(source.complaint(line, format!("`{word}`: {}", rule.cure)));
                }
            }
        }
        found
    };
    let code = "let a = Instant::now();\nunsafe { x() }\n// unsafe std::fs\n#![deny(unsafe_code)]\n";
    assert_eq!(complain(&Source::planted("src/broker/x.rs", code)).len(), 2);
    assert_eq!(complain(&Source::planted("src/store/mmap.rs", code)).len(), 1);
    hold(complain);
}

/// Calls of `unwrap` and `expect` outside of tests. Each `expect` says the invariant that it rests on; lower the number
/// when some go.
const PANICS_MAX: usize = 15;

#[test]
fn unwraps_and_expects_stay_within_their_budget() {
    let count = |source: &Source| {
        let mut found: Vec<_> = source.lines_containing(".unwrap()");
        found.extend(source.lines_containing(".expect("));
        found.iter().map(|line| source.complaint(*line, "may panic".to_owned())).collect::<Vec<_>>()
    };
    let tested = "a.unwrap();\n#[cfg(test)]\nmod tests {\n    b.unwrap();\n}\n";
    assert_eq!(count(&Source::planted("src/x.rs", tested)).len(), 1);
    let found: Vec<_> = source::all().iter().flat_map(count).collect();
    assert!(
        found.len() <= PANICS_MAX,
        "{} calls of unwrap and expect, the budget is {PANICS_MAX}; return an error instead:\n{}",
        found.len(),
        found.join("\n")
    );
}

/// Lines of a file, its tests left out.
const FILE_LINES_MAX: usize = 500;

#[test]
fn files_hold_one_job_and_not_more_lines_than_that_takes() {
    let complain = |source: &Source| {
        let lines = source.lines_without_tests();
        (lines > FILE_LINES_MAX)
            .then(|| {
                source.complaint(1, format!("{lines} lines without tests; split it, the most is {FILE_LINES_MAX}"))
            })
            .into_iter()
            .collect::<Vec<_>>()
    };
    let long = "x();\n".repeat(FILE_LINES_MAX);
    assert!(complain(&Source::planted("src/x.rs", &format!("{long}#[cfg(test)]\nmod tests {{\n}}\n"))).is_empty());
    assert_eq!(complain(&Source::planted("src/x.rs", &format!("{long}x();\n"))).len(), 1);
    hold(complain);
}

#[test]
fn nothing_is_left_unfinished_or_unrun() {
    // Spelled in halves, so that this file does not complain about itself.
    let marks =
        ["todo!|(", "unimplemented!|(", "#[ig|nore", "FIX|ME", "XX|X:", "dbg!|("].map(|mark| mark.replace('|', ""));
    let complain = |source: &Source| {
        let hits = |mark: &String| {
            let cure = format!("`{mark}`: finish it, or take it out");
            source
                .raw_lines_containing(mark)
                .into_iter()
                .map(|line| source.complaint(line, cure.clone()))
                .collect::<Vec<_>>()
        };
        marks.iter().flat_map(hits).collect::<Vec<_>>()
    };
    let planted = marks.iter().map(|mark| format!("{mark}\n")).collect::<String>();
    assert_eq!(complain(&Source::planted("src/x.rs", &planted)).len(), marks.len());
    let found: Vec<_> = source::all().iter().chain(&source::tests()).flat_map(complain).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_two_readmes_say_the_same() {
    let read = |name: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect("a README");
    let (english, chinese) = (read("README.md"), read("README.zh.md"));
    for command in ["cargo run --release", ".ci/run"] {
        assert!(english.contains(command), "README.md does not name `{command}`");
        assert!(chinese.contains(command), "README.zh.md does not name `{command}`");
    }
    let (ours, theirs) = (heading_levels(&english), heading_levels(&chinese));
    assert_eq!(ours, theirs, "levels of the headings of README.md and README.zh.md; keep the two alike");
}

#[test]
fn headings_within_code_are_no_headings() {
    assert_eq!(heading_levels("# a\n```sh\n# comment\n```\n## b\ntext # c\n"), [1, 2]);
}

/// The level of each heading, in order.
fn heading_levels(markdown: &str) -> Vec<usize> {
    let mut in_code = false;
    let mut levels = Vec::new();
    for line in markdown.lines() {
        in_code ^= line.trim_start().starts_with("```");
        let level = line.bytes().take_while(|b| *b == b'#').count();
        if !in_code && (1..=6).contains(&level) && line.as_bytes().get(level) == Some(&b' ') {
            levels.push(level);
        }
    }
    levels
}

/// Fails with every complaint about `src/`.
fn hold(complain: impl Fn(&Source) -> Vec<String>) {
    let found: Vec<_> = source::all().iter().flat_map(complain).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}
