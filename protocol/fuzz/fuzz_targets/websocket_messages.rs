//! Messages that a model client fragments and masks come out as they went in, control frames
//! between them in their places.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use pushflo_protocol::limits::{
    CONTROL_PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MAX, client_message_bytes_max,
};
use pushflo_protocol::websocket::{MessageReader, Received};

const MESSAGE_BYTES_MAX: usize = client_message_bytes_max(PAYLOAD_BYTES_MAX);

#[derive(Arbitrary, Debug)]
struct Step {
    text: String,
    cuts: Vec<u8>,
    mask: [u8; 4],
    ping: Option<Vec<u8>>,
}

fn frame(out: &mut Vec<u8>, first: u8, payload: &[u8], mask: [u8; 4]) {
    out.push(first);
    match payload.len() {
        length @ 0..=125 => out.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend((length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend((length as u64).to_be_bytes());
        }
    }
    out.extend(mask);
    for (index, byte) in payload.iter().enumerate() {
        out.push(byte ^ mask[index % 4]);
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let (mut bytes, mut expected) = (Vec::new(), Vec::new());
    for step in &steps {
        let text = step.text.as_bytes();
        if text.len() > MESSAGE_BYTES_MAX {
            return;
        }
        let (mut rest, mut first) = (text, 0x01);
        for cut in &step.cuts {
            let (part, after) = rest.split_at(usize::from(*cut) % (rest.len() + 1));
            frame(&mut bytes, first, part, step.mask);
            expected.push("Fragment".to_owned());
            (rest, first) = (after, 0x00);
            if let Some(ping) = &step.ping {
                let ping = &ping[..ping.len().min(CONTROL_PAYLOAD_BYTES_MAX)];
                frame(&mut bytes, 0x89, ping, step.mask);
                expected.push(format!("Ping({ping:?})"));
            }
        }
        frame(&mut bytes, 0x80 | first, rest, step.mask);
        expected.push(format!("{:?}", Received::Text(&step.text)));
    }
    let (mut reader, mut at) = (MessageReader::default(), 0);
    for expected in expected {
        let (taken, received) =
            reader.read(&mut bytes[at..], MESSAGE_BYTES_MAX).expect("no error").expect("a whole frame");
        assert_eq!(format!("{received:?}"), expected);
        at += taken;
    }
    assert_eq!(at, bytes.len());
    assert!(reader.is_idle());
});
