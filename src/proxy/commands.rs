//! What the server has to say to its clients over Telemetry: commands with an answer, and without.

use std::{collections::HashMap, time::Duration};

use crate::{
    broker::{Askable, Check},
    proto::v2::{self, TelemetryCommand, telemetry_command::Command},
    types::{ClientId, Deadline, StoredMessage, TopicName},
};

use super::{
    AskError, Proxy, PushError,
    convert::delivery::{self, DigestKind},
    layers::Language,
    sessions::Question,
};

/// How long a client may take to answer. Consuming a message to verify it is its listener's work.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// What a question takes besides its message's body and properties, about.
const QUESTION_BYTES: usize = 512;

impl Proxy {
    /// Asks producers about their half messages that are due, and says when to come again. The server calls it in a
    /// loop.
    pub async fn check_transactions(&self) -> Option<Deadline> {
        let front = self.front();
        let (broker, sessions) = (&front.broker, &front.sessions);
        let mut room: HashMap<TopicName, Option<usize>> = HashMap::new();
        let askable = |topic: &TopicName| {
            let room = room.entry(topic.clone()).or_insert_with(|| sessions.room_to_ask(topic));
            match room {
                None => Askable::Nobody,
                Some(0) => Askable::Soon,
                Some(left) => {
                    *left -= 1;
                    Askable::Now
                }
            }
        };
        let round = broker.due_checks(askable).await;
        for Check { message, transaction } in round.checks {
            let topic = message.topic.clone();
            let bytes = message.body.len() + message.properties.encoded().len() + QUESTION_BYTES;
            broker.check_waits(transaction);
            let ended = broker.clone();
            let question = Question::new(move |is_taken| ended.check_ended(transaction, is_taken));
            sessions.ask(&topic, bytes, question, |language| {
                let message = Some(self.undelivered(message, language));
                let transaction_id = transaction.to_string();
                let orphan = v2::RecoverOrphanedTransactionCommand { message, transaction_id };
                command(Command::RecoverOrphanedTransactionCommand(orphan))
            });
        }
        round.next
    }

    /// The thread stacks of a client, as text.
    pub async fn print_thread_stack(&self, client: &ClientId) -> Result<String, AskError> {
        let asked = self.front().asks.ask(client, ANSWER_WITHIN, |nonce| {
            let print = v2::PrintThreadStackTraceCommand { nonce };
            self.push(client, command(Command::PrintThreadStackTraceCommand(print)))
        });
        Ok(asked.await?.accepted()?.text)
    }

    /// Has a push consumer's listener consume a message once, beside all deliveries; `Ok` when it did so with success.
    pub async fn verify_message(&self, client: &ClientId, message: StoredMessage) -> Result<(), AskError> {
        let language = self.front().sessions.language(client).ok_or(PushError::NoStream)?;
        let message = Some(self.undelivered(message, language));
        let asked = self.front().asks.ask(client, ANSWER_WITHIN, |nonce| {
            let verify = v2::VerifyMessageCommand { nonce, message };
            self.push(client, command(Command::VerifyMessageCommand(verify)))
        });
        asked.await?.accepted().map(drop)
    }

    /// Has a client renew its connections. Java, Go and Node.js do; the others pass it over. A drain need not say it: its
    /// GOAWAY has every client renew them.
    pub fn reconnect_endpoints(&self, client: &ClientId) -> Result<(), PushError> {
        // No answer is to be expected.
        let reconnect = v2::ReconnectEndpointsCommand { nonce: "0".into() };
        self.push(client, command(Command::ReconnectEndpointsCommand(reconnect)))
    }

    /// Tells a lite consumer that the server took a lite topic out of its set.
    pub fn notify_unsubscribe_lite(&self, client: &ClientId, lite_topic: &str) -> Result<(), PushError> {
        let notify = v2::NotifyUnsubscribeLiteCommand { lite_topic: lite_topic.into() };
        self.push(client, command(Command::NotifyUnsubscribeLiteCommand(notify)))
    }

    fn undelivered(&self, message: StoredMessage, language: Language) -> v2::Message {
        let now = self.front().broker.clock().wall();
        let mut message = delivery::undelivered(message, DigestKind::for_client(language), now);
        // Clients read it like a delivery.
        if let Some(system) = &mut message.system_properties {
            system.delivery_attempt = Some(1);
        }
        message
    }
}

fn command(command: Command) -> TelemetryCommand {
    TelemetryCommand { status: Some(super::status::ok()), command: Some(command) }
}
