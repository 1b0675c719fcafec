//! Where a publication goes to, and what a subscriber asks for.

/// All publications of a place go to all who ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// The one channel, whatever the topic.
    All,
    /// One topic of the one channel.
    Topic(usize),
    /// A channel of its own.
    Channel(usize),
}

/// How publications are spread over places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spread {
    /// All go to everybody.
    All,
    /// To so many topics in turn.
    Topics(usize),
    /// To so many channels in turn.
    Channels(usize),
}

/// What one subscriber asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) place: Place,
    /// The id of the last event it has seen.
    pub(crate) position: Option<&'a str>,
    pub(crate) token: Option<&'a str>,
}

// === impl Spread ===

impl Spread {
    /// Where the publication with this number goes to, and where the subscriber with this number is.
    pub(crate) fn place(self, number: usize) -> Place {
        match self {
            Self::All => Place::All,
            Self::Topics(topics) => Place::Topic(number % topics.max(1)),
            Self::Channels(channels) => Place::Channel(number % channels.max(1)),
        }
    }

    /// How many of the subscribers receive a publication, if they are spread alike.
    pub(crate) fn share(self, subscribers: usize) -> usize {
        match self {
            Self::All => subscribers,
            Self::Topics(places) | Self::Channels(places) => subscribers / places.max(1),
        }
    }
}

// === impl Ask ===

impl From<Place> for Ask<'_> {
    fn from(place: Place) -> Self {
        Self { place, position: None, token: None }
    }
}
