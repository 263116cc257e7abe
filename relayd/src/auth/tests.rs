use std::time::{Duration, Instant};

use super::*;
use crate::outbound::Outbound;

mod forgeries;
pub(crate) mod harness;
mod typed_claims;

use harness::{Issuer, WALL, claims};

#[test]
fn an_open_relay_takes_anything_and_looks_at_nothing() {
    let outbound = Outbound::new(&config::Outbound::default()).unwrap();
    let authority = Authority::new(&config::Auth::default(), outbound).unwrap();
    assert!(authority.is_open());
    for token in [None, Some(""), Some("not a token"), Some("a.b.c")] {
        let caller = harness::block_on(authority.authenticate(Instant::now(), token));
        assert!(matches!(caller, Ok(Caller::Open)), "{token:?}");
    }
    assert_eq!(authority.counts().accepted, 0);
}

#[test]
fn no_token_is_nobody_in_particular() {
    let issuer = Issuer::new();
    let caller = harness::block_on(issuer.authority.authenticate(Instant::now(), None));
    assert!(matches!(caller, Ok(Caller::Anonymous)));
    assert!(!issuer.authority.is_open());
}

#[test]
fn every_algorithm_works_with_its_own_key() {
    let issuer = Issuer::new();
    for algorithm in [Algorithm::Hs256, Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa] {
        let token = issuer.sign(algorithm, &claims());
        let grant = issuer.grant(&token).unwrap_or_else(|error| panic!("{algorithm}: {error}"));
        assert_eq!(grant.role, Role::Speak);
    }
}

#[test]
fn a_token_grants_what_its_claims_say_and_no_more() {
    let issuer = Issuer::new();
    let now = Instant::now();
    let plain = issuer.grant_at(now, WALL, &issuer.token(&claims())).unwrap();
    let subject = Subject { issuer: "https://issuer.example".into(), subject: "ann".into() };
    assert_eq!(
        plain,
        Grant {
            subject: subject.clone(),
            token_id: None,
            role: Role::Speak,
            scope: Scope::Own,
            languages: None,
            takeover: false,
            expires: now + Duration::from_secs(600),
        }
    );
    let mut full = claims();
    full["jti"] = "t-1".into();
    full["nbf"] = (WALL.as_secs() - 10).into();
    full["iat"] = (WALL.as_secs() - 10).into();
    full["aud"] = serde_json::json!(["other", "relay:default"]);
    full["unknown"] = serde_json::json!({ "any": ["thing"] });
    full["relay"] = serde_json::json!({
        "v": 1, "session": "golden-eagle-427", "role": "moderate", "languages": ["EN", "pt-br"], "takeover": true,
    });
    assert_eq!(
        issuer.grant_at(now, WALL, &issuer.token(&full)).unwrap(),
        Grant {
            subject,
            token_id: Some("t-1".into()),
            role: Role::Moderate,
            scope: Scope::Session("golden-eagle-427".into()),
            languages: Some(vec!["en".parse().unwrap(), "pt-BR".parse().unwrap()]),
            takeover: true,
            expires: now + Duration::from_secs(600),
        }
    );
    full["relay"]["session"] = "*".into();
    assert_eq!(issuer.grant(&issuer.token(&full)).unwrap().scope, Scope::Issuer);
}

#[test]
fn a_token_is_valid_from_nbf_to_exp_give_or_take_the_leeway() {
    let issuer = Issuer::new();
    let mut claims = claims();
    claims["nbf"] = WALL.as_secs().into();
    let token = issuer.token(&claims);
    let exp = WALL + Duration::from_secs(600);
    let (leeway, tick) = (Duration::from_secs(5), Duration::from_millis(1));
    for (wall, reason) in [
        (WALL - leeway - tick, "not_yet_valid"),
        (WALL - leeway, "ok"),
        (WALL, "ok"),
        (exp, "ok"),
        (exp + leeway - tick, "ok"),
        (exp + leeway, "expired"),
        (exp + Duration::from_secs(86_400), "expired"),
    ] {
        assert_eq!(issuer.reason_at(wall, &token), reason, "{wall:?}");
    }
    // What the leeway gives is not added to the grant.
    let now = Instant::now();
    assert_eq!(issuer.grant_at(now, exp + tick, &token).unwrap().expires, now);
    let late = issuer.grant_at(now, exp + Duration::from_secs(65), &token).unwrap_err();
    assert_eq!(late.to_string(), "the token expired 65 s ago");
}

#[test]
fn any_time_that_fits_can_be_counted_with() {
    let issuer = Issuer::new();
    let mut claims = claims();
    claims["exp"] = u64::MAX.into();
    let now = Instant::now();
    let grant = issuer.grant_at(now, WALL, &issuer.token(&claims)).unwrap();
    assert!(grant.expires > now + Duration::from_secs(86_400 * 365));
    claims["nbf"] = u64::MAX.into();
    assert_eq!(issuer.reason(&issuer.token(&claims)), "not_yet_valid");
    claims["nbf"] = 0.into();
    claims["exp"] = 0.into();
    assert_eq!(issuer.reason(&issuer.token(&claims)), "expired");
}

#[test]
fn tokens_for_others_and_of_others_are_refused() {
    let issuer = Issuer::with(|config| config.issuers = vec!["https://issuer.example".into()]);
    assert_eq!(issuer.reason(&issuer.token(&claims())), "ok");
    let with = |name: &str, value: serde_json::Value| {
        let mut claims = claims();
        claims[name] = value;
        issuer.reason(&issuer.token(&claims))
    };
    assert_eq!(with("iss", "https://issuer.example/".into()), "issuer");
    assert_eq!(with("aud", "relay:default2".into()), "audience");
    assert_eq!(with("aud", "".into()), "audience");
    assert_eq!(with("aud", serde_json::json!([])), "audience");
    assert_eq!(with("aud", serde_json::json!(["relay:", "default"])), "audience");
}

#[test]
fn what_is_refused_is_counted_by_its_reason() {
    let issuer = Issuer::new();
    issuer.reason(&issuer.token(&claims()));
    issuer.reason("nonsense");
    issuer.reason("nonsense");
    let counts = issuer.authority.counts();
    assert_eq!(counts.accepted, 1);
    assert_eq!(counts.refused.len(), TokenError::REASONS.len());
    assert_eq!(counts.refused.iter().find(|(reason, _)| *reason == "malformed"), Some(&("malformed", 2)));
    assert_eq!(counts.refused.iter().map(|(_, count)| count).sum::<u64>(), 2);
}

#[test]
fn a_secret_comes_from_a_file_as_well() {
    let path = std::env::temp_dir().join(format!("relayd-hs256-{}", std::process::id()));
    std::fs::write(&path, format!("{}\n", harness::SECRET)).unwrap();
    let file = path.to_str().unwrap().to_owned();
    let issuer = Issuer::with(|config| {
        config.secret = config::Secret::default();
        config.secret_file.clone_from(&file);
    });
    assert_eq!(issuer.reason(&issuer.token(&claims())), "ok");
    std::fs::write(&path, "short\n").unwrap();
    let config = config::Auth { secret_file: file, mode: AuthMode::Token, ..config::Auth::default() };
    let outbound = Outbound::new(&config::Outbound::default()).unwrap();
    let text = Authority::new(&config, outbound).unwrap_err().to_string();
    std::fs::remove_file(&path).unwrap();
    assert!(text.ends_with("the secret has 5 bytes, but must have at least 32"), "{text}");
}

#[test]
fn nothing_that_is_shown_holds_a_key() {
    let issuer = Issuer::new();
    let shown = format!("{:?} {:?}", issuer.authority, issuer.signing(Algorithm::Hs256));
    assert!(!shown.contains(harness::SECRET), "{shown}");
    let bytes = format!("{:?}", harness::SECRET.as_bytes());
    assert!(!shown.contains(bytes.trim_matches(['[', ']'])), "{shown}");
}
