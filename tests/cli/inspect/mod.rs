//! `inspect`: the page in a browser and the screens in a terminal.

mod page;
mod scene;
mod screen;
