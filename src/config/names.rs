//! The names of the variables, and names that look like one of them and are none.

use serde::de::value::Error as Unread;
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};

use crate::config::secrets::{SECRETS, file_variable};
use crate::config::variables::Variables;

/// The most letters in which a name may differ from a variable's and still be taken for it.
const DISTANCE_MAX: usize = 2;

/// Returns the name of every variable that is read.
pub(super) fn known() -> Vec<String> {
    let mut fields: &[&str] = &[];
    // The error is dropped: serde is only asked for the names of the fields.
    drop(Variables::deserialize(Fields(&mut fields)));
    fields.iter().map(|field| field.to_uppercase()).chain(SECRETS.map(file_variable)).collect()
}

/// Returns the warning about a name that is none of ours and looks like a misspelling of one.
pub(super) fn suspicion(name: &str, known: &[String]) -> Option<String> {
    let distance = |one: &String| strsim::levenshtein(one, &name.to_uppercase());
    let nearest = known.iter().min_by_key(|one| distance(one)).filter(|one| distance(one) <= DISTANCE_MAX)?;
    Some(format!("{name} is no variable of Coldstream and is not read: {nearest} is one"))
}

/// Returns whether libraries read the variable. They read the environment of the process, and not our `.env`.
pub(super) fn is_read_by_libraries(name: &str) -> bool {
    let name = name.to_uppercase();
    name.starts_with("AWS_") || name.starts_with("SSL_CERT_") || name.ends_with("_PROXY")
}

struct Fields<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Fields<'_> {
    type Error = Unread;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Unread> {
        *self.0 = fields;
        Err(Unread::custom("only the names are wanted"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Unread> {
        Err(Unread::custom("only the names are wanted"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
