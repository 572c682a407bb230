//! `postern reload`.

use super::control::{Client, Request, Response};
use super::terminal::printable;
use super::{CliError, Context, OK, Streams};

pub(super) fn run(context: &Context<'_>, streams: &mut Streams<'_>) -> Result<u8, CliError> {
    // Whoever asks sees the mistakes here, with their places, before the gateway looks.
    let settings = context.settings()?;
    match Client::connect(&settings.control_socket())?.ask(&Request::Reload)? {
        Response::Done { message, .. } if context.json => {
            writeln!(streams.out, "{}", serde_json::json!({ "ok": true, "message": message }))?;
        }
        Response::Done { message, .. } => writeln!(streams.out, "{}", printable(&message))?,
        other => return Err(other.unexpected().into()),
    }
    Ok(OK)
}
