//! The operator's requests over the control socket, answered by the queue.

use std::sync::Arc;

use super::live::{Live, Refusal};
use super::status::Facts;
use crate::cli::control::{
    self, Cause, Cursor, Detail, ErrorKind, Left, RecipientDetail, Request, Response, Selection, State, Summary, Verb,
};
use crate::mail::MessageId;
use crate::queue::{self, Changed, Filter, Queue, Standing, Status, VerbError};

/// Messages that one step of a verb changes at most.
const STEP: usize = 2000;
/// Messages that the answer names of those that were not changed.
const MAX_LEFT: usize = 20;

/// One request.
pub async fn answer(request: Request, queue: Arc<Queue>, live: Arc<Live>, facts: Arc<Facts>) -> Response {
    match request {
        Request::List { ids, selection, after, limit } => {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            list(&queue, &Filter { ids, after, limit: Some(limit), ..to_filter(selection) }).await
        }
        Request::Show { id } => show(&queue, id).await,
        Request::Change { verb, ids, selection, all: _, cursor } => {
            let Some(until) = cursor.map(|cursor| cursor.until).or_else(|| queue.latest()) else {
                // An empty queue has none of them.
                return to_changed(Changed { missing: ids, ..Changed::default() }, MessageId::from_u64(0));
            };
            let after = cursor.map(|cursor| cursor.after);
            // Those that are named are no more than fit into a request, and may be later than `until`.
            let bounds = if ids.is_empty() { (Some(until), Some(STEP)) } else { (None, None) };
            let filter = Filter { ids, after, until: bounds.0, limit: bounds.1, ..to_filter(selection) };
            change(&queue, verb, &filter, until).await
        }
        Request::Status => Response::Status { status: Box::new(facts.vitals()) },
        Request::Reload => finished(live.reload().await.map_err(|why| Response::error(ErrorKind::Failed, why))),
        Request::PluginInstall { install, source } => finished(live.install(install, source).await.map_err(refused)),
        Request::PluginSwitch { scope, name, enabled } => {
            finished(live.switch(&scope, &name, enabled).await.map_err(refused))
        }
        Request::PluginRollback { scope, name } => finished(live.roll_back(&scope, &name).await.map_err(refused)),
        Request::PluginRemove { scope, name } => finished(live.remove(&scope, &name).await.map_err(refused)),
        Request::PluginList { scope } => {
            let plugins = live.plugins(scope.as_deref());
            plugins.map_or_else(refused, |plugins| Response::Plugins { plugins })
        }
        Request::PluginUsage { scope } => {
            let usage = live.usage(scope.as_deref());
            usage.map_or_else(refused, |usage| Response::Usage { usage })
        }
        Request::PluginShow { scope, name } => {
            let plugin = live.plugin(&scope, &name);
            plugin.map_or_else(refused, |plugin| Response::Plugin { plugin: Box::new(plugin) })
        }
    }
}

fn finished(result: Result<String, Response>) -> Response {
    result.map_or_else(|refused| refused, |message| Response::Done { message })
}

fn refused(refusal: Refusal) -> Response {
    let kind = match refusal {
        Refusal::NoPlugin { .. } => ErrorKind::NotFound,
        Refusal::Invalid(_) => ErrorKind::Invalid,
        Refusal::NotNow(_) => ErrorKind::Conflict,
        _ => ErrorKind::Failed,
    };
    Response::error(kind, refusal.to_string())
}

async fn change(queue: &Arc<Queue>, verb: Verb, filter: &Filter, until: MessageId) -> Response {
    let changed = match verb {
        Verb::Flush => queue.flush(filter).await,
        Verb::Hold => queue.hold(filter, "held by the operator").await,
        Verb::Release => queue.release(filter).await,
        Verb::Delete => queue.delete(filter).await,
    };
    match changed {
        Ok(changed) => to_changed(changed, until),
        Err(error) => failed(&error),
    }
}

fn to_changed(changed: Changed, until: MessageId) -> Response {
    let Changed { changed, busy, missing, unfit, unreadable, next } = changed;
    let count = |ids: &[MessageId]| ids.len() as u64;
    let causes =
        [(Cause::Missing, &missing), (Cause::Busy, &busy), (Cause::Unreadable, &unreadable), (Cause::Unfit, &unfit)];
    let left = causes.into_iter().flat_map(|(cause, ids)| ids.iter().map(move |id| Left { id: *id, cause }));
    Response::Changed {
        changed: control::Changed {
            changed: count(&changed),
            busy: count(&busy),
            missing: count(&missing),
            unfit: count(&unfit),
            unreadable: count(&unreadable),
            left: left.take(MAX_LEFT).collect(),
            next: next.map(|after| Cursor { after, until }),
        },
    }
}

async fn list(queue: &Queue, filter: &Filter) -> Response {
    match queue.list(filter).await {
        Err(error) => failed(&error),
        Ok(page) => Response::Messages { messages: page.messages.into_iter().map(summary).collect(), next: page.next },
    }
}

async fn show(queue: &Queue, id: MessageId) -> Response {
    match queue.show(id).await {
        Err(error) => failed(&error),
        Ok(detail) => Response::Message { message: Box::new(to_detail(detail)) },
    }
}

fn to_filter(selection: Selection) -> Filter {
    Filter {
        tenant: selection.tenant.map(Arc::from),
        sender: selection.from,
        recipient: selection.to,
        domain: selection.domain,
        destination: selection.destination,
        state: selection.state.map(to_standing),
        older_than: selection.age,
        error: selection.error,
        ..Filter::default()
    }
}

fn to_standing(state: State) -> Standing {
    match state {
        State::Ready => Standing::Ready,
        State::Waiting => Standing::Waiting,
        State::Delivering => Standing::Delivering,
        State::Held => Standing::Held,
        State::Quarantined => Standing::Quarantined,
    }
}

fn to_state(standing: Standing) -> State {
    match standing {
        Standing::Ready => State::Ready,
        Standing::Waiting => State::Waiting,
        Standing::Delivering => State::Delivering,
        Standing::Held => State::Held,
        Standing::Quarantined => State::Quarantined,
    }
}

fn summary(from: queue::Summary) -> Summary {
    Summary {
        id: from.id,
        state: to_state(from.state),
        arrived: from.arrival,
        tenant: from.tenant.map(|tenant| tenant.to_string()),
        sender: from.sender,
        recipient: from.recipient,
        recipients: from.recipients,
        size: from.size,
        attempts: from.attempts,
        next_attempt: from.next_attempt,
        reason: from.reason.or(from.destination_down).or(from.last_word),
    }
}

fn to_detail(from: queue::Detail) -> Detail {
    let session = from.accepted.session.as_ref();
    let recipients = from.accepted.envelope.recipients.iter().zip(&from.progress.recipients);
    let per_recipient = recipients.map(|(recipient, state)| RecipientDetail {
        address: recipient.mailbox.to_string(),
        state: status(state.status).to_owned(),
        route: from.accepted.route.as_ref().map(ToString::to_string),
        attempts: state.attempts,
        reply: state.last.as_ref().map(|last| last.text.clone()),
    });
    Detail {
        client: session.map(|session| session.client.to_string()),
        helo: session.and_then(|session| session.helo.as_ref()).map(|helo| helo.name.clone()),
        login: session.and_then(|session| session.login.as_ref()).map(|login| login.to_string()),
        tags: from.accepted.tags.clone(),
        per_recipient: per_recipient.collect(),
        header: from.header.join("\n"),
        expires: from.expires,
        summary: summary(from.summary),
    }
}

fn status(status: Status) -> &'static str {
    match status {
        Status::Pending => "pending",
        Status::Delivered => "delivered",
        Status::Relayed => "relayed",
        Status::Failed => "failed",
        Status::Expired => "expired",
    }
}

fn failed(error: &VerbError) -> Response {
    let kind = if matches!(error, VerbError::NotFound(_)) { ErrorKind::NotFound } else { ErrorKind::Failed };
    Response::error(kind, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_few_and_counts_all() {
        let ids = |range: std::ops::Range<u64>| range.map(MessageId::from_u64).collect::<Vec<_>>();
        let until = MessageId::from_u64(9999);
        let changed = Changed {
            changed: ids(0..2000),
            busy: ids(2000..2015),
            missing: ids(3000..3001),
            unfit: ids(4000..5000),
            unreadable: Vec::new(),
            next: Some(MessageId::from_u64(5000)),
        };
        let Response::Changed { changed } = to_changed(changed, until) else { panic!() };
        assert_eq!((changed.changed, changed.busy, changed.missing, changed.unfit), (2000, 15, 1, 1000));
        assert_eq!(changed.left.len(), MAX_LEFT);
        assert_eq!(changed.left[0], Left { id: MessageId::from_u64(3000), cause: Cause::Missing });
        assert_eq!(changed.next, Some(Cursor { after: MessageId::from_u64(5000), until }));
    }
}
