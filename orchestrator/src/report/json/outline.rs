//! JSON whose outer levels are indented and whose inner ones are a line each: readable, and a tenth of the lines.

use std::io::{self, Write};

use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};

/// Levels from here on are written in one line.
const INDENTED: usize = 5;

/// Indents the outer levels.
#[derive(Default)]
pub(super) struct Outline {
    depth: usize,
    pretty: PrettyFormatter<'static>,
    compact: CompactFormatter,
}

/// Calls the same method of the formatter that the depth asks for.
macro_rules! by_depth {
    ($self:ident.$method:ident($($argument:expr),*)) => {
        if $self.depth <= INDENTED {
            $self.pretty.$method($($argument),*)
        } else {
            $self.compact.$method($($argument),*)
        }
    };
}

impl Formatter for Outline {
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth += 1;
        by_depth!(self.begin_array(writer))
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        let ended = by_depth!(self.end_array(writer));
        self.depth -= 1;
        ended
    }

    fn begin_array_value<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        by_depth!(self.begin_array_value(writer, first))
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        by_depth!(self.end_array_value(writer))
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth += 1;
        by_depth!(self.begin_object(writer))
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        let ended = by_depth!(self.end_object(writer));
        self.depth -= 1;
        ended
    }

    fn begin_object_key<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        by_depth!(self.begin_object_key(writer, first))
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        by_depth!(self.begin_object_value(writer))
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        by_depth!(self.end_object_value(writer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Serialize as _;

    #[test]
    fn outer_levels_are_indented_and_inner_ones_a_line() {
        let value = serde_json::json!({"a": [[[[[1, {"b": 2}], []]]]], "c": {}});
        let mut text = Vec::new();
        let mut json = serde_json::Serializer::with_formatter(&mut text, Outline::default());
        value.serialize(&mut json).expect("memory");
        let text = String::from_utf8(text).expect("UTF-8");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).expect("JSON"),
            value
        );
        assert!(text.contains("\n          [1,{\"b\":2}],\n"), "{text}");
    }
}
