//! The table: what a client sends behind the handshake, and all that the server says to it. The
//! sections follow Autobahn's testsuite for servers.

use pushflo_protocol::limits::{PAYLOAD_BYTES_MAX, client_message_bytes_max};

use crate::frame::{
    BINARY, CLOSE, CONTINUE, Frame, PING, PONG, Said, TEXT, close, close_with, fragments, ping,
    pong, text,
};
use crate::utf8;

/// One case. After the last expected frame, which is a close, the server ends the stream.
pub struct Case {
    pub name: String,
    pub client: Vec<u8>,
    pub server: Vec<Expected>,
}

/// What the server is to say.
pub enum Expected {
    Exactly(Said),
    /// An error event that says that a message was no command.
    Refusal,
}

const COMMAND: &str = r#"{"type":"ping"}"#;

fn answer() -> Expected {
    Expected::Exactly(Said::Text(r#"{"type":"pong"}"#.into()))
}

fn ponged(payload: impl AsRef<[u8]>) -> Expected {
    Expected::Exactly(Said::Pong(payload.as_ref().into()))
}

fn closed(code: u16) -> Expected {
    Expected::Exactly(Said::Close(code))
}

/// A command of so many bytes.
fn command_of(bytes: usize) -> String {
    format!("{COMMAND}{}", " ".repeat(bytes - COMMAND.len()))
}

#[derive(Default)]
struct Table(Vec<Case>);

impl Table {
    /// A case that ends by what is wrong in it, or by its own close frame.
    fn case(&mut self, name: impl Into<String>, client: &[Vec<u8>], server: Vec<Expected>) {
        self.0.push(Case { name: name.into(), client: client.concat(), server });
    }

    /// A case in which nothing is wrong: a normal close follows.
    fn good(&mut self, name: impl Into<String>, client: &[Vec<u8>], mut server: Vec<Expected>) {
        server.push(closed(1000));
        self.case(name, &[client.concat(), close_with(1000, "")], server);
    }

    /// A case that ends with this code before anything else is said.
    fn bad(&mut self, name: impl Into<String>, client: &[Vec<u8>], code: u16) {
        self.case(name, client, vec![closed(code)]);
    }
}

pub fn all() -> Vec<Case> {
    let mut table = Table::default();
    framing(&mut table);
    pings(&mut table);
    reserved_bits(&mut table);
    opcodes(&mut table);
    fragmentation(&mut table);
    text_encoding(&mut table);
    closing(&mut table);
    limits(&mut table);
    table.0
}

fn framing(table: &mut Table) {
    table.good("1.1 empty text", &[text("")], vec![Expected::Refusal]);
    for bytes in [15, 124, 125, 126, 127, 128, 1_000, 65_535, 65_536] {
        table.good(format!("1.1 text of {bytes}"), &[text(command_of(bytes))], vec![answer()]);
    }
    for bytes in [0, 1, 125, 126, 1_000, 65_536] {
        let frame = Frame::new(BINARY, &vec![0xfe; bytes]).bytes();
        table.bad(format!("1.2 binary of {bytes}"), &[frame], 1003);
    }
    let many: Vec<_> = (0..20).map(|bytes| text(command_of(15 + bytes))).collect();
    table.good("1.3 many in one write", &many, (0..20).map(|_| answer()).collect());
    for mask in [[0; 4], [0xff; 4], [0, 1, 2, 3], [b'{', b'"', b't', b'y']] {
        let frame = Frame { mask: Some(mask), ..Frame::new(TEXT, COMMAND.as_bytes()) };
        table.good(format!("1.4 mask {mask:?}"), &[frame.bytes()], vec![answer()]);
    }
    for (name, opcode) in [("text", TEXT), ("ping", PING), ("pong", PONG), ("close", CLOSE)] {
        for payload in [&b""[..], b"\x03\xe8"] {
            let frame = Frame { mask: None, ..Frame::new(opcode, payload) };
            table.bad(format!("1.5 unmasked {name} {payload:?}"), &[frame.bytes()], 1002);
        }
    }
    // RFC 6455 section 5.2: the shortest length must be used.
    let frame = Frame::new(TEXT, COMMAND.as_bytes());
    let long = frame.bytes_with_length(126, &15u16.to_be_bytes());
    table.bad("1.6 a length in 16 bits that fits in 7", &[long], 1002);
    for length in [15u64, 126, 65_535] {
        let head = Frame::new(TEXT, b"").bytes_with_length(127, &length.to_be_bytes());
        table.bad(format!("1.6 a length of {length} in 64 bits"), &[head], 1002);
    }
}

fn pings(table: &mut Table) {
    for payload in [&b""[..], b"Hello", b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", &[0xfe; 125]] {
        table.good(format!("2 ping of {}", payload.len()), &[ping(payload)], vec![ponged(payload)]);
    }
    table.bad("2.5 ping of 126", &[ping([0xfe; 126])], 1002);
    table.bad("2.5 pong of 126", &[pong([0xfe; 126])], 1002);
    table.good("2.7 unsolicited pong", &[pong("")], vec![]);
    table.good("2.8 unsolicited pong with payload", &[pong("unsolicited")], vec![]);
    table.good("2.9 pong, then ping", &[pong("x"), ping("y")], vec![ponged("y")]);
    let numbers: Vec<String> = (0..10).map(|number| format!("ping {number}")).collect();
    let client: Vec<_> = numbers.iter().map(ping).collect();
    table.good("2.10 ten pings in order", &client, numbers.iter().map(ponged).collect());
    let client = [text(COMMAND), ping("1"), text(COMMAND), ping("2")];
    let server = vec![answer(), ponged("1"), answer(), ponged("2")];
    table.good("2.11 pings between commands", &client, server);
}

fn reserved_bits(table: &mut Table) {
    for reserved in 1..=7 {
        for (name, opcode) in
            [("text", TEXT), ("binary", BINARY), ("ping", PING), ("pong", PONG), ("close", CLOSE)]
        {
            for payload in [&b""[..], b"\x03\xe8"] {
                let frame = Frame { reserved, ..Frame::new(opcode, payload) }.bytes();
                let bytes = payload.len();
                table.bad(format!("3 bits {reserved} on {name} of {bytes}"), &[frame], 1002);
            }
        }
        let frame = Frame { reserved, ..Frame::new(TEXT, COMMAND.as_bytes()) }.bytes();
        let client = [text(COMMAND), frame, ping("never read")];
        let name = format!("3 bits {reserved} behind a command");
        table.case(name, &client, vec![answer(), closed(1002)]);
    }
}

fn opcodes(table: &mut Table) {
    for opcode in (3..=7).chain(0xb..=0xf) {
        for payload in [&b""[..], b"unknown"] {
            let frame = Frame::new(opcode, payload).bytes();
            let name = format!("4 opcode {opcode:#x} of {}", payload.len());
            table.bad(&name, std::slice::from_ref(&frame), 1002);
            let client = [text(COMMAND), frame, ping("never read")];
            table.case(format!("{name} behind a command"), &client, vec![answer(), closed(1002)]);
        }
        let frame = Frame { is_final: false, ..Frame::new(opcode, b"") }.bytes();
        table.bad(format!("4 opcode {opcode:#x} not final"), &[frame], 1002);
    }
}

fn fragmentation(table: &mut Table) {
    for (name, opcode) in [("ping", PING), ("pong", PONG), ("close", CLOSE)] {
        table.bad(format!("5.1 fragmented {name}"), &fragments(opcode, &["a", "b"]), 1002);
        let frame = Frame { is_final: false, ..Frame::new(opcode, b"") }.bytes();
        table.bad(format!("5.2 {name} not final"), &[frame], 1002);
    }
    for cut in 0..=COMMAND.len() {
        let parts = [&COMMAND[..cut], &COMMAND[cut..]];
        table.good(format!("5.3 cut at {cut}"), &fragments(TEXT, &parts), vec![answer()]);
        let [first, last] = fragments(TEXT, &parts).try_into().unwrap();
        let client = [first, ping("between"), last];
        let server = vec![ponged("between"), answer()];
        table.good(format!("5.6 cut at {cut}, ping between"), &client, server);
    }
    let letters: Vec<&[u8]> = COMMAND.as_bytes().chunks(1).collect();
    table.good("5.5 fragments of a byte", &fragments(TEXT, &letters), vec![answer()]);
    let parts = ["", "", COMMAND, "", ""];
    table.good("5.5 empty fragments", &fragments(TEXT, &parts), vec![answer()]);
    table.good(
        "5.5 only empty fragments",
        &fragments(TEXT, &["", "", ""]),
        vec![Expected::Refusal],
    );
    let mut client = Vec::new();
    for frame in fragments(TEXT, &letters) {
        client.extend([frame, ping("p"), pong("q")]);
    }
    client.push(text(COMMAND));
    let mut server: Vec<_> = letters.iter().map(|_| ponged("p")).collect();
    server.insert(letters.len() - 1, answer());
    server.push(answer());
    table.good("5.8 pings and pongs between fragments of a byte", &client, server);
    let lone = Frame::new(CONTINUE, COMMAND.as_bytes());
    table.bad("5.9 continuation of nothing", &[lone.bytes()], 1002);
    let lone = Frame { is_final: false, ..lone };
    table.bad("5.10 continuation of nothing, not final", &[lone.bytes()], 1002);
    let client = [text(COMMAND), lone.bytes()];
    table.case("5.11 continuation behind a command", &client, vec![answer(), closed(1002)]);
    let client = [fragments(TEXT, &letters).concat(), lone.bytes()];
    table.case("5.12 continuation behind fragments", &client, vec![answer(), closed(1002)]);
    let begun = Frame { is_final: false, ..Frame::new(TEXT, b"{") }.bytes();
    for (name, opcode) in [("text", TEXT), ("binary", BINARY)] {
        let client = [begun.clone(), Frame::new(opcode, b"x").bytes()];
        table.bad(format!("5.18 new {name} in the middle"), &client, 1002);
    }
    let binary = Frame { is_final: false, ..Frame::new(BINARY, b"x") }.bytes();
    table.bad("5.19 fragmented binary", &[binary], 1003);
    let client = [begun.clone(), close_with(1000, "")];
    table.bad("5.20 close in the middle", &client, 1000);
    table.bad("5.20 close without a code in the middle", &[begun, close("")], 0);
}

fn text_encoding(table: &mut Table) {
    for (index, valid) in utf8::valid().iter().enumerate() {
        let name = format!("6.2 valid {index} {valid:x?}");
        table.good(&name, &[text(valid)], vec![Expected::Refusal]);
        for cut in 1..valid.len() {
            let client = fragments(TEXT, &[&valid[..cut], &valid[cut..]]);
            table.good(format!("{name} cut at {cut}"), &client, vec![Expected::Refusal]);
        }
    }
    for (index, invalid) in utf8::invalid().iter().enumerate() {
        let name = format!("6.3 invalid {index} {invalid:x?}");
        table.bad(&name, &[text(invalid)], 1007);
        let around = [b"\xce\xba", invalid.as_slice(), b"edited"].concat();
        table.bad(format!("{name} in the middle"), &[text(&around)], 1007);
        for cut in 0..invalid.len() {
            let client = fragments(TEXT, &[&invalid[..cut], &invalid[cut..]]);
            table.bad(format!("{name} cut at {cut}"), &client, 1007);
        }
        // Told at the fragment that breaks it, though the message goes on.
        let begun = Frame { is_final: false, ..Frame::new(TEXT, &around) }.bytes();
        table.bad(format!("6.4 {name} at once"), &[begun], 1007);
    }
    let mixed = "aκbόσ\u{20ac}\u{10ffff}με".as_bytes();
    for bytes in 1..=7 {
        let parts: Vec<&[u8]> = mixed.chunks(bytes).collect();
        let name = format!("6.2 fragments of {bytes}");
        table.good(name, &fragments(TEXT, &parts), vec![Expected::Refusal]);
    }
    let command = r#"{"type":"ping","x":"κόσμε\u0000"}"#;
    for cut in 1..command.len() {
        let parts = [&command.as_bytes()[..cut], &command.as_bytes()[cut..]];
        table.good(format!("6.2 command cut at {cut}"), &fragments(TEXT, &parts), vec![answer()]);
    }
}

fn closing(table: &mut Table) {
    table.bad("7.1 close without a code", &[close("")], 0);
    table.bad("7.1 close, then close", &[close_with(1000, ""), close_with(1001, "")], 1000);
    table.bad("7.1 close, then ping", &[close_with(1000, ""), ping("late")], 1000);
    table.bad("7.1 close, then a command", &[close_with(1000, ""), text(COMMAND)], 1000);
    table.bad("7.1 close, then garbage", &[close_with(1000, ""), vec![0xff; 40]], 1000);
    table.bad("7.3 close of one byte", &[close(b"\x03")], 1002);
    table.bad("7.3 close with a reason", &[close_with(1000, "Hello Wörld!")], 1000);
    table.bad("7.3 close with the longest reason", &[close_with(1000, "r".repeat(123))], 1000);
    table.bad("7.3 close with too long a reason", &[close_with(1000, "r".repeat(124))], 1002);
    table.bad("7.5 close with a broken reason", &[close_with(1000, b"\xce\xba\xe1\xbd")], 1007);
    for code in (1000..=1003).chain(1007..=1014).chain([3000, 3999, 4000, 4999]) {
        table.bad(format!("7.7 code {code}"), &[close_with(code, "")], code);
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        table.bad(format!("7.9 code {code}"), &[close_with(code, "")], 1002);
        table.bad(format!("7.9 code {code} with a reason"), &[close_with(code, "why")], 1002);
    }
    table.case(
        "7 answers before the close",
        &[text(COMMAND), close("")],
        vec![answer(), closed(0)],
    );
}

fn limits(table: &mut Table) {
    let most = client_message_bytes_max(PAYLOAD_BYTES_MAX);
    table.bad("9.1 text over the limit", &[text(command_of(most + 1))], 1009);
    let long = command_of(most);
    let parts: Vec<&[u8]> = long.as_bytes().chunks(1_000).collect();
    table.good("9.2 fragments up to the limit", &fragments(TEXT, &parts), vec![answer()]);
    let long = command_of(most + 1);
    let parts: Vec<&[u8]> = long.as_bytes().chunks(1_000).collect();
    table.bad("9.3 fragments over the limit", &fragments(TEXT, &parts), 1009);
    // Told by the header, before any payload is there.
    let head = Frame::new(TEXT, b"");
    for length in [most as u64 + 1, 1 << 32, (1 << 63) - 1, 1 << 63, u64::MAX] {
        let client = head.bytes_with_length(127, &length.to_be_bytes());
        table.bad(format!("9.4 a length of {length}"), &[client], 1009);
    }
    for (name, opcode) in [("ping", PING), ("close", CLOSE)] {
        let client = Frame::new(opcode, b"").bytes_with_length(127, &u64::MAX.to_be_bytes());
        table.bad(format!("9.5 an endless {name}"), &[client], 1002);
    }
}
