//! The query of a request: every parameter is known, given once, and text.

use super::answer::Error;
use percent_encoding::percent_decode_str;

/// The parameters of a request, percent-decoded.
#[derive(Debug)]
pub(super) struct Query(Vec<(&'static str, String)>);

impl Query {
    /// Reads `a=1&b=2`; only the names in `known` may be there. A name without `=` has the empty value.
    ///
    /// # Errors
    /// [`Error::Bad`] with what is wrong: an unknown name, one that is given twice, a value that is not UTF-8.
    pub(super) fn read(query: Option<&str>, known: &'static [&'static str]) -> Result<Query, Error> {
        let mut pairs: Vec<(&'static str, String)> = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(name) = known.iter().find(|known| **known == name) else { return Err(unknown(name, known)) };
            let value = percent_decode_str(value).decode_utf8();
            let value = value.map_err(|_| Error::Bad(format!("the parameter {name} is not UTF-8")))?.into_owned();
            if pairs.iter().any(|(given, _)| given == name) {
                return Err(Error::Bad(format!("the parameter {name} is given twice")));
            }
            pairs.push((name, value));
        }
        Ok(Query(pairs))
    }

    /// The value of a parameter, if it is given.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(given, _)| *given == name).map(|(_, value)| value.as_str())
    }

    /// A parameter that is `true` or `false`; false where it is not given.
    ///
    /// # Errors
    /// [`Error::Bad`] if it is anything else.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Error> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(Error::Bad(format!("{name} is {other:?}; it must be true or false"))),
        }
    }
}

fn unknown(name: &str, known: &[&str]) -> Error {
    Error::Bad(match known {
        [] => format!("unknown parameter {name:?}; this path takes none"),
        [one] => format!("unknown parameter {name:?}; there is {one}"),
        [others @ .., last] => format!("unknown parameter {name:?}; there are {} and {last}", others.join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KNOWN: &[&str] = &["topic", "sync"];

    #[test]
    fn a_parameter_is_never_misread_or_overlooked() {
        let query = Query::read(Some("topic=gr%C3%B6%C3%9Fe%2Fx%20y&sync=true&"), KNOWN).unwrap();
        assert_eq!((query.get("topic"), query.flag("sync").unwrap()), (Some("größe/x y"), true));
        let query = Query::read(None, KNOWN).unwrap();
        assert_eq!((query.get("topic"), query.flag("sync").unwrap()), (None, false));
        for (wrong, why) in [
            ("Topic=a", "unknown parameter \"Topic\"; there are topic and sync"),
            ("topic=a&topic=a", "twice"),
            ("topic=%FF", "not UTF-8"),
        ] {
            assert!(Query::read(Some(wrong), KNOWN).unwrap_err().to_string().contains(why), "{wrong}");
        }
        assert!(Query::read(Some("sync=yes"), KNOWN).unwrap().flag("sync").is_err());
        assert!(Query::read(Some("a"), &[]).unwrap_err().to_string().ends_with("takes none"));
    }

    proptest! {
        #[test]
        fn no_query_ever_panics_or_says_more_than_it_holds(query in "[a-z=&%+0-9A-F/]{0,40}|.{0,40}") {
            if let Ok(read) = Query::read(Some(&query), KNOWN) {
                prop_assert!(read.0.len() <= KNOWN.len());
                prop_assert!(read.get("topic").is_none_or(|topic| topic.len() < query.len()));
            }
        }

        #[test]
        fn no_value_ever_changes_on_its_way(topic in ".{0,40}") {
            let query: String = topic.bytes().map(|byte| format!("%{byte:02X}")).collect();
            let query = format!("sync=true&topic={query}");
            let read = Query::read(Some(&query), KNOWN).unwrap();
            prop_assert_eq!(read.get("topic"), Some(topic.as_str()));
        }
    }
}
