//! The TOML file as a flat list of keys and raw values, each with its line.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Origin};
use super::value::Raw;

/// One key of the file.
#[derive(Debug)]
pub(super) struct Entry {
    /// The dotted key.
    pub key: String,
    /// Its value, not yet of a type.
    pub value: Raw,
    /// Where it stands.
    pub origin: Origin,
}

/// Reads the text of a file.
pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<Entry>, ConfigError> {
    let document = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        line: error.span().map_or(1, |span| line_of(text, span.start)),
        message: error.message().lines().collect::<Vec<_>>().join(", "),
    })?;
    let mut entries = Vec::new();
    let origin = |offset: usize| Origin::File { path: path.to_owned(), line: line_of(text, offset) };
    for (section, content) in document.get_ref() {
        let name = section.get_ref();
        let DeValue::Table(keys) = content.get_ref() else {
            let value = raw(content);
            entries.push(Entry { key: name.to_string(), value, origin: origin(section.span().start) });
            continue;
        };
        if keys.is_empty() && !super::KEYS.iter().any(|key| key.path.split('.').next() == Some(name.as_ref()))
        {
            entries.push(Entry {
                key: name.to_string(),
                value: Raw::Other("a table"),
                origin: origin(section.span().start),
            });
        }
        for (key, value) in keys {
            let path = format!("{name}.{}", key.get_ref());
            entries.push(Entry { key: path, value: raw(value), origin: origin(key.span().start) });
        }
    }
    Ok(entries)
}

fn raw(value: &Spanned<DeValue<'_>>) -> Raw {
    match value.get_ref() {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(integer) => i64::from_str_radix(&integer.as_str().replace('_', ""), integer.radix())
            .map_or(Raw::Other("an integer out of range"), Raw::Integer),
        DeValue::Boolean(value) => Raw::Boolean(*value),
        DeValue::Array(items) => {
            let texts: Option<Vec<String>> =
                items.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect();
            texts.map_or(Raw::Other("an array of something else than strings"), Raw::List)
        }
        DeValue::Float(_) => Raw::Other("a float"),
        DeValue::Datetime(_) => Raw::Other("a date"),
        DeValue::Table(_) => Raw::Other("a table"),
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}
