//! Resume tickets: what a client comes back with, instead of a token that may be over or asked for anew.
//!
//! A ticket is 32 random bytes, kept as a hash. It is good while its socket is there and `window` longer; whoever
//! comes with it meanwhile takes the older socket's place. A ticket grants what its caller may do, no more: the
//! caller is judged again each time. Memory: at most `max` entries of some 500 bytes; beyond, the one unused for
//! longest goes, and when all are in use a new one is not remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::sync::watch;

use crate::auth::Caller;
use crate::session::SessionId;

/// Every ticket of a relay. Clones share them.
#[derive(Debug, Clone)]
pub struct Tickets {
    shared: Arc<Shared>,
}

impl Tickets {
    /// No tickets.
    pub fn new(window: Duration, max: usize) -> Self {
        Self { shared: Arc::new(Shared { window, max, state: Mutex::default() }) }
    }

    /// A new ticket for this caller in this session.
    pub fn issue(&self, now: Instant, session: SessionId, caller: Caller) -> Ticket {
        let text = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        let hash = hash(&text);
        let mut state = self.shared.state();
        state.forget(now, self.shared.window);
        if state.entries.len() >= self.shared.max
            && let Some((_, unused)) = state.unused.pop_first()
        {
            state.entries.remove(&unused);
        }
        let (holder, ticket) = state.hold(&self.shared, text, hash);
        if state.entries.len() < self.shared.max {
            state.entries.insert(hash, Entry { session, caller, holder: Ok(holder) });
        }
        ticket
    }

    /// The ticket of this text, if it is one for this session, and whose it is. Its older holder is told.
    pub fn resume(&self, now: Instant, session: &str, text: &str) -> Option<(Ticket, Caller)> {
        let hash = hash(text);
        let mut state = self.shared.state();
        state.forget(now, self.shared.window);
        state.entries.get(&hash).filter(|entry| entry.session.as_str() == session)?;
        let (holder, ticket) = state.hold(&self.shared, text.to_owned(), hash);
        let entry = state.entries.get_mut(&hash)?;
        let caller = entry.caller.clone();
        match std::mem::replace(&mut entry.holder, Ok(holder)) {
            Ok(older) => drop(older.taken_over.send_replace(true)),
            Err(since) => drop(state.unused.remove(&(since, hash))),
        }
        Some((ticket, caller))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.shared.state().entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A ticket in use; dropping it begins the time in which it may be used again.
pub struct Ticket {
    shared: Arc<Shared>,
    hash: Hash,
    serial: u64,
    text: String,
    taken_over: watch::Receiver<bool>,
}

impl Ticket {
    /// What the client is told.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Resolves when somebody else has come with it.
    pub async fn taken_over(&self) {
        let mut taken_over = self.taken_over.clone();
        if taken_over.wait_for(|taken_over| *taken_over).await.is_err() {
            // Not remembered: nobody can come with it.
            std::future::pending::<()>().await;
        }
    }

    /// The caller has shown a newer token.
    pub fn renew(&self, caller: Caller) {
        if let Some(entry) = self.shared.state().held(&self.hash, self.serial) {
            entry.caller = caller;
        }
    }

    fn release(&self, now: Instant) {
        let mut state = self.shared.state();
        if let Some(entry) = state.held(&self.hash, self.serial) {
            entry.holder = Err(now);
            state.unused.insert((now, self.hash));
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.release(Instant::now());
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("serial", &self.serial).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Shared {
    window: Duration,
    max: usize,
    state: Mutex<State>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is complete in itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct State {
    serial: u64,
    entries: BTreeMap<Hash, Entry>,
    /// Those that nobody holds, by when they were given back.
    unused: BTreeSet<(Instant, Hash)>,
}

impl State {
    fn hold(&mut self, shared: &Arc<Shared>, text: String, hash: Hash) -> (Holder, Ticket) {
        self.serial += 1;
        let serial = self.serial;
        let (sender, taken_over) = watch::channel(false);
        let ticket = Ticket { shared: shared.clone(), hash, serial, text, taken_over };
        (Holder { serial, taken_over: sender }, ticket)
    }

    /// The entry, if this serial still holds it.
    fn held(&mut self, hash: &Hash, serial: u64) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(hash)?;
        let holds = entry.holder.as_ref().is_ok_and(|holder| holder.serial == serial);
        holds.then_some(entry)
    }

    fn forget(&mut self, now: Instant, window: Duration) {
        while let Some((since, hash)) = self.unused.first().copied()
            && now.saturating_duration_since(since) >= window
        {
            self.unused.pop_first();
            self.entries.remove(&hash);
        }
    }
}

#[derive(Debug)]
struct Entry {
    session: SessionId,
    caller: Caller,
    /// Who holds it, or since when nobody does.
    holder: Result<Holder, Instant>,
}

#[derive(Debug)]
struct Holder {
    serial: u64,
    taken_over: watch::Sender<bool>,
}

type Hash = [u8; 32];

fn hash(text: &str) -> Hash {
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    fn demo() -> SessionId {
        SessionId::demo()
    }

    fn is_taken_over(ticket: &Ticket) -> bool {
        *ticket.taken_over.borrow()
    }

    #[test]
    fn a_ticket_is_good_while_held_and_a_minute_longer() {
        let now = Instant::now();
        let tickets = Tickets::new(WINDOW, 10);
        let ticket = tickets.issue(now, demo(), Caller::Open);
        let text = ticket.text().to_owned();
        assert_eq!(text.len(), 43);
        ticket.release(now);
        let (again, caller) = tickets.resume(now + Duration::from_secs(59), "demo", &text).expect("in time");
        assert!(matches!(caller, Caller::Open));
        assert_eq!(again.text(), text, "the ticket stays the same");
        let much_later = now + Duration::from_secs(3600);
        again.release(much_later);
        assert!(tickets.resume(much_later + WINDOW, "demo", &text).is_none(), "too late");
        assert!(tickets.is_empty() && tickets.shared.state().unused.is_empty());
    }

    #[test]
    fn whoever_comes_with_it_takes_the_older_ones_place() {
        let now = Instant::now();
        let tickets = Tickets::new(WINDOW, 10);
        let first = tickets.issue(now, demo(), Caller::Anonymous);
        let (second, _) = tickets.resume(now, "demo", first.text()).unwrap();
        assert!(is_taken_over(&first) && !is_taken_over(&second));
        drop(first);
        assert!(tickets.shared.state().unused.is_empty(), "the newer one holds it still");
        assert!(tickets.resume(now, "demo", second.text()).is_some());
    }

    #[test]
    fn what_is_no_ticket_of_the_session_is_none() {
        let now = Instant::now();
        let tickets = Tickets::new(WINDOW, 10);
        let ticket = tickets.issue(now, demo(), Caller::Open);
        assert!(tickets.resume(now, "golden-eagle-427", ticket.text()).is_none());
        assert!(tickets.resume(now, "demo", "").is_none());
        assert!(tickets.resume(now, "demo", &"a".repeat(60_000)).is_none());
        assert!(!is_taken_over(&ticket));
    }

    #[test]
    fn there_are_only_so_many() {
        let now = Instant::now();
        let tickets = Tickets::new(WINDOW, 3);
        let held: Vec<Ticket> = (0..5).map(|_| tickets.issue(now, demo(), Caller::Open)).collect();
        assert_eq!(tickets.len(), 3);
        assert!(tickets.resume(now, "demo", held[4].text()).is_none(), "all were in use");
        held[1].release(now);
        let newest = tickets.issue(now, demo(), Caller::Open);
        assert_eq!(tickets.len(), 3);
        assert!(tickets.resume(now, "demo", held[1].text()).is_none(), "its place was needed");
        assert!(tickets.resume(now, "demo", newest.text()).is_some());
        drop(held);
        drop(newest);
        assert_eq!(tickets.len(), 3);
    }
}
