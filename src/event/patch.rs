use std::collections::BTreeMap;

use bytes::Bytes;

use crate::event::Invalid;
use crate::event::json::{Json, Member, members};

/// A JSON Merge Patch (RFC 7396) of a payload, with one difference: a field that the payload does not have is reported,
/// not added. An edit changes or erases what an event holds, and adds nothing to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch(Json);

/// The result of a patch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patched {
    pub payload: Json,
    /// JSON pointers to the values that the patch changed or removed.
    pub changed: Vec<String>,
    /// JSON pointers to the values that the patch names and the payload does not have.
    pub missing: Vec<String>,
}

impl Patch {
    pub fn parse(text: &str) -> Result<Patch, Invalid> {
        let json = Json::parse_object(text).map_err(|Invalid(why)| Invalid(format!("the patch: {why}")))?;
        check_nested(json.as_str())?;
        Ok(Patch(json))
    }

    /// The patch that removes some fields.
    pub fn removing(fields: &[String]) -> Patch {
        let nulls: BTreeMap<&str, ()> = fields.iter().map(|field| (field.as_str(), ())).collect();
        Patch(Json::trusted(serde_json::to_vec(&nulls).expect("texts and nulls always serialize").into()))
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    pub fn apply(&self, payload: &Json) -> Patched {
        let mut out = String::with_capacity(payload.byte_len() + self.0.byte_len());
        let (mut changed, mut missing) = (Vec::new(), Vec::new());
        merge(payload.as_str(), self.0.as_str(), "", &mut out, &mut changed, &mut missing);
        Patched { payload: Json::trusted(Bytes::from(out)), changed, missing }
    }
}

fn check_nested(object: &str) -> Result<(), Invalid> {
    for member in members(object) {
        if member.value.starts_with('{') {
            Json::parse_object(member.value).map_err(|Invalid(why)| Invalid(format!("the patch: {why}")))?;
            check_nested(member.value)?;
        }
    }
    Ok(())
}

fn merge(
    target: &str,
    patch: &str,
    pointer: &str,
    out: &mut String,
    changed: &mut Vec<String>,
    missing: &mut Vec<String>,
) {
    let targets = members(target);
    let patches: Vec<(String, Member)> = members(patch).into_iter().map(|member| (key_of(&member), member)).collect();
    out.push('{');
    let opening = out.len();
    for member in &targets {
        let key = key_of(member);
        let value = patches.iter().find(|(name, _)| *name == key).map(|(_, patch)| patch.value);
        if value == Some("null") {
            changed.push(pointer_to(pointer, &key));
            continue;
        }
        if out.len() > opening {
            out.push(',');
        }
        out.push_str(member.raw_key);
        out.push(':');
        match value {
            Some(value) if value.starts_with('{') && member.value.starts_with('{') => {
                merge(member.value, value, &pointer_to(pointer, &key), out, changed, missing);
            }
            Some(value) => {
                let opening = out.len();
                write_without_nulls(value, out);
                if out[opening..] != *member.value {
                    changed.push(pointer_to(pointer, &key));
                }
            }
            None => out.push_str(member.value),
        }
    }
    out.push('}');
    for (name, _) in &patches {
        if !targets.iter().any(|member| key_of(member) == *name) {
            missing.push(pointer_to(pointer, name));
        }
    }
}

/// Writes a value without the members that are null: a null in a patch removes a member, even in an object that
/// replaces another value.
fn write_without_nulls(value: &str, out: &mut String) {
    if !value.starts_with('{') {
        return out.push_str(value);
    }
    out.push('{');
    let opening = out.len();
    for member in members(value).iter().filter(|member| member.value != "null") {
        if out.len() > opening {
            out.push(',');
        }
        out.push_str(member.raw_key);
        out.push(':');
        write_without_nulls(member.value, out);
    }
    out.push('}');
}

/// The text of a key. A key that is no Unicode text stays as it is written: no patch can name it.
fn key_of(member: &Member) -> String {
    member.key().map_or_else(|_| member.raw_key.to_owned(), |key| key.into_owned())
}

/// The JSON pointer (RFC 6901) to a member of the object that `parent` points to.
pub fn pointer_to(parent: &str, key: &str) -> String {
    format!("{parent}/{}", key.replace('~', "~0").replace('/', "~1"))
}

/// The field of the payload that a JSON pointer points into.
pub fn field_of(pointer: &str) -> String {
    let name = pointer.split('/').nth(1).unwrap_or_default();
    name.replace("~1", "/").replace("~0", "~")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn apply(payload: &str, patch: &str) -> (String, Vec<String>, Vec<String>) {
        let patched = Patch::parse(patch).unwrap().apply(&Json::parse_object(payload).unwrap());
        (patched.payload.as_str().to_owned(), patched.changed, patched.missing)
    }

    #[test]
    fn only_what_is_named_changes() {
        let (payload, changed, missing) = apply(
            r#"{"price":64.30,"name":"\u00c9va","address":{"street":"x","no":1e2},"z":[1,2]}"#,
            r#"{"name":"erased","address":{"street":null,"zip":"1"},"z":[1,2],"phone":null}"#,
        );
        assert_eq!(payload, r#"{"price":64.30,"name":"erased","address":{"no":1e2},"z":[1,2]}"#);
        assert_eq!(changed, ["/name", "/address/street"]);
        assert_eq!(missing, ["/address/zip", "/phone"]);
    }

    #[test]
    fn a_key_that_comes_twice_is_erased_twice() {
        let patch = Patch::parse(r#"{"a":{"x":null}}"#).unwrap();
        let payload = Json::parse(r#"{"a":{"x":1,"y":2,"\u0078":3}}"#).unwrap();
        assert_eq!(patch.apply(&payload).payload.as_str(), r#"{"a":{"y":2}}"#);
    }

    #[test]
    fn a_null_is_never_a_value() {
        let (payload, changed, _) = apply(r#"{"a":1,"b":{}}"#, r#"{"a":{"x":null,"y":{"z":null}},"b":{}}"#);
        assert_eq!((payload.as_str(), changed), (r#"{"a":{"y":{}},"b":{}}"#, vec!["/a".to_owned()]));
        assert_eq!(apply(&payload, r#"{"a":{"y":{"z":null}}}"#).0, payload, "the same again changes nothing");
    }

    #[test]
    fn a_patch_is_an_object() {
        for text in ["[]", "null", "\"x\"", "{", r#"{"a":1,"a":2}"#, r#"{"a":{"b":1,"b":2}}"#] {
            assert!(Patch::parse(text).is_err(), "{text}");
        }
    }

    fn value(depth: u32) -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<i64>().prop_map(Into::into),
            any::<bool>().prop_map(Into::into),
            ".{0,6}".prop_map(Into::into),
        ];
        leaf.prop_recursive(depth, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::hash_map("[a-c\"\\\\é]{1,2}", inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn object() -> impl Strategy<Value = serde_json::Value> {
        prop::collection::hash_map("[a-c\"\\\\é]{1,2}", value(3), 0..5)
            .prop_map(|map| serde_json::Value::Object(map.into_iter().collect()))
    }

    /// RFC 7396 over plain values, restricted to the fields of the target.
    fn expected(target: &serde_json::Value, patch: &serde_json::Value) -> serde_json::Value {
        let Some(patch_members) = patch.as_object() else { return patch.clone() };
        let Some(target) = target.as_object() else {
            let kept = patch_members.iter().filter(|(_, value)| !value.is_null());
            let kept = kept.map(|(key, value)| (key.clone(), expected(&serde_json::Value::Null, value)));
            return serde_json::Value::Object(kept.collect());
        };
        let kept = target.iter().filter_map(|(key, value)| match patch.get(key) {
            None => Some((key.clone(), value.clone())),
            Some(serde_json::Value::Null) => None,
            Some(patch) => Some((key.clone(), expected(value, patch))),
        });
        serde_json::Value::Object(kept.collect())
    }

    proptest! {
        #[test]
        fn it_is_a_merge_patch_of_what_is_there(target in object(), patch in object()) {
            let payload = Json::parse_object(&target.to_string()).unwrap();
            let patched = Patch::parse(&patch.to_string()).unwrap().apply(&payload);
            let result: serde_json::Value = serde_json::from_str(patched.payload.as_str()).unwrap();
            prop_assert_eq!(result, expected(&target, &patch));
            prop_assert_eq!(patched.changed.is_empty(), patched.payload == payload);
        }
    }
}
