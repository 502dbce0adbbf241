//! The dialect of the sharded hraftd's distributor.

use super::*;

#[tokio::test]
async fn a_pair_is_set_and_read_back_in_either_language() {
    let server = Server::new();
    let answer = server.post("/set", r#"{"clave":"batman","valor":"bruce"}"#).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    assert_eq!(server.asked(), [put(&[("batman", "bruce")])]);
    assert_eq!(server.post("/set", r#"{"value":"dick","key":"robin"}"#).await.status, 200);
    for (path, body) in [
        ("/get?clave=batman", r#"{"clave":"batman","valor":"bruce"}"#),
        ("/get/batman", r#"{"clave":"batman","valor":"bruce"}"#),
        ("/get?key=robin&level=none", r#"{"key":"robin","value":"dick"}"#),
        ("/get/robin?level=none", r#"{"clave":"robin","valor":"dick"}"#),
    ] {
        let answer = server.get(path).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, body), "{path}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("quorate-node"), Some("me"));
    }
}

#[tokio::test]
async fn a_missing_key_is_404_and_an_empty_value_is_not() {
    let server = Server::with(&[("empty", "")]);
    assert_eq!(server.get("/get/empty").await.body, r#"{"clave":"empty","valor":""}"#);
    for path in ["/get?clave=missing", "/get?key=missing", "/get/missing"] {
        let answer = server.get(path).await;
        answer.expect_error(404, "missing");
        assert_eq!(answer.header("quorate-found"), Some("false"));
    }
}

#[tokio::test]
async fn delete_answers_the_same_whether_the_key_was_there_or_not() {
    for path in ["/delete?clave=k", "/delete?key=k", "/delete/k"] {
        let server = Server::with(&[("k", "v"), ("other", "v")]);
        for _ in 0..2 {
            let answer = server.call("DELETE", path, "").await;
            assert_eq!((answer.status, answer.body.as_str()), (200, ""), "{path}");
        }
        assert_eq!(server.content(), content(&[("other", "v")]));
    }
}

#[tokio::test]
async fn bodies_that_are_400_and_change_nothing() {
    let rows = [
        ("", "clave, valor"),
        ("null", "is missing"),
        ("{}", "is missing"),
        ("[]", "clave, valor"),
        (r#"{"clave":"k"}"#, "is missing"),
        (r#"{"valor":"v"}"#, "is missing"),
        (r#"{"clave":"k","value":"v"}"#, "mixture"),
        (r#"{"clave":"k","valor":"v","x":"y"}"#, "\"x\""),
        (r#"{"Clave":"k","valor":"v"}"#, "\"Clave\""),
        (r#"{"clave":"k","valor":7}"#, "expected a string"),
        (r#"{"clave":["k"],"valor":"v"}"#, "expected a string"),
        (r#"{"clave":"","valor":"v"}"#, "must not be empty"),
        (r#"{"clave":"k","valor":"v"}{}"#, "trailing characters"),
        (r#"{"batman":"bruce"}"#, "\"batman\""),
    ];
    let server = Server::new();
    for (body, reason) in rows {
        let answer = server.post("/set", body).await;
        answer.expect_error(400, reason);
        assert!(answer.body.contains("nothing was changed"), "{}", answer.body);
    }
    let long = "k".repeat(MAX_KEY_BYTES + 1);
    server.post("/set", &json!({"clave": long, "valor": "v"}).to_string()).await.expect_error(413, "");
    let long = "v".repeat(MAX_VALUE_BYTES + 1);
    server.post("/set", &json!({"clave": "k", "valor": long}).to_string()).await.expect_error(413, "");
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn a_request_names_exactly_one_key() {
    let server = Server::with(&[("a", "1")]);
    for below in [
        "",
        "?",
        "?llave=a",
        "?clave=a&key=a",
        "/a?clave=a",
        "/a/b",
        "/a/",
        "//a",
        "/",
        "?clave=",
        "?clave=%zz",
        "/%ff",
    ] {
        server.get(&format!("/get{below}")).await.expect_error(400, "");
        server.call("DELETE", &format!("/delete{below}"), "").await.expect_error(400, "");
    }
    server.get("/get/a?level=quick").await.expect_error(400, "read level");
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn a_query_is_decoded_as_forms_write_it_and_a_path_as_paths_are() {
    let rows = [
        ("?clave=a+b%2Bc%20d", "a b+c d"),
        ("?clave=a/b?c", "a/b?c"),
        ("?key=%C3%A9&level=none", "é"),
        ("/a+b%20c", "a+b c"),
        ("/a%2Fb", "a/b"),
    ];
    for (below, key) in rows {
        let server = Server::with(&[(key, "found")]);
        let answer = server.get(&format!("/get{below}")).await;
        assert_eq!(answer.status, 200, "{below}");
        assert!(answer.json().as_object().unwrap().values().any(|text| text == key), "{}", answer.body);
        assert_eq!(server.call("DELETE", &format!("/delete{below}"), "").await.status, 200);
        assert_eq!(server.content(), content(&[]), "{below}");
    }
}

#[tokio::test]
async fn other_methods_are_405_and_other_paths_404() {
    let server = Server::new();
    for (path, allow) in [("/set", "POST"), ("/get", "GET, HEAD"), ("/get/a", "GET, HEAD"), ("/delete?key=a", "DELETE")]
    {
        for method in ["PUT", "PATCH", "OPTIONS"] {
            let answer = server.call(method, path, "{}").await;
            assert_eq!((answer.status, answer.header("allow")), (405, Some(allow)), "{method} {path}");
        }
    }
    for path in ["/set/", "/set/a", "/Set", "/gets", "/deleted/a"] {
        server.post(path, r#"{"clave":"k","valor":"v"}"#).await.expect_error(404, "/set");
    }
    assert_eq!(server.asked(), []);
}

/// The path `/delete` says nothing of the key: under one idempotency key, two of them are two requests.
#[tokio::test]
async fn a_fingerprint_tells_keys_in_the_query_apart() {
    let server = Server::new();
    let mut prints = Vec::new();
    for path in ["/delete?clave=a", "/delete?clave=a", "/delete?clave=b"] {
        server.send(&request("DELETE", path, &[("Idempotency-Key", "once")], b"")).await;
        match &server.asked()[..] {
            [Asked::Write(_, Some(key))] => prints.push(key.fingerprint),
            other => panic!("{other:?}"),
        }
    }
    assert!(prints[0] == prints[1] && prints[1] != prints[2], "{prints:?}");
}

#[tokio::test]
async fn without_forwarding_a_change_is_refused_where_nobody_leads() {
    let server = Server::with_settings(Settings { forward: false, ..settings() });
    server.cluster().set_status(led_by("node0"));
    server.post("/set", r#"{"clave":"k","valor":"v"}"#).await.expect_error(500, "not the leader");
    server.call("DELETE", "/delete/k", "").await.expect_error(500, "not the leader");
    server.get("/get/k").await.expect_error(404, "");
}
