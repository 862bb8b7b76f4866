use super::*;

fn document(text: &str) -> Document {
    Document::parse(text).expect("understood")
}

fn topic_there(name: &str, kind: pb::TopicType, queues: u32) -> pb::Topic {
    pb::Topic {
        name: name.into(),
        r#type: kind.into(),
        read_queues: queues,
        write_queues: queues,
        readable: true,
        writable: true,
    }
}

fn group_there(name: &str, delays: &[u64]) -> pb::Group {
    pb::Group {
        name: name.into(),
        fifo: false,
        broadcast: false,
        max_attempts: 17,
        retry_policy: Some(group::customized(delays.iter().copied().map(Duration::from_secs).collect())),
        consume_enabled: true,
    }
}

fn present(topics: &[pb::Topic], groups: &[pb::Group]) -> Present {
    Present {
        topics: topics.iter().map(|t| (t.name.clone(), t.clone())).collect(),
        groups: groups.iter().map(|g| (g.name.clone(), g.clone())).collect(),
    }
}

#[test]
fn what_is_not_there_is_created_with_what_the_entry_names() {
    let wanted = document(
        "topics: [{name: a, type: fifo, queues: 3, writable: false}, {name: b}]\n\
         groups: [{name: g, fifo: true, broadcast: true, consumeEnabled: false}]",
    );
    let plan = Plan::between(&wanted, &Present::default(), false);
    assert_eq!(
        as_text(&plan),
        "+ topic a  type FIFO, queues 3, readable true, writable false\n".replace("readable true, ", "")
            + "+ topic b\n+ group g  fifo true, broadcast true, consumeEnabled false\n"
    );
    let made = pb::CreateTopicRequest { name: "a".into(), r#type: pb::TopicType::Fifo.into(), queues: Some(3) };
    let closed = pb::UpdateTopicRequest { name: "a".into(), writable: Some(false), ..Default::default() };
    assert_eq!(plan.steps[0].calls, [Call::CreateTopic(made), Call::UpdateTopic(closed)]);
    assert_eq!(plan.steps[1].calls.len(), 1);
}

#[test]
fn what_is_there_as_the_document_says_is_left_alone() {
    let wanted = document("topics: [{name: a, type: normal, queues: 8}]\ngroups: [{name: g, retryAfter: [1s, 60]}]");
    let there = present(&[topic_there("a", pb::TopicType::Normal, 8)], &[group_there("g", &[1, 60])]);
    assert_eq!(Plan::between(&wanted, &there, true), Plan { unchanged: 2, ..Plan::default() });
}

#[test]
fn only_what_differs_is_asked_for() {
    let wanted =
        document("topics: [{name: a, type: fifo, queues: 8}]\ngroups: [{name: g, maxAttempts: 3, fifo: false}]");
    let there = present(&[topic_there("a", pb::TopicType::Unspecified, 8)], &[group_there("g", &[1])]);
    let plan = Plan::between(&wanted, &there, false);
    assert_eq!(as_text(&plan), "~ topic a  type undecided -> FIFO\n~ group g  maxAttempts 17 -> 3\n");
    let change =
        pb::UpdateTopicRequest { name: "a".into(), r#type: Some(pb::TopicType::Fifo.into()), ..Default::default() };
    assert_eq!(plan.steps[0].calls, [Call::UpdateTopic(change)]);
    let change = pb::UpdateGroupRequest { name: "g".into(), max_attempts: Some(3), ..Default::default() };
    assert_eq!(plan.steps[1].calls, [Call::UpdateGroup(change)]);
    assert_eq!(
        as_diff(&plan),
        "--- topic a (server)\n+++ topic a (document)\n-type: undecided\n+type: FIFO\n\
         --- group g (server)\n+++ group g (document)\n-maxAttempts: 17\n+maxAttempts: 3\n"
    );
}

#[test]
fn a_delay_in_the_middle_of_a_long_retry_policy_is_a_difference() {
    let wanted = document("groups: [{name: g, retryAfter: [1s, 2s, 3s, 4s, 5s, 6s]}]");
    let plan = |delays: &[u64]| Plan::between(&wanted, &present(&[], &[group_there("g", delays)]), false);
    assert_eq!(plan(&[1, 2, 3, 4, 5, 6]).unchanged, 1);
    assert_eq!(as_text(&plan(&[1, 2, 9, 4, 5, 6])), "~ group g  retryAfter 1s,2s,9s,4s,5s,6s -> 1s,2s,3s,4s,5s,6s\n");
}

#[test]
fn queues_that_would_shrink_are_impossible_before_anything_is_done() {
    let wanted = document("topics: [{name: a, queues: 2}, {name: b, queues: 9}]");
    let there = present(&[topic_there("a", pb::TopicType::Normal, 8), topic_there("b", pb::TopicType::Normal, 8)], &[]);
    let plan = Plan::between(&wanted, &there, false);
    assert_eq!(plan.impossible.len(), 1);
    assert!(plan.impossible[0].contains("topic a has 8 queues"), "{:?}", plan.impossible);
}

#[test]
fn prune_deletes_only_what_is_owned_and_not_named() {
    let wanted = document("topics: [{name: orders-1}]\nowns: {topics: ['orders-*'], groups: [old]}\n");
    let names = ["orders-1", "orders-2", "clicks", "%DLQ%orders-3"];
    let topics: Vec<_> = names.iter().map(|n| topic_there(n, pb::TopicType::Normal, 1)).collect();
    let there = present(&topics, &[group_there("old", &[1]), group_there("older", &[1])]);
    assert_eq!(as_text(&Plan::between(&wanted, &there, true)), "- group old\n- topic orders-2\n");
    assert!(Plan::between(&wanted, &there, false).steps.is_empty(), "nothing goes without --prune");
}
