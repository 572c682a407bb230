//! Compiling, in a child process: whoever writes a plugin chooses what the compiler works on, so it may use little
//! and may die without harm (a compile bomb is not among what wasmtime promises to withstand).

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::engine;
use super::{MAX_SOURCE, to_component};

/// The hidden subcommand that calls [`compile_child_main`].
pub const SUBCOMMAND: &str = "compile-plugin";

/// Of CPU time, for the child itself. JavaScript's 12 MB take 8 seconds.
const CPU_TIME: Duration = Duration::from_secs(30);
/// Of wall time, for the parent. Its CPU time bounds what the child takes; this is only patience: the child has the lowest
/// priority, and on a machine whose load was 15 a JavaScript component was not done after 90 s.
const WALL_TIME: Duration = Duration::from_secs(300);
/// Octets of the child's address space.
const MEMORY: u64 = 1 << 30;
/// Octets of compiled code that are read from the child.
const MAX_CODE: u64 = 512 << 20;
/// Octets of what it has to say.
const MAX_MESSAGE: u64 = 4096;

/// Where compiling happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compiler {
    /// In a child of this program (the gateway's own), with limits.
    Child { program: PathBuf },
    /// In this process, without limits: for tests, and for tools that compile what they have built themselves.
    InProcess,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    #[error("it can't be compiled: {0}")]
    Source(String),
    #[error("compiling it took longer than {} s", WALL_TIME.as_secs())]
    Time,
    #[error("compiling it was ended by signal {0}: it needs more than {memory} MiB of memory, or {time} s", memory = MEMORY >> 20, time = CPU_TIME.as_secs())]
    Killed(i32),
    #[error("its compiled code is larger than {MAX_CODE} octets")]
    TooBig,
    /// Our own trouble.
    #[error("the compiler could not be run: {0}")]
    Run(String),
}

impl Compiler {
    /// A child of this very program. Not by its name: after an upgrade that is another program, whose code is none for us.
    pub fn this_program() -> Self {
        let program = PathBuf::from("/proc/self/exe");
        if program.exists() { Self::Child { program } } else { Self::InProcess }
    }

    /// Compiled code, for an engine with the same compile settings.
    pub async fn compile(&self, source: Arc<[u8]>) -> Result<Vec<u8>, CompileError> {
        match self {
            Self::InProcess => {
                let compiled = tokio::task::spawn_blocking(move || compile(&source)).await;
                compiled.map_err(|error| CompileError::Run(error.to_string()))?.map_err(CompileError::Source)
            }
            Self::Child { program } => {
                tokio::time::timeout(WALL_TIME, in_child(program, source)).await.unwrap_or(Err(CompileError::Time))
            }
        }
    }
}

/// Runs the child. When this is dropped, in time-out too, the child is killed by its handle.
async fn in_child(program: &Path, source: Arc<[u8]>) -> Result<Vec<u8>, CompileError> {
    let run = |error: std::io::Error| CompileError::Run(format!("{}: {error}", program.display()));
    let mut child = tokio::process::Command::new(program)
        .arg(SUBCOMMAND)
        .env_clear()
        // One thread: who waits for the plugin waits a little longer, and mail has the other processors to itself.
        .env("RAYON_NUM_THREADS", "1")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(run)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
        return Err(CompileError::Run("no pipes".to_owned()));
    };
    let (mut code, mut message) = (Vec::new(), Vec::new());
    let write = async move {
        // A child that stops reading says why on its standard error.
        let _ = stdin.write_all(&source).await;
        drop(stdin);
    };
    let read_code = async { stdout.take(MAX_CODE + 1).read_to_end(&mut code).await };
    let read_message = async {
        let mut stderr = stderr;
        let read = (&mut stderr).take(MAX_MESSAGE).read_to_end(&mut message).await;
        // What is beyond is thrown away, so that the child does not wait for a reader.
        tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await.and(read)
    };
    let ((), code_read, message_read) = tokio::join!(write, read_code, read_message);
    let status = child.wait().await.map_err(run)?;
    code_read.and(message_read).map_err(run)?;
    if code.len() as u64 > MAX_CODE {
        return Err(CompileError::TooBig);
    }
    if status.success() {
        return Ok(code);
    }
    match std::os::unix::process::ExitStatusExt::signal(&status) {
        Some(signal) => Err(CompileError::Killed(signal)),
        None => Err(CompileError::Source(printable(&message))),
    }
}

fn printable(message: &[u8]) -> String {
    let text = message.utf8_chunks().flat_map(|chunk| chunk.valid().chars());
    text.map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

/// What the hidden subcommand does: a plugin's bytes on standard input, compiled code on standard output; or a message
/// on standard error and exit code 1.
pub fn compile_child_main() -> ExitCode {
    if let Err(error) = restrict() {
        eprintln!("limits can't be set: {error}");
        return ExitCode::FAILURE;
    }
    match compile_stream(std::io::stdin().lock(), std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// Limits on itself, before the first octet is read.
fn restrict() -> rustix::io::Result<()> {
    let limit =
        |resource, value| rustix::process::setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) });
    limit(Resource::As, MEMORY)?;
    limit(Resource::Cpu, CPU_TIME.as_secs())?;
    limit(Resource::Core, 0)?;
    // It writes to pipes only.
    limit(Resource::Fsize, 0)?;
    // The lowest priority: mail does not wait for a compiler.
    rustix::process::nice(19)?;
    run_when_idle();
    Ok(())
}

/// Runs only where nobody else wants the processor, and makes way at once: also the lowest priority has its turns, in which a
/// command that takes 100 µs waits for milliseconds. Where it is forbidden, that must do.
#[expect(unsafe_code, reason = "no crate that is here has this call; the argument stands inside")]
fn run_when_idle() {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads the parameters, which outlive the call, and changes how this thread is scheduled; those that it
    // starts inherit that. 0 is the calling thread.
    unsafe {
        libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters);
    }
}

fn compile_stream(input: impl Read, mut output: impl Write) -> Result<(), String> {
    let mut source = Vec::new();
    input.take(MAX_SOURCE as u64 + 1).read_to_end(&mut source).map_err(|error| format!("reading: {error}"))?;
    let code = compile(&source)?;
    output.write_all(&code).and_then(|()| output.flush()).map_err(|error| format!("writing: {error}"))
}

fn compile(source: &[u8]) -> Result<Vec<u8>, String> {
    let component = to_component(source).map_err(|error| error.to_string())?;
    let engine = engine::compiler().map_err(|error| format!("{error:#}"))?;
    engine.precompile_component(&component).map_err(|error| format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use super::super::super::guest;
    use super::*;

    #[test]
    fn the_child_reads_a_plugin_and_writes_its_code() {
        let mut code = Vec::new();
        compile_stream(&guest::next("connect")[..], &mut code).unwrap();
        assert!(code.starts_with(b"\x7fELF"));
    }

    #[test]
    fn the_child_refuses_what_is_no_plugin_with_a_message() {
        let mut code = Vec::new();
        for (source, expected) in
            [(&b"hello"[..], "not WebAssembly"), (b"\x7fELF", "precompiled"), (b"\0asm\x0d\0\x01\0\xff", "")]
        {
            let message = compile_stream(source, &mut code).unwrap_err();
            assert!(message.contains(expected) && !message.is_empty(), "{message}");
        }
        assert!(code.is_empty());
    }

    #[tokio::test]
    async fn w14_a_child_that_fails_or_is_missing_is_told_apart() {
        let source: Arc<[u8]> = Arc::from(&b"x"[..]);
        let compile = |program: &str| {
            let compiler = Compiler::Child { program: program.into() };
            let source = source.clone();
            async move { compiler.compile(source).await.unwrap_err() }
        };
        assert!(matches!(compile("/nowhere/postern").await, CompileError::Run(_)));
        assert!(matches!(compile("/bin/false").await, CompileError::Source(_)));
    }

    /// A child of our own making.
    fn child(directory: &tempfile::TempDir, script: &str) -> Compiler {
        use std::os::unix::fs::PermissionsExt as _;
        let program = directory.path().join("child");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        Compiler::Child { program }
    }

    #[tokio::test]
    async fn w14_a_child_killed_by_its_limits_is_a_readable_error() {
        let directory = tempfile::tempdir().unwrap();
        let compiler = child(&directory, "kill -ABRT $$");
        let error = compiler.compile(Arc::from(vec![0; 1 << 20])).await.unwrap_err();
        assert_eq!(error, CompileError::Killed(6));
        assert!(error.to_string().contains("1024 MiB"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn w14_a_child_that_hangs_is_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let compiler = child(&directory, "kill -STOP $$");
        assert_eq!(compiler.compile(Arc::from(vec![0; 1 << 20])).await.unwrap_err(), CompileError::Time);
    }
}
