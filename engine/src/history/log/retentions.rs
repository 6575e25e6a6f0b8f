//! What is kept of each app's channels, as the plans say: set by the clerk, read by the writer.

use crate::auth::AppId;
use crate::hash::HashMap;
use crate::history::Retention;

/// Retention by app.
#[derive(Debug, Default)]
pub struct Retentions(Shared);

#[expect(clippy::disallowed_types, reason = "the clerk and the writer share it, no shard does")]
type Shared = std::sync::RwLock<HashMap<AppId, Retention>>;

impl Retentions {
    /// Sets what is kept of an app.
    pub fn set(&self, app: AppId, retention: Retention) {
        self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner).insert(app, retention);
    }

    /// The app is gone, and with it all that was kept of it.
    pub fn forget(&self, app: AppId) {
        self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&app);
    }

    /// What is kept of an app; nothing of one that is gone.
    pub(super) fn of(&self, app: AppId) -> Retention {
        let all = self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.get(&app).copied().unwrap_or(Retention::NOTHING)
    }
}
