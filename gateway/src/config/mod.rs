//! Command-line flags, environment variables and the settings file.
//!
//! May use every other room.

pub mod args;
pub mod settings;
pub mod settings_file;
