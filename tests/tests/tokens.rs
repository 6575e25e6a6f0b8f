//! Connection tokens: who gets in with one, what it grants, and when it ends.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use pushflo_tests::client::Subscriber;
use pushflo_tests::http::{call, post, publish_body};
use pushflo_tests::server::{MANAGE_KEY, PUBLISH_KEY, SECRET_KEY, start};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256, Sha512};

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The id of a key, as anybody who has it can work it out.
fn key_id(key: &str) -> String {
    format!("key_{}", &hex(Sha256::digest(key))[..16])
}

/// A token as a backend signs it with its own key.
fn signed(key: &str, claims: Value) -> String {
    signed_with(json!({ "alg": "HS256", "kid": key_id(key) }), key, claims)
}

fn signed_with(header: Value, key: &str, claims: Value) -> String {
    let secret = hex(Sha256::digest(format!("pushflo-token:{key}")));
    let mut all = json!({ "aud": "pushflo", "exp": now_s() + 600 });
    all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    let encoded = |part: &Value| BASE64URL_NOPAD.encode(part.to_string().as_bytes());
    let text = format!("{}.{}", encoded(&header), encoded(&all));
    let signature = if header["alg"] == "HS512" {
        let mut mac = Hmac::<Sha512>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().to_vec()
    } else {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().to_vec()
    };
    format!("{text}.{}", BASE64URL_NOPAD.encode(&signature))
}

/// A token as the server issues it.
fn issued(address: SocketAddr, key: &str, body: Value) -> Value {
    let answer = post(address, "/api/v1/auth/token", Some(key), &body.to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["data"].clone()
}

/// Connects with a token; the client id it is given.
fn connect(address: SocketAddr, token: &str) -> (Subscriber, String) {
    let mut subscriber = Subscriber::connect_with(address, token);
    let connected = subscriber.event();
    assert_eq!(connected["type"], "connected", "{connected}");
    (subscriber, connected["clientId"].as_str().unwrap().into())
}

/// Why a token does not let anybody in.
fn refused(address: SocketAddr, token: &str) -> String {
    let mut subscriber = Subscriber::connect_with(address, token);
    let event = subscriber.event();
    assert_eq!((&event["type"], &event["code"]), (&json!("error"), &json!("UNAUTHORIZED")));
    assert_eq!(subscriber.close_code().0, 4001);
    event["error"].as_str().unwrap().into()
}

/// The answer to a subscription.
fn subscribe(subscriber: &mut Subscriber, channel: &str) -> Value {
    subscriber.send(json!({ "type": "subscribe", "channel": channel }));
    subscriber.event()
}

#[test]
fn tokens_grant_what_they_say() {
    for shards in [1, 4] {
        let server = start(shards, "");
        let address = server.address;
        for (slug, is_private) in [("secret-plans", true), ("orders-1", true), ("news", false)] {
            let body = json!({ "name": slug, "slug": slug, "isPrivate": is_private });
            let answer = call(address, "POST", "/api/v1/channels", Some(MANAGE_KEY), &body);
            assert_eq!(answer.status, 201, "{}", answer.text());
        }
        let claims = json!({ "sub": "ann", "channels": ["news", "orders-*"] });
        let by_server = issued(
            address,
            SECRET_KEY,
            json!({ "clientId": "ann", "channels": ["news", "orders-*"] }),
        );
        assert_eq!(by_server["clientId"], "ann");
        assert_eq!(by_server["endpoint"], "ws://localhost/ws");
        let tokens = [
            by_server["token"].as_str().unwrap().to_owned(),
            signed(SECRET_KEY, claims.clone()),
            signed(MANAGE_KEY, claims),
        ];
        for token in &tokens {
            let (mut ann, client_id) = connect(address, token);
            assert_eq!(client_id, "ann");
            for (channel, granted) in [
                ("news", true),
                ("orders-1", true),
                ("orders-2", true),
                ("secret-plans", false),
                ("other", false),
            ] {
                let event = subscribe(&mut ann, channel);
                let kind = if granted { "subscribed" } else { "error" };
                assert_eq!(event["type"], kind, "{channel}: {event}");
                if !granted {
                    assert_eq!(event["code"], "FORBIDDEN");
                }
            }
        }
        // One that a publish key asked for names channels and enters no private one.
        let token = issued(address, PUBLISH_KEY, json!({ "channels": ["*"] }));
        let (mut guest, client_id) = connect(address, token["token"].as_str().unwrap());
        assert_eq!(token["clientId"], client_id.as_str());
        assert_eq!(subscribe(&mut guest, "news")["type"], "subscribed");
        assert_eq!(subscribe(&mut guest, "secret-plans")["code"], "FORBIDDEN");
        // Without channels: all but the private ones, whoever signed.
        for key in [PUBLISH_KEY, SECRET_KEY] {
            let token = issued(address, key, json!({}));
            let (mut anyone, _) = connect(address, token["token"].as_str().unwrap());
            assert_eq!(subscribe(&mut anyone, "news")["type"], "subscribed");
            assert_eq!(subscribe(&mut anyone, "secret-plans")["code"], "FORBIDDEN");
        }
        // Keys themselves: a publish key is everybody's, a secret key enters.
        let (mut public, _) = connect(address, PUBLISH_KEY);
        assert_eq!(subscribe(&mut public, "secret-plans")["code"], "FORBIDDEN");
        let (mut backend, _) = connect(address, SECRET_KEY);
        assert_eq!(subscribe(&mut backend, "secret-plans")["type"], "subscribed");
    }
}

#[test]
fn forged_and_foreign_tokens_let_nobody_in() {
    let server = start(2, "[limits]\nwrong_keys_per_second = 1000");
    let address = server.address;
    let good = signed(SECRET_KEY, json!({}));
    connect(address, &good);
    let (head, rest) = good.split_once('.').unwrap();
    let (body, signature) = rest.split_once('.').unwrap();
    let header = |alg: &str, kid: &str| json!({ "typ": "JWT", "alg": alg, "kid": kid });
    let id = key_id(SECRET_KEY);
    let critical = |names: &[&str]| json!({ "alg": "HS256", "kid": id, "crit": names });
    let cases = [
        (format!("{head}.{body}.AAAA{}", &signature[4..]), "signature"),
        (format!("{head}.{body}."), "signature"),
        // {"alg":"none","kid":...} and no signature.
        (format!("eyJhbGciOiJub25lIn0.{body}."), "cannot be read"),
        (signed_with(header("HS512", &id), SECRET_KEY, json!({})), "HS256"),
        (signed_with(json!({ "alg": "HS256" }), SECRET_KEY, json!({})), "kid"),
        (signed_with(header("HS256", "key_0"), SECRET_KEY, json!({})), "kid"),
        (signed_with(header("HS256", "default"), SECRET_KEY, json!({})), "signature"),
        (signed_with(header("HS256", &id), MANAGE_KEY, json!({})), "signature"),
        // A publish key is no secret.
        (signed(PUBLISH_KEY, json!({})), "not signed by a key"),
        (signed("sec_unknown0123456789", json!({})), "not signed by a key"),
        (signed(SECRET_KEY, json!({ "aud": "elsewhere" })), "aud"),
        (signed(SECRET_KEY, json!({ "aud": null })), "cannot be read"),
        (signed(SECRET_KEY, json!({ "exp": now_s() - 60 })), "expired"),
        (signed(SECRET_KEY, json!({ "exp": now_s() as f64 - 60.5 })), "expired"),
        (signed(SECRET_KEY, json!({ "exp": -1.5e9 })), "expired"),
        (signed(SECRET_KEY, json!({ "exp": null })), "cannot be read"),
        (signed(SECRET_KEY, json!({ "nbf": 1e300 })), "not valid yet"),
        (signed_with(critical(&["b64"]), SECRET_KEY, json!({})), "crit"),
        (signed_with(critical(&[]), SECRET_KEY, json!({})), "crit"),
        (signed(SECRET_KEY, json!({ "exp": "soon" })), "cannot be read"),
        (signed(SECRET_KEY, json!({ "nbf": now_s() + 100 })), "not valid yet"),
        (signed(SECRET_KEY, json!({ "sub": "x".repeat(129) })), "sub"),
        (signed(SECRET_KEY, json!({ "sub": 7 })), "cannot be read"),
        (signed(SECRET_KEY, json!({ "channels": ["a b"] })), "channels"),
        (signed(SECRET_KEY, json!({ "channels": "news" })), "cannot be read"),
        (signed(SECRET_KEY, json!({ "data": "x".repeat(1_100) })), "data"),
        ("a.b.c".into(), "cannot be read"),
        ("..".into(), "cannot be read"),
        (format!("{}.{body}.{signature}", "A".repeat(9_000)), "not known"),
    ];
    for (token, words) in cases {
        let told = refused(address, &token);
        assert!(told.contains(words), "{told:?} does not say {words:?}");
        assert!(!told.contains("0123456789"), "a key is told: {told}");
    }
    // What a token may not do: it is no key.
    let answer = post(address, "/api/v1/publish", Some(&good), &publish_body("c", &json!(1)));
    assert_eq!(answer.status, 401);
    for (key, body, status) in [
        (PUBLISH_KEY, json!({ "publish": ["*"] }), 403),
        (PUBLISH_KEY, json!({ "data": {} }), 403),
        (SECRET_KEY, json!({ "ttl": 0 }), 400),
        (SECRET_KEY, json!({ "ttl": 86_401 }), 400),
        (SECRET_KEY, json!({ "clientId": "" }), 400),
        (SECRET_KEY, json!({ "channels": ["a b"] }), 400),
        (SECRET_KEY, json!({ "channels": vec!["a"; 101] }), 400),
        (SECRET_KEY, json!({ "data": "x".repeat(1_100) }), 400),
    ] {
        let answer = post(address, "/api/v1/auth/token", Some(key), &body.to_string());
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
    }
    // The publish key may stand in the body, as browsers send it.
    let body = json!({ "publishKey": PUBLISH_KEY }).to_string();
    assert_eq!(post(address, "/api/v1/auth/token", None, &body).status, 200);
    assert_eq!(post(address, "/api/v1/auth/token", None, "{}").status, 401);
}

/// Times of claims are JSON numbers of any form, and a clock may be off by a moment.
#[test]
fn times_of_tokens_are_read_in_all_their_forms() {
    let server = start(1, "");
    let now = now_s();
    for claims in [
        json!({ "exp": now as f64 + 600.5 }),
        json!({ "exp": 1e11 }),
        json!({ "exp": 1e300 }),
        json!({ "exp": u64::MAX }),
        json!({ "exp": now - 1 }),
        json!({ "nbf": now + 2 }),
        json!({ "nbf": now as f64 - 0.5, "iat": now as f64 + 0.5 }),
        json!({ "nbf": -1 }),
        json!({ "nbf": null }),
        // When it was issued says nothing of when it holds.
        json!({ "iat": now + 600 }),
    ] {
        connect(server.address, &signed(SECRET_KEY, claims));
    }
}

/// A token that ends closes its connection, after a warning; a fresh one keeps it open.
#[test]
fn tokens_end_and_are_refreshed() {
    let server = start(2, "");
    let address = server.address;
    let token = |client: &str, seconds: u64| {
        signed(
            SECRET_KEY,
            json!({ "sub": client, "exp": now_s() + seconds, "channels": ["a", "b"] }),
        )
    };
    let (mut ann, _) = connect(address, &token("ann", 3));
    assert_eq!(subscribe(&mut ann, "a")["type"], "subscribed");
    assert_eq!(subscribe(&mut ann, "b")["type"], "subscribed");
    let warning = ann.event();
    assert_eq!(warning["type"], "token_expiring");
    let refresh = |subscriber: &mut Subscriber, token: &str| {
        subscriber.send(json!({ "type": "refresh", "token": token, "ref": "r" }));
        let event = subscriber.event();
        assert!(event["type"] != "error" || event["ref"] == "r", "{event}");
        event
    };
    // Somebody else's, a bad one: nothing changes.
    let refused = refresh(&mut ann, &token("bob", 60));
    assert_eq!(refused["code"], "UNAUTHORIZED", "{refused}");
    assert_eq!(refresh(&mut ann, "a.b.c")["code"], "UNAUTHORIZED");
    assert_eq!(refresh(&mut ann, PUBLISH_KEY)["code"], "UNAUTHORIZED");
    // A narrower one takes what it does not grant.
    let narrower =
        signed(SECRET_KEY, json!({ "sub": "ann", "exp": now_s() + 3, "channels": ["a"] }));
    let refreshed = refresh(&mut ann, &narrower);
    assert_eq!(refreshed["type"], "refreshed", "{refreshed}");
    assert!(refreshed["expiresAt"].as_u64() > warning["expiresAt"].as_u64());
    let gone = ann.event();
    assert_eq!((&gone["code"], &gone["channel"]), (&json!("FORBIDDEN"), &json!("b")), "{gone}");
    assert_eq!(ann.event(), json!({ "type": "unsubscribed", "channel": "b" }));
    post(address, "/api/v1/publish", Some(SECRET_KEY), &publish_body("a", &json!(1)));
    assert_eq!(ann.message().data, json!(1));
    assert_eq!(ann.event()["type"], "token_expiring");
    let end = ann.event();
    assert_eq!((&end["type"], &end["code"]), (&json!("error"), &json!("UNAUTHORIZED")));
    assert_eq!(ann.close_code(), (4001, "token expired".into()));
    // One with a key has nothing to refresh.
    let (mut public, _) = connect(address, PUBLISH_KEY);
    assert_eq!(refresh(&mut public, &token("x", 60))["code"], "VALIDATION_ERROR");
}

#[test]
fn clients_publish_where_a_token_grants_it() {
    for shards in [1, 4] {
        let server = start(shards, "");
        let address = server.address;
        let claims = json!({ "sub": "ann", "publish": ["chat-*"] });
        let (mut ann, _) = connect(address, &signed(SECRET_KEY, claims));
        let publish = |subscriber: &mut Subscriber, body: Value| {
            let mut command = json!({ "type": "publish" });
            command.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
            subscriber.send(command);
            subscriber.event()
        };
        let hello =
            json!({ "channel": "chat-1", "event": "said", "data": { "n": 1 }, "ref": "r1" });
        let off = publish(&mut ann, hello.clone());
        assert_eq!((&off["code"], &off["ref"]), (&json!("FORBIDDEN"), &json!("r1")), "{off}");
        let settings = json!({ "settings": { "clientPublish": true } });
        let answer = call(address, "PATCH", "/api/v1/apps/self", Some(MANAGE_KEY), &settings);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let mut other = Subscriber::connect(address);
        other.subscribe("chat-1");
        let published = publish(&mut ann, hello);
        assert_eq!(published["type"], "published", "{published}");
        assert_eq!((&published["ref"], &published["offset"]), (&json!("r1"), &json!(1)));
        let event = other.event();
        assert_eq!(event["messageId"], published["messageId"]);
        assert_eq!(event["timestamp"], published["timestamp"]);
        assert_eq!((&event["clientId"], &event["eventType"]), (&json!("ann"), &json!("said")));
        for (body, code) in [
            (json!({ "channel": "other", "data": 1 }), "FORBIDDEN"),
            (json!({ "channel": "chat-1" }), "VALIDATION_ERROR"),
            (json!({ "data": 1 }), "VALIDATION_ERROR"),
            (json!({ "channel": "chat-1", "data": 1, "ref": "r".repeat(65) }), "VALIDATION_ERROR"),
            (json!({ "channel": "chat-1", "data": "x".repeat(33_000) }), "PAYLOAD_TOO_LARGE"),
        ] {
            let event = publish(&mut ann, body);
            assert_eq!(
                (&event["type"], &event["code"]),
                (&json!("error"), &json!(code)),
                "{event}"
            );
        }
        // Each says what it answers.
        let (content, long) = ("x".repeat(33_000), "x".repeat(90_000));
        for (body, channel) in [
            (json!({ "channel": "other", "data": 1 }), Some("other")),
            (json!({ "channel": "chat-1", "data": content }), Some("chat-1")),
            (json!({ "channel": "chat-1", "data": long }), Some("chat-1")),
            (json!({ "channel": "chat-1", "data": 1, "id": 7 }), Some("chat-1")),
            (json!({ "channel": "a b", "data": 1 }), None),
        ] {
            let mut body = body;
            body["ref"] = "r2".into();
            let event = publish(&mut ann, body);
            assert_eq!((&event["type"], &event["ref"]), (&json!("error"), &json!("r2")), "{event}");
            assert_eq!(event.get("channel"), channel.map(Value::from).as_ref(), "{event}");
        }
        // Many at once are answered in their order, and one that is repeated is published once.
        for n in 0..100 {
            let (channel, n) = (format!("chat-{}", n % 7), n.to_string());
            ann.send(json!({ "type": "publish", "channel": channel, "data": n, "ref": n }));
        }
        for n in 0..100 {
            let event = ann.event();
            assert_eq!(
                (&event["type"], &event["ref"]),
                (&json!("published"), &json!(n.to_string()))
            );
        }
        let keyed = json!({ "channel": "chat-9", "data": 1, "id": "once" });
        let first = publish(&mut ann, keyed.clone());
        assert_eq!(publish(&mut ann, keyed), first);
        // A publish key never may, a secret key may.
        let (mut public, _) = connect(address, PUBLISH_KEY);
        let body = json!({ "channel": "chat-1", "data": 1 });
        assert_eq!(publish(&mut public, body.clone())["code"], "FORBIDDEN");
        let (mut backend, _) = connect(address, SECRET_KEY);
        assert_eq!(publish(&mut backend, body)["type"], "published");
    }
}

/// What the server allows as content fits into a frame, and what is somewhat larger is refused in words.
#[test]
fn frames_follow_the_limit_on_content() {
    let server = start(2, "[limits]\npayload_bytes = 200000");
    let address = server.address;
    let settings = json!({ "settings": { "clientPublish": true } });
    let answer = call(address, "PATCH", "/api/v1/apps/self", Some(MANAGE_KEY), &settings);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let (mut ann, _) = connect(address, SECRET_KEY);
    let publish = |subscriber: &mut Subscriber, bytes: usize| {
        // With its quotes it has as many.
        let data = "x".repeat(bytes - 2);
        subscriber.send(json!({ "type": "publish", "channel": "c", "ref": "r", "data": data }));
    };
    for (bytes, kind, code) in [
        (199_999, "published", Value::Null),
        (200_000, "published", Value::Null),
        (200_001, "error", json!("PAYLOAD_TOO_LARGE")),
        (260_000, "error", json!("PAYLOAD_TOO_LARGE")),
        (70_000, "published", Value::Null),
    ] {
        publish(&mut ann, bytes);
        let event = ann.event();
        assert_eq!((&event["type"], &event["code"]), (&json!(kind), &code), "{bytes}: {event}");
        assert_eq!((&event["channel"], &event["ref"]), (&json!("c"), &json!("r")));
    }
    publish(&mut ann, 270_000);
    assert_eq!(ann.close_code().0, 1009);
}

/// A revoked key takes its connections and tokens with it, on every shard, within a second.
#[test]
fn revocation_takes_effect_everywhere_at_once() {
    let server = start(4, "[limits]\nwrong_keys_per_second = 1000");
    let address = server.address;
    let keys = "/api/v1/apps/self/keys";
    let made = |role: &str| {
        let answer = call(address, "POST", keys, Some(MANAGE_KEY), &json!({ "role": role }));
        assert_eq!(answer.status, 201, "{}", answer.text());
        let key = answer.json()["data"].clone();
        (key["id"].as_str().unwrap().to_owned(), key["key"].as_str().unwrap().to_owned())
    };
    let ((secret_id, secret), (publish_id, publish)) = (made("secret"), made("publish"));
    let by_server = issued(address, &publish, json!({}))["token"].as_str().unwrap().to_owned();
    let by_backend = signed(&secret, json!({}));
    // Many connections, so that every shard has some.
    let mut gone: Vec<Subscriber> = Vec::new();
    for _ in 0..8 {
        for shown in [&secret, &publish, &by_server, &by_backend] {
            gone.push(connect(address, shown).0);
        }
    }
    let (mut stays, _) = connect(address, PUBLISH_KEY);
    let revoked = std::time::Instant::now();
    for id in [&secret_id, &publish_id] {
        let target = format!("{keys}/{id}");
        assert_eq!(call(address, "DELETE", &target, Some(MANAGE_KEY), &Value::Null).status, 204);
        assert_eq!(call(address, "DELETE", &target, Some(MANAGE_KEY), &Value::Null).status, 404);
    }
    for subscriber in &mut gone {
        assert_eq!(subscriber.close_code(), (4001, "the key was revoked".into()));
    }
    assert!(revoked.elapsed() < Duration::from_secs(1));
    for shown in [&secret, &publish, &by_server, &by_backend] {
        refused(address, shown);
    }
    for _ in 0..8 {
        let answer = post(address, "/api/v1/publish", Some(&secret), &publish_body("c", &json!(1)));
        assert_eq!(answer.status, 401);
    }
    assert_eq!(subscribe(&mut stays, "c")["type"], "subscribed");
    // Keys of the configuration, and the last management key, are not revoked here.
    let listed = call(address, "GET", keys, Some(MANAGE_KEY), &Value::Null).json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 3, "{listed}");
    for key in [SECRET_KEY, MANAGE_KEY] {
        let target = format!("{keys}/{}", key_id(key));
        assert_eq!(call(address, "DELETE", &target, Some(MANAGE_KEY), &Value::Null).status, 409);
    }
}
