//! Terminal setup and the main loop.
//!
//! Invariants:
//! - Only ratatui writes to the terminal, and names are escaped by [`crate::report::shown`].
//! - The terminal's state is restored on exit, after an error, a panic or a signal, and while the
//!   program is suspended.

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

use super::app::{App, KeyAction};
use super::draw::{TerminalStyle, draw};
use super::gather::{InspectedStack, JobResult};
use crate::image::view::LookError;
use crate::sandbox::{SandboxError, Signals};

/// An event for the main loop.
enum Message {
    Event(Event),
    Signal(Signal),
    JobResult(JobResult),
    /// A thread panicked; the panic hook has printed the message.
    Panic,
}

/// Whether the terminal is in raw mode and on the alternate screen.
static ACTIVE: AtomicBool = AtomicBool::new(false);

fn set_up() -> io::Result<()> {
    enable_raw_mode()?;
    ACTIVE.store(true, Ordering::SeqCst);
    execute!(io::stdout(), EnterAlternateScreen, cursor::Hide)
}

fn restore() {
    if ACTIVE.swap(false, Ordering::SeqCst) {
        // Errors are ignored: the terminal may have been closed.
        let _ = execute!(io::stdout(), LeaveAlternateScreen, cursor::Show);
        let _ = disable_raw_mode();
        let _ = io::stdout().flush();
    }
}

/// Restores the terminal on drop.
struct RestoreGuard;

impl Drop for RestoreGuard {
    fn drop(&mut self) {
        restore();
    }
}

/// An error of the screens.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScreenError {
    /// An image cannot be read.
    #[error(transparent)]
    View(#[from] LookError),
    /// Signals cannot be received.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The terminal cannot be used.
    #[error(transparent)]
    Terminal(#[from] io::Error),
    /// A thread panicked; the panic hook has printed the message.
    #[error("internal error: a thread panicked")]
    Panic,
}

/// Shows the stack until the user quits or a signal requests termination. Returns that signal.
pub(crate) fn run(
    subject: InspectedStack,
    checks: bool,
    look: TerminalStyle,
) -> Result<Option<Signal>, ScreenError> {
    // Before threads are created, so that they inherit the blocked signals.
    let signals = Signals::take_set(&[
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGTSTP,
    ])?;
    let mut app = App::new(Arc::new(subject), checks)?;
    let (sender, messages) = channel();
    let default_hook = std::panic::take_hook();
    let panicked = sender.clone();
    std::panic::set_hook(Box::new(move |panic| {
        restore();
        default_hook(panic);
        let _ = panicked.send(Message::Panic);
    }));
    set_up()?;
    let _guard = RestoreGuard;
    let mut terminal = clear_terminal()?;
    start_listeners(sender.clone(), signals);
    let result = main_loop(&mut app, &mut terminal, look, &sender, &messages);
    restore();
    result
}

/// Clears the screen and returns a terminal with empty buffers. (`Terminal::clear` of ratatui
/// queries the cursor position, and the thread that waits for keys would receive the reply.)
fn clear_terminal() -> io::Result<Terminal<CrosstermBackend<Stdout>>> {
    execute!(io::stdout(), Clear(ClearType::All))?;
    Terminal::new(CrosstermBackend::new(io::stdout()))
}

/// Starts threads that wait for keys and for signals.
fn start_listeners(sender: Sender<Message>, signals: Signals) {
    let keys = sender.clone();
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if keys.send(Message::Event(event)).is_err() {
                return;
            }
        }
        // The end of the input means that the terminal was closed.
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

fn main_loop(
    app: &mut App,
    terminal: &mut Terminal<CrosstermBackend<Stdout>>,
    look: TerminalStyle,
    sender: &Sender<Message>,
    messages: &Receiver<Message>,
) -> Result<Option<Signal>, ScreenError> {
    loop {
        for job in std::mem::take(&mut app.jobs) {
            let sender = sender.clone();
            job.start(&app.subject, &app.sums, move |news| {
                // Fails after the main loop has ended.
                let _ = sender.send(Message::JobResult(news));
            });
        }
        // A panicking thread restores the terminal before its message arrives.
        if ACTIVE.load(Ordering::SeqCst) {
            terminal.draw(|frame| draw(frame, app, look))?;
        }
        let Ok(first) = messages.recv() else { return Ok(None) };
        // Handle all pending messages before the next drawing.
        for message in std::iter::once(first).chain(messages.try_iter()) {
            let next = match message {
                Message::Event(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                    app.key(key)
                }
                Message::Event(_) => KeyAction::Go,
                Message::JobResult(news) => {
                    app.handle(news);
                    KeyAction::Go
                }
                Message::Signal(Signal::SIGTSTP) => KeyAction::Suspend,
                Message::Signal(signal) => return Ok(Some(signal)),
                Message::Panic => {
                    return Err(ScreenError::Panic);
                }
            };
            match next {
                KeyAction::Go => {}
                KeyAction::Quit => return Ok(None),
                KeyAction::Redraw => *terminal = clear_terminal()?,
                KeyAction::Suspend => {
                    restore();
                    // Returns when the shell continues this process.
                    raise(Signal::SIGSTOP).map_err(io::Error::from)?;
                    set_up()?;
                    *terminal = clear_terminal()?;
                }
            }
        }
    }
}
