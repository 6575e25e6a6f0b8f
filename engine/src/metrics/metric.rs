//! What a metric is, and the notation for one.

/// A metric: a number that is read of each source of a kind, of each shard for instance.
pub struct Metric<Source> {
    /// Its name, with the prefix that all have.
    pub name: &'static str,
    /// `gauge` or `counter`.
    pub kind: &'static str,
    /// What it tells: sentences, each line with a blank before it.
    pub help: &'static str,
    /// Tells its value now.
    pub read: fn(&Source) -> u64,
}

/// Declares metrics: an entry is its help as documentation, then `gauge` or `counter`, its name without
/// the prefix, and how it is read of its source.
///
/// As `struct`, the numbers are made too: the entries are its fields, each a
/// [`Number`](super::Number), and nothing needs to be said of how they are read.
macro_rules! metrics {
    (
        $(#[doc = $about:literal])+
        $visible:vis const $METRICS:ident of $Source:ty {
            $($(#[doc = $help:literal])+ $kind:ident $name:ident = $read:expr;)+
        }
    ) => {
        $(#[doc = $about])+
        $visible const $METRICS: &[$crate::metrics::Metric<$Source>] = &[$(
            $crate::metrics::Metric {
                name: concat!("pushflo_", stringify!($name)),
                kind: $crate::metrics::metrics!(@kind $kind),
                help: concat!($($help),+),
                read: $read,
            },
        )+];
    };
    (
        $(#[doc = $about:literal])+
        $visible:vis struct $Numbers:ident as $METRICS:ident {
            $($(#[doc = $help:literal])+ $kind:ident $field:ident;)+
        }
        $(with $(#[doc = $other_doc:literal])+ $other:ident: $Other:ty)?
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Default)]
        $visible struct $Numbers {
            $($(#[doc = $help])+ pub $field: $crate::metrics::Number,)+
            $($(#[doc = $other_doc])+ pub $other: $Other,)?
        }

        $crate::metrics::metrics! {
            /// What is told of each.
            $visible const $METRICS of $Numbers {
                $($(#[doc = $help])+ $kind $field = |numbers| numbers.$field.value();)+
            }
        }
    };
    (@kind gauge) => { "gauge" };
    (@kind counter) => { "counter" };
}

pub(crate) use metrics;
