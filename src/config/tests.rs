//! The configuration as a whole, from texts.

mod example;
mod messages;
mod printed;
mod random;
mod values;
mod warnings;

use super::*;
use std::path::Path;

fn surroundings() -> Surroundings {
    Surroundings { host: "pi".to_owned(), ..Surroundings::default() }
}

fn parsed_in(surroundings: &Surroundings, text: &str) -> Result<Loaded, Problems> {
    parse(&[Source::new("gateway.toml", text)], surroundings, Path::new("/etc/pillion"), &|_| false)
}

fn parsed(text: &str) -> Result<Loaded, Problems> {
    parsed_in(&surroundings(), text)
}

fn problems(text: &str) -> String {
    match parsed(text) {
        Err(problems) => problems.to_string(),
        Ok(_) => panic!("{text:?} is accepted"),
    }
}

fn warnings(text: &str) -> Vec<String> {
    parsed(text).unwrap().warnings.iter().map(ToString::to_string).collect()
}

/// What is printed reads as what it was printed from.
fn check_round_trip(text: &str) {
    let first = parsed(text).unwrap_or_else(|problems| panic!("{text}\n{problems}")).config;
    let printed = first.to_toml();
    let second = parsed(&printed).unwrap_or_else(|problems| panic!("{printed}\n{problems}")).config;
    assert_eq!(first, second, "{printed}");
    assert_eq!(printed, second.to_toml());
}
