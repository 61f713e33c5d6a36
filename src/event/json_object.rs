use serde::de::{Deserializer, Visitor};
use serde::forward_to_deserialize_any;

/// Reads a struct from an object alone. The code that serde derives also takes an array of the fields in their order,
/// and a field that is added in the middle would change the meaning of such an array.
pub struct ObjectOnly<D>(pub D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for ObjectOnly<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct
        seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// Reads structs from objects alone, at any depth. Their derived code has to be `#[serde(remote = "Self")]`.
macro_rules! read_from_objects {
    ($($name:ident),+) => {
        $(impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                $name::deserialize($crate::event::ObjectOnly(deserializer))
            }
        })+
    };
    ($($name:ident<'_>),+) => {
        $(impl<'a, 'de: 'a> serde::Deserialize<'de> for $name<'a> {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<$name<'a>, D::Error> {
                $name::deserialize($crate::event::ObjectOnly(deserializer))
            }
        })+
    };
}

/// Writes a struct as serde derives it, if its derived code is `#[serde(remote = "Self")]`.
macro_rules! written_as_derived {
    ($name:ident $(<$lifetime:lifetime>)?) => {
        impl serde::Serialize for $name $(<$lifetime>)? {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $name::serialize(self, serializer)
            }
        }
    };
}

pub(crate) use {read_from_objects, written_as_derived};

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(remote = "Self", deny_unknown_fields)]
    struct Outer {
        inner: Vec<Inner>,
        #[serde(default)]
        again: Option<Inner>,
    }

    #[derive(Debug, Deserialize, Default)]
    #[serde(remote = "Self", deny_unknown_fields, default)]
    struct Inner {
        number: i64,
    }

    read_from_objects!(Outer, Inner);

    #[test]
    fn an_array_is_no_struct_at_any_depth() {
        let read: Outer = serde_json::from_str(r#"{"inner":[{"number":7},{}],"again":{}}"#).unwrap();
        assert_eq!(read.inner.iter().map(|inner| inner.number).collect::<Vec<_>>(), [7, 0]);
        assert!(read.again.is_some());
        for text in [r"[[]]", r#"{"inner":[[7]]}"#, r#"{"inner":[],"again":[7]}"#, r#"{"inner":[[]]}"#, "null", "7"] {
            assert!(serde_json::from_str::<Outer>(text).is_err(), "{text}");
        }
    }
}
