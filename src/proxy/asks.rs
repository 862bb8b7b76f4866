//! Questions to clients that wait for their answer on Telemetry.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::oneshot, time::timeout};

use crate::{
    proto::v2::{self, Code},
    types::ClientId,
};

use super::PushError;

/// Questions that wait for their answer at most.
const ASKS_MAX: usize = 1024;

/// Why a client did not answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AskError {
    #[error(transparent)]
    Push(#[from] PushError),
    #[error("{ASKS_MAX} questions already wait for answers of clients")]
    TooMany,
    #[error("the client did not answer within {0:?}")]
    Silent(Duration),
    /// Most clients do not know most questions.
    #[error("the client answered {}: {message}", code.as_str_name())]
    Refused { code: Code, message: String },
}

/// What a client said.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: Option<v2::Status>,
    /// The thread stacks.
    pub text: String,
}

/// The questions under way.
#[derive(Default)]
pub struct Asks(Mutex<Table>);

#[derive(Default)]
struct Table {
    last: u64,
    waiting: HashMap<u64, Waiting>,
}

struct Waiting {
    client: ClientId,
    answer: oneshot::Sender<Answer>,
}

/// A question's place; given back when it is dropped.
struct Place<'a> {
    asks: &'a Asks,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.asks.0.lock().waiting.remove(&self.number);
    }
}

impl Asks {
    /// Sends a question with a nonce of its own and waits for the answer to it.
    pub async fn ask(
        &self,
        client: &ClientId,
        within: Duration,
        send: impl FnOnce(String) -> Result<(), PushError>,
    ) -> Result<Answer, AskError> {
        let (place, answer) = self.place(client)?;
        send(place.number.to_string())?;
        match timeout(within, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) | Err(_) => Err(AskError::Silent(within)),
        }
    }

    fn place(&self, client: &ClientId) -> Result<(Place<'_>, oneshot::Receiver<Answer>), AskError> {
        let mut table = self.0.lock();
        if table.waiting.len() >= ASKS_MAX {
            return Err(AskError::TooMany);
        }
        table.last += 1;
        let (sender, answer) = oneshot::channel();
        let number = table.last;
        table.waiting.insert(number, Waiting { client: client.clone(), answer: sender });
        Ok((Place { asks: self, number }, answer))
    }

    /// A client answered. What nobody waits for, or was asked of another client, is passed over.
    pub fn answered(&self, client: &ClientId, nonce: &str, answer: Answer) {
        let Ok(number) = nonce.parse::<u64>() else { return };
        let mut table = self.0.lock();
        if table.waiting.get(&number).is_some_and(|waiting| waiting.client == *client)
            && let Some(waiting) = table.waiting.remove(&number)
        {
            // Who asked may be gone.
            let _ = waiting.answer.send(answer);
        }
    }
}

impl Answer {
    /// The answer, unless it is a refusal. A client that gives no status means well.
    pub fn accepted(self) -> Result<Self, AskError> {
        match &self.status {
            Some(status) if status.code != Code::Ok as i32 => {
                Err(AskError::Refused { code: status.code(), message: status.message.clone() })
            }
            _ => Ok(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(id: &str) -> ClientId {
        ClientId::parse(id).unwrap()
    }
    fn text(text: &str) -> Answer {
        Answer { status: None, text: text.into() }
    }

    #[tokio::test]
    async fn an_answer_reaches_who_asked_and_only_from_the_client_that_was_asked() {
        let asks = Asks::default();
        let (a, b) = (client("a"), client("b"));
        let answer = asks.ask(&a, Duration::from_secs(5), |nonce| {
            asks.answered(&b, &nonce, text("from another"));
            asks.answered(&a, "77", text("to nothing"));
            asks.answered(&a, &nonce, text("right"));
            asks.answered(&a, &nonce, text("again"));
            Ok(())
        });
        assert_eq!(answer.await.unwrap().text, "right");
        assert!(asks.0.lock().waiting.is_empty());
    }

    #[tokio::test]
    async fn silence_ends_and_leaves_nothing_behind() {
        let asks = Asks::default();
        let within = Duration::from_millis(10);
        assert_eq!(asks.ask(&client("a"), within, |_| Ok(())).await.unwrap_err(), AskError::Silent(within));
        let unsent = asks.ask(&client("a"), within, |_| Err(PushError::NoStream)).await;
        assert_eq!(unsent.unwrap_err(), AskError::Push(PushError::NoStream));
        assert!(asks.0.lock().waiting.is_empty());
    }

    #[tokio::test]
    async fn questions_are_bounded() {
        let asks = Asks::default();
        let places: Vec<_> = (0..ASKS_MAX).map(|_| asks.place(&client("a")).unwrap()).collect();
        assert!(matches!(asks.place(&client("b")), Err(AskError::TooMany)));
        drop(places);
        assert!(asks.place(&client("b")).is_ok());
    }
}
