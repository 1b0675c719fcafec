//! What can happen, one thing at a time.

use crate::gateway::GATEWAYS;
use crate::stream::TOPICS;
use crate::world::CLIENTS;

/// What becomes of the live copy of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Pass,
    Lose,
    Delay,
    Repeat,
}

/// Who answers a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The leader, or a replica that lags by so many messages and has expired so many more.
    Cluster { lag: u64, early: u64 },
    /// A leader that was cut off from its cluster, for a question that goes to the leader.
    Deposed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    Publish(usize, [Fate; GATEWAYS]),
    Delete(u64),
    PurgeTopic(usize),
    PurgeBelow(u64),
    Purge,
    Expire(u64),
    /// The stream is made anew, with so many messages.
    Replace(u64),
    /// The server restarts with what it had before its last so many messages, and gets so many others.
    GoBack(u64, u64),
    /// From now on there is a leader that was cut off, for a while.
    Depose,
    /// A leader is elected that has yet to apply so many messages of its log.
    Elect(u64),
    /// A gateway asks; somebody answers; the answer arrives, or is lost.
    Ask(usize),
    Serve(usize, By),
    Arrive(usize),
    Fail(usize),
    /// The oldest delayed live copy arrives.
    Late(usize),
    Overflow(usize),
    BreakLive(usize),
    BreakQuestions(usize),
    ConnectLive(usize),
    ConnectQuestions(usize),
    Restart(usize),
    /// What a gateway has read of the stream behind the Log is no longer kept.
    Forget(usize),
    /// A client, or the gateway for it, takes one more step; what is read of a replica lags and has expired so many more.
    Go(usize, u64, u64),
    Heartbeat(usize),
    Leave(usize),
    Pass(u64),
}

/// Numbers of a seed: xorshift.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..4 {
            let _ = random.next();
        }
        random
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    fn index(&mut self, bound: usize) -> usize {
        self.below(bound as u64) as usize
    }

    fn fate(&mut self) -> Fate {
        match self.below(9) {
            0 => Fate::Lose,
            1 => Fate::Delay,
            2 => Fate::Repeat,
            _ => Fate::Pass,
        }
    }
}

impl Act {
    pub fn draw(random: &mut Random) -> Self {
        let gateway = random.index(GATEWAYS);
        let client = random.index(CLIENTS);
        match random.below(104) {
            0..=12 => Self::Publish(random.index(TOPICS.len()), [random.fate(), random.fate()]),
            13..=15 => Self::Delete(random.next()),
            16 => Self::PurgeTopic(random.index(TOPICS.len())),
            17..=18 => Self::PurgeBelow(random.next()),
            19 => Self::Purge,
            20..=21 => Self::Expire(1 + random.below(3)),
            22 => Self::Replace(random.below(8)),
            23 => Self::GoBack(random.below(6), random.below(9)),
            24 if random.one_in(2) => Self::Elect(random.below(6)),
            24 => Self::Depose,
            25..=33 => Self::Ask(gateway),
            34..=42 => Self::Serve(gateway, Self::by(random)),
            43..=51 => Self::Arrive(gateway),
            52 => Self::Fail(gateway),
            53..=55 => Self::Late(gateway),
            56 => Self::Overflow(gateway),
            57 => Self::BreakLive(gateway),
            58 => Self::BreakQuestions(gateway),
            59..=61 => Self::ConnectLive(gateway),
            62..=64 => Self::ConnectQuestions(gateway),
            65 => Self::Restart(gateway),
            66 => Self::Forget(gateway),
            67..=96 => {
                let lag = if random.one_in(4) { random.below(4) } else { 0 };
                let early = if random.one_in(6) { random.below(3) } else { 0 };
                Self::Go(client, lag, early)
            }
            97..=99 => Self::Heartbeat(client),
            100..=101 => Self::Leave(client),
            _ => Self::Pass(1 + random.below(8)),
        }
    }

    fn by(random: &mut Random) -> By {
        match random.below(6) {
            0 => By::Deposed,
            1 | 2 => By::Cluster { lag: random.below(4), early: random.below(3) },
            _ => By::Cluster { lag: 0, early: 0 },
        }
    }

    /// What all short histories begin with: a client that follows, one that is behind, a few messages.
    pub fn prelude() -> Vec<Self> {
        let publish = Self::Publish(0, [Fate::Pass, Fate::Pass]);
        let mut acts = vec![publish.clone(), publish.clone()];
        acts.extend([Self::Go(0, 0, 0), Self::Go(0, 0, 0), Self::Go(0, 0, 0)]);
        acts.extend([publish, Self::Go(0, 0, 0), Self::Go(0, 0, 0)]);
        acts
    }

    /// What all short histories are made of.
    pub fn alphabet() -> Vec<Self> {
        let all = By::Cluster { lag: 0, early: 0 };
        vec![
            Self::Publish(0, [Fate::Pass, Fate::Lose]),
            Self::Publish(1, [Fate::Lose, Fate::Pass]),
            Self::Delete(0),
            Self::PurgeBelow(1),
            Self::Expire(1),
            Self::Replace(2),
            Self::GoBack(2, 3),
            Self::Depose,
            Self::Elect(1),
            Self::Ask(0),
            Self::Serve(0, all),
            Self::Serve(0, By::Cluster { lag: 1, early: 1 }),
            Self::Serve(0, By::Deposed),
            Self::Arrive(0),
            Self::BreakQuestions(0),
            Self::ConnectQuestions(0),
            Self::ConnectLive(0),
            Self::Go(0, 0, 0),
            Self::Go(1, 1, 1),
            Self::Leave(0),
        ]
    }
}
