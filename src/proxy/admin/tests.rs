//! RocketMQ's Admin service over a socket, by its generated client.

mod clients;
mod groups;
mod messages;
mod topics;

use tokio::net::TcpListener;
use tonic::transport::{Channel, Endpoint, Server, server::TcpIncoming};

use crate::{
    broker::{Topic, testing::Machine, testing::topic},
    proto::v2::{self, admin_client::AdminClient},
    proxy::testing::{Rig, config, message},
    types::MessageType,
};

/// A server with topic T (one queue, all types) and its Admin service.
struct World {
    rig: Rig,
    admin: AdminClient<Channel>,
    channel: Channel,
}

impl World {
    async fn start() -> Self {
        let mut machine = Machine::new();
        machine.store.index = true;
        let rig = Rig::start_on(machine, config()).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let routes = rig.proxy.administration().unwrap();
        let stop = rig.shutdown.clone();
        let served = Server::builder().add_routes(routes);
        tokio::spawn(async move {
            served.serve_with_incoming_shutdown(TcpIncoming::from(listener), stop.cancelled_owned()).await
        });
        let channel = Endpoint::from_shared(address).unwrap().connect().await.unwrap();
        let world = Self { rig, admin: AdminClient::new(channel.clone()), channel };
        world.make_topic("T", 1);
        world
    }

    fn make_topic(&self, name: &str, queues: u32) {
        let topic = Topic {
            name: topic(name),
            message_type: Some(MessageType::Mixed),
            read_queues: queues,
            write_queues: queues,
            readable: true,
            writable: true,
        };
        self.rig.broker.create_topic(topic).unwrap();
    }

    /// Sends messages to T, a second apart, whose ids are their bodies.
    async fn send(&self, bodies: &[&str]) {
        let mut client = self.rig.client("producer").await;
        for body in bodies {
            let sent = client.send_all(vec![message("T", body, body.to_string())]).await;
            assert_eq!(sent.status.unwrap().code(), v2::Code::Ok);
            self.rig.machine.clock.advance(std::time::Duration::from_secs(1));
        }
    }
}
