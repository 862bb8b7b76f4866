//! TLS and plaintext, told apart by the first bytes of a connection.

use std::fs;

use super::{
    driver::{ids, of},
    stage::{GROUP, Stage, TOPIC},
};

const COUNT: usize = 20;

pub fn tls_and_plaintext_are_served_on_one_port(stage: &mut Stage) {
    if stage.client().trusts_any_certificate() {
        // It takes what the server makes for itself.
        stage.secure(&["--tls"]);
    } else {
        certify(stage);
    }
    let over_tls = stage.run(&format!("produce --topic {TOPIC} --count {COUNT} --prefix tls"));
    let received = stage.run(&format!("simple --topic {TOPIC} --group {GROUP} --count {COUNT}"));
    assert_eq!(ids(&received, "acked"), ids(&over_tls, "sent"));

    stage.secure(&[]);
    let in_plaintext = stage.run(&format!("produce --topic {TOPIC} --count {COUNT} --prefix plain"));
    let received = stage.run(&format!("simple --topic {TOPIC} --group {GROUP} --count {COUNT}"));
    assert_eq!(ids(&received, "acked"), ids(&in_plaintext, "sent"));
    assert_eq!(of(&received, "received").len(), COUNT);
}

/// Gives the server a certificate, and the drivers the means to check it.
fn certify(stage: &mut Stage) {
    let names = ["127.0.0.1", "localhost"].map(str::to_owned);
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate for this machine");
    let (certificate, key) = (stage.dir().join("certificate.pem"), stage.dir().join("key.pem"));
    fs::write(&certificate, made.cert.pem()).expect("a stage can be written");
    fs::write(&key, made.signing_key.serialize_pem()).expect("a stage can be written");
    stage
        .replace_server(&[&format!("tlsCertPath={}", certificate.display()), &format!("tlsKeyPath={}", key.display())]);
    stage.secure(&["--tls", "--ca", &certificate.display().to_string()]);
}
