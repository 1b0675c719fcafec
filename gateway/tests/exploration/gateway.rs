//! A gateway's side of the channel, as the relay drives it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use tidings_crds::position::{Epoch, Position};
use tidings_gateway::log::chunk::Chunk;
use tidings_gateway::log::chunked::Frame;
use tidings_gateway::log::event_log::{Entry, Kind, LogLimits};
use tidings_gateway::log::fanout::Fanout;
use tidings_gateway::log::ingest::{Answer, Ask, Ingest, Step};
use tidings_gateway::log::publication::Publication;

use crate::act::By;
use crate::stream::{Keeps, Stream};

pub const GATEWAYS: usize = 2;

/// What a Log holds, in events.
const LOG: usize = 5;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connects {
    pub live: u64,
    pub questions: u64,
}

pub struct Gateway {
    pub ingest: Ingest,
    pub fanout: Fanout,
    asked: Option<(Ask, Option<Answer>)>,
    pub late: VecDeque<Publication>,
    pub chunks: HashMap<(u32, u64), Arc<Chunk>>,
    pub live_up: bool,
    pub questions_up: bool,
    pub connects: Connects,
    seen: Connects,
    /// The stream is another one, and the connection has not broken: the next live message comes over it for certain.
    pub must_hear: bool,
}

impl Gateway {
    pub fn open(stream: &Stream) -> Self {
        let info = stream.info();
        let head = info.end();
        let keeps_all = stream.keeps != Keeps::NewestOfEachTopic;
        Self {
            ingest: Ingest::new(info.epoch, head, info.last_time, keeps_all, LOG as u64, stream.now),
            fanout: Fanout::new(info.epoch, head, info.first, LogLimits { entries: LOG, bytes: 1 << 20 }),
            asked: None,
            late: VecDeque::new(),
            chunks: HashMap::new(),
            live_up: true,
            questions_up: true,
            connects: Connects::default(),
            seen: Connects::default(),
            must_hear: false,
        }
    }

    /// How often the connection for questions had been made when the stream was certain.
    pub fn certain_at(&mut self, now: Instant) -> Option<u64> {
        self.compare(now);
        self.ingest.is_certain().then_some(self.seen.questions)
    }

    pub fn live(&mut self, publication: Publication, now: Instant) {
        if self.live_up {
            self.compare(now);
            let mut steps = Vec::new();
            self.ingest.live(publication, now, &mut steps);
            self.carry_out(steps);
        }
    }

    pub fn ask(&mut self, now: Instant) {
        self.compare(now);
        if self.asked.is_none() && self.questions_up {
            self.asked = self.ingest.ask(now).map(|ask| (ask, None));
        }
    }

    pub fn serve(&mut self, stream: &Stream, by: By) {
        if let Some((ask, answer @ None)) = &mut self.asked {
            *answer = Some(stream.answer(*ask, by));
        }
    }

    pub fn arrive(&mut self, lost: Option<Answer>, now: Instant) {
        let Some((_, served)) = self.asked.take_if(|(_, served)| lost.is_some() || served.is_some()) else { return };
        self.compare(now);
        let mut steps = Vec::new();
        self.ingest.answer(lost.or(served).unwrap(), now, &mut steps);
        self.carry_out(steps);
    }

    pub fn break_live(&mut self) {
        self.live_up = false;
        self.late.clear();
    }

    pub fn break_questions(&mut self, now: Instant) {
        self.questions_up = false;
        self.arrive(Some(Answer::Unavailable), now);
    }

    pub fn connect_live(&mut self) {
        self.connects.live += u64::from(!self.live_up);
        self.live_up = true;
    }

    pub fn connect_questions(&mut self) {
        self.connects.questions += u64::from(!self.questions_up);
        self.questions_up = true;
    }

    pub fn is_asking(&self) -> bool {
        self.asked.is_some()
    }

    fn compare(&mut self, now: Instant) {
        if self.connects.live != self.seen.live {
            self.ingest.reconnected(now);
        } else if self.connects.questions != self.seen.questions {
            self.ingest.doubted(now);
        }
        self.seen = self.connects;
    }

    fn carry_out(&mut self, steps: Vec<Step>) {
        let woken = &mut Vec::new();
        for step in steps {
            crate::trace(|| format!("    does {step:?}"));
            match step {
                Step::Append(publication) => self.fanout.append(entry(&publication, self.fanout.epoch()), woken),
                Step::Skip(to) => self.fanout.skip(to),
                Step::Expired(to) => {
                    let (time, topic, frame) = (0, "".into(), Frame::default());
                    let lost = Entry { sequence: to.sequence, time, topic, frame, kind: Kind::Lost };
                    self.fanout.append(Arc::new(lost), woken);
                }
                Step::Jump(head) => self.fanout.jump(head, woken),
                Step::Reset { epoch, head, first } => self.fanout.reset(epoch, head, first, woken),
            }
        }
    }
}

pub fn entry(publication: &Publication, epoch: Epoch) -> Arc<Entry> {
    let id = Position { epoch, sequence: publication.sequence, stamp: Some(publication.stamp()) };
    let data = std::str::from_utf8(&publication.data).unwrap();
    Arc::new(Entry {
        sequence: publication.sequence,
        time: publication.time,
        topic: publication.topic.clone(),
        frame: Frame::from(format!("data: {data}\nid: {id}\n\n").as_str()),
        kind: Kind::Event,
    })
}
