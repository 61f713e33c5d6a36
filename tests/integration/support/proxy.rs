//! A proxy between a store and S3. It counts requests, and loses, delays or answers those that a test wants lost,
//! delayed or answered.
//!
//! One connection carries one request. The proxy needs no more of HTTP: a head, and as many bytes as it announces.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;

use super::raw::MARKER;

/// The kind of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A read of an object, or of a range of one.
    Get,
    Head,
    StartUpload,
    PutPart,
    /// A part that is copied from an object that the server has.
    CopyPart,
    CompleteUpload,
    AbortUpload,
    Delete,
    DeleteVersion,
    ListObjects,
    ListVersions,
    ListUploads,
    /// A request about the bucket itself.
    Bucket,
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub kind: Kind,
    pub method: String,
    /// The path and the query, as they stand in the request.
    pub target: String,
    /// The first line and the headers.
    head: String,
    /// The number of bytes of the body.
    pub bytes: usize,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        let headers = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        headers
            .map(|(name, value)| (name, value.trim()))
            .find_map(|(given, value)| given.eq_ignore_ascii_case(name).then_some(value))
    }

    fn new(message: &Message) -> Request {
        let mut words = message.head.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let is_copy = message.head.contains("\r\nx-amz-copy-source:");
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
        let is_bucket = path.trim_matches('/').split('/').count() < 2;
        let kind = match (method, is_bucket) {
            ("GET", true) if has("versions") => Kind::ListVersions,
            ("GET", true) if has("uploads") => Kind::ListUploads,
            ("GET", true) if has("list-type") => Kind::ListObjects,
            (_, true) => Kind::Bucket,
            ("GET", false) => Kind::Get,
            ("HEAD", false) => Kind::Head,
            ("POST", false) if has("uploads") => Kind::StartUpload,
            ("POST", false) if has("uploadId") => Kind::CompleteUpload,
            ("PUT", false) if has("partNumber") && is_copy => Kind::CopyPart,
            ("PUT", false) if has("partNumber") => Kind::PutPart,
            ("DELETE", false) if has("uploadId") => Kind::AbortUpload,
            ("DELETE", false) if has("versionId") => Kind::DeleteVersion,
            ("DELETE", false) => Kind::Delete,
            _ => Kind::Other,
        };
        Request {
            kind,
            method: method.to_owned(),
            target: target.to_owned(),
            head: message.head.clone(),
            bytes: message.body.len(),
        }
    }
}

/// The fate of a request.
pub enum Fate {
    Pass,
    /// The request never arrives: the connection is closed.
    LoseRequest,
    /// The request happens, and nobody hears of it.
    LoseReply,
    /// The request never arrives, and this is the answer.
    Answer(u16, &'static str),
    /// The request happens, and this is the answer all the same.
    AnswerAfter(u16, &'static str),
    /// The request happens, and only so many bytes of the answer's body come through.
    CutBody(usize),
    /// The request waits at a gate before it passes.
    Hold(Gate),
    /// The request happens, and the answer waits at a gate.
    HoldReply(Gate),
}

/// A place where a request waits until a test lets it go.
#[derive(Clone)]
pub struct Gate {
    arrived: Arc<Semaphore>,
    opened: Arc<Semaphore>,
}

impl Gate {
    pub fn new() -> Gate {
        Gate { arrived: Arc::new(Semaphore::new(0)), opened: Arc::new(Semaphore::new(0)) }
    }

    /// Returns once a request is waiting.
    pub async fn arrival(&self) {
        self.arrived.acquire().await.expect("a gate is never closed").forget();
    }

    /// Lets one request pass.
    pub fn open(&self) {
        self.opened.add_permits(1);
    }

    /// Loses whatever waits, or comes to wait.
    pub fn lose(&self) {
        self.opened.close();
    }

    /// Waits, and returns whether the request may pass.
    pub(super) async fn wait(&self) -> bool {
        self.arrived.add_permits(1);
        self.opened.acquire().await.map(SemaphorePermit::forget).is_ok()
    }
}

type Script = Box<dyn FnMut(&Request) -> Fate + Send>;

struct Shared {
    upstream: SocketAddr,
    seen: Mutex<Vec<Request>>,
    script: Mutex<Script>,
}

pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

impl Proxy {
    pub async fn start(upstream: SocketAddr) -> Proxy {
        Proxy::start_on(Ipv4Addr::LOCALHOST.into(), upstream).await
    }

    pub async fn start_on(host: IpAddr, upstream: SocketAddr) -> Proxy {
        let listener = TcpListener::bind((host, 0)).await.expect("a loopback port is free");
        let address = listener.local_addr().expect("the listener is bound");
        let shared =
            Arc::new(Shared { upstream, seen: Mutex::default(), script: Mutex::new(Box::new(|_| Fate::Pass)) });
        let serving = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Proxy { address, shared, serving }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the script, which is asked about every request from now on.
    pub fn script(&self, script: impl FnMut(&Request) -> Fate + Send + 'static) {
        *lock(&self.shared.script) = Box::new(script);
    }

    /// Holds the first request of a kind at a gate; everything else passes.
    pub fn hold_first(&self, kind: Kind) -> Gate {
        let gate = Gate::new();
        let mut held = Some(gate.clone());
        // A look at the marker comes before whatever a test wants to hold.
        let is_it = move |request: &Request| request.kind == kind && !request.target.contains(MARKER);
        self.script(move |request| match held.take_if(|_| is_it(request)) {
            Some(gate) => Fate::Hold(gate),
            None => Fate::Pass,
        });
        gate
    }

    /// Lets everything pass from now on.
    pub fn heal(&self) {
        self.script(|_| Fate::Pass);
    }

    /// Heals, and returns whether there were `k` requests since the last look at what was seen.
    pub fn heal_after(&self, k: usize) -> bool {
        self.heal();
        self.take_seen().len() >= k
    }

    /// Returns the requests that have arrived since the last call, in order.
    pub fn take_seen(&self) -> Vec<Request> {
        std::mem::take(&mut *lock(&self.shared.seen))
    }

    /// Returns the same without looks at the marker, which a service takes now and then whatever it is asked.
    pub fn take_asked(&self) -> Vec<Request> {
        let mut asked = self.take_seen();
        asked.retain(|request| !request.target.ends_with(MARKER));
        asked
    }

    /// Returns how many requests of a kind have arrived since [`Proxy::take_seen`].
    pub fn count(&self, kind: Kind) -> usize {
        lock(&self.shared.seen).iter().filter(|request| request.kind == kind).count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let (client, _) = listener.accept().await.expect("connections can be accepted");
        let shared = Arc::clone(&shared);
        // A client that goes away in the middle is no concern of the proxy.
        tokio::spawn(async move { converse(client, &shared).await.ok() });
    }
}

async fn converse(mut client: TcpStream, shared: &Shared) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let Some(message) = Message::read(&mut client).await? else { return Ok(()) };
    let request = Request::new(&message);
    lock(&shared.seen).push(request.clone());
    let fate = lock(&shared.script)(&request);
    match fate {
        Fate::LoseRequest => return Ok(()),
        Fate::Answer(status, body) => return answer(&mut client, status, body).await,
        Fate::Hold(ref gate) => {
            if !gate.wait().await {
                return Ok(());
            }
        }
        Fate::Pass | Fate::AnswerAfter(..) | Fate::LoseReply | Fate::CutBody(_) | Fate::HoldReply(_) => {}
    }
    let reply = forward(shared.upstream, &message).await?;
    match fate {
        Fate::LoseReply => return Ok(()),
        Fate::AnswerAfter(status, body) => return answer(&mut client, status, body).await,
        Fate::CutBody(bytes) => {
            let body = reply.windows(4).position(|window| window == b"\r\n\r\n").map_or(reply.len(), |head| head + 4);
            client.write_all(&reply[..reply.len().min(body + bytes)]).await?;
        }
        Fate::HoldReply(gate) => {
            if !gate.wait().await {
                return Ok(());
            }
            client.write_all(&reply).await?;
        }
        _ => client.write_all(&reply).await?,
    }
    client.shutdown().await
}

async fn answer(client: &mut TcpStream, status: u16, body: &str) -> std::io::Result<()> {
    let head = format!("HTTP/1.1 {status} Scripted\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    client.write_all(head.as_bytes()).await?;
    client.write_all(body.as_bytes()).await?;
    client.shutdown().await
}

/// Returns the whole answer, as it comes.
async fn forward(upstream: SocketAddr, message: &Message) -> std::io::Result<Vec<u8>> {
    let mut server = TcpStream::connect(upstream).await?;
    server.set_nodelay(true)?;
    // The server says the same of its answer then, so that the client sends its next request on another connection.
    let head = message.head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(&message.body);
    server.write_all(&bytes).await?;
    let mut reply = Vec::new();
    server.read_to_end(&mut reply).await?;
    Ok(reply)
}

/// A request with its whole body.
struct Message {
    /// The head, with the empty line that ends it.
    head: String,
    body: Vec<u8>,
}

impl Message {
    /// Reads a request; `None` if the connection was closed without one.
    async fn read(client: &mut TcpStream) -> std::io::Result<Option<Message>> {
        let mut bytes = Vec::new();
        let body_start = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            if client.read_buf(&mut bytes).await? == 0 {
                return Ok(None);
            }
        };
        let mut body = bytes.split_off(body_start);
        let head = String::from_utf8(bytes).map_err(std::io::Error::other)?;
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        });
        while body.len() < length.unwrap_or_default() {
            if client.read_buf(&mut body).await? == 0 {
                return Ok(None);
            }
        }
        Ok(Some(Message { head, body }))
    }
}
