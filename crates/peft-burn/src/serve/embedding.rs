//! An embedding whose rows belong to several adapters.

use burn::tensor::{Int, Tensor};

use super::plan::Plan;
use crate::layers::embedding::PeftEmbedding;

impl PeftEmbedding {
    /// The rows of `ids` (`[n]`), each under the adapter that `plan` has for it: `[n, hidden]`. Adapters that were attached
    /// to the embedding itself do not count.
    pub fn serve(&self, ids: Tensor<1, Int>, plan: &Plan) -> Tensor<2> {
        let own = |group: &super::PlanGroup| group.pack.as_ref().is_some_and(|p| p.embedding(self.slot()).is_some());
        if !plan.groups().iter().any(own) {
            return self.base().val().select(ids);
        }
        let parts = plan.groups().iter().map(|group| {
            let ids = ids.clone().narrow(0, group.rows.start, group.rows.len());
            let adapter = group.pack.as_ref().and_then(|pack| pack.embedding(self.slot()));
            self.forward_active(ids, adapter.as_slice())
        });
        Tensor::cat(parts.collect(), 0)
    }
}
