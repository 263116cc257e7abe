//! Claims of the wrong type refuse the token: none is read as absent.

use serde_json::{Value, json};

use super::harness::{SECRET, hs256};
use super::*;

/// The reason for a token in which the member at `path` is replaced by this JSON text; empty: taken out.
fn with(issuer: &Issuer, path: &[&str], text: &str) -> &'static str {
    let mut claims = claims();
    let (last, parents) = path.split_last().unwrap();
    let mut place = &mut claims;
    for name in parents {
        place = &mut place[*name];
    }
    if text.is_empty() {
        place.as_object_mut().unwrap().remove(*last);
    } else {
        place[*last] = Value::from("@@");
    }
    issuer.reason(&hs256(
        &json!({ "alg": "HS256" }),
        &claims.to_string().replace("\"@@\"", text),
        SECRET.as_bytes(),
    ))
}

#[test]
fn a_time_is_a_whole_number_that_fits() {
    let issuer = Issuer::new();
    let later = WALL.as_secs() + 60;
    for name in ["exp", "nbf", "iat"] {
        for text in [
            format!("\"{later}\""),
            format!("{later}.0"),
            format!("{later}.5"),
            "1.8e9".to_owned(),
            "18e8".to_owned(),
            "true".to_owned(),
            "false".to_owned(),
            "null".to_owned(),
            "-1".to_owned(),
            "-0.0".to_owned(),
            format!("-{later}"),
            "18446744073709551616".to_owned(),
            "99999999999999999999999999".to_owned(),
            "1e400".to_owned(),
            format!("[{later}]"),
            format!("{{\"at\":{later}}}"),
            "\"\"".to_owned(),
            "NaN".to_owned(),
            "Infinity".to_owned(),
        ] {
            assert_eq!(with(&issuer, &[name], &text), "claims", "{name}: {text}");
        }
    }
    assert_eq!(with(&issuer, &["exp"], &later.to_string()), "ok");
    assert_eq!(with(&issuer, &["nbf"], "0"), "ok");
    assert_eq!(with(&issuer, &["exp"], ""), "claims");
    assert_eq!(with(&issuer, &["nbf"], ""), "ok");
}

#[test]
fn every_claim_that_is_required_is_required() {
    let issuer = Issuer::new();
    for path in [&["iss"][..], &["sub"], &["aud"], &["exp"], &["relay"], &["relay", "role"]] {
        assert_eq!(with(&issuer, path, ""), "claims", "{path:?}");
        assert_eq!(with(&issuer, path, "null"), "claims", "{path:?}");
    }
}

#[test]
fn every_claim_has_its_type_and_its_form() {
    let issuer = Issuer::new();
    let long = format!("\"{}\"", "x".repeat(256));
    let name = ["7", "true", "[\"a\"]", "{}", "\"\"", "\"a\\u0000b\"", "\"a\\nb\"", long.as_str()];
    for path in [&["iss"][..], &["sub"], &["jti"]] {
        for text in name {
            assert_eq!(with(&issuer, path, text), "claims", "{path:?}: {text}");
        }
    }
    let table: [(&[&str], &[&str]); 7] = [
        (&["aud"], &["7", "true", "{}", "[1]", "[\"relay:default\", 1]", "[[\"relay:default\"]]"]),
        (&["relay"], &["7", "\"speak\"", "[]", "[1,2]"]),
        (&["relay", "role"], &["7", "\"\"", "\"Speak\"", "\"speaker\"", "[\"speak\"]", "{\"speak\":1}"]),
        (
            &["relay", "session"],
            &["7", "\"\"", "\"**\"", "\"../x\"", "\"a b\"", "\"Golden-Eagle-427\"", "[\"a\"]", "null"],
        ),
        (
            &["relay", "languages"],
            &["\"en\"", "[]", "[1]", "[\"english\"]", "[\"\"]", "{}", "null", "[\"*\"]"],
        ),
        (&["relay", "takeover"], &["1", "\"true\"", "[]", "null"]),
        (&["relay", "v"], &["0", "2", "1.0", "\"1\"", "true", "null", "-1"]),
    ];
    for (path, texts) in table {
        for text in texts {
            assert_eq!(with(&issuer, path, text), "claims", "{path:?}: {text}");
        }
    }
    for path in [&["relay", "canRecord"][..], &["relay", "Session"], &["relay", "max_kbps"]] {
        assert_eq!(with(&issuer, path, "1"), "claims", "an unknown member may be a limit: {path:?}");
    }
}

#[test]
fn a_claim_is_there_once() {
    let issuer = Issuer::new();
    let claims = claims().to_string();
    for again in [
        "\"exp\":99999999999",
        "\"nbf\":1,\"nbf\":1",
        "\"relay\":{\"role\":\"admin\"}",
        "\"aud\":\"relay:default\"",
    ] {
        let twice = format!("{{{again},{}", &claims[1..]);
        assert_eq!(
            issuer.reason(&hs256(&json!({ "alg": "HS256" }), &twice, SECRET.as_bytes())),
            "claims",
            "{again}"
        );
    }
    for text in
        ["", "null", "[]", "7", "{", "{}", "\"a\"", &format!("{claims}{claims}"), &claims[..claims.len() - 1]]
    {
        assert_eq!(
            issuer.reason(&hs256(&json!({ "alg": "HS256" }), text, SECRET.as_bytes())),
            "claims",
            "{text}"
        );
    }
}
