//! What must be alive for outputs to do as they were told.

use tokio::sync::watch;

/// Something vital that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// The connection to the broker: nobody far away can give orders.
    Link,
    /// The application: nobody nearby can.
    App,
}

/// Tells what is missing, if anything is. Where several things are vital, whoever sends here tells of one as long as not all
/// of them are back.
#[derive(Debug, Clone)]
pub struct Liveness(watch::Receiver<Option<Missing>>);

impl Liveness {
    /// Listens to this.
    pub fn new(missing: watch::Receiver<Option<Missing>>) -> Self {
        Liveness(missing)
    }

    /// What is missing now.
    pub fn missing(&mut self) -> Option<Missing> {
        *self.0.borrow_and_update()
    }

    /// Returns when [`Liveness::missing`] may say something else; never once nobody can tell. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
