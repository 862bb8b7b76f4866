//! What the chart tells its users to do: the first message of its notes, and the ways in from outside.

use std::{collections::BTreeSet, fs, path::Path, process::Command, time::Duration};

use serde_json::{Value, json};

use super::chart::{chart, each, of_kind, render, tools, valid};
use crate::{
    clients::process,
    harness::{self, Server, directory, file, stderr, stdout, text},
};

/// What helm prints behind an installation. It renders that only where there is a cluster, so a copy of the chart has it as a
/// manifest.
fn notes(tools: &Path, dir: &Path, args: &[&str]) -> String {
    let copy = dir.join("chart");
    let templates = copy.join("templates");
    if !copy.exists() {
        let said = process::run(Command::new("cp").arg("-r").arg(chart()).arg(&copy), Duration::from_secs(10));
        assert!(said.expect("cp runs").status.success());
        let text = fs::read_to_string(templates.join("NOTES.txt")).expect("there");
        fs::write(templates.join("_notes.tpl"), format!("{{{{- define \"notes\" }}}}{text}{{{{- end }}}}"))
            .expect("written");
        let map = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: notes\ndata:\n  notes: {{ include \"notes\" . | toJson }}\n";
        fs::write(templates.join("notes.yaml"), map).expect("written");
    }
    let mut helm = Command::new(tools.join("helm"));
    helm.args(["template", "mq"]).arg(&copy).args(["--kube-version", "1.37.0", "--namespace", "shop"]);
    let said =
        process::run(helm.args(["-s", "templates/notes.yaml"]).args(args), Duration::from_secs(60)).expect("helm runs");
    assert!(said.status.success(), "{args:?}: {}", said.stderr);
    let objects = valid(tools, &said.stdout).unwrap_or_else(|complaints| panic!("{args:?}:\n{complaints}"));
    objects[0]["data"]["notes"].as_str().expect("text").to_owned()
}

/// The arguments of a command of the notes: on this machine, behind the port that is forwarded, or in the pod.
fn command(line: &str) -> Option<Vec<String>> {
    let in_pod = line.split_once("/usr/local/bin/ferromq ").map(|(_, command)| command);
    let command = in_pod.or_else(|| line.trim_start().strip_prefix("ferromq "))?;
    Some(command.split_whitespace().map(|word| word.trim_matches('\'').to_owned()).collect())
}

/// A server with the settings, topics and groups of a rendering, but for what only the pod has.
fn server_of(dir: &Path, objects: &[Value]) -> Server {
    let data = |key: &str| of_kind(objects, "ConfigMap").into_iter().find_map(|map| map["data"][key].as_str());
    let is_here = |line: &&str| !line.contains("tlsCertPath") && !line.contains("tlsKeyPath");
    let settings: Vec<&str> = data("ferromq.yaml").expect("settings").lines().filter(is_here).collect();
    let settings = file(dir, "ferromq.yaml", &settings.join("\n"));
    let server = Server::start_with(dir, &["-c", text(&settings), "--set", "metricsPromExporterHost=127.0.0.1"]);
    if let Some(topics) = data("topics.yaml") {
        let document = file(dir, "topics.yaml", topics);
        let applied = server.admin_command(&["apply", "-f", text(&document), "--wait", "10s"]);
        assert!(applied.status.success(), "{}", stderr(&applied));
    }
    server
}

fn goes_through(server: &Server, command: &[String]) {
    let (admin, endpoint) = (server.admin(), server.endpoint());
    let words = command.iter().map(|word| word.replace("127.0.0.1:8081", &endpoint)).collect::<Vec<_>>();
    let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[0] {
        "produce" | "consume" if words.contains(&"--endpoint") => {}
        "produce" | "consume" => words.extend(["--endpoint", &endpoint]),
        _ => words.extend(["--admin", &admin]),
    }
    let output = harness::run(&words);
    assert!(output.status.success(), "{words:?}: {}", stderr(&output));
    assert!(words[0] != "consume" || stdout(&output).contains("hello"), "{words:?}: {}", stdout(&output));
}

fn tells_names_that_there_are(notes: &str, objects: &[Value]) {
    let name = |object: &Value| object["metadata"]["name"].as_str().expect("a name").to_owned();
    let service = of_kind(objects, "Service")[0];
    let forwarded = notes.lines().find(|line| line.contains(" port-forward ")).expect("it is told");
    let port = &service["spec"]["ports"][0]["port"];
    assert!(forwarded.contains(&format!("svc/{} 8081:{port} ", name(service))), "{forwarded}");
    let pod = format!("exec {}-0 -c ferromq -- ", name(of_kind(objects, "StatefulSet")[0]));
    assert!(notes.contains(&pod), "{pod}: {notes}");
}

#[test]
fn the_first_message_of_the_notes_goes_through_as_it_is_written() {
    let mut seen = BTreeSet::new();
    each(|tools, args, objects| {
        let dir = directory();
        let notes = notes(tools, dir.path(), args);
        tells_names_that_there_are(&notes, objects);
        let commands: Vec<Vec<String>> = notes.lines().filter_map(command).collect();
        assert_eq!(commands.len(), 4, "{notes}");
        // Most combinations say the same.
        if seen.insert(commands.clone()) {
            let server = server_of(dir.path(), objects);
            commands.iter().for_each(|command| goes_through(&server, command));
        }
    });
    assert_ne!(seen.len(), 1, "TLS and declared topics make a difference");
}

#[test]
fn clients_from_outside_reach_the_apis_port_and_are_told_what_they_dialled() {
    let Some(tools) = tools() else { return };
    let of = |name: &str| {
        let values = chart().join(format!("ci/{name}-values.yaml"));
        let objects = render(&tools, &["-f", text(&values)]);
        let settings = of_kind(&objects, "ConfigMap")[0]["data"]["ferromq.yaml"].as_str().expect("settings").to_owned();
        assert!(!settings.contains("grpcAdvertisedAddress"), "{name}: {settings}");
        let pod = &of_kind(&objects, "StatefulSet")[0]["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(pod["ports"][0], json!({ "name": "grpc", "containerPort": 8081 }), "{name}");
        let api = of_kind(&objects, "Service")[0]["spec"].clone();
        assert_eq!(
            (&api["ports"][0]["name"], &api["ports"][0]["targetPort"]),
            (&json!("grpc"), &json!("grpc")),
            "{name}"
        );
        (api, objects)
    };
    let (port_forward, _) = of("port-forward");
    assert_eq!((&port_forward["type"], &port_forward["ports"][0]["port"]), (&json!("ClusterIP"), &json!(8081)));
    let (node_port, _) = of("external-nodeport");
    assert_eq!((&node_port["type"], &node_port["ports"][0]["nodePort"]), (&json!("NodePort"), &json!(30881)));
    assert_eq!(node_port["externalTrafficPolicy"], "Local");
    let (balancer, objects) = of("external-loadbalancer");
    assert_eq!((&balancer["type"], &balancer["ports"][0]["port"]), (&json!("LoadBalancer"), &json!(8081)));
    assert_eq!(balancer["loadBalancerSourceRanges"], json!(["203.0.113.0/24"]));
    let from = &of_kind(&objects, "NetworkPolicy")[0]["spec"]["ingress"][0]["from"];
    assert_eq!(from[0]["ipBlock"]["cidr"], "203.0.113.0/24", "who may reach the balancer may reach the pod");
    let (_, objects) = of("external-ingress");
    let ingress = &of_kind(&objects, "Ingress")[0]["spec"];
    let backend = &ingress["rules"][0]["http"]["paths"][0]["backend"]["service"];
    let api = of_kind(&objects, "Service")[0];
    assert_eq!(
        (&backend["name"], &backend["port"]["name"]),
        (&api["metadata"]["name"], &api["spec"]["ports"][0]["name"])
    );
    assert_eq!(
        (&ingress["rules"][0]["host"], &ingress["tls"][0]["hosts"]),
        (&json!("mq.example.com"), &json!(["mq.example.com"]))
    );
}
