//! What a setting is, and the notation of the table.

use thiserror::Error;

/// A number that may be configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its key in the configuration file, with the section.
    pub key: &'static str,
    /// What it is if nothing is said, in the unit of the key.
    pub default: u64,
    /// Where there is little memory it is this much of it, if nothing is said.
    pub of_memory: Option<MemoryShare>,
    /// The least it may be.
    pub least: u64,
    /// The most it may be.
    pub most: u64,
    /// What it means: sentences, each line with a blank before it.
    pub meaning: &'static str,
}

/// A part of the memory that the server may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryShare {
    /// One part in so many.
    pub divisor: u64,
    /// All shards together have it.
    pub is_shared: bool,
}

/// What the server runs on, as far as defaults go by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Bytes of memory that the server may use.
    pub memory_bytes: u64,
    /// How many shards share it.
    pub shards: usize,
}

impl Machine {
    /// One on which every default is as the table has it.
    pub const LARGE: Self = Self { memory_bytes: u64::MAX, shards: 1 };
}

impl MemoryShare {
    fn on(self, machine: &Machine) -> u64 {
        let parts = if self.is_shared { machine.shards.max(1) as u64 } else { 1 };
        machine.memory_bytes / self.divisor.saturating_mul(parts)
    }
}

/// A setting was given a value that it may not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{} = {given}: {}", .setting.key, self.reason())]
pub struct OutOfRange {
    /// Which.
    pub setting: &'static Setting,
    /// What it was given.
    pub given: u64,
}

impl Setting {
    /// What it is on a machine if nothing is said.
    pub fn default_on(&self, machine: &Machine) -> u64 {
        let fitted = self.of_memory.map_or(self.default, |share| share.on(machine));
        fitted.min(self.default).max(self.least)
    }

    /// What was given, or the default.
    ///
    /// # Errors
    /// [`OutOfRange`]
    pub fn check(&'static self, given: Option<u64>, machine: &Machine) -> Result<u64, OutOfRange> {
        let given = given.unwrap_or_else(|| self.default_on(machine));
        if given < self.least || given > self.most {
            return Err(OutOfRange { setting: self, given });
        }
        Ok(given)
    }

    /// Whether it says what can be: what is asserted of the table when it is compiled.
    pub(super) const fn is_sound(&self, of_type_max: u64) -> bool {
        self.least <= self.default && self.default <= self.most && self.most <= of_type_max
    }
}

impl OutOfRange {
    /// What it may be.
    pub fn reason(&self) -> String {
        format!("must be from {} to {}", self.setting.least, self.setting.most)
    }
}

/// Declares sections of the configuration: for each the struct that the server reads, the struct that
/// the file is read into, the way from one to the other, the defaults, and the rows of the table.
///
/// An entry is its meaning as documentation, then
/// `key_in_the_file => field: type = default, from least, to most;`, where `ticks` as a type is a
/// number of milliseconds in the file and of ticks in the server. A default that goes by the machine is
/// `default, or memory / divisor, ` or `default, or memory / divisor / shards, `: the lesser of both.
/// `with` names what else the section has.
macro_rules! settings {
    ($(
        $(#[doc = $about:literal])+
        $section:literal => $Values:ident, $Section:ident $(with $other:ident: $Other:ty)? {
            $(
                $(#[doc = $meaning:literal])+
                $key:ident => $field:ident: $kind:ident
                    = $default:expr, $(or memory / $divisor:literal $(/ $shards:ident)?,)?
                    from $least:expr, to $most:expr;
            )+
        }
    )+) => {
        $(
            $(#[doc = $about])+
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub struct $Values {
                $(
                    $(#[doc = $meaning])+
                    #[doc = concat!("\n\n`", $section, ".", stringify!($key), "`")]
                    pub $field: settings!(@type $kind),
                )+
            }

            #[doc = concat!("`[", $section, "]` as it stands in the file.")]
            #[derive(Clone, Debug, Default, serde::Deserialize)]
            #[serde(deny_unknown_fields, default)]
            pub struct $Section {
                $(
                    #[doc = concat!("`", $section, ".", stringify!($other), "`")]
                    pub $other: Option<$Other>,
                )?
                $(
                    #[doc = concat!("[`", stringify!($Values), "::", stringify!($field), "`]")]
                    pub $key: Option<u64>,
                )+
            }

            impl $Values {
                /// Its rows of the table.
                pub const SETTINGS: &[Setting] = &[$(
                    settings!(@setting $section, $key, $default,
                        [$($divisor $($shards)?)?], $least, $most, $($meaning),+),
                )+];
            }

            impl $Section {
                /// What the server is to go by.
                ///
                /// # Errors
                /// [`OutOfRange`]
                pub fn check(&self, machine: &Machine) -> Result<$Values, OutOfRange> {
                    Ok($Values {
                        $($field: {
                            const SETTING: Setting =
                                settings!(@setting $section, $key, $default,
                                    [$($divisor $($shards)?)?], $least, $most, $($meaning),+);
                            const _: () = assert!(SETTING.is_sound(<settings!(@type $kind)>::MAX as u64));
                            settings!(@from $kind, SETTING.check(self.$key, machine)?)
                        },)+
                    })
                }
            }

            impl Default for $Values {
                fn default() -> Self {
                    Self { $($field: settings!(@from $kind, $default),)+ }
                }
            }
        )+

        /// The rows of all sections.
        const SECTIONS: &[&[Setting]] = &[$($Values::SETTINGS),+];
    };
    (@setting $section:literal, $key:ident, $default:expr, [$($share:tt)*], $least:expr,
        $most:expr, $($meaning:literal),+) => {
        Setting {
            key: concat!($section, ".", stringify!($key)),
            default: $default,
            of_memory: settings!(@share $($share)*),
            least: $least,
            most: $most,
            meaning: concat!($($meaning),+),
        }
    };
    (@share) => { None };
    (@share $divisor:literal) => {
        Some(MemoryShare { divisor: $divisor, is_shared: false })
    };
    (@share $divisor:literal shards) => {
        Some(MemoryShare { divisor: $divisor, is_shared: true })
    };
    (@type ticks) => { u32 };
    (@type $kind:ident) => { $kind };
    (@from ticks, $ms:expr) => { crate::clock::ticks($ms) };
    (@from $kind:ident, $number:expr) => { $number as $kind };
}

pub(super) use settings;
