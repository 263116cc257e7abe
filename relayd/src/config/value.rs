//! The types a setting may have, and how each is read from the file, the environment or a flag.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// A value as written, before its key says what it must be.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Raw {
    /// Untyped text of the environment or of a flag.
    Word(String),
    /// A TOML string.
    Text(String),
    /// A TOML integer.
    Integer(i64),
    /// A TOML boolean.
    Boolean(bool),
    /// A TOML array of strings.
    List(Vec<String>),
    /// Something no key takes, by its description.
    Other(&'static str),
}

impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(text) | Self::Text(text) => write!(f, "{text:?}"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Boolean(value) => write!(f, "{value}"),
            Self::List(values) => write!(f, "{values:?}"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

/// A type that settings have.
pub(super) trait Setting: Sized {
    /// Whether the value is nobody's to see: not in messages, not in what is printed.
    const SECRET: bool = false;
    /// What a person is told to write.
    const EXPECTED: &'static str;
    /// The value, if it has the right type and form.
    fn read(raw: &Raw) -> Option<Self>;
    /// The value as a TOML literal that reads back to itself.
    fn literal(&self) -> String;
}

impl Setting for SocketAddr {
    const EXPECTED: &'static str = "an IP address and port such as \"127.0.0.1:8080\" or \"[::1]:8080\"";
    fn read(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::Word(text) | Raw::Text(text) => text.parse().ok(),
            _ => None,
        }
    }
    fn literal(&self) -> String {
        format!("\"{self}\"")
    }
}

impl Setting for Duration {
    const EXPECTED: &'static str = "a duration with its unit such as \"500ms\", \"5s\", \"10m\" or \"1h\"";
    fn read(raw: &Raw) -> Option<Self> {
        let (Raw::Word(text) | Raw::Text(text)) = raw else { return None };
        let digits = text.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = text[..digits].parse().ok()?;
        match text[digits..].trim() {
            "ms" => Some(Self::from_millis(number)),
            "s" => Some(Self::from_secs(number)),
            "m" => number.checked_mul(60).map(Self::from_secs),
            "h" => number.checked_mul(3600).map(Self::from_secs),
            _ => None,
        }
    }
    fn literal(&self) -> String {
        let millis = self.as_millis();
        match millis {
            0 => "\"0s\"".into(),
            _ if millis.is_multiple_of(3_600_000) => format!("\"{}h\"", millis / 3_600_000),
            _ if millis.is_multiple_of(60_000) => format!("\"{}m\"", millis / 60_000),
            _ if millis.is_multiple_of(1000) => format!("\"{}s\"", millis / 1000),
            _ => format!("\"{millis}ms\""),
        }
    }
}

/// A size in bytes, written as `64KiB`, `4MiB` or a bare number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(usize);

impl ByteSize {
    /// So many bytes.
    pub const fn new(bytes: usize) -> Self {
        Self(bytes)
    }

    /// So many times 1024 bytes.
    pub const fn kib(kib: usize) -> Self {
        Self(kib * 1024)
    }

    /// The size in bytes.
    pub const fn bytes(self) -> usize {
        self.0
    }
}

impl Setting for ByteSize {
    const EXPECTED: &'static str = "a size such as \"64KiB\", \"4MiB\" or a number of bytes";
    fn read(raw: &Raw) -> Option<Self> {
        let text = match raw {
            Raw::Integer(value) => return usize::try_from(*value).ok().map(Self),
            Raw::Word(text) | Raw::Text(text) => text,
            _ => return None,
        };
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let number: usize = text[..digits].parse().ok()?;
        let unit = match text[digits..].trim() {
            "" | "B" => 1,
            "KiB" => 1024,
            "MiB" => 1024 * 1024,
            _ => return None,
        };
        number.checked_mul(unit).filter(|bytes| fits_toml(*bytes)).map(Self)
    }
    fn literal(&self) -> String {
        match self.0 {
            0 => "0".into(),
            bytes if bytes.is_multiple_of(1024 * 1024) => format!("\"{}MiB\"", bytes / 1024 / 1024),
            bytes if bytes.is_multiple_of(1024) => format!("\"{}KiB\"", bytes / 1024),
            bytes => bytes.to_string(),
        }
    }
}

impl Setting for usize {
    const EXPECTED: &'static str = "a whole number";
    fn read(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::Integer(value) => Self::try_from(*value).ok(),
            Raw::Word(text) => text.parse().ok().filter(|number| fits_toml(*number)),
            _ => None,
        }
    }
    fn literal(&self) -> String {
        self.to_string()
    }
}

/// Whether the file could say this number: TOML's are signed.
fn fits_toml(number: usize) -> bool {
    i64::try_from(number).is_ok()
}

impl Setting for bool {
    const EXPECTED: &'static str = "true or false";
    fn read(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::Boolean(value) => Some(*value),
            Raw::Word(text) => text.parse().ok(),
            _ => None,
        }
    }
    fn literal(&self) -> String {
        self.to_string()
    }
}

impl Setting for String {
    const EXPECTED: &'static str = "a string";
    fn read(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::Word(text) | Raw::Text(text) => Some(text.clone()),
            _ => None,
        }
    }
    fn literal(&self) -> String {
        toml::Value::String(self.clone()).to_string()
    }
}

impl Setting for Vec<String> {
    const EXPECTED: &'static str = "a list of strings (in the environment and in flags: separated by commas)";
    fn read(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::List(values) => Some(values.clone()),
            Raw::Word(text) => Some(
                text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect(),
            ),
            _ => None,
        }
    }
    fn literal(&self) -> String {
        let items: Vec<String> = self.iter().map(Setting::literal).collect();
        format!("[{}]", items.join(", "))
    }
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Setting for LogFormat {
    const EXPECTED: &'static str = "\"text\" or \"json\"";
    fn read(raw: &Raw) -> Option<Self> {
        let (Raw::Word(text) | Raw::Text(text)) = raw else { return None };
        match text.as_str() {
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
    fn literal(&self) -> String {
        match self {
            Self::Text => "\"text\"".into(),
            Self::Json => "\"json\"".into(),
        }
    }
}

/// A value that is used and never shown: not by `Debug`, not by `relayd print-config`, not in messages.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Whether none is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value, for its one use.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "Secret(unset)" } else { "Secret(set)" })
    }
}

impl Setting for Secret {
    const SECRET: bool = true;
    const EXPECTED: &'static str = "a string";
    fn read(raw: &Raw) -> Option<Self> {
        String::read(raw).map(Self)
    }
    fn literal(&self) -> String {
        if self.is_empty() { "\"\"".into() } else { "\"\" # set; not shown".into() }
    }
}

/// The header in which reverse proxies name the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

impl Setting for ForwardedHeader {
    const EXPECTED: &'static str = "\"x-forwarded-for\" or \"forwarded\"";
    fn read(raw: &Raw) -> Option<Self> {
        let (Raw::Word(text) | Raw::Text(text)) = raw else { return None };
        match text.as_str() {
            "x-forwarded-for" => Some(Self::XForwardedFor),
            "forwarded" => Some(Self::Forwarded),
            _ => None,
        }
    }
    fn literal(&self) -> String {
        match self {
            Self::XForwardedFor => "\"x-forwarded-for\"".into(),
            Self::Forwarded => "\"forwarded\"".into(),
        }
    }
}

/// Whether calls take tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMode {
    /// Everybody may do everything; on loopback only.
    Open,
    /// Calls take a JWT.
    Token,
}

impl Setting for AuthMode {
    const EXPECTED: &'static str = "\"open\" or \"token\"";
    fn read(raw: &Raw) -> Option<Self> {
        let (Raw::Word(text) | Raw::Text(text)) = raw else { return None };
        match text.as_str() {
            "open" => Some(Self::Open),
            "token" => Some(Self::Token),
            _ => None,
        }
    }
    fn literal(&self) -> String {
        match self {
            Self::Open => "\"open\"".into(),
            Self::Token => "\"token\"".into(),
        }
    }
}
