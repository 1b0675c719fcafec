//! Small-scope exploration of the core as a whole: two gateways' ingest, Log, feeds and subscribers, and what they read of the
//! stream behind the Log, against a model of NATS that does what real servers were seen doing: replicas that lag or expire
//! early, a leader cut off from its cluster, lost, late and repeated live messages, connections that break one by one, purges,
//! deletions, streams that are made anew or go back in time.
//!
//! All short histories over a small alphabet are tried, and long ones at random. A history is a list of [`act::Act`]s; a seed
//! decides a random one. What fails is shortened and printed. Checked at each step: order, completeness or a told gap with its
//! reason, positions that never pass over what was not delivered. Once the faults stop, every client reaches the end.
//!
//! `TIDINGS_EXPLORE_STEPS` (default 600,000) acts at random; `TIDINGS_EXPLORE_DEPTH` (default 4) acts in exhaustive histories;
//! `TIDINGS_SEED` the first seed.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, unreachable_pub)]

mod act;
mod client;
mod gateway;
mod stream;
mod world;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use act::{Act, Random};
use stream::Keeps;
use world::{Setup, World};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.replace('_', "").parse().ok()).unwrap_or(default)
}

thread_local! {
    static TRACED: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// What happens, for the history that is printed.
pub fn trace(line: impl FnOnce() -> String) {
    TRACED.with_borrow_mut(|traced| {
        if let Some(lines) = traced {
            lines.push(line());
        }
    });
}

/// Runs a history; what was found wrong, if anything.
fn fault(setup: &Setup, acts: &[Act]) -> Option<String> {
    let run = AssertUnwindSafe(|| {
        let mut world = World::new(setup);
        for act in acts {
            trace(|| format!("  {act:?}"));
            world.act(act);
        }
        world.settle();
    });
    catch_unwind(run).err().map(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
    })
}

/// Leaves acts out for as long as it still fails, then says what is left.
fn shorten(setup: &Setup, mut acts: Vec<Act>, what: &str) -> String {
    let mut found = what.to_owned();
    let mut size = acts.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < acts.len() {
            let mut fewer = acts.clone();
            fewer.drain(at..(at + size).min(acts.len()));
            match fault(setup, &fewer) {
                Some(what) => (acts, found) = (fewer, what),
                None => at += size,
            }
        }
        size /= 2;
    }
    TRACED.set(Some(Vec::new()));
    fault(setup, &acts);
    format!("{found}\n{setup:?}\n{}", TRACED.take().unwrap_or_default().join("\n"))
}

/// Panics are how faults are found here; their messages are printed once, shortened.
fn quietly<T>(run: impl FnOnce() -> T) -> T {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = run();
    std::panic::set_hook(hook);
    result
}

#[test]
fn long_histories_at_random() {
    let steps = setting("TIDINGS_EXPLORE_STEPS", 600_000);
    let mut seed = setting("TIDINGS_SEED", 1);
    let mut done = 0;
    let failed = quietly(|| {
        while done < steps {
            let mut random = Random::new(seed);
            let setup = Setup::draw(&mut random);
            let acts: Vec<Act> = (0..20 + random.below(200)).map(|_| Act::draw(&mut random)).collect();
            done += acts.len() as u64;
            if let Some(what) = fault(&setup, &acts) {
                return Some(shorten(&setup, acts, &what));
            }
            seed += 1;
        }
        None
    });
    if let Some(failed) = failed {
        // Printed, as another test may be keeping panics quiet right now.
        println!("run again with TIDINGS_SEED={seed}\n{failed}");
        panic!("a history fails: see above");
    }
    eprintln!("{done} steps in histories at random, up to seed {seed}");
}

#[test]
fn all_short_histories() {
    let depth = setting("TIDINGS_EXPLORE_DEPTH", 4) as usize;
    let alphabet = Act::alphabet();
    let mut tried = 0u64;
    let failed = quietly(|| {
        for setup in Setup::small() {
            let mut places = vec![0; depth];
            'histories: loop {
                let acts: Vec<Act> =
                    Act::prelude().into_iter().chain(places.iter().map(|at| alphabet[*at].clone())).collect();
                tried += 1;
                if let Some(what) = fault(&setup, &acts) {
                    return Some(shorten(&setup, acts, &what));
                }
                for place in &mut places {
                    *place += 1;
                    if *place < alphabet.len() {
                        continue 'histories;
                    }
                    *place = 0;
                }
                break;
            }
        }
        None
    });
    println!("{}", failed.as_deref().unwrap_or_default());
    assert!(failed.is_none(), "a history fails: see above");
    eprintln!("{tried} histories of {depth} acts, all there are");
    // As many as the alphabet allows, for each channel.
    assert_eq!(tried, Setup::small().len() as u64 * (alphabet.len() as u64).pow(depth as u32));
}

#[test]
fn a_fault_would_be_found() {
    // A client is judged by hand: it is told an event, and the one before it was left out.
    let keeps = Keeps::Everything;
    let mut world = World::new(&Setup { keeps, clients: vec![(0, true)] });
    (0..3).for_each(|_| world.act(&Act::Publish(0, [act::Fate::Pass, act::Fate::Pass])));
    let skipping = AssertUnwindSafe(|| world.deliver_out_of_turn(0, 3));
    let found = quietly(|| catch_unwind(skipping).is_err());
    assert!(found, "an event was left out, and nothing was said");
}
