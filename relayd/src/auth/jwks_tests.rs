use std::sync::atomic::AtomicBool;

use rcgen::{KeyPair, PKCS_ED25519};
use serde_json::json;

use super::*;
use crate::auth::tests::harness::{block_on, ed_jwk};
use crate::outbound::test_server::{TestServer, ok};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// An issuer whose answer can be changed, and that counts who asks.
#[derive(Clone)]
struct Endpoint {
    answer: Arc<Mutex<Result<String, String>>>,
    asked: Arc<AtomicU64>,
    hangs: Arc<AtomicBool>,
}

impl Endpoint {
    fn new(kids: &[&str]) -> (Self, Arc<RemoteKeys>) {
        let endpoint = Self {
            answer: Arc::new(Mutex::new(Ok(set(kids)))),
            asked: Arc::default(),
            hangs: Arc::default(),
        };
        let this = endpoint.clone();
        let keys = RemoteKeys::new(Box::new(move || {
            let this = this.clone();
            Box::pin(async move {
                this.asked.fetch_add(1, Ordering::Relaxed);
                if this.hangs.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
                // Whoever else wants the keys has the time to ask, too.
                tokio::task::yield_now().await;
                this.answer.lock().unwrap().clone().map(String::into_bytes)
            })
        }));
        (endpoint, keys)
    }

    fn serves(&self, kids: &[&str]) {
        *self.answer.lock().unwrap() = Ok(set(kids));
    }

    fn fails(&self) {
        *self.answer.lock().unwrap() = Err("down".into());
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

fn set(kids: &[&str]) -> String {
    let keys: Vec<_> =
        kids.iter().map(|kid| ed_jwk(&KeyPair::generate_for(&PKCS_ED25519).unwrap(), kid)).collect();
    json!({ "keys": keys }).to_string()
}

async fn find(keys: &Arc<RemoteKeys>, now: Instant, kid: &str) -> &'static str {
    match keys.find(now, Algorithm::EdDsa, Some(kid)).await {
        Ok(_) => "ok",
        Err(error) => error.reason(),
    }
}

/// Lets what runs behind come to its end.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn keys_are_asked_for_once_and_kept_for_five_minutes() {
    block_on(async {
        let (endpoint, keys) = Endpoint::new(&["a"]);
        let start = Instant::now();
        for second in [0, 1, 100, 299] {
            assert_eq!(find(&keys, start + second * SECOND, "a").await, "ok");
        }
        assert_eq!(endpoint.asked(), 1);
        // Then they are asked for again, behind the token that noticed.
        assert_eq!(find(&keys, start + 300 * SECOND, "a").await, "ok");
        settle().await;
        assert_eq!(endpoint.asked(), 2);
        assert_eq!(keys.counts(), (2, 0));
    });
}

#[test]
fn many_at_once_ask_once() {
    block_on(async {
        let (endpoint, keys) = Endpoint::new(&["a"]);
        let now = Instant::now();
        let waiting: Vec<_> = (0..50)
            .map(|i| {
                let keys = keys.clone();
                tokio::spawn(async move { find(&keys, now, if i % 2 == 0 { "a" } else { "b" }).await })
            })
            .collect();
        for (i, task) in waiting.into_iter().enumerate() {
            assert_eq!(task.await.unwrap(), if i % 2 == 0 { "ok" } else { "unknown_key" });
        }
        assert_eq!(endpoint.asked(), 1);
    });
}

#[test]
fn who_comes_while_the_answer_is_under_way_waits_for_it() {
    block_on(async {
        let (endpoint, keys) = Endpoint::new(&["old"]);
        let start = Instant::now();
        for (now, kid) in [(start, "old"), (start + MINUTE, "new")] {
            let (this, before) = (keys.clone(), endpoint.asked());
            endpoint.serves(&["old", "new"]);
            let first = tokio::spawn(async move { find(&this, now, kid).await });
            while endpoint.asked() == before {
                tokio::task::yield_now().await;
            }
            assert_eq!(find(&keys, now, kid).await, "ok");
            assert_eq!(first.await.unwrap(), "ok");
            endpoint.serves(&["old"]);
            assert_eq!(endpoint.asked(), before + 1);
            // So that the next one finds only the old one.
            keys.with(|cache| cache.succeeded(now, KeySet::parse(set(&["old"]).as_bytes()).unwrap()));
        }
    });
}

#[test]
fn an_unknown_name_asks_at_most_every_thirty_seconds() {
    block_on(async {
        let (endpoint, keys) = Endpoint::new(&["a"]);
        let start = Instant::now();
        assert_eq!(find(&keys, start, "a").await, "ok");
        for millis in (0..120_000).step_by(100) {
            let now = start + Duration::from_millis(millis);
            assert_eq!(find(&keys, now, &format!("forged-{millis}")).await, "unknown_key");
        }
        assert_eq!(endpoint.asked(), 1 + 3);
    });
}

#[test]
fn a_rotation_takes_old_and_new_keys_until_the_old_one_is_gone() {
    block_on(async {
        let (endpoint, keys) = Endpoint::new(&["old"]);
        let start = Instant::now();
        assert_eq!(find(&keys, start, "old").await, "ok");
        endpoint.serves(&["old", "new"]);
        // The first token of the new key makes the relay ask.
        assert_eq!(find(&keys, start + MINUTE, "new").await, "ok");
        assert_eq!(find(&keys, start + MINUTE, "old").await, "ok");
        assert_eq!(endpoint.asked(), 2);
        endpoint.serves(&["new"]);
        assert_eq!(find(&keys, start + 6 * MINUTE, "old").await, "ok");
        settle().await;
        assert_eq!(find(&keys, start + 7 * MINUTE, "old").await, "unknown_key");
        assert_eq!(find(&keys, start + 7 * MINUTE, "new").await, "ok");
    });
}

#[test]
fn the_last_good_keys_serve_for_a_day() {
    block_on(async {
        let (endpoint, keys) = Endpoint::new(&["a"]);
        let start = Instant::now();
        assert_eq!(find(&keys, start, "a").await, "ok");
        endpoint.fails();
        let day = Duration::from_secs(24 * 3600);
        for now in [start + 5 * MINUTE, start + 60 * MINUTE, start + day - SECOND] {
            assert_eq!(find(&keys, now, "a").await, "ok");
            settle().await;
        }
        assert_eq!(find(&keys, start + day, "a").await, "keys_unavailable");
        assert_eq!(keys.counts().0, 1);
        assert!(keys.counts().1 >= 3);
        // A set without a usable key is no better than none.
        *endpoint.answer.lock().unwrap() = Ok("{\"keys\":[]}".into());
        assert_eq!(find(&keys, start + day + MINUTE, "a").await, "keys_unavailable");
        endpoint.serves(&["a"]);
        assert_eq!(find(&keys, start + day + 2 * MINUTE, "a").await, "ok");
    });
}

#[test]
fn an_issuer_that_hangs_holds_nobody_up_who_has_a_known_key() {
    block_on(async {
        let (endpoint, keys) = Endpoint::new(&["a"]);
        let start = Instant::now();
        assert_eq!(find(&keys, start, "a").await, "ok");
        endpoint.hangs.store(true, Ordering::Relaxed);
        for second in [301, 310, 340, 400] {
            assert_eq!(find(&keys, start + second * SECOND, "a").await, "ok");
            settle().await;
        }
        assert_eq!(endpoint.asked(), 2, "one request is under way");
    });
}

#[test]
fn without_keys_the_issuer_is_asked_every_five_seconds() {
    block_on(async {
        let (endpoint, keys) = Endpoint::new(&["a"]);
        endpoint.fails();
        let start = Instant::now();
        for second in 0..20 {
            assert_eq!(find(&keys, start + second * SECOND, "a").await, "keys_unavailable");
        }
        assert_eq!(endpoint.asked(), 4);
        endpoint.serves(&["a"]);
        assert_eq!(find(&keys, start + 20 * SECOND, "a").await, "ok");
    });
}

#[test]
fn who_waits_may_go_away_and_the_answer_is_kept() {
    block_on(async {
        let (endpoint, keys) = Endpoint::new(&["a"]);
        let now = Instant::now();
        let waiting = tokio::spawn({
            let keys = keys.clone();
            async move { find(&keys, now, "a").await }
        });
        while endpoint.asked() == 0 {
            tokio::task::yield_now().await;
        }
        waiting.abort();
        settle().await;
        assert_eq!(find(&keys, now, "a").await, "ok");
        assert_eq!(endpoint.asked(), 1);
    });
}

#[test]
fn keys_come_over_https() {
    let server = TestServer::start(|_| ok(&set(&["a"])));
    let (client, url) = (server.client(), server.url("/jwks.json"));
    let keys = RemoteKeys::new(Box::new(move || {
        let (client, url) = (client.clone(), url.clone());
        Box::pin(async move { client.get(&url).await.map_err(|error| error.to_string()) })
    }));
    block_on(async {
        assert_eq!(find(&keys, Instant::now(), "a").await, "ok");
        assert_eq!(find(&keys, Instant::now(), "b").await, "unknown_key");
    });
    assert_eq!(server.requests().len(), 1);
}
