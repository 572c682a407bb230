//! `message`: envelope and content, read in pieces, searched by the host, edited through the journal of [`edit`].

use std::io;
use std::sync::Arc;

use memchr::memmem;
use sha2::{Digest as _, Sha256};
use wasmtime::Result;
use wasmtime::component::Resource;

use super::super::abi::interface::message::{
    EditError, Field, Host, HostMessage, Part, Position, ReadError, Recipient, Route,
};
use super::super::abi::interface::types::Address;
use super::super::abi::{MessageHandle, address, recipient};
use super::super::limits::Breach;
use super::super::state::CallState;
use super::edit;
use crate::authentication::results::is_own;
use crate::mail::mime::{self, MimeError, MimeLimits, PartReader};
use crate::mail::{Body, Mail, Message};
use crate::pipeline::{Capability, Cause};

/// The grant that lets a plugin write results.
const AUTHENTICATION: &str = "authentication";
/// Octets that one call of `read` and `read-part` gives.
const MAX_READ: u32 = 64 * 1024;
/// Octets of a needle.
const MAX_NEEDLE: usize = 64 * 1024;
/// Above this a scan runs on a thread of its own, so that no other session waits for it.
const SCAN_APART: u64 = 64 * 1024;
/// Octets that a scan of a file holds at a time.
const SCAN_CHUNK: usize = 256 * 1024;

/// The parts of the mail, and the one that is being read.
#[derive(Default)]
pub(in super::super) struct Parts {
    found: Option<std::result::Result<Measured, ReadError>>,
    reader: Option<(u32, PartReader)>,
}

/// The parts, each with its octets after decoding.
type Measured = Arc<[(mime::Part, u64)]>;
type Read<T> = Result<std::result::Result<T, ReadError>>;
type Edited = Result<std::result::Result<(), EditError>>;

impl CallState {
    /// The mail with its content; `None` before `data`.
    fn content(&mut self) -> std::result::Result<Option<Arc<Mail>>, Breach> {
        let mail = self.mail()?;
        Ok(mail.message.is_some().then(|| mail.clone()))
    }

    /// An `Authentication-Results` field of the gateway's own name, by a plugin that may not ask for results: it could
    /// vouch for anybody, and a seal would vouch for it (RFC 8601 §5).
    fn forges_results(&self, name: &str, value: &str) -> bool {
        let environment = &self.environment;
        let is_own = |field: &crate::mail::Field| is_own(field, &environment.services.authenticator.service_id());
        name.eq_ignore_ascii_case("Authentication-Results")
            && !environment.grants.has(AUTHENTICATION)
            && crate::mail::Field::new(name, value).as_ref().is_ok_and(is_own)
    }

    async fn find_parts(&mut self) -> Read<Measured> {
        if let Some(found) = &self.asked()?.parts.found {
            return Ok(found.clone());
        }
        let Some(message) = self.content()?.and_then(|mail| mail.message.clone()) else {
            return Ok(Err(ReadError::Stage));
        };
        // Once to find the parts, once to measure them.
        self.meter.scan(message.len().saturating_mul(2))?;
        let apart = message.body.as_file().is_some() || message.len() > SCAN_APART;
        let found = self.work(apart, move || measured_parts(&message)).await?.map_err(|error| match error {
            MimeError::Read(_) => ReadError::Failed,
            MimeError::TooDeep(_) | MimeError::TooManyParts(_) => ReadError::Unparsable,
        });
        self.asked()?.parts.found = Some(found.clone());
        Ok(found)
    }

    fn edit(&mut self, octets: usize, edit: impl FnOnce(&mut Self) -> Edited) -> Edited {
        self.enter(Capability::Message, octets)?;
        self.mail()?;
        let done = edit(self)?;
        if let Err(EditError::Denied(grant)) = &done {
            self.meter.denied = Some(grant.clone());
        }
        Ok(done)
    }
}

impl Host for CallState {}

impl HostMessage for CallState {
    fn id(&mut self, _: Resource<MessageHandle>) -> Result<String> {
        self.enter(Capability::Message, 16)?;
        Ok(self.mail()?.id.to_string())
    }

    fn tenant(&mut self, _: Resource<MessageHandle>) -> Result<Option<String>> {
        self.enter(Capability::Message, 32)?;
        Ok(self.mail()?.tenant.as_ref().map(ToString::to_string))
    }

    fn reverse_path(&mut self, _: Resource<MessageHandle>) -> Result<Option<Address>> {
        self.enter(Capability::Message, 128)?;
        Ok(self.mail()?.envelope.reverse_path.mailbox().map(address))
    }

    fn recipients(&mut self, _: Resource<MessageHandle>) -> Result<Vec<Recipient>> {
        self.enter(Capability::Message, 0)?;
        let recipients: Vec<_> = self.mail()?.envelope.recipients.iter().map(recipient).collect();
        self.meter.pass(recipients.len() * 128)?;
        Ok(recipients)
    }

    fn size(&mut self, _: Resource<MessageHandle>) -> Result<Option<u64>> {
        self.enter(Capability::Message, 8)?;
        Ok(self.mail()?.message.as_ref().map(Message::len))
    }

    fn tags(&mut self, _: Resource<MessageHandle>) -> Result<Vec<String>> {
        self.enter(Capability::Message, 0)?;
        let tags = self.mail()?.tags.clone();
        self.meter.pass(tags.iter().map(String::len).sum())?;
        Ok(tags)
    }

    fn fields(&mut self, _: Resource<MessageHandle>) -> Read<Vec<Field>> {
        self.enter(Capability::Message, 0)?;
        let Some(mail) = self.content()? else { return Ok(Err(ReadError::Stage)) };
        let Some(message) = &mail.message else { return Ok(Err(ReadError::Stage)) };
        self.meter.pass(usize::try_from(message.header.len()).unwrap_or(usize::MAX))?;
        let fields = message.header.fields().iter();
        Ok(Ok(fields.map(|field| Field { name: field.name().to_owned(), value: field.value() }).collect()))
    }

    fn header(&mut self, _: Resource<MessageHandle>, name: String) -> Read<Vec<Vec<u8>>> {
        self.enter(Capability::Message, name.len())?;
        let Some(mail) = self.content()? else { return Ok(Err(ReadError::Stage)) };
        let Some(message) = &mail.message else { return Ok(Err(ReadError::Stage)) };
        self.meter.scan(message.header.len())?;
        let values: Vec<_> = message.header.named(&name).map(crate::mail::Field::value).collect();
        self.meter.pass(values.iter().map(Vec::len).sum())?;
        Ok(Ok(values))
    }

    fn body_size(&mut self, _: Resource<MessageHandle>) -> Read<u64> {
        self.enter(Capability::Message, 8)?;
        Ok(self.mail()?.message.as_ref().map(|message| message.body.len()).ok_or(ReadError::Stage))
    }

    async fn read(&mut self, _: Resource<MessageHandle>, offset: u64, len: u32) -> Read<Vec<u8>> {
        let len = usize::try_from(len.min(MAX_READ))?;
        self.enter(Capability::Message, len)?;
        let Some(body) = self.content()?.and_then(|mail| Some(mail.message.as_ref()?.body.clone())) else {
            return Ok(Err(ReadError::Stage));
        };
        let read = self.work(body.as_file().is_some(), move || body.read_at(offset, len)).await?;
        Ok(read.map(|octets| octets.to_vec()).map_err(|_| ReadError::Failed))
    }

    async fn search(&mut self, _: Resource<MessageHandle>, needle: Vec<u8>, offset: u64) -> Read<Option<u64>> {
        self.enter(Capability::Message, needle.len())?;
        if needle.len() > MAX_NEEDLE {
            return Err(Breach::new(Cause::Malformed, format!("search for more than {MAX_NEEDLE} octets")).into());
        }
        let Some(body) = self.content()?.and_then(|mail| Some(mail.message.as_ref()?.body.clone())) else {
            return Ok(Err(ReadError::Stage));
        };
        let left = body.len().saturating_sub(offset);
        self.meter.scan(left)?;
        let apart = body.as_file().is_some() || left > SCAN_APART;
        Ok(self.work(apart, move || search(&body, &needle, offset)).await?.map_err(|_| ReadError::Failed))
    }

    async fn digest(&mut self, _: Resource<MessageHandle>) -> Read<Vec<u8>> {
        self.enter(Capability::Message, 32)?;
        if let Some(digest) = self.asked()?.digest {
            return Ok(Ok(digest.to_vec()));
        }
        let Some(message) = self.content()?.and_then(|mail| mail.message.clone()) else {
            return Ok(Err(ReadError::Stage));
        };
        self.meter.scan(message.len())?;
        let apart = message.body.as_file().is_some() || message.len() > SCAN_APART;
        let Ok(digest) = self.work(apart, move || digest(&message)).await? else { return Ok(Err(ReadError::Failed)) };
        self.asked()?.digest = Some(digest);
        Ok(Ok(digest.to_vec()))
    }

    async fn parts(&mut self, _: Resource<MessageHandle>) -> Read<Vec<Part>> {
        self.enter(Capability::Message, 0)?;
        let parts = match self.find_parts().await? {
            Ok(parts) => parts,
            Err(error) => return Ok(Err(error)),
        };
        self.meter.pass(parts.len() * 128)?;
        let part = |(part, size): &(mime::Part, u64)| Part {
            content_type: part.content_type.clone(),
            filename: part.filename.clone(),
            attachment: part.attachment,
            size: *size,
        };
        Ok(Ok(parts.iter().map(part).collect()))
    }

    async fn read_part(&mut self, _: Resource<MessageHandle>, index: u32, offset: u64, len: u32) -> Read<Vec<u8>> {
        let len = usize::try_from(len.min(MAX_READ))?;
        self.enter(Capability::Message, len)?;
        let parts = match self.find_parts().await? {
            Ok(parts) => parts,
            Err(error) => return Ok(Err(error)),
        };
        let Some((part, _)) = usize::try_from(index).ok().and_then(|index| parts.get(index)) else {
            return Ok(Err(ReadError::NoPart));
        };
        let Some(body) = self.content()?.and_then(|mail| Some(mail.message.as_ref()?.body.clone())) else {
            return Ok(Err(ReadError::Stage));
        };
        let apart = body.as_file().is_some();
        let mut reader = match self.asked()?.parts.reader.take() {
            Some((current, reader)) if current == index => reader,
            _ => PartReader::new(body, part.clone()),
        };
        let cost = reader.cost(offset, len);
        self.meter.scan(cost)?;
        let (read, reader) =
            self.work(apart || cost > SCAN_APART * 2, move || (reader.read_at(offset, len), reader)).await?;
        self.asked()?.parts.reader = Some((index, reader));
        Ok(read.map_err(|_| ReadError::Failed))
    }

    fn add_header(&mut self, _: Resource<MessageHandle>, name: String, value: String, at: Position) -> Edited {
        self.edit(name.len() + value.len(), |state| {
            if state.forges_results(&name, &value) {
                return Ok(Err(EditError::Denied(AUTHENTICATION.to_owned())));
            }
            Ok(edit::add_header(state.asked()?, &name, &value, at))
        })
    }

    fn replace_header(&mut self, _: Resource<MessageHandle>, name: String, nth: u32, value: Option<String>) -> Edited {
        let octets = name.len() + value.as_ref().map_or(0, String::len);
        self.edit(octets, |state| {
            if value.as_ref().is_some_and(|value| state.forges_results(&name, value)) {
                return Ok(Err(EditError::Denied(AUTHENTICATION.to_owned())));
            }
            Ok(edit::replace_header(state.asked()?, name, nth, value.as_deref()))
        })
    }

    fn replace_body(&mut self, _: Resource<MessageHandle>, body: Vec<u8>) -> Edited {
        self.edit(body.len(), |state| Ok(edit::replace_body(state.asked()?, body)))
    }

    fn set_reverse_path(&mut self, _: Resource<MessageHandle>, path: Option<Address>) -> Edited {
        self.edit(128, |state| Ok(edit::set_reverse_path(state.asked()?, path.as_ref())))
    }

    fn add_recipient(&mut self, _: Resource<MessageHandle>, address: Address) -> Edited {
        self.edit(128, |state| {
            let environment = state.environment.clone();
            Ok(edit::add_recipient(state.asked()?, &environment.grants, &address))
        })
    }

    fn remove_recipient(&mut self, _: Resource<MessageHandle>, address: Address) -> Edited {
        self.edit(128, |state| Ok(edit::remove_recipient(state.asked()?, &address)))
    }

    fn set_route(&mut self, _: Resource<MessageHandle>, route: Route) -> Edited {
        self.edit(128, |state| {
            let environment = state.environment.clone();
            Ok(edit::set_route(state.asked()?, &environment.grants, &route))
        })
    }

    fn set_recipient_route(&mut self, _: Resource<MessageHandle>, address: Address, route: Route) -> Edited {
        self.edit(256, |state| {
            let environment = state.environment.clone();
            Ok(edit::set_recipient_route(state.asked()?, &environment.grants, &address, &route))
        })
    }

    fn add_tag(&mut self, _: Resource<MessageHandle>, tag: String) -> Edited {
        self.edit(tag.len(), |state| Ok(edit::add_tag(state.asked()?, tag)))
    }

    fn drop(&mut self, _: Resource<MessageHandle>) -> Result<()> {
        // Guests only ever borrow it.
        Ok(())
    }
}

/// The parts, each with its size decoded. Blocking.
fn measured_parts(message: &Message) -> std::result::Result<Measured, MimeError> {
    let parts = mime::parts(message, MimeLimits::default())?;
    let measured = parts.into_iter().map(|part| {
        let size = PartReader::new(message.body.clone(), part.clone()).decoded_len()?;
        Ok((part, size))
    });
    measured.collect::<std::result::Result<Vec<_>, MimeError>>().map(Arc::from)
}

/// Where the needle first stands in the body, from `offset` on. Blocking when the body is in a file.
fn search(body: &Body, needle: &[u8], offset: u64) -> io::Result<Option<u64>> {
    if needle.is_empty() {
        return Ok((offset <= body.len()).then_some(offset));
    }
    let finder = memmem::Finder::new(needle);
    let mut at = offset;
    // Pieces overlap by all of the needle but one octet, so that none is missed where two meet.
    let overlap = needle.len() - 1;
    while at < body.len() {
        let piece = match body.as_memory() {
            Some(_) => body.read_at(at, usize::MAX)?,
            None => body.read_at(at, SCAN_CHUNK + overlap)?,
        };
        if let Some(found) = finder.find(&piece) {
            return Ok(Some(at + found as u64));
        }
        at += piece.len().saturating_sub(overlap).max(1) as u64;
    }
    Ok(None)
}

/// SHA-256 of header, empty line and body. Blocking when the body is in a file.
fn digest(message: &Message) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    for field in message.header.fields() {
        hash.update(field.raw());
    }
    if message.body.is_separated() {
        hash.update(b"\r\n");
    }
    let mut at = 0;
    while at < message.body.len() {
        let piece = message.body.read_at(at, SCAN_CHUNK)?;
        if piece.is_empty() {
            break;
        }
        hash.update(&piece);
        at += piece.len() as u64;
    }
    Ok(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::BodyWriter;

    #[test]
    fn a_search_finds_what_lies_across_two_pieces() {
        let directory = tempfile::tempdir().unwrap();
        let mut octets = vec![b'a'; SCAN_CHUNK * 2 + 100];
        octets[SCAN_CHUNK - 2..SCAN_CHUNK + 2].copy_from_slice(b"evil");
        octets[SCAN_CHUNK * 2 + 96..].copy_from_slice(b"tail");
        let mut writer = BodyWriter::new(directory.path().to_owned(), 0);
        writer.push(&octets);
        writer.flush().unwrap();
        let file = writer.finish().unwrap();
        let memory = Body::from_bytes(octets.into());
        for body in [&file, &memory] {
            assert_eq!(search(body, b"evil", 0).unwrap(), Some(SCAN_CHUNK as u64 - 2));
            assert_eq!(search(body, b"evil", SCAN_CHUNK as u64 - 1).unwrap(), None);
            assert_eq!(search(body, b"tail", 0).unwrap(), Some(SCAN_CHUNK as u64 * 2 + 96));
            assert_eq!(search(body, b"", 7).unwrap(), Some(7));
            assert_eq!(search(body, b"a", u64::MAX).unwrap(), None);
        }
    }
}
