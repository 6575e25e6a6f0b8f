//! JSON that is kept as it was given, in formats of serde that are not JSON: as text. `RawValue` itself is
//! for JSON only.

use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _};
use serde_json::value::RawValue;

/// Writes it: as it is in JSON, as text elsewhere.
pub(crate) fn serialize<S: Serializer>(
    json: &Option<Box<RawValue>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match serializer.is_human_readable() {
        true => json.serialize(serializer),
        false => json.as_ref().map(|json| json.get()).serialize(serializer),
    }
}

/// Reads what [`serialize`] wrote.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Box<RawValue>>, D::Error> {
    if deserializer.is_human_readable() {
        return Option::deserialize(deserializer);
    }
    let text: Option<String> = Option::deserialize(deserializer)?;
    text.map(RawValue::from_string).transpose().map_err(D::Error::custom)
}
