use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Parser;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

use super::*;
use crate::auth::tests::harness::{SECRET, ec_jwk, ed_jwk};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

/// Runs a command line without the environment of whoever runs the tests.
fn relayd(line: &[&str], input: &str) -> Result<(String, Exit), Failure> {
    let parsed = Line::try_parse_from([&["relayd"][..], line].concat());
    parsed.map_err(|error| (Exit::Usage, error.to_string()))?.args.execute(input.as_bytes())
}

/// A file that is gone with its owner.
struct File(PathBuf);

impl File {
    fn new(content: &str) -> Self {
        static FILES: AtomicUsize = AtomicUsize::new(0);
        let name = format!("relayd-token-{}-{}", std::process::id(), FILES.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, content).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

fn inspected(config: &File, token: &str) -> (Value, Exit) {
    let (text, exit) = relayd(&["inspect", "--config", config.path(), token], "").unwrap();
    (serde_json::from_str(&text).unwrap(), exit)
}

fn with_secret() -> File {
    File::new(&format!("[auth]\nmode = \"token\"\nsecret = \"{SECRET}\"\nissuers = [\"acme\"]\n"))
}

#[test]
fn a_token_of_the_configuration_is_one_that_it_takes() {
    let config = with_secret();
    let line = [
        "issue",
        "--config",
        config.path(),
        "--subject",
        "ann",
        "--role",
        "speak",
        "--takeover",
        "--language",
        "pt-br",
    ];
    let (token, exit) = relayd(&line, "").unwrap();
    assert_eq!(exit, Exit::Ok);
    let (shown, exit) = inspected(&config, &token);
    assert_eq!(exit, Exit::Ok, "{shown}");
    assert_eq!(shown["header"], json!({ "alg": "HS256", "typ": "JWT" }));
    assert_eq!(shown["claims"]["iss"], "acme");
    assert_eq!(shown["claims"]["aud"], "relay:default");
    assert_eq!(shown["claims"]["jti"].as_str().unwrap().len(), 32);
    assert_eq!(shown["claims"]["exp"].as_u64().unwrap() - shown["claims"]["iat"].as_u64().unwrap(), 3600);
    assert_eq!(shown["relay"]["taken"], true);
    assert_eq!(shown["relay"]["role"], "speak");
    assert_eq!(shown["relay"]["sessions"], "those that acme#ann created");
    assert_eq!(shown["relay"]["languages"], json!(["pt-BR"]));
    assert_eq!(shown["relay"]["takeover"], true);
    // The same from standard input.
    let (text, exit) = relayd(&["inspect", "--config", config.path(), "-"], &format!("{token}\n")).unwrap();
    assert_eq!(
        (serde_json::from_str::<Value>(&text).unwrap()["relay"]["taken"].clone(), exit),
        (json!(true), Exit::Ok)
    );
}

#[test]
fn a_private_key_signs_by_its_kind_and_its_public_key_verifies() {
    for (algorithm, kind) in [("ES256", &PKCS_ECDSA_P256_SHA256), ("EdDSA", &PKCS_ED25519)] {
        let key = KeyPair::generate_for(kind).unwrap();
        let jwk = if algorithm == "ES256" { ec_jwk(&key, "2026-1") } else { ed_jwk(&key, "2026-1") };
        let (pem, set) = (File::new(&key.serialize_pem()), File::new(&json!({ "keys": [jwk] }).to_string()));
        let config = File::new(&format!("[auth]\nmode = \"token\"\njwks_file = \"{}\"\n", set.path()));
        let line = [
            "issue",
            "--key",
            pem.path(),
            "--kid",
            "2026-1",
            "--issuer",
            "https://issuer.example",
            "--subject",
            "bob",
            "--role",
            "listen",
            "--session",
            "golden-eagle-427",
            "--lifetime",
            "10m",
        ];
        let (token, _) = relayd(&line, "").unwrap();
        let (shown, exit) = inspected(&config, &token);
        assert_eq!(exit, Exit::Ok, "{shown}");
        assert_eq!(shown["header"], json!({ "alg": algorithm, "typ": "JWT", "kid": "2026-1" }));
        assert_eq!(shown["relay"]["sessions"], "golden-eagle-427");
    }
}

#[test]
fn a_token_that_a_relay_refuses_says_why() {
    let config = with_secret();
    let secret = File::new(&format!("{SECRET}\n"));
    let issue = |more: &[&str]| {
        let line =
            ["issue", "--secret-file", secret.path(), "--subject", "ann", "--role", "admin", "--issuer"];
        relayd(&[&line[..], more].concat(), "").unwrap().0
    };
    for (token, reason) in [
        (issue(&["other"]), "issuer"),
        (issue(&["acme", "--audience", "relay:other"]), "audience"),
        ("nonsense".to_owned(), "malformed"),
    ] {
        let (shown, exit) = inspected(&config, &token);
        assert_eq!((&shown["relay"]["reason"], exit), (&json!(reason), Exit::Refused), "{shown}");
    }
    let (shown, exit) = inspected(&config, &issue(&["acme", "--session", "*"]));
    assert_eq!((&shown["relay"]["sessions"], exit), (&json!("those of the issuer acme"), Exit::Ok));
    let open = File::new("");
    assert_eq!(inspected(&open, "nonsense").1, Exit::Ok);
}

#[test]
fn what_cannot_be_issued_is_refused_with_the_reason() {
    let (short, secret) = (File::new("short"), File::new(SECRET));
    let p384 = File::new(&KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem());
    let who = ["issue", "--subject", "ann", "--role", "speak"];
    for (more, exit, says) in [
        (&[][..], Exit::Usage, "no key to sign with"),
        (&["--secret-file", short.path()], Exit::Usage, "must have at least 32"),
        (&["--secret-file", "/nonexistent/secret"], Exit::Failed, "cannot read"),
        (&["--key", p384.path()], Exit::Usage, "no usable private key"),
        (&["--key", secret.path()], Exit::Usage, "no usable private key"),
        (&["--key", p384.path(), "--secret-file", secret.path()], Exit::Usage, "cannot be used with"),
        (&["--secret-file", secret.path(), "--kid", "a"], Exit::Usage, "cannot be used with"),
        (&["--secret-file", secret.path(), "--lifetime", "5"], Exit::Usage, "a duration with its unit"),
        (&["--secret-file", secret.path(), "--lifetime", "0s"], Exit::Usage, "a duration with its unit"),
        (&["--secret-file", secret.path(), "--session", "Not An Id"], Exit::Usage, "`relay.session`"),
        (&["--secret-file", secret.path(), "--language", "english"], Exit::Usage, "not a language tag"),
        (&["--secret-file", secret.path(), "--issuer", ""], Exit::Usage, "`iss`"),
        (&["--secret-file", secret.path(), "--role", "owner"], Exit::Usage, "--role"),
    ] {
        let (code, why) = relayd(&[&who[..], more].concat(), "").unwrap_err();
        assert!(why.contains(says), "{more:?}: {why}");
        assert_eq!(code, exit, "{more:?}: {why}");
        assert!(!why.contains(SECRET), "{why}");
    }
}

#[test]
fn secrets_are_random_and_of_the_right_kind() {
    let secret = || relayd(&["secret"], "").unwrap().0;
    assert_ne!(secret(), secret());
    assert!(SigningKey::secret(secret().as_bytes()).is_ok());
    let webhook = relayd(&["secret", "--webhook"], "").unwrap().0;
    assert_eq!(config::webhook_key(&webhook).len(), 32, "{webhook}");
}
