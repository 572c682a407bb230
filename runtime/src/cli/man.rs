//! `postern man`: the manual, a page for each command. Synopsis and options come from the definitions that parse them;
//! what no definition holds (files, signals, exit codes) stands here and goes into `postern.1`.

use std::io;
use std::path::Path;

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use super::{Cli, CliError, OK, Streams};

/// Of section 1 of the manual.
pub struct Page {
    /// `postern-queue-list.1`
    pub file: String,
    /// In the language of man(7).
    pub text: Vec<u8>,
}

pub(super) fn run(directory: &Path, streams: &mut Streams<'_>) -> Result<u8, CliError> {
    std::fs::create_dir_all(directory)
        .map_err(|error| CliError::Failed(format!("can't make {}: {error}", directory.display())))?;
    for page in pages()? {
        let path = directory.join(&page.file);
        std::fs::write(&path, &page.text)
            .map_err(|error| CliError::Failed(format!("can't write {}: {error}", path.display())))?;
        writeln!(streams.out, "{}", path.display())?;
    }
    Ok(OK)
}

/// All pages: `postern.1` first, then the commands, each before those below it.
pub fn pages() -> io::Result<Vec<Page>> {
    let mut command = visible(&Cli::command());
    command.build();
    let mut pages = Vec::new();
    write_pages(&command, None, &mut pages)?;
    Ok(pages)
}

/// Without the commands that are only for the program itself or for whoever packages it.
pub(super) fn visible(command: &Command) -> Command {
    let shown = command.get_subcommands().filter(|below| !below.is_hide_set()).map(visible);
    let mut copy = Command::new(command.get_name().to_owned())
        .args(command.get_arguments().cloned())
        .groups(command.get_groups().cloned())
        .subcommands(shown)
        .subcommand_required(command.is_subcommand_required_set())
        .disable_help_subcommand(true);
    copy = command.get_about().into_iter().fold(copy, |copy, about| copy.about(about.clone()));
    copy = command.get_long_about().into_iter().fold(copy, |copy, about| copy.long_about(about.clone()));
    command.get_version().into_iter().fold(copy, |copy, version| copy.version(version.to_owned()))
}

fn write_pages(command: &Command, above: Option<&str>, pages: &mut Vec<Page>) -> io::Result<()> {
    let man = Man::new(command.clone()).manual("Postern").source(concat!("Postern ", env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text)?;
    }
    let file = man.get_filename();
    let name = file.trim_end_matches(".1").to_owned();
    match above {
        None => {
            general(&mut text)?;
            let below = command.get_subcommands().map(|below| format!("{name}-{}", below.get_name()));
            see_also(&below.collect::<Vec<_>>(), &mut text)?;
        }
        Some(above) => see_also(&[above.to_owned()], &mut text)?,
    }
    pages.push(Page { file, text });
    command.get_subcommands().try_for_each(|below| write_pages(below, Some(&name), pages))
}

/// What concerns the program as a whole.
fn general(out: &mut Vec<u8>) -> io::Result<()> {
    let mut roff = Roff::new();
    heading(&mut roff, "EXIT STATUS");
    for (code, meaning) in EXIT_CODES {
        item(&mut roff, code, meaning);
    }
    heading(&mut roff, "SIGNALS");
    roff.text([roman("To the process of "), bold("postern serve"), roman(":")]);
    for (signal, meaning) in SIGNALS {
        item(&mut roff, signal, meaning);
    }
    heading(&mut roff, "ENVIRONMENT");
    for (variable, meaning) in ENVIRONMENT {
        item(&mut roff, variable, meaning);
    }
    heading(&mut roff, "FILES");
    for (path, meaning) in FILES {
        item(&mut roff, path, meaning);
    }
    heading(&mut roff, "EXAMPLES");
    for (command, meaning) in EXAMPLES {
        item(&mut roff, command, meaning);
    }
    roff.to_writer(out)
}

const EXIT_CODES: [(&str, &str); 4] = [
    ("0", "Done. For a gateway: it was told to stop, and has stopped."),
    ("1", "Understood, but it could not be done; standard error says why."),
    ("2", "Wrong arguments, or a config with mistakes."),
    ("3", "It could not be found out: DNS had no answer."),
];

const SIGNALS: [(&str, &str); 2] = [
    (
        "SIGHUP",
        "Read the config again, as `postern reload` does. A config with mistakes changes nothing and is logged.",
    ),
    (
        "SIGTERM, SIGINT",
        "Stop: no new connections; sessions and deliveries under way may end, for as long as drain_timeout says. A second \
         one stops at once. Mail that was acknowledged is in the spool either way.",
    ),
];

const ENVIRONMENT: [(&str, &str); 2] = [
    ("NOTIFY_SOCKET", "Where a service manager wants to hear of start, reload and stop; see sd_notify(3)."),
    ("WATCHDOG_USEC, WATCHDOG_PID", "How often it wants to hear that the gateway lives."),
];

const FILES: [(&str, &str); 5] = [
    ("postern.toml", "The config, in the working directory unless --config names another."),
    ("conf.d/*.toml", "Beside the config and a part of it, in the order of their names."),
    ("/etc/postern/postern.toml", "The config of the systemd unit."),
    (
        "/var/lib/postern",
        "Where that unit keeps the spool. In the spool's directory is control.sock, by which the commands \
      reach the running gateway; only its owner and root may.",
    ),
    (
        "/var/log/postern/events.log",
        "The event log, where the config says so. `postern trace` reads it, rotated ones too.",
    ),
];

const EXAMPLES: [(&str, &str); 4] = [
    ("postern localserve", "Try it out, without config, on this machine only."),
    ("postern --config /etc/postern/postern.toml check", "Say what is wrong with a config."),
    ("postern queue list --state waiting --age 2h", "What has been waiting for two hours or longer."),
    ("postern trace 0FN0VKRTBG000", "The story of a message."),
];

fn heading(roff: &mut Roff, name: &str) {
    roff.control("SH", [name]);
}

fn item(roff: &mut Roff, name: &str, text: &str) {
    roff.control("TP", []);
    roff.text([bold(name)]);
    roff.text([roman(text)]);
}

/// Pages of section 1.
fn see_also(pages: &[String], out: &mut Vec<u8>) -> io::Result<()> {
    let mut roff = Roff::new();
    heading(&mut roff, "SEE ALSO");
    let mut line: Vec<Inline> = Vec::new();
    for (number, page) in pages.iter().enumerate() {
        let separator = if number == 0 { "" } else { ", " };
        line.extend([roman(separator), italic(page), roman("(1)")]);
    }
    roff.text(line);
    roff.to_writer(out)
}

#[cfg(test)]
pub(super) mod tests {
    use std::process::{Command as Process, Stdio};

    use super::*;

    /// Each command that is shown, with its options; the topmost too.
    pub(in super::super) fn for_each_command(mut visit: impl FnMut(&Command)) {
        fn descend(command: &Command, visit: &mut impl FnMut(&Command)) {
            visit(command);
            command.get_subcommands().for_each(|below| descend(below, visit));
        }
        let mut command = visible(&Cli::command());
        command.build();
        descend(&command, &mut visit);
    }

    /// As a reader sees it, near enough: hyphens are escaped in the source.
    fn text(page: &Page) -> String {
        String::from_utf8(page.text.clone()).unwrap().replace("\\-", "-")
    }

    #[test]
    fn there_is_a_page_for_each_command_with_all_its_options() {
        let pages = pages().unwrap();
        let mut count = 0;
        for_each_command(|command| {
            count += 1;
            let file = format!("{}.1", command.get_display_name().unwrap_or("postern"));
            let page = pages.iter().find(|page| page.file == file).unwrap_or_else(|| panic!("no {file}"));
            let text = text(page);
            assert!(text.contains(&command.get_about().unwrap().to_string().replace('\'', "\\*(Aq")), "{file}: {text}");
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                let name = match argument.get_long() {
                    Some(long) => format!("--{long}"),
                    None => argument.get_value_names().unwrap()[0].to_string(),
                };
                assert!(text.contains(&name), "{file}: {name} is not in\n{text}");
            }
            assert!(text.contains(".SH \"SEE ALSO\"") || text.contains(".SH SEE ALSO"), "{file}");
        });
        assert_eq!((pages.len(), count > 10), (count, true));
        assert!(!pages.iter().any(|page| page.file.contains("compile")), "what is hidden stays so");
    }

    #[test]
    fn the_first_page_tells_files_signals_and_exit_codes() {
        let page = text(&pages().unwrap()[0]);
        for wanted in ["postern.toml", "control.sock", "SIGHUP", "SIGTERM", "EXIT STATUS", "postern-queue"] {
            assert!(page.contains(wanted), "{wanted}: {page}");
        }
    }

    #[test]
    fn groff_has_no_complaint() {
        for page in pages().unwrap() {
            let mut groff = Process::new("groff");
            groff.args(["-man", "-ww", "-Tutf8", "-z"]).stdin(Stdio::piped()).stderr(Stdio::piped());
            // Where it is not installed, the other tests must do.
            let Ok(mut groff) = groff.spawn() else { return };
            io::Write::write_all(&mut groff.stdin.take().unwrap(), &page.text).unwrap();
            let output = groff.wait_with_output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.success() && said.is_empty(), "{}: {said}", page.file);
        }
    }

    #[test]
    fn the_directory_is_made_or_the_reason_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams { input: &mut io::empty(), out: &mut out, err: &mut err };
        let pages = directory.path().join("share/man1");
        assert!(run(&pages, &mut streams).is_ok());
        let error = run(&pages.join("postern.1"), &mut streams).err().unwrap();
        assert!(error.to_string().contains("can't make "), "{error}");
        assert!(pages.join("postern-queue-list.1").is_file());
        assert!(String::from_utf8(out).unwrap().contains("postern-queue-list.1\n"));
    }
}
