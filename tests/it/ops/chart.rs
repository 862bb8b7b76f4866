//! The Helm chart: every documented combination renders to what Kubernetes' own types allow, keeps the rules of the
//! "restricted" profile, and starts nothing that the server does not understand.
//!
//! helm and the types come by name and lie in `target/helm`. Where a toolchain is missing the tests are skipped with a
//! line that says so, or fail when `CI=true`.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use serde_json::{Value, json};

use super::built;
use crate::{
    clients::process,
    harness::{self, Server, directory, file, stderr, stdout, text},
};

/// helm has many dependencies, and builds beside other tests.
const BUILD_MAX: Duration = Duration::from_secs(1200);
/// The oldest and the newest Kubernetes that the chart is held to.
const VERSIONS: [&str; 2] = ["1.27.0", "1.37.0"];

pub(super) fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("helm/ferromq")
}

/// The directory with helm and the validator; `None` where they cannot be had.
pub(super) fn tools() -> Option<PathBuf> {
    static TOOLS: OnceLock<Option<PathBuf>> = OnceLock::new();
    TOOLS.get_or_init(|| built("helm", BUILD_MAX)).clone()
}

/// What helm says to these arguments behind `template`.
fn template(tools: &Path, args: &[&str]) -> process::Said {
    let mut command = Command::new(tools.join("helm"));
    command.args(["template", "mq"]).arg(chart()).args(["--kube-version", "1.37.0", "--namespace", "shop"]).args(args);
    process::run(&mut command, Duration::from_secs(60)).expect("helm runs")
}

/// The objects of a rendering that Kubernetes takes.
#[track_caller]
pub(super) fn render(tools: &Path, args: &[&str]) -> Vec<Value> {
    let said = template(tools, args);
    assert!(said.status.success(), "{args:?}: {}", said.stderr);
    valid(tools, &said.stdout).unwrap_or_else(|complaints| panic!("{args:?}:\n{complaints}"))
}

/// Holds manifests against Kubernetes' types.
pub(super) fn valid(tools: &Path, manifests: &str) -> Result<Vec<Value>, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/helm/validate.py");
    let mut child = Command::new(tools.join("venv/bin/python"))
        .arg("-B")
        .arg(script)
        .args(VERSIONS)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python runs");
    child.stdin.take().expect("piped").write_all(manifests.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("ends");
    if !output.status.success() {
        return Err(stderr(&output));
    }
    Ok(serde_json::from_str(&stdout(&output)).expect("JSON"))
}

/// Every documented combination: the defaults, and the files of `ci/`.
fn combinations() -> Vec<Vec<String>> {
    let mut files: Vec<_> =
        fs::read_dir(chart().join("ci")).expect("there").map(|entry| entry.expect("read").path()).collect();
    files.sort();
    assert!(files.len() >= 8, "{files:?}");
    let with_file = files.into_iter().map(|path| vec!["-f".to_owned(), text(&path).to_owned()]);
    std::iter::once(Vec::new()).chain(with_file).collect()
}

pub(super) fn each(mut claim: impl FnMut(&Path, &[&str], &[Value])) {
    let Some(tools) = tools() else { return };
    for args in combinations() {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        claim(&tools, &args, &render(&tools, &args));
    }
}

pub(super) fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

pub(super) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The specifications of all pods, with a name for complaints.
fn pods(objects: &[Value]) -> Vec<(String, &Value)> {
    let spec = |object: &'static str, pointer: &'static str| {
        of_kind(objects, object)
            .into_iter()
            .map(move |o| (o["metadata"]["name"].to_string(), o.pointer(pointer).expect("a pod")))
    };
    spec("StatefulSet", "/spec/template/spec").chain(spec("Pod", "/spec")).collect()
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    items(&pod["initContainers"]).iter().chain(items(&pod["containers"]))
}

#[test]
fn every_documented_combination_is_what_kubernetes_and_helm_allow() {
    let mut kinds = BTreeSet::new();
    each(|tools, args, objects| {
        kinds.extend(objects.iter().map(|o| o["kind"].as_str().expect("a kind").to_owned()));
        let mut names = BTreeSet::new();
        for object in objects {
            let name = (object["kind"].to_string(), object["metadata"]["name"].to_string());
            assert!(names.insert(name.clone()), "{args:?}: {name:?} is there twice");
        }
        let mut lint = Command::new(tools.join("helm"));
        lint.args(["lint", "--strict", "--quiet", "--kube-version", "1.37.0"]).arg(chart()).args(args);
        let said = process::run(&mut lint, Duration::from_secs(60)).expect("helm runs");
        assert!(said.status.success(), "{args:?}: {}{}", said.stdout, said.stderr);
    });
    let documented = [
        "ConfigMap",
        "Ingress",
        "NetworkPolicy",
        "Pod",
        "PodDisruptionBudget",
        "Service",
        "ServiceAccount",
        "ServiceMonitor",
        "StatefulSet",
    ];
    if !kinds.is_empty() {
        assert_eq!(kinds.iter().map(String::as_str).collect::<Vec<_>>(), documented);
    }
}

#[test]
fn a_field_that_kubernetes_does_not_know_is_found() {
    let Some(tools) = tools() else { return };
    let rendered = template(&tools, &[]).stdout;
    for (right, wrong) in [
        ("enableServiceLinks: false", "enableServiceLink: false"),
        ("replicas: 1", "replicas: one"),
        ("policyTypes: [Ingress, Egress]", "policyTypes: [Ingress]\n  policyTypes: [Egress]"),
    ] {
        let planted = rendered.replace(right, wrong);
        assert_ne!(planted, rendered, "{right} is not there any more");
        assert!(valid(&tools, &planted).is_err(), "{wrong} was taken");
    }
}

#[test]
fn a_value_that_the_chart_does_not_know_is_refused() {
    let Some(tools) = tools() else { return };
    for set in [
        "replicaCount=3",
        "persistance.enabled=false",
        "service.type=ExternalName",
        "config.grpcServerPort=9",
        "config.tlsCertPath=/x",
        "ingress.enabled=true",
        "prune.enabled=true",
        "topics[0].name=a/b",
        "topics[0].queues=3",
        "topics[0].name=a,topics[0].queues=0",
        "groups[0].name=g,groups[0].retryAfter={soon}",
        "tls.mode=mutual",
        "advertisedAddress=mq.example.com",
        "otlp.metrics.target=collector:4317",
        "otlp.traces.sampleRatio=2",
        "otlp.traces.sampleRatio=1.5",
        "otlp.traces.sampleRatio=-0.1",
        "otlp.traces.sampleRatio=half",
        "otlp.port=4317",
        "config.tracesGrpcExporterTarget=http://x",
    ] {
        let said = template(&tools, &["--set", set]);
        assert!(!said.status.success() && said.stderr.contains("schema"), "{set}: {}", said.stderr);
    }
}

/// Maps whose keys are the user's or Kubernetes' own; the latter are held against its types when they are rendered.
const OPEN: [&str; 18] = [
    "commonLabels",
    "commonAnnotations",
    "config",
    "service.annotations",
    "ingress.annotations",
    "persistence.annotations",
    "resources.requests",
    "resources.limits",
    "metrics.serviceMonitor.labels",
    "serviceAccount.annotations",
    "podSecurityContext",
    "podSecurityContext.seccompProfile",
    "securityContext",
    "securityContext.capabilities",
    "podLabels",
    "podAnnotations",
    "nodeSelector",
    "affinity",
];

#[test]
fn no_place_of_the_values_takes_another_type_and_no_map_a_key_that_nobody_knows() {
    let Some(tools) = tools() else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/helm/schema.py");
    let mut python = Command::new(tools.join("venv/bin/python"));
    let said = process::run(python.arg("-B").arg(script).arg(chart()), Duration::from_secs(60)).expect("python runs");
    assert!(said.status.success(), "{}", said.stderr);
    let said: Value = serde_json::from_str(&said.stdout).expect("JSON");
    assert!(said["tried"].as_u64().is_some_and(|tried| tried > 100), "{said}");
    assert_eq!(said["keys"], json!(OPEN), "maps that take any key");
    let within =
        |place: &&str| ["resources.", "podSecurityContext", "securityContext"].iter().any(|of| place.starts_with(of));
    let taken = items(&said["types"]).iter().map(|place| place.as_str().expect("a place"));
    assert_eq!(taken.filter(|place| !within(place)).collect::<Vec<_>>(), [""; 0], "places that take a wrong type");
}

#[test]
fn every_pod_keeps_the_rules_of_the_restricted_profile() {
    each(|_, args, objects| {
        for (name, pod) in pods(objects) {
            let at = format!("{args:?} {name}");
            let security = &pod["securityContext"];
            assert_eq!(security["runAsNonRoot"], true, "{at}");
            assert!(security["runAsUser"].as_u64().is_some_and(|user| user > 0), "{at}");
            assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault", "{at}");
            assert_eq!(pod["automountServiceAccountToken"], false, "{at}");
            assert_eq!(pod["enableServiceLinks"], false, "{at}");
            for host in ["hostNetwork", "hostPID", "hostIPC"] {
                assert!(pod[host].is_null(), "{at} {host}");
            }
            for container in containers(pod) {
                let expected = json!({
                    "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                    "capabilities": { "drop": ["ALL"] }
                });
                assert_eq!(container["securityContext"], expected, "{at} {}", container["name"]);
                let resources = &container["resources"];
                assert!(
                    resources["requests"]["memory"].is_string() && resources["limits"]["memory"].is_string(),
                    "{at}"
                );
                let image = container["image"].as_str().expect("an image");
                assert!(!image.ends_with(":latest") && image.contains([':', '@']), "{at} {image}");
            }
            let kinds = items(&pod["volumes"]).iter().flat_map(|v| v.as_object().expect("a volume").keys());
            let allowed = ["name", "configMap", "secret", "emptyDir", "persistentVolumeClaim"];
            assert_eq!(kinds.filter(|kind| !allowed.contains(&kind.as_str())).count(), 0, "{at}");
        }
    });
}

#[test]
fn whatever_is_selected_mounted_or_scraped_is_there() {
    each(|_, args, objects| {
        let set = of_kind(objects, "StatefulSet")[0];
        let (labels, pod) = (&set["spec"]["template"]["metadata"]["labels"], &set["spec"]["template"]["spec"]);
        let selects = |selector: &Value| selector.as_object().expect("labels").iter().all(|(k, v)| labels[k] == *v);
        assert!(selects(&set["spec"]["selector"]["matchLabels"]));
        assert!(of_kind(objects, "Service").iter().all(|s| selects(&s["spec"]["selector"])), "{args:?}");
        for kind in ["NetworkPolicy", "PodDisruptionBudget"] {
            for object in of_kind(objects, kind) {
                let selector = object["spec"].get("podSelector").unwrap_or(&object["spec"]["selector"]);
                assert!(selects(&selector["matchLabels"]), "{args:?} {kind}");
            }
        }
        let service = |name: &Value| of_kind(objects, "Service").into_iter().find(|s| s["metadata"]["name"] == *name);
        assert!(service(&set["spec"]["serviceName"]).is_some(), "{args:?}");
        let mut volumes: BTreeSet<_> = items(&pod["volumes"]).iter().map(|v| v["name"].to_string()).collect();
        volumes.extend(items(&set["spec"]["volumeClaimTemplates"]).iter().map(|v| v["metadata"]["name"].to_string()));
        let mounts = containers(pod).flat_map(|c| items(&c["volumeMounts"])).map(|m| m["name"].to_string());
        assert_eq!(mounts.collect::<BTreeSet<_>>(), volumes, "{args:?}: volumes and what is mounted");
        let maps: BTreeSet<_> =
            of_kind(objects, "ConfigMap").iter().map(|m| m["metadata"]["name"].to_string()).collect();
        let used = items(&pod["volumes"]).iter().filter_map(|v| v.pointer("/configMap/name")).map(Value::to_string);
        assert_eq!(used.collect::<BTreeSet<_>>(), maps, "{args:?}: maps and what is used");
        for monitor in of_kind(objects, "ServiceMonitor") {
            let wanted = monitor["spec"]["selector"]["matchLabels"].as_object().expect("labels");
            let found: Vec<_> = of_kind(objects, "Service")
                .into_iter()
                .filter(|s| wanted.iter().all(|(k, v)| s["metadata"]["labels"][k] == *v))
                .collect();
            assert_eq!(found.len(), 1, "{args:?}");
            assert!(
                items(&found[0]["spec"]["ports"]).iter().any(|p| p["name"] == monitor["spec"]["endpoints"][0]["port"])
            );
        }
    });
}

#[test]
fn the_network_policy_opens_the_apis_port_and_nothing_else() {
    let Some(tools) = tools() else { return };
    let objects = render(&tools, &[]);
    let spec = &of_kind(&objects, "NetworkPolicy")[0]["spec"];
    assert_eq!(spec["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(spec["ingress"], json!([{ "ports": [{ "port": 8081, "protocol": "TCP" }] }]));
    assert_eq!(spec["egress"], json!([]));
}

#[test]
fn a_collector_is_configured_and_the_network_policy_lets_the_server_reach_it_and_dns() {
    let Some(tools) = tools() else { return };
    let objects = render(&tools, &["-f", text(&chart().join("ci/otlp-values.yaml"))]);
    let settings = of_kind(&objects, "ConfigMap")[0]["data"]["ferromq.yaml"].as_str().expect("settings");
    for line in ["metricsExporterType: \"OTLP_GRPC\"", "tracesSampleRatio: \"0.05\""] {
        assert!(settings.contains(line), "no {line} in {settings}");
    }
    let egress = &of_kind(&objects, "NetworkPolicy")[0]["spec"]["egress"];
    assert_eq!(egress[0]["ports"][0]["port"], 53);
    assert_eq!(egress[1]["ports"], json!([{ "port": 4317, "protocol": "TCP" }]));
    assert!(egress[1]["to"][0]["namespaceSelector"].is_object() && egress[2].is_null(), "{egress}");
}

#[test]
fn the_network_policy_opens_the_ports_that_the_targets_name() {
    let Some(tools) = tools() else { return };
    for (metrics, traces, ports) in [
        ("http://a:4318", "", &[4318][..]),
        ("http://a:4318", "https://b:5000", &[4318, 5000]),
        ("https://a", "http://[::1]:4317", &[4317]),
        ("http://[fd00::1]", "", &[4317]),
    ] {
        let sets = [format!("otlp.metrics.target={metrics}"), format!("otlp.traces.target={traces}")];
        let objects = render(&tools, &["--set", &sets[0], "--set", &sets[1]]);
        let egress = &of_kind(&objects, "NetworkPolicy")[0]["spec"]["egress"][1];
        let ports: Vec<_> = ports.iter().map(|port| json!({ "port": port, "protocol": "TCP" })).collect();
        assert_eq!(egress["ports"], json!(ports), "{sets:?}");
    }
}

#[test]
fn the_share_of_traced_calls_is_a_number_or_a_text_and_reaches_the_server_whole() {
    let Some(tools) = tools() else { return };
    for (how, ratio) in
        [("--set", "0.05"), ("--set-json", "0.05"), ("--set-string", "0.05"), ("--set-json", "1"), ("--set", "0")]
    {
        let share = format!("otlp.traces.sampleRatio={ratio}");
        let objects = render(&tools, &["--set", "otlp.traces.target=http://a:1", how, &share]);
        let settings = of_kind(&objects, "ConfigMap")[0]["data"]["ferromq.yaml"].as_str().expect("settings");
        assert!(settings.contains(&format!("tracesSampleRatio: \"{ratio}\"")), "{how} {share}: {settings}");
    }
}

/// The name of the broker is the label `node_id`, which alert rules and dashboard sum by.
#[test]
fn metrics_of_two_releases_are_told_apart() {
    let Some(tools) = tools() else { return };
    for (set, name) in [("fullnameOverride=", "mq-ferromq"), ("nameOverride=eu", "mq-eu"), ("config.brokerName=b", "b")]
    {
        let objects = render(&tools, &["--set", set]);
        let settings = of_kind(&objects, "ConfigMap")[0]["data"]["ferromq.yaml"].as_str().expect("settings");
        assert!(settings.contains(&format!("brokerName: \"{name}\"")), "{set}: {settings}");
    }
}

#[test]
fn changed_settings_restart_the_pod_and_changed_topics_do_not() {
    let Some(tools) = tools() else { return };
    let pod = |args: &[&str]| {
        let objects = render(&tools, args);
        of_kind(&objects, "StatefulSet")[0]["spec"]["template"].clone()
    };
    let one = pod(&["--set", "topics[0].name=a"]);
    assert_eq!(one, pod(&["--set", "topics[0].name=b"]));
    assert_ne!(one, pod(&["--set", "topics[0].name=a", "--set", "config.fileReservedTime=1"]));
}

/// What the chart puts into files and arguments is understood by the program that it starts.
#[test]
fn the_server_takes_what_the_chart_gives_it() {
    let dir = directory();
    each(|_, args, objects| {
        let pod = &of_kind(objects, "StatefulSet")[0]["spec"]["template"]["spec"];
        let map = |suffix: &str, key: &str| {
            let maps = of_kind(objects, "ConfigMap").into_iter().map(|m| m["data"][key].as_str());
            maps.flatten().next().map(|text| file(dir.path(), suffix, text))
        };
        let settings = map("ferromq.yaml", "ferromq.yaml").expect("settings");
        let output = harness::run(&["config", "-c", text(&settings), "--json"]);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        let drain = pod["terminationGracePeriodSeconds"].as_u64().expect("seconds");
        let in_effect: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
        let drain_is = in_effect.as_array().expect("settings").iter().find(|s| s["key"] == "grpcShutdownTimeSeconds");
        let drain_is = drain_is.and_then(|s| s["value"].as_str()?.trim_end_matches('s').parse::<u64>().ok());
        assert!(drain_is.is_some_and(|seconds| seconds < drain), "{args:?}: {drain_is:?} of {drain} s");
        for container in containers(pod) {
            let words: Vec<&str> = items(&container["args"]).iter().map(|a| a.as_str().expect("text")).collect();
            // Exit code 1 is a file that is not here, 2 is an argument that is not understood. --watch would look again.
            let moved: Vec<String> = words
                .iter()
                .filter(|word| **word != "--watch")
                .map(|word| word.replace("/etc/ferromq", text(&dir.path().join("not-here"))).replace("1h", "0s"))
                .collect();
            let output = harness::run(&moved.iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(output.status.code(), Some(1), "{args:?} {words:?}: {}", stderr(&output));
            assert!(stderr(&output).contains("not-here"), "{args:?} {words:?}: {}", stderr(&output));
        }
    });
}

#[test]
fn declared_topics_and_groups_are_applied_and_the_test_pod_passes() {
    let Some(tools) = tools() else { return };
    let dir = directory();
    let values = chart().join("ci/declared-values.yaml");
    let objects = render(&tools, &["-f", text(&values)]);
    let data =
        |key: &str| of_kind(&objects, "ConfigMap").into_iter().find_map(|m| m["data"][key].as_str()).expect("there");
    let settings = file(dir.path(), "ferromq.yaml", data("ferromq.yaml"));
    let server = Server::start_with(dir.path(), &["-c", text(&settings)]);
    let document = file(dir.path(), "topics.yaml", data("topics.yaml"));
    let applied = server.admin_command(&["apply", "-f", text(&document), "--wait", "10s", "--prune", "--yes"]);
    assert!(applied.status.success(), "{}", stderr(&applied));
    assert!(stdout(&applied).ends_with("6 created, 0 changed, 0 deleted, 0 unchanged\n"), "{}", stdout(&applied));
    // The test pod's containers, with the address that the service would have.
    let (_, pod) = pods(&objects).into_iter().find(|(name, _)| name.contains("-test")).expect("a test pod");
    for container in containers(pod) {
        let mut words: Vec<&str> = items(&container["args"]).iter().map(|a| a.as_str().expect("text")).collect();
        let at = words.iter().position(|word| *word == "--endpoint").expect("an address");
        words.truncate(at);
        let output = server.client_command(&words);
        assert!(output.status.success(), "{words:?}: {}", stderr(&output));
    }
}

#[test]
fn a_declared_document_is_applied_whatever_a_test_pod_made_before() {
    let Some(tools) = tools() else { return };
    let dir = directory();
    let server = Server::start(dir.path());
    assert!(server.client_command(&["produce", "ferromq-helm-test", "helm test"]).status.success());
    let values = chart().join("ci/declared-values.yaml");
    for more in ["topics[0].name=orders", "topics[0].name=ferromq-helm-test", "groups[0].name=ferromq-helm-test"] {
        let objects = render(&tools, &["-f", text(&values), "--set", more]);
        let document = of_kind(&objects, "ConfigMap").into_iter().find_map(|m| m["data"]["topics.yaml"].as_str());
        let document = file(dir.path(), "topics.yaml", document.expect("declared"));
        let applied = server.admin_command(&["apply", "-f", text(&document)]);
        assert!(applied.status.success(), "{more}: {}", stderr(&applied));
    }
}

/// Otherwise Kubernetes waits for the pod to be ready before it replaces it, and one with a mistaken setting never is.
#[test]
fn an_upgrade_replaces_a_pod_that_never_became_ready() {
    each(|_, args, objects| {
        let set = of_kind(objects, "StatefulSet")[0];
        assert_eq!(set["spec"]["podManagementPolicy"], "Parallel", "{args:?}");
    });
}

#[test]
fn the_chart_starts_the_version_that_it_was_tested_with() {
    let chart = fs::read_to_string(chart().join("Chart.yaml")).expect("there");
    assert!(chart.contains(&format!("appVersion: \"{}\"", env!("CARGO_PKG_VERSION"))), "{chart}");
}
