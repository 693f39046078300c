//! `dr`, alias `check`, and `analyse`.

use crate::cli::Dr;
use crate::exit::{Failure, OK, Outcome};
use crate::output;

pub(super) fn run(arguments: &Dr) -> Outcome {
    if arguments.schema {
        let schema = orchestrator::report::schema();
        output::print(&format!("{schema:#}\n"))?;
        return Ok(OK);
    }
    Err(Failure::Usage("not available in this version".to_owned()))
}
