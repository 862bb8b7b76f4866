//! What an operator asks of a consumer through the server, over the client's own stream.

use ferromq::proto::v2::{
    self, Code, PrintThreadStackTraceRequest, PrintThreadStackTraceResponse, Resource, VerifyMessageRequest,
    admin_client::AdminClient,
};

use super::{
    driver::{RUN_MAX, Run, of},
    process,
    stage::{GROUP, Stage, TOPIC},
};

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

fn resource(name: &str) -> Option<Resource> {
    Some(Resource { name: name.into(), ..Resource::default() })
}

/// A push consumer that has acked one message; its id at the server, and the message's.
fn consumer(stage: &Stage, on_message: &str) -> (Run, String, String) {
    stage.server.admin(&["topic", "create", TOPIC]);
    let command = format!("push --topic {TOPIC} --group {GROUP} --on-message {on_message} --timeout-ms 90000");
    let run = stage.start(&command).ready();
    let sent = stage.run(&format!("produce --topic {TOPIC} --count 1"));
    run.until("the message came", |events| !of(events, "received").is_empty());
    let client = stage.server.admin(&["group", "connections", GROUP])["client"].as_str().expect("its id").to_owned();
    (run, client, of(&sent, "sent")[0].id().to_owned())
}

fn stack(stage: &Stage, client: &str) -> PrintThreadStackTraceResponse {
    let request = PrintThreadStackTraceRequest {
        client_id: client.into(),
        group: resource(GROUP),
        ..PrintThreadStackTraceRequest::default()
    };
    block_on(async {
        let mut admin =
            AdminClient::connect(format!("http://{}", stage.server.admin_address())).await.expect("it listens");
        admin.print_thread_stack_trace(request).await.expect("answered").into_inner()
    })
}

fn verify(stage: &Stage, client: &str, message: &str) -> v2::Status {
    let request = VerifyMessageRequest {
        client_id: client.into(),
        group: resource(GROUP),
        topic: resource(TOPIC),
        message_id: message.into(),
        ..VerifyMessageRequest::default()
    };
    block_on(async {
        let mut admin =
            AdminClient::connect(format!("http://{}", stage.server.admin_address())).await.expect("it listens");
        admin.verify_message(request).await.expect("answered").into_inner().status.expect("a status")
    })
}

pub fn a_consumer_shows_what_its_threads_are_at(stage: &mut Stage) {
    let (_run, client, _) = consumer(stage, "ack");
    let told = stack(stage, &client);
    assert_eq!(told.status.as_ref().map(v2::Status::code), Some(Code::Ok), "{told:?}");
    let trace = told.thread_stack_trace.expect("a trace");
    assert!(trace.contains("java.lang.Thread"), "{trace}");
}

pub fn a_consumer_is_given_a_message_to_verify_and_nothing_of_the_groups_changes(stage: &mut Stage) {
    let (run, client, id) = consumer(stage, "ack");
    stage.settles(TOPIC, GROUP);
    let status = verify(stage, &client, &id);
    assert_eq!(status.code(), Code::Ok, "{status:?}");
    let twice =
        |events: &[super::transcript::Event]| of(events, "received").iter().filter(|e| e.id() == id).count() == 2;
    run.until("its listener was called again", twice);
    stage.settles(TOPIC, GROUP);
}

pub fn a_listener_that_fails_a_message_that_is_verified_is_told_of(stage: &mut Stage) {
    stage.make_group(1, "1s");
    let (_run, client, id) = consumer(stage, "fail");
    let status = verify(stage, &client, &id);
    assert_eq!(status.code(), Code::FailedToConsumeMessage, "{status:?}");
}

/// What it says; or its own refusal, at once; or the server's, that it said nothing in time. Some clients show a fixed text
/// for their threads.
pub fn a_client_that_cannot_answer_is_said_to_and_goes_on(stage: &mut Stage) {
    let (run, client, id) = consumer(stage, "ack");
    let refused = |status: &v2::Status| {
        let refusals = [Code::Unsupported, Code::NotImplemented, Code::ProxyTimeout];
        refusals.contains(&status.code()) && !status.message.is_empty()
    };
    let told = stack(stage, &client);
    let status = told.status.clone().expect("a status");
    let shown = status.code() == Code::Ok && told.thread_stack_trace.as_ref().is_some_and(|trace| !trace.is_empty());
    assert!(shown || refused(&status), "{told:?}");
    let status = verify(stage, &client, &id);
    assert!(refused(&status), "{status:?}");
    stage.run(&format!("produce --topic {TOPIC} --count 1"));
    let goes_on = || (of(&run.events(), "received").len() >= 2).then_some(());
    assert!(process::poll(RUN_MAX, goes_on).is_some(), "nothing came after that");
}
