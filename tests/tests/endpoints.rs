//! Every endpoint with every kind of key, and with input of every wrong kind: what is refused says
//! why, and changes nothing.

use pushflo_tests::api::{Api, TestApp};
use pushflo_tests::http::Answer;
use pushflo_tests::server::{MANAGE_KEY, PUBLISH_KEY, SECRET_KEY, TestServer, start};
use serde_json::{Value, json};

/// Who may make a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Right {
    Anybody,
    Publish,
    Secret,
    Manage,
    /// A management key of the app `default`.
    Operator,
}

/// A kind of key: its name, the key, and what it may do; with no right at all it is not known.
struct Kind {
    name: &'static str,
    key: Option<String>,
    right: Option<Right>,
    /// A management key of its app.
    mgmt: String,
}

/// One call: what must be there first, and what is asked. `{n}` is a number of its own for each
/// call, `{made}` the id of what was made first.
struct Row {
    right: Right,
    first: Option<(&'static str, &'static str)>,
    call: (&'static str, &'static str, &'static str),
    /// The status where the key may make the call.
    status: u16,
}

fn row(right: Right, method: &'static str, target: &'static str, status: u16) -> Row {
    Row { right, first: None, call: (method, target, ""), status }
}

impl Row {
    fn body(mut self, body: &'static str) -> Self {
        self.call.2 = body;
        self
    }

    /// What is posted first, with a management key of the app.
    fn after(mut self, target: &'static str, body: &'static str) -> Self {
        self.first = Some((target, body));
        self
    }
}

const CHANNEL: (&str, &str) = ("/api/v1/channels", r#"{"name":"N","slug":"c-{n}"}"#);

fn rows() -> Vec<Row> {
    use Right::{Anybody, Manage, Operator, Publish, Secret};
    let (channels, channel) = CHANNEL;
    vec![
        row(Anybody, "GET", "/health", 200),
        row(Anybody, "HEAD", "/health", 200),
        row(Anybody, "GET", "/ready", 200),
        // No node of a cluster.
        row(Operator, "GET", "/api/v1/cluster", 404),
        row(Anybody, "GET", "/metrics", 200),
        row(Anybody, "GET", "/live", 200),
        row(Anybody, "GET", "/", 200),
        row(Anybody, "GET", "/api/v1/openapi.json", 200),
        row(Anybody, "GET", "/ws", 426),
        row(Anybody, "OPTIONS", "/api/v1/publish", 204),
        row(Publish, "POST", "/api/v1/auth/token", 200),
        row(Publish, "POST", "/api/v1/auth/token", 200).body(r#"{"channels":["c"]}"#),
        row(Secret, "POST", "/api/v1/auth/token", 200).body(r#"{"publish":["c"]}"#),
        row(Secret, "POST", "/api/v1/auth/token", 200).body(r#"{"data":{"name":"A"}}"#),
        row(Secret, "POST", "/api/v1/publish", 200).body(r#"{"channel":"c","data":1}"#),
        row(Secret, "POST", "/api/v1/publish/batch", 200).body(r#"[{"channel":"c","data":1}]"#),
        row(Secret, "POST", "/api/v1/channels/c/messages", 201).body(r#"{"content":1}"#),
        row(Secret, "GET", "/api/v1/channels/c/messages", 200),
        row(Secret, "GET", "/api/v1/channels", 200),
        row(Secret, "HEAD", "/api/v1/channels", 200),
        row(Secret, "GET", "/api/v1/channels/c-{n}", 200).after(channels, channel),
        row(Secret, "GET", "/api/v1/channels/c-{n}/presence", 200).after(channels, channel),
        row(Secret, "GET", "/api/v1/usage", 200),
        row(Manage, "POST", "/api/v1/channels", 201).body(channel),
        row(Manage, "PATCH", "/api/v1/channels/c-{n}", 200)
            .body(r#"{"name":"O"}"#)
            .after(channels, channel),
        row(Manage, "DELETE", "/api/v1/channels/c-{n}", 204).after(channels, channel),
        row(Manage, "GET", "/api/v1/apps/self", 200),
        row(Manage, "PATCH", "/api/v1/apps/self", 200).body(r#"{"name":"A{n}"}"#),
        row(Manage, "GET", "/api/v1/apps/self/keys", 200),
        row(Manage, "POST", "/api/v1/apps/self/keys", 201).body(r#"{"role":"mgmt"}"#),
        row(Manage, "DELETE", "/api/v1/apps/self/keys/{made}", 204)
            .after("/api/v1/apps/self/keys", r#"{"role":"secret"}"#),
        row(Operator, "PATCH", "/api/v1/apps/self", 200).body(r#"{"plan":"unlimited"}"#),
        row(Operator, "GET", "/api/v1/apps", 200),
        row(Operator, "POST", "/api/v1/apps", 201).body(r#"{"name":"A{n}"}"#),
        row(Operator, "DELETE", "/api/v1/apps/{made}", 204)
            .after("/api/v1/apps", r#"{"name":"A{n}"}"#),
    ]
}

fn server(shards: usize) -> TestServer {
    start(shards, "[limits]\nwrong_keys_per_second = 1000000")
}

/// A key of each role of an app that were revoked.
fn revoked_keys(api: &mut Api, app: &TestApp) -> [String; 3] {
    ["publish", "secret", "mgmt"].map(|role| {
        let keys = "/api/v1/apps/self/keys";
        let made = api.done(201, ("POST", keys), &app.mgmt, &json!({ "role": role }));
        let id = made["id"].as_str().unwrap();
        api.done(204, ("DELETE", &format!("{keys}/{id}")), &app.mgmt, &Value::Null);
        made["key"].as_str().unwrap().to_owned()
    })
}

fn kinds(api: &mut Api, other: &TestApp) -> Vec<Kind> {
    use Right::{Manage, Operator, Publish, Secret};
    let revoked = revoked_keys(api, other);
    let of_default = |name, key: Option<&str>, right| {
        let (key, mgmt) = (key.map(Into::into), MANAGE_KEY.to_owned());
        Kind { name, key, right, mgmt }
    };
    let of_other = |name, key: &str, right| {
        let (key, mgmt) = (Some(key.to_owned()), other.mgmt.clone());
        Kind { name, key, right, mgmt }
    };
    vec![
        of_default("none", None, None),
        of_default("unknown", Some("mgmt_9999999999999999999"), None),
        of_default("malformed", Some("mgmt 0123456789abcdef012"), None),
        of_default("another role's prefix", Some("mgmt_0123456789abcdef0123"), None),
        of_default("an id in place of a key", Some("key_0123456789abcdef"), None),
        of_default("publish", Some(PUBLISH_KEY), Some(Publish)),
        of_default("secret", Some(SECRET_KEY), Some(Secret)),
        of_default("mgmt", Some(MANAGE_KEY), Some(Operator)),
        of_other("another app's publish", &other.publish, Some(Publish)),
        of_other("another app's secret", &other.secret, Some(Secret)),
        of_other("another app's mgmt", &other.mgmt, Some(Manage)),
        of_other("a revoked publish", &revoked[0], None),
        of_other("a revoked secret", &revoked[1], None),
        of_other("a revoked mgmt", &revoked[2], None),
    ]
}

/// Asserts what every refusal has: a code that goes with the status, a sentence, the headers.
fn assert_refused(answer: &Answer, status: u16, what: &str) {
    assert_eq!(answer.status, status, "{what}: {}", answer.text());
    let code = match status {
        400 => "VALIDATION_ERROR",
        401 => "UNAUTHORIZED",
        403 => "FORBIDDEN",
        404 | 405 => "NOT_FOUND",
        409 => "CONFLICT",
        413 => "PAYLOAD_TOO_LARGE",
        other => panic!("{what}: {other} is not expected"),
    };
    assert_eq!(answer.header("www-authenticate").is_some(), status == 401, "{what}");
    assert_eq!(answer.header("allow").is_some(), status == 405, "{what}");
    // The answer to HEAD has the head alone.
    if !what.starts_with("HEAD") {
        let body = answer.json();
        assert_eq!((&body["success"], &body["code"]), (&json!(false), &json!(code)), "{what}");
        assert!(body["error"].as_str().is_some_and(|text| !text.is_empty()), "{what}: {body}");
    }
}

#[test]
fn every_endpoint_with_every_kind_of_key() {
    for shards in [1, 4] {
        let server = server(shards);
        let mut api = Api::connect(server.address);
        let other = api.create_app("other");
        let kinds = kinds(&mut api, &other);
        let mut n = 0;
        for Row { right, first, call: (method, target, body), status } in rows() {
            for kind in &kinds {
                n += 1;
                let fill = |text: &str, made: &str| {
                    text.replace("{n}", &n.to_string()).replace("{made}", made)
                };
                let mut made = String::new();
                if let Some((target, body)) = first {
                    // An app is made by whoever administers the server, the rest by its own app.
                    let maker = if right == Right::Operator { MANAGE_KEY } else { &kind.mgmt };
                    let body = serde_json::from_str(&fill(body, "")).unwrap();
                    let answer = api.done(201, ("POST", target), maker, &body);
                    made = answer["id"].as_str().unwrap().to_owned();
                }
                let (target, body) = (fill(target, &made), fill(body, &made));
                let what = format!("{method} {target} {body} with {}", kind.name);
                let before = [MANAGE_KEY, &other.mgmt].map(|key| api.snapshot(key));
                let answer = if method == "HEAD" {
                    head(&server, &target, kind.key.as_deref())
                } else {
                    api.call(method, &target, kind.key.as_deref(), &body)
                };
                let may = right == Right::Anybody || kind.right.is_some_and(|has| has >= right);
                if may {
                    assert_eq!(answer.status, status, "{what}: {}", answer.text());
                    continue;
                }
                let status = if kind.right.is_some() { 403 } else { 401 };
                assert_refused(&answer, status, &what);
                let after = [MANAGE_KEY, &other.mgmt].map(|key| api.snapshot(key));
                assert_eq!(after, before, "{what} was refused and changed something");
            }
        }
    }
}

/// What is described is tested here, and what is tested here is described.
#[test]
fn every_endpoint_is_described() {
    let server = server(1);
    let mut api = Api::connect(server.address);
    let document = api.call("GET", "/api/v1/openapi.json", None, "").json();
    let mut described = Vec::new();
    for (path, calls) in document["paths"].as_object().unwrap() {
        let methods = calls.as_object().unwrap().keys().filter(|key| *key != "parameters");
        described.extend(methods.map(|method| (method.to_uppercase(), path.clone())));
    }
    // Where they differ, the path has a parameter for a part of the target.
    let is_at = |path: &str, target: &str| {
        let (path, target) = (path.split('/'), target.split('/'));
        path.clone().count() == target.clone().count()
            && path.zip(target).all(|(part, given)| part == given || part.starts_with('{'))
    };
    let rows = rows();
    for Row { call: (method, target, _), .. } in &rows {
        let found = described.iter().any(|(m, path)| m == method && is_at(path, target));
        assert!(found || ["HEAD", "OPTIONS"].contains(method), "{method} {target}");
    }
    for (method, path) in &described {
        let found = rows.iter().any(|row| row.call.0 == method && is_at(path, row.call.1));
        assert!(found, "{method} {path} is described and not tested");
    }
}

/// HEAD has the length of a body and no body, so it takes a connection of its own.
fn head(server: &TestServer, target: &str, key: Option<&str>) -> Answer {
    use pushflo_tests::http::{HttpClient, request};
    let mut client = HttpClient::connect(server.address);
    let close = String::from_utf8(request("HEAD", target, key, "")).unwrap();
    client.send(close.replacen("\r\n", "\r\nConnection: close\r\n", 1).as_bytes());
    let rest = String::from_utf8(client.rest()).unwrap();
    let (head, body) = rest.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "", "HEAD {target} has a body");
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap().parse().unwrap();
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.into(), value.into())).collect();
    Answer { status, headers, body: Vec::new() }
}

/// Bodies that are wrong, by the call they are sent to. All of it names what is wrong in `error`.
fn bad_bodies() -> Vec<(&'static str, &'static str, String, u16, &'static str)> {
    let long = |n: usize| "x".repeat(n);
    let deep = format!("{}1{}", "[".repeat(128), "]".repeat(128));
    let mut all = Vec::new();
    let mut add = |method, target, cases: &[(String, u16, &'static str)]| {
        for (body, status, words) in cases {
            all.push((method, target, body.clone(), *status, *words));
        }
    };
    let case = |body: &str, words| (body.to_owned(), 400, words);
    for (method, target) in [
        ("POST", "/api/v1/publish"),
        ("POST", "/api/v1/publish/batch"),
        ("POST", "/api/v1/channels/c/messages"),
        ("POST", "/api/v1/channels"),
        ("PATCH", "/api/v1/channels/c"),
        ("POST", "/api/v1/apps"),
        ("PATCH", "/api/v1/apps/self"),
        ("POST", "/api/v1/apps/self/keys"),
        ("POST", "/api/v1/auth/token"),
    ] {
        let too_large = format!(r#"{{"x":"{}"}}"#, long(1024 * 1024));
        add(
            method,
            target,
            &[
                case("{", "body"),
                case("x", "body"),
                case("1", "body"),
                case("\"x\"", "body"),
                case("null", "body"),
                case("{} {}", "body"),
                case(r#"{"x":1,}"#, "body"),
                (too_large, 413, "larger than"),
            ],
        );
        if target != "/api/v1/publish/batch" {
            add(
                method,
                target,
                &[
                    case("[]", "an object"),
                    case(r#"["a","a","a",null,1,null]"#, "an object"),
                    case(r#"[{"channel":"c","data":1}]"#, "an object"),
                ],
            );
        }
        if target != "/api/v1/auth/token" {
            add(method, target, &[case("", "empty"), case(" \n", "empty")]);
        }
    }
    add("POST", "/api/v1/publish/batch", &[case("[]", "no messages"), case("[1,]", "body")]);
    add(
        "POST",
        "/api/v1/publish",
        &[
            case(r#"{"channel":"c","channel":"c","data":1}"#, "duplicate"),
            case(r#"{"channel":"c","data":1,"data":1}"#, "duplicate"),
            case(r#"{"channel":{},"data":1}"#, "expected"),
            (format!(r#"{{"channel":"c","data":[{deep}]}}"#), 400, "nested"),
            (format!(r#"{{"channel":"c","data":1,"id":"{}"}}"#, long(129)), 400, "visible"),
            (format!(r#"{{"channel":"c","data":"{}"}}"#, long(32 * 1024)), 413, "32768"),
        ],
    );
    let channel = |fields: &str| format!(r#"{{"name":"N","slug":"new",{fields}}}"#);
    add(
        "POST",
        "/api/v1/channels",
        &[
            case(r#"{"name":"N"}"#, "slug is required"),
            case(r#"{"slug":"new"}"#, "name is required"),
            case(r#"{"name":null,"slug":"new"}"#, "name is required"),
            case(r#"{"name":"N","slug":""}"#, "must not be empty"),
            case(r#"{"name":"N","slug":"a/b"}"#, "'/'"),
            case(r#"{"name":"N","slug":"a\u0000"}"#, "position 1"),
            case(r#"{"name":"N","slug":7}"#, "expected"),
            case(r#"{"name":"N","slug":"new","slug":"new"}"#, "duplicate"),
            (format!(r#"{{"name":"N","slug":"{}"}}"#, long(129)), 400, "128"),
        ],
    );
    for (method, target, with) in [
        ("POST", "/api/v1/channels", channel("?")),
        ("PATCH", "/api/v1/channels/c", "{?}".to_owned()),
    ] {
        let with = |fields: &str| with.replace('?', fields);
        add(
            method,
            target,
            &[
                case(&with(r#""description":7"#), "expected"),
                case(&with(r#""isPrivate":"yes""#), "expected"),
                case(&with(r#""isPrivate":1"#), "expected"),
                case(&with(r#""presence":[]"#), "expected"),
                case(&with(r#""presence":true,"presence":true"#), "duplicate"),
                case(&with(r#""metadata":[]"#), "an object or null"),
                case(&with(r#""metadata":"x""#), "an object or null"),
                case(&with(&format!(r#""metadata":{{"a":{deep}}}"#)), "nested"),
                case(&with(&format!(r#""metadata":{{"a":"{}"}}"#, long(8 * 1024))), "8192"),
                case(&with(&format!(r#""description":"{}""#, long(1025))), "1024"),
            ],
        );
    }
    for (method, target) in [("PATCH", "/api/v1/channels/c"), ("PATCH", "/api/v1/apps/self")] {
        add(
            method,
            target,
            &[
                case(r#"{"name":""}"#, "128"),
                case(r#"{"name":7}"#, "expected"),
                case(r#"{"name":"a","name":"b"}"#, "duplicate"),
                (format!(r#"{{"name":"{}"}}"#, long(129)), 400, "128"),
            ],
        );
    }
    for (method, target, name) in
        [("POST", "/api/v1/apps", r#""name":"A","#), ("PATCH", "/api/v1/apps/self", "")]
    {
        let with = |fields: &str| format!("{{{name}{fields}}}");
        let origins = |list: &str| with(&format!(r#""settings":{{"allowedOrigins":{list}}}"#));
        let many = serde_json::to_string(&vec!["https://a.example"; 101]).unwrap();
        add(
            method,
            target,
            &[
                case(&with(r#""plan":"gold""#), "free, starter, unlimited"),
                case(&with(r#""plan":1"#), "expected"),
                case(&with(r#""settings":[null,true,true]"#), "an object"),
                case(&with(r#""settings":{"requireChannels":"no"}"#), "expected"),
                case(
                    &with(r#""settings":{"clientPublish":true,"clientPublish":true}"#),
                    "duplicate",
                ),
                case(&origins("[7]"), "expected"),
                case(&origins(r#""https://a.example""#), "expected"),
                case(&origins(r#"["a.example"]"#), "allowedOrigins"),
                case(&origins(r#"["https://a.example/path"]"#), "allowedOrigins"),
                case(&origins(r#"["://a.example"]"#), "allowedOrigins"),
                case(&origins(r#"["*","https://a.example"]"#), "allowedOrigins"),
                case(&origins(r#"["https://*.example"]"#), "allowedOrigins"),
                case(&origins(r#"["https:// a.example"]"#), "allowedOrigins"),
                case(&origins(r#"["https://"]"#), "allowedOrigins"),
                case(&origins(&many), "100"),
            ],
        );
    }
    add("POST", "/api/v1/apps", &[case("{}", "name is required")]);
    add(
        "POST",
        "/api/v1/apps/self/keys",
        &[
            case("{}", "publish, secret or mgmt"),
            case(r#"{"role":null}"#, "publish, secret or mgmt"),
            case(r#"{"role":"admin"}"#, "publish, secret or mgmt"),
            case(r#"{"role":"Secret"}"#, "publish, secret or mgmt"),
            case(r#"{"role":1}"#, "expected"),
            case(r#"{"role":{"secret":null}}"#, "expected"),
            case(r#"{"role":"secret","role":"mgmt"}"#, "duplicate"),
            case(r#"{"role":"secret","name":""}"#, "128"),
            (format!(r#"{{"role":"secret","name":"{}"}}"#, long(129)), 400, "128"),
        ],
    );
    let many = serde_json::to_string(&vec!["a"; 101]).unwrap();
    add(
        "POST",
        "/api/v1/auth/token",
        &[
            case(r#"{"ttl":0}"#, "86400"),
            case(r#"{"ttl":86401}"#, "86400"),
            case(r#"{"ttl":18446744073709551615}"#, "86400"),
            case(r#"{"ttl":-1}"#, "whole number"),
            case(r#"{"ttl":1.5}"#, "whole number"),
            case(r#"{"ttl":"60"}"#, "whole number"),
            case(r#"{"ttl":60,"ttl":61}"#, "duplicate"),
            case(r#"{"clientId":""}"#, "128"),
            case(r#"{"clientId":7}"#, "expected"),
            case(r#"{"channels":"a"}"#, "expected"),
            case(r#"{"channels":[7]}"#, "expected"),
            case(r#"{"channels":[""]}"#, "empty"),
            case(r#"{"channels":["a*b"]}"#, "'*'"),
            case(r#"{"publish":["**"]}"#, "'*'"),
            (format!(r#"{{"channels":{many}}}"#), 400, "100"),
            (format!(r#"{{"clientId":"{}"}}"#, long(129)), 400, "128"),
            (format!(r#"{{"data":"{}"}}"#, long(1023)), 400, "1024"),
            (format!(r#"{{"data":[{deep}]}}"#), 400, "nested"),
        ],
    );
    all
}

#[test]
fn bad_input_is_refused_and_changes_nothing() {
    for shards in [1, 4] {
        let server = server(shards);
        let mut api = Api::connect(server.address);
        let publish = json!({ "channel": "c", "data": 1 });
        api.done(200, ("POST", "/api/v1/publish"), SECRET_KEY, &publish);
        let before = api.snapshot(MANAGE_KEY);
        for (method, target, body, status, words) in bad_bodies() {
            let what = format!("{method} {target} {body:.120}");
            let answer = api.call(method, target, Some(MANAGE_KEY), &body);
            assert_refused(&answer, status, &what);
            let text = answer.json()["error"].as_str().unwrap().to_owned();
            assert!(text.contains(words), "{what}: {text:?} does not say {words:?}");
        }
        let key = "/api/v1/apps/self/keys";
        for (method, target, body, status) in [
            ("GET", "/api/v1/channels/none", "", 404),
            ("PATCH", "/api/v1/channels/none", "{}", 404),
            ("DELETE", "/api/v1/channels/none", "", 404),
            ("GET", "/api/v1/channels/none/presence", "", 404),
            ("GET", "/api/v1/channels/a%20b", "", 400),
            ("PATCH", "/api/v1/channels/a%2Fb", "{}", 400),
            ("DELETE", "/api/v1/channels/%00", "", 400),
            ("GET", "/api/v1/channels/%ff", "", 400),
            ("GET", "/api/v1/channels/%/messages", "", 400),
            ("GET", &format!("/api/v1/channels/{}", "x".repeat(129)), "", 400),
            ("GET", "/api/v1/channels//messages", "", 400),
            ("GET", "/api/v1/channels/c/nothing", "", 404),
            ("GET", "/api/v1/channels/c/messages/1", "", 404),
            ("GET", "/api/v1/apps/app_0", "", 404),
            ("GET", "/api/v1/apps/app_00", "", 404),
            ("GET", "/api/v1/apps/app_9999", "", 404),
            ("GET", "/api/v1/apps/app_4294967296", "", 404),
            ("GET", "/api/v1/apps/Default", "", 404),
            ("GET", "/api/v1/apps/", "", 404),
            ("PATCH", "/api/v1/apps/app_9999", "{}", 404),
            ("DELETE", "/api/v1/apps/app_9999", "", 404),
            ("DELETE", "/api/v1/apps/default", "", 403),
            ("DELETE", "/api/v1/apps/self", "", 403),
            ("GET", "/api/v1/apps/app_9999/keys", "", 404),
            ("POST", "/api/v1/apps/app_9999/keys", r#"{"role":"mgmt"}"#, 404),
            ("DELETE", &format!("{key}/key_0123456789abcdef"), "", 404),
            ("DELETE", &format!("{key}/key_0123456789ABCDEF"), "", 404),
            ("DELETE", &format!("{key}/key_"), "", 404),
            ("DELETE", &format!("{key}/"), "", 404),
            ("DELETE", &format!("{key}/{MANAGE_KEY}"), "", 404),
        ] {
            let answer = api.call(method, target, Some(MANAGE_KEY), body);
            assert_refused(&answer, status, &format!("{method} {target:.80}"));
        }
        assert_eq!(api.snapshot(MANAGE_KEY), before);
    }
}

#[test]
fn every_other_method_is_told_which_there_are() {
    let server = server(1);
    let mut api = Api::connect(server.address);
    let before = api.snapshot(MANAGE_KEY);
    for (target, allowed) in [
        ("/health", "GET, HEAD, OPTIONS"),
        ("/ws", "GET, HEAD, OPTIONS"),
        ("/api/v1/publish", "POST, OPTIONS"),
        ("/api/v1/publish/batch", "POST, OPTIONS"),
        ("/api/v1/auth/token", "POST, OPTIONS"),
        ("/api/v1/usage", "GET, HEAD, OPTIONS"),
        ("/api/v1/channels", "GET, HEAD, POST, OPTIONS"),
        ("/api/v1/channels/c", "GET, HEAD, PATCH, DELETE, OPTIONS"),
        ("/api/v1/channels/c/messages", "GET, HEAD, POST, OPTIONS"),
        ("/api/v1/channels/c/presence", "GET, HEAD, OPTIONS"),
        ("/api/v1/apps", "GET, HEAD, POST, OPTIONS"),
        ("/api/v1/apps/self", "GET, HEAD, PATCH, DELETE, OPTIONS"),
        ("/api/v1/apps/self/keys", "GET, HEAD, POST, OPTIONS"),
        ("/api/v1/apps/self/keys/key_0123456789abcdef", "DELETE, OPTIONS"),
    ] {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "get", "BREW"] {
            if !allowed.split(", ").any(|one| one == method) {
                let answer = api.call(method, target, Some(MANAGE_KEY), "{}");
                assert_refused(&answer, 405, &format!("{method} {target}"));
                assert_eq!(answer.header("allow"), Some(allowed), "{method} {target}");
            }
        }
    }
    assert_eq!(api.snapshot(MANAGE_KEY), before);
}

/// Fields that are not known are for newer servers; `null` is as good as nothing.
#[test]
fn unknown_fields_and_nulls_are_ignored() {
    let server = server(4);
    let mut api = Api::connect(server.address);
    let x = json!({ "deep": [1, { "er": null }] });
    for (method, target, body, status) in [
        (
            "POST",
            "/api/v1/publish",
            json!({ "channel": "c", "data": 1, "x": x, "event": null, "clientId": null, "id": null }),
            200,
        ),
        (
            "POST",
            "/api/v1/publish/batch",
            json!([{ "channel": "c", "data": 1, "x": x, "channels": null, "event": null }]),
            200,
        ),
        (
            "POST",
            "/api/v1/channels/c/messages",
            json!({ "content": null, "x": x, "eventType": null }),
            201,
        ),
        (
            "POST",
            "/api/v1/channels",
            json!({ "name": "N", "slug": "d", "x": x, "description": null, "isPrivate": null,
                "presence": null, "metadata": null }),
            201,
        ),
        ("PATCH", "/api/v1/channels/d", json!({ "x": x, "name": null, "isPrivate": null }), 200),
        (
            "POST",
            "/api/v1/apps",
            json!({ "name": "A", "x": x, "plan": null, "settings": { "x": x, "allowedOrigins": null } }),
            201,
        ),
        ("PATCH", "/api/v1/apps/self", json!({ "x": x, "name": null, "settings": null }), 200),
        ("POST", "/api/v1/apps/self/keys", json!({ "role": "secret", "name": null, "x": x }), 201),
        (
            "POST",
            "/api/v1/auth/token",
            json!({ "x": x, "clientId": null, "channels": null, "publish": null, "data": null,
                "ttl": null }),
            200,
        ),
    ] {
        api.done(status, (method, target), MANAGE_KEY, &body);
    }
    let channel = api.done(200, ("GET", "/api/v1/channels/d"), SECRET_KEY, &Value::Null);
    assert_eq!((&channel["name"], &channel["isPrivate"]), (&json!("N"), &json!(false)));
    // A duplicate of what is not known is not looked at.
    let twice = r#"{"channel":"c","data":{"a":1,"a":2},"x":1,"x":2}"#;
    assert_eq!(api.call("POST", "/api/v1/publish", Some(SECRET_KEY), twice).status, 200);
}
