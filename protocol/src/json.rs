//! JSON that is checked once and passed on byte for byte.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::error::Refusal;
use crate::limits::JSON_DEPTH_MAX;

/// The deepest nesting of objects and arrays in `text`, which must be valid JSON.
pub fn depth(text: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0usize, 0, false, false);
    for byte in text.bytes() {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'{' | b'[') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// A struct that stands in JSON as an object. What serde derives for a struct also takes an array of
/// its fields, in the order of our source code, which nobody means.
#[derive(Debug)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        d.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

/// Parses one JSON object of a known shape, with a sentence for the sender where it is wrong.
/// `what` names the document, for instance "the body".
///
/// # Errors
/// A validation error that says what was expected and where.
pub fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &str) -> Result<T, Refusal> {
    parse_value::<Object<T>>(bytes, what).map(|Object(value)| value)
}

/// As [`parse`], for a JSON array.
///
/// # Errors
/// As for [`parse`].
pub fn parse_array<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &str) -> Result<Vec<T>, Refusal> {
    parse_value(bytes, what)
}

fn parse_value<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &str) -> Result<T, Refusal> {
    let code = crate::ErrorCode::ValidationError;
    // All of it is checked, also what is skipped over; the parser then need not look again.
    let text = str::from_utf8(bytes).map_err(|error| {
        Refusal::new(code, format!("{what} is not UTF-8 at byte {}", error.valid_up_to()))
    })?;
    serde_json::from_str(text).map_err(|error| {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Refusal::new(code, format!("{what} is empty, a JSON object is expected"));
        }
        Refusal::new(code, format!("{what} is not what is expected: {error}"))
    })
}

/// A field that may be absent, whose `null` is a value like any other.
pub(crate) fn present<'de, D: Deserializer<'de>>(d: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(d).map(Some)
}

/// Appends `text` as a JSON string, quotes included.
pub fn push_string(out: &mut Vec<u8>, text: &str) {
    // Writing into memory cannot fail, and a str always has a JSON form.
    let _ = serde_json::to_writer(out, text);
}

/// Checks the nesting of a message's content.
///
/// # Errors
/// A validation error of `field` past [`JSON_DEPTH_MAX`].
pub fn check_depth(field: &'static str, content: &RawValue) -> Result<(), Refusal> {
    // The shortest text with that depth has as many brackets; most contents are shorter.
    if content.get().len() <= JSON_DEPTH_MAX || depth(content.get()) <= JSON_DEPTH_MAX {
        return Ok(());
    }
    Err(Refusal::field(field, format!("must not be nested deeper than {JSON_DEPTH_MAX} levels")))
}

/// A whole number that is not negative. A JSON number has no kinds: who writes `3.0` or `3e0` means 3.
///
/// # Errors
/// It is none, or is written as a fraction beyond 2^53, where not every whole number is one.
pub fn unsigned<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    let text = <&RawValue>::deserialize(d)?.get();
    let fraction = || text.parse::<f64>().ok().filter(|number| number.fract() == 0.0);
    let exact = |number: &f64| (0.0..=EXACT_MAX as f64).contains(number);
    text.parse()
        .ok()
        .or_else(|| fraction().filter(exact).map(|number| number as u64))
        .ok_or_else(|| D::Error::custom("expected a whole number that is not negative"))
}

/// As [`unsigned`], for a field that may be absent or `null`.
///
/// # Errors
/// As for [`unsigned`].
pub fn unsigned_if_given<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    struct Number(#[serde(deserialize_with = "unsigned")] u64);
    Option::<Number>::deserialize(d).map(|number| number.map(|Number(number)| number))
}

/// Up to here every whole number has a floating-point form of its own.
const EXACT_MAX: u64 = 1 << 53;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_skipped_over_is_utf8_too() {
        #[derive(Debug, Deserialize)]
        struct Empty {}
        let refusal = parse::<Empty>(b"{\"unknown\":\"m\xff\"}", "the body").unwrap_err();
        assert_eq!(refusal.message, "the body is not UTF-8 at byte 13");
    }

    #[test]
    fn an_array_of_fields_is_no_object() {
        #[derive(Debug, Deserialize, PartialEq)]
        struct Pair {
            a: u8,
            b: Option<u8>,
        }
        let parse = |text: &'static str| parse::<Pair>(text.as_bytes(), "the body");
        assert_eq!(parse(r#"{"b":2,"a":1,"c":[]}"#), Ok(Pair { a: 1, b: Some(2) }));
        assert_eq!(parse(r#"{"a":1}"#), Ok(Pair { a: 1, b: None }));
        for bad in ["[1,2]", "[]", "1", "null", r#"{"a":1,"a":1}"#] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn whole_numbers_in_all_their_forms() {
        #[derive(Debug, Deserialize)]
        struct Body {
            #[serde(default, deserialize_with = "unsigned_if_given")]
            n: Option<u64>,
        }
        let parse = |n: &str| {
            let text = format!(r#"{{"n":{n}}}"#);
            parse::<Body>(text.as_bytes(), "the body").map(|body| body.n).map_err(drop)
        };
        for (text, n) in [("0", 0), ("7", 7), ("7.0", 7), ("7e2", 700), ("0.0", 0)] {
            assert_eq!(parse(text), Ok(Some(n)), "{text}");
        }
        assert_eq!(parse("18446744073709551615"), Ok(Some(u64::MAX)));
        assert_eq!(parse("9007199254740992.0"), Ok(Some(1 << 53)));
        assert_eq!(parse("null"), Ok(None));
        for bad in ["-1", "1.5", "1e300", "9007199254740994.0", "\"7\"", "true", "[7]", "{}"] {
            assert_eq!(parse(bad), Err(()), "{bad}");
        }
    }

    #[test]
    fn depth_counts_brackets_outside_strings() {
        assert_eq!(depth("1"), 0);
        assert_eq!(depth(r#"{"a":[1,{"b":"]]]["}]}"#), 3);
        assert_eq!(depth(r#"["\"[[["]"#), 1);
        assert_eq!(depth(r#"["\\",[]]"#), 2);
    }
}
