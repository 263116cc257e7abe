//! How much one client may ask for: rates by address, places by address and token.
//!
//! Invariants: every map has a bound; a place is given back by dropping its guard. IPv6 clients count by /64: an
//! address of their own each costs them nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use ipnet::IpNet;

use super::problem::{Code, Problem};
use crate::auth::{Caller, Role, Subject};
use crate::config;
use crate::session::SessionId;

/// The limits of one listener.
#[derive(Debug)]
pub(super) struct Limits {
    exempt: Vec<IpNet>,
    joins: Rate,
    creates: Rate,
    failures: Rate,
    bans: Mutex<BTreeMap<Net, Instant>>,
    ban: Duration,
    pending: Arc<Pending>,
}

impl Limits {
    /// As configured.
    pub(super) fn new(settings: &config::Limits) -> Self {
        let ranges = settings.exempt.iter().filter_map(|text| config::range(text)).collect();
        let clock = DefaultClock::default();
        let failures = Quota::per_minute(count(settings.failed_auth_per_minute));
        Self {
            exempt: ranges,
            joins: Rate::new(per_second(settings.joins_per_second, settings.joins_burst), clock.clone()),
            creates: Rate::new(
                per_second(settings.creates_per_second, settings.creates_burst),
                clock.clone(),
            ),
            failures: Rate::new(failures, clock),
            bans: Mutex::default(),
            ban: settings.failed_auth_ban,
            pending: Arc::new(Pending {
                per_address: settings.pending_per_address,
                per_token: settings.pending_per_token,
                held: Mutex::default(),
            }),
        }
    }

    /// One more attempt to speak or listen.
    pub(super) fn join(&self, peer: IpAddr) -> Result<(), Limited> {
        if self.is_exempt(peer) { Ok(()) } else { self.joins.take(peer, "joins") }
    }

    /// One more session.
    pub(super) fn create(&self, peer: IpAddr) -> Result<(), Limited> {
        if self.is_exempt(peer) { Ok(()) } else { self.creates.take(peer, "creates") }
    }

    /// A token did not hold. Too many of those, and the address has to wait.
    pub(super) fn auth_failed(&self, now: Instant, peer: IpAddr) {
        if self.is_exempt(peer) || self.failures.take(peer, "failed_auth").is_ok() {
            return;
        }
        let mut bans = lock(&self.bans);
        if bans.len() >= MAX_KEYS {
            bans.retain(|_, until| *until > now);
        }
        if bans.len() < MAX_KEYS {
            bans.insert(Net::of(peer), now + self.ban);
        }
    }

    /// Whether the address has to wait because of tokens that did not hold.
    pub(super) fn check_banned(&self, now: Instant, peer: IpAddr) -> Result<(), Limited> {
        let mut bans = lock(&self.bans);
        let net = Net::of(peer);
        match bans.get(&net).map(|until| until.saturating_duration_since(now)) {
            None => Ok(()),
            Some(left) if left.is_zero() => {
                bans.remove(&net);
                Ok(())
            }
            Some(left) => Err(Limited { limit: "failed_auth", wait: left }),
        }
    }

    /// A place for a connection that is being set up, until the guard is dropped.
    pub(super) fn pending(
        &self,
        peer: IpAddr,
        session: &SessionId,
        caller: &Caller,
    ) -> Result<PendingGuard, Crowded> {
        let mut guard = PendingGuard { pending: self.pending.clone(), keys: Vec::with_capacity(2) };
        if self.is_exempt(peer) {
            return Ok(guard);
        }
        let mut keys = vec![(Key::Address(Net::of(peer)), self.pending.per_address, Crowded::Address)];
        if let Caller::Token(grant) = caller {
            let lease = Key::Lease(session.clone(), grant.subject.clone(), grant.role);
            keys.push((lease, self.pending.per_token, Crowded::Token));
        }
        let mut held = lock(&self.pending.held);
        if let Some((.., crowded)) =
            keys.iter().find(|(key, most, _)| held.get(key).is_some_and(|n| n >= most))
        {
            return Err(*crowded);
        }
        for (key, ..) in keys {
            *held.entry(key.clone()).or_default() += 1;
            guard.keys.push(key);
        }
        Ok(guard)
    }

    fn is_exempt(&self, peer: IpAddr) -> bool {
        self.exempt.iter().any(|range| range.contains(&peer))
    }
}

/// A rate is exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limited {
    /// Which, as a metric's label.
    pub limit: &'static str,
    /// Until it is not.
    pub wait: Duration,
}

impl From<Limited> for Problem {
    fn from(limited: Limited) -> Self {
        let detail = match limited.limit {
            "failed_auth" => "too many tokens from this address did not hold",
            "creates" => "too many sessions from this address in too little time",
            _ => "too many joins from this address in too little time",
        };
        Self::new(Code::RateLimited, detail).after(limited.wait)
    }
}

/// Too many connections are being set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Crowded {
    /// From one address.
    Address,
    /// With tokens of one subject and role, in one session.
    Token,
}

impl Crowded {
    /// As a metric's label.
    pub(super) fn limit(self) -> &'static str {
        match self {
            Self::Address => "pending_per_address",
            Self::Token => "pending_per_token",
        }
    }
}

impl From<Crowded> for Problem {
    fn from(crowded: Crowded) -> Self {
        match crowded {
            Crowded::Address => {
                Self::new(Code::RateLimited, "too many connections from this address are still being set up")
            }
            Crowded::Token => Self::new(
                Code::TooManyPending,
                "too many connections with tokens of this subject are still being set up in this session",
            ),
        }
    }
}

/// Places of connections that are being set up. At most one entry per pending connection and kind.
#[derive(Debug)]
struct Pending {
    per_address: usize,
    per_token: usize,
    held: Mutex<BTreeMap<Key, usize>>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Address(Net),
    Lease(SessionId, Subject, Role),
}

/// The places of one connection that is being set up; dropping it gives them back.
#[derive(Debug)]
pub(super) struct PendingGuard {
    pending: Arc<Pending>,
    keys: Vec<Key>,
}

impl Drop for PendingGuard {
    fn drop(&mut self) {
        let mut held = lock(&self.pending.held);
        for key in &self.keys {
            match held.get_mut(key) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(held.remove(key)),
            }
        }
    }
}

/// One rate, by address.
struct Rate<C: Clock = DefaultClock> {
    limiter: RateLimiter<Net, HashMapStateStore<Net>, C, NoOpMiddleware<C::Instant>>,
    clock: C,
}

impl<C: Clock> std::fmt::Debug for Rate<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rate").field("addresses", &self.limiter.len()).finish_non_exhaustive()
    }
}

impl<C: Clock + Clone> Rate<C> {
    fn new(quota: Quota, clock: C) -> Self {
        Self { limiter: RateLimiter::hashmap_with_clock(quota, clock.clone()), clock }
    }

    fn take(&self, peer: IpAddr, limit: &'static str) -> Result<(), Limited> {
        if self.limiter.len() >= MAX_KEYS {
            self.limiter.retain_recent();
        }
        let crowded = self.limiter.len() >= MAX_KEYS;
        // With that many clients at a time a neighbourhood shares one rate, so that the map stays bounded.
        let net = if crowded { Net::of(peer).neighbourhood() } else { Net::of(peer) };
        let limited = |until: governor::NotUntil<C::Instant>| Limited {
            limit,
            wait: until.wait_time_from(self.clock.now()),
        };
        self.limiter.check_key(&net).map_err(limited)
    }
}

/// What counts as one client: an IPv4 address or an IPv6 /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Net(u128);

impl Net {
    fn of(peer: IpAddr) -> Self {
        let bits = match peer.to_canonical() {
            IpAddr::V4(v4) => return Self(v4.to_ipv6_mapped().to_bits()),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        Self(bits >> 64 << 64)
    }

    /// One of 2^16: an IPv4 /16, or what an IPv6 prefix is folded to.
    fn neighbourhood(self) -> Self {
        let v6 = Ipv6Addr::from_bits(self.0);
        let folded = match v6.to_ipv4_mapped() {
            Some(v4) => u128::from(v4.to_bits() >> 16),
            None => v6.segments()[..3].iter().fold(0, |sum, part| sum ^ u128::from(*part)),
        };
        // ::1:0:0/96 is nobody's, so that no client has such a number.
        Self(1 << 32 | folded)
    }
}

fn count(value: usize) -> NonZeroU32 {
    NonZeroU32::new(u32::try_from(value).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN)
}

fn per_second(rate: usize, burst: usize) -> Quota {
    Quota::per_second(count(rate)).allow_burst(count(burst))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change under a lock is complete in itself.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Clients that are told apart at one time. Memory: about 100 bytes each, per rate.
const MAX_KEYS: usize = 65_536;

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    const FAR: &str = "192.0.2.7";

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn limits(change: impl FnOnce(&mut config::Limits)) -> Limits {
        let mut settings = config::Limits::default();
        change(&mut settings);
        Limits::new(&settings)
    }

    #[test]
    fn a_burst_is_let_through_and_then_the_rate() {
        let clock = FakeRelativeClock::default();
        let rate = Rate::new(per_second(5, 20), clock.clone());
        for _ in 0..20 {
            assert_eq!(rate.take(ip(FAR), "joins"), Ok(()));
        }
        let limited = rate.take(ip(FAR), "joins").unwrap_err();
        assert!(limited.wait > Duration::ZERO && limited.wait <= Duration::from_millis(200), "{limited:?}");
        assert_eq!(rate.take(ip("192.0.2.8"), "joins"), Ok(()), "another address has its own");
        clock.advance(Duration::from_millis(200));
        assert_eq!(rate.take(ip(FAR), "joins"), Ok(()));
        assert!(rate.take(ip(FAR), "joins").is_err());
        clock.advance(Duration::from_secs(60));
        assert!((0..20).all(|_| rate.take(ip(FAR), "joins").is_ok()) && rate.take(ip(FAR), "joins").is_err());
    }

    #[test]
    fn the_map_of_addresses_is_bounded_and_still_limits() {
        let clock = FakeRelativeClock::default();
        let rate = Rate::new(per_second(1, 1), clock.clone());
        for n in 0..u32::try_from(MAX_KEYS).unwrap() + 1000 {
            let _limited = rate.take(IpAddr::from((n + 0x0a00_0000).to_be_bytes()), "joins");
        }
        assert!(rate.limiter.len() <= MAX_KEYS + 2, "{}", rate.limiter.len());
        assert!(rate.take(ip("10.9.9.9"), "joins").is_ok());
        assert!(rate.take(ip("10.9.9.8"), "joins").is_err(), "its neighbour had the one place");
        clock.advance(Duration::from_secs(10));
        assert!(rate.take(ip("10.9.9.8"), "joins").is_ok());
        assert_eq!(rate.limiter.len(), 1, "what is forgotten makes room");
    }

    #[test]
    fn an_ipv6_client_is_its_64() {
        assert_eq!(Net::of(ip("2001:db8::1")), Net::of(ip("2001:db8::ffff:1")));
        assert_ne!(Net::of(ip("2001:db8::1")), Net::of(ip("2001:db8:0:1::1")));
        assert_eq!(Net::of(ip("::ffff:192.0.2.7")), Net::of(ip(FAR)));
        assert_ne!(Net::of(ip(FAR)), Net::of(ip("192.0.2.8")));
        let folded = [FAR, "192.0.9.9", "2001:db8::1", "::1"].map(|text| Net::of(ip(text)).neighbourhood());
        assert_eq!(folded[0], folded[1]);
        assert!(folded.iter().all(|net| net.0 >> 16 == 1 << 16));
    }

    #[test]
    fn whose_tokens_keep_failing_waits_a_minute() {
        let limits = limits(|_| {});
        let (now, peer) = (Instant::now(), ip(FAR));
        for _ in 0..20 {
            limits.auth_failed(now, peer);
            assert_eq!(limits.check_banned(now, peer), Ok(()));
        }
        limits.auth_failed(now, peer);
        let minute = Duration::from_secs(60);
        assert_eq!(limits.check_banned(now, peer), Err(Limited { limit: "failed_auth", wait: minute }));
        assert!(limits.check_banned(now + minute - Duration::from_millis(1), peer).is_err());
        assert_eq!(limits.check_banned(now, ip("192.0.2.8")), Ok(()));
        assert_eq!(limits.check_banned(now + minute, peer), Ok(()));
        for _ in 0..100 {
            limits.auth_failed(now, ip("127.0.0.1"));
        }
        assert_eq!(limits.check_banned(now, ip("127.0.0.1")), Ok(()), "this machine is exempt");
    }

    #[test]
    fn places_of_pending_connections_come_back() {
        let limits = limits(|limits| limits.pending_per_address = 2);
        let (session, caller) = (SessionId::demo(), Caller::Anonymous);
        let first = limits.pending(ip(FAR), &session, &caller).unwrap();
        let second = limits.pending(ip(FAR), &session, &caller).unwrap();
        assert_eq!(limits.pending(ip(FAR), &session, &caller).unwrap_err(), Crowded::Address);
        let _other = limits.pending(ip("192.0.2.8"), &session, &caller).unwrap();
        drop(first);
        let third = limits.pending(ip(FAR), &session, &caller).unwrap();
        drop((second, third));
        assert_eq!(lock(&limits.pending.held).len(), 1, "only the other's is left");
        for _ in 0..9 {
            std::mem::forget(limits.pending(ip("127.0.0.1"), &session, &caller).unwrap());
        }
    }

    #[test]
    fn a_token_has_its_own_places_wherever_it_comes_from() {
        let limits = limits(|_| {});
        let grant = |subject: &str, role| crate::auth::Grant {
            subject: Subject { issuer: "acme".into(), subject: subject.into() },
            token_id: None,
            role,
            scope: crate::auth::Scope::Own,
            languages: None,
            takeover: false,
            expires: Instant::now(),
        };
        let caller = |subject: &str, role| Caller::Token(Arc::new(grant(subject, role)));
        let session = SessionId::demo();
        let ann = caller("ann", Role::Speak);
        let _held = [FAR, "192.0.2.8"].map(|peer| limits.pending(ip(peer), &session, &ann).unwrap());
        assert_eq!(limits.pending(ip("192.0.2.9"), &session, &ann).unwrap_err(), Crowded::Token);
        for other in [caller("ann", Role::Listen), caller("bob", Role::Speak)] {
            limits.pending(ip("192.0.2.9"), &session, &other).unwrap();
        }
        let address = Key::Address(Net::of(ip("192.0.2.9")));
        assert_eq!(lock(&limits.pending.held).get(&address), None, "who was refused holds nothing");
    }
}
