//! WebSocket (RFC 6455), the client's side of it: MQTT's bytes in binary frames, for brokers that are reached through a web proxy or
//! a port for web traffic only (MQTT 3.1.1 section 6, MQTT 5 section 6).
//!
//! Constraints: packets and frames have nothing to do with each other; a reader sees one stream of bytes. What is written goes into
//! frames of at most [`FRAME`] bytes, masked by random numbers that nobody can foretell (section 5.3). Control frames are
//! answered here.
//!
//! States of the closing handshake (section 7), which either side begins:
//!
//! ```text
//!        a close frame came, and is answered
//! Open ───────────────────────────────────────> Ended    reads as the end of the stream; nothing more is written
//!   │ shutdown: a close frame is sent             ^
//!   └──────> Closing ─────────────────────────────┘
//!            what still comes is read; nothing more is written
//! ```
//!
//! [`frame`] is the format.

pub(super) mod frame;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Buf as _, BytesMut};
use frame::{BINARY, CLOSE, Decoder, PONG, Seen, wrong};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

/// Bytes of payload in a frame that is sent.
const FRAME: usize = 16 * 1024;
/// Bytes that wait to be written before the writer has to.
const WAITING: usize = 64 * 1024;
/// The longest answer to the opening handshake, in bytes.
const MOST_ANSWER: usize = 8 * 1024;
/// What the server adds to our key before it digests it (section 1.3).
const SALT: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The status code of an end that was meant (section 7.4.1).
const NORMAL: u16 = 1000;

/// Where the connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Both sides talk.
    Open,
    /// We have said that this is the end.
    Closing,
    /// The server has.
    Ended,
}

/// A stream of bytes inside of another one.
pub(super) struct WebSocket<S> {
    stream: S,
    state: State,
    decoder: Decoder,
    outgoing: BytesMut,
    random: SystemRandom,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// The opening handshake, for the subprotocol `mqtt`.
    pub(super) async fn open(mut stream: S, host: &str, path: &str) -> io::Result<Self> {
        let random = SystemRandom::new();
        let mut nonce = [0; 16];
        random.fill(&mut nonce).map_err(|_| io::Error::other("no random numbers"))?;
        let key = BASE64.encode(nonce);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let mut incoming = BytesMut::with_capacity(1024);
        let end = loop {
            if let Some(end) = incoming.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            if incoming.len() > MOST_ANSWER {
                return Err(wrong("its answer has no end"));
            }
            let read = stream.read_buf(&mut incoming).await;
            if read.as_ref().map_or_else(super::transport::has_hung_up, |count| *count == 0) {
                return Err(wrong("it hangs up; does this port speak WebSocket?"));
            }
            read?;
        };
        let answer = incoming.split_to(end);
        incoming.advance(4);
        check(&String::from_utf8_lossy(&answer), path, &key)?;
        let (decoder, outgoing) = (Decoder::new(incoming), BytesMut::new());
        Ok(WebSocket { stream, state: State::Open, decoder, outgoing, random })
    }

    /// Puts a frame into the buffer.
    fn frame(&mut self, opcode: u8, payload: &[u8]) -> io::Result<()> {
        let mut mask = [0; 4];
        self.random.fill(&mut mask).map_err(|_| io::Error::other("no random numbers"))?;
        frame::write(opcode, payload, mask, &mut self.outgoing);
        Ok(())
    }

    /// Says that this is the end, once.
    fn close(&mut self, next: State, code: Option<u16>) -> io::Result<()> {
        if self.state == State::Open {
            let code = code.map(u16::to_be_bytes);
            self.frame(CLOSE, code.as_ref().map_or(&[], |code| &code[..]))?;
        }
        self.state = next;
        Ok(())
    }

    /// Writes what waits.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.outgoing))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// What is here already of the stream's bytes, at most so many. Frames between them are answered. `None`: more is needed.
    fn payload(&mut self, most: usize) -> io::Result<Option<BytesMut>> {
        while self.state != State::Ended {
            match self.decoder.next(most)? {
                Seen::Payload(bytes) => return Ok(Some(bytes)),
                // More than a few of them unanswered is no conversation; and behind a close frame nothing is sent.
                Seen::Ping(payload) if self.state == State::Open && self.outgoing.len() < WAITING => {
                    self.frame(PONG, &payload)?;
                }
                Seen::Ping(_) => {}
                Seen::Close(code) => self.close(State::Ended, code)?,
                Seen::Incomplete => break,
            }
        }
        Ok(None)
    }
}

/// Whether this answer, without its end, opens a WebSocket (section 4.1).
fn check(answer: &str, path: &str, key: &str) -> io::Result<()> {
    let mut lines = answer.split("\r\n");
    let status = lines.next().unwrap_or_default();
    let code = status.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
    match code {
        Some("101") => {}
        Some(_) => {
            let status: String = status.chars().skip(9).take(60).filter(|c| !c.is_control()).collect();
            return Err(wrong(&format!("to GET {path} it answers {status:?}; is the path in mqtt.servers right?")));
        }
        None => return Err(wrong("it does not speak HTTP")),
    }
    let header = |wanted: &str| {
        let mut headers = lines.clone().filter_map(|line| line.split_once(':'));
        headers.find(|(name, _)| name.trim().eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim())
    };
    let names = |wanted: &str, value: &str| {
        let mut names = header(wanted).unwrap_or_default().split(',');
        names.any(|name| name.trim().eq_ignore_ascii_case(value))
    };
    if !names("upgrade", "websocket") || !names("connection", "upgrade") {
        return Err(wrong("it goes on with something else"));
    }
    let accept = BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{SALT}").as_bytes()));
    if header("sec-websocket-accept") != Some(&accept) {
        return Err(wrong("its answer is none to what it was asked"));
    }
    if header("sec-websocket-extensions").is_some_and(|value| !value.is_empty()) {
        return Err(wrong("it goes on with an extension that nobody asked for"));
    }
    match header("sec-websocket-protocol") {
        Some("mqtt") => Ok(()),
        _ => Err(wrong("it does not offer MQTT there")),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let payload = this.payload(buf.remaining())?;
            // An answer goes out with the next flush if it can't now. That nobody takes our last one is nobody's loss.
            if !this.outgoing.is_empty() {
                match this.poll_drain(cx) {
                    Poll::Ready(Ok(())) => _ = Pin::new(&mut this.stream).poll_flush(cx)?,
                    Poll::Ready(Err(error)) if this.state == State::Open => return Poll::Ready(Err(error)),
                    Poll::Ready(Err(_)) | Poll::Pending => {}
                }
            }
            if let Some(payload) = payload {
                buf.put_slice(&payload);
                return Poll::Ready(Ok(()));
            }
            if this.state == State::Ended {
                return Poll::Ready(Ok(()));
            }
            let incoming = this.decoder.incoming();
            incoming.reserve(FRAME / 2);
            let mut reading = std::pin::pin!(this.stream.read_buf(incoming));
            if ready!(reading.as_mut().poll(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.state != State::Open {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if this.outgoing.len() >= WAITING {
            ready!(this.poll_drain(cx))?;
        }
        let data = data.get(..FRAME.min(data.len())).unwrap_or_default();
        this.frame(BINARY, data)?;
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    /// The closing handshake; the stream below is the server's to end (section 7.1.1).
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.state == State::Open {
            this.close(State::Closing, Some(NORMAL))?;
        }
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::DuplexStream;

    /// The client's end, and the server's.
    fn pair() -> (WebSocket<DuplexStream>, DuplexStream) {
        let (stream, server) = tokio::io::duplex(1 << 16);
        let (decoder, outgoing, random) = (Decoder::default(), BytesMut::new(), SystemRandom::new());
        (WebSocket { stream, state: State::Open, decoder, outgoing, random }, server)
    }

    /// The next frame that the client has sent, which is a short one: first byte and payload.
    async fn heard(server: &mut DuplexStream) -> (u8, Vec<u8>) {
        let mut head = [0; 6];
        server.read_exact(&mut head).await.unwrap();
        assert_eq!(head[1] & 0x80, 0x80, "masked");
        let mut payload = vec![0; usize::from(head[1] & 0x7f)];
        server.read_exact(&mut payload).await.unwrap();
        payload.iter_mut().zip(head[2..].iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        (head[0], payload)
    }

    #[tokio::test]
    async fn a_server_that_pings_or_closes_never_waits_for_its_answer() {
        let (mut socket, mut server) = pair();
        server
            .write_all(&[0x02, 1, 1, 0x89, 1, 7, 0x80, 1, 2, 0x88, 4, 3, 0xe9, b'b', b'y', 0x82, 1, 3])
            .await
            .unwrap();
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, [1, 2], "what comes behind the end is none of it");
        assert_eq!(heard(&mut server).await, (0x8a, vec![7]));
        assert_eq!(heard(&mut server).await, (0x88, vec![3, 0xe9]), "the server's code");
        let error = socket.write_all(b"more").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn an_end_of_ours_is_never_without_a_word() {
        let (mut socket, mut server) = pair();
        socket.write_all(b"bye").await.unwrap();
        socket.shutdown().await.unwrap();
        socket.shutdown().await.unwrap();
        assert_eq!(heard(&mut server).await, (0x82, b"bye".to_vec()));
        assert_eq!(heard(&mut server).await, (0x88, NORMAL.to_be_bytes().to_vec()));
        // What was under way still comes, a ping of that is not answered, and nor is the answer.
        server.write_all(&[0x82, 1, 5, 0x89, 0, 0x88, 2, 3, 0xe8]).await.unwrap();
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, [5]);
        drop(socket);
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty(), "{rest:?}");
    }

    #[tokio::test]
    async fn a_server_that_is_gone_is_never_answered_in_vain() {
        let (mut socket, mut server) = pair();
        server.write_all(&[0x82, 1, 5, 0x88, 0]).await.unwrap();
        drop(server);
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, [5]);
    }

    #[test]
    fn no_answer_is_ever_taken_for_another() {
        // The example of RFC 6455 section 1.3.
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let yes = "HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Accept:  s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
                   Sec-WebSocket-Protocol: mqtt";
        check(yes, "/mqtt", key).unwrap();
        let why = |answer: &str| check(answer, "/mqtt", key).unwrap_err().to_string();
        assert!(why(&yes.replace("WebSocket\r", "h2c\r")).contains("something else"));
        assert!(why(&yes.replace(", Upgrade", "")).contains("something else"));
        assert!(why(&format!("{yes}\r\nSec-WebSocket-Extensions: permessage-deflate")).contains("an extension"));
        assert!(why(&yes.replace("s3p", "s3q")).contains("none to what it was asked"));
        assert!(why(&yes.replace("mqtt", "chat")).contains("does not offer MQTT"));
        assert!(why("HTTP/1.1 404 Not Found\r\n").contains("to GET /mqtt it answers \"404 Not Found\"; is the path"));
        assert!(why("SSH-2.0-OpenSSH_9.2").contains("does not speak HTTP"));
    }
}
