//! The packets of a probe: built and read, never sent. Any bytes are read without panic.

pub mod icmp;
pub mod tcp;
