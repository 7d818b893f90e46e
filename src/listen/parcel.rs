//! What is on its way from a connection to the flow that it is for, in the channel of that flow.

use super::Outlets;
use crate::command::Request;
use crate::inbound::{Delivered, Settings};
use tokio::sync::mpsc::{self, error::TrySendError};

/// Something for one of the other flows.
pub(super) enum Parcel {
    Command(Request),
    Message(Delivered),
    Settings(Settings),
    Neighbour(Delivered),
}

impl Outlets {
    /// Hands it over if there is room, or gives it back. What nobody wants is gone.
    pub(super) fn hand_over(&self, parcel: Parcel) -> Result<(), Parcel> {
        fn offer<T>(outlet: Option<&mpsc::Sender<T>>, item: T, again: impl FnOnce(T) -> Parcel) -> Result<(), Parcel> {
            match outlet.map(|outlet| outlet.try_send(item)) {
                None | Some(Ok(())) => Ok(()),
                Some(Err(TrySendError::Full(item) | TrySendError::Closed(item))) => Err(again(item)),
            }
        }
        match parcel {
            Parcel::Command(request) => offer(self.devices.as_ref(), request, Parcel::Command),
            Parcel::Message(message) => offer(self.application.as_ref(), message, Parcel::Message),
            Parcel::Settings(settings) => offer(self.settings.as_ref(), settings, Parcel::Settings),
            Parcel::Neighbour(message) => {
                offer(self.neighbours.as_ref().map(|(_, outlet)| outlet), message, Parcel::Neighbour)
            }
        }
    }

    /// Returns when there is room for it; false: its flow has ended. Cancel-safe.
    pub(super) async fn room(&self, parcel: Option<&Parcel>) -> bool {
        async fn place<T>(outlet: Option<&mpsc::Sender<T>>) -> bool {
            match outlet {
                Some(outlet) => outlet.reserve().await.is_ok(),
                None => true,
            }
        }
        match parcel {
            Some(Parcel::Command(_)) => place(self.devices.as_ref()).await,
            Some(Parcel::Message(_)) => place(self.application.as_ref()).await,
            Some(Parcel::Settings(_)) => place(self.settings.as_ref()).await,
            Some(Parcel::Neighbour(_)) => place(self.neighbours.as_ref().map(|(_, outlet)| outlet)).await,
            None => std::future::pending().await,
        }
    }
}
