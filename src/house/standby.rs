//! The loop of the copies: passes the pump's orders on to who keeps them, and their deliveries back. Blocks while the pump is busy.

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, sync::Arc};

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError};
use statehouse_dataflows::vocabulary::Partition;

use super::HouseError;
use crate::{
    message::{Delivery, Order},
    metrics::Metrics,
    standby::{Gone, Standby},
};

pub(super) struct StandbyThread {
    pub(super) standby: Standby,
    pub(super) orders: Receiver<Order>,
    pub(super) wanted: Sender<BTreeSet<Partition>>,
    pub(super) deliver: Sender<Delivery>,
    pub(super) metrics: Arc<Metrics>,
}

impl StandbyThread {
    pub(super) fn run(mut self) -> Result<(), HouseError> {
        let mut untold = None;
        while self.turn(&mut untold).is_ok() {}
        Ok(())
    }

    fn turn(&mut self, untold: &mut Option<BTreeSet<Partition>>) -> Result<(), Gone> {
        let Self { standby, orders, wanted, deliver, metrics } = self;
        let mut deliver = |delivery| deliver.send(delivery).map_err(|_| Gone);
        loop {
            match orders.try_recv() {
                Ok(order) => standby.order(order, &mut deliver)?,
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Err(Gone),
            }
        }
        *untold = standby.look().or(untold.take());
        if let Some(copies) = untold.take()
            && let Err(TrySendError::Full(copies)) = wanted.try_send(copies)
        {
            *untold = Some(copies); // the pump has not taken the last word yet
        }
        standby.turn(&mut deliver)?;
        standby.taken_over().into_iter().for_each(|elapsed| metrics.taken_over(elapsed));
        let census = standby.census();
        metrics.copies(census.whole, census.oldest);
        Ok(())
    }
}
