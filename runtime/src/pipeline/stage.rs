//! The stages at which plugins are asked, by the names of the SMTP commands.

use std::fmt;

use super::chain::Direction;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    Connect,
    Helo,
    MailFrom,
    Rcpt,
    Data,
    Deliver,
    /// Told of what became of a mail; never judges.
    Event,
}

impl Stage {
    pub const ALL: [Self; 7] =
        [Self::Connect, Self::Helo, Self::MailFrom, Self::Rcpt, Self::Data, Self::Deliver, Self::Event];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Helo => "helo",
            Self::MailFrom => "mail-from",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::Deliver => "deliver",
            Self::Event => "event",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StageSet(u8);

impl StageSet {
    pub fn has(self, stage: Stage) -> bool {
        self.0 & (1 << stage as u8) != 0
    }

    #[must_use]
    pub fn with(self, stage: Stage) -> Self {
        Self(self.0 | 1 << stage as u8)
    }

    #[must_use]
    pub fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = Stage> {
        Stage::ALL.into_iter().filter(move |&stage| self.has(stage))
    }
}

/// At which stages, of mail in which direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Interest {
    pub inbound: StageSet,
    pub outbound: StageSet,
}

impl Interest {
    pub fn both(stages: StageSet) -> Self {
        Self { inbound: stages, outbound: stages }
    }

    pub fn of(self, direction: Direction) -> StageSet {
        match direction {
            Direction::Inbound => self.inbound,
            Direction::Outbound => self.outbound,
        }
    }

    /// In either direction.
    pub fn stages(self) -> StageSet {
        self.inbound.iter().chain(self.outbound.iter()).collect()
    }

    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self { inbound: self.inbound.without(other.inbound), outbound: self.outbound.without(other.outbound) }
    }
}

impl FromIterator<Stage> for StageSet {
    fn from_iter<I: IntoIterator<Item = Stage>>(stages: I) -> Self {
        stages.into_iter().fold(Self::default(), Self::with)
    }
}
