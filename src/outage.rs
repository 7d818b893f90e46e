//! What has been said about an outage, so that the log has it once and not at every try.
//!
//! Pure. Of several servers each fails for a reason of its own, and a bad link has more than one reason to give: told at each
//! change, an hour without a broker would be hundreds of lines. Constraint: no more than sixteen texts are remembered, the
//! oldest is forgotten first.

use std::collections::VecDeque;

/// Texts that are remembered: some reasons for each of a few servers.
const MOST: usize = 16;

/// One outage after the other.
#[derive(Debug, Default)]
pub struct Outage {
    said: VecDeque<String>,
}

impl Outage {
    /// Whether to say `text`: it has not been said in this outage. `begins`: with it a new one begins.
    pub fn is_news(&mut self, begins: bool, text: &str) -> bool {
        if begins {
            self.said.clear();
        }
        if self.said.iter().any(|said| said == text) {
            return false;
        }
        if self.said.len() >= MOST {
            self.said.pop_front();
        }
        self.said.push_back(text.to_owned());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_ever_said_twice_in_an_outage_nor_withheld_in_the_next() {
        let mut outage = Outage::default();
        let servers = ["a: refused", "b: no route", "c: not found"];
        for round in 0..100 {
            for server in servers {
                assert_eq!(outage.is_news(false, server), round == 0, "{server}, round {round}");
            }
        }
        assert!(outage.is_news(false, "b: refused"), "another reason is news");
        assert!(outage.is_news(true, "a: refused"), "it was connected meanwhile");
        assert!(outage.is_news(false, "b: no route"));
    }

    #[test]
    fn what_is_remembered_never_grows_without_end() {
        let mut outage = Outage::default();
        assert!((0..1_000).all(|number| outage.is_news(false, &number.to_string())));
        assert_eq!(outage.said.len(), MOST);
    }
}
