//! What the verbs do. One module each; what two of them need is beside them.

mod dr;
mod explain;
mod link;
mod matrix;
mod pages;

use crate::cli::{Cli, Link, Verb};
use crate::exit::{Failure, OK, Outcome};
use crate::output;

/// Does what was asked.
///
/// # Errors
/// Why it could not be done; see [`Failure::code`].
pub fn run(cli: &Cli) -> Outcome {
    match &cli.verb {
        Verb::Completions(arguments) => pages::completions(arguments.shell),
        Verb::Dr(arguments) => dr::run(arguments),
        Verb::Explain(arguments) => explain::run(arguments),
        Verb::Link(Link::Plan(arguments)) => link::plan(arguments),
        Verb::Matrix(arguments) => matrix::run(arguments),
        Verb::Man(arguments) => pages::man(arguments),
        Verb::Version => {
            output::print(&format!("floaterctl {}\n", env!("CARGO_PKG_VERSION")))?;
            Ok(OK)
        }
        Verb::Analyse(_) | Verb::Demo(_) | Verb::Sim(_) => {
            Err(Failure::Usage("not available in this version".to_owned()))
        }
    }
}
