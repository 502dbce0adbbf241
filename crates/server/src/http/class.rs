//! What a request is about, for whoever counts requests. Told by its path and method alone, whatever becomes of it.

use crate::metrics::Class;
use hyper::Method;

pub fn of(method: &Method, path: &str) -> Class {
    let reads = *method == Method::GET || *method == Method::HEAD;
    let Some(below) = path.strip_prefix("/v1/") else {
        let dialects = ["/key", "/db", "/keys", "/cluster", "/set", "/get", "/delete"];
        let first = path.get(1..).and_then(|rest| rest.find('/')).map_or(path, |end| &path[..end + 1]);
        return if dialects.contains(&first) { Class::Dialect } else { Class::Admin };
    };
    match below.split('/').next().unwrap_or_default() {
        "kv" if reads => Class::KvRead,
        "kv" => Class::KvWrite,
        "txn" => Class::Transaction,
        "leases" => Class::Lease,
        "watch" => Class::Watch,
        _ => Class::Admin,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_says_what_a_request_is_about() {
        for (method, path, class) in [
            (Method::GET, "/v1/kv/a/b", Class::KvRead),
            (Method::HEAD, "/v1/kv/a", Class::KvRead),
            (Method::GET, "/v1/kv", Class::KvRead),
            (Method::PUT, "/v1/kv/leases", Class::KvWrite),
            (Method::DELETE, "/v1/kv", Class::KvWrite),
            (Method::POST, "/v1/txn", Class::Transaction),
            (Method::POST, "/v1/leases/7/keepalive", Class::Lease),
            (Method::GET, "/v1/watch", Class::Watch),
            (Method::GET, "/v1/status", Class::Admin),
            (Method::GET, "/key/a", Class::Dialect),
            (Method::POST, "/key", Class::Dialect),
            (Method::GET, "/db/a", Class::Dialect),
            (Method::GET, "/set", Class::Dialect),
            (Method::POST, "/cluster/join/", Class::Dialect),
            (Method::GET, "/status", Class::Admin),
            (Method::GET, "/", Class::Admin),
            (Method::GET, "*", Class::Admin),
            (Method::GET, "", Class::Admin),
        ] {
            assert_eq!(of(&method, path), class, "{method} {path}");
        }
    }
}
