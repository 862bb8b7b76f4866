//! The API that we compile is the API that the official clients were compiled from.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
    process::{Command, Output},
};

use ferromq::proto::DESCRIPTORS;
use prost::Message;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet, ServiceDescriptorProto,
    field_descriptor_proto::Type,
};

const PACKAGE: &str = "apache.rocketmq.v2";

/// What version 2.2.0 of the API added to messages and enums that the client, built on 2.1, also has. Its services may
/// lack whole methods.
const ADDED_SINCE: [&str; 2] =
    [".apache.rocketmq.v2.Settings.client_properties", ".apache.rocketmq.v2.Code.INVALID_CLIENT_PROPERTIES"];

/// The package's messages, enums and services, by full name.
#[derive(Default)]
struct Api {
    messages: BTreeMap<String, DescriptorProto>,
    enums: BTreeMap<String, EnumDescriptorProto>,
    services: BTreeMap<String, ServiceDescriptorProto>,
}

impl Api {
    fn of(set: &[u8]) -> Self {
        let mut api = Self::default();
        for file in FileDescriptorSet::decode(set).expect("a descriptor set").file {
            if file.package() == PACKAGE {
                let scope = format!(".{PACKAGE}");
                file.message_type.into_iter().for_each(|m| api.add_message(&scope, m));
                file.enum_type.into_iter().for_each(|e| api.add_enum(&scope, e));
                api.services.extend(file.service.into_iter().map(|s| (format!("{scope}.{}", s.name()), s)));
            }
        }
        api
    }
    fn add_message(&mut self, scope: &str, mut message: DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        std::mem::take(&mut message.nested_type).into_iter().for_each(|m| self.add_message(&name, m));
        std::mem::take(&mut message.enum_type).into_iter().for_each(|e| self.add_enum(&name, e));
        self.messages.insert(name, message);
    }
    fn add_enum(&mut self, scope: &str, e: EnumDescriptorProto) {
        self.enums.insert(format!("{scope}.{}", e.name()), e);
    }
    fn names(&self) -> impl Iterator<Item = &String> {
        self.messages.keys().chain(self.enums.keys()).chain(self.services.keys())
    }
    fn len(&self) -> usize {
        self.names().count()
    }
    fn missing_in<'a>(&'a self, other: &Self) -> Vec<&'a String> {
        self.names().filter(|name| !other.names().any(|n| n == *name)).collect()
    }
}

/// What a field is on the wire and in generated code.
fn shape(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let oneof = field.oneof_index.and_then(|i| message.oneof_decl.get(i as usize)).map(|o| o.name());
    // A descriptor without a JSON name stands for the default one.
    let json = field.json_name.clone().unwrap_or_else(|| lower_camel(field.name()));
    let kind = match field.r#type() {
        Type::Message | Type::Enum | Type::Group => field.type_name().to_owned(),
        scalar => scalar.as_str_name().to_owned(),
    };
    format!(
        "{} {kind} {} = {} (oneof {oneof:?}, optional {}, packed {:?}, json {json})",
        field.label().as_str_name(),
        field.name(),
        field.number(),
        field.proto3_optional(),
        field.options.as_ref().and_then(|o| o.packed),
    )
}

fn lower_camel(name: &str) -> String {
    let mut out = String::new();
    let mut upper = false;
    for c in name.chars() {
        match c {
            '_' => upper = true,
            c if upper => {
                out.push(c.to_ascii_uppercase());
                upper = false;
            }
            c => out.push(c),
        }
    }
    out
}

fn fields(message: &DescriptorProto) -> BTreeMap<String, String> {
    message.field.iter().map(|f| (f.name().to_owned(), shape(message, f))).collect()
}

fn values(e: &EnumDescriptorProto) -> BTreeMap<String, String> {
    e.value.iter().map(|v| (v.name().to_owned(), v.number().to_string())).collect()
}

fn methods(service: &ServiceDescriptorProto) -> BTreeMap<String, String> {
    let shape = |m: &prost_types::MethodDescriptorProto| {
        format!(
            "{} (stream {}) -> {} (stream {})",
            m.input_type(),
            m.client_streaming(),
            m.output_type(),
            m.server_streaming()
        )
    };
    service.method.iter().map(|m| (m.name().to_owned(), shape(m))).collect()
}

/// One member that is not the same on both sides.
struct Difference {
    member: String,
    ours: Option<String>,
    theirs: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |side: &Option<String>| side.clone().unwrap_or_else(|| "nothing".to_owned());
        write!(f, "{}: ours is {}, theirs is {}", self.member, shown(&self.ours), shown(&self.theirs))
    }
}

/// The members that differ, of everything that both have.
fn compare<T>(
    ours: &BTreeMap<String, T>,
    theirs: &BTreeMap<String, T>,
    members: fn(&T) -> BTreeMap<String, String>,
) -> Vec<Difference> {
    let mut found = Vec::new();
    for (name, a) in ours {
        let Some(b) = theirs.get(name) else { continue };
        let (mut a, mut b) = (members(a), members(b));
        let names: BTreeSet<String> = a.keys().chain(b.keys()).cloned().collect();
        for member in names {
            let (ours, theirs) = (a.remove(&member), b.remove(&member));
            if ours != theirs {
                found.push(Difference { member: format!("{name}.{member}"), ours, theirs });
            }
        }
    }
    found
}

fn differences(ours: &Api, theirs: &Api) -> Vec<Difference> {
    let mut all = compare(&ours.messages, &theirs.messages, fields);
    all.extend(compare(&ours.enums, &theirs.enums, values));
    all.extend(compare(&ours.services, &theirs.services, methods).into_iter().filter(|d| d.theirs.is_some()));
    all
}

fn run(command: &mut Command) -> Result<Output, String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(output);
    }
    Err(format!("{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr)))
}

/// The descriptors in the official Python client, fetched by name and hash.
fn official() -> Result<Api, String> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/wire");
    let wheel = tempfile::tempdir().map_err(|e| e.to_string())?;
    run(Command::new("python3")
        .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"])
        .args(["--only-binary", ":all:", "--dest"])
        .arg(wheel.path())
        .arg("--requirement")
        .arg(here.join("requirements.txt")))?;
    let output = run(Command::new("python3").arg("-B").arg(here.join("descriptors.py")).arg(wheel.path()))?;
    Ok(Api::of(&output.stdout))
}

#[test]
fn the_api_is_the_one_that_official_clients_speak() {
    let theirs = match official() {
        Ok(theirs) => theirs,
        Err(why) => return crate::harness::skipped(&format!("the official descriptors need python3 with pip: {why}")),
    };
    let ours = Api::of(DESCRIPTORS);
    // Far fewer would mean that the wheel was not read.
    assert!(theirs.len() >= 80, "the official client has {} messages, enums and services only", theirs.len());
    let missing = theirs.missing_in(&ours);
    assert!(missing.is_empty(), "proto/ does not have {missing:?}");
    let mut differences = differences(&ours, &theirs);
    differences.retain(|d| d.theirs.is_some() || !ADDED_SINCE.contains(&d.member.as_str()));
    let differences: Vec<_> = differences.iter().map(ToString::to_string).collect();
    assert!(differences.is_empty(), "mend proto/, the client is right:\n{}", differences.join("\n"));
}

#[test]
fn a_changed_field_value_or_method_is_a_difference() {
    let planted = |change: fn(&mut Api)| {
        let mut changed = Api::of(DESCRIPTORS);
        change(&mut changed);
        differences(&changed, &Api::of(DESCRIPTORS)).len()
    };
    assert_eq!(planted(|_| {}), 0);
    let message = ".apache.rocketmq.v2.Message";
    let changes: [fn(&mut DescriptorProto); 6] = [
        |m| m.field[0].number = Some(9),
        |m| m.field[0].name = Some("subject".into()),
        |m| m.field[0].json_name = Some("Topic".into()),
        |m| m.field[0].type_name = Some(".apache.rocketmq.v2.Digest".into()),
        |m| m.field[0].set_label(prost_types::field_descriptor_proto::Label::Repeated),
        |m| drop(m.field.pop()),
    ];
    for change in changes {
        let mut changed = Api::of(DESCRIPTORS);
        change(changed.messages.get_mut(message).expect("the API has messages"));
        assert_ne!(differences(&changed, &Api::of(DESCRIPTORS)).len(), 0);
    }
    assert_ne!(planted(|api| api.enums.values_mut().for_each(|e| e.value[0].number = Some(99))), 0);
    assert_ne!(planted(|api| api.services.values_mut().for_each(|s| s.method[0].server_streaming = Some(true))), 0);
}
