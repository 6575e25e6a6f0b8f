//! Any request as a handshake: what is accepted has everything RFC 6455 section 4.2.1 asks for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pushflo_protocol::http::{Progress, RequestReader};
use pushflo_protocol::websocket::accept;

fuzz_target!(|fields: &str| {
    let head = format!("GET /ws?token=k HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n");
    let mut reader = RequestReader::default();
    let Ok(Progress::Request(request, _)) = reader.read(head.as_bytes(), |_, _| Ok(1024)) else { return };
    match accept(&request) {
        Ok(value) => {
            assert_eq!(value.len(), 28, "20 bytes in base64");
            let lines: Vec<String> = fields.to_lowercase().lines().map(str::to_owned).collect();
            let has = |name: &str, token: &str| {
                lines.iter().any(|line| line.starts_with(name) && line.contains(token))
            };
            assert!(has("upgrade:", "websocket") && has("connection:", "upgrade"));
            assert!(has("sec-websocket-version:", "13"));
            let key = request.header("sec-websocket-key").expect("a key");
            assert!(key.len() == 24 && key.ends_with(b"=="));
        }
        Err(refusal) => {
            assert!(!refusal.message.is_empty());
            assert!(matches!(refusal.code.status(), 400 | 426));
        }
    }
});
