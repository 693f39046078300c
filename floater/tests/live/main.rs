//! Living floaters: over loopback for everybody, in network namespaces for those who may.

#![allow(clippy::unwrap_used)]

mod api;
mod client;
mod netns;
mod responder;
