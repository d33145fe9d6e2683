//! The terminal: taken over, given back whatever happens, and where all events come together.
//!
//! Invariants:
//! - Nothing reaches the terminal but what ratatui draws; names come as [`crate::inspect::shown`]
//!   has them.
//! - The terminal is given back as it was: at the end, by an error, a panic or a signal, and while
//!   the program is stopped.

use std::io::{self, Stdout, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, raise};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use ratatui::crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::crossterm::{cursor, execute};

use super::app::{App, Next};
use super::draw::{Look, draw};
use super::gather::{News, Subject};
use crate::cli::Failure;
use crate::sandbox::Signals;

/// Something that happened.
enum Message {
    Event(Event),
    Signal(Signal),
    News(News),
    /// A thread fell over, and has said so.
    Panic,
}

/// Whether the terminal is ours at this moment.
static TAKEN: AtomicBool = AtomicBool::new(false);

fn take() -> io::Result<()> {
    enable_raw_mode()?;
    TAKEN.store(true, Ordering::SeqCst);
    execute!(io::stdout(), EnterAlternateScreen, cursor::Hide)
}

fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        // A terminal that is gone needs nothing back.
        let _ = execute!(io::stdout(), LeaveAlternateScreen, cursor::Show);
        let _ = disable_raw_mode();
        let _ = io::stdout().flush();
    }
}

/// Gives the terminal back when it goes out of scope.
struct Taken;

impl Drop for Taken {
    fn drop(&mut self) {
        give_back();
    }
}

/// Shows the subject until the user, or a signal, has had enough.
pub(super) fn run(subject: Subject, checks: bool, look: Look) -> Result<(), Failure> {
    // Before there are threads: they are not to have them.
    let signals = Signals::take_set(&[
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGTSTP,
    ])?;
    let mut app = App::new(Arc::new(subject), checks)?;
    let (sender, messages) = channel();
    let before = std::panic::take_hook();
    let panicked = sender.clone();
    std::panic::set_hook(Box::new(move |panic| {
        give_back();
        before(panic);
        let _ = panicked.send(Message::Panic);
    }));
    take()?;
    let _taken = Taken;
    let mut terminal = blank()?;
    listen(sender.clone(), signals);
    let end = follow(&mut app, &mut terminal, look, &sender, &messages);
    give_back();
    end
}

/// The terminal with nothing on it, and nothing thought to be. (ratatui's own way to clear one asks
/// where the cursor is; the answer would go to the thread that waits for keys.)
fn blank() -> io::Result<Terminal<CrosstermBackend<Stdout>>> {
    execute!(io::stdout(), Clear(ClearType::All))?;
    Terminal::new(CrosstermBackend::new(io::stdout()))
}

/// Threads that wait for keys and for signals.
fn listen(sender: Sender<Message>, signals: Signals) {
    let keys = sender.clone();
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if keys.send(Message::Event(event)).is_err() {
                return;
            }
        }
        // The terminal is gone.
        let _ = keys.send(Message::Signal(Signal::SIGHUP));
    });
    std::thread::spawn(move || {
        loop {
            let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::NONE).is_err() {
                continue;
            }
            while let Some(signal) = signals.next() {
                if sender.send(Message::Signal(signal)).is_err() {
                    return;
                }
            }
        }
    });
}

fn follow(
    app: &mut App,
    terminal: &mut Terminal<CrosstermBackend<Stdout>>,
    look: Look,
    sender: &Sender<Message>,
    messages: &Receiver<Message>,
) -> Result<(), Failure> {
    loop {
        for job in std::mem::take(&mut app.jobs) {
            let sender = sender.clone();
            job.start(&app.subject, &app.sums, move |news| {
                // Nobody listens at the end.
                let _ = sender.send(Message::News(news));
            });
        }
        // A thread that fails gives the terminal back before its message is here.
        if TAKEN.load(Ordering::SeqCst) {
            terminal.draw(|frame| draw(frame, app, look))?;
        }
        let Ok(first) = messages.recv() else { return Ok(()) };
        // All that has come meanwhile is drawn at once.
        for message in std::iter::once(first).chain(messages.try_iter()) {
            let next = match message {
                Message::Event(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                    app.key(key)
                }
                Message::Event(_) => Next::Go,
                Message::News(news) => {
                    app.hear(news);
                    Next::Go
                }
                Message::Signal(Signal::SIGTSTP) => Next::Suspend,
                Message::Signal(signal) => return Err(Failure::Signal(signal as i32)),
                Message::Panic => return Err(Failure::message("that is a mistake in overcoat")),
            };
            match next {
                Next::Go => {}
                Next::Quit => return Ok(()),
                Next::Redraw => *terminal = blank()?,
                Next::Suspend => {
                    give_back();
                    // Returns when the shell has us go on.
                    raise(Signal::SIGSTOP).map_err(io::Error::from)?;
                    take()?;
                    *terminal = blank()?;
                }
            }
        }
    }
}
