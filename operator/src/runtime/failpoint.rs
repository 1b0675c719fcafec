//! Named places where a test may end the process, as if it were killed there.
//!
//! Only debug builds look at `TIDINGS_FAILPOINT`; in a release build [`reached`] is empty.

/// Ends the process without any cleaning up if the environment names this failpoint.
#[cfg(debug_assertions)]
pub fn reached(name: &str) {
    if std::env::var("TIDINGS_FAILPOINT").is_ok_and(|wanted| wanted == name) {
        tracing::error!(failpoint = name, "Failpoint reached: the process ends here.");
        std::process::abort();
    }
}

/// Ends the process without any cleaning up if the environment names this failpoint.
#[cfg(not(debug_assertions))]
pub fn reached(_name: &str) {}
