//! The live page: messages of a channel as they come, in a browser, with nothing to install.

use super::reply::Reply;

/// The page. The key and the channel come from the address's fragment, which browsers never send.
pub(super) fn page() -> Reply {
    Reply {
        status: 200,
        content_type: Some("text/html; charset=utf-8"),
        body: include_bytes!("live.html").as_slice().into(),
        headers: vec![
            "Cache-Control: no-store".into(),
            "Referrer-Policy: no-referrer".into(),
            "X-Content-Type-Options: nosniff".into(),
            "Content-Security-Policy: default-src 'none'; script-src 'unsafe-inline'; \
             style-src 'unsafe-inline'; connect-src 'self' ws: wss:; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'"
                .into(),
        ],
    }
}
