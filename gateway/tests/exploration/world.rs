//! Everything together: the stream, the gateways, the clients.

use std::time::{Duration, Instant};

use tidings_crds::topic::TopicSet;
use tidings_gateway::log::ingest::Answer;

use crate::act::{Act, By, Fate, Random};
use crate::client::Client;
use crate::gateway::{GATEWAYS, Gateway};
use crate::stream::{Keeps, Removal, Stream, TOPICS};

pub const CLIENTS: usize = 4;
const FILTERS: [&[&str]; 4] = [&[], &["a"], &["b", "c"], &["d"]];
const LEADER: By = By::Cluster { lag: 0, early: 0 };

/// What a history begins with: what the channel keeps, and for each client its filter and whether it wants all that exists.
#[derive(Clone, Debug)]
pub struct Setup {
    pub keeps: Keeps,
    pub clients: Vec<(usize, bool)>,
}

pub struct World {
    stream: Stream,
    gateways: Vec<Gateway>,
    clients: Vec<Client>,
}

impl Setup {
    pub fn draw(random: &mut Random) -> Self {
        let keeps = match random.below(5) {
            0 | 1 => Keeps::Everything,
            2 | 3 => Keeps::Newest(2 + random.below(7) as usize),
            _ => Keeps::NewestOfEachTopic,
        };
        let mut client = || (random.below(FILTERS.len() as u64) as usize, random.one_in(2));
        Self { keeps, clients: (0..CLIENTS).map(|_| client()).collect() }
    }

    pub fn small() -> Vec<Self> {
        let clients = vec![(0, true), (1, false)];
        [Keeps::Everything, Keeps::Newest(2), Keeps::NewestOfEachTopic]
            .map(|keeps| Self { keeps, clients: clients.clone() })
            .into()
    }
}

impl World {
    pub fn new(setup: &Setup) -> Self {
        let stream = Stream::new(setup.keeps, Instant::now());
        let gateways = (0..GATEWAYS).map(|_| Gateway::open(&stream)).collect();
        let client = |(number, (filters, all)): (usize, &(usize, bool))| {
            let filters = FILTERS[*filters].iter().map(|filter| filter.parse().unwrap());
            Client::new(TopicSet::new(filters).unwrap_or_else(TopicSet::all), *all, number % GATEWAYS)
        };
        Self { stream, gateways, clients: setup.clients.iter().enumerate().map(client).collect() }
    }

    pub fn act(&mut self, act: &Act) {
        self.stream.now += Duration::from_millis(200);
        let now = self.stream.now;
        match *act {
            Act::Publish(topic, fates) => self.publish(topic, fates),
            Act::Delete(which) => self.remove(Removal::Alone, |at, _, stored| at == which as usize % stored),
            Act::PurgeTopic(topic) => self.remove_topic(TOPICS[topic]),
            Act::PurgeBelow(which) => self.remove(Removal::Front, |at, _, stored| at < which as usize % stored),
            Act::Purge => self.remove(Removal::Front, |_, _, _| true),
            Act::Expire(count) => self.remove(Removal::Front, |at, _, _| at < count as usize),
            Act::Replace(messages) => {
                // What was on its way is of the stream before.
                self.stream.replace(0);
                self.gateways.iter_mut().for_each(|gateway| gateway.must_hear = gateway.live_up);
                (0..messages as usize).for_each(|n| self.publish(n % TOPICS.len(), [Fate::Pass, Fate::Pass]));
            }
            Act::GoBack(lost, messages) => {
                // The server restarts: all connections break before, and come back behind.
                self.stream.broke = true;
                self.gateways.iter_mut().for_each(Gateway::break_live);
                self.gateways.iter_mut().for_each(|gateway| gateway.break_questions(now));
                self.stream.go_back(lost, messages);
            }
            Act::Depose => self.stream.depose(),
            Act::Elect(back) => self.stream.elect(back),
            Act::Ask(gateway) => self.gateways[gateway].ask(now),
            Act::Serve(gateway, by) => self.gateways[gateway].serve(&self.stream, by),
            Act::Arrive(gateway) => self.gateways[gateway].arrive(None, now),
            Act::Fail(gateway) => self.gateways[gateway].arrive(Some(Answer::Broken), now),
            Act::Late(gateway) => {
                if let Some(publication) = self.gateways[gateway].late.pop_front() {
                    self.gateways[gateway].live(publication, now);
                }
            }
            Act::Overflow(gateway) => self.gateways[gateway].ingest.interrupted(now),
            Act::BreakLive(gateway) => {
                self.stream.broke = true;
                self.gateways[gateway].break_live();
            }
            Act::BreakQuestions(gateway) => {
                self.stream.broke = true;
                self.gateways[gateway].break_questions(now);
            }
            Act::ConnectLive(gateway) => self.gateways[gateway].connect_live(),
            Act::ConnectQuestions(gateway) => self.gateways[gateway].connect_questions(),
            Act::Restart(gateway) => {
                let here = self.clients.iter_mut().filter(|client| client.gateway == gateway);
                here.for_each(|client| client.leave(&mut self.gateways));
                self.gateways[gateway] = Gateway::open(&self.stream);
            }
            Act::Forget(gateway) => self.gateways[gateway].chunks.clear(),
            Act::Go(client, lag, early) => {
                if let Some(client) = self.clients.get_mut(client) {
                    client.go(&mut self.gateways, &self.stream, lag, early);
                }
            }
            Act::Heartbeat(client) => {
                if let Some(client) = self.clients.get_mut(client) {
                    client.heartbeat(&self.stream);
                }
            }
            Act::Leave(client) => {
                if let Some(client) = self.clients.get_mut(client) {
                    client.leave(&mut self.gateways);
                }
            }
            Act::Pass(seconds) => self.stream.now += Duration::from_secs(seconds),
        }
    }

    fn publish(&mut self, topic: usize, fates: [Fate; GATEWAYS]) {
        let sequence = self.stream.publish(TOPICS[topic]);
        let now = self.stream.now;
        for (gateway, fate) in self.gateways.iter_mut().zip(fates) {
            let publication = self.stream.publication(sequence);
            // Only a break, or a full buffer, loses what comes over a connection.
            let heard = std::mem::take(&mut gateway.must_hear) && gateway.live_up;
            match if heard { Fate::Pass } else { fate } {
                Fate::Pass => gateway.live(publication, now),
                Fate::Repeat => {
                    gateway.live(publication.clone(), now);
                    gateway.live(publication, now);
                }
                Fate::Delay if gateway.live_up => gateway.late.push_back(publication),
                Fate::Delay | Fate::Lose => {}
            }
        }
    }

    fn remove(&mut self, removal: Removal, gone: impl Fn(usize, u64, usize) -> bool) {
        let stored: Vec<u64> = self.stream.stored().collect();
        let count = stored.len();
        let gone = stored.iter().enumerate().filter(|(at, sequence)| gone(*at, **sequence, count));
        let gone = gone.map(|(_, sequence)| *sequence).collect();
        self.stream.remove(removal, gone);
    }

    fn remove_topic(&mut self, topic: &str) {
        let era = self.stream.eras.len() - 1;
        let of_topic: Vec<u64> =
            self.stream.stored().filter(|sequence| self.stream.fact(era, *sequence).topic == topic).collect();
        self.stream.remove(Removal::Alone, of_topic);
    }

    /// The faults stop: everybody reaches the end, in bounded steps.
    pub fn settle(&mut self) {
        self.stream.heal();
        for gateway in &mut self.gateways {
            gateway.connect_live();
            gateway.connect_questions();
        }
        (0..3).for_each(|_| self.follow());
        for gateway in &self.gateways {
            let served = (gateway.fanout.epoch(), gateway.fanout.head().sequence);
            assert_eq!(served, (self.stream.era().epoch, self.stream.last()), "a gateway does not reach the head");
        }
        for client in 0..self.clients.len() {
            let mut steps = 0;
            // A client that waits for the leader's word goes on once that has come.
            for _ in 0..20 {
                while self.clients[client].go(&mut self.gateways, &self.stream, 0, 0) {
                    steps += 1;
                    assert!(steps < 5000, "client {client} goes round in circles");
                }
                if self.clients[client].is_live() {
                    break;
                }
                self.stream.now += Duration::from_secs(1);
                self.follow();
            }
            assert!(self.clients[client].is_live(), "client {client} hangs");
            self.clients[client].heartbeat(&self.stream);
            self.clients[client].at_end(&self.stream);
        }
    }

    fn follow(&mut self) {
        for gateway in &mut self.gateways {
            gateway.ask(self.stream.now);
            for _ in 0..400 {
                let wake = gateway.ingest.wake_at(self.stream.now);
                let Some(at) = wake.or(gateway.is_asking().then_some(self.stream.now)) else { break };
                if gateway.fanout.head().sequence == self.stream.last()
                    && gateway.fanout.epoch() == self.stream.era().epoch
                    && gateway.ingest.is_certain()
                    && at > self.stream.now + Duration::from_secs(1)
                {
                    break;
                }
                self.stream.now = self.stream.now.max(at);
                gateway.ask(self.stream.now);
                gateway.serve(&self.stream, LEADER);
                gateway.arrive(None, self.stream.now);
            }
        }
    }

    /// Hands a client the event at `sequence`, whatever it should get.
    pub fn deliver_out_of_turn(&mut self, client: usize, sequence: u64) {
        self.clients[client].go(&mut self.gateways, &self.stream, 0, 0);
        let entry = crate::gateway::entry(&self.stream.publication(1), self.stream.era().epoch);
        self.clients[client].hear(&entry.frame, &self.stream);
        let entry = crate::gateway::entry(&self.stream.publication(sequence), self.stream.era().epoch);
        self.clients[client].hear(&entry.frame, &self.stream);
    }
}
