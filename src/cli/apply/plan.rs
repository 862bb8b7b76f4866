//! What lies between a document and a server: what to create, what to change, what to delete.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::{Value, json};

use crate::proto::admin as pb;

use super::{
    super::{group, topic},
    document::{self, Document, Group, Topic},
};

/// What the server has.
#[derive(Default)]
pub struct Present {
    pub topics: BTreeMap<String, pb::Topic>,
    pub groups: BTreeMap<String, pb::Group>,
}

/// The steps from one to the other, in the order in which they are taken.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// Entries of the document that are there as it says.
    pub unchanged: usize,
    /// What the document asks for and cannot have, in one sentence each.
    pub impossible: Vec<String>,
}

/// One topic or group.
#[derive(Debug, PartialEq)]
pub struct Step {
    pub verb: Verb,
    /// `topic` or `group`.
    pub what: &'static str,
    pub name: String,
    pub fields: Vec<Field>,
    pub calls: Vec<Call>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Create,
    Change,
    Delete,
}

/// An attribute that will be another one.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    pub name: &'static str,
    /// `None` of what is not there yet.
    pub from: Option<Value>,
    pub to: Value,
}

/// A call of the administration API.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    CreateTopic(pb::CreateTopicRequest),
    UpdateTopic(pb::UpdateTopicRequest),
    DeleteTopic(pb::DeleteTopicRequest),
    CreateGroup(pb::CreateGroupRequest),
    UpdateGroup(pb::UpdateGroupRequest),
    DeleteGroup(pb::DeleteGroupRequest),
}

impl Plan {
    /// With `prune`, what the document owns and does not name is deleted.
    pub fn between(document: &Document, present: &Present, prune: bool) -> Self {
        let mut plan = Self::default();
        for topic in &document.topics {
            match present.topics.get(topic.name.as_str()) {
                None => plan.steps.push(create_topic(topic)),
                Some(has) => {
                    let (step, shrinks) = change_topic(topic, has);
                    plan.impossible.extend(shrinks);
                    plan.take(step);
                }
            }
        }
        for group in &document.groups {
            match present.groups.get(group.name.as_str()) {
                None => plan.steps.push(create_group(group)),
                Some(has) => plan.take(change_group(group, has)),
            }
        }
        if prune {
            plan.prune(document, present);
        }
        plan
    }

    pub fn of(&self, verb: Verb) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(move |step| step.verb == verb)
    }

    fn take(&mut self, step: Step) {
        if step.fields.is_empty() { self.unchanged += 1 } else { self.steps.push(step) }
    }

    /// Groups go before topics: they refer to them.
    fn prune(&mut self, document: &Document, present: &Present) {
        let declared: BTreeSet<_> = document.groups.iter().map(|g| g.name.as_str()).collect();
        for name in present.groups.keys().filter(|name| !declared.contains(name.as_str())) {
            if document::owned(&document.owned_groups, name) {
                let call = Call::DeleteGroup(pb::DeleteGroupRequest { name: name.clone() });
                self.steps.push(Step::delete("group", name, call));
            }
        }
        let declared: BTreeSet<_> = document.topics.iter().map(|t| t.name.as_str()).collect();
        for name in present.topics.keys().filter(|name| !declared.contains(name.as_str())) {
            if document::owned(&document.owned_topics, name) {
                let call = Call::DeleteTopic(pb::DeleteTopicRequest { name: name.clone() });
                self.steps.push(Step::delete("topic", name, call));
            }
        }
    }
}

impl Step {
    fn delete(what: &'static str, name: &str, call: Call) -> Self {
        Self { verb: Verb::Delete, what, name: name.to_owned(), fields: Vec::new(), calls: vec![call] }
    }
}

/// The attributes that an entry names, with what the server has for each.
struct Fields(Vec<Field>);

impl Fields {
    /// Returns what to ask the server for: nothing when it has that already.
    fn compare<T: Copy>(
        &mut self,
        name: &'static str,
        wanted: Option<T>,
        has: Option<Value>,
        value: fn(T) -> Value,
    ) -> Option<T> {
        let to = value(wanted?);
        if has.as_ref() == Some(&to) {
            return None;
        }
        self.0.push(Field { name, from: has, to });
        wanted
    }
}

fn create_topic(wanted: &Topic) -> Step {
    let mut fields = Fields(Vec::new());
    let name = wanted.name.to_string();
    let kind = fields.compare("type", wanted.kind, None, |kind| kind.as_str().into());
    let queues = fields.compare("queues", wanted.queues, None, Value::from);
    let readable = fields.compare("readable", wanted.readable, None, Value::from);
    let writable = fields.compare("writable", wanted.writable, None, Value::from);
    let r#type = kind.map_or(pb::TopicType::Unspecified, topic::wire_type).into();
    let mut calls = vec![Call::CreateTopic(pb::CreateTopicRequest { name: name.clone(), r#type, queues })];
    // Topics are made readable and writable.
    if readable == Some(false) || writable == Some(false) {
        let change = pb::UpdateTopicRequest { name: name.clone(), readable, writable, ..Default::default() };
        calls.push(Call::UpdateTopic(change));
    }
    Step { verb: Verb::Create, what: "topic", name, fields: fields.0, calls }
}

fn change_topic(wanted: &Topic, has: &pb::Topic) -> (Step, Option<String>) {
    let mut fields = Fields(Vec::new());
    let name = wanted.name.to_string();
    let queues_there = has.read_queues.max(has.write_queues);
    let has_queues = Some(if has.read_queues == has.write_queues {
        has.read_queues.into()
    } else {
        format!("{} read, {} write", has.read_queues, has.write_queues).into()
    });
    let has_type = Some(topic::type_name(has).map_or(Value::Null, Value::from));
    let change = pb::UpdateTopicRequest {
        name: name.clone(),
        r#type: fields
            .compare("type", wanted.kind, has_type, |kind| kind.as_str().into())
            .map(|kind| topic::wire_type(kind).into()),
        queues: fields.compare("queues", wanted.queues, has_queues, Value::from),
        readable: fields.compare("readable", wanted.readable, Some(has.readable.into()), Value::from),
        writable: fields.compare("writable", wanted.writable, Some(has.writable.into()), Value::from),
    };
    let shrinks = change.queues.filter(|queues| *queues < queues_there).map(|queues| {
        format!("topic {name} has {queues_there} queues and cannot shrink to {queues}; declare {queues_there} or more")
    });
    let calls = vec![Call::UpdateTopic(change)];
    (Step { verb: Verb::Change, what: "topic", name, fields: fields.0, calls }, shrinks)
}

fn create_group(wanted: &Group) -> Step {
    let mut fields = Fields(Vec::new());
    let name = wanted.name.to_string();
    let fifo = fields.compare("fifo", wanted.fifo, None, Value::from).unwrap_or_default();
    let broadcast = fields.compare("broadcast", wanted.broadcast, None, Value::from).unwrap_or_default();
    let max_attempts = fields.compare("maxAttempts", wanted.max_attempts, None, Value::from);
    fields.compare("retryAfter", wanted.retry_after.as_ref(), None, |delays| policy(delays));
    let consume_enabled = fields.compare("consumeEnabled", wanted.consume_enabled, None, Value::from);
    let retry_policy = wanted.retry_after.clone().map(group::customized);
    let create = pb::CreateGroupRequest { name: name.clone(), fifo, max_attempts, retry_policy, broadcast };
    let mut calls = vec![Call::CreateGroup(create)];
    // Groups are made so that they may consume.
    if consume_enabled == Some(false) {
        calls.push(Call::UpdateGroup(pb::UpdateGroupRequest {
            name: name.clone(),
            consume_enabled,
            ..Default::default()
        }));
    }
    Step { verb: Verb::Create, what: "group", name, fields: fields.0, calls }
}

fn change_group(wanted: &Group, has: &pb::Group) -> Step {
    let mut fields = Fields(Vec::new());
    let name = wanted.name.to_string();
    let has_policy = Some(has_policy(has.retry_policy.as_ref()));
    let change = pb::UpdateGroupRequest {
        name: name.clone(),
        fifo: fields.compare("fifo", wanted.fifo, Some(has.fifo.into()), Value::from),
        broadcast: fields.compare("broadcast", wanted.broadcast, Some(has.broadcast.into()), Value::from),
        max_attempts: fields.compare("maxAttempts", wanted.max_attempts, Some(has.max_attempts.into()), Value::from),
        retry_policy: fields
            .compare("retryAfter", wanted.retry_after.as_ref(), has_policy, |delays| policy(delays))
            .cloned()
            .map(group::customized),
        consume_enabled: fields.compare(
            "consumeEnabled",
            wanted.consume_enabled,
            Some(has.consume_enabled.into()),
            Value::from,
        ),
    };
    Step { verb: Verb::Change, what: "group", name, fields: fields.0, calls: vec![Call::UpdateGroup(change)] }
}

/// Every delay: the text for people leaves some out of long ones.
fn policy(delays: &[Duration]) -> Value {
    let delays = delays.iter().map(|delay| group::policy_text(Some(&group::customized(vec![*delay]))));
    delays.collect::<Vec<_>>().join(",").into()
}

fn has_policy(has: Option<&pb::RetryPolicy>) -> Value {
    match has.and_then(|policy| policy.strategy.as_ref()) {
        Some(pb::retry_policy::Strategy::Customized(customized)) => {
            let delay = |wire: &prost_types::Duration| Duration::try_from(*wire).unwrap_or_default();
            policy(&customized.next.iter().map(delay).collect::<Vec<_>>())
        }
        _ => group::policy_text(has).into(),
    }
}

/// One line for each step, for people.
pub fn as_text(plan: &Plan) -> String {
    let mut out = String::new();
    for step in &plan.steps {
        let sign = match step.verb {
            Verb::Create => '+',
            Verb::Change => '~',
            Verb::Delete => '-',
        };
        let fields: Vec<String> = step.fields.iter().map(field_text).collect();
        let line = format!("{sign} {} {}  {}", step.what, step.name, fields.join(", "));
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn field_text(field: &Field) -> String {
    match &field.from {
        Some(from) => format!("{} {} -> {}", field.name, plain(from), plain(&field.to)),
        None => format!("{} {}", field.name, plain(&field.to)),
    }
}

/// A line for each attribute before and after, as `diff` has them.
pub fn as_diff(plan: &Plan) -> String {
    let mut out = String::new();
    for step in &plan.steps {
        let (before, after) = match step.verb {
            Verb::Create => ("nothing", "created"),
            Verb::Change => ("server", "document"),
            Verb::Delete => ("server", "deleted"),
        };
        out.push_str(&format!("--- {} {} ({before})\n+++ {0} {1} ({after})\n", step.what, step.name));
        for field in &step.fields {
            if let Some(from) = &field.from {
                out.push_str(&format!("-{}: {}\n", field.name, plain(from)));
            }
            out.push_str(&format!("+{}: {}\n", field.name, plain(&field.to)));
        }
    }
    out
}

/// For programs.
pub fn as_json(plan: &Plan, applied: bool) -> Value {
    let field = |f: &Field| json!({ "name": f.name, "from": f.from, "to": f.to });
    let verb = |verb| match verb {
        Verb::Create => "create",
        Verb::Change => "change",
        Verb::Delete => "delete",
    };
    let step = |s: &Step| {
        let fields: Vec<Value> = s.fields.iter().map(field).collect();
        json!({ "verb": verb(s.verb), "what": s.what, "name": s.name, "fields": fields })
    };
    let steps: Vec<Value> = plan.steps.iter().map(step).collect();
    json!({ "steps": steps, "unchanged": plan.unchanged, "applied": applied })
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "undecided".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
