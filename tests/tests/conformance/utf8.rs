//! Text that is and that is not UTF-8 (RFC 3629), after Markus Kuhn's stress test.

/// Texts that are UTF-8, and no JSON.
pub fn valid() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = ["κόσμε", "Hello-µ@ßöäüàá-UTF-8!!", "\u{feff}", "a\0b"]
        .iter()
        .map(|text| text.as_bytes().to_vec())
        .collect();
    // The first and last of each length, and the neighbours of the surrogates and of the end.
    for code in [
        0x00, 0x7f, 0x80, 0x7ff, 0x800, 0xd7ff, 0xe000, 0xfffd, 0xfffe, 0xffff, 0x1_0000, 0x1_fffe,
        0x1_ffff, 0xf_ffff, 0x10_0000, 0x10_fffe, 0x10_ffff,
    ] {
        all.push(char::from_u32(code).unwrap().to_string().into_bytes());
    }
    all
}

/// Bytes that are not.
pub fn invalid() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = [
        // Continuations of nothing.
        &b"\x80"[..],
        b"\xbf",
        b"\x80\xbf",
        b"\x80\xbf\x80",
        b"\x80\xbf\x80\xbf\x80\xbf",
        // Lone starts.
        b"\xc2 \xdf ",
        b"\xe0 \xef ",
        b"\xf0 \xf4 ",
        // Ends that are missing.
        b"\xce\xba\xe1\xbd",
        b"\xc3",
        b"\xe0\xa0",
        b"\xf0\x90\x80",
        b"\xef\xbf",
        b"\xf4\x8f\xbf",
        b"\xc3\xe0\xa0\xf0\x90\x80",
        // Bytes that never occur.
        b"\xfe",
        b"\xff",
        b"\xfe\xfe\xff\xff",
        b"\xf5\x80\x80\x80",
        b"\xf8\x88\x80\x80\x80",
        b"\xfb\xbf\xbf\xbf\xbf",
        b"\xfc\x84\x80\x80\x80\x80",
        b"\xfd\xbf\xbf\xbf\xbf\xbf",
        // Longer than need be.
        b"\xc0\xaf",
        b"\xc1\xbf",
        b"\xc0\x80",
        b"\xe0\x80\xaf",
        b"\xe0\x9f\xbf",
        b"\xe0\x80\x80",
        b"\xf0\x80\x80\xaf",
        b"\xf0\x8f\xbf\xbf",
        b"\xf0\x80\x80\x80",
        // Past the end of Unicode.
        b"\xf4\x90\x80\x80",
        b"\xf7\xbf\xbf\xbf",
        // Surrogates, alone and in pairs.
        b"\xed\xa0\x80",
        b"\xed\xad\xbf",
        b"\xed\xae\x80",
        b"\xed\xaf\xbf",
        b"\xed\xb0\x80",
        b"\xed\xbe\x80",
        b"\xed\xbf\xbf",
        b"\xed\xa0\x80\xed\xb0\x80",
        b"\xed\xaf\xbf\xed\xbf\xbf",
    ]
    .iter()
    .map(|bytes| bytes.to_vec())
    .collect();
    all.push(b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80edited".to_vec());
    all
}
