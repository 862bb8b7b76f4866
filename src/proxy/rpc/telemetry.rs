//! Telemetry: settings told, merged and answered at once; commands pushed.

use std::{net::IpAddr, pin::Pin, sync::Arc, time::Duration};

use futures_util::stream;
use prost::Message;
use tokio::time::{Sleep, sleep};
use tokio_stream::Stream;
use tonic::{Status, Streaming};

use crate::{
    broker::{Group, Role},
    proto::v2::{self, Code, TelemetryCommand, settings::PubSub, telemetry_command::Command},
};

use super::{
    Call, Front, Outcome, Refusal,
    convert::{self, settings},
};
use crate::proxy::{
    about::About,
    asks::Answer,
    layers::Language,
    sessions::{self, Told},
    status,
};

/// After this the first answer to a Node.js client is repeated: it looks for the answer only once it has the routes of
/// all its topics, and misses one that is quicker.
const REPEAT_AFTER: Duration = Duration::from_secs(1);

/// The server's side of a stream.
pub type Commands = Pin<Box<dyn Stream<Item = Result<TelemetryCommand, Status>> + Send>>;

/// Serves one stream: without a task, driven by whoever reads it.
pub fn commands(front: Arc<Front>, call: Call, peer: IpAddr, inbound: Streaming<TelemetryCommand>) -> Commands {
    match front.sessions.open(&call.client, call.language) {
        Ok(stream) => {
            let served = Served { front, call, peer, inbound, stream, repeat: None, refused: None, ended: false };
            Box::pin(stream::unfold(served, |mut served| async move { served.next().await.map(|item| (item, served)) }))
        }
        Err(refusal) => {
            let command = TelemetryCommand { status: Some(refusal.into()), command: None };
            Box::pin(tokio_stream::once(Ok(command)))
        }
    }
}

struct Served {
    front: Arc<Front>,
    call: Call,
    peer: IpAddr,
    inbound: Streaming<TelemetryCommand>,
    stream: sessions::Stream,
    repeat: Option<(Pin<Box<Sleep>>, v2::Settings)>,
    /// Ends the stream, once the client was told.
    refused: Option<Refusal>,
    ended: bool,
}

impl Served {
    /// What goes to the client next; `None` ends the stream.
    async fn next(&mut self) -> Option<Result<TelemetryCommand, Status>> {
        if let Some(refusal) = self.refused.take() {
            self.ended = true;
            return Some(Err(status::telemetry(&refusal)));
        }
        while !self.ended {
            tokio::select! {
                inbound = self.inbound.message() => match inbound {
                    Ok(Some(TelemetryCommand { command: Some(Command::Settings(settings)), .. })) => {
                        return Some(self.answer(settings).await);
                    }
                    Ok(Some(command)) => self.heard(command),
                    // Half-closed, or broken: settings stay, the client comes back.
                    Ok(None) | Err(_) => return None,
                },
                Some(queued) = self.stream.commands.recv() => return Some(Ok(self.taken(queued))),
                settings = due(&mut self.repeat) => return Some(Ok(told(settings))),
                () = self.front.draining.cancelled() => return None,
            }
        }
        None
    }

    /// A question counts once it is on its way, not while it waits for a client that reads nothing.
    fn taken(&self, queued: sessions::Queued) -> TelemetryCommand {
        if let Some(question) = queued.question {
            question.taken();
        }
        queued.command
    }

    /// An answer to a question, or what a later client may say.
    fn heard(&self, TelemetryCommand { status, command }: TelemetryCommand) {
        let (nonce, text) = match command {
            Some(Command::ThreadStackTrace(told)) => (told.nonce, told.thread_stack_trace.unwrap_or_default()),
            Some(Command::VerifyMessageResult(told)) => (told.nonce, String::new()),
            _ => return,
        };
        self.front.asks.answered(&self.call.client, &nonce, Answer { status, text });
    }

    async fn answer(&mut self, settings: v2::Settings) -> Result<TelemetryCommand, Status> {
        match learn(&self.front, &self.call, self.peer, settings).await {
            Ok((settings, first)) => {
                if first && self.call.language == Language::NodeJs {
                    self.repeat = Some((Box::pin(sleep(REPEAT_AFTER)), settings.clone()));
                }
                Ok(told(settings))
            }
            // It takes the end of the stream for a broken connection and waits for an answer without end: only a
            // command that is nothing but a status ends its start.
            Err(refusal) if self.call.language == Language::NodeJs => {
                let command = TelemetryCommand { status: Some(refusal.clone().into()), command: None };
                self.refused = Some(refusal);
                Ok(command)
            }
            Err(refusal) => {
                self.ended = true;
                Err(status::telemetry(&refusal))
            }
        }
    }
}

/// Waits for the time of the repetition; for ever when there is none.
async fn due(repeat: &mut Option<(Pin<Box<Sleep>>, v2::Settings)>) -> v2::Settings {
    let Some((at, _)) = repeat.as_mut() else { return std::future::pending().await };
    at.as_mut().await;
    repeat.take().map(|(_, settings)| settings).unwrap_or_default()
}

fn told(settings: v2::Settings) -> TelemetryCommand {
    TelemetryCommand { status: Some(status::ok()), command: Some(Command::Settings(settings)) }
}

/// Takes a client's settings in, and says what it is told back and whether it is the first time.
async fn learn(front: &Front, call: &Call, peer: IpAddr, settings: v2::Settings) -> Outcome<(v2::Settings, bool)> {
    let (size, max) = (settings.encoded_len(), front.config.limits.settings_bytes_max);
    if size > max {
        return Err(Refusal::new(Code::BadRequest, format_args!("the settings have {size} bytes, the most is {max}")));
    }
    let role = settings::role(&settings)?;
    let group = match settings::group_of(&role) {
        Some(group) => front.group(group).await?,
        None => None,
    };
    let broker = front.broker.config();
    let decided = settings::Decided {
        body_max: broker.max_message_bytes,
        check_message_type: broker.check_message_type,
        producer: &front.config.producer,
        polling: &front.config.polling,
        group: group.as_deref(),
        reads_customized: call.language != Language::NodeJs,
        retry_max_times: broker.retry_max_times,
        lite_subscription_quota: broker.lite_subscription_quota,
        lite_name_max: broker.lite_name_max,
    };
    let request_timeout = settings.request_timeout.as_ref().and_then(convert::duration);
    let about = About::of(&settings, peer, front.broker.clock().wall());
    // Before it is told that it may start: what is sent from now on is for it too.
    if let Some(group) = group.as_deref().filter(|group| group.broadcast) {
        join(front, call, group, &settings).await?;
    }
    let merged = settings::merged(settings, &decided);
    let first = register(front, call, role, request_timeout)?;
    front.sessions.introduce(&call.client, about);
    Ok((merged, first))
}

/// A client of a broadcasting group begins on the topics that it subscribes to; on those that there are not, with their first
/// message.
async fn join(front: &Front, call: &Call, group: &Group, settings: &v2::Settings) -> Outcome<()> {
    let Some(PubSub::Subscription(subscription)) = &settings.pub_sub else { return Ok(()) };
    for entry in &subscription.subscriptions {
        let topic = convert::topic(entry.topic.as_ref())?;
        match front.topic(&topic).await {
            Err(refusal) if refusal.code != Code::TopicNotFound => return Err(refusal),
            _ => front.broker.join(&topic, &group.name, &call.client)?,
        }
    }
    Ok(())
}

fn register(front: &Front, call: &Call, role: Role, request_timeout: Option<Duration>) -> Outcome<bool> {
    let first = front.sessions.tell(&call.client, Told { role: role.clone(), request_timeout })?;
    front.broker.client_seen(&call.client, role);
    Ok(first)
}
