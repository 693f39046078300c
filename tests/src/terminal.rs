//! A terminal that a test makes, and what a person would see on it.
//!
//! ```text
//!   program ──stderr──► slave ═ master ──► reader thread ──► Screen ──► the test waits for what is to be seen
//! ```
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};

/// The columns of a terminal that nobody told its size, for most programs.
const COLUMNS: usize = 80;
/// How long something may take to be seen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A terminal: its master, which no other program inherits, and its slave.
#[must_use]
pub fn pair() -> (PtyMaster, File) {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = posix_openpt(flags).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let mut options = File::options();
    let slave = options.read(true).write(true);
    // Whoever opens a terminal without having one would get it as its own.
    let slave = slave.custom_flags(OFlag::O_NOCTTY.bits());
    let slave = slave.open(ptsname_r(&master).unwrap()).unwrap();
    (master, slave)
}

/// What stands on a terminal: lines of any number, a cursor, and everything that was ever written.
#[derive(Debug, Clone, Default)]
pub struct Screen {
    lines: Vec<Vec<char>>,
    row: usize,
    column: usize,
    /// An escape sequence that has not ended.
    open: String,
    written: String,
}

impl Screen {
    /// Its lines without blanks at their ends; empty ones at its end are left out.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let lines = self.lines.iter();
        let mut lines: Vec<String> = lines
            .map(|line| line.iter().collect::<String>().trim_end().to_owned())
            .collect();
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines
    }

    /// Whether a line of it contains this.
    #[must_use]
    pub fn shows(&self, part: &str) -> bool {
        self.lines().iter().any(|line| line.contains(part))
    }

    /// Every character that was written, escape sequences included.
    #[must_use]
    pub fn written(&self) -> &str {
        &self.written
    }

    /// Takes what a program has written.
    pub fn write(&mut self, text: &str) {
        self.written.push_str(text);
        for c in text.chars() {
            if !self.open.is_empty() {
                self.open.push(c);
                self.escape(c);
                continue;
            }
            match c {
                '\u{1b}' => self.open.push(c),
                '\r' => self.column = 0,
                '\n' => self.row += 1,
                c if c.is_control() => {}
                c => {
                    // What follows a full line is on the next one; the cursor goes there only then.
                    if self.column >= COLUMNS {
                        self.column = 0;
                        self.row += 1;
                    }
                    let (line, column) = self.line();
                    if line.len() <= column {
                        line.resize(column + 1, ' ');
                    }
                    line[column] = c;
                    self.column += 1;
                }
            }
        }
    }

    /// The cursor's line and column.
    fn line(&mut self) -> (&mut Vec<char>, usize) {
        if self.lines.len() <= self.row {
            self.lines.resize(self.row + 1, Vec::new());
        }
        (&mut self.lines[self.row], self.column)
    }

    /// One more character of a sequence; only what moves the cursor or clears is obeyed, and the end of one that is unknown is that
    /// of all of its kind (ECMA-48, 5.4: a byte from `@` to `~`).
    fn escape(&mut self, c: char) {
        let is_end = self.open.len() > 2 && ('@'..='~').contains(&c);
        if !(is_end || self.open.len() == 2 && c != '[') {
            return;
        }
        let sequence = std::mem::take(&mut self.open);
        let number: usize = sequence
            .trim_matches(|c: char| !c.is_ascii_digit())
            .parse()
            .unwrap_or(0);
        let count = number.max(1);
        match c {
            'A' => self.row = self.row.saturating_sub(count),
            'B' => self.row += count,
            'C' => self.column += count,
            'D' => self.column = self.column.saturating_sub(count),
            'G' => self.column = count - 1,
            'K' => {
                let (line, column) = self.line();
                match number {
                    0 => line.truncate(column),
                    1 => line.iter_mut().take(column + 1).for_each(|c| *c = ' '),
                    _ => line.clear(),
                }
            }
            'J' => {
                let (line, column) = self.line();
                line.truncate(column);
                self.lines.truncate(self.row + 1);
            }
            _ => {}
        }
    }
}

/// A screen that a thread keeps up to date.
pub struct Watched {
    shared: Arc<(Mutex<(Screen, bool)>, Condvar)>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Watched {
    /// Watches a terminal by its master until nobody can write to it any more.
    #[must_use]
    pub fn new(master: PtyMaster) -> Self {
        let shared = Arc::new((Mutex::new((Screen::default(), false)), Condvar::new()));
        let seen = Arc::clone(&shared);
        let reader = std::thread::spawn(move || {
            let mut master = master;
            let mut bytes = [0; 4096];
            let mut rest = Vec::new();
            // A terminal that nobody has open any more is an error of its reader.
            while let Ok(count @ 1..) = master.read(&mut bytes) {
                rest.extend_from_slice(&bytes[..count]);
                // A character may have come by half.
                let whole = match std::str::from_utf8(&rest) {
                    Ok(text) => text.len(),
                    Err(error) => error.valid_up_to(),
                };
                let text: Vec<u8> = rest.drain(..whole).collect();
                seen.0
                    .lock()
                    .unwrap()
                    .0
                    .write(&String::from_utf8_lossy(&text));
                seen.1.notify_all();
            }
            seen.0.lock().unwrap().1 = true;
            seen.1.notify_all();
        });
        Self {
            shared,
            reader: Some(reader),
        }
    }

    /// Waits until something is to be seen.
    #[track_caller]
    pub fn until(&self, what: &str, is_there: impl Fn(&Screen) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let (lock, changed) = &*self.shared;
        let mut seen = lock.lock().unwrap();
        while !is_there(&seen.0) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !seen.1 && !left.is_zero(),
                "never seen: {what}\n{}\n{:?}",
                seen.0.lines().join("\n"),
                seen.0.written()
            );
            seen = changed.wait_timeout(seen, left).unwrap().0;
        }
    }

    /// The last that is to be seen, once nobody can write any more.
    #[must_use]
    pub fn last(mut self) -> Screen {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.shared.0.lock().unwrap().0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_is_what_is_left_after_moves_and_clearings() {
        let mut screen = Screen::default();
        screen.write("one\r\ntwo three\r\n\u{1b}[1A\u{1b}[2Kfour\u{1b}[1");
        screen.write("D\u{1b}[33mR\u{1b}[0m\u{1b}[?25l");
        assert_eq!(screen.lines(), ["one", "fouR"]);
        screen.write("\r\u{1b}[1A\u{1b}[J\rall");
        assert_eq!(screen.lines(), ["all"]);
        screen.write("\r\u{1b}[K");
        assert!(screen.lines().is_empty() && !screen.shows("all"));
        let full = "x".repeat(COLUMNS);
        screen.write(&format!("{full}y\r\u{1b}[1A{full}\r\nz"));
        assert_eq!(screen.lines(), [full, "z".to_owned()]);
    }
}
