//! A model of the commit and collection protocol (`format-spec/model.md`), explored exhaustively within bounds.
//!
//! Every operation on a store is one step, and between two steps anybody may take any number of theirs: so a stall of any
//! length is explored, and a crash is a stall that never ends. `make model` explores larger bounds.

mod collector;
mod orderings;
mod properties;
mod quiet;
mod scenario;
mod scenarios;
mod state;
mod store;
mod verdicts;
mod writer;

use std::collections::BTreeSet;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use properties::{DELETED, REPEATED, RESCUED, SUCCESS};
use scenario::{Rule, Scenario};

/// Explores all states, in which everything must hold, and all of `some` must be seen to happen.
fn holds(scenario: Scenario, some: &[&str]) {
    let begun = Instant::now();
    let checker =
        scenario.clone().checker().threads(threads()).finish_when(HasDiscoveries::AnyFailures).spawn_dfs().join();
    let found = checker.discoveries();
    println!(
        "{}{}: {} states, all of them, to depth {} ({:.1?})",
        scenario.name,
        scenario.without.map(|rule| format!(" without {rule:?}")).unwrap_or_default(),
        checker.unique_state_count(),
        checker.max_depth(),
        begun.elapsed(),
    );
    for property in scenario.properties().iter().filter(|property| property.expectation.discovery_is_failure()) {
        if let Some(path) = found.get(property.name) {
            panic!("{}: broken: {}\n{}", scenario.name, property.name, history(&scenario, path.clone().into_vec()));
        }
    }
    for property in some {
        assert!(found.contains_key(property), "{}: never: {property}", scenario.name);
    }
    assert!(checker.is_done(), "{}: explored to the end", scenario.name);
}

/// Finds a history in which the property breaks once the rule is left out.
fn breaks(scenario: Scenario, rule: Rule, property: &'static str) {
    broken(scenario.without(rule), property);
}

fn broken(scenario: Scenario, property: &'static str) {
    let finish = HasDiscoveries::AnyOf(BTreeSet::from([property]));
    let checker = scenario.clone().checker().threads(1).finish_when(finish).spawn_bfs().join();
    let found = checker.discoveries();
    let Some(path) = found.get(property) else {
        panic!("{} without {:?}: no history breaks: {property}", scenario.name, scenario.without);
    };
    let path = path.clone().into_vec();
    println!(
        "{} without {:?}: broken after {} steps, {} states: {property}",
        scenario.name,
        scenario.without,
        path.len() - 1,
        checker.unique_state_count(),
    );
    if std::env::var_os("KEEPSTONE_MODEL_HISTORIES").is_some() {
        println!("{}", history(&scenario, path));
    }
}

/// A history in lines: who does what.
fn history(scenario: &Scenario, path: Vec<(state::State, Option<state::Action>)>) -> String {
    let line = |(state, action): (state::State, Option<state::Action>)| match action {
        Some(state::Action::Writer(number, choice)) => {
            let writer = &state.writers[number as usize];
            let look = if choice == writer::WATCH { "looks at the log, before " } else { "" };
            format!("    writer {number}, session {}: {look}{:?}\n", writer.attempt, writer.step)
        }
        Some(state::Action::Collector(number, choice)) => {
            let collector = &state.collectors[number as usize];
            format!("    collector {number}, generation {}: {:?} ({choice})\n", collector.n, collector.step)
        }
        Some(state::Action::Judge(number)) => {
            let ruling = if scenario.judges[number as usize].forget { "forget" } else { "unforget" };
            format!("    judge {number} ({ruling}): {:?}\n", state.judges[number as usize].step)
        }
        Some(action) => format!("    {action:?}\n"),
        None => String::new(),
    };
    path.into_iter().map(line).collect()
}

fn is_large() -> bool {
    std::env::var("KEEPSTONE_MODEL").is_ok_and(|bound| bound == "large")
}

/// One test uses both cores only where the tests run one after another.
fn threads() -> usize {
    if is_large() { 2 } else { 1 }
}

#[test]
fn a_writer_and_a_collector() {
    holds(scenarios::one_writer(), &[SUCCESS, REPEATED, DELETED, RESCUED]);
}

#[test]
fn safety_does_not_rest_on_what_is_condemned() {
    holds(scenarios::any_condemned(), &[SUCCESS, REPEATED, DELETED, RESCUED]);
}

#[test]
fn writers_commit_and_garbage_goes_once_faults_end() {
    holds(scenarios::quiet(), &[SUCCESS, REPEATED, DELETED, RESCUED]);
}

#[test]
fn two_collectors() {
    holds(scenarios::two_collectors(), &[SUCCESS, REPEATED, DELETED, RESCUED]);
    holds(scenarios::two_collectors_late(), &[SUCCESS, REPEATED, DELETED, RESCUED]);
}

#[test]
fn two_writers() {
    holds(scenarios::two_writers(), &[SUCCESS, REPEATED, DELETED, RESCUED]);
}

#[test]
fn two_writers_and_two_generations() {
    holds(scenarios::two_writers_two_generations(), &[SUCCESS, DELETED, RESCUED]);
}

#[test]
fn listings_that_take_several_steps() {
    holds(scenarios::slow_lists(), &[SUCCESS, DELETED, RESCUED]);
}

#[test]
fn moving_of_frames() {
    holds(scenarios::moves(), &[SUCCESS, REPEATED, DELETED, RESCUED]);
    holds(scenarios::moves_marked(), &[SUCCESS, DELETED, RESCUED]);
    holds(scenarios::moves_overtaken(), &[DELETED, RESCUED]);
}

#[test]
fn verdicts_and_readers() {
    holds(scenarios::verdicts(), &[DELETED, RESCUED]);
    holds(scenarios::verdicts_tie(), &[DELETED, RESCUED]);
    holds(scenarios::verdicts_and_writer(), &[SUCCESS, REPEATED, DELETED, RESCUED]);
}

#[test]
fn successors() {
    holds(scenarios::succession(), &[SUCCESS, REPEATED, DELETED, RESCUED]);
    holds(scenarios::succession_any(), &[SUCCESS, REPEATED, DELETED, RESCUED]);
}

#[test]
fn bases() {
    holds(scenarios::base(), &[SUCCESS, REPEATED, DELETED, RESCUED]);
    holds(scenarios::base_taken_back(), &[SUCCESS, REPEATED, DELETED, RESCUED]);
    holds(scenarios::base_two_generations(), &[SUCCESS, DELETED, RESCUED]);
}

#[test]
fn replication_between_two_regions() {
    holds(scenarios::replication(), &[SUCCESS, REPEATED, DELETED, RESCUED]);
    holds(scenarios::replication_late(), &[SUCCESS, REPEATED, DELETED, RESCUED]);
    holds(scenarios::two_replications(), &[SUCCESS, REPEATED, DELETED, RESCUED]);
    holds(scenarios::replication_heals(), &[SUCCESS]);
    holds(scenarios::replication_of_verdicts(), &[DELETED]);
    holds(scenarios::replication_and_verdicts(), &[SUCCESS, DELETED]);
    holds(scenarios::both_directions(), &[SUCCESS, DELETED]);
    holds(scenarios::verdicts_apart(), &[DELETED]);
}

#[test]
fn stores_without_put_if_absent() {
    holds(scenarios::designated_host(), &[SUCCESS, REPEATED, DELETED, RESCUED]);
    holds(scenarios::late_fence(), &[SUCCESS, REPEATED, DELETED, RESCUED]);
}

/// The larger bounds are explored by `make model` alone.
fn hold_if_large(scenarios: Vec<Scenario>) {
    if !is_large() {
        println!("left out: KEEPSTONE_MODEL=large explores it");
        return;
    }
    for scenario in scenarios {
        holds(scenario, &[]);
    }
}

#[test]
fn large_writers() {
    hold_if_large(scenarios::large_writers());
}

#[test]
fn large_collectors() {
    hold_if_large(scenarios::large_collectors());
}

#[test]
fn large_moves() {
    hold_if_large(scenarios::large_moves());
}

#[test]
fn large_verdicts() {
    hold_if_large(scenarios::large_verdicts());
}

#[test]
fn large_successors_and_bases() {
    hold_if_large(scenarios::large_successors_and_bases());
}

#[test]
fn large_regions() {
    hold_if_large(scenarios::large_regions());
}
