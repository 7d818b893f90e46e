//! What is said about a wrong configuration. The messages are the product: the files in `wrong/` are to be read.

use super::{parsed, problems, surroundings};
use crate::config::{Problems, Source, parse};
use std::path::Path;

/// Wrong texts, and what is said about them without `gateway.toml:`. A line of `====` stands before each text, and one of `----`
/// between it and its messages; what stands before the first is for people.
const WRONG: [&str; 9] = [
    include_str!("wrong/serial.txt"),
    include_str!("wrong/app.txt"),
    include_str!("wrong/mqtt.txt"),
    include_str!("wrong/streams.txt"),
    include_str!("wrong/health.txt"),
    include_str!("wrong/homeassistant.txt"),
    include_str!("wrong/gpio.txt"),
    include_str!("wrong/modbus.txt"),
    include_str!("wrong/whole.txt"),
];

#[test]
fn no_message_leaves_a_tired_engineer_guessing() {
    let mut differences = String::new();
    let mut count = 0;
    for case in WRONG.iter().flat_map(|file| file.strip_suffix('\n').unwrap().split("\n====\n").skip(1)) {
        let (text, expected) = case.split_once("\n----\n").unwrap();
        let told = problems(text)
            .replace("gateway.toml:", "\u{0}")
            .replace("at \u{0}", "at gateway.toml:")
            .replace('\u{0}', "");
        if told != expected {
            differences += &format!("{text}\n  told:\n{told}\n  expected:\n{expected}\n\n");
        }
        count += 1;
    }
    assert!(differences.is_empty(), "{differences}");
    assert!(count >= 107, "only {count} were read");
}

#[test]
fn a_secret_never_shows_in_a_message() {
    for text in [
        "[mqtt]\npassword = \"hunter2\"",
        "[mqtt]\npassword = hunter2",
        "[mqtt]\npassword = hunter2 hunter2",
        "[mqtt]\nservers = [\"mqtt://gw:hunter2@broker\"]",
        "[mqtt]\nservers = \"mqtt://gw:hunter2@broker\"",
        "[mqtt]\nservers = [\"gw:hunter2@broker\"]",
        "[mqtt]\nservers = [\"mqtts://gw:hunter2@broker\"]",
    ] {
        assert!(!problems(text).contains("hunter2"), "{}", problems(text));
    }
}

#[test]
fn a_name_that_is_no_instance_never_becomes_a_folder() {
    let parsed = parse(&[Source::new("/etc/my gateway.toml", "")], &surroundings(), Path::new("/etc"), &|_| false);
    assert_eq!(
        parsed.unwrap_err().to_string(),
        "/etc/my gateway.toml: instance: \"my gateway\" is not an instance's name; use 1 to 64 of A-Z, a-z, 0-9, _, ., @ \
         and - (it comes from the name of the file); give another with instance = \"…\""
    );
}

#[test]
fn a_file_full_of_mistakes_never_fills_the_memory() {
    let text: String = (0..50_000).map(|n| format!("k{n} = 1\n")).collect();
    let problems = parsed(&text).unwrap_err();
    assert_eq!((problems.list.len(), problems.count()), (Problems::LIMIT, 50_000));
    assert!(problems.to_string().ends_with("\nand 49900 more"));
    assert_eq!(parsed(&"= ".repeat(500_000)).unwrap_err().count(), 1, "one for each line");
    assert_eq!(parsed(&"=\n".repeat(500_000)).unwrap_err().count(), 10, "and no more than a screen holds");
}

#[test]
fn deep_nesting_never_overflows_the_stack() {
    let keys = "a.".repeat(79) + "a";
    for text in [
        "a.".repeat(500_000) + "a = 1",
        format!("[{}a]", "a.".repeat(500_000)),
        "a = ".to_owned() + &"[".repeat(1_000_000),
        "a = ".to_owned() + &"{ a = ".repeat(150_000),
        format!("[{keys}]\n{keys} = {}1{}", format!("{{ {keys} = ").repeat(78), "}".repeat(78)),
        "[[serial]]\nframing = ".to_owned() + &"[".repeat(70) + &"]".repeat(70),
    ] {
        problems(&text);
    }
}
