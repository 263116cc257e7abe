use super::super::Sources;
use super::super::value::Secret;
use super::*;

const SECRET: &str = "kX3vQm8sYw1zR5tB7nJ0pL4cH6gD2fAe";

fn load(set: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let flags = set
        .iter()
        .map(|(key, value)| (format!("--set {key}"), (*key).to_owned(), (*value).to_owned()))
        .collect();
    Config::load(&Sources { flags, ..Sources::default() })
}

fn message(set: &[(&str, &str)]) -> String {
    load(set).expect_err("must be refused").to_string()
}

#[test]
fn tokens_open_the_relay_to_other_machines() {
    let config = load(&[
        ("auth.mode", "token"),
        ("auth.secret", SECRET),
        ("http.listen", "0.0.0.0:8080"),
        ("webrtc.listen", "[::]:8080"),
        ("ops.listen", "192.0.2.1:9090"),
    ])
    .unwrap();
    assert_eq!(config.auth.secret.reveal(), SECRET);
}

#[test]
fn keys_and_mode_go_together() {
    for key in ["auth.secret", "auth.secret_file", "auth.jwks_file", "auth.jwks_url"] {
        let value = if key == "auth.jwks_url" { "https://issuer.example/jwks.json" } else { SECRET };
        assert!(message(&[(key, value)]).contains("`auth.mode` is \"open\""), "{key}");
        load(&[(key, value), ("auth.mode", "token")]).unwrap();
    }
    assert!(message(&[("auth.mode", "token")]).contains("no key to verify tokens"));
    assert!(
        message(&[("auth.mode", "token"), ("auth.secret", SECRET), ("auth.secret_file", "x")])
            .contains("not both")
    );
}

#[test]
fn a_secret_is_long_enough_and_never_told() {
    let short = &SECRET[..31];
    let text = message(&[("auth.mode", "token"), ("auth.secret", short)]);
    assert!(text.starts_with("`auth.secret` is 31 bytes long, but must be at least 32 bytes"), "{text}");
    assert!(!text.contains(short));
    let config = load(&[("auth.mode", "token"), ("auth.secret", SECRET)]).unwrap();
    for shown in [config.to_toml(), format!("{config:?}"), format!("{:#?}", config.auth)] {
        assert!(!shown.contains(SECRET), "{shown}");
    }
    assert!(config.to_toml().contains("secret = \"\" # set; not shown\n"));
    assert_eq!(format!("{:?}", Secret::default()), "Secret(unset)");
}

#[test]
fn a_secret_of_the_wrong_type_is_not_told_either() {
    let path = std::env::temp_dir().join(format!("relayd-secret-{}.toml", std::process::id()));
    std::fs::write(&path, "[auth]\nsecret = 987654321987654321\n").unwrap();
    let sources = Sources { file: Some(path.clone()), ..Sources::default() };
    let text = Config::load(&sources).unwrap_err().to_string();
    std::fs::remove_file(&path).unwrap();
    assert!(text.ends_with(":2: `auth.secret` is something else, but must be a string"), "{text}");
}

#[test]
fn what_cannot_be_trusted_is_refused() {
    for (key, value) in [
        ("auth.jwks_url", "http://issuer.example/jwks.json"),
        ("auth.jwks_url", "file:///etc/keys"),
        ("auth.jwks_url", "https://"),
        ("auth.jwks_url", "https://user@issuer.example/"),
        ("auth.audience", ""),
        ("outbound.allow", "10.0.0.0"),
        ("outbound.allow", "10.0.0.0/8,everything"),
        ("auth.leeway", "2m"),
        ("auth.mode", "closed"),
        ("auth.grace", "9000h"),
    ] {
        let text = message(&[("auth.mode", "token"), ("auth.secret", SECRET), (key, value)]);
        assert!(text.contains(&format!("`{key}` is ")), "{key}: {text}");
    }
    load(&[("outbound.allow", "10.0.0.0/8, ::1/128")]).unwrap();
}
