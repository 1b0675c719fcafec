//! Which gateways there are, and which Route each of them serves: from EndpointSlices and beats. Pure.
//!
//! Expected are the ready, not terminating endpoints of the gateways' Service, by the uid of their pod; without a Service,
//! those that are heard of. What a gateway serves is what its beats say. A gateway is silent when nothing was heard of it
//! for [`SILENCE`] in which something could have been heard.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher;
use tidings_crds::beat::{Beat, ChannelBeat, Channels, INTERVAL, SILENCE};
use tidings_crds::key::ChannelKey;

/// After the interval of beats, the time that one may take to arrive.
const LATENESS: Duration = Duration::from_secs(2);

/// More pods than any Service here has; beats of others than the first are dropped.
const MOST_GATEWAYS: usize = 1024;

/// All gateways of one installation.
#[derive(Debug)]
pub struct Gateways {
    /// The endpoints of each EndpointSlice; `None` without a Service.
    slices: Option<Slices>,
    heard: BTreeMap<String, Gateway>,
    /// Since when each expected gateway is.
    expected: BTreeMap<String, Expected>,
    /// Since when beats can be heard.
    listening: Option<Instant>,
}

#[derive(Debug, Default)]
struct Slices {
    endpoints: BTreeMap<String, Vec<(String, String)>>,
    unlisted: BTreeSet<String>,
    synced: bool,
}

#[derive(Clone, Debug)]
struct Expected {
    name: String,
    since: Instant,
}

/// One gateway that was heard of.
#[derive(Debug)]
struct Gateway {
    name: String,
    run: String,
    channels: Channels,
    /// The full beat whose pieces are arriving: its number, the pieces so far, what they say.
    arriving: Option<(u64, BTreeSet<u32>, Channels)>,
    at: Instant,
}

/// What the gateways do about one Route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// How many should serve it.
    pub expected: usize,
    /// How many of them say that they do.
    pub serving: usize,
    /// How many of them say that they do not.
    pub behind: usize,
    /// How many of them were not heard of yet, and may still be.
    pub unheard: usize,
    /// The names of those that are silent.
    pub silent: Vec<String>,
    /// Whether this is all there is to know: the endpoints were listed, and every gateway had the time to be heard.
    pub settled: bool,
    /// Whether the expected gateways are known for certain.
    pub listed: bool,
}

// === impl View ===

impl View {
    /// Whether what it says will not change by merely knowing more: everybody had the time to be heard, or all have said
    /// that they serve the Route.
    pub fn is_certain(&self) -> bool {
        self.settled || (self.listed && self.expected > 0 && self.serving == self.expected)
    }
}

// === impl Gateways ===

impl Gateways {
    /// Nothing is known yet. `service`: whether EndpointSlices will say which gateways to expect.
    pub fn new(service: bool) -> Self {
        Self {
            slices: service.then(Slices::default),
            heard: BTreeMap::new(),
            expected: BTreeMap::new(),
            listening: None,
        }
    }

    /// Beats can be heard from now on, or no longer.
    pub fn listen(&mut self, listening: bool, now: Instant) {
        self.listening = match listening {
            true => self.listening.or(Some(now)),
            false => None,
        };
    }

    /// Takes up what the watch tells about EndpointSlices; whether other gateways are expected now.
    pub fn take_slice(&mut self, event: watcher::Event<EndpointSlice>, now: Instant) -> bool {
        let Some(slices) = &mut self.slices else { return false };
        let was_synced = slices.synced;
        match event {
            watcher::Event::Init => slices.unlisted = slices.endpoints.keys().cloned().collect(),
            watcher::Event::InitApply(slice) | watcher::Event::Apply(slice) => {
                let name = slice.metadata.name.clone().unwrap_or_default();
                slices.unlisted.remove(&name);
                slices.endpoints.insert(name, ready(&slice));
            }
            watcher::Event::Delete(slice) => {
                slices.endpoints.remove(&slice.metadata.name.unwrap_or_default());
            }
            watcher::Event::InitDone => {
                for name in std::mem::take(&mut slices.unlisted) {
                    slices.endpoints.remove(&name);
                }
                slices.synced = true;
            }
        }
        if !slices.synced {
            return false;
        }
        let listed: BTreeMap<String, String> = slices.endpoints.values().flatten().cloned().collect();
        self.expect(listed, now) || !was_synced
    }

    /// Takes up a beat, and returns the Channels about which it says something new.
    pub fn take_beat(&mut self, beat: Beat, now: Instant) -> BTreeSet<ChannelKey> {
        if !self.heard.contains_key(&beat.pod) && self.heard.len() >= MOST_GATEWAYS {
            self.heard.retain(|_, gateway| now.saturating_duration_since(gateway.at) < SILENCE);
            if self.heard.len() >= MOST_GATEWAYS {
                return BTreeSet::new();
            }
        }
        let gateway = self.heard.entry(beat.pod.clone()).or_insert_with(|| Gateway::of(&beat, now));
        let mut changed = gateway.take(beat, now);
        if self.refresh(now) {
            // Without a Service a gateway that is heard of for the first time concerns every Channel.
            changed.extend(self.heard.values().flat_map(|gateway| gateway.channels.keys().cloned()));
        }
        changed
    }

    /// Lets time pass: whether other gateways are expected now.
    pub fn refresh(&mut self, now: Instant) -> bool {
        if self.slices.is_some() {
            // An expected one is remembered as silent; another one is forgotten after a while.
            let expected = &self.expected;
            self.heard.retain(|pod, gateway| {
                expected.contains_key(pod) || now.saturating_duration_since(gateway.at) < SILENCE * 2
            });
            return false;
        }
        // While nothing can be heard, nobody is forgotten.
        if self.listening.is_some_and(|since| now.saturating_duration_since(since) >= SILENCE) {
            self.heard.retain(|_, gateway| now.saturating_duration_since(gateway.at) < SILENCE);
        }
        let heard = self.heard.iter().map(|(pod, gateway)| (pod.clone(), gateway.name.clone())).collect();
        self.expect(heard, now)
    }

    /// What the gateways do about the Route with this digest.
    pub fn view(&self, key: &ChannelKey, digest: Option<&str>, now: Instant) -> View {
        let mut view = View {
            expected: self.expected.len(),
            settled: self.is_settled(now),
            listed: self.slices.as_ref().is_some_and(|slices| slices.synced),
            ..View::default()
        };
        for (pod, expected) in &self.expected {
            let heard = self.heard.get(pod);
            if self.is_silent(expected, heard, now) {
                view.silent.push(expected.name.clone());
                continue;
            }
            match heard {
                None => view.unheard += 1,
                Some(gateway) => {
                    let served = gateway.channels.get(key).and_then(|said| said.digest.as_deref());
                    if served.is_some() && served == digest { view.serving += 1 } else { view.behind += 1 }
                }
            }
        }
        view
    }

    /// The name of each gateway that may send events of a Channel, ready or not, with the digest of the Route that it serves;
    /// `None` while not every gateway can be known.
    pub fn serving(&self, key: &ChannelKey, now: Instant) -> Option<Vec<(String, Option<String>)>> {
        let listed = self.slices.as_ref().is_some_and(|slices| slices.synced) && !self.expected.is_empty();
        if !self.is_settled(now) && !listed {
            return None;
        }
        let served = |gateway: &Gateway| gateway.channels.get(key).and_then(|said| said.digest.clone());
        let expected = self.expected.iter();
        let expected = expected.map(|(pod, expected)| (expected.name.clone(), self.heard.get(pod).and_then(served)));
        let others = self.heard.iter().filter(|(pod, gateway)| {
            !self.expected.contains_key(*pod) && now.saturating_duration_since(gateway.at) < SILENCE
        });
        Some(expected.chain(others.map(|(_, gateway)| (gateway.name.clone(), served(gateway)))).collect())
    }

    /// The open streams of a Channel on all gateways; `None` while that is not known.
    pub fn subscribers(&self, key: &ChannelKey, now: Instant) -> Option<u64> {
        let fresh = |gateway: &&Gateway| now.saturating_duration_since(gateway.at) < SILENCE;
        let heard = self.heard.values().filter(fresh);
        let count = heard.filter_map(|gateway| Some(gateway.channels.get(key)?.subscribers)).sum();
        let listed = self.slices.as_ref().is_some_and(|slices| slices.synced) && !self.expected.is_empty();
        let all = || self.expected.keys().all(|pod| self.heard.get(pod).as_ref().is_some_and(fresh));
        (self.is_settled(now) || (listed && all())).then_some(count)
    }

    /// When something changes by time alone.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        let settled = self.listening.map(|since| since + INTERVAL + LATENESS);
        let silent = self.expected.iter().filter_map(|(pod, expected)| {
            let since = self.heard_since(expected, self.heard.get(pod))?;
            Some(since + SILENCE)
        });
        settled.into_iter().chain(silent).filter(|due| *due > now).min()
    }

    /// How many are expected, and how many of them are not silent.
    pub fn counts(&self, now: Instant) -> (usize, usize) {
        let heard = self.expected.iter().filter(|(pod, expected)| {
            let heard = self.heard.get(*pod);
            heard.is_some() && !self.is_silent(expected, heard, now)
        });
        (self.expected.len(), heard.count())
    }

    fn is_settled(&self, now: Instant) -> bool {
        let listed = self.slices.as_ref().is_none_or(|slices| slices.synced);
        let heard = |since: Instant| now.saturating_duration_since(since) >= INTERVAL + LATENESS;
        listed && self.listening.is_some_and(heard)
    }

    fn is_silent(&self, expected: &Expected, heard: Option<&Gateway>, now: Instant) -> bool {
        let since = self.heard_since(expected, heard);
        since.is_some_and(|since| now.saturating_duration_since(since) >= SILENCE)
    }

    /// Since when a gateway could have been heard of and was not; `None` while nobody can be.
    fn heard_since(&self, expected: &Expected, heard: Option<&Gateway>) -> Option<Instant> {
        let listening = self.listening?;
        let last = heard.map_or(expected.since, |gateway| gateway.at.max(expected.since));
        Some(last.max(listening))
    }

    fn expect(&mut self, pods: BTreeMap<String, String>, now: Instant) -> bool {
        if self.expected.keys().eq(pods.keys()) {
            return false;
        }
        self.expected.retain(|pod, _| pods.contains_key(pod));
        for (pod, name) in pods {
            self.expected.entry(pod).or_insert(Expected { name, since: now });
        }
        true
    }
}

/// The pods behind the ready endpoints of a slice: uid and name.
fn ready(slice: &EndpointSlice) -> Vec<(String, String)> {
    let serves = slice.endpoints.iter().filter(|endpoint| {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        // An absent `ready` means ready, by the definition of EndpointSlices.
        conditions.ready.unwrap_or(true) && !conditions.terminating.unwrap_or(false)
    });
    serves
        .filter_map(|endpoint| {
            let pod = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"))?;
            Some((pod.uid.clone()?, pod.name.clone().unwrap_or_default()))
        })
        .collect()
}

// === impl Gateway ===

impl Gateway {
    fn of(beat: &Beat, now: Instant) -> Self {
        Self { name: beat.name.clone(), run: beat.run.clone(), channels: Channels::new(), arriving: None, at: now }
    }

    fn take(&mut self, beat: Beat, now: Instant) -> BTreeSet<ChannelKey> {
        self.at = now;
        let mut changed = BTreeSet::new();
        if self.run != beat.run {
            // Another process in the same pod: nothing that the old one said holds.
            changed.extend(std::mem::take(&mut self.channels).into_keys());
            self.run = beat.run;
            self.arriving = None;
        }
        if !beat.full {
            for (key, said) in beat.channels {
                if let Some((_, _, channels)) = &mut self.arriving {
                    channels.insert(key.clone(), said.clone());
                }
                if self.channels.get(&key) != Some(&said) {
                    self.channels.insert(key.clone(), said);
                    changed.insert(key);
                }
            }
            return changed;
        }
        let (number, mut pieces, mut channels) = match self.arriving.take() {
            Some(arriving) if arriving.0 == beat.number => arriving,
            // What is left of another beat can no longer become whole.
            _ => (beat.number, BTreeSet::new(), Channels::new()),
        };
        pieces.insert(beat.piece);
        channels.extend(beat.channels);
        if pieces.len() < usize::try_from(beat.pieces).unwrap_or(usize::MAX) {
            self.arriving = Some((number, pieces, channels));
            return changed;
        }
        let before = std::mem::replace(&mut self.channels, channels);
        changed.extend(differences(&before, &self.channels));
        changed
    }
}

fn differences(before: &Channels, after: &Channels) -> Vec<ChannelKey> {
    let other = |one: &Channels, key: &ChannelKey, said: &ChannelBeat| one.get(key) != Some(said);
    let changed = after.iter().filter(|(key, said)| other(before, key, said)).map(|(key, _)| key);
    let gone = before.keys().filter(|key| !after.contains_key(*key));
    changed.chain(gone).cloned().collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;
    use tidings_crds::beat::Sender;

    fn key(name: &str) -> ChannelKey {
        ChannelKey::new("shop", name)
    }

    fn beats(pod: &str, run: &str, number: u64, full: bool, channels: &[(&str, Option<&str>, u64)]) -> Vec<Beat> {
        let said = channels.iter().map(|(name, digest, subscribers)| {
            (key(name), ChannelBeat { digest: digest.map(Into::into), subscribers: *subscribers })
        });
        let sender = Sender::new("tidings-system/tidings".parse().unwrap(), pod, format!("pod-{pod}"), run).unwrap();
        sender.beat(number, full, said.collect(), usize::MAX)
    }

    fn beat(pod: &str, digest: Option<&str>) -> Beat {
        beats(pod, "r", 1, true, &[("orders", digest, 2)]).remove(0)
    }

    fn slice(name: &str, pods: &[(&str, bool)]) -> EndpointSlice {
        let endpoints: Vec<_> = pods
            .iter()
            .map(|(pod, ready)| {
                json!({
                    "addresses": ["10.0.0.1"], "conditions": { "ready": ready },
                    "targetRef": { "kind": "Pod", "uid": pod, "name": format!("pod-{pod}") },
                })
            })
            .collect();
        serde_json::from_value(json!({ "metadata": { "name": name }, "addressType": "IPv4", "endpoints": endpoints }))
            .unwrap()
    }

    pub(crate) fn listed(pods: &[(&str, bool)], now: Instant) -> Gateways {
        let mut gateways = Gateways::new(true);
        gateways.listen(true, now);
        gateways.take_slice(watcher::Event::Init, now);
        gateways.take_slice(watcher::Event::InitApply(slice("s", pods)), now);
        gateways.take_slice(watcher::Event::InitDone, now);
        gateways
    }

    fn counts(view: &View) -> [usize; 5] {
        [view.expected, view.serving, view.behind, view.unheard, view.silent.len()]
    }

    #[test]
    fn ready_endpoints_are_expected_and_beats_say_what_they_serve() {
        let start = Instant::now();
        let mut gateways = listed(&[("a", true), ("b", true), ("c", false)], start);
        let view = |gateways: &Gateways| counts(&gateways.view(&key("orders"), Some("d1"), start));
        assert_eq!(view(&gateways), [2, 0, 0, 2, 0]);
        assert_eq!(gateways.take_beat(beat("a", Some("d1")), start), [key("orders")].into());
        assert_eq!(gateways.take_beat(beat("a", Some("d1")), start), [].into());
        gateways.take_beat(beat("b", Some("d0")), start);
        gateways.take_beat(beat("c", Some("d1")), start);
        assert_eq!(view(&gateways), [2, 1, 1, 0, 0]);
        gateways.take_beat(beats("b", "r", 2, false, &[("orders", Some("d1"), 0)]).remove(0), start);
        assert_eq!(view(&gateways), [2, 2, 0, 0, 0]);
        assert!(gateways.take_slice(watcher::Event::Apply(slice("s", &[("a", true), ("b", false)])), start));
        assert_eq!(view(&gateways), [1, 1, 0, 0, 0]);
        // A channel that a gateway does not name, or names without a Route, is not served by it.
        assert_eq!(counts(&gateways.view(&key("other"), Some("d1"), start)), [1, 0, 1, 0, 0]);
        gateways.take_beat(beat("a", None), start);
        assert_eq!(view(&gateways), [1, 0, 1, 0, 0]);
    }

    #[test]
    fn a_gateway_is_silent_only_after_a_time_in_which_it_could_have_been_heard() {
        let start = Instant::now();
        let mut gateways = listed(&[("a", true)], start);
        gateways.take_beat(beat("a", Some("d1")), start);
        let at = |seconds| start + Duration::from_secs(seconds);
        let silent = |gateways: &Gateways, seconds| gateways.view(&key("orders"), Some("d1"), at(seconds)).silent;
        assert_eq!(silent(&gateways, 29), [""; 0]);
        assert_eq!(silent(&gateways, 30), ["pod-a"]);
        assert_eq!(gateways.next(at(20)), Some(at(30)));
        // NATS was away in between.
        gateways.listen(false, at(25));
        assert_eq!(silent(&gateways, 100), [""; 0]);
        gateways.listen(true, at(100));
        assert_eq!(silent(&gateways, 129), [""; 0]);
        assert_eq!(silent(&gateways, 130), ["pod-a"]);
        gateways.take_beat(beat("a", Some("d1")), at(131));
        assert_eq!(silent(&gateways, 132), [""; 0]);
    }

    #[test]
    fn a_full_beat_counts_when_all_its_pieces_are_there() {
        let start = Instant::now();
        let mut gateways = listed(&[("a", true)], start);
        gateways.take_beat(beats("a", "r", 1, true, &[("old", Some("d"), 1)]).remove(0), start);
        let mut pieces = beats("a", "r", 2, true, &[("one", Some("d"), 1)]);
        pieces.extend(beats("a", "r", 2, true, &[("two", Some("d"), 1)]));
        for (number, piece) in (1..).zip(&mut pieces) {
            (piece.piece, piece.pieces) = (number, 2);
        }
        let [first, second] = <[Beat; 2]>::try_from(pieces).unwrap();
        assert_eq!(gateways.take_beat(first, start), [].into());
        assert_eq!(gateways.view(&key("old"), Some("d"), start).serving, 1);
        assert_eq!(gateways.take_beat(second, start), [key("old"), key("one"), key("two")].into());
        assert_eq!(gateways.view(&key("old"), Some("d"), start).serving, 0);
        assert_eq!(gateways.view(&key("two"), Some("d"), start).serving, 1);
    }

    #[test]
    fn another_process_of_the_same_pod_begins_anew() {
        let start = Instant::now();
        let mut gateways = listed(&[("a", true)], start);
        gateways.take_beat(beat("a", Some("d1")), start);
        let partial = beats("a", "other", 1, false, &[("new", Some("d"), 0)]).remove(0);
        assert_eq!(gateways.take_beat(partial, start), [key("orders"), key("new")].into());
        assert_eq!(gateways.view(&key("orders"), Some("d1"), start).behind, 1);
    }

    #[test]
    fn without_a_service_those_are_expected_that_are_heard_of() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut gateways = Gateways::new(false);
        gateways.listen(true, start);
        gateways.take_beat(beat("a", Some("d1")), start);
        gateways.take_beat(beat("b", Some("d1")), at(10));
        assert_eq!(counts(&gateways.view(&key("orders"), Some("d1"), at(10))), [2, 2, 0, 0, 0]);
        gateways.take_beat(beat("b", Some("d1")), at(20));
        assert!(gateways.refresh(at(35)));
        assert_eq!(counts(&gateways.view(&key("orders"), Some("d1"), at(35))), [1, 1, 0, 0, 0]);
    }

    #[test]
    fn nothing_is_settled_before_one_interval_of_beats_has_passed() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut gateways = listed(&[("a", true), ("b", true)], start);
        gateways.take_beat(beat("a", Some("d1")), start);
        assert_eq!(gateways.next(start), Some(at(12)));
        assert_eq!(gateways.subscribers(&key("orders"), at(11)), None);
        assert_eq!(gateways.subscribers(&key("orders"), at(12)), Some(2));
        assert!(!gateways.view(&key("orders"), None, at(11)).settled);
        assert!(gateways.view(&key("orders"), None, at(12)).settled);
        // Unless everybody who counts was heard already.
        gateways.take_beat(beat("b", Some("d1")), start);
        assert_eq!(gateways.subscribers(&key("orders"), at(1)), Some(4));
    }
}
