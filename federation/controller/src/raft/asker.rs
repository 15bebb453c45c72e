//! The way to ask other members from within the group. The connections belong to a task, as they
//! keep the endpoint alive whose service has the group.

use bytes::Bytes;
use fabric_quic::env::Env;
use specs::unit::Millis;
use specs::wire::method::Method;
use tokio::sync::{mpsc, oneshot};

use super::Member;
use super::links::Links;

/// Questions that wait to be asked.
const QUEUE: usize = 64;

/// One question.
struct Question {
    member: Member,
    /// The class of the connection.
    class: &'static str,
    method: Method,
    body: Vec<u8>,
    span: Millis,
    answer: oneshot::Sender<Result<Bytes, String>>,
}

pub(crate) struct Asker {
    questions: mpsc::Sender<Question>,
}

impl Asker {
    pub(crate) fn new(env: &Env, links: Links) -> Self {
        let (questions, mut asked) = mpsc::channel::<Question>(QUEUE);
        let env = env.clone();
        env.clone().spawn(async move {
            while let Some(question) = asked.recv().await {
                env.spawn(put(links.clone(), question));
            }
        });
        Self { questions }
    }

    /// Asks a member over a connection of the class, for so long.
    pub(crate) async fn ask(
        &self,
        member: Member,
        class: &'static str,
        method: Method,
        body: Vec<u8>,
        span: Millis,
    ) -> Result<Bytes, String> {
        let (answer, answered) = oneshot::channel();
        let question = Question { member, class, method, body, span, answer };
        self.questions.send(question).await.map_err(|_| "this member is stopping")?;
        answered.await.map_err(|_| "this member is stopping")?
    }
}

async fn put(links: Links, question: Question) {
    let Question { member, class, method, body, span, answer } = question;
    let id = member.id.0;
    links.learn(id, &member.address);
    let asked = links.env().timeout(span, links.ask(id, class, method, body, span)).await;
    // No one waits when the time is up.
    let _ = answer.send(asked.unwrap_or_else(|_| Err("no answer in time".to_owned())));
}
