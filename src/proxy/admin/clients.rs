//! Who is subscribed and connected, as far as clients have said; and questions to them.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    broker::{Broker, Progress, Role},
    proto::v2::{self, Code},
    proxy::{AskError, PushError, about::About},
    types::{ClientId, GroupName, NameError, TopicName},
};

use super::{Administration, Outcome, Refusal, convert, groups::no_lite, resource, status};

/// Rows of one answer at most.
const ROWS_MAX: usize = 10_000;

/// A consumer whose settings are known.
type Consumer = (ClientId, GroupName, Arc<About>);

/// What is asked for.
struct Wanted {
    topic: Option<TopicName>,
    group: Option<GroupName>,
}

impl Wanted {
    fn of(topic: Option<&v2::Resource>, group: Option<&v2::Resource>) -> Outcome<Self> {
        let named = |resource: Option<&v2::Resource>| resource.is_some_and(|r| !r.name.is_empty());
        let wanted = Self {
            topic: named(topic).then(|| convert::topic(topic)).transpose()?,
            group: named(group).then(|| convert::group(group)).transpose()?,
        };
        if wanted.topic.is_none() && wanted.group.is_none() {
            return Err(Refusal::new(Code::BadRequest, "name a topic, a group, or both"));
        }
        Ok(wanted)
    }

    fn has(&self, topic: &TopicName) -> bool {
        self.topic.as_ref().is_none_or(|wanted| wanted == topic)
    }

    fn rows(&self, broker: &Broker, consumers: &[Consumer]) -> Vec<v2::SubscriptionInfo> {
        let mut rows: BTreeMap<(GroupName, TopicName), Vec<&Consumer>> = BTreeMap::new();
        for consumer in consumers {
            for subscribed in consumer.2.subscriptions.iter().filter(|s| self.has(&s.topic)) {
                rows.entry((consumer.1.clone(), subscribed.topic.clone())).or_default().push(consumer);
            }
        }
        for (topic, group) in broker.subscribed(self.topic.as_ref(), self.group.as_ref()) {
            rows.entry((group, topic)).or_default();
        }
        let row = |((group, topic), clients): (&(GroupName, TopicName), &Vec<&Consumer>)| {
            subscription(group, topic, clients, model(broker, group))
        };
        rows.iter().take(ROWS_MAX).map(row).collect()
    }
}

fn model(broker: &Broker, group: &GroupName) -> v2::MessageModel {
    match broker.group(group.as_str()).is_some_and(|group| group.broadcast) {
        true => v2::MessageModel::Broadcasting,
        false => v2::MessageModel::Clustering,
    }
}

fn subscription(
    group: &GroupName,
    topic: &TopicName,
    clients: &[&Consumer],
    model: v2::MessageModel,
) -> v2::SubscriptionInfo {
    let newest = clients.iter().max_by_key(|(.., about)| about.told_at);
    let wants = |(.., about): &&Consumer| about.wants(topic).cloned();
    let expression = newest.and_then(wants);
    v2::SubscriptionInfo {
        group: resource(group.as_str()),
        topic: resource(topic.as_str()),
        subscription_consistency: clients.iter().all(|client| wants(client) == expression),
        expression,
        online: !clients.is_empty(),
        last_update_timestamp: newest.map(|(.., about)| convert::wire_timestamp(about.told_at)),
        message_model: model as i32,
    }
}

impl Administration {
    /// A row for each group and topic that consumers who are there subscribe to, or that the group has progress on.
    pub(super) async fn subscriptions(
        &self,
        request: &v2::ListSubscriptionRequest,
    ) -> Outcome<v2::ListSubscriptionResponse> {
        let wanted = Wanted::of(request.topic.as_ref(), request.group.as_ref())?;
        self.exists(&wanted)?;
        let list =
            move |own: &Self| Ok(wanted.rows(own.broker(), &own.front().sessions.consumers(wanted.group.as_ref())));
        let subscription_info = self.elsewhere(list).await?;
        Ok(v2::ListSubscriptionResponse { status: Some(status::ok()), subscription_info })
    }

    /// The same, client by client.
    pub(super) fn subscription_clients(
        &self,
        request: &v2::DescribeSubscriptionRequest,
    ) -> Outcome<v2::DescribeSubscriptionResponse> {
        use v2::describe_subscription_response::ClientSubscriptionInfo;
        let wanted = Wanted::of(request.topic.as_ref(), request.group.as_ref())?;
        self.exists(&wanted)?;
        let consumers = self.front().sessions.consumers(wanted.group.as_ref());
        let row = |consumer: &Consumer, topic: &TopicName| ClientSubscriptionInfo {
            client_info: Some(client_info(&consumer.0, Some(&consumer.2), model(self.broker(), &consumer.1))),
            subscription_info: Some(subscription(&consumer.1, topic, &[consumer], model(self.broker(), &consumer.1))),
        };
        let mut rows: Vec<ClientSubscriptionInfo> = Vec::new();
        for consumer in &consumers {
            let topics = consumer.2.subscriptions.iter().map(|s| &s.topic).filter(|topic| wanted.has(topic));
            rows.extend(topics.take(ROWS_MAX - rows.len()).map(|topic| row(consumer, topic)));
        }
        Ok(v2::DescribeSubscriptionResponse { status: Some(status::ok()), client_subscription_info: rows })
    }

    /// Forgets a group's progress on a topic. Refused while a consumer of it is there: its next poll would begin anew. A
    /// group has one subscription of a topic, so the filter that the request may name is passed over.
    pub(super) async fn forget_subscription(
        &self,
        request: &v2::DeleteSubscriptionRequest,
    ) -> Outcome<v2::DeleteSubscriptionResponse> {
        let (topic, group) = (self.topic(request.topic.as_ref())?, self.group(request.group.as_ref())?);
        let forget = move |own: &Self| {
            let consumers = own.front().sessions.consumers(Some(&group));
            if let Some((client, ..)) = consumers.iter().find(|(.., about)| about.wants(&topic).is_some()) {
                let text = format!("consumer {client} of group {group} subscribes to topic {topic}; stop it first");
                return Err(Refusal::new(Code::PreconditionFailed, text));
            }
            if !own.broker().forget_subscription(&topic, &group)? {
                let text = format!("group {group} has no subscription of topic {topic}");
                return Err(Refusal::new(Code::NotFound, text));
            }
            Ok(())
        };
        self.elsewhere(forget).await?;
        Ok(v2::DeleteSubscriptionResponse { status: Some(status::ok()) })
    }

    /// The consumers of a group that are there; those that have not told their settings since the server started are known
    /// by their ids alone.
    pub(super) fn connections(
        &self,
        request: &v2::ListConsumerConnectionRequest,
    ) -> Outcome<v2::ListConsumerConnectionResponse> {
        no_lite(request.lite_topic.as_deref())?;
        let group = self.group(request.group.as_ref())?;
        let topic = request.topic.as_ref().filter(|topic| !topic.name.is_empty());
        let topic = topic.map(|topic| self.topic(Some(topic))).transpose()?;
        let mut clients: BTreeMap<ClientId, Option<Arc<About>>> =
            self.broker().consumers_in(&group).into_iter().map(|client| (client, None)).collect();
        let told = self.front().sessions.consumers(Some(&group));
        clients.extend(told.into_iter().map(|(client, _, about)| (client, Some(about))));
        let wants = |about: Option<&About>| match &topic {
            None => true,
            Some(topic) => about.is_some_and(|about| about.wants(topic).is_some()),
        };
        let rows = clients.iter().filter(|(_, about)| wants(about.as_deref())).take(ROWS_MAX);
        let model = model(self.broker(), &group);
        let client_info = rows.map(|(client, about)| client_info(client, about.as_deref(), model)).collect();
        Ok(v2::ListConsumerConnectionResponse { status: Some(status::ok()), client_info })
    }

    /// What the server knows of a consumer. Clients of this API do not tell what they hold in memory, so of each queue there
    /// is the group's commit offset alone, and no rates.
    pub(super) fn running_info(
        &self,
        request: &v2::GetConsumerRunningInfoRequest,
    ) -> Outcome<v2::GetConsumerRunningInfoResponse> {
        let group = self.group(request.group.as_ref())?;
        let (client, about) = self.member(&request.client_id, Some(&group))?;
        let about = about.unwrap_or_default();
        let subscribed = |topic: &TopicName| about.subscriptions.is_empty() || about.wants(topic).is_some();
        let its = |progress: &Progress| progress.client.as_ref().is_none_or(|(of, _)| *of == client);
        let progress = self.broker().progress(&group).into_iter();
        let progress = progress.filter(|progress| its(progress) && subscribed(&progress.topic));
        let item = |progress: Progress| v2::MessageQueueItem {
            message_queue: Some(self.queue(&progress.topic, progress.queue)),
            process_queue_info: Some(v2::ProcessQueueInfo {
                commit_offset: progress.commit.to_wire(),
                ..Default::default()
            }),
        };
        let info = v2::ConsumerRunningInfo {
            message_queue_table: progress.take(ROWS_MAX).map(item).collect(),
            properties: properties(&client, &about),
            subscriptions: about.subscriptions.iter().map(|s| (s.topic.to_string(), s.expression.clone())).collect(),
            consume_status_table: Default::default(),
        };
        Ok(v2::GetConsumerRunningInfoResponse { status: Some(status::ok()), consumer_running_info: Some(info) })
    }

    pub(super) async fn thread_stacks(
        &self,
        request: &v2::PrintThreadStackTraceRequest,
    ) -> Outcome<v2::PrintThreadStackTraceResponse> {
        let named = request.group.as_ref().filter(|group| !group.name.is_empty());
        // Producers have stacks too, and no group.
        let group = named.map(|group| convert::group(Some(group))).transpose()?;
        let (client, _) = self.member(&request.client_id, group.as_ref())?;
        let text = self.proxy.print_thread_stack(&client).await?;
        Ok(v2::PrintThreadStackTraceResponse { status: Some(status::ok()), thread_stack_trace: Some(text) })
    }

    /// A client that is there, and in this group.
    pub(super) fn member(&self, id: &str, group: Option<&GroupName>) -> Outcome<(ClientId, Option<Arc<About>>)> {
        let required = |error: NameError| Refusal::new(Code::ClientIdRequired, format_args!("client id: {error}"));
        let client = ClientId::parse(id).map_err(required)?;
        let absent = |text: String| Err(Refusal::new(Code::NotFound, text));
        match (self.front().sessions.about(&client), group) {
            (Some((_, about)), None) => Ok((client, Some(about))),
            (Some((Role::Consumer { group: its }, about)), Some(group)) if its == *group => Ok((client, Some(about))),
            (Some(_), Some(group)) => absent(format!("client {client} is not in group {group}")),
            // It has not told its settings since the server started.
            (None, Some(group)) if self.broker().is_consumer(client.as_str(), group.as_str()) => Ok((client, None)),
            (None, _) => {
                let text = "is not connected; `ferromq group connections GROUP` shows who is";
                absent(format!("client {client} {text}"))
            }
        }
    }

    fn exists(&self, wanted: &Wanted) -> Outcome<()> {
        if let Some(topic) = &wanted.topic {
            self.topic(resource(topic.as_str()).as_ref())?;
        }
        if let Some(group) = &wanted.group {
            self.group(resource(group.as_str()).as_ref())?;
        }
        Ok(())
    }
}

fn client_info(client: &ClientId, about: Option<&About>, model: v2::MessageModel) -> v2::ClientInfo {
    let about = about.cloned().unwrap_or_default();
    v2::ClientInfo {
        client_id: client.to_string(),
        version: about.version,
        language: about.language,
        hostname: about.hostname,
        egress_ip: about.peer.map(|ip| ip.to_string()).unwrap_or_default(),
        message_model: model as i32,
    }
}

/// The client's own properties, and what else it said.
fn properties(client: &ClientId, about: &About) -> std::collections::HashMap<String, String> {
    let mut properties = about.properties.clone();
    let said = [
        ("clientId", client.to_string()),
        ("clientType", about.client_type.clone()),
        ("language", about.language.clone()),
        ("version", about.version.clone()),
        ("hostname", about.hostname.clone()),
        ("platform", about.platform.clone()),
        ("settingsToldAt", about.told_at.to_string()),
    ];
    properties.extend(said.map(|(name, value)| (name.to_owned(), value)));
    properties
}

impl From<AskError> for Refusal {
    fn from(error: AskError) -> Self {
        let code = match &error {
            AskError::Push(PushError::NoStream) => Code::NotFound,
            AskError::Push(PushError::Full) | AskError::TooMany => Code::TooManyRequests,
            AskError::Silent(_) => Code::ProxyTimeout,
            // As the client said.
            AskError::Refused { code, .. } => *code,
        };
        Self::new(code, error)
    }
}
