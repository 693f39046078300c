//! `explain`: what a cause code or a finding means.

use crate::cli::Explain;
use crate::exit::{Failure, Outcome};

pub(super) fn run(_arguments: &Explain) -> Outcome {
    Err(Failure::Usage("not available in this version".to_owned()))
}
