//! Configuration files: RocketMQ's properties (`.conf`, `.properties`), TOML, YAML, and the proxy's JSON.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use config::{FileFormat, Value, ValueKind};

use super::keys::named;

/// Bytes of a configuration file at most: more is some other file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// One `key=value` of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Assignment {
    pub key: String,
    pub value: String,
    /// From 1; `None` for formats whose parser does not tell.
    pub line: Option<usize>,
}

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{path}: {source}; give the path of a configuration file that this user may read")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} has {bytes} bytes, a configuration file has at most {FILE_BYTES_MAX}; is it the right file?")]
    TooLarge { path: PathBuf, bytes: u64 },
    #[error("{path} ends in none of .conf, .properties, .toml, .yaml, .yml, .json; rename it after its format")]
    Format { path: PathBuf },
    #[error("{path}: {why}; it is read as {format}, as its name ends: mend it there, or rename it after its format")]
    Syntax { path: PathBuf, format: &'static str, why: String },
}

/// Reads a file in the format that its name says.
pub fn read(path: &Path) -> Result<Vec<Assignment>, FileError> {
    let failed = |source| FileError::Read { path: path.into(), source };
    let bytes = fs::metadata(path).map_err(failed)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(FileError::TooLarge { path: path.into(), bytes });
    }
    let text = fs::read_to_string(path).map_err(failed)?;
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    let (format, parsed) = match extension.as_str() {
        "conf" | "properties" => ("properties (key=value)", properties(&text)),
        "toml" => ("TOML", tree(&text, FileFormat::Toml)),
        "yaml" | "yml" => ("YAML", tree(&text, FileFormat::Yaml)),
        "json" => ("JSON", json(&text)),
        _ => return Err(FileError::Format { path: path.into() }),
    };
    parsed.map_err(|why| FileError::Syntax { path: path.into(), format, why })
}

/// Java's properties, as `java.util.Properties` reads them: `#` and `!` start comments, `=` or `:` ends the key, a
/// backslash escapes or continues.
fn properties(text: &str) -> Result<Vec<Assignment>, String> {
    let mut out = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let mut logical = line.trim_start().to_owned();
        if logical.is_empty() || logical.starts_with(['#', '!']) {
            continue;
        }
        while continues(&logical) {
            logical.pop();
            let Some((_, next)) = lines.next() else { break };
            logical.push_str(next.trim_start());
        }
        let (key, value) = split_entry(&logical);
        let wrong = |why: &str| format!("line {}: {why}", at + 1);
        let key = unescape(key.trim()).map_err(|e| wrong(&e))?;
        if key.is_empty() {
            return Err(wrong("there is no key before the value; write key=value"));
        }
        out.push(Assignment { key, value: unescape(value.trim()).map_err(|e| wrong(&e))?, line: Some(at + 1) });
    }
    Ok(out)
}

/// Whether a line ends in an odd number of backslashes.
fn continues(line: &str) -> bool {
    line.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1
}

fn split_entry(line: &str) -> (&str, &str) {
    let mut escaped = false;
    for (at, c) in line.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '=' | ':' => return (&line[..at], &line[at + 1..]),
            _ => {}
        }
    }
    (line, "")
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('t') => out.push('\t'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('u') => {
                let digits: String = chars.by_ref().take(4).collect();
                let code = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32);
                out.push(code.ok_or("what follows \\u is not a character; write four hex digits")?);
            }
            Some(other) => out.push(other),
            None => {}
        }
    }
    Ok(out)
}

fn tree(text: &str, format: FileFormat) -> Result<Vec<Assignment>, String> {
    let parsed = config::Config::builder()
        .add_source(config::File::from_str(text, format))
        .build()
        .map_err(|e| without_quotes(&e.to_string()))?;
    let ValueKind::Table(table) = parsed.cache.kind else { return Ok(Vec::new()) };
    let mut out = table.into_iter().map(|(key, value)| assignment(key, value)).collect::<Result<Vec<_>, _>>()?;
    // The parser's map has no order; ours makes messages repeatable.
    out.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(out)
}

/// A parser's complaint on one line, and without the line of the file that TOML's quotes behind a bar: it may have a password.
fn without_quotes(complaint: &str) -> String {
    let is_quote = |line: &&str| line.trim_start_matches(|c: char| c == ' ' || c.is_ascii_digit()).starts_with('|');
    let words = complaint.lines().filter(|line| !is_quote(line)).flat_map(str::split_whitespace);
    words.collect::<Vec<_>>().join(" ")
}

fn assignment(key: String, value: Value) -> Result<Assignment, String> {
    let value = match value.kind {
        ValueKind::Nil => String::new(),
        ValueKind::Table(_) => {
            return Err(format!("{} is a table; settings are flat, write key and value", named(&key)));
        }
        // Lists are written with semicolons in RocketMQ's properties (`deleteWhen=04;16`).
        ValueKind::Array(items) => {
            let items = items.into_iter().map(|v| assignment(key.clone(), v).map(|a| a.value));
            items.collect::<Result<Vec<_>, _>>()?.join(";")
        }
        scalar => scalar.to_string(),
    };
    Ok(Assignment { key, value, line: None })
}

fn json(text: &str) -> Result<Vec<Assignment>, String> {
    let map: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).map_err(|e| {
        // What is JSON and no object would be told with its value.
        let (line, column) = (e.line(), e.column());
        let why = if e.is_data() { format!("no object at line {line} column {column}") } else { e.to_string() };
        format!("{why}; the file holds one JSON object of settings")
    })?;
    map.into_iter()
        .map(|(key, value)| {
            let value = match value {
                serde_json::Value::Null => String::new(),
                serde_json::Value::String(text) => text,
                serde_json::Value::Bool(_) | serde_json::Value::Number(_) => value.to_string(),
                _ => return Err(format!("{} is neither text, number nor flag; settings are flat", named(&key))),
            };
            Ok(Assignment { key, value, line: None })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(parsed: Result<Vec<Assignment>, String>) -> Vec<(String, String)> {
        parsed.expect("parses").into_iter().map(|a| (a.key, a.value)).collect()
    }
    fn pair(key: &str, value: &str) -> (String, String) {
        (key.into(), value.into())
    }

    #[test]
    fn properties_read_as_java_reads_them() {
        let text =
            "# comment\n! comment\n\n a = b c \nkey:value\nlong=one,\\\n    two\nurl=http://x:1\nu=\\u4e2d\\t.\nbare\n";
        let expected = [
            pair("a", "b c"),
            pair("key", "value"),
            pair("long", "one,two"),
            pair("url", "http://x:1"),
            pair("u", "中\t."),
            pair("bare", ""),
        ];
        assert_eq!(pairs(properties(text)), expected);
    }

    #[test]
    fn properties_know_their_lines() {
        let lines: Vec<_> = properties("a=1\n\n#x\nb=2\\\n3\nc=4").expect("parses").iter().map(|a| a.line).collect();
        assert_eq!(lines, [Some(1), Some(4), Some(6)]);
    }

    #[test]
    fn a_line_without_key_is_refused_with_its_number() {
        assert!(properties("a=1\n=2").expect_err("refused").starts_with("line 2: "));
        assert!(properties("a=\\uzzzz").expect_err("refused").contains("four hex digits"));
    }

    #[test]
    fn toml_yaml_and_json_give_the_same_settings() {
        let expected =
            [pair("autoCreateTopicEnable", "false"), pair("deleteWhen", "04;16"), pair("grpcServerPort", "1")];
        let toml = "grpcServerPort = 1\nautoCreateTopicEnable = false\ndeleteWhen = ['04', '16']\n";
        assert_eq!(pairs(tree(toml, FileFormat::Toml)), expected);
        let yaml = "grpcServerPort: 1\nautoCreateTopicEnable: false\ndeleteWhen: ['04', '16']\n";
        assert_eq!(pairs(tree(yaml, FileFormat::Yaml)), expected);
        let json_text = r#"{"autoCreateTopicEnable": false, "deleteWhen": "04;16", "grpcServerPort": 1}"#;
        assert_eq!(pairs(json(json_text)), expected);
    }

    #[test]
    fn tables_are_refused_with_their_key() {
        assert!(tree("[store]\na = 1\n", FileFormat::Toml).expect_err("refused").starts_with("store is a table"));
        assert!(json(r#"{"a": {}}"#).expect_err("refused").starts_with("a is neither"));
        assert!(tree("a = [", FileFormat::Toml).is_err());
    }

    #[test]
    fn a_slip_is_told_with_its_place_and_never_with_what_stands_there() {
        for (format, text) in [
            (FileFormat::Toml, "a = 1\nmetricsGrpcExporterHeader = authorization:sesame\n"),
            (FileFormat::Toml, "a = 1\nx = \"sesame\n"),
            (FileFormat::Toml, "a = 1\nsesame\n"),
            (FileFormat::Yaml, "a: 1\nmetricsGrpcExporterHeader: authorization: sesame\n"),
            (FileFormat::Yaml, "a: 1\nx: \"sesame\n"),
        ] {
            let refused = tree(text, format).expect_err(text);
            assert!(refused.contains("line") && !refused.contains("sesame"), "{text}: {refused}");
        }
        for text in ["\"sesame\"", "{\"a\": sesame}", "{\"a\": \"sesame\" 1}", "{\"a:sesame\": {}}"] {
            let refused = json(text).expect_err(text);
            assert!(!refused.contains("sesame"), "{text}: {refused}");
        }
        assert!(!properties("a=\\usesame").expect_err("refused").contains("sesa"));
    }

    proptest! {
        #[test]
        fn no_text_makes_a_reader_panic(text in "(?s).{0,200}") {
            let _ = properties(&text);
            let _ = tree(&text, FileFormat::Toml);
            let _ = tree(&text, FileFormat::Yaml);
            let _ = json(&text);
        }

        #[test]
        fn plain_pairs_read_back(key in "[a-zA-Z][a-zA-Z0-9]{0,30}", value in "[a-zA-Z0-9/._-]{0,40}") {
            prop_assert_eq!(pairs(properties(&format!("{key} = {value}"))), vec![(key, value)]);
        }
    }
}
