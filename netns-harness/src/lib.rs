//! netns-harness
