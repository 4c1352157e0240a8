//! Requests that wait, in fair order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::sequence::Sequence;

/// Whose request it is: an adapter, or the base.
pub(crate) type Tenant = Option<Arc<str>>;

/// Requests that wait, a queue for each tenant: nobody waits behind the many requests of another.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    tenants: BTreeMap<Tenant, VecDeque<Box<Sequence>>>,
    len: usize,
}

impl Queue {
    /// Adds a request behind those of its tenant.
    pub fn push(&mut self, sequence: Box<Sequence>) {
        self.tenants.entry(sequence.adapter.clone()).or_default().push_back(sequence);
        self.len += 1;
    }

    /// Adds a request that ran already, before those of its tenant.
    pub fn push_front(&mut self, sequence: Box<Sequence>) {
        self.tenants.entry(sequence.adapter.clone()).or_default().push_front(sequence);
        self.len += 1;
    }

    /// Tenants with waiting requests: first those that `running` says have the fewest requests running, of equals the one
    /// who has waited longest.
    pub fn in_turn(&self, running: impl Fn(&Tenant) -> usize) -> Vec<Tenant> {
        let first = |queue: &VecDeque<Box<Sequence>>| queue.front().map_or(u64::MAX, |sequence| sequence.id);
        let mut order: Vec<_> =
            self.tenants.iter().map(|(tenant, queue)| (running(tenant), first(queue), tenant)).collect();
        order.sort();
        order.into_iter().map(|(_, _, tenant)| tenant.clone()).collect()
    }

    /// The first request of a tenant.
    pub fn front(&mut self, tenant: &Tenant) -> Option<&mut Sequence> {
        self.tenants.get_mut(tenant)?.front_mut().map(Box::as_mut)
    }

    /// Takes the first request of a tenant out.
    pub fn pop(&mut self, tenant: &Tenant) -> Option<Box<Sequence>> {
        let queue = self.tenants.get_mut(tenant)?;
        let first = queue.pop_front()?;
        if queue.is_empty() {
            self.tenants.remove(tenant);
        }
        self.len -= 1;
        Some(first)
    }

    /// Takes out the requests that `gone` is true for.
    #[allow(clippy::vec_box, reason = "a sequence is large, and moves between the queue, the batch and what runs")]
    pub fn take_if(&mut self, gone: impl Fn(&Sequence) -> bool) -> Vec<Box<Sequence>> {
        let mut taken = Vec::new();
        for queue in self.tenants.values_mut() {
            let (out, stay): (VecDeque<_>, VecDeque<_>) = std::mem::take(queue).into_iter().partition(|s| gone(s));
            *queue = stay;
            taken.extend(out);
        }
        self.tenants.retain(|_, queue| !queue.is_empty());
        self.len -= taken.len();
        taken
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.len
    }
}
