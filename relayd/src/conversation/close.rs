//! How a WebSocket is closed by the relay: a code that tells a client what to do, a reason for people.
//!
//! | code | means | what a client does |
//! |---|---|---|
//! | 1009 | a message was too long | does not send that again |
//! | 4000 | the relay failed, or cannot check the token now; the connection is too old, or did not take over in time | backs off, resumes |
//! | 4001 | the first message cannot be read, or something that is no WebSocket message | corrects its code |
//! | 4003 | no `hello` in time, or something else first | comes back, says `hello` |
//! | 4004 | the token, or the ticket, is not taken; or the token has expired | after a `resume`: forgets the ticket and says `hello` with its token; else stops |
//! | 4005 | a second `hello` | corrects its code |
//! | 4006 | there is no such session, or it is over | stops |
//! | 4008 | too many messages, too many failures, or too slow a reader | backs off, resumes |
//! | 4009 | nothing was heard for too long | resumes |
//! | 4010 | another socket came with the same ticket | stops |
//! | 4012 | none of the subprotocols that were offered is spoken here | stops |
//! | 4013 | the relay stops; the reason is where to go, if it knows | comes back at once |
//! | 4015 | the node of the session failed (clusters) | resumes elsewhere |
//!
//! A ticket that nobody knows is 4004, not a reason to back off: waiting does not bring it back. It is not counted
//! as a failed authentication: after a restart every client has such a ticket, and 256 bits are not guessed.

use std::borrow::Cow;

/// Why the relay closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CloseCode {
    /// Answers a close of the client's.
    Normal,
    /// A message is longer than `events.max_message`.
    TooLong,
    /// The relay failed.
    Internal,
    /// What came first cannot be read.
    BadMessage,
    /// Something else than `hello` came first, or nothing.
    NotAuthenticated,
    /// A token or ticket is not taken, or has expired.
    AuthenticationFailed,
    /// A second `hello`.
    AlreadyAuthenticated,
    /// The session is unknown, or over.
    SessionGone,
    /// Too fast a writer, or too slow a reader.
    TooMuch,
    /// Silent for too long.
    HeartbeatTimeout,
    /// The ticket is used by a newer socket.
    TakenOver,
    /// No subprotocol in common.
    Version,
    /// The relay stops.
    Draining,
    /// The node of the session failed.
    NodeFailed,
}

impl CloseCode {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Normal,
        Self::TooLong,
        Self::Internal,
        Self::BadMessage,
        Self::NotAuthenticated,
        Self::AuthenticationFailed,
        Self::AlreadyAuthenticated,
        Self::SessionGone,
        Self::TooMuch,
        Self::HeartbeatTimeout,
        Self::TakenOver,
        Self::Version,
        Self::Draining,
        Self::NodeFailed,
    ];

    /// The number on the wire.
    pub const fn number(self) -> u16 {
        match self {
            Self::Normal => 1000,
            Self::TooLong => 1009,
            Self::Internal => 4000,
            Self::BadMessage => 4001,
            Self::NotAuthenticated => 4003,
            Self::AuthenticationFailed => 4004,
            Self::AlreadyAuthenticated => 4005,
            Self::SessionGone => 4006,
            Self::TooMuch => 4008,
            Self::HeartbeatTimeout => 4009,
            Self::TakenOver => 4010,
            Self::Version => 4012,
            Self::Draining => 4013,
            Self::NodeFailed => 4015,
        }
    }
}

/// A close frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// For programs.
    pub code: CloseCode,
    /// For people; of 4013, where to go. At most [`Close::MAX_REASON`] bytes.
    pub reason: Cow<'static, str>,
}

impl Close {
    /// What a control frame has room for (RFC 6455 §5.5).
    pub const MAX_REASON: usize = 123;

    /// A close; of a reason that is too long, the words that fit, and an ellipsis.
    pub fn new(code: CloseCode, reason: impl Into<Cow<'static, str>>) -> Self {
        let mut reason = reason.into();
        if reason.len() > Self::MAX_REASON {
            let room = Self::MAX_REASON - ELLIPSIS.len_utf8();
            let (fits, rest) = reason.split_at(reason.floor_char_boundary(room));
            let words =
                if rest.starts_with(' ') { fits } else { fits.rsplit_once(' ').unwrap_or((fits, "")).0 };
            reason = format!("{}{ELLIPSIS}", words.trim_end()).into();
        }
        Self { code, reason }
    }

    /// The relay stops; clients go on at `url`, if it is not empty.
    pub fn draining(url: String) -> Self {
        let why = if url.is_empty() { "the relay is stopping".to_owned() } else { url };
        Self::new(CloseCode::Draining, why)
    }
}

const ELLIPSIS: char = '…';

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_distinct_and_may_be_sent() {
        let numbers: BTreeSet<u16> = CloseCode::ALL.iter().map(|code| code.number()).collect();
        assert_eq!(numbers.len(), CloseCode::ALL.len());
        assert!(numbers.iter().all(|number| [1000, 1009].contains(number) || (4000..5000).contains(number)));
    }

    fn cut(reason: impl Into<Cow<'static, str>>) -> String {
        Close::new(CloseCode::Internal, reason).reason.into_owned()
    }

    #[test]
    fn a_reason_that_is_too_long_ends_with_a_whole_word_and_an_ellipsis() {
        assert_eq!(cut("short"), "short");
        let fits = format!("{} {}", "a".repeat(100), "b".repeat(22));
        assert_eq!(cut(fits.clone()), fits);
        assert_eq!(cut(format!("{fits}b")), format!("{}…", "a".repeat(100)));
        // The word before the cut ends just there.
        let exact = format!("{} {}", "a".repeat(100), "b".repeat(19));
        assert_eq!(cut(format!("{exact} and more")), format!("{exact}…"));
        // A word that is longer than all the room is cut between characters.
        assert_eq!(cut("é".repeat(100)), format!("{}…", "é".repeat(60)));
        assert_eq!(cut(format!("{} ü", "€ ".repeat(40))), format!("{}…", ["€"; 30].join(" ")));
        for length in 0..200 {
            for text in ["ä ", "€uro ", "x", "😀", "word "] {
                let reason = text.repeat(length);
                let told = cut(reason.clone());
                assert!(told.len() <= Close::MAX_REASON, "{told}");
                assert!(reason.starts_with(told.trim_end_matches('…')), "{told}");
            }
        }
    }
}
