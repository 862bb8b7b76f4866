use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use proptest::prelude::*;

use super::{keys::Rule, sample::Format, *};
use crate::store::FlushPolicy;

fn set(texts: &[&str]) -> Result<Loaded, Error> {
    load(&Sources { set: texts.iter().map(|&t| t.to_owned()).collect(), ..Sources::default() })
}

fn faults(result: Result<Loaded, Error>) -> Vec<String> {
    match result {
        Err(Error::Faults(faults)) => faults.iter().map(Fault::to_string).collect(),
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("nothing was refused"),
    }
}

/// A file of this name in a new directory, which lives as long as the guard.
fn file(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join(name);
    fs::write(&path, text).expect("written");
    (dir, path)
}

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conf").join(name)
}

#[test]
fn the_tables_defaults_are_the_rooms_defaults() {
    let loaded = set(&[]).expect("defaults are valid");
    assert_eq!(loaded.config, Config::default());
    assert!(loaded.settings.iter().all(|s| s.origin == Origin::Default));
    assert_eq!(loaded.settings.len(), keys::all().count());
}

#[test]
fn no_key_is_twice_in_the_table_whatever_its_case() {
    let mut seen = BTreeSet::new();
    for name in keys::all().flat_map(|k| std::iter::once(&k.name).chain(k.aliases)) {
        assert!(seen.insert(environment::folded(name)), "{name} is there twice");
    }
}

/// A legal value that is not the default.
fn another(key: &Key) -> String {
    match &key.rule {
        Rule::Flag(_) => (key.default != "true").to_string(),
        Rule::Count { range, .. } | Rule::Span { range, .. } => range.start().max(&1).to_string(),
        Rule::Size { range, .. } => range.start().max(&1).to_string(),
        Rule::Choice { of, .. } => of.iter().find(|c| **c != key.default).expect("a choice").to_string(),
        Rule::Text { .. } => match key.name {
            "adminBindAddress" | "grpcBindAddress" | "brokerIP1" | "metricsPromExporterHost" => "192.0.2.7".into(),
            "logLevel" => "trace".into(),
            "metricsExporterType" => "DISABLE".into(),
            "metricsLabel" | "metricsGrpcExporterHeader" | "tracesGrpcExporterHeader" => "region:eu".into(),
            "tracesSampleRatio" => "0.5".into(),
            "messageDelayLevel" => "1s 2d".into(),
            "deleteWhen" => "05;17".into(),
            "grpcAdvertisedAddress" => "mq.example.com:443".into(),
            "grpcExtraListeners" => "127.0.0.1:9081=mq.example.com:9081; [::1]:9082".into(),
            _ => "elsewhere".into(),
        },
    }
}

#[test]
fn every_key_changes_something() {
    for key in keys::all() {
        let mut config = Config::default();
        if key.name == "flushIntervalCommitLog" {
            config.store.flush = FlushPolicy::Async { interval: Duration::from_millis(500) };
        }
        let before = config.clone();
        let value = another(key);
        key.rule.apply(&mut config, &value).unwrap_or_else(|e| panic!("{}={value} {e}", key.name));
        assert_ne!(config, before, "{}={value} changes nothing", key.name);
    }
}

#[test]
fn later_sources_win_and_their_origin_is_kept() {
    let (_dir, path) = file("broker.conf", "fileReservedTime=48\ndeleteWhen=05\nretryMaxTimes=3\ntopicsMax=9\n");
    let loaded = load(&Sources {
        files: vec![path.clone()],
        environment: vec![("FERROMQ_DELETE_WHEN".into(), "06".into()), ("FERROMQ_retryMaxTimes".into(), "4".into())],
        set: vec!["retryMaxTimes=5".into()],
        store: Some("/somewhere".into()),
    })
    .expect("valid");
    let found = |key: &str| {
        let s = loaded.settings.iter().find(|s| s.key.name == key).expect("a setting");
        (s.value.clone(), s.origin.clone())
    };
    let at = |line| Origin::File { path: path.clone(), line: Some(line) };
    assert_eq!(found("fileReservedTime"), ("48".into(), at(1)));
    assert_eq!(found("deleteWhen"), ("06".into(), Origin::Environment("FERROMQ_DELETE_WHEN".into())));
    assert_eq!(found("retryMaxTimes"), ("5".into(), Origin::Flag("--set")));
    assert_eq!(found("topicsMax"), ("9".into(), at(4)));
    assert_eq!(found("storePathRootDir"), ("/somewhere".into(), Origin::Flag("--store")));
    assert_eq!(found("brokerName").1, Origin::Default);
    assert_eq!(loaded.config.broker.retry_max_times, 5);
    assert_eq!(loaded.config.store.root, Path::new("/somewhere"));
    assert_eq!(loaded.config.store.retention.reserved, Duration::from_secs(48 * 3600));
}

#[test]
fn all_faults_are_told_at_once_with_place_value_and_cure() {
    let (_dir, path) = file("broker.conf", "flushDiskTyp=SYNC_FLUSH\nfileReservedTime=soon\n");
    let result = load(&Sources {
        files: vec![path],
        environment: vec![("FERROMQ_GRPC_SERVER_PORT".into(), "80810".into())],
        set: vec!["colour=red".into(), "flushDiskType".into(), "flushDiskType=never".into()],
        store: None,
    });
    let faults = faults(result);
    let expected = [
        "broker.conf:1: flushDiskTyp is not a setting; did you mean flushDiskType?",
        "broker.conf:2: fileReservedTime=soon is not a time from 1h",
        "environment FERROMQ_GRPC_SERVER_PORT: grpcServerPort=80810 is not a number from 0 to 65535",
        "flag --set: colour is not a setting; `ferromq config` lists every setting",
        "flag --set: flushDiskType has no value; write --set KEY=VALUE",
        "flag --set: flushDiskType=never is not one of SYNC_FLUSH, ASYNC_FLUSH",
    ];
    assert_eq!(faults.len(), expected.len(), "{faults:#?}");
    for (fault, expected) in faults.iter().zip(expected) {
        assert!(fault.contains(expected) && !fault.contains('\n'), "{fault}\n does not say\n{expected}");
    }
}

#[test]
fn a_wrong_value_is_refused_even_where_another_source_overrides_it() {
    let (_dir, path) = file("a.toml", "retryMaxTimes = -1\n");
    let result = load(&Sources { files: vec![path], set: vec!["retryMaxTimes=1".into()], ..Sources::default() });
    assert_eq!(faults(result).len(), 1);
}

#[test]
fn settings_that_contradict_each_other_are_refused_all_at_once() {
    let faults = faults(set(&[
        "diskMaxUsedSpaceRatio=90",
        "mappedFileSizeCommitLog=64KB",
        "adminServerPort=8081",
        "grpcMaxInboundMessageSize=64KB",
        "pendingBytesMax=1MB",
        "popPollingSize=1000000",
        "metricsExporterType=OTLP_GRPC",
        "tlsCertPath=a.crt",
        "grpcClientConsumerMinLongPollingTimeoutMillis=1m",
        "minInvisibleTimeMillsForRecv=1h",
        "maxInvisibleTimeMills=1m",
    ]));
    for key in [
        "diskMaxUsedSpaceRatio=90 is not below",
        "mappedFileSizeCommitLog=64KB is too small",
        "adminServerPort=8081 is a port of the RocketMQ API",
        "grpcMaxInboundMessageSize=64KB has no room",
        "pendingBytesMax=1MB is less",
        "popPollingSize=1000000 is more",
        "metricsExporterType=OTLP_GRPC wants metricsGrpcExporterTarget",
        "tlsCertPath=a.crt has no tlsKeyPath",
        "grpcClientConsumerMinLongPollingTimeoutMillis=1m is more",
        "minInvisibleTimeMillsForRecv=1h is more",
    ] {
        assert!(faults.iter().any(|f| f.contains(key)), "no {key:?} in {faults:#?}");
    }
    assert_eq!(faults.len(), 10);
}

#[test]
fn tls_without_a_certificate_wants_the_self_signed_one_allowed() {
    assert!(set(&["tlsTestModeEnable=false", "tlsServerMode=disabled"]).is_ok());
    assert!(faults(set(&["tlsTestModeEnable=false"]))[0].contains("tlsCertPath and tlsKeyPath"));
    let given = set(&["tlsTestModeEnable=false", "tlsCertPath=a.crt", "tlsKeyPath=a.key"]).expect("valid");
    assert_eq!(given.config.proxy.tls.files.expect("given").key, Path::new("a.key"));
}

#[test]
fn a_broker_conf_of_apaches_starts_and_says_what_it_passes_over() {
    let text = "\
# Licensed to the Apache Software Foundation
brokerClusterName = DefaultCluster
brokerName = broker-a
brokerId = 0
deleteWhen = 04
fileReservedTime = 48
brokerRole = ASYNC_MASTER
flushDiskType = ASYNC_FLUSH
namesrvAddr=127.0.0.1:9876
listenPort=10911
mapedFileSizeCommitLog=1073741824
mapedFileSizeConsumeQueue=300000
sendMessageThreadPoolNums=128
storePathConsumeQueue=/data/store/consumequeue
";
    let (_dir, path) = file("broker.conf", text);
    let loaded = load(&Sources { files: vec![path], ..Sources::default() }).expect("starts");
    assert_eq!(loaded.config.store.consume_queue_entries, 15_000);
    assert_eq!(loaded.config.store.flush, FlushPolicy::Async { interval: Duration::from_millis(500) });
    assert_eq!(loaded.warnings.len(), 2, "{:?}", loaded.warnings);
    assert!(loaded.warnings[0].ends_with("not served yet: listenPort, namesrvAddr"), "{:?}", loaded.warnings);
    for key in ["sendMessageThreadPoolNums", "storePathConsumeQueue", "brokerRole"] {
        assert!(loaded.warnings[1].contains(key), "{:?}", loaded.warnings);
    }
}

#[test]
fn a_promise_that_is_not_served_is_refused_with_its_reason() {
    let faults = faults(set(&["brokerRole=SLAVE", "aclEnable=true", "proxyMode=CLUSTER"]));
    assert!(faults[0].contains("replication is not served yet"));
    assert!(faults[1].contains("access control is not served yet"));
    assert!(faults[2].contains("only LOCAL"));
}

#[test]
fn the_proxys_json_is_read_beside_the_brokers_conf() {
    let (_a, json) =
        file("rmq-proxy.json", r#"{"rocketMQClusterName": "C", "grpcServerPort": 9081, "proxyMode": "LOCAL"}"#);
    let (_b, conf) = file("broker.conf", "brokerName=b\n");
    let loaded = load(&Sources { files: vec![json, conf], ..Sources::default() }).expect("starts");
    assert_eq!(loaded.config.proxy.listeners[0].listen.port(), 9081);
    assert_eq!(loaded.config.broker.store_host.port(), 9081);
    assert_eq!(loaded.config.broker.cluster_name, "C");
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_the_cause() {
    let missing = load(&Sources { files: vec!["/nowhere/broker.conf".into()], ..Sources::default() });
    let Err(error) = missing else { panic!("read a file that is not there") };
    assert!(error.to_string().starts_with("/nowhere/broker.conf: No such file"), "{error}");
    let (_dir, path) = file("broker.ini", "a=1");
    let Err(error) = load(&Sources { files: vec![path], ..Sources::default() }) else { panic!("read an .ini") };
    assert!(error.to_string().contains("ends in none of .conf"), "{error}");
    for (name, text, format) in
        [("x.toml", "a = [\n", "TOML"), ("x.yml", "a: [b\n c: d", "YAML"), ("x.json", "{", "JSON")]
    {
        let (_dir, path) = file(name, text);
        let Err(error) = load(&Sources { files: vec![path], ..Sources::default() }) else { panic!("read {text}") };
        assert!(
            error.to_string().ends_with(&format!(
                "it is read as {format}, as its name ends: mend it there, or rename it after its format"
            )),
            "{error}"
        );
    }
}

/// A sample with every setting switched on.
fn switched_on(sample: &str) -> String {
    let on = |line: &str| match line.strip_prefix('#') {
        Some(setting) if !setting.starts_with(' ') => setting.to_owned(),
        _ => line.to_owned(),
    };
    sample.lines().map(on).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_shipped_samples_parse_and_equal_the_defaults() {
    for (name, format) in
        [("ferromq.conf", Format::Conf), ("ferromq.toml", Format::Toml), ("ferromq.yaml", Format::Yaml)]
    {
        let text = fs::read_to_string(shipped(name)).expect("shipped");
        let cure = format!("write it again: ferromq config --sample > conf/{name}");
        assert_eq!(text, sample::render(format), "conf/{name} is not what the table says; {cure}");
        let (_dir, path) = file(name, &switched_on(&text));
        let loaded = load(&Sources { files: vec![path], ..Sources::default() }).expect("parses");
        assert_eq!(loaded.config, Config::default(), "{name}");
        assert!(loaded.settings.iter().all(|s| s.origin.kind() == "file"), "{name} has not every setting");
    }
}

#[test]
fn the_production_sample_differs_from_the_defaults_where_it_says_so() {
    let loaded = load(&Sources { files: vec![shipped("production.conf")], ..Sources::default() }).expect("parses");
    let changed: Vec<_> =
        loaded.settings.iter().filter(|s| s.value != s.key.default).map(|s| (s.key.name, s.value.as_str())).collect();
    let expected = [
        ("logFormat", "json"),
        ("storePathRootDir", "/var/lib/ferromq"),
        ("autoCreateTopicEnable", "false"),
        ("autoCreateSubscriptionGroup", "false"),
    ];
    assert_eq!(changed, expected);
    assert_eq!(loaded.config.store.flush, FlushPolicy::Sync);
    assert!(loaded.warnings.is_empty());
}

proptest! {
    #[test]
    fn no_value_of_any_key_makes_loading_panic(at in 0usize..200, value in "\\PC{0,40}") {
        let key = keys::all().nth(at % keys::all().count()).expect("in range");
        if let Ok(loaded) = set(&[&format!("{}={value}", key.name)]) {
            let setting = loaded.settings.iter().find(|s| s.key.name == key.name).expect("listed");
            prop_assert_eq!(&setting.origin, &Origin::Flag("--set"));
        }
    }

    #[test]
    fn no_unknown_key_is_let_through(key in "[a-zA-Z]{1,30}") {
        prop_assume!(keys::find(&key).is_none() && apache::look_up(&key, "1").is_none());
        let faults = faults(set(&[&format!("{key}=1")]));
        prop_assert!(faults[0].contains("is not a setting"));
    }
}

#[test]
fn a_header_that_may_be_a_password_is_not_told_with_its_fault() {
    let faults = faults(set(&["tracesGrpcExporterHeader=te:sesame"]));
    assert!(faults[0].contains("\"te\"") && !faults[0].contains("sesame"), "{faults:?}");
}

#[test]
fn a_collector_that_is_no_address_is_refused_with_value_cause_and_cure() {
    for key in ["metricsGrpcExporterTarget", "tracesGrpcExporterTarget"] {
        let faults = faults(set(&[&format!("{key}=http://collector:99999")]));
        let [fault] = &faults[..] else { panic!("{faults:?}") };
        for part in [key, "http://collector:99999", "like http://collector:4317"] {
            assert!(fault.contains(part), "no {part:?} in {fault}");
        }
    }
}

#[test]
fn a_slip_in_a_keys_name_or_in_its_form_does_not_tell_the_password_behind_it() {
    let result = load(&Sources {
        environment: vec![("FERROMQ_METRICS_GRPC_EXPORTER_HEADERS".into(), "authorization:sesame".into())],
        set: [
            "metricGrpcExporterHeader=a:sesame",
            "tracesGrpcExporterHeader:sesame",
            "tracesGrpcExporterHeader sesame",
        ]
        .map(str::to_owned)
        .into(),
        ..Sources::default()
    });
    let faults = faults(result);
    assert_eq!(faults.len(), 4, "{faults:#?}");
    assert!(faults.iter().all(|fault| fault.contains("GrpcExporterHeader") || fault.contains("EXPORTER_HEADERS")));
    assert!(!faults.iter().any(|fault| fault.contains("sesame")), "{faults:#?}");
    for key in ["metricsGrpcExporterTarget", "tracesGrpcExporterTarget"] {
        let told = set(&[&format!("{key}=http://user:sesame@collector:1")]);
        let Err(told) = told else { panic!("a user was taken") };
        assert!(told.to_string().contains("@collector:1") && !told.to_string().contains("sesame"), "{told}");
    }
}

#[test]
fn a_target_that_nothing_is_sent_to_is_told_once() {
    let warnings = |texts: &[&str]| set(texts).expect("valid").warnings;
    let target = "metricsGrpcExporterTarget=http://collector:4317";
    let told = warnings(&[target]);
    assert!(told.len() == 1 && told[0].contains("metricsExporterType=OTLP_GRPC"), "{told:?}");
    assert!(warnings(&[target, "metricsExporterType=OTLP_GRPC"]).is_empty());
    assert!(warnings(&[]).is_empty());
}
