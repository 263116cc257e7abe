//! `relayd token`: issue tokens, look into them, make a secret.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::Exit;
use super::sources::ConfigArgs;
use crate::auth::{
    self, AudienceClaim, Authority, Caller, Claims, MAX_TOKEN_BYTES, RelayClaim, Role, Scope, SigningKey,
};
use crate::config::{self, Config};
use crate::outbound::Outbound;

/// Issue tokens, look into them, make a secret.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Issue a token and print it.
    ///
    /// It is signed with the private key of --key, else with the secret of --secret-file, else with that of the
    /// configuration.
    Issue(Box<Issue>),
    /// Show what a token says, and what a relay with this configuration says of it.
    Inspect(Inspect),
    /// Print a random secret for auth.secret or auth.secret_file.
    Secret {
        /// One for webhooks.secret instead, as receivers of Standard Webhooks want it.
        #[arg(long)]
        webhook: bool,
    },
}

const AFTER_HELP: &str = "\
Examples:
  relayd token secret > relay.secret
  relayd token issue --secret-file relay.secret --subject ann --role speak
  relayd token issue --secret-file relay.secret --subject bob --role listen \\
      --session golden-eagle-427 --lifetime 10m
  relayd token issue --key issuer.pem --kid 2026-1 --issuer https://issuer.example \\
      --subject ann --role admin --session '*'
  relayd token inspect --config relay.toml eyJhbGciOi…
  relayd token inspect --config relay.toml - < token

Exit codes:
  0  issued; or the relay takes the token
  1  failed: output, a key file
  2  wrong usage or configuration
  5  the relay refuses the token";

#[derive(Debug, clap::Args)]
struct Issue {
    /// Whom the token speaks of [claim sub].
    #[arg(long, value_name = "NAME")]
    subject: String,
    /// What its holder may be [claim relay.role].
    #[arg(long, value_enum)]
    role: RoleName,
    /// The session: an id, or '*' for those of the issuer [claim relay.session]. Default: those of the subject.
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// A language to publish in or listen to; may be repeated [claim relay.languages]. Default: all.
    #[arg(long = "language", value_name = "TAG")]
    languages: Vec<String>,
    /// Allow to take a speaker's place [claim relay.takeover].
    #[arg(long)]
    takeover: bool,
    /// How long it is valid.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = lifetime)]
    lifetime: Duration,
    /// Who issues it [claim iss]. Default: the first of auth.issuers, else "relayd".
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    /// For which relays it is [claim aud]. Default: auth.audience.
    #[arg(long, value_name = "NAME")]
    audience: Option<String>,
    /// The file of the shared secret: HS256.
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    secret_file: Option<PathBuf>,
    /// The file of a private key in PEM: RS256, ES256 or EdDSA, by the kind of the key.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// The key's name in the key set [header kid].
    #[arg(long, value_name = "NAME", requires = "key", conflicts_with = "secret_file")]
    kid: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Debug, clap::Args)]
struct Inspect {
    /// The token; "-" or nothing: from standard input, where other users of the machine do not see it.
    token: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
}

/// The roles, as flags take them.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleName {
    Speak,
    Listen,
    Moderate,
    Admin,
}

/// Runs the subcommand.
pub(super) fn run(args: &Args) -> Exit {
    match args.execute(std::io::stdin()) {
        // Written, not printed: a reader that has gone is no reason to panic.
        Ok((text, exit)) => match writeln!(std::io::stdout(), "{text}") {
            Ok(()) => exit,
            Err(_) => Exit::Failed,
        },
        Err((exit, why)) => {
            eprintln!("relayd: {why}");
            exit
        }
    }
}

impl Args {
    /// What to print, and the exit code.
    fn execute(&self, input: impl Read) -> Result<(String, Exit), Failure> {
        match &self.command {
            Command::Issue(issue) => Ok((issue.token()?, Exit::Ok)),
            Command::Inspect(inspect) => inspect.verdict(input),
            Command::Secret { webhook: false } => Ok((auth::random_secret(), Exit::Ok)),
            Command::Secret { webhook: true } => Ok((auth::random_webhook_secret(), Exit::Ok)),
        }
    }
}

/// The exit code and what to say of it.
type Failure = (Exit, String);

impl Issue {
    fn token(&self) -> Result<String, Failure> {
        let config = self.config.load(None).map_err(usage)?;
        let key = self.signing_key(&config)?;
        let wall = auth::unix_now();
        let claims = Claims {
            iss: self
                .issuer
                .clone()
                .or_else(|| config.auth.issuers.first().cloned())
                .unwrap_or_else(|| "relayd".into()),
            sub: self.subject.clone(),
            aud: AudienceClaim::One(self.audience.clone().unwrap_or_else(|| config.auth.audience.clone())),
            exp: auth::expiry(wall, self.lifetime),
            nbf: None,
            iat: Some(wall.as_secs()),
            jti: Some(format!("{:032x}", rand::random::<u128>())),
            relay: RelayClaim {
                v: Some(1),
                session: self.session.clone(),
                role: self.role.into(),
                languages: (!self.languages.is_empty()).then(|| self.languages.clone()),
                takeover: self.takeover.then_some(true),
            },
        };
        claims.check().map_err(usage)?;
        key.issue(&claims).map_err(usage)
    }

    fn signing_key(&self, config: &Config) -> Result<SigningKey, Failure> {
        let read = |path: &PathBuf| {
            std::fs::read(path)
                .map_err(|error| (Exit::Failed, format!("cannot read {}: {error}", path.display())))
        };
        let named = |path: &PathBuf, error: auth::IssueError| usage(format!("{}: {error}", path.display()));
        match (&self.key, &self.secret_file) {
            (Some(path), _) => {
                SigningKey::pem(&read(path)?, self.kid.clone()).map_err(|error| named(path, error))
            }
            (None, Some(path)) => {
                SigningKey::secret(read(path)?.trim_ascii()).map_err(|error| named(path, error))
            }
            (None, None) => match auth::secret(&config.auth).map_err(usage)? {
                Some(secret) => SigningKey::secret(secret.as_bytes()).map_err(usage),
                None => Err(usage(NO_KEY)),
            },
        }
    }
}

impl Inspect {
    fn verdict(&self, input: impl Read) -> Result<(String, Exit), Failure> {
        let config = self.config.load(None).map_err(usage)?;
        let token = match self.token.as_deref() {
            Some(token) if token != "-" => token.to_owned(),
            _ => {
                let mut text = String::new();
                let mut input = input.take(4 * MAX_TOKEN_BYTES as u64);
                input.read_to_string(&mut text).map_err(|error| (Exit::Failed, error.to_string()))?;
                text
            }
        };
        let token = token.trim();
        let (verdict, exit) = verdict(&config, token)?;
        let (header, claims) = auth::peek(token).unwrap_or((Value::Null, Value::Null));
        let shown = json!({ "header": header, "claims": claims, "relay": verdict });
        Ok((format!("{shown:#}"), exit))
    }
}

/// What a relay with this configuration says of a token.
fn verdict(config: &Config, token: &str) -> Result<(Value, Exit), Failure> {
    let outbound = Outbound::new(&config.outbound).map_err(usage)?;
    let authority = Authority::new(&config.auth, outbound).map_err(usage)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| (Exit::Failed, error.to_string()))?;
    let now = Instant::now();
    Ok(match runtime.block_on(authority.authenticate(now, Some(token))) {
        Ok(Caller::Token(grant)) => {
            let sessions = match &grant.scope {
                Scope::Own => format!("those that {} created", grant.subject),
                Scope::Issuer => format!("those of the issuer {}", grant.subject.issuer),
                Scope::Session(id) => id.clone(),
            };
            let taken = json!({
                "taken": true, "role": grant.role, "sessions": sessions, "languages": grant.languages,
                "takeover": grant.takeover, "expiresInSeconds": (grant.expires - now).as_secs(),
            });
            (taken, Exit::Ok)
        }
        Ok(Caller::Open | Caller::Anonymous) => (
            json!({ "taken": true, "why": "this configuration has no keys and takes anybody (auth.mode = \"open\")" }),
            Exit::Ok,
        ),
        Err(error) => {
            (json!({ "taken": false, "reason": error.reason(), "why": error.to_string() }), Exit::Refused)
        }
    })
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Speak => Self::Speak,
            RoleName::Listen => Self::Listen,
            RoleName::Moderate => Self::Moderate,
            RoleName::Admin => Self::Admin,
        }
    }
}

fn lifetime(text: &str) -> Result<Duration, String> {
    let duration = config::duration(text).filter(|duration| !duration.is_zero());
    duration.ok_or_else(|| "it must be a duration with its unit such as 30s, 10m or 12h".to_owned())
}

fn usage(error: impl ToString) -> Failure {
    (Exit::Usage, error.to_string())
}

const NO_KEY: &str = "no key to sign with: name one with --secret-file or --key, or a configuration that has a secret \
    with --config (`relayd token secret` makes one)";

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
