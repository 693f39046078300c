//! Documents that a person names, JSON or YAML: read within bounds, with the place of what is wrong in them (feature `clusterlink`).

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::de::DeserializeOwned;

use crate::error::Error;

mod fleet;

pub use fleet::{Objects, holds_objects, objects};

/// The most bytes that a file may have: the objects of 5000 clusters are a tenth of it.
pub const LIMIT: u64 = 1 << 30;
/// How long a pipe may give nothing until it is given up. A terminal may take as long as its user.
const PATIENCE: Duration = Duration::from_secs(60);

/// A text and what to call it in messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The name as the person wrote it.
    pub name: String,
    /// The text.
    pub text: String,
}

impl Source {
    /// Reads a file of at most [`LIMIT`] bytes; `-` is stdin.
    ///
    /// # Errors
    /// [`Error::Input`] when it cannot be read, is too large, gives nothing for a minute, or is not UTF-8.
    pub fn read(path: &Path) -> Result<Self, Error> {
        Self::read_at_most(path, LIMIT)
    }

    /// Reads a file of a kind that has at most so many bytes.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_at_most(path: &Path, limit: u64) -> Result<Self, Error> {
        let is_stdin = path == Path::new("-");
        let name = if is_stdin {
            "stdin".to_owned()
        } else {
            path.display().to_string()
        };
        let opened = if is_stdin {
            Opened::stdin()
        } else {
            Opened::named(path)
        };
        let read = opened.and_then(|opened| opened.gather(limit));
        let bytes = read.map_err(|error| refusal(&name, None, error))?;
        if bytes.len() as u64 > limit {
            let rule = format!("larger than {} MiB", limit >> 20);
            return Err(refusal(&name, None, rule));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = valid.iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
            refusal(&name, Some(line), "not UTF-8")
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
    /// [`Error::Input`] with the line of what does not fit.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
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
    /// [`Error::Input`] with the line of what is neither.
    pub fn documents(&self) -> Result<Vec<serde_json::Value>, Error> {
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

    fn require_text(&self) -> Result<(), Error> {
        if self.text.trim().is_empty() {
            return Err(refusal(&self.name, None, "empty"));
        }
        Ok(())
    }

    fn bad_json(&self, error: &serde_json::Error) -> Error {
        let line = (error.line() > 0).then_some(error.line() as u64);
        let text = error.to_string();
        // serde_json names the place again at the end of its sentence.
        let rule = text.split(" at line ").next().unwrap_or(&text);
        refusal(&self.name, line, rule)
    }

    fn bad_yaml(&self, error: &serde_saphyr::Error) -> Error {
        let line = error.location().map(|location| location.line());
        let rule = error.without_snippet().to_string();
        // The first line is the rule; the place at its end is named in front already.
        let rule = rule.lines().next().unwrap_or_default();
        let rule = rule.split(" at line ").next().unwrap_or(rule);
        // What follows a semicolon is advice to programmers.
        let rule = rule.split("; use ").next().unwrap_or(rule);
        refusal(&self.name, line, rule)
    }
}

fn refusal(file: &str, line: Option<u64>, rule: impl std::fmt::Display) -> Error {
    Error::Input {
        file: file.to_owned(),
        line,
        rule: rule.to_string(),
    }
}

/// A file, pipe or terminal to be read once.
struct Opened {
    file: File,
    /// How long each piece may take; none for terminals.
    patience: Option<Duration>,
    /// Whether reading waits by itself, for ever.
    blocks: bool,
}

impl Opened {
    fn stdin() -> io::Result<Self> {
        let file = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        if file.metadata()?.is_dir() {
            return Err(io::Error::from(io::ErrorKind::IsADirectory));
        }
        // Other programs may share the description, so that it is not for this one to make it non-blocking.
        let blocks = true;
        Ok(Self::new(file, blocks))
    }

    /// Does not wait for a named pipe's writer.
    fn named(path: &Path) -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)?;
        let kind = file.metadata()?.file_type();
        if kind.is_dir() {
            return Err(io::Error::from(io::ErrorKind::IsADirectory));
        }
        if kind.is_block_device() || kind.is_char_device() && !file.is_terminal() {
            return Err(io::Error::other("a device, not a file"));
        }
        Ok(Self::new(file, false))
    }

    fn new(file: File, blocks: bool) -> Self {
        let patience = (!file.is_terminal()).then_some(PATIENCE);
        Self {
            file,
            patience,
            blocks,
        }
    }

    /// Reads to the end, or a little beyond the limit.
    fn gather(mut self, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut piece = vec![0; 64 << 10];
        // A named pipe that nobody has opened for writing yet reads as if it had ended, so it is waited for first.
        self.wait()?;
        while bytes.len() as u64 <= limit {
            match self.file.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => {
                    bytes.extend_from_slice(&piece[..count]);
                    if self.blocks {
                        self.wait()?;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait()?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(bytes)
    }

    /// Waits until something is there to be read, or the end is.
    fn wait(&self) -> io::Result<()> {
        let timeout = self.patience.map_or(PollTimeout::NONE, |patience| {
            PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX)
        });
        loop {
            let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(0) => {
                    let seconds = self.patience.unwrap_or_default().as_secs();
                    return Err(io::Error::other(format!("gave nothing for {seconds} s")));
                }
                Ok(_) => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::time::Instant;

    use serde::Deserialize;

    use super::*;

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

    fn read(path: &str) -> Result<String, String> {
        let read = Source::read_at_most(Path::new(path), 1 << 20);
        read.map(|source| source.text)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn directories_and_devices_are_refused_at_once() {
        let since = Instant::now();
        for (path, rule) in [
            ("/", "/: is a directory"),
            ("/dev/zero", "/dev/zero: a device, not a file"),
            ("/dev/null", "/dev/null: a device, not a file"),
            (
                "/nonexistent/x",
                "/nonexistent/x: No such file or directory (os error 2)",
            ),
        ] {
            assert_eq!(read(path), Err(rule.to_owned()));
        }
        assert!(since.elapsed() < Duration::from_secs(1));
    }

    #[test]
    fn pipes_are_read_to_their_end_and_within_bounds() {
        let (reader, mut writer) = io::pipe().expect("a pipe");
        // As a shell's process substitution names it.
        let path = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        let writing = std::thread::spawn(move || {
            for _ in 0..3 {
                writer.write_all(b"a: 1\n").expect("a reader");
                std::thread::sleep(Duration::from_millis(30));
            }
        });
        assert_eq!(read(&path).as_deref(), Ok("a: 1\na: 1\na: 1\n"));
        writing.join().expect("a writer");

        let (reader, mut writer) = io::pipe().expect("a pipe");
        let path = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        let writing = std::thread::spawn(move || while writer.write_all(&[b'a'; 4096]).is_ok() {});
        assert_eq!(read(&path), Err(format!("{path}: larger than 1 MiB")));
        drop(reader);
        writing.join().expect("a writer");
    }

    #[test]
    fn a_pipe_that_nobody_writes_to_is_given_up() {
        let folder = std::env::temp_dir().join(format!("document-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a named pipe");
        let mut opened = Opened::named(&path).expect("a pipe is opened without a writer");
        assert_eq!(opened.patience, Some(PATIENCE));
        opened.patience = Some(Duration::from_millis(50));
        let given_up = opened.gather(LIMIT).expect_err("nobody writes");
        assert_eq!(given_up.to_string(), "gave nothing for 0 s");

        // One that comes late is waited for.
        let opened = Opened::named(&path).expect("a pipe");
        let late = path.clone();
        let writing = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            std::fs::write(late, "a: 1").expect("a reader");
        });
        assert_eq!(opened.gather(LIMIT).expect("a text"), b"a: 1");
        writing.join().expect("a writer");
        std::fs::remove_dir_all(folder).expect("a folder");
    }
}
