use std::{
    net::Ipv4Addr,
    sync::mpsc as std_mpsc,
    thread::{self, JoinHandle},
};

use tonic::{Request, transport::Endpoint};

use super::*;
use crate::{
    config::{self, Sources},
    proto::v2::{self, messaging_service_client::MessagingServiceClient},
    proxy::Listener,
    store::sim::SimDisk,
};

/// A server on a thread of its own, over a simulated disk.
struct Running {
    ports: listen::Ports,
    signals: mpsc::Sender<&'static str>,
    thread: JoinHandle<Result<(), Error>>,
}

fn start(disk: &SimDisk) -> Running {
    start_with(disk, &[])
}

fn start_with(disk: &SimDisk, set: &[&str]) -> Running {
    let set = set.iter().map(|&s| s.to_owned()).collect();
    let mut loaded = config::load(&Sources { set, ..Sources::default() }).expect("valid settings");
    loaded.config.store.root = "/store".into();
    loaded.config.store.segment_bytes = 8 << 20;
    loaded.config.proxy.listeners = vec![Listener { listen: (Ipv4Addr::LOCALHOST, 0).into(), advertised: None }];
    loaded.config.server.admin_listen.set_port(0);
    loaded.config.server.workers = 1;
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let (signals, heard) = mpsc::channel(1);
    let (ready, ports) = std_mpsc::channel();
    let thread = thread::spawn(move || {
        let control = Builder::new_current_thread().enable_all().build().expect("a runtime");
        run_on(control, disk, loaded, heard, |at| {
            ready.send(at.ports).expect("the test listens");
            Ok(())
        })
    });
    Running { ports: ports.recv().expect("ready"), signals, thread }
}

/// Sends one message and returns the code of the answer, or nothing when there was no answer.
fn send(to: &listen::Ports) -> Option<v2::Code> {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let at = Endpoint::from_shared(format!("http://127.0.0.1:{}", to.grpc)).expect("a URI");
    let message = v2::Message {
        topic: Some(v2::Resource { resource_namespace: String::new(), name: "T".into() }),
        system_properties: Some(v2::SystemProperties {
            message_id: "1".into(),
            message_type: v2::MessageType::Normal.into(),
            body_encoding: v2::Encoding::Identity.into(),
            ..Default::default()
        }),
        body: "body".into(),
        ..Default::default()
    };
    runtime.block_on(async {
        let mut client = MessagingServiceClient::new(at.connect().await.ok()?);
        let mut request = Request::new(v2::SendMessageRequest { messages: vec![message] });
        request.metadata_mut().insert("x-mq-client-id", "test".parse().expect("ASCII"));
        Some(client.send_message(request).await.ok()?.into_inner().status?.code())
    })
}

#[test]
fn a_signal_ends_the_server_well_and_what_it_took_is_there_again() {
    let disk = SimDisk::new();
    for _ in 0..2 {
        let server = start(&disk);
        assert_eq!(send(&server.ports), Some(v2::Code::Ok));
        server.signals.blocking_send("a test").expect("the server listens");
        assert!(server.thread.join().expect("no panic").is_ok());
    }
}

#[test]
fn a_failed_sync_ends_the_server_with_its_reason_and_acknowledges_nothing() {
    let disk = SimDisk::new();
    let server = start(&disk);
    assert_eq!(send(&server.ports), Some(v2::Code::Ok));
    disk.fail_sync_once_then_lie();
    assert_ne!(send(&server.ports), Some(v2::Code::Ok));
    let Err(error) = server.thread.join().expect("no panic") else { panic!("the server ended as if all were well") };
    assert!(matches!(error, Error::Poisoned(_)), "{error}");
    assert!(error.to_string().contains("see to the disk"), "{error}");
}

#[test]
fn a_last_flush_that_fails_is_no_good_end() {
    let disk = SimDisk::new();
    // Only the flush at the end syncs what was sent.
    let server = start_with(&disk, &["flushDiskType=ASYNC_FLUSH", "flushIntervalCommitLog=60000"]);
    assert_eq!(send(&server.ports), Some(v2::Code::Ok));
    disk.fail_sync_once_then_lie();
    server.signals.blocking_send("a test").expect("the server listens");
    let Err(error) = server.thread.join().expect("no panic") else { panic!("the server ended as if all were well") };
    assert!(matches!(error, Error::Poisoned(_)), "{error}");
}
