//! TLS to Postgres is what libpq means by it, with certificates as they are found.

use std::net::Ipv4Addr;

use rcgen::{CertifiedKey, KeyPair};
use sqlx::{Connection, PgConnection};

use crate::support::{OwnPostgres, Program};

/// Returns a certificate of X.509 version 1, as `openssl x509 -req` makes it without extensions, and its key.
fn v1() -> (String, String) {
    (include_str!("v1.crt").to_owned(), include_str!("v1.key").to_owned())
}

fn made(name: &str) -> CertifiedKey<KeyPair> {
    rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap()
}

fn pair(made: &CertifiedKey<KeyPair>) -> (String, String) {
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// A server with TLS, whose pg_hba.conf has one line for TCP.
struct Server {
    address: Ipv4Addr,
    _postgres: OwnPostgres,
}

impl Server {
    async fn start(pair: impl FnOnce(Ipv4Addr) -> (String, String), kind: &str) -> Server {
        let (mut postgres, address) = OwnPostgres::start_listening().await;
        let (certificate, key) = pair(address);
        let mut connection = PgConnection::connect(&postgres.url()).await.unwrap();
        let hba = format!("local all all trust\n{kind} all all 127.0.0.0/8 trust");
        // The server writes the files, since it takes no key that others may read.
        for (file, text) in [("server.crt", &certificate), ("server.key", &key), ("pg_hba.conf", &hba)] {
            let statement = format!(
                "COPY (SELECT line FROM unnest(string_to_array($text${text}$text$, E'\\n')) AS line)
                 TO PROGRAM 'umask 077; cat > {file}'"
            );
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
        }
        sqlx::raw_sql("ALTER SYSTEM SET ssl = on").execute(&mut connection).await.unwrap();
        postgres.crash().await;
        Server { address, _postgres: postgres }
    }

    fn connecting(&self, parameters: &str) -> Program {
        let url = format!("postgres://coldstream@{}/postgres?{parameters}", self.address);
        Program::bare().set("POSTGRES_CONNECTION", url)
    }

    /// Imports an event, which takes connections of every kind, and returns what was logged.
    async fn is_used(&self, parameters: &str) -> Vec<String> {
        let program = self.connecting(parameters);
        let line = r#"{"id":"a","topic":"t","type":"t","raised_at":"2020-01-01T00:00:00Z","payload":{}}"#;
        let file = program.write("events.ndjson", format!("{line}\n"));
        let ended = program.run(&["import", file.to_str().unwrap()]).await;
        assert_eq!(ended.code, Some(0), "{parameters}: {ended:?}");
        ended.errors
    }

    async fn is_refused(&self, parameters: &str) -> String {
        self.connecting(parameters).run(&["migrate"]).await.failed()
    }
}

#[tokio::test]
async fn a_certificate_of_x509_v1_is_no_hindrance_where_none_is_asked_for() {
    let server = Server::start(|_| v1(), "host").await;
    for parameters in ["", "sslmode=prefer"] {
        let said = server.is_used(parameters).await;
        let warnings: Vec<&String> = said.iter().filter(|line| line.contains("plain text")).collect();
        assert!(warnings.len() == 1 && warnings[0].contains("UnsupportedCertVersion"), "{said:?}");
    }
    for parameters in ["sslmode=disable", "sslmode=allow"] {
        let said = server.is_used(parameters).await;
        assert!(!said.iter().any(|line| line.contains("plain text")), "{said:?}");
    }
    let line = server.is_refused("sslmode=require").await;
    assert!(line.contains("X.509 version 1") && line.contains("sslmode=prefer"), "{line}");
}

#[tokio::test]
async fn a_certificate_is_checked_as_far_as_it_is_asked_for() {
    let folder = Program::bare();
    let other = folder.write("other.pem", made("other").cert.pem());
    let server = Server::start(
        |address| {
            let made = made(&address.to_string());
            folder.write("own.pem", made.cert.pem());
            pair(&made)
        },
        "hostssl",
    )
    .await;
    let own = format!("sslrootcert={}", folder.folder().join("own.pem").display());
    for parameters in ["", "sslmode=prefer", "sslmode=allow", "sslmode=require"] {
        server.is_used(parameters).await;
    }
    for mode in ["require", "verify-ca", "verify-full"] {
        server.is_used(&format!("sslmode={mode}&{own}")).await;
    }
    let line = server.is_refused("sslmode=disable").await;
    assert!(line.contains("pg_hba.conf"), "{line}");
    for mode in ["require", "verify-ca", "verify-full"] {
        let line = server.is_refused(&format!("sslmode={mode}&sslrootcert={}", other.display())).await;
        assert!(line.contains("sslrootcert"), "{line}");
    }
    for parameters in ["sslmode=verify-full", "sslrootcert=system"] {
        let line = server.is_refused(parameters).await;
        assert!(line.contains("sslrootcert"), "{line}");
    }
}

#[tokio::test]
async fn a_certificate_of_another_host_is_refused_where_the_host_is_asked_for() {
    let folder = Program::bare();
    let made = made("db.example.org");
    let own = folder.write("own.pem", made.cert.pem());
    let server = Server::start(|_| pair(&made), "host").await;
    server.is_used(&format!("sslmode=verify-ca&sslrootcert={}", own.display())).await;
    let line = server.is_refused(&format!("sslmode=verify-full&sslrootcert={}", own.display())).await;
    assert!(line.contains("subjectAltName"), "{line}");
}

#[tokio::test]
async fn a_server_that_takes_no_tls_from_us_is_spoken_to_in_plain_text() {
    let server = Server::start(|_| v1(), "hostnossl").await;
    for parameters in ["", "sslmode=allow"] {
        server.is_used(parameters).await;
    }
    let line = server.is_refused("sslmode=require").await;
    assert!(line.contains("X.509 version 1"), "{line}");
    let server = Server::start(|address| pair(&made(&address.to_string())), "hostnossl").await;
    let said = server.is_used("sslmode=prefer").await;
    assert!(said.iter().any(|line| line.contains("plain text")), "{said:?}");
    let line = server.is_refused("sslmode=require").await;
    assert!(line.contains("pg_hba.conf"), "{line}");
}
