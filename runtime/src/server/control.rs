//! The operator's requests over the control socket, answered by the queue.

use std::sync::Arc;

use super::live::{Live, Refusal};
use crate::cli::control::{Detail, ErrorKind, RecipientDetail, Request, Response, Selection, State, Summary};
use crate::queue::{self, Changed, Filter, Queue, Standing, Status, VerbError};

/// One request.
pub async fn answer(request: Request, queue: Arc<Queue>, live: Arc<Live>) -> Response {
    let inapplicable = match &request {
        Request::Flush { ids, .. } if !ids.is_empty() => Some("it is held or in quarantine; release it"),
        Request::Hold { .. } => Some("it is held or in quarantine already"),
        Request::Release { .. } => Some("it is neither held nor in quarantine"),
        _ => None,
    };
    let result = match request {
        Request::List { selection, after, limit } => return list(&queue, selection, after, limit).await,
        Request::Show { id } => return show(&queue, id).await,
        Request::Flush { ids, selection } => queue.flush(&Filter { ids, ..to_filter(selection) }).await,
        Request::Hold { id } => queue.hold(&Filter::id(id), "held by the operator").await,
        Request::Release { id } => queue.release(&Filter::id(id)).await,
        Request::Delete { id } => queue.delete(&Filter::id(id)).await,
        Request::Reload => return changed(live.reload().await.map_err(|why| Response::error(ErrorKind::Failed, why))),
        Request::PluginInstall { install, source } => {
            return changed(live.install(install, source).await.map_err(refused));
        }
        Request::PluginSwitch { scope, name, enabled } => {
            return changed(live.switch(&scope, &name, enabled).await.map_err(refused));
        }
        Request::PluginRollback { scope, name } => {
            return changed(live.roll_back(&scope, &name).await.map_err(refused));
        }
        Request::PluginRemove { scope, name } => return changed(live.remove(&scope, &name).await.map_err(refused)),
        Request::PluginList { scope } => {
            let plugins = live.plugins(scope.as_deref());
            return plugins.map_or_else(refused, |plugins| Response::Plugins { plugins });
        }
        Request::PluginUsage { scope } => {
            let usage = live.usage(scope.as_deref());
            return usage.map_or_else(refused, |usage| Response::Usage { usage });
        }
        Request::PluginShow { scope, name } => {
            let plugin = live.plugin(&scope, &name);
            return plugin.map_or_else(refused, |plugin| Response::Plugin { plugin: Box::new(plugin) });
        }
    };
    match (result, inapplicable) {
        // It was asked for by its id, and is in no state for the verb.
        (Ok(changed), Some(why)) if changed == Changed::default() => Response::error(ErrorKind::Conflict, why),
        (Ok(changed), _) => done(&changed),
        (Err(error), _) => failed(&error),
    }
}

fn changed(result: Result<String, Response>) -> Response {
    result.map_or_else(|refused| refused, |message| Response::Done { count: 1, message })
}

fn refused(refusal: Refusal) -> Response {
    let kind = match refusal {
        Refusal::NoPlugin { .. } => ErrorKind::NotFound,
        Refusal::Invalid(_) => ErrorKind::Invalid,
        _ => ErrorKind::Failed,
    };
    Response::error(kind, refusal.to_string())
}

async fn list(queue: &Queue, selection: Selection, after: Option<crate::mail::MessageId>, limit: u32) -> Response {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    // One more shows whether there is another page.
    let filter = Filter { after, limit: Some(limit.saturating_add(1)), ..to_filter(selection) };
    match queue.list(&filter).await {
        Err(error) => failed(&error),
        Ok(page) => {
            let more = page.len() > limit;
            Response::Messages { messages: page.into_iter().take(limit).map(summary).collect(), more }
        }
    }
}

async fn show(queue: &Queue, id: crate::mail::MessageId) -> Response {
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
        destination: selection.destination,
        state: selection.state.map(to_standing),
        older_than: selection.age,
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

fn done(changed: &Changed) -> Response {
    match (changed.changed.len(), changed.busy.first(), changed.missing.first()) {
        (0, Some(id), _) => Response::error(ErrorKind::Conflict, format!("{id} is being delivered right now")),
        (0, None, Some(id)) => Response::error(ErrorKind::NotFound, format!("no message {id} in the queue")),
        (count, ..) => Response::Done {
            count: count as u64,
            message: format!("{count} message{}", if count == 1 { "" } else { "s" }),
        },
    }
}

fn failed(error: &VerbError) -> Response {
    let kind = if matches!(error, VerbError::NotFound(_)) { ErrorKind::NotFound } else { ErrorKind::Failed };
    Response::error(kind, error.to_string())
}
