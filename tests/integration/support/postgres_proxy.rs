//! What stands between a store and Postgres: loses, refuses or delays the statements that a test wants lost, refused
//! or delayed, and is away altogether.
//!
//! Of the protocol it knows how messages are framed, and that a client says one thing at a time: a simple query, or
//! what ends with Sync. The server answers each until it is ready for the next.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::proxy::{Gate, lock};

/// What every connection begins with. Where it is lost, another connection is made, and nobody hears of it.
pub const SET_UP: &str = "SET jit = off";

/// What becomes of a statement.
pub enum StatementFate {
    Pass,
    /// It never arrives: the connection is closed.
    LoseStatement,
    /// It happens, and the connection is closed before anybody hears of it.
    LoseReply,
    /// It never arrives, and the answer is this SQLSTATE.
    Refuse(&'static str),
    /// A middle box swallows it: it never arrives, and nothing passes over its connection any more.
    SwallowStatement,
    /// It happens, and nothing passes over its connection any more.
    SwallowReply,
    /// It waits at a gate before it passes, or until its client has gone.
    Hold(Gate),
    /// It happens, and the answer waits at a gate.
    HoldReply(Gate),
}

type Script = Box<dyn FnMut(&str) -> StatementFate + Send>;

struct Shared {
    socket: PathBuf,
    script: Mutex<Script>,
    is_away: AtomicBool,
    /// Of the connections that there are.
    open: Mutex<CancellationToken>,
    /// The same, until nothing passes over them any more.
    heard: Mutex<CancellationToken>,
}

pub struct PostgresProxy {
    url: String,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

impl PostgresProxy {
    /// In front of the server that this url leads to, through a socket in the file system.
    pub async fn start(url: &str) -> PostgresProxy {
        PostgresProxy::start_at(Ipv4Addr::LOCALHOST.into(), url).await
    }

    /// The same, at one of this machine's addresses.
    pub async fn start_at(address: IpAddr, url: &str) -> PostgresProxy {
        let options = PgConnectOptions::from_str(url).expect("the url is one");
        let folder = options.get_socket().expect("it is reached through a socket");
        let shared = Arc::new(Shared {
            socket: folder.join(format!(".s.PGSQL.{}", options.get_port())),
            script: Mutex::new(Box::new(|_| StatementFate::Pass)),
            is_away: AtomicBool::new(false),
            open: Mutex::default(),
            heard: Mutex::default(),
        });
        let listener = TcpListener::bind((address, 0)).await.expect("a loopback port is free");
        let address: SocketAddr = listener.local_addr().expect("it is bound");
        let (user, database) = (options.get_username(), options.get_database().expect("it is named"));
        let url = format!("postgres://{user}@{address}/{database}?sslmode=disable");
        let serving = tokio::spawn(serve(listener, Arc::clone(&shared)));
        PostgresProxy { url, shared, serving }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Asked about every statement that is executed from now on.
    pub fn script(&self, script: impl FnMut(&str) -> StatementFate + Send + 'static) {
        *lock(&self.shared.script) = Box::new(script);
    }

    /// The first statement with these words waits at the gate; everything else passes.
    pub fn hold_first(&self, words: &'static str) -> Gate {
        let gate = Gate::new();
        let mut held = Some(gate.clone());
        self.script(move |statement| match held.take_if(|_| statement.contains(words)) {
            Some(gate) => StatementFate::Hold(gate),
            None => StatementFate::Pass,
        });
        gate
    }

    /// Postgres goes away: every connection ends, and nobody gets another one.
    pub fn leave(&self) {
        self.shared.is_away.store(true, Ordering::SeqCst);
        self.sever();
    }

    /// Every connection ends, as it does when Postgres is restarted.
    pub fn sever(&self) {
        std::mem::take(&mut *lock(&self.shared.open)).cancel();
    }

    /// A middle box forgets every connection: nothing passes over it any more in any direction, not even its end. New
    /// ones are as good as ever.
    pub fn fall_silent(&self) {
        std::mem::take(&mut *lock(&self.shared.heard)).cancel();
    }

    /// Postgres is there, and everything passes from now on.
    pub fn heal(&self) {
        self.shared.is_away.store(false, Ordering::SeqCst);
        self.script(|_| StatementFate::Pass);
    }
}

impl Drop for PostgresProxy {
    fn drop(&mut self) {
        self.serving.abort();
        self.sever();
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let (client, _) = listener.accept().await.expect("connections can be accepted");
        let shared = Arc::clone(&shared);
        let (open, heard) = (lock(&shared.open).clone(), lock(&shared.heard).clone());
        if !shared.is_away.load(Ordering::SeqCst) {
            // Who goes away in the middle is no concern of the proxy.
            tokio::spawn(open.run_until_cancelled_owned(async move {
                let mut conversation = pin!(converse(client, &shared));
                tokio::select! {
                    _ = &mut conversation => {}
                    // It is kept, and not gone on with.
                    () = heard.cancelled() => std::future::pending().await,
                }
            }));
        }
    }
}

/// What a client says before it waits for an answer.
struct Turn {
    bytes: Vec<u8>,
    /// What is executed, if anything is; of some statements that are sent as one, the first.
    sql: Option<String>,
}

async fn converse(client: TcpStream, shared: &Shared) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let server = UnixStream::connect(&shared.socket).await?;
    let ((client_reader, mut client), (server_reader, mut server)) = (client.into_split(), server.into_split());
    let ((turn_sender, mut turns), (answer_sender, mut answers)) = (unbounded_channel(), unbounded_channel());
    let gone = CancellationToken::new();
    // They end with this conversation.
    let mut readers = JoinSet::new();
    let guard = gone.clone().drop_guard();
    readers.spawn(async move {
        let _guard = guard;
        read_turns(client_reader, turn_sender).await.ok();
    });
    readers.spawn(async move { drop(read_answers(server_reader, answer_sender).await) });
    loop {
        let turn = tokio::select! {
            turn = turns.recv() => turn,
            // What nobody asked for, such as a notification.
            answer = answers.recv() => {
                let Some((_, bytes)) = answer else { return Ok(()) };
                client.write_all(&bytes).await?;
                continue;
            }
        };
        let Some(Turn { bytes, sql }) = turn else { return Ok(()) };
        let fate = sql.map_or(StatementFate::Pass, |sql| lock(&shared.script)(&sql));
        match &fate {
            StatementFate::LoseStatement => return Ok(()),
            StatementFate::SwallowStatement => std::future::pending().await,
            StatementFate::Refuse(code) => {
                client.write_all(&refusal(code)).await?;
                // After these a server says no more.
                if code.starts_with("57P") {
                    return client.shutdown().await;
                }
                continue;
            }
            StatementFate::Hold(gate) => tokio::select! {
                true = gate.wait() => {}
                () = gone.cancelled() => return Ok(()),
            },
            _ => {}
        }
        server.write_all(&bytes).await?;
        match fate {
            StatementFate::LoseReply => {
                reply(&mut answers).await;
                return Ok(());
            }
            StatementFate::SwallowReply => {
                reply(&mut answers).await;
                std::future::pending().await
            }
            StatementFate::HoldReply(gate) => {
                let bytes = reply(&mut answers).await;
                tokio::select! {
                    true = gate.wait() => client.write_all(&bytes).await?,
                    () = gone.cancelled() => return Ok(()),
                }
            }
            _ => {
                while let Some((kind, bytes)) = answers.recv().await {
                    client.write_all(&bytes).await?;
                    if kind == b'Z' {
                        break;
                    }
                }
            }
        }
    }
}

/// Everything up to "ready for the next".
async fn reply(answers: &mut UnboundedReceiver<(u8, Vec<u8>)>) -> Vec<u8> {
    let mut reply = Vec::new();
    while let Some((kind, bytes)) = answers.recv().await {
        reply.extend(bytes);
        if kind == b'Z' {
            break;
        }
    }
    reply
}

async fn read_turns(mut client: impl AsyncRead + Unpin, turns: UnboundedSender<Turn>) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    // The first message of all has no kind.
    read_body(&mut client, &mut bytes).await?;
    let _ = turns.send(Turn { bytes, sql: None });
    let mut prepared: HashMap<String, String> = HashMap::new();
    let (mut bytes, mut bound, mut sql) = (Vec::new(), None, None);
    loop {
        let kind = client.read_u8().await?;
        bytes.push(kind);
        let start = bytes.len() + 4;
        read_body(&mut client, &mut bytes).await?;
        let mut texts = bytes[start..].split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
        let mut text = || texts.next().unwrap_or_default();
        match kind {
            b'Q' => sql = Some(text().split(';').next().unwrap_or_default().to_owned()),
            b'P' => drop(prepared.insert(text(), text())),
            b'B' => bound = prepared.get(&[text(), text()][1]).cloned(),
            b'E' => sql = bound.take(),
            _ => {}
        }
        if matches!(kind, b'Q' | b'S' | b'X') {
            let _ = turns.send(Turn { bytes: std::mem::take(&mut bytes), sql: sql.take() });
        }
    }
}

async fn read_answers(
    mut server: impl AsyncRead + Unpin,
    answers: UnboundedSender<(u8, Vec<u8>)>,
) -> std::io::Result<()> {
    loop {
        let kind = server.read_u8().await?;
        let mut bytes = vec![kind];
        read_body(&mut server, &mut bytes).await?;
        let _ = answers.send((kind, bytes));
    }
}

/// The length, which counts itself, and what it counts.
async fn read_body(reader: &mut (impl AsyncRead + Unpin), bytes: &mut Vec<u8>) -> std::io::Result<()> {
    let length = reader.read_u32().await?;
    bytes.extend(length.to_be_bytes());
    let start = bytes.len();
    bytes.resize(start + length as usize - 4, 0);
    reader.read_exact(&mut bytes[start..]).await?;
    Ok(())
}

/// An error, and that the next statement may come.
fn refusal(code: &str) -> Vec<u8> {
    let fields = format!("SERROR\0VERROR\0C{code}\0Mscripted\0\0");
    let mut bytes = vec![b'E'];
    bytes.extend((fields.len() as u32 + 4).to_be_bytes());
    bytes.extend(fields.as_bytes());
    bytes.extend(b"Z\0\0\0\x05E");
    bytes
}
