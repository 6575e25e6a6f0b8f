//! The HTTP API as a caller sees it, over one connection that is made anew where the server ended it.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::http::{Answer, HttpClient, request};
use crate::server::MANAGE_KEY;

/// A caller.
pub struct Api {
    address: SocketAddr,
    client: HttpClient,
}

/// An app with a key of each role.
#[derive(Clone, Debug)]
pub struct TestApp {
    pub id: String,
    pub publish: String,
    pub secret: String,
    pub mgmt: String,
}

impl Api {
    pub fn connect(address: SocketAddr) -> Self {
        Self { address, client: HttpClient::connect(address) }
    }

    /// Where it calls.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn call(&mut self, method: &str, target: &str, key: Option<&str>, body: &str) -> Answer {
        self.client.send(&request(method, target, key, body));
        let answer = self.client.answer();
        let answer = answer.unwrap_or_else(|| panic!("no answer to {method} {target} {body:.200}"));
        if answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            self.client = HttpClient::connect(self.address);
        }
        answer
    }

    /// A call that must be answered with `status`; the field `data` of the answer, or `null`.
    pub fn done(&mut self, status: u16, call: (&str, &str), key: &str, body: &Value) -> Value {
        let (method, target) = call;
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.call(method, target, Some(key), &body);
        assert_eq!(answer.status, status, "{method} {target} {body}: {}", answer.text());
        if answer.body.is_empty() { Value::Null } else { answer.json()["data"].clone() }
    }

    /// A new app, made by the operator.
    pub fn create_app(&mut self, name: &str) -> TestApp {
        let app = self.done(201, ("POST", "/api/v1/apps"), MANAGE_KEY, &json!({ "name": name }));
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let key = |role: &str| {
            let keys = app["keys"].as_array().unwrap();
            text(&keys.iter().find(|key| key["role"] == role).unwrap()["key"])
        };
        TestApp {
            id: text(&app["id"]),
            publish: key("publish"),
            secret: key("secret"),
            mgmt: key("mgmt"),
        }
    }

    /// All that a caller with an `mgmt_` key can see change: the app, its channels with their
    /// messages' number, its keys; for the operator all apps.
    pub fn snapshot(&mut self, mgmt: &str) -> Vec<String> {
        let targets = [
            "/api/v1/apps?pageSize=100",
            "/api/v1/apps/self",
            "/api/v1/apps/self/keys",
            "/api/v1/channels?pageSize=100",
        ];
        targets.map(|target| self.call("GET", target, Some(mgmt), "").text()).into()
    }
}
