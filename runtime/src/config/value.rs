//! The values that a key may have: each is read from one TOML value and knows where it stood.

pub mod name;
pub mod quantity;
pub mod secret;
pub mod word;

use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;

use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, de};
use toml::Spanned;

use super::source::Span;

/// A value and its place.
#[derive(Clone)]
pub struct At<T> {
    pub value: T,
    pub span: Span,
}

/// What is written as text. An error is one line that says what is wrong, and may have a second line that helps.
pub trait FromText: Sized {
    /// What belongs there, for someone who wrote a number.
    const WHAT: &'static str;

    fn from_text(text: &str) -> Result<Self, String>;
}

struct Leaf<T>(T);

impl<'de, T: FromText> Deserialize<'de> for Leaf<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Through a visitor, because only then the error has the place of the value and not of the list that holds it.
        deserializer.deserialize_str(LeafVisitor(PhantomData)).map(Leaf)
    }
}

struct LeafVisitor<T>(PhantomData<T>);

impl<T: FromText> Visitor<'_> for LeafVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::WHAT)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text).map_err(E::custom)
    }
}

impl<'de, T: FromText> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Leaf<T>>::deserialize(deserializer)?;
        let span = spanned.span().into();
        Ok(Self { value: spanned.into_inner().0, span })
    }
}

impl FromText for String {
    const WHAT: &'static str = "a text";

    fn from_text(text: &str) -> Result<Self, String> {
        match text.len() {
            0 => Err("this is empty".to_owned()),
            1..=4096 => Ok(text.to_owned()),
            _ => Err("this is longer than 4096 octets".to_owned()),
        }
    }
}

impl FromText for PathBuf {
    const WHAT: &'static str = "a path";

    fn from_text(text: &str) -> Result<Self, String> {
        if text.contains('\0') {
            return Err("a path can't hold NUL".to_owned());
        }
        String::from_text(text).map(Self::from)
    }
}

/// Either a text or a table: a short form for the common case.
pub(crate) fn text_or_table<'de, D, T, W>(
    deserializer: D,
    what: &'static str,
    text: impl FnOnce(&str) -> Result<T, String>,
    table: impl FnOnce(W) -> T,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    W: Deserialize<'de>,
{
    struct Either<A, B, W>(&'static str, A, B, PhantomData<W>);
    impl<'de, T, A, B, W> Visitor<'de> for Either<A, B, W>
    where
        A: FnOnce(&str) -> Result<T, String>,
        B: FnOnce(W) -> T,
        W: Deserialize<'de>,
    {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            (self.1)(text).map_err(E::custom)
        }

        fn visit_map<M: de::MapAccess<'de>>(self, map: M) -> Result<T, M::Error> {
            W::deserialize(de::value::MapAccessDeserializer::new(map)).map(self.2)
        }
    }
    deserializer.deserialize_any(Either(what, text, table, PhantomData))
}
