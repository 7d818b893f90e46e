//! The task of an output: orders are carried out, and what is due by itself.
//!
//! Constraint: nothing here waits for room, or a full disk would keep a line from its safe value. Records that don't find
//! room wait in a short queue; when that is full the oldest goes, for the latest value is what counts.

use super::chip::{Chips, Held, Role, Trouble};
use super::liveness::{Liveness, Missing};
use super::output::{Cause, Output, Step};
use super::{Device, State, stopped, submission, until};
use crate::command::{Data, Order, Progress};
use crate::config;
use crate::record::{Record, Submission};
use serde::Serialize;
use std::collections::VecDeque;
use tokio::sync::mpsc;

/// Records that wait for room.
const WAITING: usize = 64;

/// The data of a record.
#[derive(Serialize)]
struct Driven {
    value: bool,
    cause: Cause,
}

pub(super) async fn run<C: Chips>(device: Device<C>, config: &config::Output, liveness: Liveness) {
    let mut task = Driving { output: Output::new(config), device, liveness, missing: None, waiting: VecDeque::new() };
    task.look_around();
    let mut state = State::Closed;
    loop {
        let next = match state {
            State::Closed => Some(task.open()),
            State::Open(held) => task.serve(held).await,
            State::Backoff => task.wait().await,
        };
        match next {
            Some(next) => state = next,
            None => break,
        }
    }
    let rest = task.waiting.drain(..).collect();
    let _ = task.device.send(rest).await;
    task.device.stopped();
}

struct Driving<C> {
    device: Device<C>,
    output: Output,
    liveness: Liveness,
    /// As it was when it was looked at last.
    missing: Option<Missing>,
    waiting: VecDeque<Record>,
}

impl<C: Chips> Driving<C> {
    /// State Closed: `Open`, or `Backoff` if that did not work.
    fn open(&mut self) -> State<C::Held> {
        let wanted = self.output.opening(self.device.now_ms());
        let taken = self.device.take(Role::Drive(wanted)).and_then(|held| match wanted {
            Some(value) => Ok((held, value)),
            None => Ok((held.value()?, held)).map(|(value, held)| (held, value)),
        });
        match taken {
            Ok((held, value)) => {
                let step = self.output.opened(value, self.device.now_ms());
                self.device.online();
                self.show(step);
                State::Open(held)
            }
            Err(trouble) => {
                self.device.offline(&trouble);
                State::Backoff
            }
        }
    }

    /// State Open: `Backoff` when the line is lost, `None` when the task shall end.
    async fn serve(&mut self, held: C::Held) -> Option<State<C::Held>> {
        loop {
            let (due_ms, now_ms) = (self.output.due_ms(), self.device.now_ms());
            let wiring = &mut self.device.wiring;
            let done = tokio::select! {
                biased;
                () = stopped(&mut wiring.stop) => {
                    if let Some(step) = self.output.stop() && let Err(trouble) = self.carry_out(&held, step) {
                        let name = &self.device.config.name;
                        tracing::error!(device = name, "device {name} is not in its safe state: {trouble}");
                    }
                    return None;
                }
                () = self.liveness.changed() => {
                    self.look_around();
                    Ok(())
                }
                () = until(due_ms, now_ms) => match self.output.due(self.device.now_ms()) {
                    Some(step) => self.carry_out(&held, step),
                    None => Ok(()),
                },
                Some(order) = wiring.orders.recv() => self.obey(&held, order),
                () = wiring.pulse.answer() => held.value().map(drop),
                // An output has no edges: the chip is gone.
                ready = held.ready() => ready.and_then(|()| Err(Trouble::Gone(self.device.config.chip.clone()))),
                has_room = has_room(&wiring.submissions), if !self.waiting.is_empty() => {
                    if !has_room {
                        return None;
                    }
                    self.hand_over();
                    Ok(())
                }
            };
            if let Err(trouble) = done {
                drop(held);
                self.device.offline(&trouble);
                return Some(State::Backoff);
            }
        }
    }

    /// State Backoff: `Closed` when the delay is over, `None` when the task shall end.
    async fn wait(&mut self) -> Option<State<C::Held>> {
        let delay = tokio::time::sleep(self.device.backoff.next(fastrand::f64()));
        tokio::pin!(delay);
        loop {
            let wiring = &mut self.device.wiring;
            tokio::select! {
                biased;
                () = stopped(&mut wiring.stop) => return None,
                () = self.liveness.changed() => self.look_around(),
                () = wiring.pulse.answer() => {}
                Some(order) = wiring.orders.recv() => {
                    let reason = wiring.status.borrow().reason.clone().unwrap_or_default();
                    report(&order, Progress::Failed(format!("not done, the line is offline: {reason}")));
                }
                () = &mut delay => return Some(State::Closed),
            }
        }
    }

    fn look_around(&mut self) {
        self.missing = self.liveness.missing();
        self.output.vital(self.missing.is_some(), self.device.now_ms());
    }

    /// Carries an order out, or says why not. An error means that the line is lost.
    fn obey(&mut self, held: &C::Held, mut order: Order) -> Result<(), Trouble> {
        if self.device.now_ms() >= order.expires_ms {
            report(&order, Progress::Expired);
            return Ok(());
        }
        let data = std::mem::replace(&mut order.data, Data::Bytes(Vec::new()));
        let step = match self.output.order(data) {
            Ok(step) => step,
            Err(reason) => {
                report(&order, Progress::Refused(reason));
                return Ok(());
            }
        };
        let done = self.carry_out(held, step);
        match &done {
            Ok(()) => report(&order, Progress::Done),
            Err(trouble) => report(&order, Progress::Failed(format!("not done: {trouble}"))),
        }
        done
    }

    fn carry_out(&mut self, held: &C::Held, step: Step) -> Result<(), Trouble> {
        held.drive(step.value)?;
        if step.cause == Cause::Safe && !*self.device.wiring.stop.borrow() {
            let (name, value) = (&self.device.config.name, step.value);
            let why = match self.missing {
                Some(Missing::App) => "the application is gone, or does not answer",
                Some(Missing::Link) | None => "the broker is out of reach",
            };
            tracing::warn!(device = name, "device {name} gets its safe value, {value}: {why}");
        }
        if self.output.driven(step, self.device.now_ms()) {
            self.show(step);
        }
        Ok(())
    }

    /// Sends what waits, if there is still room.
    fn hand_over(&mut self) {
        if let Ok(room) = self.device.wiring.submissions.try_reserve() {
            room.send(submission(self.waiting.drain(..).collect()));
        }
    }

    fn show(&mut self, Step { value, cause, .. }: Step) {
        self.device.note(|gpio| gpio.value = Some(value));
        if self.waiting.len() >= WAITING {
            self.waiting.pop_front();
            self.device.note(|gpio| gpio.lost = gpio.lost.saturating_add(1));
        }
        let record = self.device.record(self.device.now().time, &Driven { value, cause });
        self.waiting.push_back(record);
    }
}

/// Waits for room; false if nobody takes records any more.
async fn has_room(submissions: &mpsc::Sender<Submission>) -> bool {
    submissions.reserve().await.is_ok()
}

/// Whoever asked may be gone.
fn report(order: &Order, progress: Progress) {
    let _ = order.progress.try_send(progress);
}
