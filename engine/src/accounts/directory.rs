//! What a shard knows of apps and keys: a copy of its own, so that looking a key up touches no memory
//! that another core writes.

use std::sync::Arc;

use pushflo_protocol::{ErrorCode, Refusal};

use super::app::App;
use super::keys::{KeyDigest, KeyId, Role, SigningKey};
use crate::hash::HashMap;
use crate::ids::AppId;

/// Apps and keys.
#[derive(Debug, Default)]
pub struct Directory {
    apps: HashMap<AppId, Arc<App>>,
    keys: HashMap<KeyId, KnownKey>,
}

#[derive(Debug)]
struct KnownKey {
    digest: KeyDigest,
    signing: SigningKey,
    app: AppId,
    role: Role,
}

/// What a key or a token grants, and where.
#[derive(Clone, Debug)]
pub struct Access {
    /// The app it belongs to.
    pub app: Arc<App>,
    /// What it may do there.
    pub role: Role,
    /// The key, or the one behind the token.
    pub key: KeyId,
}

impl Directory {
    /// Takes an app as it is now. Returns the keys it had and has no more.
    pub fn learn(&mut self, app: App) -> Vec<KeyId> {
        let gone = match self.apps.get(&app.id) {
            None => Vec::new(),
            Some(before) => {
                let ids = before.record.keys.iter().map(super::Key::id);
                ids.filter(|id| app.key(*id).is_none()).collect()
            }
        };
        for id in &gone {
            self.keys.remove(id);
        }
        for key in &app.record.keys {
            let (digest, signing, role) = (key.digest, key.signing, key.role);
            self.keys.insert(key.id(), KnownKey { digest, signing, app: app.id, role });
        }
        self.apps.insert(app.id, Arc::new(app));
        gone
    }

    /// Forgets an app and its keys.
    pub fn forget(&mut self, app: AppId) {
        if let Some(app) = self.apps.remove(&app) {
            for key in &app.record.keys {
                self.keys.remove(&key.id());
            }
        }
    }

    /// The app, unless it is gone.
    pub fn app(&self, app: AppId) -> Option<&Arc<App>> {
        self.apps.get(&app)
    }

    /// An app in whose name something is done; it may have been deleted meanwhile.
    ///
    /// # Errors
    /// `UNAUTHORIZED`: nobody has a key to it any more.
    pub fn require(&self, app: AppId) -> Result<&Arc<App>, Refusal> {
        self.app(app).ok_or_else(|| Refusal::new(ErrorCode::Unauthorized, "the app was deleted"))
    }

    /// All apps, in no order.
    pub fn apps(&self) -> impl Iterator<Item = &Arc<App>> {
        self.apps.values()
    }

    /// What `key` grants. The digest's first half finds the entry, the whole is then compared in a
    /// time that tells nothing.
    pub fn find(&self, key: &str) -> Option<Access> {
        let digest = KeyDigest::of(key);
        let id = digest.id();
        self.keys.get(&id).filter(|known| known.digest.is(&digest))?;
        self.access(id).map(|(access, _)| access)
    }

    /// What the key of this id grants, and what its holder signs tokens with.
    pub(super) fn access(&self, id: KeyId) -> Option<(Access, SigningKey)> {
        let known = self.keys.get(&id)?;
        let app = Arc::clone(self.apps.get(&known.app)?);
        Some((Access { app, role: known.role, key: id }, known.signing))
    }
}
