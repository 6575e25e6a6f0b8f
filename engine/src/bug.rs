//! What is said where something is as it cannot be.

/// Something is as it cannot be: a debug build ends here, a release counts it in `bugs_total`, logs it and
/// goes on. Not for what a peer can bring about, and not where a thing may have gone meanwhile.
macro_rules! bug {
    ($cx:expr, $($text:tt)+) => {{
        $cx.metrics().bug(format_args!($($text)+));
        debug_assert!(false, $($text)+);
    }};
}

pub(crate) use bug;
