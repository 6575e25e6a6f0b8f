//! What happens in a run, in readable lines: printed for a seed that is run alone, kept for the end of
//! one that fails, and otherwise not even made.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

/// What becomes of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    Off,
    Print,
    /// The last ones are kept.
    Keep,
}

/// Lines that are kept.
const KEPT_MAX: usize = 60;

/// A line is cut behind so many characters.
const LINE_CHARACTERS_MAX: usize = 240;

thread_local! {
    static TRACE: Cell<Trace> = const { Cell::new(Trace::Off) };
    static KEPT: RefCell<VecDeque<String>> = const { RefCell::new(VecDeque::new()) };
}

/// Sets what becomes of the lines of this thread.
pub fn set(trace: Trace) {
    TRACE.set(trace);
    KEPT.take();
}

/// Says what happens.
pub fn say(line: impl FnOnce() -> String) {
    let trace = TRACE.get();
    if trace == Trace::Off {
        return;
    }
    let line: String = line().chars().take(LINE_CHARACTERS_MAX).collect();
    if trace == Trace::Print {
        println!("{line}");
        return;
    }
    KEPT.with_borrow_mut(|kept| {
        kept.push_back(line);
        if kept.len() > KEPT_MAX {
            kept.pop_front();
        }
    });
}

/// The last lines.
pub fn kept() -> Vec<String> {
    KEPT.take().into()
}
