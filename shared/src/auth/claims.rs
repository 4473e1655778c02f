//! What a token says, read strictly: what is said twice, or in an unexpected form, is not believed.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// The header of a token (RFC 7515, section 4.1). What holds a key, or names a place to get one from, is not read.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) algorithm: String,
    /// Which of the issuer's keys it says it was signed with.
    pub(super) key_id: Option<String>,
    pub(super) critical: bool,
}

/// The fields of a JSON object, none of them twice.
pub(super) struct Fields(pub(super) Map<String, Value>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once;
        impl<'de> Visitor<'de> for Once {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object that has no field twice")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Fields, A::Error> {
                let mut fields = Map::new();
                while let Some((name, value)) = access.next_entry::<String, Value>()? {
                    if fields.insert(name, value).is_some() {
                        return Err(A::Error::custom("a field stands twice"));
                    }
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Once)
    }
}

impl Header {
    pub(super) fn decode(part: &str) -> Option<Self> {
        let Fields(fields) = decode(part)?;
        Some(Self {
            algorithm: fields.get("alg")?.as_str()?.to_owned(),
            key_id: fields.get("kid").map(|id| id.as_str().map(str::to_owned)).unwrap_or(None),
            // RFC 7515, section 4.1.11, and RFC 7797: extensions that must be understood. None is.
            critical: fields.contains_key("crit") || fields.contains_key("b64"),
        })
    }
}

/// Decodes a part of a token.
pub(super) fn decode<T: DeserializeOwned>(part: &str) -> Option<T> {
    let json = BASE64_URL_SAFE_NO_PAD.decode(part).ok()?;
    serde_json::from_slice(&json).ok()
}
