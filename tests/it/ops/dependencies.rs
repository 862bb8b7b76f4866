//! What the program is made of: where it comes from, under which licences, and what is there twice.

use std::{collections::BTreeMap, path::Path, process::Command};

use serde_json::Value;

/// Licences that FerroMQ, under Apache-2.0, may be given away with.
const LICENCES: [&str; 10] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];
const SOURCE: &str = "registry+https://github.com/rust-lang/crates.io-index";
/// Crates that may not come back, with the reason.
const BANNED: [(&str, &str); 4] = [
    ("openssl-sys", "TLS is rustls; a system library is no static binary"),
    ("native-tls", "TLS is rustls"),
    ("aws-lc-sys", "needs cmake; ring is the one provider"),
    ("protobuf-src", "protoc is not needed"),
];
/// Crates of which several versions are in the lock file until those that ask for them agree.
const TWICE: [&str; 9] =
    ["base64", "bit-vec", "foldhash", "getrandom", "hashbrown", "logos", "logos-codegen", "logos-derive", "syn"];

/// Packages for Linux, the tests' and the build's own included.
fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-musl"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages").clone();
    packages.into_iter().filter(|p| p["name"] != env!("CARGO_PKG_NAME")).collect()
}

fn word<'a>(package: &'a Value, field: &str) -> &'a str {
    package[field].as_str().unwrap_or_default()
}

/// Whether an SPDX expression can be met: one side of every OR, both sides of every AND.
fn allowed(expression: &str) -> bool {
    // Older crates write a slash for OR.
    let expression = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = expression.split_whitespace().peekable();
    either(&mut words) && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn either(words: &mut Words<'_>) -> bool {
    let mut met = both(words);
    while words.next_if_eq(&"OR").is_some() {
        met |= both(words);
    }
    met
}

fn both(words: &mut Words<'_>) -> bool {
    let mut met = one(words);
    while words.next_if_eq(&"AND").is_some() {
        met &= one(words);
    }
    met
}

fn one(words: &mut Words<'_>) -> bool {
    match words.next() {
        Some("(") => either(words) & (words.next() == Some(")")),
        Some(name) => {
            let name = match words.next_if_eq(&"WITH") {
                Some(_) => format!("{name} WITH {}", words.next().unwrap_or_default()),
                None => name.to_owned(),
            };
            LICENCES.contains(&name.as_str())
        }
        None => false,
    }
}

#[test]
fn a_licence_expression_is_met_as_spdx_means_it() {
    for (expression, met) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("MIT/Apache-2.0", true),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("(GPL-3.0 OR MIT) AND ISC", true),
        ("MIT OR GPL-3.0 AND GPL-2.0", true),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("MIT WITH Strings-exception", false),
        ("", false),
        ("(MIT", false),
        ("MIT MIT", false),
    ] {
        assert_eq!(allowed(expression), met, "{expression}");
    }
}

#[test]
fn every_dependency_may_be_given_away_and_comes_from_the_registry() {
    let packages = packages();
    assert!(packages.len() > 100, "{}", packages.len());
    for package in &packages {
        let name = format!("{} {}", word(package, "name"), word(package, "version"));
        let licence = word(package, "license");
        assert!(allowed(licence), "{name} is under {licence:?}; may it be given away? then add it to LICENCES");
        assert_eq!(word(package, "source"), SOURCE, "{name} comes from elsewhere");
        let banned = BANNED.iter().find(|(banned, _)| *banned == word(package, "name"));
        assert!(banned.is_none(), "{banned:?}");
    }
}

#[test]
fn no_dependency_is_there_twice_without_being_known() {
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in packages() {
        versions.entry(word(&package, "name").to_owned()).or_default().push(word(&package, "version").to_owned());
    }
    let twice: Vec<_> = versions.iter().filter(|(_, v)| v.len() > 1).map(|(name, _)| name.as_str()).collect();
    assert_eq!(twice, TWICE, "more: see whether one version will do; fewer: shorten TWICE");
}
