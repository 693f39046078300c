//! Reads the tables of the network that the calling thread stands in.

use datapath::digest::Digester;
use datapath::kernel::{LinuxKernel, Missing};
use datapath::state::NodeState;

use super::socket::Counted;

/// The tables, and what of them could not be read.
pub(super) fn inspect() -> Result<(NodeState, Vec<String>), String> {
    let mut kernel = LinuxKernel::open().map_err(|error| told(&error))?;
    let (state, missing) = kernel.inspect().map_err(|error| told(&error))?;
    Ok((state, words_of(&missing)))
}

/// The tables without the rows that count for the digester, and the digest of these.
pub(super) fn inspect_counting(digester: &Digester) -> Result<Counted, String> {
    let mut kernel = LinuxKernel::open().map_err(|error| told(&error))?;
    let counted = kernel.inspect_counting(digester);
    let (state, digest, missing) = counted.map_err(|error| told(&error))?;
    Ok(Counted {
        state,
        digest,
        missing: words_of(&missing),
    })
}

/// Whether the kernel makes VXLAN links.
pub(super) fn has_vxlan() -> Result<bool, String> {
    let mut kernel = LinuxKernel::open().map_err(|error| told(&error))?;
    kernel.has_vxlan().map_err(|error| told(&error))
}

fn words_of(missing: &[Missing]) -> Vec<String> {
    missing.iter().map(ToString::to_string).collect()
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
