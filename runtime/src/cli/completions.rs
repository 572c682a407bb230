//! `postern completions`: what lets a shell complete commands and options. From the definitions that parse them, so it
//! can't know less.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, CliError, OK, Streams};

pub(super) fn run(shell: Shell, streams: &mut Streams<'_>) -> Result<u8, CliError> {
    streams.out.write_all(&script(shell))?;
    Ok(OK)
}

/// In the language of that shell.
pub fn script(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    // Into memory: clap_complete panics where a write fails, and whoever reads us may be gone.
    clap_complete::generate(shell, &mut super::man::visible(&Cli::command()), "postern", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use super::super::man::tests::for_each_command;
    use super::*;

    #[test]
    fn every_shell_knows_every_command_and_option() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = String::from_utf8(script(shell)).unwrap();
            for_each_command(|command| {
                let name = command.get_name();
                assert!(script.contains(name), "{shell}: {name}");
                for option in command.get_arguments().filter_map(|argument| argument.get_long()) {
                    // fish writes them without hyphens.
                    assert!(
                        script.contains(&format!("--{option}")) || script.contains(&format!("-l {option}")),
                        "{shell}: {option}"
                    );
                }
            });
            assert!(!script.contains("compile-plugin"), "{shell}: what is hidden stays so");
        }
    }
}
