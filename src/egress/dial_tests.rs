//! The gate with names that change their minds, and connections on loopback.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{BoxFuture, ready};
use proptest::prelude::*;

use super::dial::alternate;
use super::{Cause, Class, EgressError, Gate, Names, Own, Policy, Target, Why};

/// A bound against hanging.
const LONG: Duration = Duration::from_secs(20);

/// Names with one answer after the other; a name that is asked once too often has none.
#[derive(Clone, Default)]
struct Scripted(Arc<Mutex<VecDeque<Vec<IpAddr>>>>);

impl Scripted {
    fn new(answers: &[&[&str]]) -> Self {
        let read = |answer: &&[&str]| answer.iter().map(|it| ip(it)).collect();
        Self(Arc::new(Mutex::new(answers.iter().map(read).collect())))
    }

    fn left(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl Names for Scripted {
    fn look_up(&self, _: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let answer = self.0.lock().unwrap().pop_front();
        Box::pin(ready(
            answer.ok_or_else(|| io::Error::other("asked too often")),
        ))
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn target(text: &str) -> Target {
    Target::parse(text).unwrap()
}

async fn check(own: Own, text: &str, answers: &[&[&str]]) -> Result<Vec<String>, EgressError> {
    let gate = Gate::with_names(Policy::near(own), Scripted::new(answers));
    let checked = gate.check(&target(text)).await?;
    Ok(checked
        .addresses()
        .iter()
        .map(ToString::to_string)
        .collect())
}

fn why(outcome: Result<Vec<String>, EgressError>) -> Why {
    match outcome {
        Err(EgressError::Refused {
            refusal,
            redirects: 0,
        }) => refusal.why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_name_is_looked_up_once_and_dialled_where_it_led_then() {
    let names = Scripted::new(&[&["127.0.0.1"], &["169.254.169.254"]]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let gate = Gate::with_names(Policy::near(Own::default()), names.clone());
    let target = target(&format!("rebinding.example:{}", at.port()));
    let checked = gate.check(&target).await.unwrap();
    assert_eq!(
        checked.connect(LONG).await.unwrap().peer_addr().unwrap(),
        at
    );
    assert_eq!(
        checked.connect(LONG).await.unwrap().peer_addr().unwrap(),
        at
    );
    assert_eq!(names.left(), 1);
    let refused = gate.check(&target).await.unwrap_err();
    assert_eq!(refused.class(), Class::Permanent);
}

#[tokio::test]
async fn one_forbidden_address_among_good_ones_refuses_them_all() {
    for bad in [
        "169.254.169.254",
        "fe80::1",
        "::ffff:169.254.0.1",
        "64:ff9b::a9fe:a9fe",
        "0.0.0.0",
    ] {
        for answer in [["1.1.1.1", bad], [bad, "1.1.1.1"]] {
            let outcome = check(Own::default(), "h:80", &[&answer]).await;
            assert!(matches!(why(outcome), Why::Closed(..)), "{bad}");
        }
    }
}

#[tokio::test]
async fn families_are_tried_in_turn_and_each_address_once() {
    let answer = [
        "2606:4700::1",
        "2606:4700::2",
        "1.1.1.1",
        "1.1.1.1",
        "2606:4700::3",
    ];
    let found = check(Own::default(), "h:80", &[&answer]).await.unwrap();
    let expected = [
        "[2606:4700::1]:80",
        "1.1.1.1:80",
        "[2606:4700::2]:80",
        "[2606:4700::3]:80",
    ];
    assert_eq!(found, expected);
    assert_eq!(alternate(&[]).count(), 0);
}

#[tokio::test]
async fn a_name_without_an_address_is_told_as_not_sent() {
    for answers in [&[&[] as &[&str]] as &[&[&str]], &[]] {
        let error = check(Own::default(), "nobody.example:80", answers)
            .await
            .unwrap_err();
        let is_name = matches!(
            &error,
            EgressError::NotSent {
                cause: Cause::Name { .. },
                ..
            }
        );
        assert!(is_name && error.class() == Class::Transient, "{error:?}");
    }
}

#[tokio::test]
async fn what_is_ours_by_name_is_found_wherever_that_leads() {
    let own = || Own::default().api(&target("xray.internal:10085"));
    let outcome = check(own(), "h:10085", &[&["172.18.0.2"], &["172.18.0.2"]]).await;
    assert_eq!(why(outcome), Why::Own(Some(ip("172.18.0.2"))));
    let outcome = check(own(), "172.18.0.2:10085", &[&["172.18.0.2"]]).await;
    assert_eq!(why(outcome), Why::Own(Some(ip("172.18.0.2"))));
    assert!(
        check(own(), "h:10085", &[&["172.18.0.3"], &["172.18.0.2"]])
            .await
            .is_ok()
    );
    // At another port nobody asks where it leads; where nobody knows, nothing is called.
    assert!(check(own(), "h:80", &[&["172.18.0.2"]]).await.is_ok());
    let outcome = check(own(), "h:10085", &[&["172.18.0.3"]]).await;
    assert!(
        matches!(outcome, Err(EgressError::NotSent { .. })),
        "{outcome:?}"
    );
    let outcome = check(own(), "xray.internal:10085", &[]).await;
    assert_eq!(why(outcome), Why::Own(None));
}

#[tokio::test]
async fn a_dead_address_does_not_keep_from_the_next() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at: SocketAddr = listener.local_addr().unwrap();
    let names = Scripted::new(&[&["127.0.0.2", "127.0.0.3", "127.0.0.1"]]);
    let gate = Gate::with_names(Policy::near(Own::default()), names);
    let checked = gate
        .check(&target(&format!("h:{}", at.port())))
        .await
        .unwrap();
    assert_eq!(
        checked.connect(LONG).await.unwrap().peer_addr().unwrap(),
        at
    );
    drop(listener);
    let error = checked.connect(LONG).await.unwrap_err();
    assert!(
        matches!(error, EgressError::NotSent { .. }) && !error.is_timeout(),
        "{error:?}"
    );
}

proptest! {
    #[test]
    fn what_passed_holds_no_forbidden_address(
        answer in prop::collection::vec(any::<[u8; 4]>(), 1..4),
        mapped: u8,
    ) {
        let found: Vec<IpAddr> = answer
            .iter()
            .map(|[a, b, c, d]| {
                // Half of them near what is forbidden.
                let octets = if d % 2 == 0 { [169, 254, *c, *d] } else { [*a, *b, *c, *d] };
                match mapped % 2 {
                    0 => IpAddr::V4(octets.into()),
                    _ => IpAddr::V6(std::net::Ipv4Addr::from(octets).to_ipv6_mapped()),
                }
            })
            .collect();
        let names = Scripted(Arc::new(Mutex::new([found.clone()].into())));
        let gate = Gate::with_names(Policy::near(Own::default()), names);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let outcome = runtime.block_on(gate.check(&target("h:80")));
        let is_bad = |it: &IpAddr| match it.to_canonical() {
            IpAddr::V4(v4) => v4.is_link_local() || v4.octets()[0] == 0 || v4.octets()[0] >= 224,
            IpAddr::V6(_) => false,
        };
        if found.iter().any(is_bad) {
            prop_assert!(outcome.is_err());
        } else if let Ok(checked) = outcome {
            prop_assert!(checked.addresses().iter().all(|it| found.contains(&it.ip())));
        }
    }
}
