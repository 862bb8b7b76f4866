use super::*;

fn request() -> v2::SendMessageRequest {
    let message = |n: u8| v2::Message {
        topic: Some(v2::Resource { name: "T".into(), ..Default::default() }),
        system_properties: Some(v2::SystemProperties { queue_id: 7, keys: vec!["k".into()], ..Default::default() }),
        body: vec![n; usize::from(n)].into(),
        ..Default::default()
    };
    v2::SendMessageRequest { messages: (0..3).map(|n| message(n * 90)).collect() }
}

#[test]
fn fields_are_what_a_message_was_made_of() {
    let bytes = Bytes::from(request().encode_to_vec());
    let told: Vec<_> = fields(bytes).map(|field| field.unwrap()).collect();
    assert!(told.iter().all(|(tag, _)| *tag == MESSAGES));
    let messages: Vec<_> = told.into_iter().map(|(_, bytes)| v2::Message::decode(bytes).unwrap()).collect();
    assert_eq!(messages, request().messages);
}

#[test]
fn fields_of_other_kinds_are_passed_over() {
    // A varint, eight bytes, four bytes, and a group; then a message.
    let others = [&[0x10, 0x96, 0x01][..], &[0x19, 1, 2, 3, 4, 5, 6, 7, 8], &[0x25, 1, 2, 3, 4], &[0x2b, 0x2c]];
    let bytes = [&others.concat()[..], &[0x0a, 1, b'x']].concat();
    let told: Vec<_> = fields(bytes.into()).map(|field| field.unwrap()).collect();
    assert_eq!(told, [(MESSAGES, Bytes::from_static(b"x"))]);
}

#[test]
fn a_message_that_is_no_message_is_an_error() {
    let faulty = fields(Bytes::from_static(&[0x08, 0x01])).collect::<Vec<_>>();
    assert!(matches!(&faulty[..], [Err(status)] if status.code() == tonic::Code::Internal), "{faulty:?}");
}

#[test]
fn what_is_cut_short_anywhere_ends_with_one_error_or_whole_messages() {
    let bytes = Bytes::from(request().encode_to_vec());
    let whole = request().messages.len();
    for cut in 0..bytes.len() {
        let told: Vec<_> = fields(bytes.slice(..cut)).collect();
        let errors = told.iter().filter(|field| field.is_err()).count();
        assert!(errors <= 1 && told.len() - errors < whole, "cut at {cut}: {told:?}");
        assert!(told.iter().rev().skip(1).all(Result::is_ok), "nothing comes after an error");
    }
    let endless = [0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    assert!(fields(Bytes::copy_from_slice(&endless)).all(|field| field.is_err()));
}

#[test]
fn beside_its_body_a_message_has_the_rest() {
    let message = &request().messages[2];
    let bytes = Bytes::from(message.encode_to_vec());
    assert_eq!(beside_body(&bytes).unwrap(), bytes.len() - 180);
    assert_eq!(beside_body(&Bytes::new()).unwrap(), 0);
}
