//! `inspect`: the page in a browser, the screens on a terminal.

mod page;
mod scene;
mod screen;
