//! What is kept of channels, and what an answered publish has survived.

use crate::hash::HashMap;
use crate::ids::AppId;

/// How much longer a message is there than it is told of, in milliseconds: whoever was told where its
/// history begins has so long to read it.
pub const SLACK_MS: u64 = 10_000;

/// The share of a limit by which more is there than is told of: an eighth.
pub const SLACK: usize = 8;

/// What is kept of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Oldest age in milliseconds; 0 keeps nothing.
    pub age_ms_max: u64,
    /// Most messages of one channel.
    pub messages_max: usize,
    /// Most bytes of one channel.
    pub channel_bytes_max: usize,
}

impl Retention {
    /// Keeps nothing.
    pub const NOTHING: Self = Self { age_ms_max: 0, messages_max: 0, channel_bytes_max: 0 };

    /// Keeps everything.
    pub const EVERYTHING: Self =
        Self { age_ms_max: u64::MAX, messages_max: usize::MAX, channel_bytes_max: usize::MAX };

    /// What is there of it, for those who were told where it begins and have not read it yet: a little
    /// more than is told of.
    pub fn loose(&self) -> Self {
        if self.age_ms_max == 0 {
            return Self::NOTHING;
        }
        Self {
            age_ms_max: self.age_ms_max.saturating_add(SLACK_MS),
            messages_max: self.messages_max.saturating_add(self.messages_max / SLACK + 1),
            channel_bytes_max: self
                .channel_bytes_max
                .saturating_add(self.channel_bytes_max / SLACK + 1),
        }
    }

    /// The time of the oldest message that is kept, in Unix milliseconds.
    pub fn since_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.age_ms_max)
    }
}

/// What an answered publish has survived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Nothing: history is in memory, and gone with the process.
    Memory,
    /// The end of the process: the operating system has it.
    #[default]
    Os,
    /// A power loss: the disk has it.
    Disk,
}

/// Retention by app, as the plans say: set by the accounts, read by the log.
#[derive(Debug, Default)]
pub struct Retentions(SharedRetentions);

#[expect(clippy::disallowed_types, reason = "accounts and log share it, no shard does")]
type SharedRetentions = std::sync::RwLock<HashMap<AppId, Retention>>;

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
    pub fn of(&self, app: AppId) -> Retention {
        let all = self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.get(&app).copied().unwrap_or(Retention::NOTHING)
    }
}
