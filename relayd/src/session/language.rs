//! Language tags: the subset of BCP 47 (RFC 5646 §2.1) that names what people speak.
//!
//! `language[-Script][-REGION][-variant]…`, in canonical case, at most 35 characters. Extensions, private use
//! and grandfathered tags are not taken: they name nothing a listener would choose.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A valid language tag in canonical case: `en`, `pt-BR`, `zh-Hant-TW`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Language(String);

impl Language {
    /// The tag.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Language {
    type Err = LanguageError;

    fn from_str(text: &str) -> Result<Self, LanguageError> {
        if text.len() > MAX_LENGTH {
            return Err(LanguageError);
        }
        let mut parts = text.split('-').peekable();
        let primary = parts.next().filter(|part| alphabetic(part, 2..=3)).ok_or(LanguageError)?;
        let mut tag = primary.to_ascii_lowercase();
        if let Some(script) = parts.next_if(|part| alphabetic(part, 4..=4)) {
            tag.push('-');
            tag.push_str(&script[..1].to_ascii_uppercase());
            tag.push_str(&script[1..].to_ascii_lowercase());
        }
        if let Some(region) = parts.next_if(|part| is_region(part)) {
            tag.push('-');
            tag.push_str(&region.to_ascii_uppercase());
        }
        for variant in parts {
            if !is_variant(variant) {
                return Err(LanguageError);
            }
            tag.push('-');
            tag.push_str(&variant.to_ascii_lowercase());
        }
        Ok(Self(tag))
    }
}

impl TryFrom<String> for Language {
    type Error = LanguageError;

    fn try_from(text: String) -> Result<Self, LanguageError> {
        text.parse()
    }
}

impl From<Language> for String {
    fn from(language: Language) -> Self {
        language.0
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Not a language tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a language tag such as \"en\", \"pt-BR\" or \"zh-Hant\" (BCP 47)")]
pub struct LanguageError;

/// The longest tag, as RFC 5646 §4.4.1 asks implementations to take at least.
const MAX_LENGTH: usize = 35;

fn alphabetic(part: &str, length: std::ops::RangeInclusive<usize>) -> bool {
    length.contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphabetic())
}

fn is_region(part: &str) -> bool {
    alphabetic(part, 2..=2) || (part.len() == 3 && part.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_variant(part: &str) -> bool {
    let alphanumeric = part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let digit_first = part.as_bytes().first().is_some_and(u8::is_ascii_digit);
    alphanumeric && ((5..=8).contains(&part.len()) || (part.len() == 4 && digit_first))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tags_are_read_in_any_case_and_kept_in_canonical_case() {
        for (text, tag) in [
            ("en", "en"),
            ("EN", "en"),
            ("pt-br", "pt-BR"),
            ("ZH-hANT-tw", "zh-Hant-TW"),
            ("es-419", "es-419"),
            ("haw", "haw"),
            ("sl-ROZAJ-Biske", "sl-rozaj-biske"),
            ("de-1996", "de-1996"),
            ("sr-latn", "sr-Latn"),
        ] {
            assert_eq!(text.parse::<Language>().map(|language| language.to_string()).as_deref(), Ok(tag));
        }
    }

    #[test]
    fn what_is_not_a_tag_is_refused() {
        for text in [
            "",
            "e",
            "english",
            "en_US",
            "en-",
            "-en",
            "en--US",
            "x-private",
            "en-x-lab",
            "en-u-ca-greg",
            "e1",
            "é",
            "en-US-",
            "en US",
            "i-klingon",
            "12",
            "en-USA1",
            "../en",
            "en%00",
            "de-abcdefgh-abcdefgh-abcdefgh-abcdefgh",
        ] {
            assert!(text.parse::<Language>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_canonical_tags_are_fixed_points(text in "\\PC{0,40}") {
            if let Ok(language) = text.parse::<Language>() {
                prop_assert_eq!(language.as_str().parse::<Language>().unwrap(), language.clone());
            }
        }

        #[test]
        fn tags_by_the_grammar_are_taken(text in "[a-zA-Z]{2,3}(-[a-zA-Z]{4})?(-[a-zA-Z]{2}|-[0-9]{3})?(-[a-z0-9]{5,8})?") {
            prop_assert!(text.parse::<Language>().is_ok());
        }
    }
}
