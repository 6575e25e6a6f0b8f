//! Any bytes as what a proxy says of a connection: what is a header in one piece is one in every
//! split, with the same address, and more bytes behind it change nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pushflo_protocol::proxy::{Prefix, forwarded_for, read_prefix};

fuzz_target!(|bytes: &[u8]| {
    let whole = read_prefix(bytes);
    match whole {
        Prefix::Header { bytes: taken, .. } => {
            assert!(taken > 0 && taken <= bytes.len());
            assert_eq!(read_prefix(&bytes[..taken]), whole);
            for cut in 0..taken {
                assert_eq!(read_prefix(&bytes[..cut]), Prefix::More, "cut at {cut}");
            }
        }
        Prefix::More => {
            for cut in 0..bytes.len() {
                assert_eq!(read_prefix(&bytes[..cut]), Prefix::More, "cut at {cut}");
            }
        }
        Prefix::Invalid => {}
    }
    // Whoever is told to be the client is named in the header, and the first untrusted from behind.
    let values: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
    let trusted = |address: std::net::IpAddr| address.is_loopback();
    if let Some(client) = forwarded_for(values.iter().copied(), trusted) {
        assert!(!client.is_loopback() || forwarded_for(values.into_iter(), |_| false).is_some());
    }
});
