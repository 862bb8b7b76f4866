use super::*;
use crate::proto::v2;

fn client(id: &str) -> ClientId {
    ClientId::parse(id).unwrap()
}

fn told() -> Told {
    Told { role: Role::Producer { topics: vec![] }, request_timeout: Some(Duration::from_secs(3)) }
}

fn sessions() -> Arc<Sessions> {
    Arc::new(Sessions::new(2, 2))
}

#[test]
fn the_newest_stream_gets_the_commands() {
    let (all, a) = (sessions(), client("a"));
    let mut old = all.open(&a, Language::Java).unwrap();
    let mut new = all.open(&a, Language::Java).unwrap();
    all.push(&a, TelemetryCommand::default()).unwrap();
    assert!(new.commands.try_recv().is_ok());
    assert!(old.commands.try_recv().is_err());
}

#[test]
fn an_older_stream_that_ends_does_not_end_the_newer() {
    let (all, a) = (sessions(), client("a"));
    let old = all.open(&a, Language::Java).unwrap();
    let mut new = all.open(&a, Language::Java).unwrap();
    all.tell(&a, told()).unwrap();
    drop(old);
    all.push(&a, TelemetryCommand::default()).unwrap();
    assert!(new.commands.try_recv().is_ok());
    drop(new);
    assert_eq!(all.push(&a, TelemetryCommand::default()), Err(PushError::NoStream));
    assert!(all.knows(&a), "settings outlive the stream, since the client reconnects");
}

#[test]
fn settings_stay_while_a_stream_is_open() {
    let (all, a) = (sessions(), client("a"));
    let stream = all.open(&a, Language::Java).unwrap();
    assert!(all.tell(&a, told()).unwrap());
    assert!(!all.tell(&a, told()).unwrap());
    all.silent(std::slice::from_ref(&a));
    assert!(all.knows(&a));
    drop(stream);
    assert!(!all.knows(&a));
    assert_eq!(all.len(), 0);
}

#[test]
fn a_sign_of_life_undoes_silence() {
    let (all, a) = (sessions(), client("a"));
    let stream = all.open(&a, Language::Java).unwrap();
    all.tell(&a, told()).unwrap();
    all.silent(std::slice::from_ref(&a));
    assert!(all.heard(&a).is_some());
    drop(stream);
    assert!(all.knows(&a));
    all.silent(std::slice::from_ref(&a));
    assert_eq!(all.len(), 0);
}

#[test]
fn sessions_streams_and_commands_are_bounded() {
    let (all, a) = (sessions(), client("a"));
    let streams = [all.open(&a, Language::Java).unwrap(), all.open(&a, Language::Java).unwrap()];
    assert_eq!(all.open(&a, Language::Java).err().unwrap().code, Code::TooManyRequests);
    let b = all.open(&client("b"), Language::Java).unwrap();
    assert_eq!(all.tell(&client("c"), told()).unwrap_err().code, Code::TooManyRequests);
    assert_eq!(all.open(&client("c"), Language::Java).err().unwrap().code, Code::TooManyRequests);
    for _ in 0..COMMANDS_MAX {
        all.push(&a, TelemetryCommand::default()).unwrap();
    }
    assert_eq!(all.push(&a, TelemetryCommand::default()), Err(PushError::Full));
    drop(streams);
    drop(b);
    assert_eq!(all.len(), 0, "a stream without settings leaves nothing behind");
}

#[test]
fn a_full_table_forgets_who_has_no_stream_for_who_comes() {
    let (all, [a, b, c, d]) = (sessions(), ["a", "b", "c", "d"].map(client));
    let kept = all.open(&a, Language::Java).unwrap();
    all.tell(&a, told()).unwrap();
    all.tell(&b, publishing(&["T"])).unwrap();
    let stream = all.open(&c, Language::Java).expect("the client without a stream makes room");
    all.tell(&c, told()).unwrap();
    assert!(all.knows(&a) && !all.knows(&b) && all.knows(&c));
    assert_eq!(all.table.read().producers.topics(), 0, "who is forgotten is no producer either");
    // The one whose stream ended is the next to go, and comes back as if it were new.
    drop(stream);
    assert!(all.knows(&c), "not before there is need");
    all.tell(&d, told()).unwrap();
    assert!(all.knows(&a) && !all.knows(&c) && all.knows(&d));
    assert_eq!(all.len(), 2);
    drop((kept, all.open(&d, Language::Java).unwrap()));
    let Table { sessions, loose, .. } = &*all.table.read();
    assert_eq!((sessions.len(), loose.len()), (2, 2), "each is in the order of leaving once");
}

#[test]
fn the_topics_that_a_client_names_are_kept_up_to_a_bound() {
    let (all, a) = (sessions(), client("a"));
    let topic = |n: usize| TopicName::parse(&format!("T{n}")).unwrap();
    let role = Role::Producer { topics: (0..TOPICS_MAX + 1).map(topic).collect() };
    all.tell(&a, Told { role, request_timeout: None }).unwrap();
    let Role::Producer { topics } = all.heard(&a).unwrap().role else { panic!("it is a producer") };
    assert_eq!(topics.len(), TOPICS_MAX);
}

#[test]
fn goodbye_forgets_the_settings() {
    let (all, a) = (sessions(), client("a"));
    assert!(!all.goodbye(&a));
    all.tell(&a, told()).unwrap();
    assert!(all.goodbye(&a));
    assert_eq!(all.len(), 0);
}

fn publishing(topics: &[&str]) -> Told {
    let topics = topics.iter().map(|name| TopicName::parse(name).unwrap()).collect();
    Told { role: Role::Producer { topics }, request_timeout: None }
}

fn any_question() -> Question {
    Question::new(|_| ())
}

#[test]
fn the_bytes_of_questions_that_wait_for_one_client_are_bounded() {
    let (all, a) = (sessions(), client("a"));
    let t = TopicName::parse("T").unwrap();
    let mut stream = all.open(&a, Language::Java).unwrap();
    all.tell(&a, publishing(&["T"])).unwrap();
    let question = |bytes: usize| {
        let message = v2::Message { body: vec![0; bytes].into(), ..Default::default() };
        let orphan = v2::RecoverOrphanedTransactionCommand { message: Some(message), ..Default::default() };
        let command = v2::telemetry_command::Command::RecoverOrphanedTransactionCommand(orphan);
        TelemetryCommand { command: Some(command), ..Default::default() }
    };
    let ask = |bytes| all.ask(&t, bytes, any_question(), |_| question(bytes));
    assert_eq!((ask(4_000_000), ask(4_000_000), ask(4_000_000)), (true, true, false));
    assert!(ask(10), "a small one has room");
    let taken = stream.commands.try_recv().unwrap();
    assert!(taken.question.is_some() && !ask(4_000_000), "it has its room until it is taken out of memory");
    drop(taken);
    assert!(ask(4_000_000));
    while stream.commands.try_recv().is_ok() {}
    assert!(ask(20_000_000), "one that is larger than all of it goes alone");
    assert_eq!(all.room_to_ask(&t), Some(0));
}

#[test]
fn a_question_says_once_whether_it_was_taken_and_is_written_only_where_there_is_a_place() {
    let (all, a) = (sessions(), client("a"));
    let t = TopicName::parse("T").unwrap();
    let told = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let ask = |n: u32| {
        let (told, table) = (told.clone(), all.clone());
        let question = Question::new(move |is_taken| {
            assert!(table.table.try_write().is_some(), "the sessions are locked");
            told.lock().push((n, is_taken));
        });
        all.ask(&t, 10, question, |_| {
            assert!(n > 0 && all.table.try_write().is_some(), "a message is made for nobody, or under the lock");
            TelemetryCommand::default()
        })
    };
    assert!(!ask(0));
    let mut stream = all.open(&a, Language::Java).unwrap();
    all.tell(&a, publishing(&["T"])).unwrap();
    assert!(ask(1) && ask(2));
    assert_eq!(*told.lock(), [(0, false)]);
    stream.commands.try_recv().unwrap().question.unwrap().taken();
    assert_eq!(*told.lock(), [(0, false), (1, true)]);
    drop(stream);
    assert_eq!(*told.lock(), [(0, false), (1, true), (2, false)]);
}

#[test]
fn producers_are_known_by_topic_until_they_are_gone() {
    let (all, a, b) = (sessions(), client("a"), client("b"));
    let topic = |name| TopicName::parse(name).unwrap();
    let mut streams = [all.open(&a, Language::Java).unwrap(), all.open(&b, Language::Go).unwrap()];
    all.tell(&a, publishing(&["T"])).unwrap();
    all.tell(&a, publishing(&["T", "U"])).unwrap();
    assert_eq!(all.room_to_ask(&topic("V")), None);
    all.published(&b, &topic("V"));
    all.published(&b, &topic("V"));
    assert_eq!([all.room_to_ask(&topic("T")), all.room_to_ask(&topic("V"))], [Some(COMMANDS_MAX); 2]);
    let ask = |name| all.ask(&topic(name), 10, any_question(), |_| TelemetryCommand::default());
    for _ in 0..COMMANDS_MAX {
        assert!(ask("T"));
    }
    assert!(!ask("T") && ask("V"));
    assert_eq!(all.room_to_ask(&topic("U")), Some(0));
    streams[0].commands.try_recv().unwrap();
    assert!(ask("U"));
    // A consumer publishes nothing.
    let group = crate::types::GroupName::parse("g").unwrap();
    all.tell(&b, Told { role: Role::Consumer { group }, request_timeout: None }).unwrap();
    assert_eq!(all.room_to_ask(&topic("V")), None);
    all.goodbye(&a);
    assert!(!ask("T"));
    drop(streams);
    assert_eq!((all.len(), all.table.read().producers.topics()), (1, 0));
}
