//! The state of the terminal view, and how a key changes it. Pure: no terminal, no clock.
//!
//! ```text
//!             ┌──────────┐  enter   ┌─────────┐
//!   start ──► │  matrix  │ ───────► │ details │   f: findings, ?: help, r: run now, from anywhere
//!             └──────────┘ ◄─────── └─────────┘   esc: back to the matrix, q: end
//!                            esc
//! ```

use std::time::Duration;

use orchestrator::matrix::Matrix;
use orchestrator::report::table::DRAW_UP_TO;
use orchestrator::report::{Cells, Coverage, Mark, Plane, Report, Run, RunVerdict};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// What is in front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pane {
    /// One cell and what explains it.
    Details,
    /// Every finding.
    Findings,
    /// Clusters that are alike.
    Groups,
    /// What the keys do.
    Help,
    /// Who reaches whom.
    Matrix,
}

/// A direction of the cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the next source.
    Down,
    /// To the previous destination.
    Left,
    /// To the next destination.
    Right,
    /// To the previous source.
    Up,
}

/// What a key says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// Back to the matrix; from the matrix: end.
    Back,
    /// To the last row or column.
    End,
    /// To the first row or column.
    Home,
    /// One step.
    Move(Direction),
    /// The next layer and family.
    NextPlane,
    /// The next cell that does not pass.
    NextTrouble,
    /// The previous layer and family.
    PreviousPlane,
    /// End, as by a signal.
    Interrupt,
    /// End; help only closes.
    Quit,
    /// Look again now, where there is something to look at.
    RunNow,
    /// A pane, or the matrix if it is in front already.
    Toggle(Pane),
    /// Nearer to the cells.
    ZoomIn,
    /// Farther from the cells.
    ZoomOut,
}

/// What a key means; none for keys without meaning.
#[must_use]
pub fn message(key: KeyEvent) -> Option<Message> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c') => Some(Message::Interrupt),
            KeyCode::Char('d') => Some(Message::Quit),
            _ => None,
        };
    }
    Some(match key.code {
        KeyCode::Char('q') => Message::Quit,
        KeyCode::Esc => Message::Back,
        KeyCode::Left | KeyCode::Char('h') => Message::Move(Direction::Left),
        KeyCode::Down | KeyCode::Char('j') => Message::Move(Direction::Down),
        KeyCode::Up | KeyCode::Char('k') => Message::Move(Direction::Up),
        KeyCode::Right | KeyCode::Char('l') => Message::Move(Direction::Right),
        KeyCode::Home | KeyCode::Char('g') => Message::Home,
        KeyCode::End | KeyCode::Char('G') => Message::End,
        KeyCode::Tab => Message::NextPlane,
        KeyCode::BackTab => Message::PreviousPlane,
        KeyCode::Char('n') => Message::NextTrouble,
        KeyCode::Char('r') => Message::RunNow,
        KeyCode::Enter => Message::Toggle(Pane::Details),
        KeyCode::Char('f') => Message::Toggle(Pane::Findings),
        KeyCode::Char('o') => Message::Toggle(Pane::Groups),
        KeyCode::Char('+' | '=') => Message::ZoomIn,
        KeyCode::Char('-') => Message::ZoomOut,
        KeyCode::Char('?') => Message::Toggle(Pane::Help),
        _ => return None,
    })
}

/// The keys and their meanings, for the help pane.
pub const KEYS: [(&str, &str); 12] = [
    ("arrows, h j k l", "move; scroll a pane of text"),
    (
        "+, -",
        "nearer, farther: a sign is the worst of so many clusters",
    ),
    ("g, G", "first and last cell"),
    ("tab, shift-tab", "next and previous layer and family"),
    ("n", "next cell that does not pass"),
    ("enter", "the cell's details"),
    ("f", "all findings"),
    ("o", "overview: groups of clusters that are alike"),
    ("r", "run again now (live)"),
    ("esc", "back"),
    ("q", "end; close this help"),
    ("ctrl-c", "end, with exit code 130"),
];

/// Where the reports of a live view come from. Times are told by who has a clock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Live {
    /// How old the report is; none before the first one.
    pub age: Option<Duration>,
    /// How long until the next run; none while one goes on.
    pub next: Option<Duration>,
    /// What the run does that goes on.
    pub doing: String,
    /// Why the last run has no report, or what somebody should know of it.
    pub trouble: Option<String>,
}

/// How much farther one step is.
const ZOOM: usize = 2;

/// Everything that is drawn.
#[derive(Debug, Clone)]
pub struct Model {
    /// The report.
    pub report: Report,
    /// Its layout.
    pub matrix: Matrix,
    /// The layer and family in front.
    pub plane: usize,
    /// The cursor's row.
    pub src: usize,
    /// The cursor's column.
    pub dst: usize,
    /// So many clusters by so many share a sign.
    pub scale: usize,
    /// The group in front of the overview.
    pub group: usize,
    /// What is in front.
    pub pane: Pane,
    /// How many lines of a pane of text are above its first one.
    pub scroll: u16,
    /// Whether the view has ended.
    pub done: bool,
    /// Whether it was ended as by a signal.
    pub interrupted: bool,
    /// Whether somebody wants a run now; whoever starts it takes this back.
    pub run_now: bool,
    /// The runs behind the view; none for a report from a file.
    pub live: Option<Live>,
}

impl Model {
    /// The view of a report, with the cursor at the first cell that does not pass; a large one opens on the groups of its clusters
    /// where something is wrong.
    #[must_use]
    pub fn new(report: Report) -> Self {
        let mut model = Self {
            matrix: Matrix::of(&report),
            report,
            plane: 0,
            src: 0,
            dst: 0,
            scale: 1,
            group: 0,
            pane: Pane::Matrix,
            scroll: 0,
            done: false,
            interrupted: false,
            run_now: false,
            live: None,
        };
        model.open();
        model
    }

    /// A live view before its first report.
    #[must_use]
    pub fn waiting() -> Self {
        let nothing = Report {
            run: Run {
                id: String::new(),
                started: String::new(),
                seconds: 0.0,
                seed: 0,
                tool: String::new(),
            },
            clusters: Vec::new(),
            coverage: Coverage::default(),
            cells: Cells::default(),
            findings: Vec::new(),
            verdict: RunVerdict::Unknown,
            unjudged: Vec::new(),
            node_rows: Vec::new(),
        };
        Self {
            live: Some(Live::default()),
            ..Self::new(nothing)
        }
    }

    /// A newer report. The cursor stays on its clusters, the plane on its layer and family, as far as they are still there.
    pub fn replace(&mut self, report: Report) {
        let first = self.report.clusters.is_empty();
        let moved = |at: usize| {
            let name = &self.report.clusters.get(at)?.name;
            report.clusters.iter().position(|known| known.name == *name)
        };
        let (src, dst) = (moved(self.src), moved(self.dst));
        let plane = self.front().and_then(|old| {
            let same = |new: &Plane| (new.layer, new.family) == (old.layer, old.family);
            report.cells.planes().iter().position(same)
        });
        self.src = src.unwrap_or(0);
        self.dst = dst.unwrap_or(0);
        self.plane = plane.unwrap_or(0);
        self.matrix = Matrix::of(&report);
        self.group = self
            .group
            .min(self.matrix.groups.groups.len().saturating_sub(1));
        self.report = report;
        if first {
            self.open();
        }
    }

    fn open(&mut self) {
        self.find_trouble();
        let clusters = self.report.clusters.len();
        if clusters > DRAW_UP_TO && self.matrix.groups.groups.len() > 1 {
            self.pane = Pane::Groups;
        }
    }

    fn find_trouble(&mut self) {
        if !self.mark().is_trouble() {
            self.next_trouble();
        }
    }

    /// The plane in front; none where the report has none.
    #[must_use]
    pub fn front(&self) -> Option<&Plane> {
        self.report.cells.planes().get(self.plane)
    }

    /// The cell under the cursor.
    #[must_use]
    pub fn mark(&self) -> Mark {
        self.front()
            .map_or(Mark::NONE, |plane| plane.at(self.src, self.dst))
    }

    /// What a key does.
    pub fn update(&mut self, message: Message) {
        let clusters = self.report.clusters.len();
        let last = clusters.saturating_sub(1);
        let planes = self.report.cells.planes().len().max(1);
        let groups = self.matrix.groups.groups.len();
        match message {
            Message::Interrupt => (self.done, self.interrupted) = (true, true),
            Message::Quit if self.pane == Pane::Help => self.show(Pane::Matrix),
            Message::Quit => self.done = true,
            Message::RunNow => self.run_now = self.live.is_some(),
            Message::Back if self.pane == Pane::Matrix => self.done = true,
            Message::Back => self.show(Pane::Matrix),
            // From the overview to the cells of what is in front of it.
            Message::Toggle(Pane::Details) if self.pane == Pane::Groups => {
                self.enter_group();
                self.show(Pane::Matrix);
            }
            Message::Toggle(pane) if self.pane == pane => self.show(Pane::Matrix),
            Message::Toggle(pane) => self.show(pane),
            Message::Move(direction) if self.pane == Pane::Matrix => match direction {
                Direction::Down => self.src = (self.src + self.scale).min(last),
                Direction::Left => self.dst = self.dst.saturating_sub(self.scale),
                Direction::Right => self.dst = (self.dst + self.scale).min(last),
                Direction::Up => self.src = self.src.saturating_sub(self.scale),
            },
            Message::Move(Direction::Down) if self.pane == Pane::Groups => {
                self.group = (self.group + 1).min(groups.saturating_sub(1));
            }
            Message::Move(Direction::Up) if self.pane == Pane::Groups => {
                self.group = self.group.saturating_sub(1);
            }
            Message::Move(Direction::Up) => self.scroll = self.scroll.saturating_sub(1),
            Message::Move(Direction::Down) => self.scroll = self.scroll.saturating_add(1),
            Message::Move(_) => {}
            Message::Home if self.pane == Pane::Matrix => (self.src, self.dst) = (0, 0),
            Message::End if self.pane == Pane::Matrix => (self.src, self.dst) = (last, last),
            Message::Home => self.scroll = 0,
            Message::End => self.scroll = u16::MAX,
            Message::NextPlane => self.plane = (self.plane + 1) % planes,
            Message::PreviousPlane => self.plane = (self.plane + planes - 1) % planes,
            Message::NextTrouble => self.next_trouble(),
            Message::ZoomIn => self.scale = (self.scale / ZOOM).max(1),
            Message::ZoomOut if self.scale < clusters => self.scale *= ZOOM,
            Message::ZoomOut => {}
        }
    }

    /// Puts the cursor at a cell of the group in front, one that does not pass if there is one in this plane.
    fn enter_group(&mut self) {
        let Some(group) = self.matrix.groups.groups.get(self.group) else {
            return;
        };
        let members: Vec<usize> = group.members.iter().map(|&at| at as usize).collect();
        let (Some(plane), Some(pyramid)) = (self.front(), self.matrix.pyramids.get(self.plane))
        else {
            return;
        };
        let first = members.iter().find_map(|&src| {
            let (dst, _) = pyramid.troubles(plane, src).next()?;
            Some((src, dst))
        });
        let at = members.first().copied().unwrap_or(0);
        (self.src, self.dst) = first.unwrap_or((at, at));
    }

    fn show(&mut self, pane: Pane) {
        self.pane = pane;
        self.scroll = 0;
    }

    /// Row by row from behind the cursor, then through the other planes, once around.
    fn next_trouble(&mut self) {
        let clusters = self.report.clusters.len();
        let planes = self.report.cells.planes();
        let behind = if self.dst + 1 < clusters {
            (self.src, self.dst + 1)
        } else {
            (self.src + 1, 0)
        };
        for step in 0..=planes.len() {
            let at = (self.plane + step) % planes.len().max(1);
            let (Some(plane), Some(pyramid)) = (planes.get(at), self.matrix.pyramids.get(at))
            else {
                return;
            };
            let from = if step == 0 { behind } else { (0, 0) };
            let found = pyramid.next_trouble(plane, from);
            // Of this plane what lies before the cursor comes after the other planes.
            if let Some(place) = found.filter(|&place| step > 0 || place >= from) {
                (self.plane, self.src, self.dst) = (at, place.0, place.1);
                return;
            }
        }
    }
}
