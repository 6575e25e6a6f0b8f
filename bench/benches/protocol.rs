//! What stands between a socket and a shard's core: parsing and encoding.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pushflo_protocol::dialect::Encoding;
use pushflo_protocol::dialect::pushflo::Command;
use pushflo_protocol::http::{Progress, RequestReader, Response};
use pushflo_protocol::publish::Publish;
use pushflo_protocol::websocket::MessageReader;
use pushflo_protocol::{ChannelSlug, MessageId, Offset, Parts, Record};

fn content(bytes: usize) -> String {
    format!(r#"{{"pad":"{}"}}"#, "x".repeat(bytes - 10))
}

fn encode(c: &mut Criterion) {
    let channel = ChannelSlug::parse("orders").unwrap();
    for bytes in [200, 16_384] {
        let content = content(bytes);
        c.benchmark_group("encode").throughput(Throughput::Bytes(bytes as u64)).bench_function(
            format!("message of {bytes} B"),
            |b| {
                let record = Record {
                    id: MessageId::new(1_700_000_000_000, 1),
                    offset: Offset(1_000),
                    prev: Offset(999),
                    timestamp_ms: 1_700_000_000_000,
                    parts: Parts::new("message", None, &content),
                };
                b.iter(|| {
                    let mut frame = Vec::with_capacity(bytes + 256);
                    Encoding::PushFlo.push_record(black_box(&channel), &record, &mut frame);
                    frame
                });
            },
        );
    }
}

fn parse(c: &mut Criterion) {
    for bytes in [200, 16_384] {
        let body = format!(r#"{{"channel":"orders","event":"e","data":{}}}"#, content(bytes));
        let request = format!(
            "POST /api/v1/publish HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer sec_x\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut group = c.benchmark_group("parse");
        group.throughput(Throughput::Bytes(request.len() as u64));
        group.bench_function(format!("request of {bytes} B"), |b| {
            let mut reader = RequestReader::default();
            b.iter(|| match reader.read(black_box(request.as_bytes()), |_, _| Ok(64 * 1024)) {
                Ok(Progress::Request(request, taken)) => taken + request.body.len(),
                _ => unreachable!(),
            });
        });
        group.bench_function(format!("publish of {bytes} B"), |b| {
            b.iter(|| Publish::parse(black_box(body.as_bytes()), 64 * 1024).unwrap().content.len());
        });
    }
    let command = r#"{"type":"subscribe","channel":"orders:user-123"}"#;
    c.bench_function("parse/command", |b| {
        b.iter(|| Command::parse(black_box(command), 32_768).unwrap())
    });
    let body = br#"{"success":true,"data":{"id":"01M86RY7XA2JPRGG37EDMD5DPH"}}"#;
    c.bench_function("encode/response", |b| {
        let mut out = Vec::with_capacity(1024);
        b.iter(|| {
            out.clear();
            Response {
                status: 200,
                content_type: Some("application/json"),
                headers: &[],
                body: black_box(body),
                keep_alive: true,
                head_only: false,
            }
            .encode("Sun, 06 Nov 1994 08:49:37 GMT", &mut out);
            out.len()
        });
    });
}

fn unmask(c: &mut Criterion) {
    for bytes in [48usize, 4_096] {
        let mut frame = vec![0x81];
        if bytes < 126 {
            frame.push(0x80 | bytes as u8);
        } else {
            frame.push(0x80 | 126);
            frame.extend((bytes as u16).to_be_bytes());
        }
        // The mask undoes itself in every other read, so a mask of zero keeps the text valid.
        frame.extend([0; 4]);
        frame.resize(frame.len() + bytes, b'x');
        c.benchmark_group("websocket").throughput(Throughput::Bytes(bytes as u64)).bench_function(
            format!("frame of {bytes} B"),
            |b| {
                let mut reader = MessageReader::default();
                b.iter(|| reader.read(black_box(&mut frame), usize::MAX).unwrap().is_some());
            },
        );
    }
}

criterion_group!(benches, encode, parse, unmask);
criterion_main!(benches);
