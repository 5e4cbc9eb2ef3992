//! Bodies that push users: read piece by piece, whole or not at all. A body may be large, so what was
//! read of it is let go while the rest is.

use std::io::{self, Read};

use axum::body::Body;
use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::spawn_blocking;

use super::State;
use super::error::{bad_request, conflict, managed_by_panel, not_found, not_supported};
use super::input::unreadable;
use super::ports::{PushError, PushedUsers};
use super::wire::requests::{Metadata, RatePatch, User, UserPatchRequest};
use super::wire::special::Object;
use crate::base::redact;
use crate::http::HttpError;
use crate::model::pushed::{Change, PushedId, PushedPatch, PushedUser, Quota, Rate};

/// Longest id, in bytes: it is part of paths, and kept with each user.
const ID_BYTES_MAX: usize = 128;
/// Longest id that a message repeats, in characters.
const ID_CHARS_MAX: usize = 80;

/// Pieces of a body that wait to be read: a MiB at most, by the size in which they come.
const PIECES_MAX: usize = 16;

/// The pushed users, or why there are none.
pub(super) fn users(state: &State) -> Result<&dyn PushedUsers, HttpError> {
    let users = state.ports().users.as_deref();
    users.ok_or_else(|| {
        not_supported(
            "users can be pushed to an agent that changes a running Xray; set mode = \"xray-grpc\" \
             under [apply] (APPLY_MODE)",
        )
    })
}

/// What is answered where a push was not taken.
pub(super) fn refusal(error: &PushError) -> HttpError {
    let message = redact::uuids(&error.to_string());
    match error {
        PushError::Exists(_) | PushError::TooManyGone { .. } => conflict(message),
        PushError::Unknown(_) => not_found(message),
        PushError::Unfit(..) | PushError::Twice(_) => bad_request(message),
        PushError::Store(cause) => HttpError::internal(cause),
    }
}

/// That the panel decides of that user, not who pushes.
pub(super) fn managed() -> HttpError {
    managed_by_panel(
        "this user is of the polled panel, which alone decides of him; change him there",
    )
}

/// A user within an array, changed to what is kept as soon as he is read.
struct Taken(PushedUser);

impl<'de> Deserialize<'de> for Taken {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        let Object(user) = Object::<User>::deserialize(source)?;
        pushed(user).map(Self).map_err(serde::de::Error::custom)
    }
}

/// Reads an array of users.
pub(super) async fn array(body: Body) -> Result<Vec<PushedUser>, HttpError> {
    let users: Vec<Taken> = large(body).await?;
    Ok(users.into_iter().map(|it| it.0).collect())
}

/// Reads a large body on a thread of its own while it comes.
pub(super) async fn large<T: DeserializeOwned + Send + 'static>(
    body: Body,
) -> Result<T, HttpError> {
    let (pieces, coming) = channel(PIECES_MAX);
    let read = spawn_blocking(move || serde_json::from_reader(Pieces::of(coming)));
    let came = feed(body, pieces).await;
    let read = read.await.map_err(|e| HttpError::internal(&e))?;
    // A body that broke off is no JSON either, but that is not what is wrong with it.
    came?;
    read.map_err(|e| unreadable(&e))
}

/// Hands a body over piece by piece, as fast as it is read.
async fn feed(mut body: Body, pieces: Sender<Bytes>) -> Result<(), HttpError> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| bad_request(format!("the body cannot be read: {e}")))?;
        let Ok(piece) = frame.into_data() else {
            continue;
        };
        // Whoever reads has seen that it is wrong.
        if pieces.send(piece).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// A body that comes in pieces, each let go when it was read.
struct Pieces {
    coming: Receiver<Bytes>,
    now: Bytes,
}

impl Pieces {
    fn of(coming: Receiver<Bytes>) -> Self {
        Self {
            coming,
            now: Bytes::new(),
        }
    }
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.now.is_empty() {
            match self.coming.blocking_recv() {
                Some(piece) => self.now = piece,
                None => return Ok(0),
            }
        }
        let length = self.now.len().min(into.len());
        self.now.copy_to_slice(&mut into[..length]);
        Ok(length)
    }
}

/// What is kept of a user who was sent; why he cannot be kept, in words without his secrets.
pub(super) fn pushed(user: User) -> Result<PushedUser, String> {
    check_id(&user.id)?;
    check_facts(&user.id, &user.metadata)?;
    let traffic = user.traffic.unwrap_or_default();
    let rate = user.rate.unwrap_or_default();
    Ok(PushedUser {
        id: PushedId(user.id.into()),
        username: user.username,
        password: user.password,
        quota: Quota {
            allocated: traffic.allocated.unwrap_or_default(),
            used: traffic.used.unwrap_or_default(),
        },
        rate: Rate {
            up: rate.up.on(None),
            down: rate.down.on(None),
        },
        metadata: facts(user.metadata),
        tags: user.tags,
    })
}

/// What is to change of a user.
pub(super) fn patch(id: &str, asked: UserPatchRequest) -> Result<PushedPatch, HttpError> {
    if let Some(metadata) = &asked.metadata {
        check_facts(id, metadata).map_err(bad_request)?;
    }
    let RatePatch { up, down } = asked.rate.unwrap_or(RatePatch {
        up: Change::Keep,
        down: Change::Keep,
    });
    let traffic = asked.traffic.unwrap_or_default();
    Ok(PushedPatch {
        password: asked.password,
        allocated: traffic.allocated,
        used: traffic.used,
        up,
        down,
        metadata: asked.metadata.map(facts),
        tags: asked.tags,
    })
}

/// What is null is no fact.
fn facts(mut metadata: Metadata) -> Metadata {
    metadata.retain(|_, value| !value.is_null());
    metadata
}

fn check_id(id: &str) -> Result<(), String> {
    if id.is_empty() {
        return Err("a user has an empty id; give each one of its own".to_owned());
    }
    if id.len() > ID_BYTES_MAX || id.chars().any(char::is_control) {
        let id = redact::line(id, ID_CHARS_MAX);
        return Err(format!(
            "the id {id:?} is longer than {ID_BYTES_MAX} bytes or holds control characters; give another"
        ));
    }
    Ok(())
}

fn check_facts(id: &str, metadata: &Metadata) -> Result<(), String> {
    let nested = metadata
        .iter()
        .find(|(_, value)| value.is_object() || value.is_array());
    let Some((name, _)) = nested else {
        return Ok(());
    };
    let (id, name) = (
        redact::uuids(&redact::line(id, ID_CHARS_MAX)),
        redact::line(name, ID_CHARS_MAX),
    );
    Err(format!(
        "user {id}: metadata.{name} is no text, number, boolean or null; send it as text"
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    async fn read(text: &str) -> Result<Vec<PushedUser>, HttpError> {
        array(Body::from(text.to_owned())).await
    }

    #[tokio::test]
    async fn what_the_real_panel_sends_is_kept() {
        let sent = json!([{
            "id": "17",
            "username": "7a1c3c3e-6f0e-4a53-8d0b-1b1f7c3a9d10",
            "password": "pass",
            "traffic": {"allocated": 5, "used": 2},
            "rate": {"up": 7, "down": null},
            "metadata": {"subscription_id": 9, "note": null},
            "more": [{}],
        }]);
        let users = read(&sent.to_string()).await.unwrap();
        let [user] = &users[..] else {
            panic!("{users:?}")
        };
        assert_eq!((&*user.id.0, user.password.expose()), ("17", "pass"));
        assert_eq!(
            user.quota,
            Quota {
                allocated: 5,
                used: 2
            }
        );
        assert_eq!((user.rate.up, user.rate.down), (Some(7), None));
        let facts = [("subscription_id".to_owned(), json!(9))];
        assert_eq!(user.metadata, facts.into());
    }

    #[tokio::test]
    async fn one_wrong_user_refuses_all_of_them_without_a_secret() {
        let good = r#"{"id":"1","username":"u","password":"canary"}"#;
        for (bad, why) in [
            (
                r#"{"id":"","username":"u","password":"canary"}"#,
                "empty id",
            ),
            (
                r#"{"id":"2","password":"canary"}"#,
                "missing field `username`",
            ),
            (
                r#"{"id":"2","username":"u","password":"canary","metadata":{"a":{}}}"#,
                "user 2: metadata.a is no text",
            ),
            (r#"["2","u","canary"]"#, "expected an object"),
            (
                r#"{"id":"2","username":"u","password":"canary","rate":[null,null]}"#,
                "expected an object",
            ),
            (
                r#"{"id":"2","username":"u","password":"canary","traffic":null}"#,
                "expected an object",
            ),
            ("canary", "expected value"),
            ("", "trailing comma"),
        ] {
            let error = read(&format!("[{good},{bad}]")).await.unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
            assert!(!error.to_string().contains("canary"), "{error}");
            assert_eq!(error.code(), "BAD_REQUEST");
        }
        assert!(read(&format!("[{good}")).await.is_err());
        assert!(read(&format!("[{good}]]")).await.is_err());
        assert_eq!(read(&format!("[{good}] ")).await.unwrap().len(), 1);
    }

    proptest! {
        #[test]
        fn pieces_are_read_as_the_whole(pieces: Vec<Vec<u8>>) {
            let whole = pieces.concat();
            let (sender, coming) = channel(pieces.len().max(1));
            for piece in pieces {
                sender.try_send(Bytes::from(piece)).unwrap();
            }
            drop(sender);
            let mut read = Vec::new();
            Pieces::of(coming).read_to_end(&mut read).unwrap();
            prop_assert_eq!(read, whole);
        }
    }
}
