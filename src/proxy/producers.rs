//! Which clients publish to a topic: who can be asked about its transactions.

use std::collections::HashMap;

use crate::types::{ClientId, TopicName};

/// Topics of one client that are kept.
pub const TOPICS_MAX: usize = 1024;

#[derive(Default)]
pub struct Producers(HashMap<TopicName, Vec<ClientId>>);

impl Producers {
    pub fn of(&self, topic: &TopicName) -> &[ClientId] {
        self.0.get(topic).map_or(&[], Vec::as_slice)
    }

    /// Registers a client for a topic that it is not registered for.
    pub fn add(&mut self, topic: &TopicName, client: &ClientId) {
        self.0.entry(topic.clone()).or_default().push(client.clone());
    }

    pub fn remove(&mut self, topics: &[TopicName], client: &ClientId) {
        for topic in topics {
            let Some(clients) = self.0.get_mut(topic) else { continue };
            clients.retain(|c| c != client);
            if clients.is_empty() {
                self.0.remove(topic);
            }
        }
    }

    #[cfg(test)]
    pub fn topics(&self) -> usize {
        self.0.len()
    }
}
