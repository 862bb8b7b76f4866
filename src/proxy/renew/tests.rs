use bytes::Bytes;

use super::*;
use crate::{
    broker::{
        Draft, Filter, Take,
        testing::{Machine, draft},
    },
    proxy::Config,
    types::MessageType,
};

const MINUTE: Duration = Duration::from_secs(60);

/// A client that holds deliveries of a minute each.
struct Held {
    machine: Machine,
    broker: Broker,
    renewals: Renewals,
    holder: Holder,
    topic: TopicName,
    receipts: Vec<Receipt>,
}

impl Held {
    async fn new(messages: usize, renew: impl FnOnce(&mut Renew)) -> Self {
        let machine = Machine::new();
        let broker = machine.start();
        let mut config = Config::default().renew;
        renew(&mut config);
        let topic = TopicName::parse("T").unwrap();
        let holder = Holder { client: ClientId::parse("c").unwrap(), group: GroupName::parse("g").unwrap() };
        let body = |m: Draft| Draft { body: Bytes::from_static(b"b"), ..m };
        let drafts = (0..messages).map(|_| body(draft(MessageType::Normal, None, ""))).collect();
        broker.produce(&topic, drafts).await.unwrap();
        broker.group_or_create(&holder.group).unwrap().unwrap();
        let mut this = Self { machine, broker, renewals: Renewals::new(config), holder, topic, receipts: Vec::new() };
        this.receipts = this.take().await;
        assert_eq!(this.receipts.len(), messages);
        this
    }

    async fn take(&self) -> Vec<Receipt> {
        let now = self.broker.clock().now();
        let take = Take {
            topic: self.topic.clone(),
            group: self.holder.group.clone(),
            filter: Filter::All,
            max: 32,
            invisible: MINUTE,
            until: now,
            attempt_id: None,
        };
        let taken = self.broker.take(take).await.unwrap();
        let delivered = |r: &Receipt| Delivered { receipt: r.clone(), message_id: format!("id-{}", r.offset()) };
        let receipts: Vec<Receipt> = taken.into_iter().map(|d| d.receipt).collect();
        let new = receipts.iter().map(delivered).collect();
        self.renewals.keep(&self.holder, &self.topic, now, now.plus(MINUTE), new);
        receipts
    }

    async fn pass(&self, time: Duration) {
        self.machine.clock.advance(time);
        self.renewals.tick(self.broker.clock().now(), &self.broker).await;
        self.broker.revive().await;
    }

    fn lease(&self) -> Option<Lease> {
        let shard = self.renewals.shard(&self.holder).lock();
        shard.get(&self.holder)?.get(&self.receipts[0]).cloned()
    }

    async fn acks(&self) -> bool {
        let results = self.broker.ack(&self.topic, &self.holder.group, &self.receipts[..1]).await.unwrap();
        results[0].is_ok()
    }
}

#[tokio::test]
async fn a_lease_is_renewed_when_little_is_left_and_by_longer_each_time() {
    let held = Held::new(1, |_| {}).await;
    held.pass(Duration::from_secs(49)).await;
    assert_eq!(held.lease().unwrap().renewals, 0);
    held.pass(Duration::from_secs(1)).await;
    for (renewals, step) in (1..).zip([1, 3, 5, 10, 30, 60, 60]) {
        let lease = held.lease().unwrap();
        let left = lease.ends.remaining(held.broker.clock().now());
        assert_eq!((lease.renewals, left), (renewals, MINUTE * step));
        held.pass(left - Duration::from_secs(10)).await;
    }
    assert!(held.acks().await, "the handle of the beginning is good throughout");
}

#[tokio::test]
async fn what_is_worked_on_for_too_long_gets_the_groups_back_off_and_is_let_go() {
    let held = Held::new(1, |renew| renew.total_max = MINUTE).await;
    held.pass(Duration::from_secs(50)).await;
    assert_eq!(held.lease().unwrap().renewals, 1);
    held.pass(Duration::from_secs(55)).await;
    assert!(held.lease().is_none());
    assert_eq!(held.renewals.held(), 0);
    // The third entry of RocketMQ's list, for a first attempt.
    held.pass(Duration::from_secs(9)).await;
    assert_eq!(held.take().await, []);
    held.pass(Duration::from_secs(1)).await;
    assert_eq!(held.take().await[0].attempt(), 2);
}

#[tokio::test]
async fn what_is_lost_is_no_longer_kept() {
    let held = Held::new(1, |_| {}).await;
    held.broker.change_invisible(&held.topic, &held.holder.group, &held.receipts[0], MINUTE).await.unwrap();
    held.pass(Duration::from_secs(50)).await;
    assert_eq!(held.renewals.held(), 0);
}

#[tokio::test]
async fn a_released_lease_ends_soon_and_others_go_on() {
    let held = Held::new(2, |_| {}).await;
    let other = Holder { client: ClientId::parse("other").unwrap(), ..held.holder.clone() };
    held.renewals.stop(&held.holder, &held.receipts[1]);
    let now = held.broker.clock().now();
    let kept = Delivered { receipt: held.receipts[1].clone(), message_id: String::new() };
    held.renewals.keep(&other, &held.topic, now, now.plus(MINUTE), vec![kept]);
    held.renewals.release(&held.holder.client, &held.broker).await;
    assert_eq!(held.renewals.held(), 1);
    held.pass(Duration::from_secs(1)).await;
    let again = held.take().await;
    assert_eq!(again.len(), 1);
    assert_eq!((again[0].queue(), again[0].offset()), (held.receipts[0].queue(), held.receipts[0].offset()));
}

#[tokio::test]
async fn above_the_bound_deliveries_go_without() {
    let held = Held::new(3, |renew| renew.held_max = 2).await;
    assert_eq!(held.renewals.held(), 0);
    held.pass(Duration::from_secs(50)).await;
    held.pass(Duration::from_secs(10)).await;
    assert!(!held.acks().await, "the lease ended by itself");
}

#[tokio::test]
async fn a_delivery_is_found_by_its_message_while_it_is_kept() {
    let held = Held::new(1, |_| {}).await;
    assert_eq!(held.renewals.find(&held.holder, "id-0"), Some(held.receipts[0].clone()));
    assert_eq!(held.renewals.find(&held.holder, "id-1"), None);
    held.renewals.stop(&held.holder, &held.receipts[0]);
    assert_eq!(held.renewals.find(&held.holder, "id-0"), None);
    held.renewals.stop(&held.holder, &held.receipts[0]);
    assert_eq!(held.renewals.held(), 0);
}

/// How often other work of the thread got a turn while this was done.
async fn turns_of_others(work: impl Future<Output = ()>) -> usize {
    let turns = std::sync::Arc::new(AtomicUsize::new(0));
    let count = turns.clone();
    let others = tokio::spawn(async move {
        loop {
            count.fetch_add(1, Relaxed);
            tokio::task::yield_now().await;
        }
    });
    tokio::task::yield_now().await;
    let before = turns.load(Relaxed);
    work.await;
    others.abort();
    turns.load(Relaxed) - before
}

#[tokio::test]
async fn very_many_leases_do_not_keep_the_thread_from_other_work() {
    let held = Held::new(1, |_| {}).await;
    let now = held.broker.clock().now();
    // Of one delivery under many names: what a renewal says does not matter here.
    for n in 0..4 * AT_ONCE {
        let client = ClientId::parse(&format!("c{}", n % 2)).unwrap();
        let holder = Holder { client, group: GroupName::parse(&format!("g{n}")).unwrap() };
        let delivered = Delivered { receipt: held.receipts[0].clone(), message_id: String::new() };
        held.renewals.keep(&holder, &held.topic, now, now.plus(MINUTE), vec![delivered]);
    }
    let released = turns_of_others(held.renewals.release(&ClientId::parse("c0").unwrap(), &held.broker)).await;
    assert_eq!(held.renewals.held(), 1 + 2 * AT_ONCE);
    assert!(released >= 2, "{released} turns during a release");
    let due = now.plus(Duration::from_secs(55));
    let renewed = turns_of_others(held.renewals.tick(due, &held.broker)).await;
    assert!(renewed >= 2, "{renewed} turns during a tick");
}
