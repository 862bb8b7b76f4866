//! Reads JSON as Apache's brokers write it.
//!
//! Their serializer (fastjson 1.x) leaves the quotes away from integer keys: `{0:12,1:5}`. What we write has them; Apache
//! reads both.

use std::borrow::Cow;

use serde::de::DeserializeOwned;

/// Parses a document; the error says where it went wrong.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
    serde_json::from_str(&quote_keys(text)).map_err(|e| e.to_string())
}

/// Puts quotes around bare keys. A bare word that a colon follows is a key, since outside of strings JSON has colons
/// nowhere else.
fn quote_keys(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut out = String::new();
    let mut copied = 0;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at = string_end(bytes, at),
            b if is_word(b) => {
                let end = at + bytes[at..].iter().take_while(|b| is_word(**b)).count();
                if bytes[end..].iter().find(|b| !b.is_ascii_whitespace()) == Some(&b':') {
                    out.push_str(&text[copied..at]);
                    out.push('"');
                    out.push_str(&text[at..end]);
                    out.push('"');
                    copied = end;
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | b'-' | b'+' | b'.')
}

/// One behind the string that starts at `start`; the end of the text when it is not closed.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn integer_keys_may_come_without_quotes() {
        let offsets: Value =
            parse(br#"{"offsetTable":{"T@G":{0:12,1 : 5,-1:0}},"list":[1,true,null,-2.5e3]}"#).unwrap();
        assert_eq!(offsets, json!({"offsetTable":{"T@G":{"0":12,"1":5,"-1":0}},"list":[1,true,null,-2.5e3]}));
    }

    #[test]
    fn what_looks_like_a_key_inside_a_string_is_left_alone() {
        let value: Value = parse(br#"{"a":"{0:1}","q\"1":"\\",2:"x"}"#).unwrap();
        assert_eq!(value, json!({"a": "{0:1}", "q\"1": "\\", "2": "x"}));
    }

    #[test]
    fn what_is_no_json_is_refused_with_its_place() {
        for (text, place) in [("", "line 1"), ("{\"a\":", "line 1"), ("{\n\"a\" 1}", "line 2"), ("{a:\"\\", "line 1")] {
            let error = parse::<Value>(text.as_bytes()).unwrap_err();
            assert!(error.contains(place), "{text}: {error}");
        }
        assert!(parse::<Value>(&[0xff]).is_err());
    }

    fn document() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner.clone(), 0..8)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
                prop::collection::btree_map(any::<i32>(), inner, 0..8)
                    .prop_map(|m| Value::Object(m.into_iter().map(|(k, v)| (k.to_string(), v)).collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn plain_json_is_read_as_it_is(value in document()) {
            prop_assert_eq!(parse::<Value>(value.to_string().as_bytes()).unwrap(), value.clone());
            prop_assert_eq!(parse::<Value>(format!("{value:#}").as_bytes()).unwrap(), value);
        }

        #[test]
        fn any_text_is_an_answer_and_never_a_panic(text in "[{}\\[\\]:,\"\\\\a-z0-9 \u{e9}-]{0,64}") {
            let _ = parse::<Value>(text.as_bytes());
        }
    }
}
