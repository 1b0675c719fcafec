//! What a long-running process needs whatever it serves: essential tasks, draining, watched files, units.
//!
//! May use nothing else in this crate.

pub mod byte_budget;
pub mod drain;
pub mod file_watch;
pub mod pace;
pub mod tasks;
pub mod units;
