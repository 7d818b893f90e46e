//! The connections: how many, how long, and how they end.
//!
//! Constraints: the accept loop never waits for a client; a client that is slow, silent, talks nonsense or doesn't read
//! what it asked for loses its own connection after a bounded time and disturbs nobody else's.

use super::Api;
use super::call::{Peer, Shared};
use super::crowd::{Crowd, PLACES};
use super::phase::{Phase, Phases};
use super::routes;
use super::socket::Socket;
use crate::pulse::Pulse;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::{Instant, sleep, timeout};

/// From the start of a connection, or the end of a request, to the end of the next request's head. An idle connection lives that long.
const HEAD_TIME: Duration = Duration::from_secs(5);

/// From a request's head to the last byte of its answer: more than the body's 30 s, a large body's turn after 15 s and the flow's 10 s together.
const REQUEST_TIME: Duration = Duration::from_secs(60);

/// Between two looks for somebody who may go, while somebody waits at the door.
const DOOR_TIME: Duration = Duration::from_millis(50);

/// The read buffer of a connection in bytes, and so the largest request head.
const READ_BUFFER: usize = 16 * 1024;

/// Headers in a request; curl sends four.
const MAX_HEADERS: usize = 32;

/// What is under way when we stop may take this long.
const FINISH_TIME: Duration = Duration::from_secs(1);

/// Between tries when accept(2) fails, which is for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// Serves until `stop` becomes true (or its sender is gone), finishes what is under way within a second, removes the
/// socket's file, if it is ours, and returns.
pub async fn serve(socket: Socket, api: Api, mut pulse: Pulse, mut stop: watch::Receiver<bool>) {
    let shared = Arc::new(Shared::new(api, stop.clone()));
    let mut connections = JoinSet::new();
    let mut crowd: Crowd<Id> = Crowd::new();
    let mut aborts: HashMap<Id, AbortHandle> = HashMap::new();
    // Who is connected and has no place yet. The others wait in the kernel's queue.
    let mut door = None;
    // That is told once, and not twice a second.
    let mut is_refused_told = false;
    loop {
        tokio::select! {
            () = stopped(&mut stop) => break,
            () = pulse.answer() => {}
            Some(ended) = connections.join_next_with_id() => {
                let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                crowd.leave(id);
                aborts.remove(&id);
            }
            accepted = socket.accept(), if door.is_none() => match accepted {
                Ok(stream) => {
                    shared.counts.connected();
                    is_refused_told = false;
                    door = Some(stream);
                }
                Err(error) => {
                    if !std::mem::replace(&mut is_refused_told, true) {
                        tracing::warn!("can't accept a connection on {}: {error}", socket.path().display());
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            () = sleep(DOOR_TIME), if door.is_some() => {}
        }
        if door.is_some()
            && crowd.len() >= PLACES
            && let Some(id) = crowd.send_away(Instant::now())
        {
            shared.counts.sent_away();
            if let Some(task) = aborts.remove(&id) {
                task.abort();
            }
        }
        if crowd.len() < PLACES
            && let Some(stream) = door.take()
        {
            let phases = Phases::new();
            let task = connections.spawn(connection(stream, Arc::clone(&shared), phases.clone()));
            crowd.enter(task.id(), phases);
            aborts.insert(task.id(), task);
        }
        shared.counts.open(crowd.len());
    }
    drop(socket);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if timeout(FINISH_TIME, all_ended).await.is_err() {
        tracing::debug!("cut off {} local connections that did not end in time", connections.len());
    }
}

/// Waits for the word to stop.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that its sender is gone, and that is the end as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Serves one client until it hangs up, breaks a rule, takes too long or is not let in any more.
async fn connection(stream: UnixStream, shared: Arc<Shared>, phases: Phases) {
    let mut stop = shared.stop.clone();
    let mut rules = shared.api.rules.clone();
    // Those that hold now are looked at by each request.
    rules.mark_unchanged();
    let peer = stream.peer_cred().ok().map(|peer| Peer { user: peer.uid(), group: peer.gid(), process: peer.pid() });
    let twin = stream.as_fd().try_clone_to_owned();
    let mut phase = phases.watch();
    let service = service_fn(|request| {
        phases.enter(Phase::Request);
        let (shared, phases) = (Arc::clone(&shared), phases.clone());
        async move { Ok::<_, Infallible>(routes::answer(&shared, request, peer, phases).await) }
    });
    let mut http = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_headers(MAX_HEADERS)
            .max_buf_size(READ_BUFFER)
            // A client may close its sending half behind the request and still wants the answer.
            .half_close(true)
            .serve_connection(TokioIo::new(stream), service)
    );
    // hyper bounds the heads, the routes their own work; this bounds a client that doesn't read its answers.
    let mut deadline = pin!(sleep(REQUEST_TIME));
    let mut gone: Pin<Box<dyn Future<Output = ()> + Send + '_>> = Box::pin(pending());
    let mut bounded = true;
    let mut finishing = false;
    loop {
        tokio::select! {
            ended = http.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!("a local connection ended: {error}");
                }
                return;
            }
            Ok(()) = phase.changed() => {
                let (now, _) = *phase.borrow_and_update();
                match now {
                    Phase::Body | Phase::Wait => bounded = true,
                    Phase::Idle | Phase::Request => {
                        bounded = true;
                        deadline.as_mut().reset(Instant::now() + REQUEST_TIME);
                    }
                    Phase::Upload => bounded = false,
                    Phase::Stream => {
                        bounded = false;
                        if let Ok(twin) = &twin {
                            gone = Box::pin(hung_up(twin));
                        }
                    }
                    Phase::Cut => return,
                }
            }
            () = deadline.as_mut(), if bounded => return,
            () = gone.as_mut(), if !bounded => return,
            Ok(()) = rules.changed() => {
                let access = &rules.borrow_and_update().access;
                if peer.is_some_and(|peer| !access.admits(peer.user, peer.group)) {
                    return;
                }
            }
            () = stopped(&mut stop), if !finishing => {
                finishing = true;
                http.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Waits until the client has closed its socket altogether. hyper looks for that only when it has something to write, and a
/// stream may have nothing for days. Never returns for a client that has closed its sending half: the next line shows.
async fn hung_up(twin: &OwnedFd) {
    let socket = twin.try_clone().map(std::os::unix::net::UnixStream::from).and_then(UnixStream::from_std);
    let Ok(socket) = socket else { return pending().await };
    // Of the readiness to read tokio shows the end of reading alone, which a half-closed socket has as well.
    while let Ok(ready) = socket.ready(Interest::WRITABLE).await {
        if ready.is_write_closed() {
            return;
        }
        // Nothing is written here: wait for the next event.
        let _ = socket.try_io(Interest::WRITABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    }
    pending().await
}
