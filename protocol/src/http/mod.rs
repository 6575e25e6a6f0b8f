//! HTTP/1.1 (RFC 9112): requests read from bytes as they come, answers written to bytes.

mod request;
mod response;

pub use request::{Progress, Request, RequestReader, percent_decode};
pub use response::{CONTINUE, Response, date};
