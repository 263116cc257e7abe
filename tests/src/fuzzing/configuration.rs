//! The configuration: a file, then the environment and flags, one `NAME=VALUE` per line, with form feeds between.

use relayd::config::{Config, Sources};

/// What is taken can be printed and reads back to itself; what is refused says why; neither tells a secret.
pub(super) fn config(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let mut parts = text.splitn(3, '\x0c');
    let file = parts.next().unwrap_or_default();
    let pairs = |part: Option<&str>| -> Vec<(String, String)> {
        let lines = part.unwrap_or_default().lines();
        lines.filter_map(|line| line.split_once('=')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
    };
    let environment = pairs(parts.next());
    let flags =
        pairs(parts.next()).into_iter().map(|(key, value)| (format!("--set {key}"), key, value)).collect();
    let sources = Sources { environment, flags, ..Sources::default() };
    match Config::load_text(file, &sources) {
        Ok(config) => taken(&config),
        Err(error) => {
            let text = error.to_string();
            assert!(!text.is_empty() && text.len() < 4_000 + 8 * data.len(), "{text}");
        }
    }
}

fn taken(config: &Config) {
    config.check().expect("what is loaded is checked");
    let printed = config.to_toml();
    let debug = format!("{config:?}");
    let secrets = [&config.auth.secret, &config.webhooks.secret];
    for secret in secrets.into_iter().filter(|secret| secret.reveal().len() >= 32) {
        // A secret may happen to be a word that is printed anyway, such as a comment of the file.
        let elsewhere = Config::default().to_toml().contains(secret.reveal());
        assert!(
            elsewhere || !printed.contains(secret.reveal()) || is_also_set_elsewhere(config, secret.reveal())
        );
        assert!(!debug.contains(&format!("Secret({:?})", secret.reveal())));
    }
    if secrets.into_iter().all(|secret| secret.is_empty()) {
        let again = Config::load_text(&printed, &Sources::default()).expect("what is printed can be read");
        assert_eq!(&again, config);
    }
}

/// Whether somebody wrote the secret into another setting, too.
fn is_also_set_elsewhere(config: &Config, secret: &str) -> bool {
    let mut without = config.clone();
    (without.auth.secret, without.webhooks.secret) = Default::default();
    without.to_toml().contains(secret)
}
