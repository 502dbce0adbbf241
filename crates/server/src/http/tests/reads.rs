//! Read levels and what the answers tell of them.

use super::*;

#[tokio::test]
async fn a_read_is_linearizable_unless_the_request_or_the_node_says_otherwise() {
    let server = Server::with(&[("k", "v")]);
    for path in ["/key/k", "/key/k?level=linearizable", "/key/k?level=LINEARIZABLE"] {
        assert_eq!(server.get(path).await.body, r#"{"k":"v"}"#);
        assert_eq!(server.asked(), [Asked::Read], "{path}");
    }
    assert_eq!(server.get("/key/k?x=1&level=none").await.body, r#"{"k":"v"}"#);
    assert_eq!(server.asked(), []);
    for level in ["quick", "", "non"] {
        server.get(&format!("/key/k?level={level}")).await.expect_error(400, "none or linearizable");
    }

    let server = Server::with_settings(Settings { read_level: Level::None, ..settings() });
    server.get("/key/k").await;
    assert_eq!(server.asked(), []);
    server.get("/key/k?level=linearizable").await;
    assert_eq!(server.asked(), [Asked::Read]);
}
