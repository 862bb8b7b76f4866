//! Very many lite topics.

use super::*;
use crate::store::disk::Disk;

/// Lite topics, and bytes of memory that each may take, its first message's place and its name included. ARCHITECTURE.md
/// names the number.
const MANY: usize = 100_000;
const BYTES_EACH: usize = 200;

#[tokio::test]
async fn a_hundred_thousand_lite_topics_cost_no_file_and_bounded_memory_each() {
    let mut machine = Machine::new();
    machine.store.segment_bytes = 64 << 20;
    let broker = machine.start();
    let world = World { machine, broker };
    world.make(2);
    let name = |n: usize| format!("session-{n:016}");
    for batch in 0..MANY / 1000 {
        let drafts = (0..1000).map(|n| for_lite(&name(batch * 1000 + n), "m")).collect();
        world.broker.produce(&parent(), drafts).await.unwrap();
    }
    assert_eq!(world.lite_topics(), MANY);
    let topic = world.broker.topic("sessions").unwrap();
    let bytes = {
        let parent = world.broker.inner.lite.parent(&world.broker.inner.store, &topic).unwrap();
        parent.known().bytes() / MANY
    };
    assert!(bytes <= BYTES_EACH, "a lite topic takes {bytes} bytes");
    let others = world.broker.store().queue(&parent(), QueueId(1)).max().get();
    assert_eq!(
        (world.broker.store().queue(&parent(), QUEUE).max().get(), others),
        (MANY as u64, 0),
        "one queue has all"
    );
    let world = world.restart();
    assert_eq!(world.lite_topics(), MANY);
    let queues = std::path::Path::new("/store/consumequeue/sessions");
    assert_eq!(world.machine.disk.list(queues).unwrap(), ["0"]);
    assert_eq!(world.machine.disk.list(&queues.join("0")).unwrap().len(), 1, "one file has all");
    let wanted = [name(0), name(MANY / 2), name(MANY - 1)];
    world.subscribe("c", &wanted.each_ref().map(String::as_str)).await;
    assert_eq!(world.take("c").await.len(), 3);
    world.broker.store().close();
}
