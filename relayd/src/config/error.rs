//! What can be wrong with a configuration, told so that the reader knows where and what to do.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use thiserror::Error;

/// Where a setting came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A line of the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable, by its name.
    Environment(String),
    /// A flag of the command line, as typed.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// A configuration that cannot be used. The message is the user interface.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file is missing or cannot be read.
    #[error("cannot read the configuration file {}: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The file is not TOML.
    #[error("{}:{line}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What the parser expected.
        message: String,
    },
    /// Nobody knows this key.
    #[error("{origin}: unknown key `{key}`{}", did_you_mean(nearest.as_deref()))]
    UnknownKey {
        /// Where it stands.
        origin: Origin,
        /// The key as written.
        key: String,
        /// The known key that is most like it.
        nearest: Option<String>,
    },
    /// A value of the wrong type or form.
    #[error("{origin}: `{key}` is {found}, but must be {expected}")]
    WrongValue {
        /// Where it stands.
        origin: Origin,
        /// The key.
        key: String,
        /// The value as written.
        found: String,
        /// What it must be.
        expected: &'static str,
    },
    /// A limit too small to work with.
    #[error("`{key}` is {value}, but must be at least {least}")]
    TooSmall {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
        /// The smallest value that works.
        least: String,
    },
    /// A limit too large to keep.
    #[error("`{key}` is {value}, but must be at most {most}")]
    TooLarge {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
        /// The largest value that works.
        most: String,
    },
    /// A value of the right type that means nothing.
    #[error("`{key}` is {value:?}, but {reason}")]
    Meaningless {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
        /// What it must be.
        reason: String,
    },
    /// Two settings that do not go together, or one that another needs.
    #[error("{0}")]
    Conflict(&'static str),
    /// An address that others can reach, while everybody who can reach it may do everything.
    #[error(
        "`{key}` is {address}, which is not a loopback address, and no tokens are configured (`auth.mode` is \"open\"): \
         anyone who can reach it could create and end sessions and speak in them. Use a loopback address \
         (127.0.0.1:{}) and let a reverse proxy or an SSH tunnel that authenticates forward to it, or set `auth.mode` \
         to \"token\" with a key: `relayd token secret` makes one",
        address.port()
    )]
    NotLoopback {
        /// The key.
        key: &'static str,
        /// The address.
        address: SocketAddr,
    },
}

fn did_you_mean(nearest: Option<&str>) -> String {
    match nearest {
        Some(nearest) => format!("; did you mean `{nearest}`?"),
        None => "; `relayd print-config` lists every key".to_owned(),
    }
}
