//! Typed values from a tree of places, so that a good document is parsed once and not twice.
//!
//! Only what can be read in one way is read here: plain texts, `true` and `false`, short whole
//! numbers, lists, mappings without repeated keys. Everything else, and every mistake, is left to
//! the parser itself, which says what is wrong and where; a test compares both on whatever the
//! parser accepts.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer as _,
    MapAccess, SeqAccess, VariantAccess, Visitor,
};

use super::{Node, Tree};

/// The value of `tree`; `None` says that the parser has to be asked.
pub(crate) fn of<T: DeserializeOwned>(tree: &Tree) -> Option<T> {
    if !tree.is_simple() {
        return None;
    }
    T::deserialize(Value(tree.root())).ok()
}

/// Something that is not read here.
#[derive(Debug)]
struct Otherwise;

impl fmt::Display for Otherwise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the parser has to be asked")
    }
}

impl std::error::Error for Otherwise {}

impl de::Error for Otherwise {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }

    // These would build messages that nobody reads.
    fn unknown_field(_: &str, _: &'static [&'static str]) -> Self {
        Self
    }

    fn missing_field(_: &'static str) -> Self {
        Self
    }
}

#[derive(Clone, Copy)]
struct Value<'a>(&'a Node);

impl<'a> Value<'a> {
    fn text(self) -> Result<&'a str, Otherwise> {
        let Node::Scalar { text, plain, .. } = self.0 else { return Err(Otherwise) };
        if *plain && is_null(text) { Err(Otherwise) } else { Ok(text) }
    }
}

fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// A number that every reader reads the same: digits without a leading zero.
fn short_number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = text == "0" || !text.starts_with('0');
    (digits && canonical && (1..=15).contains(&text.len())).then(|| text.parse().ok()).flatten()
}

impl<'de> Deserializer<'de> for Value<'_> {
    type Error = Otherwise;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Otherwise> {
        let Node::Scalar { text, plain: true, .. } = self.0 else { return Err(Otherwise) };
        match (text.as_str(), short_number(text)) {
            ("true", _) => visitor.visit_bool(true),
            ("false", _) => visitor.visit_bool(false),
            (_, Some(number)) => visitor.visit_u64(number),
            _ => Err(Otherwise),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Otherwise> {
        visitor.visit_str(self.text()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Otherwise> {
        visitor.visit_str(self.text()?)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Otherwise> {
        if let Node::Scalar { text, plain: true, .. } = self.0
            && is_null(text)
        {
            return Err(Otherwise);
        }
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Otherwise> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Otherwise> {
        let Node::List { items, .. } = self.0 else { return Err(Otherwise) };
        visitor.visit_seq(Items(items.iter()))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Otherwise> {
        let Node::Map { entries, .. } = self.0 else { return Err(Otherwise) };
        let mut seen = BTreeSet::new();
        if entries.iter().any(|(key, ..)| key.is_empty() || key == "<<" || !seen.insert(key)) {
            return Err(Otherwise);
        }
        visitor.visit_map(Entries { rest: entries.iter(), value: None })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Otherwise> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Otherwise> {
        match self.0 {
            Node::Scalar { .. } => visitor.visit_enum(Choice { word: self.text()?, value: None }),
            Node::Map { entries, .. } => match entries.as_slice() {
                [(word, _, value)] => visitor.visit_enum(Choice { word, value: Some(value) }),
                _ => Err(Otherwise),
            },
            Node::List { .. } | Node::Alias { .. } => Err(Otherwise),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Otherwise> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct
        tuple tuple_struct identifier
    }
}

struct Items<'a>(std::slice::Iter<'a, Node>);

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Otherwise;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Otherwise> {
        self.0.next().map(|item| seed.deserialize(Value(item))).transpose()
    }
}

struct Entries<'a> {
    rest: std::slice::Iter<'a, (String, super::Mark, Node)>,
    value: Option<&'a Node>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Otherwise;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Otherwise> {
        let Some((key, _, value)) = self.rest.next() else { return Ok(None) };
        self.value = Some(value);
        let key: StrDeserializer<'_, Otherwise> = key.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Otherwise> {
        seed.deserialize(Value(self.value.take().ok_or(Otherwise)?))
    }
}

/// One of several: a word alone, or a word with a value.
struct Choice<'a> {
    word: &'a str,
    value: Option<&'a Node>,
}

impl<'a, 'de> EnumAccess<'de> for Choice<'a> {
    type Error = Otherwise;
    type Variant = Chosen<'a>;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Chosen<'a>), Otherwise> {
        let word: StrDeserializer<'_, Otherwise> = self.word.into_deserializer();
        Ok((seed.deserialize(word)?, Chosen(self.value)))
    }
}

struct Chosen<'a>(Option<&'a Node>);

impl<'de> VariantAccess<'de> for Chosen<'_> {
    type Error = Otherwise;

    fn unit_variant(self) -> Result<(), Otherwise> {
        if self.0.is_none() { Ok(()) } else { Err(Otherwise) }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Otherwise> {
        seed.deserialize(Value(self.0.ok_or(Otherwise)?))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Otherwise> {
        Err(Otherwise)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Otherwise> {
        Value(self.0.ok_or(Otherwise)?).deserialize_map(visitor)
    }
}
