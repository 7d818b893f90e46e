//! A configuration against anything: it must not panic, and what it accepts must come back the same from its own effective
//! form.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion::config::{Source, Surroundings, parse};
use std::path::Path;

fuzz_target!(|text: &str| {
    let surroundings = Surroundings { host: "gateway".to_owned(), ..Surroundings::default() };
    let read = |text: &str| {
        let sources = [Source::new(Path::new("fuzz.toml"), text)];
        parse(&sources, &surroundings, Path::new("/etc/pillion"), &|_| false)
    };
    if let Ok(loaded) = read(text) {
        let again = read(&loaded.config.to_toml()).expect("an effective configuration is valid");
        assert_eq!(loaded.config, again.config);
    }
});
