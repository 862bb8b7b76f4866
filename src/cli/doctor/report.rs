//! What was found, for people and for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::Outcome;
use crate::cli::output;

/// What a step that is passed has to say.
pub enum Said {
    Fine(String),
    /// It goes on, and may not always: what, and what to do.
    Careful(String, String),
}

/// Why a step cannot be passed: what happened, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken {
    pub said: String,
    pub cure: String,
}

impl Broken {
    pub fn new(said: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { said: said.into(), cure: cure.into() }
    }
}

struct Step {
    name: &'static str,
    state: &'static str,
    said: String,
    cure: Option<String>,
}

pub struct Report {
    endpoint: String,
    steps: Vec<Step>,
    leaves: Vec<String>,
}

impl Report {
    pub fn new(endpoint: String) -> Self {
        Self { endpoint, steps: Vec::new(), leaves: Vec::new() }
    }

    /// Takes note of a step; what it found, unless it is broken.
    pub fn note<T>(&mut self, name: &'static str, outcome: Outcome<T>) -> Result<T, ()> {
        let (state, said, cure, found) = match outcome {
            Ok((found, Said::Fine(said))) => ("ok", said, None, Ok(found)),
            Ok((found, Said::Careful(said, cure))) => ("warning", said, Some(cure), Ok(found)),
            Err(Broken { said, cure }) => ("broken", said, Some(cure), Err(())),
        };
        self.steps.push(Step { name, state, said, cure });
        found
    }

    pub fn leaves(&mut self, what: String) {
        self.leaves.push(what);
    }

    /// Names the steps that were not reached.
    pub fn skip_rest(&mut self, all: &[&'static str]) {
        for name in &all[self.steps.len().min(all.len())..] {
            self.steps.push(Step { name, state: "skipped", said: String::new(), cure: None });
        }
    }

    pub fn text(&self, is_through: bool) -> String {
        let mut out = String::new();
        for Step { name, state, said, cure } in self.steps.iter().filter(|step| step.state != "skipped") {
            let _ = writeln!(out, "{state:<8} {name:<11} {}", output::harmless(said));
            if let Some(cure) = cure {
                let _ = writeln!(out, "{:<20} -> {}", "", output::harmless(cure));
            }
        }
        for what in &self.leaves {
            let _ = writeln!(out, "{:<8} {:<11} {}", "left", "", output::harmless(what));
        }
        let broken = self.steps.iter().find(|step| step.state == "broken").map_or("", |step| step.name);
        let _ = match is_through {
            true => writeln!(out, "a client gets through to {}", self.endpoint),
            false => writeln!(out, "a client of {} gets as far as: {broken}", self.endpoint),
        };
        out
    }

    pub fn json(&self, is_through: bool) -> Value {
        let step = |step: &Step| json!({"step": step.name, "state": step.state, "said": step.said, "cure": step.cure});
        json!({
            "endpoint": self.endpoint,
            "ok": is_through,
            "broken": self.steps.iter().find(|step| step.state == "broken").map(|step| step.name),
            "steps": self.steps.iter().map(step).collect::<Vec<_>>(),
            "leaves": self.leaves,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_broken_step_is_named_with_its_cure_and_the_rest_is_skipped() {
        let mut report = Report::new("h:1".into());
        assert_eq!(report.note("a", Ok((7, Said::Fine("fine".into())))), Ok(7));
        let broken: Outcome<()> = Err(Broken::new("it \u{1b}[31mfell", "mend it"));
        assert_eq!(report.note("b", broken), Err(()));
        report.skip_rest(&["a", "b", "c"]);
        let text = report.text(false);
        assert!(
            text.contains("broken   b") && text.contains("-> mend it") && text.ends_with("as far as: b\n"),
            "{text}"
        );
        assert!(!text.contains('\u{1b}'), "text of a server is shown, not obeyed");
        let json = report.json(false);
        assert_eq!((json["broken"].as_str(), json["steps"][2]["state"].as_str()), (Some("b"), Some("skipped")));
    }
}
