//! Reading the files that a person names: whole, as text, with the place of what is wrong in them.

use std::io::Read as _;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::exit::Failure;

/// The most bytes that a file may have: a fleet of 5000 clusters is a tenth of it.
const LIMIT: u64 = 1 << 30;

/// A text and what to call it in messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The name as the person wrote it.
    pub name: String,
    /// The text.
    pub text: String,
}

impl Source {
    /// Reads a file; `-` is stdin.
    ///
    /// # Errors
    /// [`Failure::Input`] when it cannot be read, is too large or is not UTF-8.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let stdin = path == Path::new("-");
        let name = if stdin {
            "stdin".to_owned()
        } else {
            path.display().to_string()
        };
        let mut bytes = Vec::new();
        let read = if stdin {
            std::io::stdin()
                .lock()
                .take(LIMIT + 1)
                .read_to_end(&mut bytes)
        } else {
            std::fs::File::open(path).and_then(|file| file.take(LIMIT + 1).read_to_end(&mut bytes))
        };
        read.map_err(|error| Failure::input(&name, None, error))?;
        if bytes.len() as u64 > LIMIT {
            return Err(Failure::input(&name, None, "larger than 1 GiB"));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = valid.iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
            Failure::input(&name, Some(line), "not UTF-8")
        })?;
        Ok(Self { name, text })
    }

    /// Whether the text is JSON rather than YAML: it begins with a brace or a bracket, and the name does not say YAML.
    fn is_json(&self) -> bool {
        let yaml = [".yaml", ".yml"].iter().any(|end| self.name.ends_with(end));
        !yaml && self.text.trim_start().starts_with(['{', '['])
    }

    /// The text as data, JSON or YAML.
    ///
    /// # Errors
    /// [`Failure::Input`] with the line of what does not fit.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        self.require_text()?;
        if self.is_json() {
            serde_json::from_str(&self.text).map_err(|error| self.bad_json(&error))
        } else {
            serde_saphyr::from_str(&self.text).map_err(|error| self.bad_yaml(&error))
        }
    }

    /// Every document of the text, JSON or YAML, one after the other.
    ///
    /// # Errors
    /// [`Failure::Input`] with the line of what is neither.
    pub fn documents(&self) -> Result<Vec<serde_json::Value>, Failure> {
        self.require_text()?;
        if self.is_json() {
            serde_json::Deserializer::from_str(&self.text)
                .into_iter()
                .collect::<Result<_, _>>()
                .map_err(|error| self.bad_json(&error))
        } else {
            serde_saphyr::from_multiple(&self.text).map_err(|error| self.bad_yaml(&error))
        }
    }

    fn require_text(&self) -> Result<(), Failure> {
        if self.text.trim().is_empty() {
            return Err(Failure::input(&self.name, None, "empty"));
        }
        Ok(())
    }

    fn bad_json(&self, error: &serde_json::Error) -> Failure {
        let line = (error.line() > 0).then_some(error.line() as u64);
        let text = error.to_string();
        // serde_json names the place again at the end of its sentence.
        let rule = text.split(" at line ").next().unwrap_or(&text);
        Failure::input(&self.name, line, rule)
    }

    fn bad_yaml(&self, error: &serde_saphyr::Error) -> Failure {
        let line = error.location().map(|location| location.line());
        let rule = error.without_snippet().to_string();
        // The first line is the rule; the place at its end is named in front already.
        let rule = rule.lines().next().unwrap_or_default();
        let rule = rule.split(" at line ").next().unwrap_or(rule);
        // What follows a semicolon is advice to programmers.
        let rule = rule.split("; use ").next().unwrap_or(rule);
        Failure::input(&self.name, line, rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    struct Two {
        #[expect(dead_code, reason = "read by the derive only")]
        a: u8,
    }

    fn shown(name: &str, text: &str) -> String {
        let source = Source {
            name: name.to_owned(),
            text: text.to_owned(),
        };
        source.parse::<Two>().expect_err(text).to_string()
    }

    #[test]
    fn places_are_named_once() {
        assert_eq!(
            shown("x", "{\n\"a\": \"b\"}"),
            "x:2: invalid type: string \"b\", expected u8"
        );
        let yaml = shown("x.yaml", "\n\na: [1]\n");
        assert!(yaml.starts_with("x.yaml:3: "), "{yaml}");
        assert!(!yaml.contains("at line"), "{yaml}");
        assert_eq!(shown("x", " \n"), "x: empty");
    }
}
