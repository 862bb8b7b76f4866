use std::sync::atomic::AtomicU32;

use tonic::transport::server::TcpIncoming;

use super::{
    super::{
        kind::{Kind, Wanted},
        produce::Shape,
        yardstick,
    },
    *,
};

/// A yardstick of the test's own, on a free port. It ends with the test's process.
fn yardstick() -> Endpoint {
    let (port_in, port) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).unwrap();
            port_in.send(incoming.local_addr().unwrap().port()).unwrap();
            yardstick::serve(incoming, 100).await
        })
    });
    Endpoint { host: "127.0.0.1".into(), port: port.recv().unwrap() }
}

fn plan(goal: Goal) -> Plan {
    Plan {
        endpoint: yardstick(),
        topic: "t".into(),
        role: Role::Producer,
        connections: 3,
        in_flight: 4,
        threads: 2,
        batch: 1,
        warmup: Duration::ZERO,
        goal,
        rate: None,
        limit: Duration::from_secs(30),
    }
}

fn send(plan: Plan) -> Outcome {
    let body = bytes::Bytes::from_static(b"body");
    let shape = Shape { size: body.len(), batch: plan.batch, kind: Kind::Normal, delay: Duration::ZERO };
    drive(plan, CancellationToken::new(), move |connection, slot| {
        let body = body.clone();
        async move {
            connection.send(shape, slot.messages, &body, Some(("key", "value"))).await?;
            Ok(Done { messages: slot.messages, latencies: None })
        }
    })
    .unwrap()
}

#[test]
fn asking_for_a_number_of_messages_sends_exactly_that_many() {
    let outcome = send(Plan { batch: 32, ..plan(Goal::Ask(1000)) });
    let report = outcome.tally.report(outcome.elapsed, 4, outcome.unsent);
    assert_eq!((report.messages, report.failed_calls, report.unsent), (1000, 0, 0), "{report}");
    assert_eq!(report.latency_us.count, 1000_u64.div_ceil(32));

    let paced = send(Plan { rate: Some(5000.0), ..plan(Goal::Ask(500)) });
    assert_eq!(paced.tally.messages(), 500);
    // The last of them was due 99.8 ms after the start.
    assert!(paced.elapsed >= Duration::from_millis(99), "{:?}", paced.elapsed);
    let warmup = Duration::from_millis(30);
    let warmed = send(Plan { rate: Some(5000.0), batch: 7, warmup, ..plan(Goal::Ask(100)) });
    let report = warmed.tally.report(warmed.elapsed, 4, 0);
    // 22 batches are due in the warm-up.
    assert_eq!((report.messages, warmed.tally.messages()), (100, 100 + 22 * 7), "{report}");
}

/// A connection that was ahead of the others took the turns in which its workers would have seen the end, and the load
/// then waited for its limit.
#[test]
fn a_paced_load_hung_when_one_connection_was_slower_than_another() {
    let plan = Plan { rate: Some(100_000.0), in_flight: 1, connections: 2, ..plan(Goal::Ask(100)) };
    let limit = plan.limit;
    let slow = Arc::new(AtomicU32::new(0));
    let begun = Instant::now();
    let outcome = drive(plan, CancellationToken::new(), move |_, slot| {
        let is_first = slow.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            tokio::time::sleep(Duration::from_millis(if is_first { 200 } else { 0 })).await;
            Ok(Done { messages: slot.messages, latencies: None })
        }
    })
    .unwrap();
    assert_eq!(outcome.tally.messages(), 100);
    assert!(begun.elapsed() < limit / 2, "{:?}", begun.elapsed());
}

#[test]
fn receiving_stops_once_enough_has_come() {
    let plan =
        Plan { role: Role::Consumer { group: "g".into(), wanted: Wanted::All }, batch: 32, ..plan(Goal::Get(640)) };
    let outcome = drive(plan, CancellationToken::new(), |connection, slot| async move {
        let messages = connection.receive(u32::try_from(slot.messages)?).await?;
        assert!(messages.iter().all(|m| m.body.len() == 100));
        let count = messages.len() as u64;
        connection.ack(messages).await?;
        Ok(Done { messages: count, latencies: None })
    })
    .unwrap();
    let got = outcome.tally.messages();
    assert!((640..=640 + 12 * 32).contains(&got), "{got}");
}

/// The call that a server stalls on delays those behind it, and each of them is charged with its whole delay.
#[test]
fn a_stall_counts_for_every_call_that_was_due_during_it() {
    const STALL: Duration = Duration::from_millis(300);
    let first = Arc::new(AtomicU32::new(0));
    let plan = Plan { connections: 1, in_flight: 1, threads: 1, rate: Some(100.0), ..plan(Goal::Ask(40)) };
    let outcome = drive(plan, CancellationToken::new(), move |_, _| {
        let call = first.fetch_add(1, Ordering::Relaxed);
        async move {
            if call == 0 {
                tokio::time::sleep(STALL).await;
            }
            Ok(Done { messages: 1, latencies: None })
        }
    })
    .unwrap();
    let report = outcome.tally.report(outcome.elapsed, 0, outcome.unsent);
    assert_eq!(report.messages, 40);
    // Due at 0, 10, 20 ... and answered after 300 ms: the first 20 waited for 100 ms and more.
    assert!(report.latency_us.p50 >= 100_000, "{report}");
}

#[test]
fn an_open_loop_that_is_too_fast_says_what_it_did_not_send() {
    let time = Duration::from_millis(200);
    let plan = Plan { connections: 1, in_flight: 1, rate: Some(1000.0), threads: 1, ..plan(Goal::Time(time)) };
    let outcome = drive(plan, CancellationToken::new(), |_, _| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(Done { messages: 1, latencies: None })
    })
    .unwrap();
    // 50 a second, until a second after the end.
    assert!(outcome.tally.messages() <= 61, "{}", outcome.tally.messages());
    assert_eq!(outcome.unsent + outcome.tally.messages(), 200);
}

#[test]
fn failed_calls_are_counted_and_told() {
    let outcome = drive(plan(Goal::Ask(5)), CancellationToken::new(), |_, _| async { anyhow::bail!("no room") });
    let outcome = outcome.unwrap();
    let report = outcome.tally.report(outcome.elapsed, 0, 0);
    assert_eq!(report.failed_calls, 5);
    assert!(!report.is_clean());
    assert_eq!(report.errors, ["no room"]);
}

#[test]
fn a_load_ends_at_its_limit_in_the_middle_of_calls_that_never_end() {
    let plan = Plan { limit: Duration::from_millis(100), ..plan(Goal::Ask(100)) };
    let outcome = drive(plan, CancellationToken::new(), |_, _| std::future::pending()).unwrap();
    assert_eq!(outcome.tally.messages(), 0);
}

#[test]
fn nobody_listening_is_an_error_that_names_the_address() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endpoint: Endpoint = free.to_string().parse().unwrap();
    let plan = Plan { endpoint: endpoint.clone(), ..plan(Goal::Ask(1)) };
    let error = drive(plan, CancellationToken::new(), |_, _| async { Ok(Done::default()) }).unwrap_err();
    assert!(format!("{error:#}").contains(&endpoint.to_string()), "{error:#}");
}
