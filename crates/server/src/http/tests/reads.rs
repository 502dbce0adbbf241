//! Read levels and what the answers tell of them.

use super::*;

#[tokio::test]
async fn a_read_is_linearizable_unless_the_request_or_the_node_says_otherwise() {
    let server = Server::with(&[("k", "v")]);
    let rows = [
        ("/key/k", Some(ReadLevel::Linearizable), "linearizable"),
        ("/key/k?level=linearizable", Some(ReadLevel::Linearizable), "linearizable"),
        ("/key/k?level=LINEARIZABLE", Some(ReadLevel::Linearizable), "linearizable"),
        ("/key/k?level=weak", Some(ReadLevel::Weak), "weak"),
        ("/key/k?level=strong", Some(ReadLevel::Strong), "strong"),
        ("/key/k?level=auto", Some(ReadLevel::Weak), "weak"),
        ("/key/k?x=1&level=none", None, "none"),
    ];
    for (path, asked, served) in rows {
        let answer = server.get(path).await;
        assert_eq!((answer.body.as_str(), answer.header("quorate-level")), (r#"{"k":"v"}"#, Some(served)), "{path}");
        assert_eq!(server.asked(), asked.map(Asked::Read).into_iter().collect::<Vec<_>>(), "{path}");
    }
    for level in ["quick", "", "non"] {
        server.get(&format!("/key/k?level={level}")).await.expect_error(400, Level::NAMES);
    }

    server.cluster().set_status(Status { role: node::Role::Learner, ..led_by("node0") });
    assert_eq!(server.get("/key/k?level=auto").await.header("quorate-level"), Some("none"), "a learner asks nobody");
    assert_eq!(server.asked(), []);

    let server = Server::with_settings(Settings { read_level: Level::None, ..settings() });
    server.get("/key/k").await;
    assert_eq!(server.asked(), []);
    server.get("/key/k?level=linearizable").await;
    assert_eq!(server.asked(), [Asked::Read(ReadLevel::Linearizable)]);
}

#[tokio::test]
async fn a_linearizable_read_waits_no_longer_than_it_says() {
    let server = Server::with(&[("k", "v")]);
    for (path, limit) in [
        ("/key/k", Duration::from_secs(10)),
        ("/key/k?linearizable_timeout=250ms", Duration::from_millis(250)),
        ("/key/k?linearizable_timeout=1h", Duration::from_secs(10)),
        ("/key/k?linearizable_timeout=0s", Duration::from_secs(10)),
    ] {
        assert_eq!(server.get(path).await.status, 200);
        assert_eq!(*server.cluster().limit.lock().unwrap(), limit, "{path}");
    }
    server.get("/key/k?linearizable_timeout=soon").await.expect_error(400, "1m30s");
}

#[tokio::test]
async fn the_answer_tells_its_level_its_node_and_who_leads() {
    let server = Server::with(&[("k", "v")]);
    server.cluster().set_status(led_by("node 0\u{e9}"));
    let answer = server.get("/key/k").await;
    assert_eq!(answer.header("quorate-level"), Some("linearizable"));
    assert_eq!(answer.header("quorate-node"), Some("me"));
    assert_eq!(answer.header("quorate-leader"), Some("node 0%C3%A9"), "a header carries ASCII only");
    assert_eq!(answer.header("quorate-age"), None, "it is as new as can be");
    assert_eq!(answer.header("quorate-found"), None);
    assert_eq!(server.get("/key/missing").await.header("quorate-found"), Some("false"));

    *server.cluster().ages.lock().unwrap() = [Some(Duration::from_millis(1234)), None];
    let answer = server.get("/key/k?level=none").await;
    assert_eq!(answer.header("quorate-level"), Some("none"));
    assert_eq!(answer.header("quorate-age"), Some("1.234"));
}

#[tokio::test]
async fn data_older_than_the_wish_is_503_and_says_how_old() {
    let server = Server::with(&[("k", "v")]);
    let ages = |loose: Option<u64>, strict: Option<u64>| {
        *server.cluster().ages.lock().unwrap() = [loose, strict].map(|age| age.map(Duration::from_millis));
    };
    ages(Some(900), Some(3000));
    assert_eq!(server.get("/key/k?level=none&freshness=1s").await.body, r#"{"k":"v"}"#);
    let refused = server.get("/key/k?level=none&freshness=1s&freshness_strict").await;
    refused.expect_error(503, "3.000 s old");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(server.get("/key/k?level=none&freshness=3s&freshness_strict").await.status, 200);
    server.get("/key/k?level=none&freshness=899ms").await.expect_error(503, "0.900 s old");
    assert_eq!(server.get("/key/k?level=none").await.status, 200, "no bound, any age");
    assert_eq!(server.get("/key/k?freshness=1ns").await.status, 200, "a linearizable read is always fresh");

    ages(None, None);
    server.get("/key/k?level=none&freshness=1h").await.expect_error(503, "not heard of a leader");
    assert_eq!(server.get("/key/k?level=none").await.status, 200);
    server.get("/key/k?level=none&freshness=soon").await.expect_error(400, "1m30s");
}

#[tokio::test]
async fn every_dialect_reads_at_every_level() {
    let server = Server::with(&[("k", "v")]);
    let asks = [
        ("linearizable", Some(ReadLevel::Linearizable)),
        ("weak", Some(ReadLevel::Weak)),
        ("strong", Some(ReadLevel::Strong)),
        ("none", None),
    ];
    for path in ["/key/k?", "/db/k?", "/keys/k/?", "/get/k?", "/get?clave=k&"] {
        for (level, asked) in asks {
            let answer = server.get(&format!("{path}level={level}")).await;
            assert_eq!((answer.status, answer.header("quorate-level")), (200, Some(level)), "{path}");
            assert_eq!(server.asked(), asked.map(Asked::Read).into_iter().collect::<Vec<_>>(), "{path} {level}");
        }
        let refused = server.get(&format!("{path}level=quick")).await;
        assert!(refused.status == 400 && refused.body.contains(Level::NAMES), "{path} {refused:?}");
        let refused = server.get(&format!("{path}level=none&freshness=1s")).await;
        assert!(refused.status == 503 && refused.body.contains("not heard of a leader"), "{path} {refused:?}");
    }
}
