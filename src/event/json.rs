use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use serde::de::IgnoredAny;

use crate::event::Invalid;

/// The most levels of nesting that common readers of JSON take.
const DEPTH_MAX: usize = 128;

/// A JSON text without insignificant white space. Numbers, escapes and the order of keys are kept as they came.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Json(Bytes);

impl Json {
    pub fn parse(text: &str) -> Result<Json, Invalid> {
        serde_json::from_str::<IgnoredAny>(text).map_err(|error| Invalid(format!("not valid JSON: {error}")))?;
        let minified = minify(text)?;
        Ok(Json(match minified {
            Cow::Borrowed(text) => Bytes::copy_from_slice(text.as_bytes()),
            Cow::Owned(text) => Bytes::from(text),
        }))
    }

    /// Parses an object. No key may come twice at its top level: nobody could say which of two values is meant.
    pub fn parse_object(text: &str) -> Result<Json, Invalid> {
        let json = Json::parse(text)?;
        if !json.is_object() {
            return Err(Invalid("not a JSON object".into()));
        }
        let mut keys = HashSet::new();
        for member in json.members() {
            let key = member.key()?;
            if key.contains('\0') {
                return Err(Invalid("a field name contains a NUL character".into()));
            }
            if !keys.insert(key.clone()) {
                return Err(Invalid(format!("the field {key:?} comes twice")));
            }
        }
        Ok(json)
    }

    /// Takes text unchecked: it was checked when it came in, and we have kept it since.
    pub fn trusted(text: Bytes) -> Json {
        Json(text)
    }

    /// The JSON string of a text.
    pub fn text(text: &str) -> Json {
        Json(Bytes::from(serde_json::to_vec(text).expect("a text always serializes")))
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a Json is made from valid UTF-8 only")
    }

    pub fn is_object(&self) -> bool {
        self.0.first() == Some(&b'{')
    }

    pub fn byte_len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether Postgres can make a character of every escape in the JSON: none is NUL or half of a surrogate
    /// pair.
    pub fn has_plain_escapes(&self) -> bool {
        let bytes = self.as_str().as_bytes();
        let code = |at: usize| u32::from_str_radix(self.as_str().get(at + 2..at + 6).unwrap_or_default(), 16).ok();
        let mut at = 0;
        while at < bytes.len() {
            match (bytes[at], bytes.get(at + 1)) {
                (b'\\', Some(b'u')) => {
                    let is_pair = matches!(code(at), Some(0xD800..0xDC00))
                        && bytes[at + 6..].starts_with(b"\\u")
                        && matches!(code(at + 6), Some(0xDC00..0xE000));
                    if !is_pair && matches!(code(at), Some(0 | 0xD800..0xE000)) {
                        return false;
                    }
                    at += if is_pair { 12 } else { 6 };
                }
                (b'\\', _) => at += 2,
                _ => at += 1,
            }
        }
        true
    }

    /// The object with another value for the member of this name, if it has such a member.
    pub fn with_value(&self, name: &str, value: &Json) -> Json {
        let members = self.members();
        let Some(member) = members.iter().find(|member| member.key().is_ok_and(|key| key == name)) else {
            return self.clone();
        };
        let start = member.value.as_ptr() as usize - self.0.as_ptr() as usize;
        let mut out = Vec::with_capacity(self.0.len() + value.0.len());
        out.extend_from_slice(&self.0[..start]);
        out.extend_from_slice(&value.0);
        out.extend_from_slice(&self.0[start + member.value.len()..]);
        Json(out.into())
    }

    /// The members of an object in their order, keys and values as they are written.
    pub fn members(&self) -> Vec<Member<'_>> {
        members(self.as_str())
    }
}

impl fmt::Debug for Json {
    /// Shows the size alone: payloads do not belong in logs.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Json({} bytes)", self.0.len())
    }
}

/// A key and its value, both as they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member<'a> {
    pub raw_key: &'a str,
    pub value: &'a str,
}

impl<'a> Member<'a> {
    pub fn key(&self) -> Result<Cow<'a, str>, Invalid> {
        if !self.raw_key.contains('\\') {
            return Ok(Cow::Borrowed(&self.raw_key[1..self.raw_key.len() - 1]));
        }
        serde_json::from_str(self.raw_key)
            .map(Cow::Owned)
            .map_err(|_| Invalid(format!("the field name {} is no Unicode text", self.raw_key)))
    }
}

/// Splits valid and minified JSON into the members of its object; gives none if it is no object.
pub fn members(object: &str) -> Vec<Member<'_>> {
    let bytes = object.as_bytes();
    let mut found = Vec::new();
    let mut at = 1;
    while bytes.first() == Some(&b'{') && bytes[at] != b'}' {
        let key = value_range(bytes, at);
        let value = value_range(bytes, key.end + 1);
        at = if bytes[value.end] == b',' { value.end + 1 } else { value.end };
        found.push(Member { raw_key: &object[key], value: &object[value] });
    }
    found
}

/// The range of the value that starts at `start`, in valid and minified JSON.
fn value_range(bytes: &[u8], start: usize) -> Range<usize> {
    let mut depth = 0usize;
    let mut at = start;
    loop {
        match bytes[at] {
            b'"' => {
                at = string_end(bytes, at);
                if depth == 0 {
                    return start..at;
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' | b',' if depth == 0 => return start..at,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return start..at + 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
}

/// The index behind the closing quote of the string that opens at `start`.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    loop {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
}

/// Removes white space outside strings from valid JSON, and refuses JSON that is nested too deep.
fn minify(text: &str) -> Result<Cow<'_, str>, Invalid> {
    let bytes = text.as_bytes();
    let mut out: Option<String> = None;
    let (mut at, mut kept, mut depth) = (0, 0, 0usize);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                at = string_end(bytes, at);
                continue;
            }
            b'{' | b'[' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err(Invalid(format!("nested deeper than {DEPTH_MAX} levels")));
                }
            }
            b'}' | b']' => depth -= 1,
            b' ' | b'\t' | b'\n' | b'\r' => {
                let out = out.get_or_insert_with(|| String::with_capacity(text.len()));
                out.push_str(&text[kept..at]);
                kept = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    Ok(match out {
        None => Cow::Borrowed(text),
        Some(mut out) => {
            out.push_str(&text[kept..]);
            Cow::Owned(out)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_kept_to_the_letter() {
        let json = Json::parse(" { \"b\" : [ 64.30 , 9007199254740993, 1e999 ],\n\"a\":\"\\u0000 \\\" \" } ").unwrap();
        assert_eq!(json.as_str(), r#"{"b":[64.30,9007199254740993,1e999],"a":"\u0000 \" "}"#);
    }

    #[test]
    fn members_keep_their_letters() {
        let json = Json::parse_object(r#"{"a\u00e9":{"x":[1,"}"]},"b":"q\"}","c":-1.50,"d":[]}"#).unwrap();
        let members = json.members();
        let raw: Vec<_> = members.iter().map(|member| (member.raw_key, member.value)).collect();
        assert_eq!(
            raw,
            [(r#""a\u00e9""#, r#"{"x":[1,"}"]}"#), (r#""b""#, r#""q\"}""#), (r#""c""#, "-1.50"), (r#""d""#, "[]")]
        );
        assert_eq!(members[0].key().unwrap(), "aé");
        assert!(Json::parse_object("{}").unwrap().members().is_empty());
    }

    #[test]
    fn escapes_are_looked_at() {
        for text in [r#""\u0000""#, r#""\\\u0000""#, r#"{"a":"\ud800"}"#, r#""\udc00\ud800""#, r#""\ud83d\n""#] {
            assert!(!Json::parse(text).unwrap().has_plain_escapes(), "{text}");
        }
        for text in [r#""\u0001 \\u0000 \"""#, r#""\ud83d\ude00""#, "[1e999]", r#""\\""#] {
            assert!(Json::parse(text).unwrap().has_plain_escapes(), "{text}");
        }
    }

    #[test]
    fn what_nobody_could_read_is_refused() {
        for text in ["", "{", "NaN", "[1,]", "{\"a\":1} x", "\"\\x\"", "[Infinity]", "01"] {
            assert!(Json::parse(text).is_err(), "{text}");
        }
        let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(Json::parse(&deep(DEPTH_MAX)).is_ok());
        assert!(Json::parse(&deep(10_000)).is_err());
        for text in ["[]", "1", "\"{}\"", r#"{"a":1,"\u0061":2}"#, r#"{"\ud800":1}"#, r#"{"\u0000":1}"#] {
            assert!(Json::parse_object(text).is_err(), "{text}");
        }
    }
}
