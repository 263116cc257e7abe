//! `relayd refresh`.

use std::io::Write;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::Exit;
use super::client::fail;
use crate::client::{RefreshOrder, order_refresh};

const AFTER_HELP: &str = "\
Clients that follow the session's events, or their connection's server-sent events, open a new
connection beside the one that they have; it takes over without a gap, and the relay closes the old
one. Others keep the one that they have. `relayd publish`, `relayd listen` and the pages follow.

Examples:
  relayd refresh http://127.0.0.1:8080/v1/sessions/golden-eagle-427
  relayd refresh http://127.0.0.1:8080/v1/sessions/golden-eagle-427 --role listener --language es

Exit codes:
  0  ordered; the answer says how many are asked
  2  wrong usage
  4  the relay could not be reached
  5  the relay refused: no such session, no valid token";

/// Have connections of a session replaced by new ones, without a gap.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// The session's address: http://HOST:PORT/v1/sessions/SESSION.
    #[arg(value_name = "URL")]
    url: String,
    /// Only those who speak, or those who listen.
    #[arg(long, value_parser = ["publisher", "listener"])]
    role: Option<String>,
    /// Only those of this language.
    #[arg(long, value_name = "TAG")]
    language: Option<String>,
    /// Only the connection of this name: the end of its Location.
    #[arg(long, value_name = "NAME")]
    leg: Option<String>,
    /// Bearer token of somebody who runs the session; better given by the environment, where no other user sees it.
    #[arg(long, env = "RELAYD_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    /// PEM file of certificate authorities to trust besides the public ones.
    #[arg(long, value_name = "FILE.pem")]
    ca_file: Option<PathBuf>,
    /// The answer as one line of JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub(super) fn run(args: &Args) -> Exit {
    let said = [("role", &args.role), ("language", &args.language), ("leg", &args.leg)];
    let body: Map<String, Value> = said
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), json!(value.as_ref()?))))
        .collect();
    let order = RefreshOrder {
        session: args.url.clone(),
        token: args.token.clone(),
        ca_file: args.ca_file.clone(),
        body: Value::Object(body).to_string(),
    };
    match order_refresh(order) {
        Ok(ordered) if args.json => print(&json!({ "ordered": ordered }).to_string()),
        Ok(1) => print("1 connection is asked to be replaced"),
        Ok(ordered) => print(&format!("{ordered} connections are asked to be replaced")),
        Err(error) => fail(&error),
    }
}

fn print(line: &str) -> Exit {
    if writeln!(std::io::stdout(), "{line}").is_ok() { Exit::Ok } else { Exit::Failed }
}
