//! Which room may use which. A room is a folder; what is in no folder is the room `root`.

/// The rooms of one crate.
pub(super) struct Rooms {
    /// Where its sources are.
    pub(super) folder: &'static str,
    /// Folders that belong to the root.
    pub(super) root: &'static [&'static str],
    /// From top to bottom.
    pub(super) rooms: &'static [Room],
}

/// One room.
pub(super) struct Room {
    /// The name of its folder.
    pub(super) name: &'static str,
    /// Rooms below it that it may use.
    pub(super) may_use: &'static [&'static str],
}

/// The room of the files that are in no folder: it puts the others together, and may use all of them.
pub(super) const ROOT: &str = "root";

/// The crates that have rooms.
pub(super) const CRATES: &[Rooms] = &[GATEWAY, OPERATOR, CRDS];

const GATEWAY: Rooms = Rooms {
    folder: "gateway/src",
    root: &["config", "run"],
    rooms: &[
        room(
            "http",
            &["delivery", "server", "channel", "routes", "auth", "limits", "nats", "metrics", "log", "runtime"],
        ),
        room("heartbeat", &["channel", "routes", "nats"]),
        room("delivery", &["server", "channel", "metrics", "log"]),
        room("server", &["limits", "metrics", "runtime"]),
        room("channel", &["auth", "limits", "nats", "metrics", "log", "runtime"]),
        room("routes", &["auth", "limits", "metrics", "runtime"]),
        room("auth", &["limits", "metrics", "runtime"]),
        room("limits", &["metrics", "runtime"]),
        room("nats", &["metrics", "log", "runtime"]),
        room("metrics", &["log"]),
        room("log", &[]),
        room("runtime", &[]),
    ],
};

const OPERATOR: Rooms = Rooms {
    folder: "operator/src",
    root: &[],
    rooms: &[
        room("commands", &["files", "kubernetes", "reconcile", "leader", "runtime"]),
        room("files", &["reconcile", "nats", "runtime"]),
        room("kubernetes", &["schedule", "reconcile", "nats", "leader", "runtime"]),
        room("schedule", &["reconcile", "nats", "leader", "runtime"]),
        room("reconcile", &["nats", "runtime"]),
        room("nats", &["leader", "runtime"]),
        room("leader", &["runtime"]),
        room("runtime", &[]),
    ],
};

const CRDS: Rooms = Rooms {
    folder: "crds/src",
    root: &[],
    rooms: &[
        room("manifest", &["desired", "api", "name"]),
        room("desired", &["protocol", "api", "name"]),
        room("protocol", &["api", "name"]),
        room("api", &["name"]),
        room("name", &[]),
    ],
};

const fn room(name: &'static str, may_use: &'static [&'static str]) -> Room {
    Room { name, may_use }
}

// === impl Rooms ===

impl Rooms {
    /// How far down a room is; the root is above all.
    pub(super) fn depth(&self, name: &str) -> Option<usize> {
        if name == ROOT {
            return Some(0);
        }
        self.rooms.iter().position(|room| room.name == name).map(|at| at + 1)
    }

    /// Whether one room may use another.
    pub(super) fn allows(&self, from: &str, to: &str) -> bool {
        from == ROOT || self.rooms.iter().any(|room| room.name == from && room.may_use.contains(&to))
    }
}
