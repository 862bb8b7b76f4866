//! A source file as the rules see it: code apart from comments and tests.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

pub struct Source {
    /// From the root of the repository, with `/`.
    pub path: String,
    text: String,
    /// Lines without comments; tests are empty lines. Line n is at n - 1.
    code: Vec<String>,
    /// Lines that are not tests.
    outside_tests: usize,
}

/// Every file of `src/` that is built without `cfg(test)`.
pub fn all() -> Vec<Source> {
    let files = below("src");
    let tests: BTreeSet<String> = files.iter().flat_map(|(path, text)| test_modules(path, text)).collect();
    let is_test =
        |path: &str| tests.iter().any(|test| path == format!("{test}.rs") || path.starts_with(&format!("{test}/")));
    files.into_iter().filter(|(path, _)| !is_test(path)).map(|(path, text)| Source::new(path, text)).collect()
}

/// Every file of `tests/` in Rust.
pub fn tests() -> Vec<Source> {
    below("tests").into_iter().map(|(path, text)| Source::new(path, text)).collect()
}

impl Source {
    fn new(path: String, text: String) -> Self {
        let mut code: Vec<String> = text.lines().map(without_comment).collect();
        let lines = code.len();
        let tests_at = code
            .windows(2)
            .position(|two| two[0].trim() == "#[cfg(test)]" && two[1].trim_start().starts_with("mod tests"))
            .filter(|at| !code[at + 1].trim_end().ends_with(';'));
        let outside_tests = tests_at.unwrap_or(lines);
        code[outside_tests..].iter_mut().for_each(String::clear);
        Self { path, text, code, outside_tests }
    }

    pub fn planted(path: &str, text: &str) -> Self {
        Self::new(path.to_owned(), text.to_owned())
    }

    /// The room that the file belongs to: its folder below `src/`, or its own name.
    pub fn room(&self) -> &str {
        let inner = self.path.trim_start_matches("src/");
        inner.split_once('/').map_or(inner.trim_end_matches(".rs"), |(room, _)| room)
    }

    pub fn lines_without_tests(&self) -> usize {
        self.outside_tests
    }

    pub fn complaint(&self, line: usize, what: String) -> String {
        format!("{}:{line}: {what}", self.path)
    }

    /// Lines of code that contain the text.
    pub fn lines_containing(&self, text: &str) -> Vec<usize> {
        self.numbered().filter(|(_, code)| code.contains(text)).map(|(line, _)| line).collect()
    }

    /// Lines, comments and tests included, that contain the text.
    pub fn raw_lines_containing(&self, text: &str) -> Vec<usize> {
        self.text.lines().enumerate().filter(|(_, line)| line.contains(text)).map(|(n, _)| n + 1).collect()
    }

    /// Lines of code that name the path or word, not as a part of a longer one.
    pub fn lines_naming(&self, word: &str) -> Vec<usize> {
        let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let names = |code: &str| {
            code.match_indices(word).any(|(at, _)| {
                let (before, after) = (&code[..at], &code[at + word.len()..]);
                let open_ended = word.ends_with(|c: char| !c.is_alphanumeric()) || word.ends_with("Tcp");
                !is_word(before.chars().next_back()) && (open_ended || !is_word(after.chars().next()))
            })
        };
        self.numbered().filter(|(_, code)| names(code)).map(|(line, _)| line).collect()
    }

    /// The rooms of this crate that the code names, with the line: `crate::room` and `use crate::{room::..., room}`.
    pub fn rooms_seen(&self) -> Vec<(usize, String)> {
        let code = self.code.join("\n");
        let mut seen = Vec::new();
        for (at, found) in code.match_indices("crate::") {
            let line = code[..at].matches('\n').count() + 1;
            let rest = &code[at + found.len()..];
            match rest.strip_prefix('{') {
                Some(list) => seen.extend(first_names(list).into_iter().map(|room| (line, room))),
                None => seen.push((line, word(rest))),
            }
        }
        // A type or function at the crate's root is nobody's room.
        seen.retain(|(_, room)| room.starts_with(|c: char| c.is_ascii_lowercase()));
        seen
    }

    fn numbered(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.iter().enumerate().map(|(n, code)| (n + 1, code.as_str()))
    }
}

/// The first name of each entry of a braced list, up to its closing brace.
fn first_names(list: &str) -> Vec<String> {
    let mut depth = 0;
    let mut names = vec![String::new()];
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(String::new()),
            _ => {}
        }
        if let Some(name) = names.last_mut() {
            name.push(c);
        }
    }
    names.iter().map(|name| word(name.trim_start_matches(|c: char| c == ',' || c.is_whitespace()))).collect()
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The line up to a comment. A `//` in a string goes too, unless it is a URL's: no rule misses it.
fn without_comment(line: &str) -> String {
    let comment = line.match_indices("//").find(|(at, _)| !line[..*at].ends_with(':'));
    line[..comment.map_or(line.len(), |(at, _)| at)].to_owned()
}

/// Paths, without `.rs`, of the modules that a file declares for tests only.
fn test_modules(path: &str, text: &str) -> Vec<String> {
    let folder = path.trim_end_matches(".rs");
    let folder = folder.strip_suffix("/mod").or_else(|| folder.strip_suffix("/lib")).unwrap_or(folder);
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let declared = |two: &[&str]| {
        let module =
            two[1].trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ").trim_start_matches("pub ");
        let name = module.strip_prefix("mod ")?.strip_suffix(';')?;
        (two[0].starts_with("#[cfg(") && two[0].contains("test")).then(|| format!("{folder}/{name}"))
    };
    lines.windows(2).filter_map(declared).collect()
}

/// The Rust files below a folder of the repository, by path.
fn below(folder: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                // What the tests of other languages install or build is not ours.
                let foreign = ["target", "node_modules"].iter().any(|name| path.ends_with(name));
                folders.extend((!foreign).then_some(path));
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).expect("below the root").to_string_lossy().replace('\\', "/");
                files.push((name, fs::read_to_string(&path).expect("a source file in UTF-8")));
            }
        }
    }
    files.sort();
    files
}

#[test]
fn rooms_are_seen_in_nested_lists_and_inline() {
    let code =
        "use crate::{\n    broker::{Broker, pop::Take},\n    proto::v2, Thing,\n};\nfn f() { crate::store::x() }\n";
    let seen = Source::planted("src/proxy/rpc/x.rs", code);
    assert_eq!(seen.room(), "proxy");
    let rooms: Vec<_> = seen.rooms_seen();
    assert_eq!(rooms, [(1, "broker".to_owned()), (1, "proto".to_owned()), (5, "store".to_owned())]);
}

#[test]
fn modules_for_tests_are_found() {
    let text = "#[cfg(test)]\nmod tests;\n#[cfg(any(test, feature = \"x\"))]\npub mod sim;\nmod real;\n";
    assert_eq!(test_modules("src/store/disk.rs", text), ["src/store/disk/tests", "src/store/disk/sim"]);
    assert_eq!(test_modules("src/store/mod.rs", text), ["src/store/tests", "src/store/sim"]);
}
