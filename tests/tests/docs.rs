//! What the documentation shows is what the server does: frames, answers, codes, the configuration,
//! metrics, tokens; and its links lead somewhere.

use std::collections::BTreeSet;
use std::path::Path;

use pushflo_engine::config::{Config, Overrides};
use pushflo_protocol::ErrorCode;
use pushflo_protocol::websocket::CloseCode;
use pushflo_tests::client::Subscriber;
use pushflo_tests::http::{HttpClient, call, get, post};
use pushflo_tests::pages::{Bindings, blocks, page, quoted, root, rows, shell_words};
use pushflo_tests::program::run;
use pushflo_tests::server::{MANAGE_KEY, PUBLISH_KEY, SECRET_KEY, TestServer, start};
use serde_json::{Value, json};
use tungstenite::Message;

const HTTP: &str = "docs/http-api.md";
const WEBSOCKET: &str = "docs/websocket-protocol.md";
const CONFIGURING: &str = "docs/configuring.md";
const OPERATING: &str = "docs/operating.md";
const TOKENS: &str = "docs/tokens.md";

/// A block of frames as it goes on, against a server of its own.
struct Conversation {
    // Gone before the server, which would wait for it.
    subscriber: Option<Subscriber>,
    server: TestServer,
    token: String,
    bindings: Bindings,
}

impl Conversation {
    fn line(&mut self, line: &str) {
        match line.split_once(' ') {
            Some(("#", direction)) => self.direct(direction),
            Some((">", "binary")) => self.send(Message::binary(vec![1])),
            Some((">", frame)) => {
                let frame = self.bindings.fill(frame).replace("TOKEN", &self.token);
                self.send(Message::text(frame));
            }
            Some(("<", frame)) => {
                let real = self.hear();
                self.bindings.check(frame, &real);
            }
            _ => panic!("what is {line:?}?"),
        }
    }

    /// What happens beside the frames.
    fn direct(&mut self, direction: &str) {
        let address = self.server.address;
        if direction == "the connection is lost" {
            self.subscriber = None;
        } else if direction == "the server drains" {
            self.server.drain();
        } else if let Some(request) = direction.strip_prefix("TOKEN is a token ") {
            self.token = self.issue(request);
        } else if let Some(shown) = direction.strip_prefix("connect with ") {
            let shown = match shown.strip_prefix("a token ") {
                Some(request) => self.issue(request),
                None => shown.replace("pub_", PUBLISH_KEY),
            };
            self.subscriber = Some(Subscriber::connect_with(address, &shown));
        } else {
            let parts: Vec<&str> = direction.splitn(3, ' ').collect();
            let [method, target, body] = parts[..] else { panic!("what is {direction:?}?") };
            let body: Value = serde_json::from_str(body).unwrap();
            let answer = call(address, method, target, Some(MANAGE_KEY), &body);
            assert!(answer.status < 300, "{direction}: {}", answer.text());
        }
    }

    fn issue(&self, request: &str) -> String {
        let answer = post(self.server.address, "/api/v1/auth/token", Some(SECRET_KEY), request);
        answer.json()["data"]["token"].as_str().unwrap().into()
    }

    fn send(&mut self, message: Message) {
        self.subscriber.as_mut().unwrap().socket.send(message).unwrap();
    }

    /// The next frame, as the page writes it.
    fn hear(&mut self) -> String {
        loop {
            match self.subscriber.as_mut().unwrap().socket.read().unwrap() {
                Message::Text(text) => return text.to_string(),
                Message::Close(Some(frame)) => {
                    return format!("close {} {}", u16::from(frame.code), frame.reason);
                }
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("unexpected {other:?}"),
            }
        }
    }
}

#[test]
fn frames_are_as_the_page_shows_them() {
    let page = page(WEBSOCKET);
    let found: Vec<_> = blocks(&page).into_iter().filter(|(kind, _)| kind == "frames").collect();
    assert!(found.len() > 8, "{} blocks of frames", found.len());
    for (_, block) in found {
        println!("{block}");
        let (server, bindings) = (start(2, ""), Bindings::default());
        let (subscriber, token) = (None, String::new());
        let mut conversation = Conversation { subscriber, server, token, bindings };
        block.lines().for_each(|line| conversation.line(line));
    }
}

/// Every command and event is shown once at least, or said to be one that is not sent.
#[test]
fn every_command_and_event_is_shown() {
    let text = page(WEBSOCKET);
    for kind in ["subscribe", "unsubscribe", "publish", "refresh", "ping"] {
        assert!(text.contains(&format!("> {{\"type\":\"{kind}\"")), "no command {kind} is shown");
    }
    for kind in [
        "connected",
        "subscribed",
        "unsubscribed",
        "message",
        "published",
        "presence",
        "token_expiring",
        "refreshed",
        "pong",
        "error",
    ] {
        assert!(text.contains(&format!("< {{\"type\":\"{kind}\"")), "no event {kind} is shown");
    }
}

#[test]
fn requests_are_answered_as_the_page_shows() {
    let server = start(2, "");
    let mut bindings = Bindings::default();
    let blocks = blocks(&page(HTTP));
    let variables = [("URL", ""), ("PUB", PUBLISH_KEY), ("SEC", SECRET_KEY), ("MGMT", MANAGE_KEY)];
    let mut shown = 0;
    for pair in blocks.windows(2) {
        let [(first, command), (second, answer)] = pair else { continue };
        if (first.as_str(), second.as_str()) != ("sh", "json") {
            continue;
        }
        shown += 1;
        println!("{command}");
        let mut words = shell_words(command, &variables).into_iter();
        assert_eq!(words.next().as_deref(), Some("curl"), "{command}");
        let (mut method, mut target, mut headers, mut body) = (None, None, String::new(), None);
        while let Some(word) = words.next() {
            match word.as_str() {
                "-X" => method = words.next(),
                "-H" => headers += &format!("{}\r\n", words.next().unwrap()),
                "-d" => body = words.next(),
                _ => target = Some(bindings.fill(&word)),
            }
        }
        let method = method.unwrap_or_else(|| if body.is_some() { "POST" } else { "GET" }.into());
        let (target, body) = (target.unwrap(), body.unwrap_or_default());
        let mut client = HttpClient::connect(server.address);
        client.send(
            format!(
                "{method} {target} HTTP/1.1\r\nHost: 127.0.0.1:7070\r\n{headers}Content-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        );
        bindings.check(answer.trim_end(), &client.answer().unwrap().text());
    }
    assert!(shown > 15, "{shown} examples");
}

#[test]
fn every_endpoint_is_told() {
    let server = start(1, "");
    let (text, api) = (page(HTTP), get(server.address, "/api/v1/openapi.json", None).json());
    for path in api["paths"].as_object().unwrap().keys() {
        let path = path.replace('{', ":").replace('}', "");
        assert!(text.contains(&path), "{path} is not told");
    }
}

#[test]
fn codes_are_those_there_are() {
    let number = |row: &Vec<String>| row[0].parse::<u16>().ok();
    let told: BTreeSet<u16> = rows(&page(WEBSOCKET)).iter().filter_map(number).collect();
    let all = [
        CloseCode::Normal,
        CloseCode::GoingAway,
        CloseCode::ProtocolError,
        CloseCode::Unsupported,
        CloseCode::InvalidData,
        CloseCode::TooBig,
        CloseCode::Unauthorized,
        CloseCode::Forbidden,
        CloseCode::TooSlow,
        CloseCode::OverQuota,
    ];
    assert_eq!(told, all.into_iter().map(CloseCode::value).collect());
    let status = |row: &Vec<String>| Some((number(row)?, row[1].trim_matches('`').to_owned()));
    let told: BTreeSet<_> = rows(&page(HTTP)).iter().filter_map(status).collect();
    let all = ErrorCode::ALL.map(|code| (code.status(), code.as_str().to_owned()));
    assert_eq!(told, all.into());
    let websocket = page(WEBSOCKET);
    for code in ErrorCode::ALL {
        assert!(websocket.contains(&format!("| `{}` |", code.as_str())), "{code:?} is not told");
    }
}

/// What `text` as a configuration file comes to.
fn load(text: &str) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pushflo.toml");
    std::fs::write(&file, text).unwrap();
    Config::load(Some(&file), Overrides::default()).map_err(|error| error.to_string())
}

fn setting(key: &str, value: impl std::fmt::Display) -> String {
    match key.split_once('.') {
        Some((section, key)) => format!("[{section}]\n{key} = {value}\n"),
        None => format!("{key} = {value}\n"),
    }
}

#[test]
fn defaults_and_ranges_are_those_of_the_server() {
    let number = |text: &str| text.trim().replace('_', "").parse::<i64>().ok();
    // `4_096, or memory / 262_144 / shards`: the lesser of both.
    let on = |default: &str, memory: i64, shards: i64| {
        let (default, share) = default.split_once(", or memory / ").unwrap_or((default, "1"));
        let (divisor, parts) = match share.split_once(" / shards") {
            Some((divisor, _)) => (divisor, shards),
            None => (share, 1),
        };
        number(default).unwrap().min(memory / number(divisor).unwrap() / parts)
    };
    let machines: [(i64, i64); 2] = [(1 << 50, 2), (256 << 20, 4)];
    let mut told = 0;
    for row in rows(&page(CONFIGURING)) {
        let [key, default, range, _] = &row[..] else { continue };
        let Some((least, most)) = range.split_once(" … ") else { continue };
        let (least, most) = (number(least).unwrap(), number(most).unwrap());
        let key = key.trim().trim_matches('`');
        for (memory, shards) in machines {
            let machine = format!("memory_bytes = {memory}\nshards = {shards}\n");
            let without = format!("{:?}", load(&machine).unwrap());
            let default = load(&(machine + &setting(key, on(default, memory, shards))));
            assert_eq!(format!("{:?}", default.unwrap()), without, "the default of {key}");
        }
        let beyond = if least > 0 { least - 1 } else { most + 1 };
        let error = load(&setting(key, beyond)).unwrap_err();
        assert!(error.contains(&format!("must be from {least} to {most}")), "{key}: {error}");
        told += 1;
    }
    assert!(told >= 30, "{told} keys are told with a range");
}

#[test]
fn every_key_of_the_configuration_is_told() {
    let text = page(CONFIGURING);
    let known = |section: &str| {
        let error = load(&format!("{section}\nnot_a_key = 1")).unwrap_err();
        let (_, known) = error.split_once("expected ").unwrap();
        quoted(known).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    for key in known("") {
        let is_told = [format!("`{key}`"), format!("`{key}."), format!("[{key}.")];
        assert!(is_told.iter().any(|told| text.contains(told)), "{key} is not told");
        if ["keys", "limits", "timeouts", "history", "presence", "proxy", "cluster"]
            .contains(&key.as_str())
        {
            for inner in known(&format!("[{key}]")) {
                assert!(text.contains(&format!("`{key}.{inner}`")), "{key}.{inner} is not told");
            }
        }
    }
    for key in known("[plans.pro]") {
        assert!(text.contains(&format!("\n{key} = ")), "{key} of a plan is not told");
    }
}

#[test]
fn metrics_are_those_there_are() {
    let server = start(1, "");
    let answer = get(server.address, "/metrics", Some(MANAGE_KEY)).text();
    let types = answer.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let all: BTreeSet<&str> = types.filter_map(|line| line.split(' ').next()).collect();
    let text = page(OPERATING);
    let words = quoted(&text).into_iter().flat_map(|code| {
        code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect::<Vec<_>>()
    });
    let told: BTreeSet<&str> = words.filter(|word| word.starts_with("pushflo_")).collect();
    assert_eq!(told, all);
}

#[test]
fn the_token_of_the_page_lets_its_client_in() {
    let server = start(1, "");
    let text = page(TOKENS);
    let token = blocks(&text).into_iter().find(|(kind, _)| kind == "token").unwrap().1;
    let mut subscriber = Subscriber::connect_with(server.address, token.trim_end());
    assert_eq!(subscriber.event()["clientId"], "ann");
    subscriber.subscribe("news-1");
    subscriber.send(json!({ "type": "subscribe", "channel": "other" }));
    assert_eq!(subscriber.event()["code"], "FORBIDDEN");
}

/// All pages of the repository that are written by hand, by their place in it.
fn pages() -> Vec<String> {
    let inside = |folder: &str| {
        let entries = std::fs::read_dir(root().join(folder)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let names = names.filter(|name| name.ends_with(".md"));
        names.map(|name| format!("{folder}/{name}")).collect::<Vec<_>>()
    };
    [inside("."), inside("docs"), inside("sdk/typescript")].concat()
}

#[test]
fn configurations_in_pages_are_good() {
    let mut seen = 0;
    for name in pages() {
        for (kind, text) in blocks(&page(&name)) {
            if kind == "toml" {
                load(&text).unwrap_or_else(|error| panic!("{name}: {error}\n{text}"));
                seen += 1;
            }
        }
    }
    assert!(seen >= 2, "{seen} configurations");
}

/// Commands in pages have the names and options that the program knows.
#[test]
fn commands_are_known() {
    let mut seen = 0;
    for name in pages() {
        let text = page(&name);
        let sh: String = blocks(&text).into_iter().filter(|b| b.0 == "sh").map(|b| b.1).collect();
        let sh = sh.replace("\\\n", " ");
        let lines = sh.lines().map(|line| line.split(" #").next().unwrap_or_default());
        for command in lines.chain(quoted(&text)) {
            let mut words = command.split_whitespace();
            if !words.next().is_some_and(|word| word == "pushflo" || word.ends_with("/pushflo")) {
                continue;
            }
            let is_name = |word: &&str| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
            let known = [
                "serve",
                "publish",
                "subscribe",
                "apps",
                "keys",
                "cluster",
                "directory",
                "check-config",
            ];
            let names: Vec<&str> = match words.clone().next() {
                Some(first @ ("apps" | "keys" | "cluster" | "directory")) => {
                    [first].into_iter().chain(words.clone().nth(1).filter(is_name)).collect()
                }
                first => first.filter(|first| known.contains(first)).into_iter().collect(),
            };
            let output = run(&[&names[..], &["--help"]].concat());
            assert!(output.status.success(), "{name}: {command}: {output:?}");
            let help = String::from_utf8(output.stdout).unwrap();
            for option in words.filter(|word| word.starts_with("--") && *word != "--help") {
                let option = option.split('=').next().unwrap_or_default();
                assert!(help.contains(&format!("{option} ")), "{name}: {command}: no {option}");
            }
            seen += 1;
        }
    }
    assert!(seen > 15, "{seen} commands");
}

#[test]
fn links_lead_somewhere() {
    for name in pages() {
        let text = page(&name);
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://")) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let folder = Path::new(&name).parent().unwrap();
            let path =
                if file.is_empty() { root().join(&name) } else { root().join(folder).join(file) };
            assert!(path.exists(), "{name}: there is no {target}");
            if !anchor.is_empty() {
                let text = std::fs::read_to_string(path).unwrap();
                assert!(headings(&text).contains(anchor), "{name}: there is no heading {target}");
            }
        }
    }
}

/// The anchors of a page's headings.
fn headings(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    lines.map(anchor).collect()
}
