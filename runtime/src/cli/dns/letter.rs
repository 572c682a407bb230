//! `postern dns letter` (R32): what the customer sends to whoever keeps their zone, in English or French (R8).
//!
//! One letter, two sets of phrases. What is in angle brackets the customer fills in.

mod phrases;

use std::fmt::Write as _;

use clap::ValueEnum;

use super::expectation::Expectation;
use super::plan::{Change, Edit, What};
use phrases::{ENGLISH, FRENCH, Phrases};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Language {
    /// English.
    En,
    /// French.
    Fr,
}

impl Language {
    pub(super) const fn code(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::Fr => "fr",
        }
    }
}

/// `None`: nothing is to be changed. Changes with an obstacle are not in the letter.
pub(super) fn write(expectation: &Expectation, changes: &[Change], language: Language) -> Option<String> {
    let phrases = match language {
        Language::En => &ENGLISH,
        Language::Fr => &FRENCH,
    };
    let edits = changes.iter().filter_map(|change| Some((change.what, change.edit.as_ref().ok()?)));
    let edits: Vec<(What, &Edit)> = edits.filter(|(_, edit)| !edit.is_done).collect();
    if edits.is_empty() {
        return None;
    }
    let moves_mail = edits.iter().any(|(what, _)| *what == What::Mx);
    let domain = expectation.domain.as_str();
    let mut text = String::new();
    let mut add = |part: &str| text.push_str(&part.replace("{domain}", domain));
    add(phrases.head);
    expectation.mx.iter().for_each(|exchange| add(&format!("    {}\n", exchange.host)));
    add(phrases.request);
    // The plan has them in the order of R6.
    for (number, (what, edit)) in edits.into_iter().enumerate() {
        add(&format!("\n{}. {}\n", number + 1, phrases.title(what, number > 0)));
        add(&item(edit, phrases));
    }
    add(phrases.notes);
    if moves_mail {
        add(phrases.about_mx);
    }
    add(phrases.close);
    Some(text)
}

fn item(edit: &Edit, phrases: &Phrases) -> String {
    let mut text = String::new();
    let lines = |text: &mut String, lines: &[String]| {
        // Writing to a String can't fail.
        for line in lines {
            let _ = writeln!(text, "    {line}");
        }
    };
    if !edit.remove.is_empty() {
        text.push_str(phrases.remove);
        lines(&mut text, &edit.remove);
    }
    text.push_str(if edit.remove.is_empty() { phrases.add } else { phrases.replacement });
    lines(&mut text, &edit.publish);
    text
}
