//! What must hold of a shard between two calls, for tests that drive one: every table agrees with every
//! other that tells of the same. Nothing here runs unless it is called.

use super::Shard;
use crate::census::Census;

impl Shard {
    /// Checks all tables, and adds what the shard holds to `census`.
    ///
    /// # Panics
    /// Something does not hold.
    #[doc(hidden)]
    pub fn check(&self, census: &mut Census) {
        self.cx.check();
        self.home.check(&self.cx, census);
        self.edge.check(&self.cx, census);
    }
}
