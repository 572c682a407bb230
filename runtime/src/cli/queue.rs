//! `postern queue …`: asks the running gateway, and shows what it says.
//!
//! Nothing defaults to all, and a queue of any length is listed and changed in steps, in little memory here and there.

mod shown;

use std::io::Write;
use std::path::Path;

use jiff::Timestamp;
use serde_json::{Value, json};

use self::shown::{summaries, write_detail};
use super::control::{
    Cause, Changed, Client, Detail, Left, MAX_IDS, MAX_PAGE, Request, Response, Selection, State, Summary, Verb,
};
use super::terminal::{json_line, plural};
use super::{CliError, Context, FAILED, OK, Queue, Streams, Which};
use crate::mail::MessageId;

/// Messages named in the answer that were not changed.
const MAX_LEFT: usize = 20;

pub(super) fn run(queue: &Queue, context: &Context<'_>, streams: &mut Streams<'_>) -> Result<u8, CliError> {
    if let Queue::Flush(which) | Queue::Hold(which) | Queue::Release(which) | Queue::Delete(which) = queue {
        which.check()?;
    }
    let socket = context.control_socket()?;
    run_at(&socket, queue, context.json, streams.out)
}

fn run_at(socket: &Path, queue: &Queue, json: bool, out: &mut dyn Write) -> Result<u8, CliError> {
    let mut client = Client::connect(socket)?;
    let now = Timestamp::now();
    let (verb, which) = match queue {
        Queue::List { selection, limit } => {
            let total = list(&mut client, &[], selection, limit.unwrap_or(u64::MAX), |messages| {
                show_page(out, messages, json, now)
            })?;
            if !json {
                writeln!(out, "{total} message{}", plural(total))?;
            }
            return Ok(OK);
        }
        Queue::Show(one) => {
            let message = show(&mut client, one.id)?;
            if json {
                line(out, &json!(message))?;
            } else {
                write_detail(out, &message, now)?;
            }
            return Ok(OK);
        }
        Queue::Flush(which) => (Verb::Flush, which),
        Queue::Hold(which) => (Verb::Hold, which),
        Queue::Release(which) => (Verb::Release, which),
        Queue::Delete(which) => (Verb::Delete, which),
    };
    if which.dry_run {
        dry_run(&mut client, verb, which, json, now, out)
    } else {
        change(&mut client, verb, which, json, out)
    }
}

impl Which {
    /// Nothing defaults to all.
    pub(super) fn check(&self) -> Result<(), CliError> {
        if self.ids.is_empty() && self.selection.is_empty() && !self.all {
            let say = "say which messages: their ids, options that select them, or --all";
            return Err(CliError::Usage(say.to_owned()));
        }
        Ok(())
    }
}

/// Page by page; the number of messages.
fn list(
    client: &mut Client,
    ids: &[MessageId],
    selection: &Selection,
    most: u64,
    mut page: impl FnMut(&[Summary]) -> Result<(), CliError>,
) -> Result<u64, CliError> {
    let mut after = None;
    let mut total = 0_u64;
    while total < most {
        let limit = u32::try_from(most - total).unwrap_or(MAX_PAGE).min(MAX_PAGE);
        let request = Request::List { ids: ids.to_vec(), selection: selection.clone(), after, limit };
        let (messages, next) = match client.ask(&request)? {
            Response::Messages { messages, next } => (messages, next),
            other => return Err(other.unexpected().into()),
        };
        total += messages.len() as u64;
        page(&messages)?;
        if next.is_none() {
            break;
        }
        after = next;
    }
    Ok(total)
}

fn show_page(out: &mut dyn Write, messages: &[Summary], json: bool, now: Timestamp) -> Result<(), CliError> {
    match json {
        true => messages.iter().try_for_each(|message| line(out, &json!(message)))?,
        false if !messages.is_empty() => write!(out, "{}", summaries(messages, now))?,
        false => {}
    }
    Ok(())
}

fn show(client: &mut Client, id: MessageId) -> Result<Detail, CliError> {
    match client.ask(&Request::Show { id })? {
        Response::Message { message } => Ok(*message),
        other => Err(other.unexpected().into()),
    }
}

/// Lists what the verb would touch, and touches nothing.
fn dry_run(
    client: &mut Client,
    verb: Verb,
    which: &Which,
    json: bool,
    now: Timestamp,
    out: &mut dyn Write,
) -> Result<u8, CliError> {
    let (mut count, mut listed) = (0_u64, 0_u64);
    for ids in batches(&which.ids) {
        listed += list(client, ids, &which.selection, u64::MAX, |messages| {
            let touched: Vec<Summary> = messages.iter().filter(|message| verb.fits(message.state)).cloned().collect();
            count += touched.len() as u64;
            show_page(out, &touched, json, now)
        })?;
    }
    let missing = (which.ids.len() as u64).saturating_sub(listed);
    if json {
        line(out, &json!({ "dry_run": true, "verb": verb, "count": count, "missing": missing }))?;
    } else {
        writeln!(out, "{count} message{} would be {}; nothing was changed", plural(count), verb.done())?;
        if missing > 0 {
            writeln!(out, "{missing} not in the queue")?;
        }
    }
    Ok(if which.ids.is_empty() || count == which.ids.len() as u64 { OK } else { FAILED })
}

/// Each id once is enough; without ids one batch for what is selected.
fn batches(ids: &[MessageId]) -> Vec<&[MessageId]> {
    if ids.is_empty() { vec![&[]] } else { ids.chunks(MAX_IDS).collect() }
}

/// Step by step, to the end.
fn change(client: &mut Client, verb: Verb, which: &Which, json: bool, out: &mut dyn Write) -> Result<u8, CliError> {
    let mut sum = Changed::default();
    for ids in batches(&which.ids) {
        let mut cursor = None;
        loop {
            let selection = which.selection.clone();
            let request = Request::Change { verb, ids: ids.to_vec(), selection, all: which.all, cursor };
            match client.ask(&request) {
                Ok(Response::Changed { changed }) => {
                    cursor = changed.next;
                    sum.add(changed);
                }
                // What was done until then stays done, and must be known.
                refused if sum.changed > 0 => {
                    report(out, verb, &sum, json)?;
                    return Err(refused.map(Response::unexpected).unwrap_or_else(|error| error).into());
                }
                refused => return Err(refused.map(Response::unexpected).unwrap_or_else(|error| error).into()),
            }
            if cursor.is_none() {
                break;
            }
        }
    }
    report(out, verb, &sum, json)?;
    let all_named = sum.changed >= which.ids.len() as u64;
    Ok(if all_named && sum.unreadable == 0 { OK } else { FAILED })
}

impl Changed {
    fn add(&mut self, step: Self) {
        self.changed = self.changed.saturating_add(step.changed);
        self.busy = self.busy.saturating_add(step.busy);
        self.missing = self.missing.saturating_add(step.missing);
        self.unfit = self.unfit.saturating_add(step.unfit);
        self.unreadable = self.unreadable.saturating_add(step.unreadable);
        let room = MAX_LEFT.saturating_sub(self.left.len());
        self.left.extend(step.left.into_iter().take(room));
    }
}

fn report(out: &mut dyn Write, verb: Verb, sum: &Changed, json: bool) -> Result<(), CliError> {
    if json {
        let Changed { changed, busy, missing, unfit, unreadable, left, next: _ } = sum;
        let answer = json!({
            "verb": verb, "changed": changed, "busy": busy, "missing": missing, "unfit": unfit,
            "unreadable": unreadable, "left": left,
        });
        line(out, &answer)?;
        return Ok(());
    }
    writeln!(out, "{} message{} {}", sum.changed, plural(sum.changed), verb.done())?;
    for Left { id, cause } in &sum.left {
        writeln!(out, "  {id} {}", cause.told(verb))?;
    }
    let left = sum.busy + sum.missing + sum.unfit + sum.unreadable;
    match left.saturating_sub(sum.left.len() as u64) {
        0 => {}
        more => writeln!(out, "  and {more} more not {}", verb.done())?,
    }
    Ok(())
}

impl Verb {
    /// What was done to the messages.
    const fn done(self) -> &'static str {
        match self {
            Self::Flush => "tried now",
            Self::Hold => "held",
            Self::Release => "released",
            Self::Delete => "deleted",
        }
    }

    /// A message in this state would be changed.
    fn fits(self, state: State) -> bool {
        match self {
            Self::Flush | Self::Hold => matches!(state, State::Ready | State::Waiting),
            Self::Release => matches!(state, State::Held | State::Quarantined),
            Self::Delete => state != State::Delivering,
        }
    }
}

impl Cause {
    const fn told(self, verb: Verb) -> &'static str {
        match (self, verb) {
            (Self::Busy, _) => "is being delivered right now: left alone, try again",
            (Self::Missing, _) => "is not in the queue",
            (Self::Unreadable, _) => "can't be read from the spool",
            (Self::Unfit, Verb::Flush) => "is held or in quarantine: release it",
            (Self::Unfit, Verb::Hold) => "is held or in quarantine already",
            (Self::Unfit, _) => "is neither held nor in quarantine",
        }
    }
}

fn line(out: &mut dyn Write, value: &Value) -> Result<(), CliError> {
    Ok(writeln!(out, "{}", json_line(value))?)
}

#[cfg(test)]
mod tests {
    use super::shown::sample::{detail, summary};
    use super::*;
    use crate::cli::One;
    use crate::cli::control::{Cursor, ErrorKind, bind, serve};

    fn id(n: u64) -> MessageId {
        MessageId::from_u64(n)
    }

    /// A gateway with messages 1 to 501, of which 2 is being delivered and 4 held; it changes two in a step.
    async fn answer(request: Request) -> Response {
        match request {
            Request::List { selection, .. } if selection.from.as_deref() == Some("<>") => {
                Response::Messages { messages: vec![summary(1)], next: None }
            }
            Request::List { ids, .. } if !ids.is_empty() => {
                let messages = ids.iter().map(|id| id.as_u64()).filter(|n| *n <= 501).map(summary).collect();
                Response::Messages { messages, next: None }
            }
            Request::List { after, limit, .. } => {
                let first = after.map_or(1, |id| id.as_u64() + 1);
                let last = 501.min(first + u64::from(limit) - 1);
                let next = (last < 501).then_some(id(last));
                Response::Messages { messages: (first..=last).map(summary).collect(), next }
            }
            Request::Show { id } if id.as_u64() == 2 => Response::Message { message: Box::new(detail()) },
            Request::Change { ids, .. } if !ids.is_empty() => {
                let left = |id: &MessageId| match id.as_u64() {
                    2 => Some(Left { id: *id, cause: Cause::Busy }),
                    502.. => Some(Left { id: *id, cause: Cause::Missing }),
                    _ => None,
                };
                let left: Vec<Left> = ids.iter().filter_map(left).collect();
                let of = |cause| left.iter().filter(|left| left.cause == cause).count() as u64;
                let (busy, missing) = (of(Cause::Busy), of(Cause::Missing));
                let changed = ids.len() as u64 - busy - missing;
                Response::Changed { changed: Changed { changed, busy, missing, left, ..Changed::default() } }
            }
            Request::Change { cursor, .. } => {
                let after = cursor.map_or(0, |cursor: Cursor| cursor.after.as_u64()) + 2;
                let next = (after < 501).then_some(Cursor { after: id(after), until: id(501) });
                Response::Changed { changed: Changed { changed: 2, next, ..Changed::default() } }
            }
            _ => Response::error(ErrorKind::NotFound, "no such message"),
        }
    }

    async fn ask(queue: Queue, json: bool) -> (Result<u8, CliError>, String) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control.sock");
        let gateway = serve(bind(&socket).unwrap(), answer);
        let command = tokio::task::spawn_blocking(move || {
            let mut out = Vec::new();
            let result = run_at(&socket, &queue, json, &mut out);
            (result, String::from_utf8(out).unwrap())
        });
        tokio::select! {
            () = gateway => unreachable!("it serves for ever"),
            result = command => result.unwrap(),
        }
    }

    fn named(ids: &[u64], dry_run: bool) -> Which {
        Which { ids: ids.iter().copied().map(id).collect(), dry_run, ..Which::default() }
    }

    #[tokio::test]
    async fn a_long_queue_comes_in_pages() {
        let list = |limit| Queue::List { selection: Selection::default(), limit };
        let (code, out) = ask(list(None), true).await;
        assert_eq!(code.unwrap(), OK);
        assert_eq!(out.lines().count(), 501);
        let last: Summary = serde_json::from_str(out.lines().last().unwrap()).unwrap();
        assert_eq!(last, summary(501));
        assert!(ask(list(None), false).await.1.ends_with("501 messages\n"));
        assert!(ask(list(Some(3)), false).await.1.ends_with("\n3 messages\n"));
    }

    #[tokio::test]
    async fn a_selection_is_listed_and_a_message_shown() {
        let selection = Selection { from: Some("<>".to_owned()), ..Selection::default() };
        let (_, out) = ask(Queue::List { selection, limit: None }, false).await;
        assert!(out.ends_with("\n1 message\n"), "{out}");
        let (_, out) = ask(Queue::Show(One { id: id(2) }), true).await;
        assert_eq!(serde_json::from_str::<Detail>(&out).unwrap(), detail());
    }

    #[tokio::test]
    async fn a_dry_run_shows_what_would_be_touched() {
        let (code, out) = ask(Queue::Delete(named(&[2], true)), false).await;
        assert_eq!(code.unwrap(), OK);
        assert!(out.ends_with("1 message would be deleted; nothing was changed\n"), "{out}");
        let all = || Which { all: true, dry_run: true, ..Which::default() };
        let (_, out) = ask(Queue::Hold(all()), true).await;
        let last: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
        assert_eq!((out.lines().count(), &last["count"]), (502, &json!(501)));
        let (_, out) = ask(Queue::Release(all()), false).await;
        assert_eq!(out, "0 messages would be released; nothing was changed\n");
        let (code, out) = ask(Queue::Flush(named(&[2, 900], true)), false).await;
        assert_eq!(code.unwrap(), FAILED);
        assert!(out.ends_with("1 not in the queue\n"), "{out}");
    }

    #[tokio::test]
    async fn what_is_named_and_not_changed_is_told() {
        let (code, out) = ask(Queue::Delete(named(&[1, 2, 3, 900], false)), false).await;
        assert_eq!(code.unwrap(), FAILED);
        let expected = format!(
            "2 messages deleted\n  {} is being delivered right now: left alone, try again\n  {} is not in the queue\n",
            id(2),
            id(900)
        );
        assert_eq!(out, expected);
        let (code, out) = ask(Queue::Flush(named(&[7], false)), true).await;
        assert_eq!(code.unwrap(), OK);
        assert!(out.contains("\"changed\":1"), "{out}");
        // More ids than one request holds.
        let many: Vec<u64> = std::iter::repeat_n(1, MAX_IDS + 1).collect();
        assert_eq!(ask(Queue::Hold(named(&many, false)), false).await.1, "1001 messages held\n");
    }

    #[tokio::test]
    async fn a_long_queue_is_changed_in_steps() {
        let which = Which { all: true, ..Which::default() };
        assert_eq!(ask(Queue::Delete(which), false).await.1, "502 messages deleted\n");
    }

    #[test]
    fn nothing_defaults_to_all() {
        assert!(matches!(Which::default().check(), Err(CliError::Usage(_))));
        let selection = Selection { tenant: Some("acme".to_owned()), ..Selection::default() };
        for which in
            [named(&[1], false), Which { selection, ..Which::default() }, Which { all: true, ..Which::default() }]
        {
            assert!(which.check().is_ok());
        }
    }
}
