//! The table of routes: which request goes to which handler.
//!
//! To add one: a line in [`ROUTES`], its handler in a file of its own, a line in the table at the head of `api`, and its
//! description in `openapi.json`. Tests hold the three to each other; the texts of 404 and 405 follow by themselves.

use super::answer::{Answer, Error};
use super::call::{Call, Peer, Shared};
use super::counts::OTHER;
use super::phase::Phases;
use super::{command, environment, heartbeat, logs, messages, publish, reload, services, settings, views};
use hyper::body::Incoming;
use hyper::{Method, Request};
use percent_encoding::percent_decode_str;
use std::pin::Pin;

/// Every route, by path. `{…}` stands for one part of the path that is not empty; HEAD is answered wherever GET is.
#[rustfmt::skip]
pub(super) const ROUTES: &[Route] = &[
    Route { method: Method::GET,  path: "/metrics",                   handler: |shared, _| Box::pin(views::all_metrics(shared)) },
    Route { method: Method::GET,  path: "/v1/commands",               handler: |shared, call| Box::pin(messages::messages(shared, call)) },
    Route { method: Method::GET,  path: "/v1/config",                 handler: |shared, call| Box::pin(settings::all(shared, call)) },
    Route { method: Method::GET,  path: "/v1/config/{key}",           handler: |shared, call| Box::pin(settings::one(shared, call)) },
    Route { method: Method::PUT,  path: "/v1/config/{key}/reported",  handler: |shared, call| Box::pin(settings::report(shared, call)) },
    Route { method: Method::GET,  path: "/v1/devices",                handler: |shared, _| Box::pin(views::devices(shared)) },
    Route { method: Method::POST, path: "/v1/devices/{name}/command", handler: |shared, call| Box::pin(command::command(shared, call)) },
    Route { method: Method::GET,  path: "/v1/devices/{name}/trace",   handler: |shared, call| Box::pin(views::trace(shared, call)) },
    Route { method: Method::GET,  path: "/v1/environment",            handler: |shared, _| Box::pin(environment::environment(shared)) },
    Route { method: Method::GET,  path: "/v1/health",                 handler: |shared, _| Box::pin(views::health(shared)) },
    Route { method: Method::POST, path: "/v1/heartbeat",              handler: |shared, _| Box::pin(heartbeat::heartbeat(shared)) },
    Route { method: Method::POST, path: "/v1/logs",                   handler: |shared, call| Box::pin(logs::post(shared, call)) },
    Route { method: Method::GET,  path: "/v1/openapi.json",           handler: |_, _| Box::pin(views::description()) },
    Route { method: Method::POST, path: "/v1/publish",                handler: |shared, call| Box::pin(publish::publish(shared, call)) },
    Route { method: Method::POST, path: "/v1/reload",                 handler: |shared, _| Box::pin(reload::reload(shared)) },
    Route { method: Method::GET,  path: "/v1/services",               handler: |shared, _| Box::pin(services::services(shared)) },
    Route { method: Method::GET,  path: "/v1/status",                 handler: |shared, _| Box::pin(views::status(shared)) },
];

/// A method on a path.
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    handler: Handler,
}

impl Route {
    /// `GET /v1/health`
    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// What answers a request.
type Handler = for<'a> fn(&'a Shared, Call) -> Outcome<'a>;
type Outcome<'a> = Pin<Box<dyn Future<Output = Result<Answer, Error>> + Send + 'a>>;

/// Answers one request, whatever it is.
pub(super) async fn answer(shared: &Shared, request: Request<Incoming>, peer: Option<Peer>, phases: Phases) -> Answer {
    let (head, body) = request.into_parts();
    let found = find(&head.method, head.uri.path());
    let route = found.as_ref().map_or_else(|_| OTHER.to_owned(), |(route, _)| route.name());
    let outcome = match (&peer, found) {
        (Some(peer), _) if !shared.api.rules.borrow().access.admits(peer.user, peer.group) => {
            Err(Error::Forbidden(peer.user))
        }
        (_, Ok((route, name))) => (route.handler)(shared, Call { head, body, name, phases: phases.clone() }).await,
        (_, Err(error)) => Err(error),
    };
    let who = peer.unwrap_or_default();
    let mut answer = outcome.unwrap_or_else(|error| {
        tracing::debug!(uid = who.user, pid = who.process, "refused {route} of user {}: {error}", who.user);
        error.answer()
    });
    tracing::debug!(uid = who.user, pid = who.process, "{route} of user {}: {}", who.user, answer.status());
    shared.counts.answered(&route, peer.map(|peer| peer.user), answer.status());
    answer.body_mut().then_idle(phases);
    answer
}

/// The route of a request, and what stands for `{…}`.
fn find(method: &Method, path: &str) -> Result<(&'static Route, String), Error> {
    let mut allowed = Vec::new();
    for route in ROUTES {
        let Some(name) = matches(route.path, path) else { continue };
        if route.method == *method || (*method == Method::HEAD && route.method == Method::GET) {
            return Ok((route, name));
        }
        allowed.push(route.method.as_str());
        if route.method == Method::GET {
            allowed.push("HEAD");
        }
    }
    match allowed.is_empty() {
        true => Err(Error::NotFound(all())),
        false => Err(Error::Method(allowed.join(", "))),
    }
}

/// What stands for `{…}` if the path is one of this template; empty if there is none.
fn matches(template: &str, path: &str) -> Option<String> {
    let (mut wanted, mut given) = (template.split('/'), path.split('/'));
    let mut name = String::new();
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(name),
            (Some(wanted), Some(given)) if wanted.starts_with('{') => {
                name = percent_decode_str(given).decode_utf8().ok()?.into_owned();
                if name.is_empty() {
                    return None;
                }
            }
            (Some(wanted), Some(given)) if wanted == given => {}
            _ => return None,
        }
    }
}

/// The routes in words: `GET /metrics, …`.
fn all() -> String {
    let routes: Vec<String> = ROUTES.iter().map(Route::name).collect();
    routes.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(method: Method, path: &str) -> Result<(&'static str, String), String> {
        find(&method, path).map(|(route, name)| (route.path, name)).map_err(|error| error.to_string())
    }

    #[test]
    fn no_path_ever_names_a_device_by_accident() {
        let command = |path| found(Method::POST, path);
        assert_eq!(command("/v1/devices/meter/command"), Ok(("/v1/devices/{name}/command", "meter".to_owned())));
        assert_eq!(command("/v1/devices/a%2Fb/command").unwrap().1, "a/b");
        for path in [
            "/v1/devices//command",
            "/v1/devices/command",
            "/v1/devices/a/b/command",
            "/v1/devices/a/command/",
            "/v1/devices/%FF/command",
        ] {
            assert!(command(path).unwrap_err().starts_with("no such path"), "{path}");
        }
    }

    #[test]
    fn a_wrong_method_is_never_taken_for_a_wrong_path() {
        assert_eq!(found(Method::HEAD, "/v1/status").unwrap().0, "/v1/status");
        assert!(found(Method::DELETE, "/v1/status").unwrap_err().contains("GET, HEAD only"));
        assert!(found(Method::HEAD, "/v1/publish").unwrap_err().contains("POST only"));
        let error = found(Method::GET, "/v1/nothing").unwrap_err();
        assert!(ROUTES.iter().all(|route| error.contains(&route.name())), "{error}");
    }

    #[test]
    fn no_route_ever_goes_undescribed_nor_a_description_without_its_route() {
        let document: serde_json::Value = serde_json::from_str(super::super::views::DESCRIPTION).unwrap();
        let described: Vec<String> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, methods)| methods.as_object().unwrap().keys().map(move |method| (method, path)))
            .map(|(method, path)| format!("{} {path}", method.to_uppercase()))
            .collect();
        let routes: Vec<String> = ROUTES.iter().map(Route::name).collect();
        assert!(described.iter().all(|route| routes.contains(route)), "{described:?} are in openapi.json");
        assert!(routes.iter().all(|route| described.contains(route)), "only {described:?} are in openapi.json");
    }

    #[test]
    fn the_table_in_the_head_of_the_module_never_lags_behind() {
        let head: Vec<String> = include_str!("mod.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("//! "))
            .filter(|line| line.starts_with(|first: char| first.is_ascii_uppercase()))
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                let (method, target) = (words.next()?, words.next()?);
                let path = target.split(['?', '[']).next()?;
                path.starts_with('/').then(|| format!("{method} {path}"))
            })
            .collect();
        let routes: Vec<String> = ROUTES.iter().map(Route::name).collect();
        assert!(head.iter().all(|line| routes.contains(line)), "{head:?} are in the head");
        assert!(routes.iter().all(|route| head.contains(route)), "only {head:?} are in the head");
    }
}
