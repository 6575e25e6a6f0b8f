//! The program as a user meets it: greeting, start-up errors with their cure, signals, and the
//! other commands.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Instant;

use pushflo_tests::client::Subscriber;
use pushflo_tests::http::{HttpClient, PATIENCE, get, publish_body};
use pushflo_tests::program::{Program, command, run};
use pushflo_tests::server::{PUBLISH_KEY, SECRET_KEY};
use rustix::process::Signal;
use serde_json::{Value, json};

/// The one line of an error, after checking that the exit code says so too.
fn error(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(text.starts_with("pushflo: ") && !text.contains("panicked"), "{text}");
    text
}

fn says(output: &Output, all: &[&str]) {
    let text = error(output);
    for words in all {
        assert!(text.contains(words), "{text:?} does not say {words:?}");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn the_first_start_makes_keys_and_shows_them_once() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (mut program, address) = Program::serve(&data, &[]);
    let key = |line: String| line.split_whitespace().last().unwrap().to_owned();
    let publish = key(program.line_with("  publish "));
    let secret = key(program.line_with("  secret "));
    let mgmt = key(program.line_with("  mgmt "));
    assert!(publish.starts_with("pub_") && secret.starts_with("sec_") && mgmt.starts_with("mgmt_"));
    let page = program.line_with("/live#");
    assert!(page.contains(&publish) && page.contains(&address.to_string()), "{page}");
    program.line_with("curl http://");
    let authorization = program.line_with("-H");
    assert!(authorization.contains(&format!("Bearer {secret}")), "{authorization}");
    // The body of the curl line is what it says.
    let body = program.line_with("-d ");
    let body = body.trim().strip_prefix("-d '").unwrap().strip_suffix('\'').unwrap();
    let mut http = HttpClient::connect(address);
    assert_eq!(http.publish(&secret, body).status, 200);
    drop(http);
    program.signal(Signal::TERM);
    assert!(program.output().status.success());
    // Only the owner looks into the folder, and no key stands in it.
    let folder = data.join("directory");
    assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let files = || {
        let entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_file()).collect::<Vec<_>>()
    };
    for file in files() {
        let kept = std::fs::read(&file).unwrap();
        let holds = |key: &str| kept.windows(key.len()).any(|window| window == key.as_bytes());
        assert!(!holds(&publish) && !holds(&secret) && !holds(&mgmt), "{}", file.display());
    }
    // The second start knows them and shows nothing.
    let (mut program, address) = Program::serve(&data, &[]);
    assert_eq!(HttpClient::connect(address).publish(&secret, body).status, 200);
    assert_eq!(HttpClient::connect(address).publish(&publish, body).status, 403);
    program.signal(Signal::INT);
    let output = program.output();
    assert!(output.status.success());
    let rest = String::from_utf8(output.stdout).unwrap();
    assert!(!rest.contains("sec_") && rest.contains("/live"), "{rest}");
    // Damage is told and not overwritten.
    for file in files() {
        std::fs::write(&file, "damage").unwrap();
    }
    let output = run(&["--listen", "127.0.0.1:0", "--data-dir", text(&data)]);
    says(&output, &["cannot open the apps and keys in", "directory"]);
    assert!(files().iter().all(|file| std::fs::read(file).unwrap() == b"damage"));
}

#[test]
fn a_taken_port_and_a_used_folder_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("a");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(&["--listen", &address, "--data-dir", text(&data)]);
    says(&output, &[&address, "another program listens there", "--listen"]);
    // Another pushflo listens with SO_REUSEPORT; its port is taken all the same.
    let (_program, address) = Program::serve(&data, &[]);
    let other = folder.path().join("b");
    let output = run(&["--listen", &address.to_string(), "--data-dir", text(&other)]);
    says(&output, &["another program listens there"]);
    let output = run(&["--listen", "127.0.0.1:0", "--data-dir", text(&data)]);
    says(&output, &["in use by another pushflo", "--data-dir"]);
    let output = run(&["--listen", "192.0.2.1:7070", "--data-dir", text(&other)]);
    says(&output, &["this machine does not have that address"]);
    assert_eq!(get(address, "/health", None).status, 200);
}

#[test]
fn a_folder_that_cannot_be_used_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("below"), "/proc/pushflo".into()] {
        let output = run(&["--listen", "127.0.0.1:0", "--data-dir", text(&path)]);
        says(&output, &["cannot use the data folder", text(&path), "--data-dir"]);
    }
}

#[test]
fn mistakes_in_the_configuration_name_file_line_and_key() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pushflo.toml");
    let none = folder.path().join("none.toml");
    for (toml, all) in [
        ("listen = 'nowhere'", &["listen = nowhere", "must be an address and a port"][..]),
        ("\n\nlimt = 3", &["pushflo.toml", "line 3", "limt"]),
        ("shards = 'two'", &["pushflo.toml", "line 1", "shards"]),
        ("shards = 0", &["shards = 0", "from 1 to 1024"]),
        ("[limits]\npayload_bytes = 1", &["limits.payload_bytes = 1", "from 64"]),
        ("[limits]\nconnections = -1", &["line 2", "connections"]),
        ("[timeouts]\nping_ms = 1", &["timeouts.ping_ms = 1"]),
        ("[keys]\nsecret = 'pub_0123456789abcdef'", &["keys.secret", "must start with sec_"]),
        ("[keys]\nsecret = 'sec_short'", &["keys.secret", "at least 16"]),
        ("listen = ", &["pushflo.toml", "line 1"]),
        ("data_dir = ''", &["data_dir = \"\"", "must name a folder"]),
        (
            "[plans.pro]\npayload_bytes = 65536",
            &["plans.pro.payload_bytes = 65536", "limits.payload_bytes is 32768"],
        ),
        (
            "[limits]\nconnections = 9\n[plans.pro]\nconnections = 10",
            &["plans.pro.connections = 10", "limits.connections is 9"],
        ),
    ] {
        std::fs::write(&file, toml).unwrap();
        for check in [&["check-config", "--config", text(&file)][..], &["--config", text(&file)]] {
            let output = run(check);
            says(&output, all);
            assert!(!error(&output).contains("0123456789"), "a key is repeated");
        }
    }
    says(&run(&["check-config", "--config", text(&none)]), &["none.toml", "No such file"]);
    // A plan that says nothing, and the ones that are built in, go as far as the server does.
    std::fs::write(&file, "[limits]\npayload_bytes = 64\n[plans.pro]\n[plans.free]").unwrap();
    assert!(run(&["check-config", "--config", text(&file)]).status.success());
    std::fs::write(&file, "listen = '127.0.0.1:7999'\nshards = 2\n[limits]\nconnections = 7")
        .unwrap();
    let output = run(&["check-config", "--config", text(&file)]);
    assert!(output.status.success());
    assert!(String::from_utf8(output.stdout).unwrap().contains("127.0.0.1:7999"));
    // The environment wins over the file, the command line over both.
    let mut over = command(&["check-config", "--config", text(&file)]);
    over.env("PUSHFLO_LISTEN", "127.0.0.1:7998");
    let output = Program::spawn(over).output();
    assert!(String::from_utf8(output.stdout).unwrap().contains("127.0.0.1:7998"));
    let mut over =
        command(&["check-config", "--config", text(&file), "--listen", "127.0.0.1:7997"]);
    over.env("PUSHFLO_LISTEN", "127.0.0.1:7998");
    let output = Program::spawn(over).output();
    assert!(String::from_utf8(output.stdout).unwrap().contains("127.0.0.1:7997"));
}

#[test]
fn what_is_logged_is_a_level_or_levels_of_parts() {
    let folder = tempfile::tempdir().unwrap();
    let said = |filter: &str| {
        let mut serve = command(&["--listen", "127.0.0.1:0", "--data-dir", text(folder.path())]);
        serve.env("PUSHFLO_LOG", filter);
        let mut program = Program::spawn(serve);
        program.address();
        program.signal(Signal::TERM);
        let output = program.output();
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    for filter in ["", "info", "cli=info,warn", "warn,pushflo::serve=debug"] {
        assert!(said(filter).contains("draining"), "{filter}");
    }
    for filter in ["warn", "cli=warn", "off", "edge=debug,warn"] {
        assert!(!said(filter).contains("draining"), "{filter}");
    }
    for command in ["serve", "check-config"] {
        let bad = |filter| run(&[command, "--data-dir", text(folder.path()), "--log", filter]);
        says(&bad("loud"), &["PUSHFLO_LOG", "`loud`", "debug", "edge=debug,warn"]);
        says(&bad("edgee=debug,warn"), &["PUSHFLO_LOG", "`edgee`", "parts are", "edge"]);
    }
}

#[test]
fn more_shards_than_cores_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output =
        run(&["--listen", "127.0.0.1:0", "--shards", "999", "--data-dir", text(folder.path())]);
    says(&output, &["999 shards", "a core of its own", "--shards", "--cores"]);
    let output = run(&["--cores", "0,9999", "--data-dir", text(folder.path())]);
    says(&output, &["no core 9999", "--cores may name 0"]);
    // Named cores may be shared.
    let (mut program, address) = Program::serve(folder.path(), &["--cores", "0", "--shards", "3"]);
    assert_eq!(get(address, "/health", None).status, 200);
    program.signal(Signal::TERM);
    assert!(program.output().status.success());
}

/// Without io_uring the start fails in words; here the memory that may be locked is none, or the
/// kernel forbids the call, as container runtimes do.
#[test]
fn a_kernel_without_io_uring_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let output = without_io_uring(folder.path());
    says(&output, &["io_uring does not work here", "seccomp"]);
}

/// Runs the server under a seccomp filter that refuses `io_uring_setup` with EPERM.
fn without_io_uring(data: &Path) -> Output {
    // A filter of four instructions, installed by Python since a test may not use unsafe code.
    const SCRIPT: &str = r"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
number = 425  # io_uring_setup, the same on every architecture
code = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | 1), (0x06, 0, 0, 0x7fff0000)]
program = b''.join(struct.pack('HBBI', *line) for line in code)
buffer = ctypes.create_string_buffer(program)
class Filter(ctypes.Structure):
    _fields_ = [('len', ctypes.c_ushort), ('filter', ctypes.c_void_p)]
wanted = Filter(len(code), ctypes.addressof(buffer))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(wanted), 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
";
    let program = pushflo_tests::program::path();
    std::process::Command::new("python3")
        .args(["-c", SCRIPT, text(&program), "--listen", "127.0.0.1:0", "--data-dir", text(data)])
        .output()
        .unwrap()
}

#[test]
fn a_second_signal_stops_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("pushflo.toml");
    std::fs::write(&config, "drain_spread_ms = 600000").unwrap();
    let (mut program, address) = Program::serve(folder.path(), &["--config", text(&config)]);
    let publish = program.line_with("  publish ");
    let _held = Subscriber::connect_with(address, publish.split_whitespace().last().unwrap());
    program.signal(Signal::TERM);
    // Draining has begun once nobody may connect.
    while std::net::TcpStream::connect(address).is_ok() {}
    program.signal(Signal::TERM);
    assert_eq!(program.output().status.code(), Some(130));
}

#[test]
fn publish_and_subscribe_from_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, address) = serve_with_keys(folder.path(), "127.0.0.1:0");
    let url = format!("http://{address}");
    let publish = |channel: &str, content: &str| {
        run(&["publish", channel, content, "--url", &url, "--key", SECRET_KEY])
    };
    let mut subscribed = subscribe(&url, &["a", "b"]);
    // It has subscribed when a message says that it was delivered to somebody.
    let delivered = |output: &Output| {
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        answer["delivered"].as_u64().unwrap()
    };
    while delivered(&publish("a", "0")) == 0 || delivered(&publish("b", "0")) == 0 {}
    assert!(publish("a", r#"{"n": 12345678901234567890}"#).status.success());
    let line = subscribed.line_with("12345678901234567890");
    assert!(line.contains(r#""channel":"a""#), "{line}");
    publish("b", "not JSON");
    subscribed.line_with(r#""not JSON""#);
    says(&publish("a b", "1"), &["400", "' '"]);
    says(&run(&["publish", "a", "1", "--url", &url, "--key", PUBLISH_KEY]), &["403", "sec_"]);
    says(
        &run(&["publish", "a", "1", "--url", "http://127.0.0.1:1", "--key", SECRET_KEY]),
        &["cannot reach http://127.0.0.1:1"],
    );
    // Not SIGINT, which a job in the background may have inherited as ignored.
    subscribed.signal(Signal::TERM);
    subscribed.output();
}

/// Restarts the server under a subscriber, which comes back by itself.
#[test]
fn the_subscribe_command_reconnects() {
    let folder = tempfile::tempdir().unwrap();
    let (mut server, address) = serve_with_keys(folder.path(), "127.0.0.1:0");
    let url = format!("http://{address}");
    let mut subscribed = subscribe(&url, &["c"]);
    let publish = |content: &Value| {
        let answer = HttpClient::connect(address).publish(SECRET_KEY, &publish_body("c", content));
        answer.json()["data"]["delivered"].as_u64().unwrap()
    };
    let publish_to_somebody = |subscribed: &mut Program, content| {
        let deadline = Instant::now() + PATIENCE;
        while publish(&json!(content)) == 0 {
            if Instant::now() > deadline {
                subscribed.signal(Signal::TERM);
                let output = subscribed.output();
                panic!("nobody came: {}", String::from_utf8_lossy(&output.stderr));
            }
        }
    };
    publish_to_somebody(&mut subscribed, "before");
    subscribed.line_with("before");
    server.signal(Signal::TERM);
    assert!(server.output().status.success());
    let (_server, _) = serve_with_keys(folder.path(), &address.to_string());
    publish_to_somebody(&mut subscribed, "after");
    subscribed.line_with("after");
}

fn serve_with_keys(data: &Path, listen: &str) -> (Program, std::net::SocketAddr) {
    let config = data.join("pushflo.toml");
    std::fs::write(&config, "drain_spread_ms = 0").unwrap();
    let mut command =
        command(&["--listen", listen, "--data-dir", text(data), "--config", text(&config)]);
    command.env("PUSHFLO_PUBLISH_KEY", PUBLISH_KEY).env("PUSHFLO_SECRET_KEY", SECRET_KEY);
    let mut program = Program::spawn(command);
    let address = program.address();
    (program, address)
}

fn subscribe(url: &str, channels: &[&str]) -> Program {
    let mut arguments = vec!["subscribe", "--url", url, "--key", PUBLISH_KEY];
    arguments.extend(channels);
    Program::spawn(command(&arguments))
}

#[test]
fn help_and_version_are_printed() {
    for (arguments, words) in [
        (&["--help"][..], "check-config"),
        (&["serve", "--help"], "PUSHFLO_DATA_DIR"),
        (&["serve", "--help"], "edge=debug,warn"),
        (&["limits"], "`timeouts.linger_ms`"),
        (&["publish", "--help"], "PUSHFLO_SECRET_KEY"),
        (&["subscribe", "--help"], "PUSHFLO_PUBLISH_KEY"),
        (&["--version"], env!("CARGO_PKG_VERSION")),
    ] {
        let output = run(arguments);
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(words), "{arguments:?}: {text}");
    }
    for wrong in [&["fly"][..], &["--listen"], &["--shards", "many"], &["publish", "c"]] {
        assert_eq!(run(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

/// What stands in the file where keys are kept that nobody was shown, after checking that only its
/// owner reads it.
fn kept_keys(data: &Path) -> Vec<String> {
    let file = data.join("generated-keys");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().map(|line| line.split_whitespace().last().unwrap().into()).collect()
}

/// A program started by a shell that treats its standard streams badly; `line` names it `"$@"`.
fn in_shell(line: &str, arguments: &[&str]) -> std::process::Command {
    let program = command(&[]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", line, "sh"]).arg(program.get_program()).args(arguments);
    for (name, _) in program.get_envs() {
        shell.env_remove(name);
    }
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    shell
}

#[test]
fn a_server_that_nobody_listens_to_runs_and_keeps_its_keys() {
    let ended_pipe = r#"exec "$@" >"$FIFO" 2>&1"#;
    for (index, line) in [
        r#"exec "$@" >/dev/full"#,
        r#"exec "$@" >/dev/full 2>&1"#,
        r#"exec "$@" >&-"#,
        r#"exec "$@" >&- 2>&-"#,
        r#"exec "$@" >/dev/null"#,
        ended_pipe,
    ]
    .into_iter()
    .enumerate()
    {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let arguments = ["serve", "--listen", &port.to_string(), "--data-dir", text(&data)];
        let mut shell = in_shell(line, &arguments);
        let fifo = folder.path().join("fifo");
        if line == ended_pipe {
            assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
            shell.env("FIFO", &fifo);
            // Its reader leaves as soon as it is there.
            let fifo = fifo.clone();
            std::thread::spawn(move || drop(std::fs::File::open(fifo).unwrap()));
        }
        let mut program = Program::spawn(shell);
        let deadline = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(port).is_err() {
            assert!(Instant::now() < deadline, "{line} does not listen");
        }
        // The keys are in the file once the server listens, or a moment later.
        while !data.join("generated-keys").exists() || kept_keys(&data).len() < 3 {
            assert!(Instant::now() < deadline, "{line} keeps no keys");
        }
        let keys = kept_keys(&data);
        let body = publish_body("c", &json!(1));
        assert_eq!(HttpClient::connect(port).publish(&keys[1], &body).status, 200, "{line}");
        // Signals that mean nothing do not end it, and its words about them are lost.
        for signal in [Signal::HUP, Signal::USR1, Signal::PIPE] {
            program.signal(signal);
        }
        assert_eq!(get(port, "/health", None).status, 200, "{line}");
        program.signal(Signal::TERM);
        let output = program.output();
        assert!(output.status.success(), "{line}: {output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        if matches!(index, 0 | 2 | 4) {
            assert!(said.contains(text(&data.join("generated-keys"))), "{said}");
            assert!(said.contains("SIGHUP"), "{said}");
        }
        assert!(keys.iter().all(|key| !said.contains(key)));
    }
}

#[test]
fn keys_of_a_start_that_fails_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    // The log is opened after the keys were made.
    std::fs::write(data.join("log"), "no folder").unwrap();
    let output = run(&["--listen", "127.0.0.1:0", "--data-dir", text(&data)]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("cannot open the log") && said.contains("generated-keys"), "{said}");
    std::fs::remove_file(data.join("log")).unwrap();
    let (_program, address) = Program::serve(&data, &[]);
    let keys = kept_keys(&data);
    let body = publish_body("c", &json!(1));
    assert_eq!(HttpClient::connect(address).publish(&keys[1], &body).status, 200);
}

#[test]
fn commands_end_as_others_do_where_nobody_reads() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let checked = ["check-config", "--data-dir", text(&data)];
    let help = ["--help"];
    for arguments in [&checked[..], &help] {
        let output = Program::spawn(in_shell(r#"exec "$@" >/dev/full"#, arguments)).output();
        says(&output, &["cannot write to standard output", "No space left"]);
        // A reader that has left: the shell says 128 and SIGPIPE, and the program nothing.
        let line = r#"{ sleep 0.1; "$@"; echo "$?" >&2; } | true"#;
        let output = Program::spawn(in_shell(line, arguments)).output();
        assert_eq!(String::from_utf8(output.stderr).unwrap().trim(), "141", "{arguments:?}");
        for line in [r#"exec "$@" >&-"#, r#"exec "$@" >&- 2>&-"#] {
            let output = Program::spawn(in_shell(line, arguments)).output();
            assert!(output.status.success(), "{output:?}");
        }
    }
    // What is wrong is told by the exit code even where it cannot be said.
    let none = folder.path().join("none");
    let wrong = ["check-config", "--config", text(&none)];
    for line in [r#"exec "$@" 2>/dev/full"#, r#"exec "$@" 2>&-"#] {
        let output = Program::spawn(in_shell(line, &wrong)).output();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
    }
    // A key that was made in the folder of a stopped server is kept as well.
    let recover = ["keys", "recover", "--data-dir", text(&data)];
    let output = Program::spawn(in_shell(r#"exec "$@" >/dev/full"#, &recover)).output();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let kept = kept_keys(&data);
    let (_program, address) = Program::serve(&data, &[]);
    let key = kept.iter().find(|key| key.starts_with("mgmt_")).unwrap();
    assert_eq!(get(address, "/api/v1/apps", Some(key)).status, 200);
}

#[test]
fn subscribing_ends_with_its_reader() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, address) = serve_with_keys(folder.path(), "127.0.0.1:0");
    let url = format!("http://{address}");
    let arguments = ["subscribe", "--url", &url, "--key", PUBLISH_KEY, "--last", "9", "c"];
    let mut http = HttpClient::connect(address);
    // Contents that a JSON reader may choke on come out as they went in.
    let deep = format!("{}1{}", "[".repeat(128), "]".repeat(128));
    for content in ["1e999", "-0.0", &deep] {
        let body = format!(r#"{{"channel":"c","data":{content}}}"#);
        assert_eq!(http.publish(SECRET_KEY, &body).status, 200, "{content}");
    }
    let mut all = Program::spawn(command(&arguments));
    for content in ["1e999", "-0.0", &deep] {
        let line = all.line();
        assert!(line.contains(&format!(r#""data":{content}"#)), "{line}");
    }
    let line = r#"{ "$@"; echo "status $?" >&2; } | head -n 1"#;
    let mut first = Program::spawn(in_shell(line, &arguments));
    assert!(first.line().contains("1e999"));
    // It learns of it at the next message.
    let deadline = Instant::now() + PATIENCE;
    let body = publish_body("c", &json!(1));
    while !first.has_ended() {
        assert!(Instant::now() < deadline);
        assert_eq!(http.publish(SECRET_KEY, &body).status, 200);
    }
    let output = first.output();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "status 141\n");
}

/// Nobody else looks into the data, whatever the umask, and whatever an earlier version left.
#[test]
fn everything_in_the_data_folder_is_for_its_owner_only() {
    fn open_to_others(folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            if mode & 0o077 != 0 {
                found.push(format!("{mode:o} {}", path.display()));
            }
            if path.is_dir() {
                open_to_others(&path, found);
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    for round in 0..2 {
        let mut serve = std::process::Command::new("sh");
        let script = format!(
            "umask 000; exec {} serve --listen 127.0.0.1:0 --data-dir {}",
            pushflo_tests::program::path().display(),
            data.display()
        );
        serve.args(["-c", &script]).stdout(std::process::Stdio::piped());
        serve.env("PUSHFLO_PUBLISH_KEY", PUBLISH_KEY).env("PUSHFLO_SECRET_KEY", SECRET_KEY);
        let mut program = Program::spawn(serve);
        let address = program.address();
        let mut http = HttpClient::connect(address);
        assert_eq!(http.publish(SECRET_KEY, &publish_body("c", &json!("secret"))).status, 200);
        drop(http);
        program.signal(Signal::TERM);
        assert!(program.output().status.success());
        let mut found = Vec::new();
        open_to_others(&data, &mut found);
        assert!(found.is_empty(), "round {round}: {found:?}");
        // As a release before this one had it.
        let opened = std::process::Command::new("chmod").arg("-R").arg("a+rX").arg(&data).status();
        assert!(opened.unwrap().success());
    }
}
