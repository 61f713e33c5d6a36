//! The move of one batch out of Postgres and into an object: by Coldstream, at the least possible cost, and by hand.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use coldstream::embedded::Durability;
use futures::TryStreamExt;
use sha2::{Digest, Sha256};

use crate::report::{Report, median, ratio};
use crate::servers::{self, Servers, bucket};
use crate::{Mode, events, usage};

/// The cost of one way to move a batch.
#[derive(Debug, Clone, Copy)]
struct Cost {
    seconds: f64,
    cpu_seconds: f64,
    /// The part of `cpu_seconds` that Postgres took.
    postgres_seconds: f64,
}

/// The size of a member: members are compressed one by one, as in archives.
const MEMBER_BYTES: usize = 256 * 1024;
const TEMPLATE: &str = "loaded";
/// The export, in the order of the positions, as in an archive.
const FLOOR_COPY: &str = "COPY (SELECT position, id, stream, type, raised_at, payload FROM events
                                WHERE log_id = 1 AND position BETWEEN 1 AND 1000000000 ORDER BY position)
                          TO STDOUT (FORMAT binary)";

pub async fn run(mode: Mode) -> Report {
    let (batch_size, rounds) = (mode.pick(100_000, 1_000), mode.pick(9, 1));
    let servers = Servers::start(mode.pick(Durability::Full, Durability::None)).await;
    events::import(&servers, TEMPLATE, batch_size).await;
    let (mut ours, mut floors, mut safe_floors, mut by_hands) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let copies = ["ours", "floor", "safe_floor", "by_hand"].map(|name| format!("{name}_{round}"));
        for copy in &copies {
            servers.copy_database(TEMPLATE, copy).await;
        }
        ours.push(coldstream(&servers, &copies[0], batch_size).await);
        floors.push(floor(&servers, &copies[1], Floor::Bare).await);
        safe_floors.push(floor(&servers, &copies[2], Floor::ReadBack).await);
        by_hands.push(by_hand(&servers, &copies[3]).await);
        for copy in &copies {
            servers.execute("postgres", &format!("DROP DATABASE {copy} WITH (FORCE)")).await;
        }
    }

    let mut report = Report::new("An archive run");
    report.paragraph(format!(
        "One batch of {batch_size} events (840 bytes of JSON each) moves from Postgres to S3. Medians of {rounds} \
         interleaved rounds; CPU is that of Postgres and of every client process, without the S3 server's. *Floor* is the \
         least that has to be done, in one process and with nothing made safe: `COPY (FORMAT binary)` out, the lines of an \
         archive, libdeflate at level 6, SHA-256, DELETE by range. *Floor, read back* also sends what it has made to S3, \
         gets it back and decompresses it before it deletes. *By hand* is `psql COPY (row_to_json) | gzip -6`, `curl`, \
         DELETE. Coldstream also looks at every line that it gets back, makes the catalog and the lookups, and can be \
         ended anywhere. It and the floors are connected before the clock runs."
    ));
    let cpu = |costs: &[Cost]| median(costs.iter().map(|cost| cost.cpu_seconds).collect());
    let wall = |costs: &[Cost]| median(costs.iter().map(|cost| cost.seconds).collect());
    report.table(
        ["", "CPU", "of it Postgres", "time", "CPU against the floor", "against it, read back", "as fast as by hand"],
        [("Coldstream", &ours), ("floor", &floors), ("floor, read back", &safe_floors), ("by hand", &by_hands)].map(
            |(name, costs)| {
                [
                    name.to_owned(),
                    format!("{:.2} s", cpu(costs)),
                    format!("{:.2} s", median(costs.iter().map(|cost| cost.postgres_seconds).collect())),
                    format!("{:.2} s", wall(costs)),
                    ratio(cpu(costs) / cpu(&floors)),
                    ratio(cpu(costs) / cpu(&safe_floors)),
                    ratio(wall(&by_hands) / wall(costs)),
                ]
            },
        ),
    );
    report
}

/// Archives as a running service does, which is up before there is something to do.
async fn coldstream(servers: &Servers, database: &str, batch_size: u64) -> Cost {
    let store = servers.store(database, batch_size).await;
    let (started, before, own_before) = (Instant::now(), servers.postgres_cpu_seconds(), usage::own_cpu_seconds());
    let archived = store.archive(|_, _| {}).await.expect("events can be archived");
    let postgres_seconds = servers.postgres_cpu_seconds() - before;
    let own_seconds = usage::own_cpu_seconds() - own_before;
    assert_eq!((archived.archives, archived.events), (1, batch_size as i64));
    Cost { seconds: started.elapsed().as_secs_f64(), cpu_seconds: own_seconds + postgres_seconds, postgres_seconds }
}

/// The least work to compare with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Floor {
    Bare,
    /// The object is on S3, and good, before anything is deleted.
    ReadBack,
}

async fn floor(servers: &Servers, database: &str, kind: Floor) -> Cost {
    let bucket = servers.make_bucket(database).await;
    let mut connection = servers.connect(database).await;
    // Postgres would sort all rows else, which takes twice as long.
    sqlx::raw_sql("SET enable_sort = off").execute(&mut connection).await.expect("it can be set");
    let (started, before, own_before) = (Instant::now(), servers.postgres_cpu_seconds(), usage::own_cpu_seconds());

    let mut compressor = libdeflater::Compressor::new(libdeflater::CompressionLvl::new(6).expect("there is a level 6"));
    let (mut digest, mut compressed, mut object, mut members) = (Sha256::new(), Vec::new(), Vec::new(), Vec::new());
    let mut compress = |member: &mut Vec<u8>| {
        compressed.resize(compressor.gzip_compress_bound(member.len()), 0);
        let length = compressor.gzip_compress(member, &mut compressed).expect("there is room");
        digest.update(&compressed[..length]);
        if kind == Floor::ReadBack {
            object.extend_from_slice(&compressed[..length]);
            members.push((length, member.len()));
        }
        member.clear();
    };
    let mut member = Vec::with_capacity(2 * MEMBER_BYTES);
    let mut rows = connection.copy_out_raw(FLOOR_COPY).await.expect("COPY begins");
    while let Some(message) = rows.try_next().await.expect("COPY goes on") {
        write_line(&message, &mut member);
        if member.len() >= MEMBER_BYTES {
            compress(&mut member);
        }
    }
    drop(rows);
    compress(&mut member);
    let digest = std::hint::black_box(digest.finalize());
    if kind == Floor::ReadBack {
        bucket.put_object("/floor.json.gz", &object).await.expect("it can be sent");
        let answer = bucket.get_object("/floor.json.gz").await.expect("it can be had back");
        assert_eq!(Sha256::digest(answer.as_slice()), digest);
        let (mut decompressor, mut rest) = (libdeflater::Decompressor::new(), answer.as_slice());
        for (length, json_bytes) in members {
            let (bytes, behind) = rest.split_at(length);
            member.resize(json_bytes, 0);
            decompressor.gzip_decompress(bytes, &mut member).expect("it is what was sent");
            rest = behind;
        }
    }
    let delete = "DELETE FROM events WHERE log_id = 1 AND position BETWEEN 1 AND 1000000000";
    let deleted = sqlx::query(delete).execute(&mut connection).await.expect("the rows can be deleted");
    assert!(deleted.rows_affected() > 0);

    let postgres_seconds = servers.postgres_cpu_seconds() - before;
    let own_seconds = usage::own_cpu_seconds() - own_before;
    Cost { seconds: started.elapsed().as_secs_f64(), cpu_seconds: own_seconds + postgres_seconds, postgres_seconds }
}

/// Writes the line of the row in a message of COPY, if there is one: the first message begins with the header, and the
/// last is only the end.
fn write_line(message: &[u8], out: &mut Vec<u8>) {
    const HEADER_BYTES: usize = 19;
    let mut rest = message.strip_prefix(b"PGCOPY").map_or(message, |_| &message[HEADER_BYTES..]);
    if rest.len() <= size_of::<i16>() {
        return;
    }
    rest = &rest[size_of::<i16>()..];
    let mut column = || {
        let (length, behind) = rest.split_first_chunk().expect("a column begins with its length");
        let (bytes, behind) = behind.split_at(i32::from_be_bytes(*length) as usize);
        rest = behind;
        bytes
    };
    let number = |bytes: &[u8]| i64::from_be_bytes(bytes.try_into().expect("a number has eight bytes"));
    let _ = write!(out, ",\n{{\"position\":{},\"id\":\"", number(column()));
    out.extend_from_slice(column());
    out.extend_from_slice(b"\",\"tenant_id\":\"acme\",\"topic\":\"orders\",\"stream\":\"");
    out.extend_from_slice(column());
    out.extend_from_slice(b"\",\"type\":\"");
    out.extend_from_slice(column());
    out.extend_from_slice(b"\",\"raised_at\":\"");
    out.extend_from_slice(&coldstream::event::Instant::from_unix_nanos(number(column())).rfc3339());
    out.extend_from_slice(b"\",\"payload\":");
    out.extend_from_slice(column());
    out.push(b'}');
}

async fn by_hand(servers: &Servers, database: &str) -> Cost {
    let file = servers.folder.path().join("by-hand.json.gz");
    servers.make_bucket(database).await;

    let (started, before) = (Instant::now(), servers.postgres_cpu_seconds());
    let mut pipeline = Command::new("sh");
    pipeline.arg("-c").arg(
        "psql --quiet --no-psqlrc --dbname \"$URL\" --command 'COPY (SELECT row_to_json(events) FROM events \
         ORDER BY position) TO STDOUT' | gzip -6 > \"$FILE\"",
    );
    pipeline.env("URL", servers.postgres.connection(database)).env("FILE", &file);
    let exported = servers::run(pipeline).await;
    let mut put = curl(servers, database, "/by-hand.json.gz");
    put.arg("--upload-file").arg(&file);
    let put = servers::run(put).await;
    let mut delete = Command::new("psql");
    delete.args(["--quiet", "--no-psqlrc", "--dbname", &servers.postgres.connection(database)]);
    let deleted = servers::run({
        delete.args(["--command", "DELETE FROM events"]);
        delete
    })
    .await;
    let clients = exported.cpu_seconds + put.cpu_seconds + deleted.cpu_seconds;
    let postgres_seconds = servers.postgres_cpu_seconds() - before;
    Cost { seconds: started.elapsed().as_secs_f64(), cpu_seconds: clients + postgres_seconds, postgres_seconds }
}

fn curl(servers: &Servers, database: &str, path: &str) -> Command {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--fail", "--show-error", "--aws-sigv4", "aws:amz:us-east-1:s3"])
        .args(["--user", &format!("{}:{}", servers::ACCESS_KEY, servers::SECRET_KEY)])
        .args(["--header", "x-amz-content-sha256: UNSIGNED-PAYLOAD"])
        .arg(format!("http://{}/{}{path}", servers.s3_endpoint, bucket(database)))
        .stdout(Stdio::null());
    curl
}
