//! The threads that handshakes run on: a join's signatures and key agreement cost more than a hundred packets of a speaker.
//!
//! The stack of a connection that is not up yet lives here, always on the same thread, so that its datagrams are taken
//! in their order. What it wants done goes back to the plane, and when it is up, or over, so does the stack itself.
//!
//! Bounds: each thread's queue has a fixed length; a join that finds it full is refused, a datagram is dropped and comes
//! again. No connection has more than [`SHARE`] datagrams in it, whatever is sent in its name. What comes back waits for
//! the plane, which waits for nobody. A stack whose connection is gone is dropped within [`TICK`].

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use tokio::sync::mpsc;

use super::keys::Identity;
use super::offer::IceCredentials;
use super::stack::{Datagram, Effect, Listener, SharedPublisher, Stack, StackError};

/// The plane's side of the threads, which end when it is dropped.
pub(super) struct Handshakes {
    threads: Vec<Sender<Work>>,
    /// The most datagrams of one connection that wait.
    share: usize,
}

/// Held by a connection whose stack is here, which goes when it does; counts its datagrams that wait.
#[derive(Debug, Default)]
pub(super) struct Owner(AtomicUsize);

/// Names a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) slot: usize,
    pub(super) generation: u64,
}

/// What becomes a stack.
pub(super) enum Seed {
    /// A listener's, of the peer with this certificate.
    Listener {
        fingerprint: [u8; 32],
    },
    Publisher(Arc<SharedPublisher>),
}

/// What a stack here wants done.
pub(super) struct News {
    pub(super) key: Key,
    pub(super) effects: Vec<Effect>,
    pub(super) result: Result<(), StackError>,
    /// The stack itself, when it is up.
    pub(super) stack: Option<Stack>,
}

/// Something for one stack.
enum Work {
    Start { key: Key, seed: Seed, owner: Weak<Owner> },
    Datagram { key: Key, owner: Arc<Owner>, source: SocketAddr, destination: SocketAddr, bytes: Box<[u8]> },
    Restart { key: Key },
    RestartIce { key: Key, local: IceCredentials, remote: IceCredentials },
}

/// How often flights are looked at that may have to be sent again, and stacks whose connection may be gone.
const TICK: Duration = Duration::from_millis(100);
/// The most datagrams of one connection in a queue that is long enough: two flights and their copies.
const SHARE: usize = 16;
/// What may wait to be taken by the plane; the threads wait then.
const NEWS: usize = 1024;

impl Handshakes {
    /// Starts so many threads, at least one, each with room for so much work.
    pub(super) fn spawn(
        identity: &Identity,
        threads: usize,
        queue: usize,
    ) -> io::Result<(Self, mpsc::Receiver<News>)> {
        let (news, receiver) = mpsc::channel(NEWS);
        let start = |number| {
            let (sender, work) = bounded(queue.max(1));
            let mut thread =
                Thread { identity: identity.clone(), work, news: news.clone(), stacks: BTreeMap::new() };
            let name = format!("handshake-{number}");
            std::thread::Builder::new().name(name).spawn(move || thread.run())?;
            Ok(sender)
        };
        let threads = (0..threads.max(1)).map(start).collect::<io::Result<_>>()?;
        Ok((Self { threads, share: share(queue) }, receiver))
    }

    /// Takes in a stack that is not up yet. False if the queue is full.
    #[must_use]
    pub(super) fn start(&self, key: Key, seed: Seed, owner: &Arc<Owner>) -> bool {
        self.give(key, Work::Start { key, seed, owner: Arc::downgrade(owner) })
    }

    /// Hands in a datagram. False if the queue is full, or the connection's share of it.
    #[must_use]
    pub(super) fn datagram(&self, key: Key, owner: &Arc<Owner>, datagram: Datagram<'_>) -> bool {
        let Datagram { source, destination, bytes } = datagram;
        if owner.0.load(Ordering::Relaxed) >= self.share {
            return false;
        }
        owner.0.fetch_add(1, Ordering::Relaxed);
        let owner = owner.clone();
        self.give(key, Work::Datagram { key, owner, source, destination, bytes: bytes.into() })
    }

    /// Has a handshake start over. False if the queue is full.
    #[must_use]
    pub(super) fn restart(&self, key: Key) -> bool {
        self.give(key, Work::Restart { key })
    }

    /// Has a publisher's ICE start over. False if the queue is full.
    #[must_use]
    pub(super) fn restart_ice(&self, key: Key, local: &IceCredentials, remote: &IceCredentials) -> bool {
        self.give(key, Work::RestartIce { key, local: local.clone(), remote: remote.clone() })
    }

    /// What waits in all queues.
    pub(super) fn waiting(&self) -> usize {
        self.threads.iter().map(Sender::len).sum()
    }

    /// Threads that take nothing, one with so much room.
    #[cfg(test)]
    pub(super) fn stalled(queue: usize) -> (Self, impl Drop) {
        struct Held(#[expect(dead_code, reason = "it keeps the queue open")] Receiver<Work>);
        impl Drop for Held {
            fn drop(&mut self) {}
        }
        let (sender, work) = bounded(queue);
        (Self { threads: vec![sender], share: share(queue) }, Held(work))
    }

    fn give(&self, key: Key, work: Work) -> bool {
        match self.threads[key.slot % self.threads.len()].try_send(work) {
            Err(TrySendError::Full(refused)) => {
                refused.done();
                false
            }
            // A thread that has ended has panicked outside the wall; its joins time out.
            Ok(()) | Err(TrySendError::Disconnected(_)) => true,
        }
    }
}

/// The most datagrams of one connection in a queue of this length.
fn share(queue: usize) -> usize {
    (queue / 4).clamp(1, SHARE)
}

impl Work {
    /// It waits no more.
    fn done(&self) {
        if let Self::Datagram { owner, .. } = self {
            owner.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// One thread's state.
struct Thread {
    identity: Identity,
    work: Receiver<Work>,
    news: mpsc::Sender<News>,
    stacks: BTreeMap<Key, Hosted>,
}

struct Hosted {
    stack: Stack,
    owner: Weak<Owner>,
}

impl Thread {
    fn run(&mut self) {
        let mut tick = Instant::now() + TICK;
        loop {
            let next = if self.stacks.is_empty() {
                self.work.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                self.work.recv_deadline(tick)
            };
            let now = Instant::now();
            let told = match next {
                Ok(work) => self.take(now, work),
                Err(RecvTimeoutError::Timeout) => true,
                Err(RecvTimeoutError::Disconnected) => false,
            };
            let due = now >= tick;
            if due {
                tick = now + TICK;
            }
            if !told || due && !self.tick(now) {
                return;
            }
        }
    }

    /// False when nobody is left to be told.
    fn take(&mut self, now: Instant, work: Work) -> bool {
        work.done();
        let mut effects = Vec::new();
        let (key, result) = match work {
            Work::Start { key, seed, owner } => {
                if owner.strong_count() == 0 {
                    return true;
                }
                let stack = match seed {
                    Seed::Publisher(stack) => Ok(Stack::Publisher(stack)),
                    Seed::Listener { fingerprint } => Listener::new(now, &self.identity, fingerprint)
                        .map(|stack| Stack::Listener(Box::new(stack))),
                };
                match stack {
                    Ok(stack) => {
                        self.stacks.insert(key, Hosted { stack, owner });
                        return true;
                    }
                    Err(error) => (key, Err(error)),
                }
            }
            Work::Datagram { key, owner: _, source, destination, bytes } => {
                let Some(hosted) = self.stacks.get_mut(&key) else { return true };
                let datagram = Datagram { source, destination, bytes: &bytes };
                (key, hosted.stack.receive(now, datagram, &mut effects))
            }
            Work::Restart { key } => {
                let Some(hosted) = self.stacks.get_mut(&key) else { return true };
                (key, hosted.stack.restart_dtls(now, &mut effects))
            }
            Work::RestartIce { key, local, remote } => {
                let Some(Stack::Publisher(stack)) = self.stacks.get_mut(&key).map(|hosted| &mut hosted.stack)
                else {
                    return true;
                };
                (key, stack.with(|stack| stack.restart_ice(&local, &remote, &mut effects)))
            }
        };
        self.tell(key, effects, result)
    }

    /// Serves the stacks' own deadlines.
    fn tick(&mut self, now: Instant) -> bool {
        self.stacks.retain(|_, hosted| hosted.owner.strong_count() > 0);
        let due: Vec<Key> = self
            .stacks
            .iter()
            .filter(|(_, hosted)| hosted.stack.deadline() <= now)
            .map(|(key, _)| *key)
            .collect();
        due.into_iter().all(|key| {
            let Some(hosted) = self.stacks.get_mut(&key) else { return true };
            let mut effects = Vec::new();
            let result = hosted.stack.handle_timeout(now, &mut effects);
            self.tell(key, effects, result)
        })
    }

    fn tell(&mut self, key: Key, effects: Vec<Effect>, result: Result<(), StackError>) -> bool {
        let up = effects.iter().any(|effect| matches!(effect, Effect::Connected));
        let over = matches!(result, Err(StackError::Dead(_) | StackError::Panicked));
        let hosted = if up || over { self.stacks.remove(&key) } else { None };
        if effects.is_empty() && result.is_ok() {
            return true;
        }
        let stack = hosted.filter(|_| up && !over).map(|hosted| hosted.stack);
        self.news.blocking_send(News { key, effects, result, stack }).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key { slot: 0, generation: 1 };

    fn junk() -> Datagram<'static> {
        let address = SocketAddr::from(([192, 0, 2, 1], 7));
        Datagram { source: address, destination: address, bytes: &[22, 254, 253] }
    }

    #[test]
    fn what_is_sent_in_one_name_leaves_room_for_others() {
        let (handshakes, _held) = Handshakes::stalled(64);
        let (flooded, other) = (Arc::new(Owner::default()), Arc::new(Owner::default()));
        assert!(handshakes.start(KEY, Seed::Listener { fingerprint: [0; 32] }, &flooded));
        let taken = (0..5_000).filter(|_| handshakes.datagram(KEY, &flooded, junk())).count();
        assert_eq!(taken, SHARE);
        let joins =
            (0..100).filter(|_| handshakes.start(KEY, Seed::Listener { fingerprint: [0; 32] }, &other));
        assert_eq!(joins.count(), 64 - 1 - SHARE);
        assert!(!handshakes.datagram(KEY, &other, junk()), "now it is full");
        assert_eq!(other.0.load(Ordering::Relaxed), 0, "what is refused does not wait");
    }

    #[test]
    fn what_has_no_owner_any_more_is_not_kept() {
        let identity = Identity::generate().unwrap();
        let (news, _receiver) = mpsc::channel(1);
        let (_sender, work) = bounded(1);
        let mut thread = Thread { identity, work, news, stacks: BTreeMap::new() };
        let (now, owner) = (Instant::now(), Arc::new(Owner::default()));
        let start = |owner: &Arc<Owner>| Work::Start {
            key: KEY,
            seed: Seed::Listener { fingerprint: [0; 32] },
            owner: Arc::downgrade(owner),
        };
        assert!(thread.take(now, start(&owner)));
        assert!(thread.tick(now) && thread.stacks.len() == 1);
        let late = start(&owner);
        drop(owner);
        assert!(thread.tick(now) && thread.stacks.is_empty());
        assert!(thread.take(now, late) && thread.stacks.is_empty());
    }
}
