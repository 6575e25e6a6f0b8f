//! What a shard begins with: all apps, and what is stored of the channels whose home it is.

use super::Shard;
use crate::accounts::{App, ChannelMeta};
use crate::handover::ChannelState;
use crate::ids::ChannelKey;
use crate::log::{LoadedChannel, StoredAnswer};
use crate::shared::Shared;

/// What the shards begin with.
#[derive(Debug, Default)]
pub struct Stored {
    /// All apps.
    pub apps: Vec<App>,
    /// Channels with metadata.
    pub metas: Vec<(ChannelKey, ChannelMeta)>,
    /// Channels that the log has.
    pub channels: Vec<LoadedChannel>,
    /// Answers for publishers who ask again.
    pub answers: Vec<(ChannelKey, StoredAnswer)>,
    /// What the process before had of channels in memory alone.
    pub channel_states: Vec<ChannelState>,
}

impl Stored {
    /// What each shard begins with: all apps, and the channels whose home it is.
    pub fn by_shard(self, shared: &Shared, shards: usize) -> Vec<Self> {
        let of_all = || Self { apps: self.apps.clone(), ..Self::default() };
        let mut all: Vec<Self> = (0..shards).map(|_| of_all()).collect();
        let mut place = |channel: &ChannelKey, put: &mut dyn FnMut(&mut Self)| {
            if let Some(stored) = all.get_mut(shared.home_shard(channel).index()) {
                put(stored);
            }
        };
        for channel in self.channels {
            place(&channel.channel.clone(), &mut |stored| stored.channels.push(channel.clone()));
        }
        for (channel, meta) in self.metas {
            place(&channel, &mut |stored| stored.metas.push((channel.clone(), meta.clone())));
        }
        for (channel, answer) in self.answers {
            place(&channel, &mut |stored| stored.answers.push((channel.clone(), answer.clone())));
        }
        for state in self.channel_states {
            let channel = state.channel.clone();
            let mut state = Some(state);
            place(&channel, &mut |stored| stored.channel_states.extend(state.take()));
        }
        all
    }
}

impl Shard {
    /// Takes over what is stored, before anything else happens.
    pub fn load_all(&mut self, stored: Stored) {
        let Stored { apps, metas, channels, answers, channel_states } = stored;
        // Channels are counted by their apps, metadata and answers belong to channels.
        apps.into_iter().for_each(|app| self.load_app(app));
        channels.into_iter().for_each(|channel| self.load(channel));
        metas.into_iter().for_each(|(channel, meta)| self.load_meta(&channel, meta));
        answers.into_iter().for_each(|(channel, answer)| self.load_answer(&channel, answer));
        self.take_channels(channel_states);
    }
}
