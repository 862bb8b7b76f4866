use std::{
    net::Ipv4Addr,
    path::Path,
    sync::mpsc as std_mpsc,
    thread::{self, JoinHandle},
};

use tonic::{Request, transport::Endpoint};

use super::*;
use crate::{
    config::{self, Sources},
    proto::v2::{self, messaging_service_client::MessagingServiceClient},
    proxy::Listener,
    store::{
        disk::{File, Open, Space},
        sim::SimDisk,
    },
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
    start_on(Arc::new(disk.clone()), settings(set), || {})
}

fn settings(set: &[&str]) -> Loaded {
    let set = set.iter().map(|&s| s.to_owned()).collect();
    let mut loaded = config::load(&Sources { set, ..Sources::default() }).expect("valid settings");
    loaded.config.store.root = "/store".into();
    loaded.config.store.segment_bytes = 8 << 20;
    loaded.config.proxy.listeners = vec![Listener { listen: (Ipv4Addr::LOCALHOST, 0).into(), advertised: None }];
    loaded.config.server.admin_listen.set_port(0);
    loaded.config.ops.listen.set_port(0);
    loaded.config.server.workers = 1;
    loaded
}

/// Starts it, does something meanwhile, and waits until it is ready.
fn start_on(disk: Arc<dyn Disk>, loaded: Loaded, meanwhile: impl FnOnce()) -> Running {
    let (signals, heard) = mpsc::channel(1);
    let (ready, ports) = std_mpsc::channel();
    let thread = thread::spawn(move || {
        let control = Builder::new_current_thread().enable_all().build().expect("a runtime");
        run_on(control, disk, loaded, heard, |at| {
            ready.send(at.ports).expect("the test listens");
            Ok(())
        })
    });
    meanwhile();
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
    disk.fail_log_sync_once_then_lie();
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
    disk.fail_log_sync_once_then_lie();
    server.signals.blocking_send("a test").expect("the server listens");
    let Err(error) = server.thread.join().expect("no panic") else { panic!("the server ended as if all were well") };
    assert!(matches!(error, Error::Poisoned(_)), "{error}");
}

/// A disk on which taking the lock of a store lasts until somebody says so.
struct Slow {
    disk: SimDisk,
    go: parking_lot::Mutex<std_mpsc::Receiver<()>>,
}

impl Disk for Slow {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        self.disk.open(path, how)
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir_all(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.disk.list(path)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.disk.exists(path)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_file(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir_all(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_dir(path)
    }
    fn space(&self, path: &Path) -> io::Result<Space> {
        self.disk.space(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.go.lock().recv().map_err(io::Error::other)?;
        self.disk.lock(path)
    }
}

/// The status line of an answer of the port of operations, once somebody listens there.
fn probe(port: u16, path: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut text = String::new();
    while text.is_empty() {
        let Ok(mut tcp) = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { continue };
        write!(tcp, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("written");
        tcp.read_to_string(&mut text).expect("answered");
    }
    text.lines().next().unwrap_or_default().to_owned() + text.lines().last().unwrap_or_default()
}

#[test]
fn a_server_that_is_still_opening_its_store_is_alive_and_not_ready() {
    let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = free.local_addr().expect("bound").port();
    drop(free);
    let (go, wait) = std_mpsc::channel();
    let disk = Arc::new(Slow { disk: SimDisk::new(), go: parking_lot::Mutex::new(wait) });
    let mut loaded = settings(&[]);
    loaded.config.ops.listen.set_port(port);
    let server = start_on(disk, loaded, move || {
        assert!(probe(port, "/livez").contains(" 200 "));
        let ready = probe(port, "/readyz");
        assert!(ready.contains(" 503 ") && ready.contains("recovered"), "{ready}");
        assert!(probe(port, "/metrics").contains(" 200 "));
        go.send(()).expect("the store waits");
    });
    assert!(probe(port, "/readyz").contains(" 200 "));
    server.signals.blocking_send("a test").expect("the server listens");
    assert!(server.thread.join().expect("no panic").is_ok());
    assert!(std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err(), "the port is closed with the server");
}

#[test]
fn a_full_disk_is_told_by_readiness_and_takes_nobody_away() {
    let disk = SimDisk::new();
    let server = start(&disk);
    let port = server.ports.ops.expect("it listens");
    assert_eq!(send(&server.ports), Some(v2::Code::Ok));
    let until = |is_full: bool| {
        let told = (0..1000).any(|_| {
            thread::sleep(Duration::from_millis(10));
            let ready = probe(port, "/readyz");
            assert!(ready.contains(" 200 "), "consumers would be kept from making room: {ready}");
            ready.contains("the disk is full") == is_full
        });
        assert!(told, "nothing said that the disk is full: {is_full}");
    };
    disk.set_capacity(disk.used());
    until(true);
    assert!(send(&server.ports).is_some_and(|code| code != v2::Code::Ok), "it answers, and takes nothing");
    assert!(probe(port, "/livez").contains(" 200 "));
    disk.set_capacity(1 << 40);
    until(false);
    assert_eq!(send(&server.ports), Some(v2::Code::Ok));
    server.signals.blocking_send("a test").expect("the server listens");
    assert!(server.thread.join().expect("no panic").is_ok());
}
