//! A proxy between a store and Postgres. It loses, refuses or delays the statements that a test wants lost, refused or
//! delayed, or is away altogether.
//!
//! The proxy knows how messages of the protocol are framed, and that a client says one thing at a time: a simple query,
//! or messages that end with Sync. The server answers each until it is ready for the next.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::pin::pin;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::proxy::{Gate, lock};

/// The first statement of every connection. If it is lost, another connection is made, and nobody hears of it.
pub const SET_UP: &str = "SET jit = off";

/// The fate of a statement.
pub enum StatementFate {
    Pass,
    /// The statement never arrives: the connection is closed.
    LoseStatement,
    /// The statement happens, and the connection is closed before anybody hears of it.
    LoseReply,
    /// The statement never arrives, and the answer is this SQLSTATE.
    Refuse(&'static str),
    /// A middle box swallows the statement: it never arrives, and nothing passes over its connection any more.
    SwallowStatement,
    /// The statement happens, and nothing passes over its connection any more.
    SwallowReply,
    /// The statement waits at a gate before it passes, or until its client has gone.
    Hold(Gate),
    /// The statement happens, and the answer waits at a gate.
    HoldReply(Gate),
}

type Script = Box<dyn FnMut(&str) -> StatementFate + Send>;

struct Shared {
    socket: PathBuf,
    script: Mutex<Script>,
    is_away: AtomicBool,
    /// The token that ends all present connections.
    open: Mutex<CancellationToken>,
    /// The token that makes all present connections silent.
    heard: Mutex<CancellationToken>,
}

pub struct PostgresProxy {
    url: String,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

impl PostgresProxy {
    /// Starts a proxy before the server that this URL leads to through a socket in the file system.
    pub async fn start(url: &str) -> PostgresProxy {
        PostgresProxy::start_at(Ipv4Addr::LOCALHOST.into(), url).await
    }

    /// Starts a proxy at one of this machine's addresses.
    pub async fn start_at(address: IpAddr, url: &str) -> PostgresProxy {
        let options = PgConnectOptions::from_str(url).expect("the url is one");
        let folder = options.get_socket().expect("a server behind a socket");
        let shared = Arc::new(Shared {
            socket: folder.join(format!(".s.PGSQL.{}", options.get_port())),
            script: Mutex::new(Box::new(|_| StatementFate::Pass)),
            is_away: AtomicBool::new(false),
            open: Mutex::default(),
            heard: Mutex::default(),
        });
        let listener = TcpListener::bind((address, 0)).await.expect("a loopback port is free");
        let address: SocketAddr = listener.local_addr().expect("the listener is bound");
        let (user, database) = (options.get_username(), options.get_database().expect("a database"));
        let url = format!("postgres://{user}@{address}/{database}?sslmode=disable");
        let serving = tokio::spawn(serve(listener, Arc::clone(&shared)));
        PostgresProxy { url, shared, serving }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Sets the script, which is asked about every statement that is executed from now on.
    pub fn script(&self, script: impl FnMut(&str) -> StatementFate + Send + 'static) {
        *lock(&self.shared.script) = Box::new(script);
    }

    /// Holds the first statement with these words at a gate; everything else passes.
    pub fn hold_first(&self, words: &'static str) -> Gate {
        let gate = Gate::new();
        let mut held = Some(gate.clone());
        self.script(move |statement| match held.take_if(|_| statement.contains(words)) {
            Some(gate) => StatementFate::Hold(gate),
            None => StatementFate::Pass,
        });
        gate
    }

    /// Lets Postgres go away: every connection ends, and nobody gets another one.
    pub fn leave(&self) {
        self.shared.is_away.store(true, Ordering::SeqCst);
        self.sever();
    }

    /// Ends every connection, as a restart of Postgres does.
    pub fn sever(&self) {
        std::mem::take(&mut *lock(&self.shared.open)).cancel();
    }

    /// Lets a middle box forget every connection: nothing passes over it any more in any direction, not even its end.
    /// New connections are as good as ever.
    pub fn fall_silent(&self) {
        std::mem::take(&mut *lock(&self.shared.heard)).cancel();
    }

    /// Lets Postgres come back, and everything pass from now on.
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
            // A client that goes away in the middle is no concern of the proxy.
            tokio::spawn(open.run_until_cancelled_owned(async move {
                let mut conversation = pin!(converse(client, &shared));
                tokio::select! {
                    _ = &mut conversation => {}
                    // The connection is kept, and the conversation does not go on.
                    () = heard.cancelled() => std::future::pending().await,
                }
            }));
        }
    }
}

/// Everything that a client says before it waits for an answer.
struct Turn {
    bytes: Vec<u8>,
    /// The statement that is executed, if any; the first one of several that are sent as one.
    sql: Option<String>,
}

async fn converse(client: TcpStream, shared: &Shared) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let server = UnixStream::connect(&shared.socket).await?;
    let ((client_reader, mut client), (server_reader, mut server)) = (client.into_split(), server.into_split());
    let ((turn_sender, mut turns), (answer_sender, mut answers)) = (unbounded_channel(), unbounded_channel());
    let gone = CancellationToken::new();
    // The readers end with this conversation.
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
            // Nobody asked for this answer, which may be a notification.
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
                // A server says no more after these codes.
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
        if answer(fate, &mut answers, &mut client, &gone).await?.is_break() {
            return Ok(());
        }
    }
}

/// Lets the client have the answer to its turn as the fate of the statement will have it. Breaks if the conversation is
/// to end.
async fn answer(
    fate: StatementFate,
    answers: &mut UnboundedReceiver<(u8, Vec<u8>)>,
    client: &mut OwnedWriteHalf,
    gone: &CancellationToken,
) -> std::io::Result<ControlFlow<()>> {
    match fate {
        StatementFate::LoseReply => {
            reply(answers).await;
            return Ok(ControlFlow::Break(()));
        }
        StatementFate::SwallowReply => {
            reply(answers).await;
            std::future::pending().await
        }
        StatementFate::HoldReply(gate) => {
            let bytes = reply(answers).await;
            tokio::select! {
                true = gate.wait() => client.write_all(&bytes).await?,
                () = gone.cancelled() => return Ok(ControlFlow::Break(())),
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
    Ok(ControlFlow::Continue(()))
}

/// Returns everything up to "ready for the next".
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

/// Reads the length, which counts itself, and what it counts.
async fn read_body(reader: &mut (impl AsyncRead + Unpin), bytes: &mut Vec<u8>) -> std::io::Result<()> {
    let length = reader.read_u32().await?;
    bytes.extend(length.to_be_bytes());
    let start = bytes.len();
    bytes.resize(start + length as usize - 4, 0);
    reader.read_exact(&mut bytes[start..]).await?;
    Ok(())
}

/// Returns an error, and the message that the next statement may come.
fn refusal(code: &str) -> Vec<u8> {
    let fields = format!("SERROR\0VERROR\0C{code}\0Mscripted\0\0");
    let mut bytes = vec![b'E'];
    bytes.extend((fields.len() as u32 + 4).to_be_bytes());
    bytes.extend(fields.as_bytes());
    bytes.extend(b"Z\0\0\0\x05E");
    bytes
}
