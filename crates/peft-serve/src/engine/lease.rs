//! Who gets an adapter, and who waits for it.

use std::time::{Duration, Instant};

use crate::error::{Result, ServeError};
use crate::sequence::Sequence;
use crate::store::{Store, StoreUse};

/// Gives a request its adapter; `false` where it has to wait for it.
pub(super) fn lease(store: &Store, sequence: &mut Sequence, now: Instant, patience: Duration) -> Result<bool> {
    let Some(name) = sequence.adapter.clone().filter(|_| sequence.lease.is_none()) else { return Ok(true) };
    match store.lease(&name, sequence.asked) {
        StoreUse::Ready(resident) => {
            sequence.lease = Some(resident);
            Ok(true)
        }
        StoreUse::Loading(number) => {
            sequence.asked = Some(number);
            Ok(false)
        }
        StoreUse::Failed(error @ ServeError::NoRoom { temporary: true, .. }) => {
            let since = *sequence.no_room_since.get_or_insert(now);
            if now.duration_since(since) >= patience {
                return Err(error);
            }
            sequence.asked = None;
            Ok(false)
        }
        StoreUse::Failed(error) => Err(error),
    }
}
