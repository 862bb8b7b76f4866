//! SendMessage, decoded message by message: an empty message is two bytes on the wire and hundreds in memory, so that a
//! request is counted as what it grows to while it grows.

use std::{mem::size_of, sync::Arc};

use bytes::{Buf, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};
use tonic::{
    Request, Response, Status,
    codec::{Codec, DecodeBuf, Decoder},
    server::UnaryService,
};
use tonic_prost::ProstEncoder;

use super::Permit;
use crate::proto::v2::{self, messaging_service_server::MessagingService};
use crate::proxy::rpc::Messaging;

/// Bytes of a message beside its body: far more than the limits of names and properties let through.
pub const BESIDE_BODY_MAX: usize = 1 << 20;

/// Places for messages that are made before the messages are there.
const PLACES_MAX: usize = 1024;

/// Field numbers of `SendMessageRequest` and `Message`, in `service.proto` and `definition.proto`.
const MESSAGES: u32 = 1;
const BODY: u32 = 4;

/// The handler, called as tonic calls one.
pub struct SendMessage(pub Arc<Messaging>);

impl UnaryService<v2::SendMessageRequest> for SendMessage {
    type Response = v2::SendMessageResponse;
    type Future = tonic::codegen::BoxFuture<Response<Self::Response>, Status>;

    fn call(&mut self, request: Request<v2::SendMessageRequest>) -> Self::Future {
        let messaging = self.0.clone();
        Box::pin(async move { messaging.send_message(request).await })
    }
}

/// How one call's request is decoded.
pub struct SendCodec(pub Arc<Permit>);

impl Codec for SendCodec {
    type Encode = v2::SendMessageResponse;
    type Decode = v2::SendMessageRequest;
    type Encoder = ProstEncoder<v2::SendMessageResponse>;
    type Decoder = SendDecoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }
    fn decoder(&mut self) -> Self::Decoder {
        SendDecoder(self.0.clone())
    }
}

pub struct SendDecoder(Arc<Permit>);

impl Decoder for SendDecoder {
    type Item = v2::SendMessageRequest;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        // Of the whole buffer, so that bodies are slices of it.
        let request = buf.copy_to_bytes(buf.remaining());
        let permit = &self.0;
        // It may have come compressed.
        permit.charge_expanded(request.len().saturating_sub(permit.counted()))?;
        let is_message = |field: &Result<_, _>| matches!(field, Ok((MESSAGES, _)));
        let places = fields(request.clone()).filter(is_message).take(PLACES_MAX).count();
        let mut messages = Vec::with_capacity(places);
        permit.charge_expanded(places * size_of::<v2::Message>())?;
        for field in fields(request) {
            let (MESSAGES, message) = field? else { continue };
            if message.len() > BESIDE_BODY_MAX && beside_body(&message)? > BESIDE_BODY_MAX {
                return Err(permit.refuse_properties());
            }
            if messages.len() == messages.capacity() {
                permit.charge_expanded(messages.capacity() * size_of::<v2::Message>())?;
            }
            let message = v2::Message::decode(message).map_err(broken)?;
            permit.charge_expanded(weight(&message))?;
            messages.push(message);
        }
        Ok(Some(v2::SendMessageRequest { messages }))
    }
}

/// gRPC has INTERNAL for what cannot be decoded, and so has tonic.
fn broken(error: DecodeError) -> Status {
    Status::internal(error.to_string())
}

/// The fields of a message that have a length, with what they hold; others are left out. It ends at the first error.
fn fields(mut bytes: Bytes) -> impl Iterator<Item = Result<(u32, Bytes), Status>> {
    let mut next = move || -> Result<Option<(u32, Bytes)>, Status> {
        while bytes.has_remaining() {
            let (tag, wire_type) = decode_key(&mut bytes).map_err(broken)?;
            if wire_type == WireType::LengthDelimited {
                let len = usize::try_from(decode_varint(&mut bytes).map_err(broken)?).unwrap_or(usize::MAX);
                if len > bytes.len() {
                    return Err(Status::internal("a field is longer than the message that it is in"));
                }
                return Ok(Some((tag, bytes.split_to(len))));
            }
            // Messages have a length, and so has the topic of one, the field of that number there.
            if tag == MESSAGES {
                return Err(Status::internal("a field has another type than it should have"));
            }
            skip_field(wire_type, tag, &mut bytes, DecodeContext::default()).map_err(broken)?;
        }
        Ok(None)
    };
    let mut is_broken = false;
    std::iter::from_fn(move || {
        if is_broken {
            return None;
        }
        let field = next().transpose();
        is_broken = matches!(field, Some(Err(_)));
        field
    })
}

fn beside_body(message: &Bytes) -> Result<usize, Status> {
    let mut body = 0;
    for field in fields(message.clone()) {
        if let (BODY, bytes) = field? {
            body = bytes.len();
        }
    }
    Ok(message.len() - body)
}

/// Bytes of memory that what a message has any number of takes, without the texts: those take a few times what they are on
/// the wire at most.
fn weight(message: &v2::Message) -> usize {
    let keys = message.system_properties.as_ref().map_or(0, |system| system.keys.capacity());
    keys * size_of::<String>() + message.user_properties.capacity() * size_of::<(String, String)>()
}

#[cfg(test)]
mod tests;
