//! The terminal's life: taken over, drawn into, given back on every path, panics included.

use std::io::{self, IsTerminal as _};

use ratatui::crossterm::event::{self, Event};

use crate::app::{self, Model};
use crate::view;

/// Whether a person can see and steer a view: stdin and stdout are a terminal.
#[must_use]
pub fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Shows a model until it is done. The terminal is as before afterwards, whatever happens.
///
/// # Errors
/// The terminal's.
pub fn show(model: &mut Model) -> io::Result<()> {
    // Installs a panic hook that gives the terminal back before the message is printed.
    let mut terminal = ratatui::try_init()?;
    let _guard = Guard;
    while !model.done {
        terminal.draw(|frame| view::render(frame, model))?;
        if let Event::Key(key) = event::read()?
            && let Some(message) = app::message(key)
        {
            model.update(message);
        }
    }
    Ok(())
}

struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        give_back();
    }
}

/// Leaves the view, from whichever thread; harmless where there is none.
pub fn give_back() {
    ratatui::restore();
}
