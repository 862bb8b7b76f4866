//! QueryRoute and QueryAssignment: a topic's queues as clients see them.

use crate::{broker::Topic, proto::v2, types::MessageType};

/// "All queues of this broker", in an assignment.
const ALL_QUEUES: i32 = -1;

/// What each queue of an answer repeats.
pub struct Place {
    /// As the request has it, with its namespace.
    pub topic: v2::Resource,
    pub broker: v2::Broker,
}

impl Place {
    fn queue(&self, id: i32, permission: v2::Permission, accepts: &[i32]) -> v2::MessageQueue {
        v2::MessageQueue {
            topic: Some(self.topic.clone()),
            id,
            permission: permission as i32,
            broker: Some(self.broker.clone()),
            accept_message_types: accepts.to_vec(),
        }
    }

    /// Every queue of the topic: those that can only be read, then only written, then both, numbered through.
    pub fn route(&self, topic: &Topic) -> Vec<v2::MessageQueue> {
        let (read, write) = (topic.read_queues, topic.write_queues);
        let (only_read, only_write, both, none) = match (topic.readable, topic.writable) {
            (true, true) => (read.saturating_sub(write), write.saturating_sub(read), read.min(write), 0),
            (true, false) => (read, 0, 0, 0),
            (false, true) => (0, write, 0, 0),
            (false, false) => (0, 0, 0, read.max(write).max(1)),
        };
        let accepts = accepted(topic.message_type);
        let permissions = [
            (v2::Permission::Read, only_read),
            (v2::Permission::Write, only_write),
            (v2::Permission::ReadWrite, both),
            (v2::Permission::None, none),
        ];
        let each = permissions.iter().flat_map(|(permission, n)| std::iter::repeat_n(*permission, *n as usize));
        each.zip(0..).map(|(permission, id)| self.queue(id, permission, &accepts)).collect()
    }

    /// What a consumer polls: everything in one, or queue by queue where the group is ordered and order is the queues'. Empty when the topic
    /// cannot be read. Always the same list for the same topic, since clients compare it with the one before.
    pub fn assignments(&self, topic: &Topic, fifo: bool) -> Vec<v2::Assignment> {
        if !topic.readable || topic.read_queues == 0 {
            return Vec::new();
        }
        let permission = if topic.writable { v2::Permission::ReadWrite } else { v2::Permission::Read };
        let is_lite = topic.message_type == Some(MessageType::Lite);
        let ids =
            if fifo && !is_lite { (0..topic.read_queues).map(|id| id as i32).collect() } else { vec![ALL_QUEUES] };
        let assign = |id| v2::Assignment { message_queue: Some(self.queue(id, permission, &[])) };
        ids.into_iter().map(assign).collect()
    }
}

/// What producers may send there. A topic whose first message decides its type takes what a mixed one takes.
fn accepted(topic: Option<MessageType>) -> Vec<i32> {
    use v2::MessageType as Wire;
    let accepted: &[Wire] = match topic {
        Some(MessageType::Normal) => &[Wire::Normal],
        Some(MessageType::Fifo) => &[Wire::Fifo],
        Some(MessageType::Delay) => &[Wire::Delay],
        Some(MessageType::Transaction) => &[Wire::Transaction],
        Some(MessageType::Lite) => &[Wire::Lite],
        Some(MessageType::Priority) => &[Wire::Priority],
        Some(MessageType::Mixed) | None => &[Wire::Normal, Wire::Fifo, Wire::Delay, Wire::Transaction],
    };
    accepted.iter().map(|t| *t as i32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::TopicName;

    fn place() -> Place {
        Place {
            topic: v2::Resource { resource_namespace: "ns".into(), name: "T".into() },
            broker: v2::Broker { name: "broker-a".into(), id: 0, endpoints: None },
        }
    }

    fn topic(read: u32, write: u32, readable: bool, writable: bool) -> Topic {
        let name = TopicName::parse("T").unwrap();
        let message_type = Some(MessageType::Normal);
        Topic { name, message_type, read_queues: read, write_queues: write, readable, writable }
    }

    fn permissions(topic: &Topic) -> Vec<(i32, v2::Permission)> {
        place().route(topic).iter().map(|q| (q.id, q.permission())).collect()
    }

    #[test]
    fn queues_are_numbered_read_write_both_none() {
        use v2::Permission::{None, Read, ReadWrite, Write};
        assert_eq!(permissions(&topic(2, 2, true, true)), [(0, ReadWrite), (1, ReadWrite)]);
        assert_eq!(permissions(&topic(2, 1, true, true)), [(0, Read), (1, ReadWrite)]);
        assert_eq!(permissions(&topic(1, 2, true, true)), [(0, Write), (1, ReadWrite)]);
        assert_eq!(permissions(&topic(2, 1, true, false)), [(0, Read), (1, Read)]);
        assert_eq!(permissions(&topic(2, 1, false, true)), [(0, Write)]);
        assert_eq!(permissions(&topic(0, 0, false, false)), [(0, None)]);
        assert_eq!(permissions(&topic(2, 1, false, false)), [(0, None), (1, None)]);
    }

    #[test]
    fn a_route_is_never_empty() {
        for (readable, writable) in [(true, true), (true, false), (false, true), (false, false)] {
            assert!(!place().route(&topic(1, 1, readable, writable)).is_empty());
        }
    }

    #[test]
    fn an_undecided_topic_lets_the_first_message_decide() {
        let undecided = Topic { message_type: None, ..topic(1, 1, true, true) };
        let mixed = Topic { message_type: Some(MessageType::Mixed), ..topic(1, 1, true, true) };
        assert_eq!(place().route(&undecided), place().route(&mixed));
        assert_eq!(place().route(&topic(1, 1, true, true))[0].accept_message_types, [v2::MessageType::Normal as i32]);
    }

    #[test]
    fn an_ordinary_group_polls_everything_at_once_and_an_ordered_one_each_queue() {
        let ids = |fifo| -> Vec<i32> {
            let assignments = place().assignments(&topic(3, 3, true, true), fifo);
            assignments.iter().map(|a| a.message_queue.as_ref().unwrap().id).collect()
        };
        assert_eq!(ids(false), [-1]);
        assert_eq!(ids(true), [0, 1, 2]);
        assert_eq!(place().assignments(&topic(3, 3, false, true), false), []);
    }

    #[test]
    fn the_topic_comes_back_with_its_namespace() {
        assert_eq!(place().route(&topic(1, 1, true, true))[0].topic, Some(place().topic));
    }
}
