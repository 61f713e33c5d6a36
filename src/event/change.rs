use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::event::{Event, GdprField, Invalid, Json, Patch};

/// A change to events that are published already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Sets fields of the payload to other values, or removes them.
    Patch(Patch),
    /// Makes a plain field personal.
    Introduce { field: String, gdpr: GdprField },
    /// Makes every field with this GDPR id show its default.
    Invalidate { gdpr_id: String },
    /// Gives the events of a type another type.
    Rename { old_type: String, new_type: String },
}

/// The change as Postgres keeps it while the edit is pending.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stored<'a> {
    #[serde(borrow)]
    Patch(&'a RawValue),
    Introduce {
        field: String,
        id: String,
        #[serde(borrow)]
        default: &'a RawValue,
    },
    Invalidate {
        gdpr_id: String,
    },
    Rename {
        old_type: String,
        new_type: String,
    },
}

impl Change {
    /// Applies the change to an event; leaves an event alone that it does not concern.
    pub fn apply(&self, event: &mut Event) {
        match self {
            Change::Patch(patch) => event.payload = patch.apply(&event.payload).payload,
            Change::Introduce { field, gdpr } => {
                event.gdpr.entry(field.clone()).or_insert_with(|| gdpr.clone());
            }
            Change::Invalidate { gdpr_id } => event.invalidate(|id| id == gdpr_id),
            Change::Rename { old_type, new_type } if event.event_type == *old_type => {
                event.event_type.clone_from(new_type);
            }
            Change::Rename { .. } => {}
        }
    }

    pub fn to_json(&self) -> String {
        let stored = match self {
            Change::Patch(patch) => Stored::Patch(raw(patch.as_str())),
            Change::Introduce { field, gdpr: GdprField { id, default, is_invalidated: _ } } => {
                Stored::Introduce { field: field.clone(), id: id.clone(), default: raw(default.as_str()) }
            }
            Change::Invalidate { gdpr_id } => Stored::Invalidate { gdpr_id: gdpr_id.clone() },
            Change::Rename { old_type, new_type } => {
                Stored::Rename { old_type: old_type.clone(), new_type: new_type.clone() }
            }
        };
        serde_json::to_string(&stored).expect("texts and raw JSON always serialize")
    }

    pub fn from_json(text: &str) -> Result<Change, Invalid> {
        let stored = serde_json::from_str(text);
        Ok(match stored.map_err(|error| Invalid(format!("the change is damaged: {error}")))? {
            Stored::Patch(patch) => Change::Patch(Patch::parse(patch.get())?),
            Stored::Introduce { field, id, default } => {
                Change::Introduce { field, gdpr: GdprField::new(id, Json::parse(default.get())?)? }
            }
            Stored::Invalidate { gdpr_id } => Change::Invalidate { gdpr_id },
            Stored::Rename { old_type, new_type } => Change::Rename { old_type, new_type },
        })
    }
}

fn raw(json: &str) -> &RawValue {
    serde_json::from_str(json).expect("a Json is valid JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Gdpr, Instant, Metadata};

    fn gdpr(id: &str, default: &str) -> GdprField {
        GdprField::new(id.into(), Json::parse(default).unwrap()).unwrap()
    }

    fn event(payload: &str, gdpr: Gdpr) -> Event {
        Event {
            position: 1,
            id: "event".into(),
            stream: "stream".into(),
            event_type: "opened".into(),
            reason: String::new(),
            raised_at: Instant::from_unix_nanos(0),
            metadata: Metadata::default(),
            payload: Json::parse_object(payload).unwrap(),
            gdpr,
        }
    }

    #[test]
    fn every_field_of_a_gdpr_id_shows_its_default() {
        let mut event = event(
            r#"{"name":"Ada","n":1.50,"other":"kept","nested":{"name":1}}"#,
            Gdpr::from([
                ("name".into(), gdpr("ada", "null")),
                ("n".into(), gdpr("ada", r#"{"a":[1]}"#)),
                ("other".into(), gdpr("else", "\"x\"")),
                ("erased".into(), gdpr("ada", "1")),
            ]),
        );
        Change::Invalidate { gdpr_id: "ada".into() }.apply(&mut event);
        assert_eq!(event.payload.as_str(), r#"{"name":null,"n":{"a":[1]},"other":"kept","nested":{"name":1}}"#);
        let invalidated: Vec<bool> = event.gdpr.values().map(|field| field.is_invalidated).collect();
        assert_eq!(invalidated, [true, true, true, false]);
    }

    #[test]
    fn a_field_is_introduced_once() {
        let mut event = event(r#"{"name":"Ada"}"#, Gdpr::new());
        for id in ["first", "second"] {
            Change::Introduce { field: "name".into(), gdpr: gdpr(id, "\"\"") }.apply(&mut event);
        }
        assert_eq!(event.gdpr, Gdpr::from([("name".into(), gdpr("first", "\"\""))]));
    }

    #[test]
    fn a_type_is_renamed_where_it_is_the_one() {
        let mut event = event("{}", Gdpr::new());
        let rename = |old: &str, new: &str| Change::Rename { old_type: old.into(), new_type: new.into() };
        rename("closed", "ended").apply(&mut event);
        assert_eq!(event.event_type, "opened");
        rename("opened", "begun").apply(&mut event);
        assert_eq!(event.event_type, "begun");
    }

    #[test]
    fn a_change_is_kept_to_the_letter() {
        for change in [
            Change::Patch(Patch::parse(r#"{"a":1.50,"b":"\u0000"}"#).unwrap()),
            Change::Introduce { field: "na\"me".into(), gdpr: gdpr("id", "9007199254740993") },
            Change::Invalidate { gdpr_id: "é\\".into() },
            Change::Rename { old_type: "a".into(), new_type: "b".into() },
        ] {
            assert_eq!(Change::from_json(&change.to_json()).unwrap(), change);
        }
        assert!(Change::from_json(r#"{"erase":1}"#).is_err());
    }
}
