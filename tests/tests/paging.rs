//! Lists: pages cover everything once, and no page is too far. Slugs: one channel each.

use pushflo_tests::api::Api;
use pushflo_tests::client::Subscriber;
use pushflo_tests::http::{HttpClient, request};
use pushflo_tests::server::{MANAGE_KEY, SECRET_KEY, start};
use serde_json::{Value, json};

const CHANNELS: &str = "/api/v1/channels";

/// The last page that may be asked for.
const PAGE_MAX: u64 = (1 << 53) - 1;

/// A page of a list: its entries and its `pagination`.
fn page(api: &mut Api, target: &str) -> (Vec<Value>, Value) {
    let answer = api.call("GET", target, Some(MANAGE_KEY), "");
    assert_eq!(answer.status, 200, "{target}: {}", answer.text());
    let json = answer.json();
    let list = [&json["data"], &json["data"]["items"], &json["data"]["members"]];
    let list = list.into_iter().find_map(Value::as_array).unwrap().clone();
    let pagination = [&json["pagination"], &json["data"]["pagination"]];
    (list, pagination.into_iter().find(|end| end.is_object()).unwrap().clone())
}

#[test]
fn pages_cover_every_list_once_in_order() {
    for shards in [1, 4] {
        let server = start(shards, "");
        let mut api = Api::connect(server.address);
        let presence = json!({ "name": "N", "slug": "c-00", "presence": true });
        api.done(201, ("POST", CHANNELS), MANAGE_KEY, &presence);
        for n in 0..23 {
            let publish = json!({ "channel": format!("c-{n:02}"), "data": n });
            api.done(200, ("POST", "/api/v1/publish"), SECRET_KEY, &publish);
            let publish = json!({ "channel": "c-mm", "data": n });
            api.done(200, ("POST", "/api/v1/publish"), SECRET_KEY, &publish);
            if n > 0 {
                api.create_app(&format!("a-{n:02}"));
            }
        }
        let mut members: Vec<_> = (0..23).map(|_| Subscriber::connect(server.address)).collect();
        for member in &mut members {
            member.subscribe("c-00");
        }
        api.done(200, ("PATCH", "/api/v1/apps/self"), MANAGE_KEY, &json!({ "name": "a-00" }));
        // A list, what its entries are told apart by, and how many there are.
        for (list, by, total) in [
            ("/api/v1/channels", "slug", 24_u64),
            ("/api/v1/apps", "name", 23),
            ("/api/v1/channels/c-mm/messages", "offset", 23),
            ("/api/v1/channels/c-00/presence", "clientId", 23),
        ] {
            for size in [1, 7, 23, 100] {
                let pages = total.div_ceil(size);
                let mut seen = Vec::new();
                for number in 1..=pages {
                    let (entries, end) =
                        page(&mut api, &format!("{list}?page={number}&pageSize={size}"));
                    let mut expected = json!({
                        "page": number, "pageSize": size, "total": total, "totalPages": pages,
                    });
                    // Where a list that goes by name goes on.
                    if by == "slug" && number < pages {
                        expected["next"] = entries.last().unwrap()[by].clone();
                    }
                    assert_eq!(end, expected, "{list}");
                    assert!(entries.len() as u64 == size || number == pages, "{list} {size}");
                    seen.extend(entries.iter().map(|entry| entry[by].to_string()));
                }
                // Names here have one width, numbers do not; messages stand newest first.
                let key = |text: &String| format!("{text:>40}");
                let mut sorted = seen.clone();
                sorted.sort_by_key(key);
                sorted.dedup();
                if by == "offset" {
                    sorted.reverse();
                }
                assert_eq!(sorted.len() as u64, total, "{list} by {size}: {seen:?}");
                if by != "clientId" {
                    assert_eq!(seen, sorted, "{list} by {size} is not in order");
                }
            }
            for far in [total + 1, 1 << 32, PAGE_MAX] {
                for size in [1, 100] {
                    let (entries, end) =
                        page(&mut api, &format!("{list}?page={far}&pageSize={size}"));
                    assert_eq!((entries.len(), &end["total"]), (0, &json!(total)), "{list} {far}");
                }
            }
        }
    }
}

#[test]
fn a_list_goes_on_behind_a_name() {
    for shards in [1, 4] {
        let server = start(shards, "");
        let mut api = Api::connect(server.address);
        let publish = |api: &mut Api, channel: &str| {
            let publish = json!({ "channel": channel, "data": 1 });
            api.done(200, ("POST", "/api/v1/publish"), SECRET_KEY, &publish);
        };
        for n in 0..25 {
            publish(&mut api, &format!("c-{n:02}"));
        }
        let (mut seen, mut target) = (Vec::new(), format!("{CHANNELS}?pageSize=10"));
        loop {
            let (entries, end) = page(&mut api, &target);
            seen.extend(entries.iter().map(|entry| entry["slug"].as_str().unwrap().to_owned()));
            // Channels that come meanwhile move nothing.
            publish(&mut api, "a");
            let Some(next) = end["next"].as_str() else { break };
            target = format!("{CHANNELS}?pageSize=10&after={next}");
        }
        assert_eq!(seen, (0..25).map(|n| format!("c-{n:02}")).collect::<Vec<_>>());
        let (entries, end) = page(&mut api, &format!("{CHANNELS}?after=c-23a"));
        assert_eq!((entries.len(), &end["total"], &end["next"]), (1, &json!(26), &Value::Null));
        assert!(page(&mut api, &format!("{CHANNELS}?after=zz")).0.is_empty());
        for bad in ["after=A%20b", "after="] {
            let answer = api.call("GET", &format!("{CHANNELS}?{bad}"), Some(SECRET_KEY), "");
            assert_eq!(answer.status, 400, "{bad}: {}", answer.text());
        }
    }
}

#[test]
fn pages_that_are_none_are_refused() {
    let server = start(4, "");
    let mut api = Api::connect(server.address);
    let publish = json!({ "channel": "c", "data": 1 });
    api.done(200, ("POST", "/api/v1/publish"), SECRET_KEY, &publish);
    for (list, size_max) in [
        ("/api/v1/channels", 100),
        ("/api/v1/apps", 100),
        ("/api/v1/channels/c/messages", 100),
        ("/api/v1/channels/c/presence", 1000),
    ] {
        page(&mut api, &format!("{list}?pageSize={size_max}"));
        page(&mut api, &format!("{list}?page=1&pageSize=1&other=x"));
        let over = [size_max + 1, PAGE_MAX, PAGE_MAX + 1];
        let mut bad: Vec<_> = over.iter().map(|size| format!("pageSize={size}")).collect();
        bad.push(format!("page={}", PAGE_MAX + 1));
        for value in ["", "0", "-1", "1.0", "1e1", "0x1", "x", "%2B1", "1%20", "%00", "\u{663}"] {
            bad.extend([format!("page={value}"), format!("pageSize={value}")]);
        }
        for query in bad {
            let answer = api.call("GET", &format!("{list}?{query}"), Some(MANAGE_KEY), "");
            assert_eq!(answer.status, 400, "{list}?{query}: {}", answer.text());
            let field = query.split('=').next().unwrap();
            assert!(answer.json()["details"][field].is_array(), "{query}: {}", answer.text());
        }
    }
}

#[test]
fn a_slug_is_one_channel() {
    for shards in [1, 4] {
        let server = start(shards, "");
        let mut api = Api::connect(server.address);
        let mut create = |status, slug: &str, name: &str| {
            let body = json!({ "slug": slug, "name": name });
            api.done(status, ("POST", CHANNELS), MANAGE_KEY, &body)
        };
        create(201, "c", "first");
        create(409, "c", "second");
        // Large and small letters are different ones.
        create(201, "C", "large");
        let named = |api: &mut Api, target: &str| {
            api.done(200, ("GET", target), SECRET_KEY, &Value::Null)["name"].clone()
        };
        assert_eq!(named(&mut api, "/api/v1/channels/c"), "first");
        assert_eq!(named(&mut api, "/api/v1/channels/%63"), "first");
        assert_eq!(named(&mut api, "/api/v1/channels/C"), "large");
        // Words of the API's own addresses are slugs like any other.
        for slug in ["messages", "presence", "self", "...", ".c"] {
            let body = json!({ "slug": slug, "name": slug });
            api.done(201, ("POST", CHANNELS), MANAGE_KEY, &body);
            let target = format!("/api/v1/channels/{slug}");
            assert_eq!(named(&mut api, &target), slug);
            let target = format!("{target}/messages");
            api.done(201, ("POST", &target), SECRET_KEY, &json!({ "content": 1 }));
        }
        // Clients take these out of an address, so that nobody could read them.
        for slug in [".", ".."] {
            let body = json!({ "slug": slug, "name": slug });
            api.done(400, ("POST", CHANNELS), MANAGE_KEY, &body);
            let publish = json!({ "channel": slug, "data": 1 });
            api.done(400, ("POST", "/api/v1/publish"), SECRET_KEY, &publish);
        }
        // One that exists by use is given its name and keeps its messages.
        let publish = json!({ "channel": "used", "data": 1 });
        let used = api.done(200, ("POST", "/api/v1/publish"), SECRET_KEY, &publish);
        let body = json!({ "slug": "used", "name": "Used" });
        let channel = api.done(201, ("POST", CHANNELS), MANAGE_KEY, &body);
        assert_eq!((&channel["messageCount"], &channel["name"]), (&json!(1), &json!("Used")));
        api.done(409, ("POST", CHANNELS), MANAGE_KEY, &body);
        // Deleted and made again it is another log.
        let target = "/api/v1/channels/used";
        api.done(204, ("DELETE", target), MANAGE_KEY, &Value::Null);
        api.done(404, ("GET", target), SECRET_KEY, &Value::Null);
        let channel = api.done(201, ("POST", CHANNELS), MANAGE_KEY, &body);
        assert_eq!(channel["messageCount"], 0);
        let again = api.done(200, ("POST", "/api/v1/publish"), SECRET_KEY, &publish);
        assert_eq!(again["offset"], 1);
        assert_ne!(again["epoch"], used["epoch"]);
    }
}

/// Of many who want a slug at the same time, one gets it.
#[test]
fn one_of_many_creates_a_channel() {
    let server = start(4, "");
    let mut clients: Vec<_> = (0..20).map(|_| HttpClient::connect(server.address)).collect();
    for round in 0..20 {
        for (n, client) in clients.iter_mut().enumerate() {
            let body = json!({ "slug": format!("c-{round}"), "name": n.to_string() }).to_string();
            client.send(&request("POST", CHANNELS, Some(MANAGE_KEY), &body));
        }
        let answers = clients.iter_mut().map(|client| client.answer().unwrap());
        let (created, refused): (Vec<_>, Vec<_>) = answers.partition(|a| a.status == 201);
        assert_eq!(created.len(), 1, "{created:?}");
        assert!(refused.iter().all(|answer| answer.status == 409), "{refused:?}");
        let name = created[0].json()["data"]["name"].clone();
        let mut api = Api::connect(server.address);
        let target = format!("/api/v1/channels/c-{round}");
        let kept = api.done(200, ("GET", &target), SECRET_KEY, &Value::Null);
        assert_eq!(kept["name"], name);
    }
}
