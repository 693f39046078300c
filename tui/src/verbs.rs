//! What the verbs do.

use crate::cli::{Cli, Verb};
use crate::exit::{Failure, OK, Outcome};
use crate::{config, output};

/// Does what was asked.
///
/// # Errors
/// Why it could not be done; see [`Failure::code`].
pub fn run(cli: &Cli) -> Outcome {
    match &cli.verb {
        Verb::Version => {
            output::print(&format!("floaterctl {}\n", env!("CARGO_PKG_VERSION")))?;
            Ok(OK)
        }
        Verb::Completions(arguments) => {
            let mut text = Vec::new();
            clap_complete::generate(
                arguments.shell,
                &mut config::command(),
                "floaterctl",
                &mut text,
            );
            output::print(&String::from_utf8_lossy(&text))?;
            Ok(OK)
        }
        _ => Err(Failure::Failed("not yet".to_owned())),
    }
}
