//! `pushflo-loadgen`: puts load on a running server, checks every message, and says what it cost.
//!
//! * [`options`], [`plan`]: what the user typed becomes one plan with every parameter in it
//! * [`run`]: the phases of a run, from connecting to the last message
//! * [`worker`]: a thread with its connections: [`subscriber`]s and [`publisher`]s
//! * [`driver`]: what PushFlo and other servers speak
//! * [`process`]: what the server's process used, [`report`], [`html`]: what people and
//!   programs read
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "the next line says it all"))]
#[cfg(not(target_os = "linux"))]
compile_error!("pushflo-loadgen runs on Linux only: it needs epoll and file tables per thread");

mod cache;
mod clock;
mod driver;
mod frame;
mod html;
mod options;
mod payload;
mod plan;
mod process;
mod publisher;
mod report;
mod run;
mod socket;
mod subscriber;
mod worker;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let options = options::Options::parse();
    match run::run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(2),
        Err(error) => {
            eprintln!("pushflo-loadgen: {error}");
            ExitCode::FAILURE
        }
    }
}
