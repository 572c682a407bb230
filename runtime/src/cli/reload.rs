//! `postern reload`.

use super::control::{Client, Request, Response};
use super::terminal::printable;
use super::{CliError, Context, OK, Streams, WRONG};

pub(super) fn run(context: &Context<'_>, streams: &mut Streams<'_>) -> Result<u8, CliError> {
    // The gateway looks at the config, and not we: so a refusal is counted, logged and seen in its status.
    match Client::connect(&context.control_socket()?)?.ask(&Request::Reload)? {
        Response::Done { message, .. } if context.json => {
            writeln!(streams.out, "{}", serde_json::json!({ "ok": true, "message": message }))?;
        }
        // Below what has become of it may stand what doesn't work.
        Response::Done { message, .. } => {
            message.lines().try_for_each(|line| writeln!(streams.out, "{}", printable(line)))?;
        }
        // Mistakes of the config, with places and marks.
        Response::Error { message, .. } if !context.json => {
            writeln!(streams.err, "{}", message.trim_end())?;
            return Ok(WRONG);
        }
        other => return Err(other.unexpected().into()),
    }
    Ok(OK)
}
