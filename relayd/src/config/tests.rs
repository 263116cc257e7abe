use proptest::prelude::*;

use std::time::Duration;

use super::value::Setting;
use super::*;

fn from_file(text: &str) -> Result<Config, ConfigError> {
    let mut layer = Layer::default();
    for entry in file::parse(Path::new("relay.toml"), text)? {
        set(&mut layer, &entry.key, &entry.value, &entry.origin)?;
    }
    let config = Config::fold(&[layer]);
    config.check()?;
    Ok(config)
}

fn message(text: &str) -> String {
    from_file(text).expect_err("must be refused").to_string()
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn flag(key: &str, value: &str) -> (String, String, String) {
    (format!("--{}", key.replace('.', "-")), key.to_owned(), value.to_owned())
}

/// Refuses what this makes of the default, and names the key.
pub(super) fn refuse(key: &str, change: fn(&mut Config)) {
    let mut config = Config::default();
    change(&mut config);
    let error = config.check().expect_err(key).to_string();
    assert!(error.contains(key), "{error}");
}

#[test]
fn an_empty_file_is_the_default() {
    assert_eq!(from_file("").unwrap(), Config::default());
}

#[test]
fn the_default_is_valid() {
    Config::default().check().unwrap();
}

#[test]
fn the_printed_configuration_reads_back() {
    let mut config = Config::default();
    config.http.allowed_hosts = vec!["relay.example".into(), "quote\"d".into()];
    config.http.header_timeout = Duration::from_millis(1500);
    config.http.max_sdp = ByteSize::new(60_001);
    config.log.format = LogFormat::Json;
    config.demo.enabled = true;
    assert_eq!(from_file(&config.to_toml()).unwrap(), config);
}

#[test]
fn a_row_of_ports_ends_at_the_last_one() {
    let row = |port: u16, shards: usize, each: bool| {
        let mut config = Config::default();
        config.webrtc.listen.set_port(port);
        (config.media.shards, config.webrtc.port_per_shard) = (shards, each);
        config.check()
    };
    for (port, shards, each) in [(65_532, 4, true), (65_533, 4, false), (65_535, 0, true), (0, 256, true)] {
        assert_eq!(row(port, shards, each).map_err(|error| error.to_string()), Ok(()));
    }
    let refused = row(65_533, 4, true).unwrap_err().to_string();
    assert!(refused.contains("`webrtc.listen`") && refused.contains("4 ports"), "{refused}");
}

#[test]
fn two_that_listen_at_one_tcp_port_are_refused() {
    let check = |http: &str, ops: &str| {
        let mut config = Config::default();
        config.http.listen = http.parse().unwrap();
        (config.webrtc.listen, config.ops.listen) = (config.http.listen, ops.parse().unwrap());
        config.check_apart().map_err(|error| error.to_string())
    };
    for (http, ops) in [
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("0.0.0.0:80", "127.0.0.1:80"),
        ("127.0.0.1:80", "[::]:80"),
        ("[::ffff:127.0.0.1]:80", "127.0.0.1:80"),
    ] {
        let refused = check(http, ops).unwrap_err();
        assert!(refused.contains(&format!("`ops.listen` is \"{ops}\"")), "{refused}");
        assert!(refused.contains(&format!("`http.listen` is {http}")), "{refused}");
    }
    for (http, ops) in [
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("127.0.0.1:80", "127.0.0.1:81"),
        ("127.0.0.1:80", "127.0.0.2:80"),
        ("0.0.0.0:80", "[::1]:80"),
    ] {
        assert_eq!(check(http, ops), Ok(()), "{http} and {ops}");
    }
    assert!(
        message("[ops]\nlisten = \"127.0.0.1:8080\"\n").contains("`ops.listen`"),
        "the whole check does it"
    );
}

#[test]
fn receivers_of_one_port_are_not_for_a_port_per_shard() {
    assert!(message("[webrtc]\nport_per_shard = true\nreceivers = 2\n").contains("`webrtc.receivers`"));
    for good in ["port_per_shard = true\nreceivers = 0", "receivers = 2"] {
        from_file(&format!("[webrtc]\n{good}\n")).unwrap();
    }
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let file = layer_of(&[("http.listen", "127.0.0.1:1"), ("sessions.max", "1"), ("log.filter", "file")]);
    let environment = read_environment(&pairs(&[
        ("RELAYD_HTTP_LISTEN", "127.0.0.1:2"),
        ("RELAYD_SESSIONS_MAX", "2"),
        ("HOME", "/"),
    ]))
    .unwrap();
    let flags = read_flags(&[flag("http.listen", "127.0.0.1:3")]).unwrap();
    let config = Config::fold(&[file, environment, flags]);
    assert_eq!(config.http.listen.port(), 3);
    assert_eq!(config.sessions.max, 2);
    assert_eq!(config.log.filter, "file");
    assert_eq!(config.ops, Ops::default());
}

fn layer_of(settings: &[(&str, &str)]) -> Layer {
    let mut layer = Layer::default();
    for (key, value) in settings {
        layer.set(key, &Raw::Word((*value).to_owned())).unwrap();
    }
    layer
}

#[test]
fn an_unknown_key_names_file_line_and_nearest() {
    assert_eq!(
        message("[http]\n\nlistn = \"127.0.0.1:1\"\n"),
        "relay.toml:3: unknown key `http.listn`; did you mean `http.listen`?"
    );
    assert_eq!(message("[htpt]\n"), "relay.toml:1: unknown key `htpt`; did you mean `http`?");
    assert_eq!(
        message("zzz = 1\n"),
        "relay.toml:1: unknown key `zzz`; `relayd print-config` lists every key"
    );
}

#[test]
fn a_section_that_is_not_a_table_is_refused() {
    assert!(message("http = 3\n").starts_with("relay.toml:1: unknown key `http`"));
}

#[test]
fn a_wrong_type_names_file_line_key_and_what_is_expected() {
    assert_eq!(
        message("[sessions]\nmax = \"ten\"\n"),
        "relay.toml:2: `sessions.max` is \"ten\", but must be a whole number"
    );
    assert!(message("[http]\nheader_timeout = 5\n").contains("relay.toml:2: `http.header_timeout` is 5"));
    assert!(message("[http]\nlisten = \"localhost\"\n").contains("must be an IP address and port"));
    assert!(message("[http]\nallowed_hosts = [1]\n").contains("must be a list of strings"));
    assert!(message("[sessions]\nmax = -1\n").contains("`sessions.max` is -1"));
    assert!(message("[demo]\nenabled = 1.5\n").contains("is a float, but must be true or false"));
}

#[test]
fn broken_toml_names_the_line() {
    assert!(
        message("[http]\nlisten = \n").starts_with("relay.toml:2: "),
        "{}",
        message("[http]\nlisten = \n")
    );
    assert!(
        message("[http]\nlisten=\"127.0.0.1:1\"\nlisten=\"127.0.0.1:1\"\n").starts_with("relay.toml:3: ")
    );
}

#[test]
fn an_unknown_variable_names_the_nearest() {
    let error = read_environment(&pairs(&[("RELAYD_HTTP_LISTN", "x")])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "environment variable RELAYD_HTTP_LISTN: unknown key `RELAYD_HTTP_LISTN`; did you mean `RELAYD_HTTP_LISTEN`?"
    );
}

#[test]
fn a_wrong_variable_or_flag_says_which() {
    let error = read_environment(&pairs(&[("RELAYD_SESSIONS_MAX", "many")])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "environment variable RELAYD_SESSIONS_MAX: `sessions.max` is \"many\", but must be a whole number"
    );
    let error = read_flags(&[flag("http.listen", "8080")]).unwrap_err();
    assert!(error.to_string().starts_with("flag --http-listen: `http.listen` is \"8080\", but must be"));
}

#[test]
fn the_short_log_variable_gives_way_to_the_long_one() {
    let both = pairs(&[("RELAYD_LOG_FILTER", "debug"), ("RELAYD_LOG", "trace")]);
    assert_eq!(Config::fold(&[read_environment(&both).unwrap()]).log.filter, "debug");
    let short = pairs(&[("RELAYD_LOG", "trace")]);
    assert_eq!(Config::fold(&[read_environment(&short).unwrap()]).log.filter, "trace");
}

#[test]
fn an_address_that_others_can_reach_is_refused_and_why_is_told() {
    for key in ["http", "ops", "webrtc"] {
        for address in ["0.0.0.0:8080", "192.0.2.1:8080", "[::]:8080", "[::ffff:192.0.2.1]:8080"] {
            let text = message(&format!("[{key}]\nlisten = \"{address}\"\n"));
            assert!(text.starts_with(&format!("`{key}.listen` is {address}")), "{text}");
            assert!(text.contains("no tokens are configured") && text.contains("reverse proxy"), "{text}");
        }
    }
    for address in ["127.0.0.1:0", "127.9.9.9:80", "[::1]:0", "[::ffff:127.0.0.1]:80"] {
        from_file(&format!("[http]\nlisten = \"{address}\"\n")).unwrap();
    }
}

#[test]
fn zero_limits_are_refused() {
    assert_eq!(message("[sessions]\nmax = 0\n"), "`sessions.max` is 0, but must be at least 1");
    assert_eq!(
        message("[http]\nbody_timeout = \"0s\"\n"),
        "`http.body_timeout` is 0s, but must be at least 1ms"
    );
}

#[test]
fn limits_that_cannot_be_kept_are_refused() {
    assert_eq!(
        message("[http]\nmax_sdp = \"65KiB\"\n"),
        "`http.max_sdp` is 66560, but must be at most 65536"
    );
    let huge = usize::MAX >> 1;
    assert!(message(&format!("[http]\nmax_json = {huge}\n")).ends_with("must be at most 1048576"));
    assert_eq!(message("[media]\nhistory = \"61m\"\n"), "`media.history` is 3660s, but must be at most 1h");
    for key in ["http.header_timeout", "http.write_timeout", "sessions.ended_memory", "webrtc.ice_timeout"] {
        let (section, name) = key.split_once('.').unwrap();
        let text = message(&format!("[{section}]\n{name} = \"9999999999999h\"\n"));
        assert!(text.starts_with(&format!("`{key}` is ")) && text.ends_with("at most 8760h"), "{text}");
    }
}

#[test]
fn values_that_mean_nothing_are_refused() {
    for (text, key) in [
        ("[log]\nfilter = \"relayd=loud\"\n", "log.filter"),
        ("[http]\npublic_url = \"relay.example\"\n", "http.public_url"),
        ("[http]\npublic_url = \"https://\"\n", "http.public_url"),
        ("[http]\npublic_url = \"https://a b\"\n", "http.public_url"),
        ("[http]\npublic_url = \"https://me@relay.example\"\n", "http.public_url"),
        ("[http]\npublic_url = \"https://relay.example/base\"\n", "http.public_url"),
        ("[http]\nallowed_origins = [\"https://a.example/x\"]\n", "http.allowed_origins"),
        ("[http]\nallowed_origins = [\"*\"]\n", "http.allowed_origins"),
        ("[http]\nallowed_origins = [\"https://a.example/\"]\n", "http.allowed_origins"),
        ("[http]\nallowed_hosts = [\"https://a.example\"]\n", "http.allowed_hosts"),
    ] {
        assert!(message(text).starts_with(&format!("`{key}` is ")), "{}", message(text));
    }
    from_file("[http]\npublic_url = \"https://relay.example:8443/\"\n").unwrap();
    from_file("[http]\npublic_url = \"http://[::1]:8080\"\n").unwrap();
}

#[test]
fn a_missing_file_is_named() {
    let sources = Sources { file: Some("/nonexistent/relay.toml".into()), ..Sources::default() };
    let text = Config::load(&sources).unwrap_err().to_string();
    assert!(
        text.starts_with("cannot read the configuration file /nonexistent/relay.toml: No such file"),
        "{text}"
    );
}

#[test]
fn only_a_fresh_clone_is_bare() {
    assert!(Sources::default().is_bare());
    assert!(
        Sources { environment: pairs(&[("RELAYD_LOG", "debug"), ("PATH", "/")]), ..Sources::default() }
            .is_bare()
    );
    let set = pairs(&[("RELAYD_HTTP_LISTEN", "127.0.0.1:1")]);
    assert!(!Sources { environment: set, ..Sources::default() }.is_bare());
    assert!(!Sources { file: Some("x".into()), ..Sources::default() }.is_bare());
}

proptest! {
    #[test]
    fn durations_and_sizes_read_back(millis in 0u64..10_000_000, bytes in 0usize..100_000_000) {
        let unquoted = |literal: String| Raw::Word(literal.trim_matches('"').to_owned());
        let duration = Duration::from_millis(millis);
        prop_assert_eq!(Duration::read(&unquoted(duration.literal())), Some(duration));
        let size = ByteSize::new(bytes);
        prop_assert_eq!(ByteSize::read(&unquoted(size.literal())), Some(size));
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,80}") {
        drop(from_file(&text));
        std::hint::black_box(Duration::read(&Raw::Word(text.clone())));
        std::hint::black_box(ByteSize::read(&Raw::Word(text)));
    }
}
