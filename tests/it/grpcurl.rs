//! grpcurl, as the READMEs have it: no proto files, only reflection.

use std::process::Command;

use serde_json::{Value, json};

use crate::{
    clients::driver::{Unbuilt, built_word},
    harness::Server,
};

const API: &str = "apache.rocketmq.v2.MessagingService";

/// The word that runs grpcurl; none where there is no Go, which fails in CI.
fn grpcurl() -> Option<String> {
    match built_word("grpcurl") {
        Ok(word) => Some(word),
        Err(Unbuilt::NoToolchain(why)) if std::env::var("CI").as_deref() != Ok("true") => {
            println!("skipped: {why}");
            None
        }
        Err(Unbuilt::NoToolchain(why) | Unbuilt::Failed(why)) => panic!("{why}"),
    }
}

/// The command of a README's part about grpcurl.
fn snippet(readme: &str) -> String {
    let part = readme.split("### grpcurl").nth(1).expect("a part about grpcurl");
    let code = part.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next());
    code.expect("a command").to_owned()
}

/// Runs a line of a shell in which `grpcurl` is ours; standard output.
#[track_caller]
fn shell(word: &str, line: &str) -> String {
    let line = line.replacen("grpcurl", word, 1);
    let output = Command::new("sh").arg("-c").arg(&line).output().expect("a shell");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{line}\n{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn the_readmes_command_sends_a_message_that_grpcurl_receives_and_acks() {
    let Some(word) = grpcurl() else { return };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(dir.path());
    let endpoint = server.endpoint();
    let call = |method: &str, request: &Value| {
        shell(&word, &format!("grpcurl -plaintext -H 'x-mq-client-id: me' -d '{request}' {endpoint} {API}/{method}"))
    };
    let parsed = |answer: &str| serde_json::from_str::<Value>(answer).expect("JSON");

    assert!(shell(&word, &format!("grpcurl -plaintext {endpoint} list")).contains(API));
    for readme in [include_str!("../../README.md"), include_str!("../../README.zh.md")] {
        let command = snippet(readme);
        assert!(command.contains("127.0.0.1:8081"), "{command}");
        let said = parsed(&shell(&word, &command.replace("127.0.0.1:8081", &endpoint)));
        assert_eq!(said["status"]["code"], "OK", "{said}");
    }

    let poll = json!({
        "group": {"name": "g"}, "messageQueue": {"topic": {"name": "TopicTest"}, "id": -1},
        "filterExpression": {"type": "TAG", "expression": "greeting"},
        "batchSize": 32, "invisibleDuration": "30s", "longPollingTimeout": "5s",
    });
    let mut acked = 0;
    // A poll that ends with nothing says so by its status; two messages need two polls at most.
    for _ in 0..2 {
        let answers = call("ReceiveMessage", &poll);
        let answers = serde_json::Deserializer::from_str(&answers).into_iter::<Value>();
        let answers: Vec<Value> = answers.collect::<Result<_, _>>().expect("JSON");
        for message in answers.iter().filter_map(|answer| answer.get("message")) {
            assert_eq!(message["body"], "aGVsbG8=");
            let (id, handle) =
                (&message["systemProperties"]["messageId"], &message["systemProperties"]["receiptHandle"]);
            let entry = json!({"messageId": id, "receiptHandle": handle});
            let ack = json!({"group": {"name": "g"}, "topic": {"name": "TopicTest"}, "entries": [entry]});
            let said = parsed(&call("AckMessage", &ack));
            assert_eq!(said["status"]["code"], "OK", "{said}");
            acked += 1;
        }
        if acked == 2 {
            return;
        }
    }
    panic!("received {acked} of 2 messages");
}
