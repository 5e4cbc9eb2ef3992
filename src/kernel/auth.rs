//! Who gets in: by a basic credential or a bearer's token, compared in constant time, or anybody
//! where the configuration says so. Kept here: no route under `/v1` is reached by anybody else.

use axum::extract::{Request, State as From};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, StatusCode, header};

use super::State;
use crate::base::secret::Secret;
use crate::config::Kernel;
use crate::http::{Client, HttpError, Identity};

/// What is asked for (RFC 7617).
const CHALLENGE: &str = "Basic realm=\"kernel\"";
/// Padding is not needed to tell what was meant.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A credential as it was shown.
enum Shown {
    Basic(Secret, Secret),
    Bearer(Secret),
}

/// Lets a request in, as whoever it comes from, or answers 401.
pub(super) async fn admit(From(state): From<State>, mut request: Request, next: Next) -> Response {
    let config = state.ports().agent.config();
    let client = request.extensions().get::<Client>().cloned();
    let credential = shown(request.headers());
    let known = credential.and_then(|shown| identify(&config.kernel, &shown));
    if let (Some(_), Some(client)) = (&known, &client) {
        client.authenticated();
    }
    let anybody = || {
        let peer = client.map_or_else(String::new, |client| client.peer().ip().to_string());
        let open = config.kernel.allow_insecure;
        open.then(|| Identity(format!("ip:{peer}").into()))
    };
    match known.or_else(anybody) {
        Some(identity) => {
            request.extensions_mut().insert(identity);
            next.run(request).await
        }
        None => refused(&config.kernel).into_response(),
    }
}

fn refused(kernel: &Kernel) -> HttpError {
    let message = if kernel.is_on() {
        "send the node's credential: «Authorization: Basic …» with access_key:secret_key, or \
         «Authorization: Bearer …» with the token"
    } else {
        "this surface is off until a credential is configured: set access_key and secret_key, or \
         token, under [kernel] (KERNEL_ACCESS_KEY and KERNEL_SECRET_KEY, or KERNEL_TOKEN)"
    };
    HttpError::new(StatusCode::UNAUTHORIZED, message).challenging(CHALLENGE)
}

/// Who has that credential.
fn identify(kernel: &Kernel, shown: &Shown) -> Option<Identity> {
    match shown {
        Shown::Bearer(token) => (kernel.token.as_ref()? == token).then(|| Identity("token".into())),
        Shown::Basic(user, password) => {
            let name = kernel.access_key.as_ref()?;
            // Both are compared, whatever the first comes to.
            let is_user = Secret::new(name.as_str()) == *user;
            let is_password = kernel.secret_key.as_ref()? == password;
            (is_user & is_password).then(|| Identity(format!("api-key:{name}").into()))
        }
    }
}

/// The one credential of a request; of several, none.
fn shown(head: &HeaderMap) -> Option<Shown> {
    let mut all = head.get_all(header::AUTHORIZATION).into_iter();
    let (Some(only), None) = (all.next(), all.next()) else {
        return None;
    };
    let (scheme, rest) = only.to_str().ok()?.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") && !rest.is_empty() {
        return Some(Shown::Bearer(Secret::new(rest)));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let bytes = STANDARD.decode(rest).or_else(|_| LENIENT.decode(rest));
    let pair = Secret::new(String::from_utf8(bytes.ok()?).ok()?);
    let (user, password) = pair.expose().split_once(':')?;
    Some(Shown::Basic(Secret::new(user), Secret::new(password)))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn kernel() -> Kernel {
        Kernel {
            access_key: Some("panel".into()),
            secret_key: Some(Secret::new("s3cret:with-colon")),
            token: Some(Secret::new("t0ken")),
            ..Kernel::default()
        }
    }

    fn known(kernel: &Kernel, lines: &[&str]) -> Option<String> {
        let mut head = HeaderMap::new();
        for line in lines {
            let value = HeaderValue::from_str(line).unwrap();
            head.append(header::AUTHORIZATION, value);
        }
        let identity = shown(&head).and_then(|it| identify(kernel, &it));
        identity.map(|it| it.0.to_string())
    }

    fn basic(pair: &str) -> String {
        format!("Basic {}", STANDARD.encode(pair))
    }

    #[test]
    fn a_right_credential_tells_who_asks() {
        let kernel = kernel();
        let right = basic("panel:s3cret:with-colon");
        assert_eq!(known(&kernel, &[&right]).as_deref(), Some("api-key:panel"));
        let unpadded = right.trim_end_matches('=').replace("Basic", "basic");
        assert_eq!(
            known(&kernel, &[&unpadded]).as_deref(),
            Some("api-key:panel")
        );
        for line in ["Bearer t0ken", "BEARER t0ken", "bearer  t0ken "] {
            assert_eq!(known(&kernel, &[line]).as_deref(), Some("token"), "{line}");
        }
    }

    #[test]
    fn anything_else_is_nobody() {
        let kernel = kernel();
        let wrong = [
            String::new(),
            "Bearer".to_owned(),
            "Bearer ".to_owned(),
            "Bearer t0ke".to_owned(),
            "Bearer s3cret:with-colon".to_owned(),
            "t0ken".to_owned(),
            "Basic t0ken".to_owned(),
            basic("panel"),
            basic("panel:"),
            basic(":s3cret:with-colon"),
            basic("panel:t0ken"),
            basic("token:t0ken"),
        ];
        for line in &wrong {
            assert_eq!(known(&kernel, &[line]), None, "{line}");
        }
        assert_eq!(known(&kernel, &["Bearer t0ken", "Bearer t0ken"]), None);
        let off = Kernel::default();
        for line in ["Bearer ", "Basic Og=="] {
            assert_eq!(known(&off, &[line]), None, "{line}");
        }
    }
}
