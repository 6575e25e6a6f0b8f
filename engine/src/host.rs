//! What the program around the engine does for it.

/// What the engine asks of the program that it is part of.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// Has the allocator give memory that the calling thread has freed back to the system. Threads call it
    /// every few seconds: allocators keep what was freed for what comes next, also where nothing comes.
    pub give_memory_back: fn(),
}

impl Default for Host {
    /// A program whose allocator needs no telling.
    fn default() -> Self {
        Self { give_memory_back: || {} }
    }
}
