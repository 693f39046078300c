//! Reads the tables of the network that the calling thread stands in.

use datapath::kernel::LinuxKernel;
use datapath::state::NodeState;

/// The tables, and what of them could not be read.
pub(super) fn inspect() -> Result<(NodeState, Vec<String>), String> {
    let mut kernel = LinuxKernel::open().map_err(|error| told(&error))?;
    let (state, missing) = kernel.inspect().map_err(|error| told(&error))?;
    Ok((state, missing.iter().map(ToString::to_string).collect()))
}

/// An error with its causes.
fn told(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        words.push_str(": ");
        words.push_str(&next.to_string());
        cause = next.source();
    }
    words
}
