//! The program `floater`: `serve`, `ping`, `tables`, `capture`.

mod capture;
mod ping;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use super::{At, Config, Floater, Here, Sockets};
use crate::error::Error;

/// Wrong usage.
const USAGE: u8 = 64;
/// Nothing to work with.
const MISSING: u8 = 69;

/// One end of a probe: say, listen, measure, inspect.
#[derive(Debug, Parser)]
#[command(name = "floater", version, disable_help_subcommand = true)]
enum Verb {
    /// Serve as the environment says until SIGTERM; silent from FLOATER_EXPIRES on.
    Serve,
    /// Echo requests to some addresses, once; exit code 1 if one of them does not answer.
    Ping(ping::Options),
    /// The tables of this network namespace as JSON.
    Tables,
    /// Frames of this network namespace into a file, until a signal asks for the end.
    Capture(capture::Options),
}

/// Runs the program on its arguments, without the program's name.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    // Hundreds of floaters start at once in a lab: the usual way does not build a command line parser first.
    let verb = if args == ["serve"] {
        Verb::Serve
    } else {
        match Verb::try_parse_from(std::iter::once(OsString::from("floater")).chain(args)) {
            Ok(verb) => verb,
            Err(error) => {
                let _ = error.print();
                return if error.use_stderr() {
                    ExitCode::from(USAGE)
                } else {
                    ExitCode::SUCCESS
                };
            }
        }
    };
    match verb {
        Verb::Serve => done(serve()),
        Verb::Ping(options) => done(ping::ping(&options)),
        Verb::Tables => tables(),
        Verb::Capture(options) => done(capture::capture(&options)),
    }
}

/// Says something on standard error. A floater that cannot say what it does still does it: its log may be on a full disk.
fn say(what: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "floater: {what}");
}

fn done(result: Result<ExitCode, Error>) -> ExitCode {
    result.unwrap_or_else(|error| {
        let cause = std::error::Error::source(&error).map(|source| format!(": {source}"));
        say(format_args!("{error}{}", cause.unwrap_or_default()));
        ExitCode::from(error.exit_code())
    })
}

fn serve() -> Result<ExitCode, Error> {
    let config = Config::from_environment(std::env::vars_os())?;
    let sockets: Arc<dyn Sockets> = match config.bind {
        Some(address) => Arc::new(At(address)),
        None => Arc::new(Here),
    };
    log();
    runtime()?.block_on(async {
        let mut terminate = handler(SignalKind::terminate())?;
        let mut interrupt = handler(SignalKind::interrupt())?;
        let floater = Floater::start(config, sockets).await?;
        let expired = floater.expired();
        if !floater.is_over() {
            say(format_args!(
                "listening on {} and {}",
                floater.port(),
                floater.api_port()
            ));
        }
        let told = async {
            expired.await;
            say(format_args!(
                "its time is over: it is silent until it is ended"
            ));
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = told => {}
        }
        floater.stop();
        floater.stopped().await;
        say(format_args!("stopped"));
        Ok(ExitCode::SUCCESS)
    })
}

/// Logs to standard error what `FLOATER_LOG` asks for, as in `floater=debug`.
fn log() {
    if let Ok(filter) = tracing_subscriber::EnvFilter::try_from_env("FLOATER_LOG") {
        // Fails where somebody logs already.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            // It would tell them on standard error, which is what failed, and panic.
            .log_internal_errors(false)
            .try_init();
    }
}

fn handler(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Error> {
    signal(kind).map_err(|source| Error::Socket {
        doing: "handle signals".to_owned(),
        source,
    })
}

fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::Socket {
            doing: "start the runtime".to_owned(),
            source,
        })
}

fn tables() -> ExitCode {
    match Here.inspect() {
        Ok((state, missing)) => {
            for what in missing {
                say(format_args!("not read: {what}"));
            }
            let mut out = std::io::stdout().lock();
            let written = serde_json::to_writer(&mut out, &state)
                .map_err(std::io::Error::from)
                .and_then(|()| writeln!(out));
            match written {
                Ok(()) => ExitCode::SUCCESS,
                // Whoever reads has seen enough.
                Err(_) => ExitCode::FAILURE,
            }
        }
        Err(why) => {
            say(format_args!("{why}"));
            ExitCode::from(MISSING)
        }
    }
}
