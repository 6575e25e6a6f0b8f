//! Who may do what: keys, their roles, and the apps they belong to.

mod keys;
mod store;

pub use keys::{Access, AppId, Key, KeyDigest, Keys, Role};
pub use store::{Generated, KeyStoreError, load_or_create};
