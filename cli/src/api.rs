//! Calls to a running server's HTTP API.

use std::error::Error;
use std::io;
use std::time::Duration;

use serde_json::Value;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use super::connect::named_authorities;

/// A server and a key to it.
pub(super) struct Api<'a> {
    pub(super) url: &'a str,
    pub(super) key: &'a str,
}

impl Api<'_> {
    /// Makes one call and returns the whole answer; `null` where it has no body.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses; the text says which and why.
    pub(super) fn call(
        &self,
        method: &str,
        path: &str,
        body: Option<String>,
    ) -> Result<Value, Box<dyn Error>> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(30)))
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .tls_config(TlsConfig::builder().root_certs(authorities()?).build())
            .build()
            .into();
        let url = format!("{}{path}", self.url.trim_end_matches('/'));
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(&url)
            .header("Authorization", format!("Bearer {}", self.key))
            .header("Content-Type", "application/json")
            .body(body.unwrap_or_default())?;
        let answer = agent.run(request);
        let mut answer = answer.map_err(|error| format!("cannot reach {url}: {error}"))?;
        let status = answer.status();
        let text = answer.body_mut().read_to_string()?;
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        if !status.is_success() {
            let reason = value.get("error").and_then(Value::as_str);
            return Err(format!("refused with {status}: {}", reason.unwrap_or("no reason")).into());
        }
        Ok(value)
    }

    /// All entries of a call that answers in pages.
    ///
    /// # Errors
    /// As for [`Api::call`].
    pub(super) fn all(&self, path: &str) -> Result<Vec<Value>, Box<dyn Error>> {
        let mut all = Vec::new();
        for page in 1.. {
            let answer = self.call("GET", &format!("{path}?page={page}&pageSize=100"), None)?;
            let data = data(&answer).as_array().cloned().unwrap_or_default();
            let pages = answer.pointer("/pagination/totalPages").and_then(Value::as_u64);
            all.extend(data);
            if page >= pages.unwrap_or(1) {
                break;
            }
        }
        Ok(all)
    }
}

fn authorities() -> io::Result<RootCerts> {
    Ok(named_authorities()?.map_or(RootCerts::WebPki, |named| {
        named.iter().map(|der| Certificate::from_der(der).to_owned()).into()
    }))
}

/// What a call answered with; `null` where that is nothing.
pub(super) fn data(answer: &Value) -> &Value {
    answer.get("data").unwrap_or(&Value::Null)
}

/// A field's text.
pub(super) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or("")
}
