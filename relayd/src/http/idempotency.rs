//! `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): the same request again gets the same answer.
//!
//! Invariant: for one caller and key at most one request is at work or answered at any time. A request that comes
//! to nothing leaves no trace, so that it can be tried again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName};

use super::problem::{Code, Problem};
use crate::auth::{Caller, Subject};

/// Requests by key, for [`KEPT`].
#[derive(Debug, Clone, Default)]
pub(super) struct Idempotency {
    entries: Arc<Mutex<BTreeMap<Name, Entry>>>,
}

/// A caller's key. Callers without a token are one caller.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    subject: Option<Subject>,
    key: String,
}

#[derive(Debug)]
struct Entry {
    hash: [u8; 32],
    since: Instant,
    /// `None` while the request is at work.
    answer: Option<Answer>,
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// Header `Location`.
    pub location: String,
    /// The body, JSON.
    pub body: Bytes,
}

/// What to do with a request.
#[derive(Debug)]
pub(super) enum Begun {
    /// It is new: do it, and tell the guard.
    Fresh(InFlight),
    /// It has been answered.
    Again(Answer),
}

impl Idempotency {
    /// A request of this caller with this key and body.
    pub(super) fn begin(
        &self,
        now: Instant,
        caller: &Caller,
        key: &str,
        body: &[u8],
    ) -> Result<Begun, Problem> {
        let name = Name { subject: caller.subject().cloned(), key: key.to_owned() };
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body);
        let hash: [u8; 32] = digest.as_ref().try_into().expect("SHA-256 has 32 bytes");
        let mut entries = self.entries();
        if let Some(entry) = entries.get(&name).filter(|entry| entry.is_kept(now)) {
            return match &entry.answer {
                _ if entry.hash != hash => Err(Problem::new(Code::IdempotencyKeyReused, REUSED)),
                Some(answer) => Ok(Begun::Again(answer.clone())),
                None => Err(Problem::new(Code::RequestInFlight, IN_FLIGHT)),
            };
        }
        if is_crowded(&entries, &name.subject) {
            entries.retain(|_, entry| entry.is_kept(now));
        }
        if is_crowded(&entries, &name.subject) {
            return Err(Problem::new(Code::Capacity, "too many idempotency keys are remembered"));
        }
        entries.insert(name.clone(), Entry { hash, since: now, answer: None });
        Ok(Begun::Fresh(InFlight { store: self.clone(), name: Some(name) }))
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<Name, Entry>> {
        // Every change under the lock is complete in itself.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether one more of this caller is too many.
fn is_crowded(entries: &BTreeMap<Name, Entry>, subject: &Option<Subject>) -> bool {
    let first = Name { subject: subject.clone(), key: String::new() };
    let own = entries.range(first..).take_while(|(name, _)| name.subject == *subject);
    entries.len() >= MAX_ENTRIES || own.count() >= MAX_PER_CALLER
}

impl Entry {
    fn is_kept(&self, now: Instant) -> bool {
        self.answer.is_none() || now.saturating_duration_since(self.since) < KEPT
    }
}

/// A request at work; dropped without an answer, it is as if it had not been.
#[derive(Debug)]
pub(super) struct InFlight {
    store: Idempotency,
    name: Option<Name>,
}

impl InFlight {
    /// It was answered.
    pub(super) fn done(mut self, now: Instant, answer: Answer) {
        let Some(name) = self.name.take() else { return };
        if let Some(entry) = self.store.entries().get_mut(&name) {
            entry.since = now;
            entry.answer = Some(answer);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            self.store.entries().remove(&name);
        }
    }
}

/// The key of a request, if it has one.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let bad = || {
        let detail =
            format!("Idempotency-Key must be there once, as 1 to {MAX_KEY} visible ASCII characters");
        Problem::field("Idempotency-Key", detail)
    };
    let text = value.to_str().map_err(|_| bad())?;
    let fits = (1..=MAX_KEY).contains(&text.len()) && values.next().is_none();
    if fits { Ok(Some(text.to_owned())) } else { Err(bad()) }
}

pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REUSED: &str = "the key came with another body before; a new request takes a new key";
const IN_FLIGHT: &str = "the same request is still being answered; ask again in a moment";
/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(600);
/// Keys at one time. Memory: the key and the answer, about 2 KiB each.
const MAX_ENTRIES: usize = 10_000;
/// Of them, those of one caller: nobody takes the room of all.
const MAX_PER_CALLER: usize = 1000;
/// The longest key, in bytes.
const MAX_KEY: usize = 255;

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;
    use crate::auth::{Grant, Role, Scope};

    fn answer(location: &str) -> Answer {
        Answer { location: location.into(), body: Bytes::from_static(b"{}") }
    }

    fn status(begun: Result<Begun, Problem>) -> u16 {
        begun.unwrap_err().into_response().status().as_u16()
    }

    #[test]
    fn the_same_request_gets_the_same_answer_for_ten_minutes() {
        let store = Idempotency::default();
        let (now, caller) = (Instant::now(), Caller::Open);
        let Ok(Begun::Fresh(work)) = store.begin(now, &caller, "k", b"a") else { panic!("it is new") };
        assert_eq!(status(store.begin(now, &caller, "k", b"a")), 409, "still at work");
        assert_eq!(status(store.begin(now, &caller, "k", b"b")), 422);
        work.done(now, answer("/1"));
        let again = |after| store.begin(now + Duration::from_secs(after), &caller, "k", b"a");
        assert!(matches!(again(599), Ok(Begun::Again(told)) if told == answer("/1")));
        assert_eq!(status(store.begin(now, &caller, "k", b"b")), 422);
        assert!(matches!(store.begin(now, &caller, "other", b"a"), Ok(Begun::Fresh(_))));
        assert!(matches!(again(600), Ok(Begun::Fresh(_))), "and then it is forgotten");
    }

    #[test]
    fn a_request_that_came_to_nothing_may_be_tried_again() {
        let store = Idempotency::default();
        let now = Instant::now();
        for _ in 0..3 {
            let begun = store.begin(now, &Caller::Open, "k", b"a").unwrap();
            assert!(matches!(begun, Begun::Fresh(_)));
        }
        assert!(store.entries().is_empty());
    }

    #[test]
    fn keys_are_bounded_and_room_is_made_of_what_is_old() {
        let store = Idempotency::default();
        let now = Instant::now();
        let fill = |caller: &Caller| {
            for n in 0..MAX_PER_CALLER {
                match store.begin(now, caller, &n.to_string(), b"").unwrap() {
                    Begun::Fresh(work) => work.done(now, answer("/1")),
                    Begun::Again(_) => panic!("{n} is new"),
                }
            }
            assert_eq!(status(store.begin(now, caller, "one more", b"")), 503);
        };
        fill(&Caller::Open);
        for n in 1..MAX_ENTRIES / MAX_PER_CALLER {
            fill(&token(&n.to_string()));
        }
        assert_eq!(status(store.begin(now, &token("nobody yet"), "first", b"")), 503, "full in all");
        assert!(store.begin(now + KEPT, &token("nobody yet"), "first", b"").is_ok());
        assert!(store.entries().is_empty());
    }

    fn token(subject: &str) -> Caller {
        let subject = Subject { issuer: "issuer".into(), subject: subject.into() };
        Caller::Token(Arc::new(Grant {
            subject,
            token_id: None,
            role: Role::Speak,
            scope: Scope::Own,
            languages: None,
            takeover: false,
            expires: Instant::now(),
        }))
    }

    #[test]
    fn a_key_is_one_short_visible_text() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(IDEMPOTENCY_KEY, value.parse().unwrap());
            }
            key(&headers)
        };
        assert_eq!(read(&[]), Ok(None));
        let longest = "x".repeat(255);
        assert_eq!(read(&[&longest]), Ok(Some(longest)));
        for bad in [&["x".repeat(256).as_str()][..], &[""], &["a", "b"]] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
