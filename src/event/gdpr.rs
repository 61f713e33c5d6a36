use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::event::json_object::{read_from_objects, written_as_derived};
use crate::event::{ID_BYTES_MAX, Invalid, Json, check_text};

/// The personal fields of a payload: field name → its data. A field that is named here is in the payload, unless an
/// edit has erased it.
pub type Gdpr = BTreeMap<String, GdprField>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GdprField {
    /// The handle by which fields are invalidated; one id may stand for many fields and events.
    pub id: String,
    /// The value that a reader sees once the field is invalidated.
    pub default: Json,
    pub is_invalidated: bool,
}

/// A personal field as Postgres and archives keep it. Frozen with version 1 of the archive format.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Self")]
struct Stored<'a> {
    id: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    default: &'a RawValue,
    is_invalidated: bool,
}

read_from_objects!(Stored<'_>);
written_as_derived!(Stored<'_>);

impl GdprField {
    pub fn new(id: String, default: Json) -> Result<GdprField, Invalid> {
        check_text("the GDPR id", &id, ID_BYTES_MAX)?;
        if !default.has_plain_escapes() {
            return Err(Invalid("the GDPR default has an escape that is no character, or NUL".into()));
        }
        Ok(GdprField { id, default, is_invalidated: false })
    }
}

pub fn to_json(gdpr: &Gdpr) -> String {
    let stored: BTreeMap<&str, Stored> = gdpr
        .iter()
        .map(|(name, field)| {
            let GdprField { id, default, is_invalidated } = field;
            let default = serde_json::from_str(default.as_str()).expect("a Json is valid JSON");
            (name.as_str(), Stored { id: id.as_str().into(), default, is_invalidated: *is_invalidated })
        })
        .collect();
    serde_json::to_string(&stored).expect("names, texts and raw JSON always serialize")
}

pub fn from_json(text: &str) -> Result<Gdpr, Invalid> {
    let stored: BTreeMap<String, Stored> =
        serde_json::from_str(text).map_err(|error| Invalid(format!("the GDPR data are damaged: {error}")))?;
    let fields = stored.into_iter().map(|(name, stored)| {
        let Stored { id, default, is_invalidated } = stored;
        Ok((name, GdprField { id: id.into_owned(), default: Json::parse(default.get())?, is_invalidated }))
    });
    fields.collect()
}
