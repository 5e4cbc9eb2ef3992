//! Posts that must not be sent twice (`model/delivery`): what of them surely was not sent is told apart.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::call::{Answer, End};
use super::client::EgressClient;
use super::error::EgressError;
use super::post::{call, head_of};
use crate::model::delivery::{PostForAnswer, PostReply, PostRequest, Unanswered};

/// Whoever calls sets the deadline; this is a bound against none.
const TAKES_MAX: Duration = Duration::from_mins(1);

impl PostForAnswer for EgressClient {
    fn post_for_answer(
        &self,
        request: PostRequest,
        body_bytes_max: usize,
    ) -> BoxFuture<'_, Result<PostReply, Unanswered>> {
        Box::pin(async move {
            let call = call(&request, TAKES_MAX, body_bytes_max).map_err(Unanswered::NotSent)?;
            match self.send(call).await {
                Ok(answer) => Ok(reply(&answer)),
                Err(EgressError::Lost { target, cause }) => {
                    let lost = EgressError::Lost { target, cause };
                    Err(Unanswered::Lost(lost.to_string()))
                }
                Err(unsent) => Err(Unanswered::NotSent(unsent.to_string())),
            }
        })
    }
}

fn reply(answer: &Answer) -> PostReply {
    PostReply {
        answer: head_of(answer),
        body: answer.body.clone(),
        is_whole: answer.end == End::Whole,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener};

    use bytes::Bytes;

    use super::super::Policy;
    use super::*;
    use crate::base::secret::Secret;
    use crate::model::delivery::Origin;

    /// Answers one request so, and ends.
    fn answering(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut text, mut buffer) = (String::new(), [0; 1024]);
            while !text.ends_with("{body}") {
                let read = stream.read(&mut buffer).unwrap();
                text += std::str::from_utf8(&buffer[..read]).unwrap();
            }
            assert!(text.contains("x-event-id: 7"), "{text}");
            stream.write_all(answer.as_bytes()).unwrap();
        });
        address
    }

    async fn posted(address: SocketAddr) -> Result<PostReply, Unanswered> {
        let client = EgressClient::new(Policy::anything(), None).unwrap();
        let request = PostRequest {
            url: format!("http://{address}/canary"),
            origin: Origin::Configuration,
            headers: vec![("x-event-id", Secret::new("7"))],
            body: Bytes::from_static(b"{body}"),
        };
        client.post_for_answer(request, 4).await
    }

    #[tokio::test]
    async fn an_answer_is_read_up_to_its_bound() {
        for (answer, body, is_whole) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "{}", true),
            (
                "HTTP/1.1 429 X\r\nRetry-After: 3\r\nContent-Length: 5\r\n\r\n12345",
                "1234",
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n12",
                "12",
                false,
            ),
        ] {
            let reply = posted(answering(answer)).await.unwrap();
            assert_eq!((&*reply.body, reply.is_whole), (body.as_bytes(), is_whole));
            let pause = answer.contains("429").then(|| "3".to_owned());
            assert_eq!(reply.answer.retry_after, pause);
        }
    }

    #[tokio::test]
    async fn what_was_not_sent_is_told_from_what_may_have_arrived() {
        let lost = posted(answering("")).await.unwrap_err();
        assert!(
            matches!(&lost, Unanswered::Lost(why) if !why.contains("canary")),
            "{lost:?}"
        );
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let nobody = listener.local_addr().unwrap();
        drop(listener);
        let unsent = posted(nobody).await.unwrap_err();
        assert!(
            matches!(&unsent, Unanswered::NotSent(why) if !why.contains("canary")),
            "{unsent:?}"
        );
    }
}
