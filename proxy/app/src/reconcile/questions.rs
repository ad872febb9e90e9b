//! Questions whether everything is as it should be, and what a look has found.
//!
//! Every question gets what a look finds that began after it; those that come while one is on its
//! way share the next. None is lost that comes before anybody listens: a gateway's endpoint opens
//! before its loop runs.

use serde_json::Value;
use tokio::sync::watch;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Questions {
    /// How many have asked.
    asked: watch::Sender<u64>,
    /// What was found last, and how many had asked before that look began.
    found: watch::Sender<(u64, Value)>,
}

impl Questions {
    /// What a look finds that begins now or later.
    pub(super) async fn ask(&self) -> Value {
        let (mut found, mut mine) = (self.found.subscribe(), 0);
        self.asked.send_modify(|count| {
            *count += 1;
            mine = *count;
        });
        let looked = found.wait_for(|(asked, _)| *asked >= mine).await.map(|found| found.1.clone());
        // The sender is this one's own.
        looked.unwrap_or_default()
    }

    /// Waits until more than these have asked, and says how many have.
    pub(super) async fn more(&self, answered: u64) -> u64 {
        let mut asked = self.asked.subscribe();
        asked.wait_for(|asked| *asked > answered).await.map_or(answered, |asked| *asked)
    }

    /// What a look has found that began when so many had asked.
    pub(super) fn found(&self, asked: u64, found: Value) {
        self.found.send_replace((asked, found));
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn a_question_that_comes_before_anybody_listens_is_answered() {
        let questions = Questions::default();
        let mut context = Context::from_waker(Waker::noop());
        let (mut first, mut second) = (pin!(questions.ask()), pin!(questions.ask()));
        assert_eq!(first.as_mut().poll(&mut context), Poll::Pending);
        let more = pin!(questions.more(0)).poll(&mut context);
        assert_eq!(more, Poll::Ready(1));
        // This one comes after that look began.
        assert_eq!(second.as_mut().poll(&mut context), Poll::Pending);
        questions.found(1, "the first".into());
        assert_eq!(first.poll(&mut context), Poll::Ready("the first".into()));
        assert_eq!(second.as_mut().poll(&mut context), Poll::Pending);
        assert_eq!(pin!(questions.more(1)).poll(&mut context), Poll::Ready(2));
        questions.found(2, "the second".into());
        assert_eq!(second.poll(&mut context), Poll::Ready("the second".into()));
        assert_eq!(pin!(questions.more(2)).poll(&mut context), Poll::Pending);
    }
}
