//! Typed values from a tree of places, so that a good document is parsed once and not twice.
//!
//! Only what can be read in one way is read here: plain texts, `true` and `false`, short whole
//! numbers, lists, mappings without repeated keys. Everything else is left to the parser itself,
//! which also has the first word on what is wrong; a test compares both on whatever the parser
//! accepts. What keeps a value from being read here is told as far as it is certain.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer as _,
    MapAccess, SeqAccess, VariantAccess, Visitor,
};

use super::{Node, Step, Tree};

/// The value of `tree`; `None` says that the parser has to be asked.
pub(crate) fn of<T: DeserializeOwned>(tree: &Tree) -> Option<T> {
    if tree.is_simple() { read(tree).ok() } else { None }
}

/// The value of `tree`, or what keeps it from being one.
pub(super) fn read<T: DeserializeOwned>(tree: &Tree) -> Result<T, Otherwise> {
    T::deserialize(Value(tree.root()))
}

/// Something that is not read here.
#[derive(Debug, Default)]
pub(super) struct Otherwise {
    /// What is wrong, if that is certain; without it the parser may think otherwise.
    pub(super) why: Option<Why>,
    /// Where, from the inside out.
    pub(super) path: Vec<Step>,
}

/// What is wrong.
#[derive(Debug)]
pub(super) enum Why {
    /// The mapping lacks this field.
    Missing(&'static str),
    /// The key, which is the last step, means nothing there.
    Key(String),
    /// The value.
    Value(String),
}

impl Otherwise {
    fn value(message: impl Into<String>) -> Self {
        Self { why: Some(Why::Value(message.into())), path: Vec::new() }
    }

    /// `node` stands where one of `expected` should.
    fn unexpected(expected: &str, node: &Node) -> Self {
        let found = match node {
            Node::Scalar { text, .. } => text,
            Node::List { .. } => "a list",
            Node::Map { .. } => "a mapping",
            Node::Alias { .. } => return Self::default(),
        };
        Self::value(super::unexpected(expected, found))
    }

    fn inside(mut self, step: Step) -> Self {
        self.path.push(step);
        self
    }

    fn at_key(self, key: &str) -> Self {
        self.inside(Step::Key(key.to_owned()))
    }
}

impl fmt::Display for Otherwise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the parser has to be asked")
    }
}

impl std::error::Error for Otherwise {}

impl de::Error for Otherwise {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::value(message.to_string())
    }

    fn invalid_type(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::value(super::misplaced(unexpected, expected))
    }

    fn invalid_value(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::value(super::misplaced(unexpected, expected))
    }

    fn unknown_variant(word: &str, expected: &'static [&'static str]) -> Self {
        Self::value(super::unknown_word(word, expected))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let message = super::unknown_field(field, expected);
        Self { why: Some(Why::Key(message)), path: Vec::new() }
    }

    fn missing_field(field: &'static str) -> Self {
        Self { why: Some(Why::Missing(field)), path: Vec::new() }
    }
}

#[derive(Clone, Copy)]
struct Value<'a>(&'a Node);

impl<'a> Value<'a> {
    fn text(self) -> Result<&'a str, Otherwise> {
        match self.0 {
            Node::Scalar { text, plain: true, .. } if is_null(text) => Err(missing()),
            Node::Scalar { text, .. } => Ok(text),
            other @ (Node::List { .. } | Node::Map { .. } | Node::Alias { .. }) => {
                Err(Otherwise::unexpected("string scalar", other))
            }
        }
    }
}

fn missing() -> Otherwise {
    Otherwise::value(super::NOTHING)
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

/// The same below zero.
fn negative(text: &str) -> Option<i64> {
    let number = short_number(text.strip_prefix('-')?).filter(|number| *number > 0)?;
    i64::try_from(number).ok().map(|number| -number)
}

/// A text that no reader takes for a number or a boolean: it has a letter or sign that these do
/// not have, and is none of their words.
fn is_word(text: &str) -> bool {
    let numeric = |one: char| one.is_ascii_hexdigit() || "xXoO+-._".contains(one);
    let words = ["true", "false", "yes", "no", "on", "off", "y", "n", ".inf", ".nan"];
    let bare = text.trim_start_matches(['+', '-']);
    !text.chars().all(numeric) && !words.iter().any(|word| word.eq_ignore_ascii_case(bare))
}

impl<'de> Deserializer<'de> for Value<'_> {
    type Error = Otherwise;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Otherwise> {
        let Node::Scalar { text, plain, .. } = self.0 else {
            return Err(Otherwise::unexpected("one value", self.0));
        };
        match (text.as_str(), short_number(text), negative(text)) {
            (text, ..) if !plain => visitor.visit_str(text),
            ("true", ..) => visitor.visit_bool(true),
            ("false", ..) => visitor.visit_bool(false),
            (_, Some(number), _) => visitor.visit_u64(number),
            (_, _, Some(number)) => visitor.visit_i64(number),
            (text, ..) if is_null(text) => Err(missing()),
            (text, ..) if is_word(text) => visitor.visit_str(text),
            // A number in some other way of writing, or a boolean of some other YAML.
            _ => Err(Otherwise::default()),
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
            return Err(missing());
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
        let Node::List { items, .. } = self.0 else {
            return Err(Otherwise::unexpected("sequence start", self.0));
        };
        visitor.visit_seq(Items(items.iter().enumerate()))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Otherwise> {
        let Node::Map { entries, .. } = self.0 else {
            return Err(Otherwise::unexpected("mapping start", self.0));
        };
        let mut seen = BTreeSet::new();
        for (key, ..) in entries {
            if key.is_empty() || key == "<<" {
                return Err(Otherwise::default().at_key(key));
            }
            if !seen.insert(key) {
                return Err(Otherwise::value(super::twice(key)).at_key(key));
            }
        }
        visitor.visit_map(Entries { rest: entries.iter(), entry: None })
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
                [] => Err(Otherwise::default()),
                _ => Err(Otherwise::value(super::ONE_OF_THESE)),
            },
            Node::List { .. } | Node::Alias { .. } => {
                Err(Otherwise::unexpected("string scalar", self.0))
            }
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

struct Items<'a>(std::iter::Enumerate<std::slice::Iter<'a, Node>>);

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Otherwise;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Otherwise> {
        let Some((index, item)) = self.0.next() else { return Ok(None) };
        let read = seed.deserialize(Value(item));
        read.map(Some).map_err(|error| error.inside(Step::Index(index)))
    }
}

struct Entries<'a> {
    rest: std::slice::Iter<'a, (String, super::Mark, Node)>,
    /// The key that was read last, and its value.
    entry: Option<(&'a str, &'a Node)>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Otherwise;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Otherwise> {
        let Some((key, _, value)) = self.rest.next() else { return Ok(None) };
        self.entry = Some((key, value));
        let read: StrDeserializer<'_, Otherwise> = key.as_str().into_deserializer();
        seed.deserialize(read).map(Some).map_err(|error| error.at_key(key))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Otherwise> {
        let (key, value) = self.entry.take().ok_or_else(Otherwise::default)?;
        seed.deserialize(Value(value)).map_err(|error| error.at_key(key))
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
        Ok((seed.deserialize(word)?, Chosen(self.value.map(|value| (self.word, value)))))
    }
}

struct Chosen<'a>(Option<(&'a str, &'a Node)>);

impl<'de> VariantAccess<'de> for Chosen<'_> {
    type Error = Otherwise;

    fn unit_variant(self) -> Result<(), Otherwise> {
        if self.0.is_none() { Ok(()) } else { Err(Otherwise::default()) }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Otherwise> {
        let (word, value) = self.0.ok_or_else(Otherwise::default)?;
        seed.deserialize(Value(value)).map_err(|error| error.at_key(word))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Otherwise> {
        Err(Otherwise::default())
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Otherwise> {
        let (word, value) = self.0.ok_or_else(Otherwise::default)?;
        Value(value).deserialize_map(visitor).map_err(|error| error.at_key(word))
    }
}
