//! Who may use the socket, beyond what its mode says: `api.allow_users` and `api.allow_groups`.
//!
//! Constraints: names are looked up at the start and when a reload changes them, in `/etc/passwd` and `/etc/group`; a name that is
//! not there lets nobody in. The kernel tells the user and the main group of whoever connected (SO_PEERCRED); who is in a group otherwise is
//! taken from `/etc/group`. Root and the user that pillion runs as are let in always.

use crate::config;
use std::collections::BTreeSet;
use std::fs;

const ROOT: u32 = 0;

/// Who is let in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    /// None: everybody whom the socket's mode lets in.
    allowed: Option<Allowed>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Allowed {
    users: BTreeSet<u32>,
    groups: BTreeSet<u32>,
}

impl Access {
    /// As the configuration says, with the names of this machine. Also returns what has to be said about names that nobody
    /// has.
    pub fn of_this_machine(config: &config::Api) -> (Access, Vec<String>) {
        let read = |path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let own = rustix::process::geteuid().as_raw();
        Access::resolve(config, &read("/etc/passwd"), &read("/etc/group"), own)
    }

    fn resolve(config: &config::Api, passwd: &str, group: &str, own: u32) -> (Access, Vec<String>) {
        let config::Api { allow_users, allow_groups } = config;
        if allow_users.is_empty() && allow_groups.is_empty() {
            return (Access::default(), Vec::new());
        }
        let mut allowed = Allowed { users: [ROOT, own].into(), groups: BTreeSet::new() };
        let mut unknown = Vec::new();
        for name in allow_users {
            match name.parse().ok().or_else(|| user(passwd, name)) {
                Some(user) => _ = allowed.users.insert(user),
                None => unknown.push(format!(
                    "api.allow_users: nobody is called {name:?} in /etc/passwd, so it lets nobody in; give a name or a number \
                     that is there"
                )),
            }
        }
        for name in allow_groups {
            let (number, members) = match (name.parse().ok(), find_group(group, name)) {
                (_, Some(found)) => found,
                // One that only a main group names, as services have.
                (Some(number), None) => (number, ""),
                (None, None) => {
                    unknown.push(format!(
                        "api.allow_groups: there is no group {name:?} in /etc/group, so it lets nobody in; give a name or a \
                         number that is there"
                    ));
                    continue;
                }
            };
            allowed.groups.insert(number);
            allowed.users.extend(members.split(',').filter_map(|member| user(passwd, member.trim())));
        }
        (Access { allowed: Some(allowed) }, unknown)
    }

    /// Whether a process of this user with this main group may use the socket.
    pub(super) fn admits(&self, user: u32, group: u32) -> bool {
        let Some(allowed) = &self.allowed else { return true };
        allowed.users.contains(&user) || allowed.groups.contains(&group)
    }
}

/// The number of a user, of `name:x:1000:100:…`.
fn user(passwd: &str, name: &str) -> Option<u32> {
    let number = |line: &str| {
        let mut fields = line.split(':');
        (fields.next()? == name && !name.is_empty()).then(|| fields.nth(1)?.parse().ok())?
    };
    passwd.lines().find_map(number)
}

/// The number and the members of a group by its name or number, of `name:x:100:member,member`.
fn find_group<'g>(group: &'g str, wanted: &str) -> Option<(u32, &'g str)> {
    let found = |line: &'g str| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (name == wanted || number == wanted).then(|| Some((number.parse().ok()?, fields.next().unwrap_or_default())))?
    };
    group.lines().find_map(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/:/bin/sh\nsensor:x:1001:100::/:/bin/sh\n\
        pillion:x:998:998::/:/bin/false\nbroken\n:x:77:77\n";
    const GROUP: &str = "root:x:0:\nusers:x:100:\ndata:x:200:app, ghost\nempty:x:300:\nbroken\n";

    fn resolved(users: &[&str], groups: &[&str]) -> (Access, Vec<String>) {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let config = config::Api { allow_users: names(users), allow_groups: names(groups) };
        Access::resolve(&config, PASSWD, GROUP, 998)
    }

    #[test]
    fn without_a_list_nobody_is_ever_kept_out() {
        assert!(resolved(&[], &[]).0.admits(1000, 1000));
    }

    #[test]
    fn nobody_gets_in_who_is_not_named() {
        let (access, unknown) = resolved(&["app", "1007"], &[]);
        assert!(unknown.is_empty());
        assert!(access.admits(1000, 7) && access.admits(1007, 7) && !access.admits(1001, 1000));
        let (access, _) = resolved(&[], &["data", "100"]);
        assert!(access.admits(1000, 1000), "a member");
        assert!(access.admits(1001, 100) && access.admits(5, 200), "a main group");
        assert!(!access.admits(1001, 1001) && !access.admits(77, 77));
        let (access, _) = resolved(&[], &["4711"]);
        assert!(access.admits(5, 4711) && !access.admits(5, 4712));
    }

    #[test]
    fn an_unknown_name_never_lets_anybody_in_nor_locks_its_owner_out() {
        let (access, unknown) = resolved(&["nobody-here", ""], &["nothing"]);
        assert_eq!(unknown.len(), 3);
        assert!(unknown[0].contains("nobody-here") && unknown[2].contains("nothing"));
        assert!(access.admits(ROOT, 0) && access.admits(998, 998));
        assert!(!access.admits(1000, 1000) && !access.admits(77, 77));
    }
}
