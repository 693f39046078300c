//! Reading the files that a person names: whole, as text, with the place of what is wrong in them.

pub use datapath::document::Source;
