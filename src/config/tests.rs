use super::*;
use crate::bucket::{Credentials, Encryption};

const S3: [(&str, &str); 4] =
    [("S3_ENDPOINT", "s3:9000"), ("S3_ACCESS_KEY", "a"), ("S3_SECRET_KEY", "b"), ("S3_BUCKET", "events")];

fn config(variables: &[(&str, &str)]) -> Result<Config, String> {
    let postgres = [("POSTGRES_CONNECTION", "postgres://localhost/events")];
    let all = postgres.iter().chain(variables).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::from_variables(all).map_err(|error| error.to_string())
}

#[test]
fn nothing_but_a_database_is_needed() {
    let config = config(&[]).unwrap();
    assert!(!config.archive);
    assert_eq!(config.http_addr.to_string(), "127.0.0.1:3000");
    assert_eq!(config.grpc_addr.to_string(), "127.0.0.1:9000");
    assert_eq!(config.store.eligibility.batch_size, 100_000);
    assert_eq!(config.store.eligibility.older_than_days, 30);
    assert_eq!(config.archive_interval, Duration::from_secs(60));
    assert_eq!(config.scrub_bytes_per_second, 1_000_000);
    assert_eq!(config.bucket().unwrap_err().to_string(), "S3_ENDPOINT is not set");
}

#[test]
fn archiving_needs_a_bucket() {
    for (missing, (name, _)) in S3.iter().enumerate() {
        let mut variables = vec![("STREAMS_ARCHIVE", "true")];
        variables.extend(S3.iter().enumerate().filter(|(index, _)| *index != missing).map(|(_, pair)| *pair));
        let expected = format!("STREAMS_ARCHIVE is true, and {name} is not set");
        assert_eq!(config(&variables).unwrap_err(), expected);
        variables.push((name, "  "));
        assert!(config(&variables).is_err(), "an empty value is none");
    }
    let bucket = config(&S3).unwrap().bucket().unwrap().clone();
    assert!(bucket.ssl);
    assert_eq!(bucket.region, "us-east-1");
    let read_only = [&S3[..], &[("STREAMS_ARCHIVE", "true"), ("S3_READ_ONLY", "true")]].concat();
    assert!(!config(&read_only).unwrap().archive, "nothing is archived into a bucket that is only read");
}

#[test]
fn a_wrong_value_is_named_with_its_variable() {
    let wrong = [
        ("STREAMS_ARCHIVE", "yes"),
        ("POSTGRES_TIMEOUT_SECONDS", "0"),
        ("POSTGRES_TIMEOUT_SECONDS", "3601"),
        ("STREAMS_ARCHIVE_SIZE", "0"),
        ("STREAMS_ARCHIVE_SIZE", "-1"),
        ("STREAMS_ARCHIVE_SIZE", "99999999999"),
        ("STREAMS_ARCHIVE_OLDER_THAN_DAYS", "a month"),
        ("STREAMS_ARCHIVE_INTERVAL_SECONDS", "0"),
        ("STREAMS_START_UNRECONCILED", "1"),
        ("STREAMS_SCRUB_BYTES_PER_SECOND", "1 MB"),
        ("S3_SSL", "1"),
        ("S3_READ_ONLY", "yes"),
        ("S3_TAKEOVER_SECONDS", "-1"),
        ("HTTP_ADDR", "localhost"),
        ("GRPC_ADDR", ":9000"),
        ("LOG_FORMAT", "xml"),
        ("STREAMS_READ_BYTES_MAX", "1000000"),
        ("STREAMS_READ_WAIT_SECONDS", "0"),
        ("CONFIG_FILE", "/nowhere/config.yaml"),
        ("HTTP_CONNECTIONS_MAX", "0"),
        ("HTTP_TIMEOUT_SECONDS", "0"),
        ("GRPC_CONNECTIONS_MAX", "-1"),
        ("GRPC_KEEPALIVE_SECONDS", "0"),
        ("SHUTDOWN_SECONDS", "0"),
        ("GRPC_TLS_CERTIFICATE", "certificate.pem"),
        ("GRPC_TLS_KEY", "key.pem"),
    ];
    for (name, value) in wrong {
        let error = config(&[(name, value)]).unwrap_err();
        assert!(error.contains(name) && !error.contains('\n'), "{name}={value}: {error}");
    }
    let mut variables = S3.to_vec();
    variables[0].1 = "http://s3:9000";
    variables.push(("STREAMS_ARCHIVE", "true"));
    assert!(config(&variables).unwrap_err().contains("S3_ENDPOINT"));
    assert_eq!(
        Config::from_variables([]).unwrap_err().to_string(),
        "POSTGRES_CONNECTION is not set: postgres://user:password@host:5432/database"
    );
}

#[test]
fn a_certificate_that_is_none_is_said() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    for (certificate, key) in [(path, "/nowhere/key.pem"), (path, path)] {
        let error = config(&[("GRPC_TLS_CERTIFICATE", certificate), ("GRPC_TLS_KEY", key)]).unwrap_err();
        assert!(error.starts_with("GRPC_TLS_"), "{error}");
    }
}

#[test]
fn topics_that_are_deleted_are_excluded() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let write = |text: &str| std::fs::write(path, text).unwrap();
    write(
        "deleteAfterConsumption:\n  mails: { requiredConsumptionGroups: [a] }\n\
           deleteAfterParallelConsumption:\n  pings: { requiredConsumptionGroups: [a, b] }\n",
    );
    let settings = config(&[("CONFIG_FILE", path)]).unwrap().store;
    assert_eq!(settings.eligibility.excluded_topics, ["mails", "pings"].map(str::to_owned).into());
    let required = settings.subscribing.required_groups;
    assert_eq!((&required.normal["mails"], required.normal.len()), (&vec!["a".to_owned()], 1));
    assert_eq!(required.parallel["pings"], ["a", "b"]);
    let wrong = [
        "deleteAfter: {}",
        "deleteAfterConsumption:\n  mails: { requiredConsumptionGroups: [] }\n",
        "deleteAfterConsumption:\n  mails: [[a]]\n",
        "- x",
        "- mails: { requiredConsumptionGroups: [a] }",
    ];
    for text in wrong {
        write(text);
        assert!(config(&[("CONFIG_FILE", path)]).unwrap_err().contains("CONFIG_FILE"), "{text}");
    }
}

#[test]
fn white_space_around_a_value_means_nothing_and_line_breaks_within_are_refused() {
    let padded = [("S3_ENDPOINT", " s3:9000\n"), ("S3_BUCKET", "\tevents\r\n"), ("STREAMS_ARCHIVE", " true ")];
    let bucket = config(&[&S3[1..3], &padded].concat()).unwrap().bucket().unwrap().clone();
    assert_eq!((bucket.endpoint.to_string(), bucket.bucket.as_str()), ("s3:9000".to_owned(), "events"));
    for name in ["S3_SECRET_KEY", "S3_BUCKET", "POSTGRES_CONNECTION", "LOG_LEVEL", "S3_SECRET_KEY_FILE"] {
        let error = config(&[(name, "hunter2\nhunter2")]).unwrap_err();
        assert!(error.starts_with(&format!("{name} has a line break")) && !error.contains("hunter2"), "{error}");
    }
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let wrong = [
        ("POSTGRES_CONNECTIONS_MAX", "4000000000"),
        ("STREAMS_ARCHIVE_OLDER_THAN_DAYS", "4000000000"),
        ("STREAMS_ARCHIVE_INTERVAL_SECONDS", "18446744073709551615"),
        ("STREAMS_ARCHIVE_LEASE_SECONDS", "18446744073709551615"),
        ("STREAMS_CONSISTENCY_WAIT_SECONDS", "18446744073709551616"),
        ("STREAMS_SCRUB_BYTES_PER_SECOND", "18446744073709551615"),
        ("S3_CACHE_BYTES", "18446744073709551615"),
        ("S3_READS_MAX", "18446744073709551615"),
        ("S3_READS_MAX", "0"),
        ("S3_REGION", "eu/central"),
        ("S3_BUCKET", "precious#2"),
        ("S3_BUCKET", "precious # mine"),
        ("S3_ENDPOINT", "s3:70000"),
        ("S3_ENDPOINT", "::1"),
        ("HTTP_ADDR", "127.0.0.1:65536"),
        ("GRPC_ADDR", "::1:9000"),
        ("STREAMS_DELIVERY_ATTEMPTS_MAX", "0"),
        ("EVENT_BYTES_MAX", "0"),
        ("EVENT_BYTES_MAX", "16777217"),
    ];
    for (name, value) in wrong {
        let error = config(&[(name, value)]).unwrap_err();
        assert!(error.contains(name) && error.contains(value), "{name}={value}: {error}");
    }
    for (name, most) in [("STREAMS_ARCHIVE_LEASE_SECONDS", "31622400"), ("S3_READS_MAX", "10000")] {
        config(&[(name, most)]).unwrap();
    }
}

#[test]
fn secrets_come_from_files() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let write = |text: &str| std::fs::write(path, text).unwrap();
    write("pa$$word#1\r\n");
    let rest = [S3[0], S3[1], S3[3]];
    let from_file = config(&[&rest[..], &[("S3_SECRET_KEY_FILE", path)]].concat()).unwrap();
    let Credentials::Keys { secret_key, .. } = &from_file.bucket().unwrap().credentials else { panic!("it has keys") };
    assert_eq!(secret_key, "pa$$word#1");
    write("postgres://localhost/elsewhere\n");
    let direct = config(&[("POSTGRES_DIRECT_CONNECTION_FILE", path)]).unwrap();
    assert_eq!(direct.postgres_direct_connection, "postgres://localhost/elsewhere");
    let twice = config(&[("POSTGRES_CONNECTION_FILE", path)]).unwrap_err();
    assert_eq!(twice, "POSTGRES_CONNECTION and POSTGRES_CONNECTION_FILE are both set, one is needed");
    for name in ["S3_ACCESS_KEY_FILE", "S3_SECRET_KEY_FILE", "POSTGRES_DIRECT_CONNECTION_FILE"] {
        let error = |path: &str| config(&[(name, path)]).unwrap_err();
        assert!(error("/nowhere/secret").starts_with(&format!("{name} /nowhere/secret: ")));
        write(" \n");
        assert!(error(path).ends_with("the file is empty"), "{}", error(path));
        write("hunter2\nhunter2\n");
        assert!(error(path).contains(name) && !error(path).contains("hunter2"), "{}", error(path));
    }
}

#[test]
fn a_secret_is_never_said() {
    let secret = "hunter2";
    let config = config(&[&S3[..2], &S3[3..], &[("S3_SECRET_KEY", secret)]].concat()).unwrap();
    assert!(!format!("{:?}", config.bucket()).contains(secret));
    let error = super::tests::config(&[("S3_ENDPOINT", "https://user:hunter2@s3:9000")]).unwrap_err();
    assert!(error.contains("S3_ENDPOINT") && !error.contains(secret), "{error}");
}

#[test]
fn a_name_that_looks_like_one_of_ours_is_told() {
    let warnings = |name: &str| config(&[(name, "1")]).unwrap().warnings;
    for (name, meant) in [
        ("S3_ACESS_KEY", "S3_ACCESS_KEY"),
        ("STREAMS_ARCHVE", "STREAMS_ARCHIVE"),
        ("s3_bucket", "S3_BUCKET"),
        ("S3_SECRETKEY_FILE", "S3_SECRET_KEY_FILE"),
    ] {
        let [warning] = warnings(name).try_into().unwrap();
        assert!(warning.contains(name) && warning.contains(meant), "{warning}");
    }
    for name in ["PATH", "HTTP_PROXY", "POSTGRES_USER", "POSTGRES_PASSWORD", "S3_PORT", "RUST_LOG", "AWS_REGION"] {
        assert_eq!(warnings(name), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn credentials_are_of_the_machine_where_no_keys_are_set() {
    let credentials = |variables: &[(&str, &str)]| config(variables).unwrap().bucket().unwrap().credentials.clone();
    assert!(matches!(credentials(&[S3[0], S3[3]]), Credentials::Machine));
    assert!(matches!(credentials(&S3), Credentials::Keys { .. }));
}

#[test]
fn what_is_said_of_objects_is_checked() {
    let writing = |variables: &[(&str, &str)]| {
        config(&[&S3, variables].concat()).map(|config| config.bucket().unwrap().writing.clone())
    };
    assert_eq!(writing(&[("S3_SSE", "AES256")]).unwrap().encryption, Some(Encryption::Aes256));
    let with_key = writing(&[("S3_SSE", "aws:kms"), ("S3_SSE_KMS_KEY_ID", "alias/events")]).unwrap();
    assert_eq!(with_key.encryption, Some(Encryption::Kms { key_id: Some("alias/events".into()) }));
    assert_eq!(writing(&[("S3_STORAGE_CLASS", "GLACIER_IR")]).unwrap().storage_class.as_deref(), Some("GLACIER_IR"));
    for wrong in [
        ("S3_SSE", "aes"),
        ("S3_SSE_KMS_KEY_ID", "alias/events"),
        ("S3_STORAGE_CLASS", "GLACIER"),
        ("S3_STORAGE_CLASS", "DEEP_ARCHIVE"),
        ("S3_STORAGE_CLASS", "standard"),
        ("S3_CHECKSUM", "crc"),
        ("S3_ADDRESSING", "host"),
    ] {
        let error = writing(&[wrong]).unwrap_err();
        assert!(error.contains(wrong.0), "{wrong:?}: {error}");
    }
}

#[test]
fn a_bucket_stands_in_front_of_a_host_if_it_can() {
    let addressed = |endpoint, bucket, ssl| {
        let names = [("S3_ENDPOINT", endpoint), ("S3_BUCKET", bucket), ("S3_SSL", ssl), ("S3_ADDRESSING", "virtual")];
        config(&[&S3[1..3], &names].concat()).map(drop)
    };
    assert_eq!(addressed("s3.example.com", "events", "true"), Ok(()));
    assert_eq!(addressed("s3.example.com", "my.events", "false"), Ok(()));
    for (endpoint, bucket) in
        [("s3:9000", "my.events"), ("s3:9000", "Events"), ("192.0.2.1", "events"), ("[::1]", "events")]
    {
        let error = addressed(endpoint, bucket, "true").unwrap_err();
        assert!(error.starts_with("S3_ADDRESSING cannot be virtual"), "{error}");
    }
}
