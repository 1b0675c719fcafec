//! The web origins that Routes name.

use std::collections::HashMap;

use tidings_crds::origin::allows;
use tidings_crds::route::RouteCors;

/// The origins that any channel names, and whether one of them allows credentials with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(HashMap<String, bool>);

// === impl Origins ===

impl Origins {
    /// All that these channels name.
    pub fn of<'r>(channels: impl IntoIterator<Item = &'r RouteCors>) -> Self {
        let mut origins: HashMap<String, bool> = HashMap::new();
        for cors in channels {
            for origin in &cors.origins {
                match origins.get_mut(origin) {
                    Some(credentials) => *credentials |= cors.allow_credentials,
                    None => drop(origins.insert(origin.clone(), cors.allow_credentials)),
                }
            }
        }
        Self(origins)
    }

    /// Whether an origin is named, and if so whether with credentials.
    pub fn credentials(&self, origin: &str) -> Option<bool> {
        credentials(origin, |entry| self.0.get(entry).copied())
    }

    /// Whether a channel names every origin.
    pub fn names_every_origin(&self) -> bool {
        self.0.contains_key("*")
    }
}

/// Whether an origin is named, and if so whether with credentials: by a wildcard never. `find` looks an entry up.
pub fn credentials(origin: &str, find: impl Fn(&str) -> Option<bool>) -> Option<bool> {
    find(origin).or_else(|| {
        let (scheme, host) = origin.split_once("://")?;
        let entry = format!("{scheme}://*.{}", host.split_once('.')?.1);
        (allows(&entry, origin) && find(&entry).is_some()).then_some(false)
    })
}
