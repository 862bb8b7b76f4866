//! Sample files: every setting with its meaning, commented out at its default.

use std::fmt::Write as _;

use super::keys::{self, Key, Rule};

/// The spelling of a sample.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Format {
    /// RocketMQ's properties.
    Conf,
    Toml,
    Yaml,
}

/// Columns of a comment.
const WIDTH: usize = 100;

/// A file that changes nothing, to be edited.
pub fn render(format: Format) -> String {
    let mut out = String::from(
        "# FerroMQ's settings, all at their defaults. Take the # away in front of what you change.\n\
         # Sizes may be written 128MB; times 500ms, 30s, 2h, 3d. `ferromq config` shows what is in effect, and why.\n",
    );
    for section in &keys::SECTIONS {
        let _ = write!(out, "\n# {0}\n# {1}\n", section.title, "-".repeat(section.title.len()));
        for key in section.keys {
            out.push('\n');
            for line in wrap(key.doc) {
                let _ = writeln!(out, "# {line}");
            }
            let _ = writeln!(out, "# Value: {}.", key.rule);
            let _ = writeln!(out, "#{}", assignment(key, format));
        }
    }
    out
}

fn assignment(key: &Key, format: Format) -> String {
    let bare = match key.rule {
        Rule::Flag(_) => true,
        _ => key.default.parse::<u64>().is_ok_and(|n| n.to_string() == key.default),
    };
    let Key { name, default, .. } = key;
    match format {
        Format::Conf => format!("{name}={default}"),
        Format::Toml if bare => format!("{name} = {default}"),
        Format::Toml => format!("{name} = \"{default}\""),
        Format::Yaml if bare => format!("{name}: {default}"),
        Format::Yaml => format!("{name}: \"{default}\""),
    }
}

fn wrap(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        if lines[last].len() + word.len() >= WIDTH {
            lines.push(word.to_owned());
        } else {
            if !lines[last].is_empty() {
                lines[last].push(' ');
            }
            lines[last].push_str(word);
        }
    }
    lines
}
