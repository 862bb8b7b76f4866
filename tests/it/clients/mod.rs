//! The server with its real public: official clients against the built binary, over real ports.
//!
//! A claim is a function over a [`Stage`]: a server of its own with an empty store, and one client. The tables below
//! say which client makes which claim; the test's name says what broke, and for whom. Every wait has a bound, and a
//! claim that fails prints what the drivers and the server said last.
//!
//! The drivers are in `tests/clients`; each is built once, into `target/clients`. Where a toolchain is missing, its
//! client is skipped with a line that says so, or fails when `CI=true`.

pub mod driver;
pub mod process;
mod server;
mod stage;
mod transcript;

mod asked;
mod broadcast;
mod crash;
mod delay;
mod deliver;
mod fifo;
mod groups;
mod light;
mod limits;
mod redeliver;
mod rolling;
mod tls;
mod transactions;

use driver::{Client, Driver, Unbuilt};
use stage::Stage;

/// One test for each claim, named as the claim.
macro_rules! claims {
    ($client:expr; $($subject:ident: $($claim:ident),+;)+) => {
        $($(
            #[test]
            fn $claim() {
                super::prove($client, super::$subject::$claim);
            }
        )+)+
    };
}

/// What a producer and a simple consumer can show: every client has them.
macro_rules! claims_of_simple_consumers {
    ($client:expr) => {
        claims! { $client;
            deliver: simple_consumer_receives_what_was_produced, simple_consumer_receives_only_the_tags_it_asked_for,
                a_client_goes_on_with_the_address_that_it_dialled,
                simple_consumer_receives_only_what_its_sql_filter_wants, an_sql_filter_that_does_not_read_is_refused;
            redeliver: an_unacked_message_comes_again_after_its_invisible_time,
                a_message_goes_to_the_dead_letter_topic_after_its_last_attempt;
            groups: two_consumers_of_a_group_share_its_messages, two_groups_both_receive_everything;
            broadcast: both_simple_consumers_of_a_broadcasting_group_get_every_message,
                a_killed_server_loses_nothing_for_either_client_of_a_broadcasting_group;
            limits: a_body_of_4_mib_less_one_is_accepted_and_a_larger_one_refused,
                a_bad_topic_tag_key_and_group_are_refused_with_their_codes;
            tls: tls_and_plaintext_are_served_on_one_port;
            delay: a_delayed_message_comes_at_its_time_and_not_before,
                a_killed_server_delivers_what_waited_once_and_on_time;
            fifo: simple_consumers_of_a_fifo_group_get_each_message_group_in_order,
                a_message_that_failed_comes_again_before_what_follows_it, order_survives_a_killed_server;
            crash: a_killed_server_loses_nothing_acknowledged,
                a_stopped_server_finishes_and_loses_nothing_acknowledged;
            transactions: what_is_committed_comes_and_what_is_rolled_back_does_not,
                another_producer_decides_for_one_that_is_dead, a_producer_that_does_not_know_is_asked_again,
                a_server_killed_between_half_and_commit_commits, a_killed_server_asks_about_its_half_messages;
        }
    };
}

/// What takes the call that changes a message's invisible time.
macro_rules! claims_of_changing_consumers {
    ($client:expr) => {
        claims! { $client;
            redeliver: a_message_comes_again_when_its_changed_invisible_time_is_over;
        }
    };
}

/// What takes the call that recalls a message.
macro_rules! claims_of_recalling_producers {
    ($client:expr) => {
        claims! { $client;
            delay: a_recalled_message_never_comes;
        }
    };
}

macro_rules! claims_of_push_consumers {
    ($client:expr) => {
        claims! { $client;
            deliver: push_consumer_receives_what_was_produced, push_consumer_receives_only_the_tags_it_asked_for,
                push_consumer_receives_only_what_its_sql_filter_wants;
            redeliver: a_message_that_a_listener_failed_comes_again,
                a_message_that_a_listener_always_fails_goes_to_the_dead_letter_topic,
                a_listener_may_work_for_longer_than_the_invisible_time, what_a_dead_listener_had_comes_to_another;
            broadcast: both_push_consumers_of_a_broadcasting_group_get_every_message,
                a_killed_server_loses_nothing_for_either_push_client_of_a_broadcasting_group;
            groups: two_push_consumers_of_a_group_share_its_messages;
            fifo: push_consumers_of_a_fifo_group_get_each_message_group_in_order,
                order_of_push_consumers_survives_a_killed_server,
                what_a_listener_failed_is_over_before_what_follows_it_comes;
            crash: a_push_consumer_goes_on_after_the_server_was_killed;
        }
    };
}

/// What a client of 5.2's message types can show: all but Rust's.
macro_rules! claims_of_priority_producers {
    ($client:expr) => {
        claims! { $client; light: the_more_urgent_of_what_waits_comes_first; }
    };
}

/// What a lite consumer with a listener can show.
macro_rules! claims_of_lite_push_consumers {
    ($client:expr) => {
        claims! { $client;
            light: lite_push_consumers_get_their_lite_topics_in_order,
                a_lite_push_consumer_that_outlives_its_server_gets_what_came_meanwhile;
        }
    };
}

mod go {
    claims_of_lite_push_consumers!(super::Client::Go);
    claims_of_priority_producers!(super::Client::Go);
    claims! { super::Client::Go; light: a_lite_topic_that_a_listener_failed_pauses_and_goes_on; }
    claims_of_simple_consumers!(super::Client::Go);
    claims_of_changing_consumers!(super::Client::Go);
    claims_of_recalling_producers!(super::Client::Go);
    claims_of_push_consumers!(super::Client::Go);
    // The same for every client.
    claims! { super::Client::Go;
        crash: a_killed_server_loses_nothing_acknowledged_with_async_flush;
        asked: a_client_that_cannot_answer_is_said_to_and_goes_on;
    }
}
mod java {
    claims_of_lite_push_consumers!(super::Client::Java);
    claims_of_priority_producers!(super::Client::Java);
    claims! { super::Client::Java; light: a_lite_topic_that_a_listener_failed_pauses_and_goes_on; }
    claims_of_simple_consumers!(super::Client::Java);
    claims_of_changing_consumers!(super::Client::Java);
    claims_of_recalling_producers!(super::Client::Java);
    claims_of_push_consumers!(super::Client::Java);
    // The only client that answers.
    claims! { super::Client::Java;
        asked: a_consumer_shows_what_its_threads_are_at,
            a_consumer_is_given_a_message_to_verify_and_nothing_of_the_groups_changes,
            a_listener_that_fails_a_message_that_is_verified_is_told_of;
    }
}
mod node {
    // Of a group with delays of its own it sends what its listener fails to the dead letters at once.
    claims_of_lite_push_consumers!(super::Client::Node);
    claims_of_priority_producers!(super::Client::Node);
    claims_of_simple_consumers!(super::Client::Node);
    claims_of_changing_consumers!(super::Client::Node);
    claims_of_recalling_producers!(super::Client::Node);
    claims_of_push_consumers!(super::Client::Node);
    claims! { super::Client::Node; asked: a_client_that_cannot_answer_is_said_to_and_goes_on; }
}
mod python {
    claims_of_lite_push_consumers!(super::Client::Python);
    claims_of_priority_producers!(super::Client::Python);
    // The only driver that can: the rules are the server's.
    claims! { super::Client::Python;
        light: lite_simple_consumers_get_their_lite_topics_in_order,
            lite_topics_survive_a_killed_server, a_lite_topic_that_a_listener_failed_pauses_and_goes_on,
            a_lite_subscription_above_the_quota_is_refused,
            a_lite_simple_consumer_that_outlives_its_server_gets_what_came_meanwhile;
    }
    claims_of_simple_consumers!(super::Client::Python);
    claims_of_changing_consumers!(super::Client::Python);
    claims_of_recalling_producers!(super::Client::Python);
    claims_of_push_consumers!(super::Client::Python);
    claims! { super::Client::Python; asked: a_client_that_cannot_answer_is_said_to_and_goes_on; }
}
mod rust {
    claims_of_simple_consumers!(super::Client::Rust);
}

/// The drivers build, and are of the versions that the claims are made about. They come first by name, so that a slow
/// build runs beside the claims of the clients that are there.
mod built {
    use super::{Client, driver_or_skip};

    fn is(client: Client, version: &str) {
        let Some(driver) = driver_or_skip(client) else { return };
        assert_eq!(driver.version(), version, "{client} driver");
    }

    #[test]
    fn go() {
        is(Client::Go, "5.1.4");
    }
    #[test]
    fn java() {
        is(Client::Java, "5.2.0");
    }
    #[test]
    fn node() {
        is(Client::Node, "1.0.8");
    }
    #[test]
    fn python() {
        is(Client::Python, "5.1.2");
    }
    #[test]
    fn rust() {
        is(Client::Rust, "5.0.0");
    }
}

fn prove(client: Client, claim: fn(&mut Stage)) {
    if let Some(driver) = driver_or_skip(client) {
        claim(&mut Stage::set(driver));
    }
}

fn driver_or_skip(client: Client) -> Option<Driver> {
    match driver::built(client) {
        Ok(driver) => Some(driver),
        Err(Unbuilt::NoToolchain(why)) => {
            crate::harness::skipped(&why);
            None
        }
        Err(Unbuilt::Failed(why)) => panic!("the {client} driver did not build:\n{why}"),
    }
}
