//! The S3 server that the tests talk to: one that is named by variables, or moto.

use std::env;
use std::net::{SocketAddr, ToSocketAddrs};

use super::moto;

/// The variable with the host:port of a server of plain text. The other variables are about this server.
const ENDPOINT: &str = "COLDSTREAM_TEST_S3_ENDPOINT";

pub struct Server {
    pub address: SocketAddr,
    pub access_key: String,
    pub secret_key: String,
    pub region: String,
}

/// Returns the server. Tests make buckets of their own on it, and leave them behind.
pub async fn server() -> Server {
    let Ok(endpoint) = env::var(ENDPOINT) else {
        let (access_key, secret_key) = ("test".to_owned(), "not a secret".to_owned());
        return Server { address: moto::address().await, access_key, secret_key, region: "us-east-1".to_owned() };
    };
    let variable = |name: &str| {
        let name = format!("COLDSTREAM_TEST_S3_{name}");
        env::var(&name).unwrap_or_else(|_| panic!("{ENDPOINT} is set, and {name} is not"))
    };
    let address = endpoint.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    Server {
        address: address.unwrap_or_else(|| panic!("{ENDPOINT} {endpoint:?} is no host:port")),
        access_key: variable("ACCESS_KEY"),
        secret_key: variable("SECRET_KEY"),
        region: variable("REGION"),
    }
}
