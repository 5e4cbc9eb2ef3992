//! Every disguise of an address that we know of, against every kind of caller.

use std::net::IpAddr;

use url::Url;

use super::{Allowed, Around, Own, Policy, Refusal, Target, Why};

/// Addresses that no user may reach, each in many coats.
const FORBIDDEN: &[&str] = &[
    "169.254.169.254",
    "169.254.169.254.",
    "169.254.43518",
    "169.16689662",
    "2852039166",
    "0xa9fea9fe",
    "0XA9FEA9FE",
    "0xa9.0xfe.0xa9.0xfe",
    "0251.0376.0251.0376",
    "0000251.0376.0251.0376",
    "025177524776",
    "0xa9.254.0251.254",
    "169。254。169。254",
    "169．254｡169.254",
    "１６９.２５４.１６９.２５４",
    "①⑥⑨.②⑤④.①⑥⑨.②⑤④",
    "%31%36%39.254.169.254",
    "169%2e254%2E169.254",
    "%E2%91%A0%E2%91%A5%E2%91%A8.254.169.254",
    "169.254.169.2\t54",
    "169.254.\u{ad}169.254",
    "good.example@169.254.169.254",
    "good.example:80@2852039166",
    "good.example%40@169.254.169.254",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[0:0:0:0:0:FFFF:A9FE:A9FE]",
    "[::169.254.169.254]",
    "[64:ff9b::169.254.169.254]",
    "[64:ff9b:1::a9fe:a9fe]",
    "[2002:a9fe:a9fe::]",
    "[2001:0:a9fe:a9fe::]",
    "[2001:0:808:808::5601:5601]",
    "[2606:4700::5efe:a9fe:a9fe]",
    "[fe80::1]",
    "[FE80::a9fe:a9fe]",
    "[febf::1]",
    "[fd00:ec2::254]",
    "[fd00:0ec2:0:0::254]",
    "[fd20:ce::254]",
    "100.100.100.200",
    "0x64.0144.25800",
    "168.63.129.16",
    "192.0.0.192",
    "0",
    "0.0.0.0",
    "00",
    "0x0",
    "0x",
    "0.1",
    "[::]",
    "[::0.0.0.0]",
    "[::ffff:0:0]",
    "255.255.255.255",
    "4294967295",
    "224.0.0.1",
    "[ff02::1]",
    "240.1",
    "192.0.2.1",
    "[2001:db8::1]",
];

/// The agent's listeners and Xray's API, as a host has them.
fn own() -> Own {
    Own::default()
        .listener("127.0.0.1:23860".parse().unwrap())
        .listener("[::]:7100".parse().unwrap())
        .listener("192.168.0.1:0".parse().unwrap())
        .api(&Target::parse("127.0.0.1:10085").unwrap())
        .api(&Target::parse("Xray.Internal.:10086").unwrap())
}

fn near() -> Policy {
    Policy::near(own())
}

fn listed(entries: &[&str]) -> Policy {
    let read = |entry: &&str| entry.parse::<Allowed>().unwrap();
    Policy::listed(own(), entries.iter().map(read).collect())
}

fn url(text: &str) -> Url {
    Url::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// What a policy says of an address that a name led to.
fn led_to(policy: &Policy, target: &str, address: &str) -> Result<(), Refusal> {
    let here = ["10.9.9.9", "2606:4700::9"].map(|it| it.parse::<IpAddr>().unwrap());
    let around = Around {
        is_here: &|it| it.is_loopback() || here.contains(&it),
        own: &["172.18.0.2".parse().unwrap()],
    };
    let target = Target::parse(target).unwrap();
    policy.judge(&target, address.parse().unwrap(), &around)
}

#[test]
fn no_disguise_of_a_forbidden_address_passes() {
    for host in FORBIDDEN {
        for (before, after) in [
            ("http://", "/"),
            ("https:\\\\", ":8443/x?y"),
            ("HTTP:/", "#z"),
        ] {
            let text = format!("{before}{host}{after}");
            for policy in [near(), listed(&["0.0.0.0/0", "::/0"])] {
                let refusal = policy.judge_url(&url(&text)).unwrap_err();
                assert!(matches!(refusal.why, Why::Closed(..)), "{text}: {refusal}");
            }
        }
    }
}

#[test]
fn what_is_no_host_is_not_a_url_at_all() {
    for host in [
        "[fe80::1%25eth0]",
        "[fe80::1%eth0]",
        "[::1",
        "[::1]x",
        "1.2.3.4.5",
        "256.1.1.1",
        "1.2.3.4x.5",
        "4294967296",
        "a b",
        "a%00b",
        "a%2fb",
        "a%40b",
        "",
        "%31%zz",
        "0x7f.1.2.3.4",
        "1..2",
    ] {
        assert!(Url::parse(&format!("http://{host}/")).is_err(), "{host}");
    }
}

#[test]
fn only_http_is_called() {
    for text in [
        "ftp://h/",
        "file:///etc/passwd",
        "gopher://h:70/",
        "unix:/run/x",
        "data:,x",
        "ws://h/",
    ] {
        let refusal = near().judge_url(&url(text)).unwrap_err();
        assert_eq!(refusal.why, Why::Scheme, "{text}");
    }
    let refusal = near().judge_url(&url("http://h:0/")).unwrap_err();
    assert_eq!(refusal.why, Why::Port);
}

#[test]
fn jobs_and_probes_reach_this_host_and_its_networks() {
    for host in [
        "127.0.0.1",
        "2130706433",
        "0x7f.1",
        "127.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "localhost",
        "10.1.2.3",
        "192.168.0.1",
        "172.16.0.1",
        "[fd12::1]",
        "100.64.0.1",
        "1.1.1.1",
        "[2606:4700::1]",
        "[64:ff9b::8.8.8.8]",
        "example.org",
        "xn--bcher-kva.example",
    ] {
        let text = format!("http://user:pass@{host}:8080/");
        assert!(near().judge_url(&url(&text)).is_ok(), "{text}");
    }
}

#[test]
fn callbacks_reach_of_this_host_and_its_networks_what_is_listed() {
    let hosts = [
        "127.0.0.1",
        "2130706433",
        "0x7f.1",
        "017700000001",
        "127。0。0。1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "localhost",
        "LOCALHOST.",
        "a.localhost",
        "10.1.2.3",
        "167838211",
        "192.168.0.1",
        "172.31.255.255",
        "[fd12::1]",
        "100.64.0.1",
        "198.18.0.1",
        "[fec0::1]",
    ];
    for host in hosts {
        let text = format!("http://{host}:8080/");
        let refusal = listed(&[]).judge_url(&url(&text)).unwrap_err();
        assert!(
            matches!(refusal.why, Why::Unlisted(..)),
            "{text}: {refusal}"
        );
        let all = listed(&["0.0.0.0/0", "::/0"]);
        assert!(all.judge_url(&url(&text)).is_ok(), "{text}");
    }
    let some = listed(&["10.0.0.0/8", "hooks.internal:8080", "[fd12::1]:8080"]);
    for (target, address, expected) in [
        ("any:80", "10.1.2.3", true),
        ("any:80", "::ffff:10.1.2.3", true),
        ("any:80", "192.168.0.1", false),
        ("any:80", "8.8.8.8", true),
        ("hooks.internal:8080", "192.168.0.1", true),
        ("hooks.internal:8080", "127.0.0.1", true),
        ("hooks.internal:8080", "169.254.169.254", false),
        ("hooks.internal:81", "192.168.0.1", false),
        ("any:8080", "fd12::1", true),
        ("any:80", "fd12::1", false),
    ] {
        assert_eq!(
            led_to(&some, target, address).is_ok(),
            expected,
            "{target} {address}"
        );
    }
}

#[test]
fn our_own_listeners_are_reached_by_nobody_under_any_name() {
    let everything = listed(&["0.0.0.0/0", "::/0", "xray.internal", "any"]);
    for (target, address, is_ours) in [
        // Bound to one address.
        ("any:23860", "127.0.0.1", true),
        ("any:23860", "::ffff:127.0.0.1", true),
        ("any:23860", "64:ff9b::7f00:1", true),
        ("any:23860", "127.0.0.2", false),
        ("any:23860", "10.9.9.9", false),
        ("any:23861", "127.0.0.1", false),
        // Bound to all of them.
        ("any:7100", "127.0.0.1", true),
        ("any:7100", "127.8.8.8", true),
        ("any:7100", "::1", true),
        ("any:7100", "10.9.9.9", true),
        ("any:7100", "2606:4700::9", true),
        ("any:7100", "10.9.9.8", false),
        // An API on this host may listen at all of its addresses.
        ("any:10085", "127.0.0.1", true),
        ("any:10085", "10.9.9.9", true),
        ("any:10085", "10.9.9.8", false),
        // One elsewhere, by name.
        ("any:10086", "172.18.0.2", true),
        ("any:10086", "172.18.0.3", false),
        ("any:10086", "10.9.9.9", false),
    ] {
        for policy in [near(), everything.clone()] {
            let outcome = led_to(&policy, target, address);
            let expected = is_ours.then(|| Why::Own(Some(address.parse().unwrap())));
            assert_eq!(
                outcome.err().map(|it| it.why),
                expected,
                "{target} {address}"
            );
        }
    }
    for text in [
        "http://127.0.0.1:23860/",
        "http://0x7f.1:23860/",
        "http://localhost:7100/",
        "http://localhost:23860/",
        "http://[::1]:7100/",
        "http://127.3:7100/",
        "http://XRAY.internal:10086/",
        "http://xray.internal.:10086/",
    ] {
        let refusal = near().judge_url(&url(text)).unwrap_err();
        assert!(matches!(refusal.why, Why::Own(_)), "{text}: {refusal}");
    }
    assert_eq!(
        near().own_names(10086).collect::<Vec<_>>(),
        ["xray.internal"]
    );
}

#[test]
fn what_stands_in_the_configuration_reaches_anything() {
    for host in [
        "127.0.0.1:23860",
        "169.254.169.254",
        "[fe80::1]",
        "localhost:10085",
    ] {
        let text = format!("http://{host}/");
        assert!(Policy::anything().judge_url(&url(&text)).is_ok(), "{text}");
    }
    assert!(Policy::anything().judge_url(&url("ftp://h/")).is_err());
}

#[test]
fn a_refusal_says_what_it_is_and_what_to_do_and_no_secret() {
    let canary = "user:canary@";
    let texts = [
        (
            format!("http://{canary}169.254.169.254/canary"),
            "169.254.169.254:80 is not called: it leads to 169.254.169.254, the address of a \
             cloud's metadata service, which no URL set by a user may reach; use another target, \
             or have the operator write it in the configuration",
        ),
        (
            format!("http://{canary}10.0.0.1/?canary"),
            "10.0.0.1:80 is not called: it leads to 10.0.0.1, a private address, which callbacks \
             reach only if the configuration's list of allowed targets, kernel.callbacks_allow, \
             holds it",
        ),
        (
            format!("https://{canary}xray.internal:10086/#canary"),
            "xray.internal:10086 is not called: it is one of the agent's own listeners or Xray's \
             API, which no URL set by a user may reach; use another target",
        ),
        (
            format!("ftp://{canary}h/canary"),
            "ftp://h is not called: only http:// and https:// URLs are",
        ),
    ];
    for (text, expected) in texts {
        let refusal = listed(&[]).judge_url(&url(&text)).unwrap_err();
        assert_eq!(refusal.to_string(), expected);
        assert!(!format!("{refusal:?}").contains("canary"), "{refusal:?}");
    }
}
