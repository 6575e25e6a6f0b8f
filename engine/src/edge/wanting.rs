//! Handshakes of clients for whom this node has no connection left of what the app's plan has: they wait until
//! other nodes have lent it some, or it is clear that there are no more.

use std::fmt;

use super::Edge;
use crate::accounts::plan::limit;
use crate::accounts::{Resource, Taken};
use crate::api::Upgrade;
use crate::context::Context;
use crate::ids::{AppId, RequestId};
use crate::mail::{Answered, no_room, not_now};
use crate::share;
use pushflo_protocol::Refusal;

/// Handshakes of a shard that wait; its apps share them.
const WAITING_MAX: usize = 4096;

/// How long one waits at most, in milliseconds.
const WAIT_MAX_MS: u64 = 3_000;

/// A handshake that waits.
pub(super) struct Waiting {
    request: RequestId,
    app: AppId,
    since_ms: u64,
    upgrade: Box<Upgrade>,
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").field("app", &self.app).finish_non_exhaustive()
    }
}

impl Edge {
    /// Goes on with a handshake, at once or when it is known whether the app may have one more connection.
    ///
    /// # Errors
    /// It cannot be known for the moment.
    pub(super) fn begin_upgrade(
        &mut self,
        cx: &mut Context,
        request: RequestId,
        upgrade: Box<Upgrade>,
    ) -> Result<(), Refusal> {
        let Ok((access, _)) = &upgrade.admitted else {
            return self.upgrade(cx, request.connection, *upgrade);
        };
        let (app, most) = (access.app.clone(), access.app.plan.connections_max);
        match app.usage.look_at_connections(most) {
            Taken::Yes | Taken::No => self.upgrade(cx, request.connection, *upgrade),
            Taken::NotNow => Err(not_now(limit::CONNECTIONS)),
            Taken::Ask => {
                let of_app = self.wanting.iter().filter(|waiting| waiting.app == app.id).count();
                if !share::has_room(of_app, self.wanting.len(), WAITING_MAX) {
                    return Err(no_room());
                }
                // Nothing is done of what comes before the answer.
                if let Some(answer) = self.pending_answer(request.connection, request.sequence) {
                    answer.last = true;
                }
                cx.want(&app, Resource::Connections, most);
                let (app, since_ms) = (app.id, cx.now.elapsed_ms);
                self.wanting.push(Waiting { request, app, since_ms, upgrade });
                Ok(())
            }
        }
    }

    /// Has what waits for an app be tried again.
    pub(crate) fn try_again(&mut self, cx: &mut Context, app: AppId) {
        let waiting: Vec<_> = self.wanting.extract_if(.., |waiting| waiting.app == app).collect();
        for Waiting { request, since_ms, upgrade, .. } in waiting {
            // It may be gone.
            let Some(answer) = self.pending_answer(request.connection, request.sequence) else {
                continue;
            };
            answer.last = false;
            if let Err(refusal) = self.begin_upgrade(cx, request, upgrade) {
                self.answered(cx, Answered { request, outcome: Err(refusal) });
            } else if let Some(last) =
                self.wanting.last_mut().filter(|last| last.request == request)
            {
                last.since_ms = since_ms;
            }
        }
    }

    /// Refuses those who have waited for too long. To be called once a tick.
    pub(super) fn give_up_wanting(&mut self, cx: &mut Context) {
        let now_ms = cx.now.elapsed_ms;
        let is_late = |waiting: &mut Waiting| waiting.since_ms + WAIT_MAX_MS <= now_ms;
        let late: Vec<_> = self.wanting.extract_if(.., is_late).collect();
        for Waiting { request, .. } in late {
            let outcome = Err(not_now(limit::CONNECTIONS));
            self.answered(cx, Answered { request, outcome });
        }
    }
}
