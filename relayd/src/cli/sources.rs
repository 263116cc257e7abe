//! The flags that every subcommand with a configuration takes, and where the configuration comes from.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::config::{Config, ConfigError, Sources};

/// Flags that set the configuration.
#[derive(Debug, Default, clap::Args)]
pub(super) struct ConfigArgs {
    /// The configuration file (TOML). Default: that of RELAYD_CONFIG, else none, the built-in defaults.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address of the API and the pages [http.listen].
    #[arg(long, value_name = "IP:PORT")]
    http_listen: Option<String>,
    /// UDP address of all WebRTC peers [webrtc.listen].
    #[arg(long, value_name = "IP:PORT")]
    webrtc_listen: Option<String>,
    /// Address of /metrics, /healthz and /readyz [ops.listen].
    #[arg(long, value_name = "IP:PORT")]
    ops_listen: Option<String>,
    /// Create the demo session [demo.enabled].
    #[arg(long)]
    demo: bool,
    /// "text" or "json" [log.format].
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// What is logged: info, debug, relayd=debug,str0m=warn [log.filter].
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Any key of the file, e.g. --set sessions.max=10. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl ConfigArgs {
    /// The effective configuration; a file named here stands in for `--config`.
    pub(super) fn load(&self, file: Option<&PathBuf>) -> Result<Config, ConfigError> {
        Config::load(&self.sources(file))
    }

    /// The same for a relay that is to run: where nobody configured anything, it has the demo session.
    pub(super) fn load_to_serve(&self) -> Result<Config, ConfigError> {
        let sources = self.sources(None);
        let mut config = Config::load(&sources)?;
        config.demo.enabled |= sources.is_bare();
        Ok(config)
    }

    /// The configuration file that is named, if one is.
    pub(super) fn file(&self) -> Option<PathBuf> {
        chosen(self.config.as_ref(), std::env::var_os("RELAYD_CONFIG"))
    }

    fn sources(&self, file: Option<&PathBuf>) -> Sources {
        Sources {
            file: file.cloned().or_else(|| self.file()),
            // What is not text cannot be one of ours.
            environment: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
            flags: self.flags(),
        }
    }

    fn flags(&self) -> Vec<(String, String, String)> {
        let named = [
            ("--http-listen", "http.listen", &self.http_listen),
            ("--webrtc-listen", "webrtc.listen", &self.webrtc_listen),
            ("--ops-listen", "ops.listen", &self.ops_listen),
            ("--log-format", "log.format", &self.log_format),
            ("--log", "log.filter", &self.log),
        ];
        let mut flags: Vec<(String, String, String)> = self
            .set
            .iter()
            .map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                // Without the value: it may be a secret.
                (format!("--set {key}"), key.trim().to_owned(), value.trim().to_owned())
            })
            .collect();
        for (flag, key, value) in named {
            flags.extend(value.iter().map(|value| (flag.to_owned(), key.to_owned(), value.clone())));
        }
        if self.demo {
            flags.push(("--demo".to_owned(), "demo.enabled".to_owned(), "true".to_owned()));
        }
        flags
    }
}

/// The flag before the variable; one that is empty counts as not set, as with every program that takes variables.
fn chosen(flag: Option<&PathBuf>, variable: Option<OsString>) -> Option<PathBuf> {
    flag.cloned().or_else(|| variable.filter(|value| !value.is_empty()).map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_is_empty_names_no_file() {
        let (flag, variable) = (PathBuf::from("flag.toml"), OsString::from("variable.toml"));
        assert_eq!(chosen(None, None), None);
        assert_eq!(chosen(None, Some(OsString::new())), None);
        assert_eq!(chosen(None, Some(variable.clone())), Some("variable.toml".into()));
        assert_eq!(chosen(Some(&flag), Some(variable)), Some(flag));
    }
}
