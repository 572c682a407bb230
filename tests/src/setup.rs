//! What stands above the dialogue: the `@` lines that say how the gateway is set up.
//!
//! `client IP`, `listener mx|submission|relay`, `offer none|starttls|required|implicit`, `auth`, `xclient`, `normalize`,
//! `set NAME VALUE`, `filter …` (see [`Line`]), `room 0`, `commit full|failed`, `unavailable CODE X.Y.Z TEXT`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use postern::pipeline::Role;
use postern::session::{CommitError, Listener, Settings, TlsMode};
use postern::smtp::Reply;

use crate::filter::{self, Line};

#[derive(Debug, Clone)]
pub struct Setup {
    pub client: IpAddr,
    pub role: Role,
    pub tls: TlsMode,
    pub auth: bool,
    pub xclient: bool,
    pub normalize: bool,
    settings: Vec<(String, String)>,
    pub filters: Vec<Line>,
    pub has_room: bool,
    pub commit: Option<CommitError>,
    pub unavailable: Option<Reply>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            client: IpAddr::from([192, 0, 2, 1]),
            role: Role::Inbound,
            tls: TlsMode::None,
            auth: false,
            xclient: false,
            normalize: false,
            settings: Vec::new(),
            filters: Vec::new(),
            has_room: true,
            commit: None,
            unavailable: None,
        }
    }
}

impl Setup {
    /// False: this is no line of the setup.
    pub fn take(&mut self, word: &str, rest: &str) -> Result<bool, String> {
        match (word, rest) {
            ("client", ip) => self.client = ip.parse().map_err(|_| format!("{ip} is no IP address"))?,
            ("listener", "mx") => self.role = Role::Inbound,
            ("listener", "submission") => self.role = Role::Submission,
            ("listener", "relay") => self.role = Role::Relay,
            ("offer", "none") => self.tls = TlsMode::None,
            ("offer", "starttls") => self.tls = TlsMode::StartTls,
            ("offer", "required") => self.tls = TlsMode::Required,
            ("offer", "implicit") => self.tls = TlsMode::Implicit,
            ("auth", "") => self.auth = true,
            ("xclient", "") => self.xclient = true,
            ("normalize", "") => self.normalize = true,
            ("filter", line) => self.filters.push(Line::parse(line, self.filters.len() + 1)?),
            ("room", "0") => self.has_room = false,
            ("unavailable", reply) => self.unavailable = Some(filter::parse_reply(reply)?),
            ("commit", how) => self.commit = parse_commit(how)?,
            ("set", pair) => {
                let (name, value) = pair.split_once(' ').ok_or("set NAME VALUE")?;
                // Tried now, so that a mistake is reported where it stands.
                set(&mut Settings::default(), name, value)?;
                self.settings.push((name.to_owned(), value.to_owned()));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    pub fn apply(&self, settings: &mut Settings) -> Result<(), String> {
        self.settings.iter().try_for_each(|(name, value)| set(settings, name, value))
    }

    pub fn listener(&self) -> Listener {
        let only_client = || vec![ipnet::IpNet::from(self.client)];
        Listener {
            role: self.role,
            tls: self.tls,
            auth: self.auth,
            xclient_from: if self.xclient { only_client() } else { Vec::new() },
            normalize_from: if self.normalize { only_client() } else { Vec::new() },
            ..Listener::inbound("test")
        }
    }

    pub fn client_address(&self) -> SocketAddr {
        SocketAddr::new(self.client, 40_000)
    }
}

pub fn parse_commit(how: &str) -> Result<Option<CommitError>, String> {
    match how {
        "ok" => Ok(None),
        "full" => Ok(Some(CommitError::Full)),
        "failed" => Ok(Some(CommitError::Failed)),
        _ => Err(format!("commit ok, full or failed, not {how}")),
    }
}

fn set(settings: &mut Settings, name: &str, value: &str) -> Result<(), String> {
    let number = || value.parse::<u64>().map_err(|_| format!("{value} is not a number"));
    let size = || number().map(|number| usize::try_from(number).unwrap_or(usize::MAX));
    let count = || number().map(|number| u32::try_from(number).unwrap_or(u32::MAX));
    match name {
        "banner" => settings.banner = value.to_owned(),
        "administrators" => settings.administrators.clear(),
        "max_message_size" => settings.max_message_size = number()?,
        "max_header_size" => settings.max_header_size = size()?,
        "max_header_fields" => settings.max_header_fields = size()?,
        "max_recipients" => settings.max_recipients = size()?,
        "max_hops" => settings.max_hops = size()?,
        "max_junk_commands" => settings.max_junk_commands = count()?,
        "max_errors" => settings.max_errors = count()?,
        "allow_routed_local_parts" => settings.allow_routed_local_parts = value == "true",
        "body_memory" => settings.body_memory = size()?,
        "incoming_directory" => settings.incoming_directory = value.into(),
        "timeout_command" => settings.timeouts.command = parse_duration(value)?,
        "timeout_data" => settings.timeouts.data = parse_duration(value)?,
        _ => return Err(format!("no setting {name}")),
    }
    Ok(())
}

/// `90s`, `5m`, `1h`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("no duration: {text}");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(bad)?;
    let number: u64 = number.parse().map_err(|_| bad())?;
    match unit {
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        "h" => Ok(Duration::from_secs(number * 3600)),
        _ => Err(bad()),
    }
}
