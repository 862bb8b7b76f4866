//! Sending messages again, and dead letters.

use tonic::{Code, Status};

use crate::{
    broker::{AppendError, Broker, DeadLetter, LookError, ResendError, Resent},
    proto::admin as pb,
    types::{GroupName, QueueOffset, TopicName, properties::key},
};

use super::timers::wire_time;

/// Dead letters of a list that asks for no number, the most, and the most that one call sends.
const LIST_DEFAULT: usize = 100;
const LETTERS_MAX: usize = 1000;

/// Waits for the disk.
pub fn list(broker: &Broker, request: &pb::ListDeadLettersRequest) -> Result<pb::ListDeadLettersResponse, Status> {
    let limit = if request.limit == 0 { LIST_DEFAULT } else { (request.limit as usize).min(LETTERS_MAX) };
    let from = offset(request.from)?;
    let found = broker.dead_letters(&group(&request.group)?, from, limit, request.all).map_err(refusal)?;
    let letters = found.letters.into_iter().map(wire).collect();
    Ok(pb::ListDeadLettersResponse { letters, next: found.next.map(QueueOffset::get) })
}

pub async fn message(broker: &Broker, request: pb::ResendMessageRequest) -> Result<pb::ResendMessageResponse, Status> {
    let (topic, id) = (topic(&request.topic)?, request.message_id);
    let (name, wanted) = (topic.clone(), id.clone());
    let found = blocking(broker, move |broker| broker.find_by_id(&name, &wanted).map_err(of_look)).await?;
    let message = found.into_iter().next().ok_or_else(|| no_message(&topic, &id))?;
    let (resent, end) = blocking(broker, move |broker| broker.resend(&message).map_err(refusal)).await?;
    broker.resent(end).await.map_err(refusal)?;
    Ok(pb::ResendMessageResponse { resent: Some(wire_resent(resent, None)) })
}

pub async fn dead_letters(
    broker: &Broker,
    request: pb::ResendDeadLettersRequest,
) -> Result<pb::ResendDeadLettersResponse, Status> {
    let pb::ResendDeadLettersRequest { group: name, offsets, again, go_on } = request;
    if offsets.len() > LETTERS_MAX {
        let text = format!("{} dead letters in one call, the most is {LETTERS_MAX}", offsets.len());
        return Err(Status::invalid_argument(text));
    }
    let group = group(&name)?;
    let offsets = offsets.into_iter().map(offset).collect::<Result<Vec<_>, _>>()?;
    let send = move |broker: &Broker| {
        let (mut sent, mut end, mut passed_over) = (Vec::with_capacity(offsets.len()), None, Vec::new());
        for offset in offsets {
            match broker.resend_dead_letter(&group, offset, again) {
                Ok((resent, to)) => {
                    end = Some(to);
                    sent.push(wire_resent(resent, Some(offset)));
                }
                Err(error) if go_on && error.is_of_the_letter() => {
                    passed_over.push(pb::RefusedDeadLetter { offset: offset.get(), reason: error.to_string() });
                }
                Err(error) => return Ok((sent, passed_over, end, Some(refusal(error)))),
            }
        }
        Ok((sent, passed_over, end, None))
    };
    let (resent, passed_over, end, refused) = blocking(broker, send).await?;
    // Those before the refusal were sent, whatever the answer.
    if let Some(end) = end {
        broker.resent(end).await.map_err(refusal)?;
    }
    match refused {
        Some(refused) => Err(refused),
        None => Ok(pb::ResendDeadLettersResponse { resent, refused: passed_over }),
    }
}

async fn blocking<T: Send + 'static>(
    broker: &Broker,
    verb: impl FnOnce(&Broker) -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    let broker = broker.clone();
    let done = tokio::task::spawn_blocking(move || verb(&broker)).await;
    done.map_err(|e| Status::internal(format!("the call did not end: {e}; see the server's log")))?
}

fn wire(letter: DeadLetter) -> pb::DeadLetter {
    let message = &letter.message;
    let of = |key| message.properties.get(key).map(str::to_owned);
    pb::DeadLetter {
        offset: message.queue_offset.get(),
        message_id: message.message_id().unwrap_or_default().into(),
        topic: letter.origin().unwrap_or_default().into(),
        tag: of(key::TAGS),
        keys: of(key::KEYS),
        born: wire_time(message.born_at),
        dead: wire_time(letter.moved_at()),
        done: letter.done,
        body: message.body.to_vec(),
    }
}

fn wire_resent(resent: Resent, dead_letter: Option<QueueOffset>) -> pb::Resent {
    pb::Resent {
        message_id: resent.message_id,
        topic: resent.topic.to_string(),
        queue_id: resent.queue.0,
        offset: resent.offset.get(),
        dead_letter: dead_letter.map(QueueOffset::get),
    }
}

pub(super) fn topic(text: &str) -> Result<TopicName, Status> {
    TopicName::parse(text).map_err(|e| Status::invalid_argument(format!("topic {text:?}: {e}")))
}

fn group(text: &str) -> Result<GroupName, Status> {
    GroupName::parse(text).map_err(|e| Status::invalid_argument(format!("group {text:?}: {e}")))
}

fn offset(number: u64) -> Result<QueueOffset, Status> {
    let offset = QueueOffset::new(number);
    let beyond = || Status::invalid_argument(format!("offset {number} is beyond every queue"));
    (offset <= QueueOffset::MAX).then_some(offset).ok_or_else(beyond)
}

fn no_message(topic: &TopicName, id: &str) -> Status {
    Status::not_found(format!("topic {topic} has no message {id}; it may be of another topic, or expired"))
}

/// A refusal to look.
pub(super) fn of_look(error: LookError) -> Status {
    let code = match &error {
        LookError::TopicNotFound(_) | LookError::GroupNotFound(_) | LookError::NoQueue { .. } => Code::NotFound,
        LookError::NotIndexed => Code::FailedPrecondition,
        LookError::Cursor(_) | LookError::TooManyTopics { .. } => Code::InvalidArgument,
        LookError::TooSlow { .. } => Code::DeadlineExceeded,
        LookError::Read(_) => Code::Unavailable,
    };
    Status::new(code, error.to_string())
}

fn refusal(error: ResendError) -> Status {
    let code = match &error {
        ResendError::GroupNotFound(_) | ResendError::TopicNotFound(_) | ResendError::NoLetter { .. } => Code::NotFound,
        ResendError::NotWritable(_) | ResendError::Done(_) | ResendError::NoOrigin(_) => Code::FailedPrecondition,
        ResendError::TooManyBooks { .. } | ResendError::NotTaken(_) | ResendError::Append(AppendError::Busy { .. }) => {
            Code::ResourceExhausted
        }
        ResendError::Append(_) | ResendError::Read(_) | ResendError::Unconfirmed(_) => Code::Unavailable,
    };
    Status::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        broker::{
            Filter, Group, RetryPolicy, Take,
            testing::{Machine, normal, topic},
        },
        types::Clock,
    };

    #[tokio::test]
    async fn one_letter_that_cannot_be_sent_keeps_no_other_back_when_the_call_is_to_go_on() {
        let mut machine = Machine::new();
        machine.config.default_queues = 1;
        let broker = machine.start();
        let g = GroupName::parse("g").unwrap();
        let retry_policy = RetryPolicy::apache();
        let once = Group { name: g.clone(), fifo: false, retry_max_times: 0, retry_policy, consume_enabled: true };
        broker.create_group(once).unwrap();
        for name in ["U", "T"] {
            broker.produce(&topic(name), vec![normal(name)]).await.unwrap();
            let (until, invisible) = (machine.clock.now(), Duration::from_secs(10));
            let (topic, group, filter) = (topic(name), g.clone(), Filter::All);
            let take = Take { topic, group, filter, max: 1, invisible, until, attempt_id: None };
            assert_eq!(broker.take(take).await.unwrap().len(), 1);
            machine.clock.advance(Duration::from_secs(11));
            broker.revive().await;
            broker.store().committed_blocking(broker.store().end()).unwrap();
        }
        broker.delete_topic(&topic("U")).unwrap();
        let request =
            |go_on| pb::ResendDeadLettersRequest { group: "g".into(), offsets: vec![0, 1, 9], again: false, go_on };
        assert_eq!(dead_letters(&broker, request(false)).await.unwrap_err().code(), Code::NotFound);
        let answer = dead_letters(&broker, request(true)).await.unwrap();
        assert_eq!(
            answer.resent.iter().map(|sent| (&*sent.topic, sent.dead_letter)).collect::<Vec<_>>(),
            [("T", Some(1))]
        );
        let [gone, none] = &answer.refused[..] else { panic!("{answer:?}") };
        assert!(gone.offset == 0 && gone.reason.contains("topic U does not exist"), "{gone:?}");
        assert!(none.offset == 9 && none.reason.contains("no dead letter"), "{none:?}");
        let nobody = pb::ResendDeadLettersRequest { group: "x".into(), ..request(true) };
        assert_eq!(dead_letters(&broker, nobody).await.unwrap_err().code(), Code::NotFound);
    }
}
