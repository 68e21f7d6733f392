//! How many connections are open, in all and from one address, so that no client takes all of them.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Places for connections.
#[derive(Clone)]
pub(super) struct Slots {
    max: usize,
    max_per_address: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by_network: HashMap<IpAddr, usize>,
}

/// A place that is taken until this is dropped.
pub(super) struct Slot {
    network: IpAddr,
    taken: Arc<Mutex<Taken>>,
}

/// Which setting leaves no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full(pub(super) &'static str);

impl Slots {
    pub(super) fn new(max: usize, max_per_address: usize) -> Self {
        Self { max, max_per_address, taken: Arc::default() }
    }

    pub(super) fn take(&self, from: IpAddr) -> Result<Slot, Full> {
        let network = network(from);
        let mut taken = lock(&self.taken);
        if taken.all >= self.max {
            return Err(Full("http.max_connections"));
        }
        if taken.by_network.get(&network).is_some_and(|count| *count >= self.max_per_address) {
            return Err(Full("http.max_connections_per_address"));
        }
        taken.all += 1;
        *taken.by_network.entry(network).or_default() += 1;
        Ok(Slot { network, taken: Arc::clone(&self.taken) })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        taken.all -= 1;
        if let Some(count) = taken.by_network.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                taken.by_network.remove(&self.network);
            }
        }
    }
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One for all addresses of a network that has 2^64 of them to choose from.
pub(super) fn network(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_leaves_places_for_others_and_gives_its_own_back() {
        let slots = Slots::new(3, 2);
        let take = |from: &str| slots.take(from.parse().unwrap());
        let here = [take("10.0.0.1"), take("::ffff:10.0.0.1")].map(|slot| slot.unwrap_or_else(|full| panic!("{full:?}")));
        assert_eq!(take("10.0.0.1").err(), Some(Full("http.max_connections_per_address")));
        let there = take("2001:db8::1");
        assert!(there.is_ok());
        assert_eq!(take("10.0.0.2").err(), Some(Full("http.max_connections")));
        drop(here);
        let again = take("2001:db8::2");
        assert!(again.is_ok());
        assert_eq!(take("2001:db8::3").err(), Some(Full("http.max_connections_per_address")), "of the same network");
        drop((there, again));
        assert!(lock(&slots.taken).by_network.is_empty());
    }
}
