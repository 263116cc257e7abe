//! What a forger writes in a header changes nothing.

use serde_json::{Value, json};

use super::harness::{SECRET, ec_jwk, encode, hs256, rsa_jwk};
use super::*;

/// A token without a signature.
fn unsigned(header: &Value, signature: &str) -> String {
    format!("{}.{}.{signature}", encode(header.to_string()), encode(claims().to_string()))
}

#[test]
fn none_is_no_algorithm() {
    let issuer = Issuer::new();
    for name in [
        "none", "None", "NONE", "nOnE", "", "hs256", "HS256 ", "HS384", "HS512", "RS512", "PS256", "ES384",
        "ES256K",
    ] {
        for kid in [None, Some("rsa"), Some("ec")] {
            let header = kid.map_or_else(|| json!({ "alg": name }), |kid| json!({ "alg": name, "kid": kid }));
            for signature in ["", "AA"] {
                assert_eq!(issuer.reason(&unsigned(&header, signature)), "algorithm", "{header}");
            }
            assert_eq!(issuer.reason(&hs256(&header, &claims().to_string(), SECRET.as_bytes())), "algorithm");
        }
    }
    for header in
        [json!({}), json!({ "alg": null }), json!({ "alg": ["HS256"] }), json!({ "alg": 256 }), json!([])]
    {
        assert_eq!(issuer.reason(&unsigned(&header, "")), "malformed", "{header}");
    }
    for algorithm in ["HS256", "RS256", "ES256", "EdDSA"] {
        let header = json!({ "alg": algorithm, "kid": algorithm[..2].to_lowercase().replace("rs", "rsa").replace("es", "ec") });
        assert_eq!(issuer.reason(&unsigned(&header, "")), "signature", "{header}");
    }
}

#[test]
fn a_public_key_is_no_secret() {
    let issuer = Issuer::new();
    let modulus = issuer.rsa.public_key_raw();
    let jwk = rsa_jwk(&issuer.rsa, "rsa").to_string();
    for secret in [
        issuer.rsa.public_key_pem().as_bytes(),
        issuer.rsa.public_key_pem().trim().as_bytes(),
        modulus,
        jwk.as_bytes(),
    ] {
        for header in [json!({ "alg": "HS256" }), json!({ "alg": "HS256", "kid": "rsa" })] {
            assert_eq!(issuer.reason(&hs256(&header, &claims().to_string(), secret)), "signature");
        }
    }
    // And where there is no secret, there is no HS256.
    let without = Issuer::with(|config| config.secret = config::Secret::default());
    let forged =
        hs256(&json!({ "alg": "HS256", "kid": "rsa" }), &claims().to_string(), without.rsa.public_key_raw());
    assert_eq!(without.reason(&forged), "algorithm");
}

#[test]
fn a_key_is_for_its_own_algorithm() {
    let issuer = Issuer::new();
    for (algorithm, kid) in
        [("RS256", "ec"), ("RS256", "ed"), ("ES256", "rsa"), ("ES256", "ed"), ("EdDSA", "ec")]
    {
        let header = json!({ "alg": algorithm, "kid": kid });
        assert_eq!(
            issuer.reason(&hs256(&header, &claims().to_string(), SECRET.as_bytes())),
            "algorithm",
            "{header}"
        );
    }
    // A good signature under a header that says otherwise.
    let good = issuer.sign(Algorithm::EdDsa, &claims());
    let (_, rest) = good.split_once('.').unwrap();
    let header = encode(json!({ "alg": "ES256", "kid": "ec" }).to_string());
    assert_eq!(issuer.reason(&format!("{header}.{rest}")), "signature");
}

#[test]
fn a_key_name_is_a_name_and_nothing_else() {
    let issuer = Issuer::new();
    for kid in [
        "",
        "RSA",
        "rsa ",
        "../../../../dev/null",
        "/dev/null",
        "rsa' OR '1'='1",
        "rsa\u{0}",
        "https://forger.example/jwks.json",
        "*",
    ] {
        let header = json!({ "alg": "RS256", "kid": kid });
        assert_eq!(issuer.reason(&hs256(&header, &claims().to_string(), b"")), "unknown_key", "{kid:?}");
    }
    for kid in [json!(null), json!(7), json!(["rsa"])] {
        assert_eq!(issuer.reason(&unsigned(&json!({ "alg": "RS256", "kid": kid }), "AA")), "malformed");
    }
}

#[test]
fn a_key_that_the_token_brings_along_is_not_looked_at() {
    let issuer = Issuer::new();
    let forger = Issuer::new();
    let brought = |kid: Option<&str>| {
        let mut header = json!({
            "alg": "ES256", "jku": "https://forger.example/jwks.json", "x5u": "https://forger.example/x.pem",
            "jwk": ec_jwk(&forger.ec, "ec"), "x5c": ["MIIB"],
        });
        if let Some(kid) = kid {
            header["kid"] = kid.into();
        }
        let message = format!("{}.{}", encode(header.to_string()), encode(claims().to_string()));
        let key = jsonwebtoken::EncodingKey::from_ec_pem(forger.ec.serialize_pem().as_bytes()).unwrap();
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &key, jsonwebtoken::Algorithm::ES256).unwrap();
        format!("{message}.{signature}")
    };
    assert_eq!(issuer.reason(&brought(None)), "signature");
    assert_eq!(issuer.reason(&brought(Some("ec"))), "signature");
    assert_eq!(issuer.reason(&brought(Some("forged"))), "unknown_key");
    // Beside a good signature it does no harm.
    let header =
        json!({ "alg": "HS256", "jku": "https://forger.example/", "jwk": { "kty": "oct", "k": "AA" } });
    assert_eq!(issuer.reason(&hs256(&header, &claims().to_string(), SECRET.as_bytes())), "ok");
}

#[test]
fn extensions_that_must_be_understood_are_refused() {
    let issuer = Issuer::new();
    for crit in [json!(["exp"]), json!([]), json!(["b64"]), json!("b64"), json!(true)] {
        let header = json!({ "alg": "HS256", "crit": crit, "b64": false });
        assert_eq!(
            issuer.reason(&hs256(&header, &claims().to_string(), SECRET.as_bytes())),
            "malformed",
            "{header}"
        );
    }
}

#[test]
fn a_token_has_one_spelling() {
    let issuer = Issuer::new();
    let good = issuer.token(&claims());
    let parts: Vec<&str> = good.split('.').collect();
    let [header, payload, signature] = parts[..] else { panic!("three parts") };
    let malformed = [
        String::new(),
        ".".into(),
        "..".into(),
        "...".into(),
        header.into(),
        format!("{header}.{payload}"),
        format!("{good}.{signature}"),
        format!("{header}=.{payload}.{signature}"),
        format!(" {good}"),
        format!("Bearer {good}"),
        format!("{}.{payload}.{signature}", encode(b"\xff\xfe")),
    ];
    for token in malformed {
        assert_eq!(issuer.reason(&token), "malformed", "{token}");
    }
    // 32 bytes leave two bits of the last character unused: set, they would be another spelling of the same bytes.
    let (head, last) = good.split_at(good.len() - 1);
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let next = alphabet.as_bytes()[alphabet.find(last).unwrap() + 1] as char;
    for token in [
        format!("{good}="),
        format!("{good}\n"),
        format!("{head}{next}"),
        head.to_owned(),
        format!("{header}.{payload}x.{signature}"),
        format!("{header}.{payload}."),
    ] {
        assert_eq!(issuer.reason(&token), "signature", "{token}");
    }
}

#[test]
fn a_huge_token_is_not_looked_at() {
    let issuer = Issuer::new();
    let mut padded = claims();
    padded["pad"] = "x".repeat(3000).into();
    assert_eq!(issuer.reason(&issuer.token(&padded)), "too_long");
    padded["pad"] = "x".repeat(2000).into();
    assert_eq!(issuer.reason(&issuer.token(&padded)), "ok");
    assert_eq!(issuer.reason(&"a".repeat(10_000_000)), "too_long");
}

#[test]
fn keys_that_cannot_be_trusted_are_not_used() {
    let issuer = Issuer::new();
    let key = ec_jwk(&issuer.ec, "k");
    let with = |changes: Value| {
        let mut key = key.clone();
        key.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        KeySet::parse(json!({ "keys": [key] }).to_string().as_bytes()).map(|set| set.len())
    };
    assert_eq!(with(json!({})), Ok(1));
    for changes in [
        json!({ "use": "enc" }),
        json!({ "key_ops": ["encrypt"] }),
        json!({ "alg": "ES384" }),
        json!({ "alg": "HS256" }),
        json!({ "crv": "P-384" }),
        json!({ "kty": "OKP" }),
        json!({ "kty": "oct", "k": "AAAA" }),
        json!({ "x": "AAAA" }),
        json!({ "y": null }),
        json!({ "d": "AAAA" }),
        json!({ "kid": 7 }),
        json!({ "kty": "RSA", "alg": "RS256", "n": encode([0xff; 128]), "e": "AQAB" }),
        json!({ "kty": "RSA", "alg": "RS256", "n": encode([&[0; 128][..], &[0xff; 128]].concat()), "e": "AQAB" }),
    ] {
        assert!(with(changes.clone()).is_err(), "{changes}");
    }
    for text in ["", "{}", "[]", "{\"keys\":{}}", "{\"keys\":[]}", "{\"keys\":[1,null,\"a\"]}"] {
        assert!(KeySet::parse(text.as_bytes()).is_err(), "{text}");
    }
    let many = vec![key.clone(); 65];
    assert!(KeySet::parse(json!({ "keys": many }).to_string().as_bytes()).is_err());
    let twice = KeySet::parse(json!({ "keys": [key.clone(), key] }).to_string().as_bytes()).unwrap();
    assert_eq!((twice.len(), twice.skipped.len()), (1, 1));
}

#[test]
fn a_token_without_key_name_needs_one_key_to_be_meant() {
    let issuer = Issuer::new();
    let signing = SigningKey::pem(issuer.ec.serialize_pem().as_bytes(), None).unwrap();
    let token = signing.issue(&serde_json::from_value(claims()).unwrap()).unwrap();
    assert_eq!(issuer.reason(&token), "ok");
    let keys = json!({ "keys": [ec_jwk(&issuer.ec, "a"), ec_jwk(&issuer.ec, "b")] });
    let set = KeySet::parse(keys.to_string().as_bytes()).unwrap();
    assert_eq!(set.find(Algorithm::Es256, None).err(), Some(TokenError::UnknownKey));
    assert!(set.find(Algorithm::Es256, Some("b")).is_ok());
}
