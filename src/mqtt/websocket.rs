//! WebSocket (RFC 6455), the client's side of it: MQTT's bytes in binary frames, for brokers that are reached through a web proxy or
//! a port for web traffic only (MQTT 3.1.1 section 6, MQTT 5 section 6).
//!
//! Constraints: packets and frames have nothing to do with each other; a reader sees one stream of bytes. What is written goes into
//! frames of at most [`FRAME`] bytes, masked by random numbers that nobody can foretell (section 5.3). Control frames are
//! answered here; a closing frame is the end of the stream. Nothing of a frame is believed beyond what is there.
//!
//! A frame (section 5.2):
//!
//! ```text
//! byte 0     final, three reserved bits that are 0, opcode: 0 more of the same, 1 text, 2 binary, 8 close, 9 ping, 10 pong
//! byte 1     masked, length: up to 125, or 126: two bytes with the length follow, or 127: eight
//!            the mask, if masked: four bytes
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Buf as _, BufMut as _, BytesMut};
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

const MORE: u8 = 0;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// A stream of bytes inside of another one.
pub(super) struct WebSocket<S> {
    stream: S,
    incoming: BytesMut,
    outgoing: BytesMut,
    /// Bytes of the present frame that are still to come, or to be skipped.
    left: u64,
    skip: bool,
    closed: bool,
    random: SystemRandom,
}

/// The head of a frame.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    opcode: u8,
    length: u64,
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
        let outgoing = BytesMut::new();
        Ok(WebSocket { stream, incoming, outgoing, left: 0, skip: false, closed: false, random })
    }

    /// Puts a frame into the buffer.
    fn frame(&mut self, opcode: u8, payload: &[u8]) -> io::Result<()> {
        let mut mask = [0; 4];
        self.random.fill(&mut mask).map_err(|_| io::Error::other("no random numbers"))?;
        write_frame(opcode, payload, mask, &mut self.outgoing);
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

    /// Goes on to the next frame with data. Returns false if more bytes are needed for that.
    fn advance(&mut self) -> io::Result<bool> {
        while !self.closed {
            if self.skip {
                let there = self.incoming.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.incoming.advance(there);
                self.left -= there as u64;
                if self.left > 0 {
                    return Ok(false);
                }
                self.skip = false;
            }
            if self.left > 0 {
                return Ok(!self.incoming.is_empty());
            }
            // A ping is answered with what is in it, so it has to be there as a whole.
            let whole = |head: &Head| if head.opcode == PING { head.length } else { 0 };
            let Some(head) = read_head(&mut self.incoming, whole)? else { return Ok(false) };
            match head.opcode {
                MORE | BINARY => self.left = head.length,
                CLOSE => self.closed = true,
                PING => {
                    let payload = self.incoming.split_to(usize::try_from(head.length).unwrap_or_default());
                    // More than a few of them unanswered is no conversation.
                    if self.outgoing.len() < WAITING {
                        self.frame(PONG, &payload)?;
                    }
                }
                PONG => (self.left, self.skip) = (head.length, true),
                opcode => return Err(wrong(&format!("a frame of kind {opcode}"))),
            }
        }
        Ok(false)
    }
}

/// Reads the head of a frame, if it is there, and so many bytes behind it as `whole` says.
fn read_head(buffer: &mut BytesMut, whole: impl Fn(&Head) -> u64) -> io::Result<Option<Head>> {
    let &[first, second, ref rest @ ..] = &buffer[..] else { return Ok(None) };
    let (opcode, short) = (first & 0x0f, second & 0x7f);
    if first & 0x70 != 0 || second & 0x80 != 0 {
        return Err(wrong("a frame that is masked, or of an extension"));
    }
    if opcode >= CLOSE && (short > 125 || first & 0x80 == 0) {
        return Err(wrong("a control frame that is too long, or not the last of its kind"));
    }
    let bytes = match short {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let Some((extended, rest)) = rest.split_at_checked(bytes) else { return Ok(None) };
    let length = match bytes {
        0 => u64::from(short),
        _ => extended.iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
    };
    let head = Head { opcode, length };
    if (rest.len() as u64) < whole(&head) {
        return Ok(None);
    }
    buffer.advance(2 + bytes);
    Ok(Some(head))
}

fn write_frame(opcode: u8, payload: &[u8], mask: [u8; 4], out: &mut BytesMut) {
    out.reserve(payload.len() + 8);
    out.put_u8(0x80 | opcode);
    match u16::try_from(payload.len()) {
        Ok(length @ 0..=125) => out.put_u8(0x80 | u8::try_from(length).unwrap_or_default()),
        Ok(length) => {
            out.put_u8(0x80 | 126);
            out.put_u16(length);
        }
        Err(_) => {
            out.put_u8(0x80 | 127);
            out.put_u64(payload.len() as u64);
        }
    }
    out.put_slice(&mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
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
    let accept = BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{SALT}").as_bytes()));
    if header("sec-websocket-accept") != Some(&accept) {
        return Err(wrong("its answer is none to what it was asked"));
    }
    match header("sec-websocket-protocol") {
        Some("mqtt") => Ok(()),
        _ => Err(wrong("it does not offer MQTT there")),
    }
}

fn wrong(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("no WebSocket for MQTT: {why}"))
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let has_data = this.advance()?;
            // An answer to a ping goes out with the next flush if it can't now.
            if !this.outgoing.is_empty() && this.poll_drain(cx)?.is_ready() {
                let _ = Pin::new(&mut this.stream).poll_flush(cx)?;
            }
            if has_data {
                let left = usize::try_from(this.left).unwrap_or(usize::MAX);
                let count = this.incoming.len().min(left).min(buf.remaining());
                buf.put_slice(&this.incoming.split_to(count));
                this.left -= count as u64;
                return Poll::Ready(Ok(()));
            }
            if this.closed {
                return Poll::Ready(Ok(()));
            }
            this.incoming.reserve(FRAME / 2);
            let mut reading = std::pin::pin!(this.stream.read_buf(&mut this.incoming));
            if ready!(reading.as_mut().poll(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
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

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn socket(incoming: &[u8]) -> WebSocket<tokio::io::DuplexStream> {
        WebSocket {
            stream: tokio::io::duplex(1 << 20).0,
            incoming: BytesMut::from(incoming),
            outgoing: BytesMut::new(),
            left: 0,
            skip: false,
            closed: false,
            random: SystemRandom::new(),
        }
    }

    async fn read(incoming: &[u8]) -> io::Result<(Vec<u8>, WebSocket<tokio::io::DuplexStream>)> {
        let mut socket = socket(incoming);
        let mut bytes = Vec::new();
        // The other end is gone, which is the end of what there is.
        socket.read_to_end(&mut bytes).await.map(|_| (bytes, socket))
    }

    #[tokio::test]
    async fn frames_never_show_in_the_bytes() {
        let incoming =
            [&[0x02, 2, 1, 2, 0x89, 1, 7, 0x00, 1, 3, 0x8a, 2, 9, 9, 0x80, 126, 0, 1, 4, 0x88, 0], &b"x"[..]];
        let mut socket = socket(&incoming.concat());
        let mut bytes = [0; 4];
        // What is there is read without the stream, which has ended.
        let mut at = 0;
        while at < 4 {
            assert!(socket.advance().unwrap());
            let left = usize::try_from(socket.left).unwrap();
            let there = socket.incoming.split_to(left);
            bytes[at..at + left].copy_from_slice(&there);
            (socket.left, at) = (0, at + left);
        }
        assert_eq!(bytes, [1, 2, 3, 4]);
        assert!(!socket.advance().unwrap() && socket.closed);
        assert_eq!((socket.outgoing[0], socket.outgoing[1], socket.outgoing.len()), (0x8a, 0x81, 7), "the pong");
        assert_eq!(socket.outgoing[6] ^ socket.outgoing[2], 7);
    }

    #[tokio::test]
    async fn what_is_no_binary_frame_never_gets_through() {
        for wrong in [
            &[0x81, 1, b'x'][..],
            &[0x82, 0x81, 0, 0, 0, 0, 1],
            &[0xc2, 0],
            &[0x89, 126, 0, 126],
            &[0x09, 0],
            &[0x83, 0],
        ] {
            assert!(read(wrong).await.is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn frames_never_change_their_shape() {
        let mut out = BytesMut::new();
        write_frame(BINARY, &[1, 2, 3, 4, 5], [0, 1, 0, 1], &mut out);
        assert_eq!(out[..], [0x82, 0x85, 0, 1, 0, 1, 1, 3, 3, 5, 5]);
        let mut out = BytesMut::new();
        write_frame(BINARY, &[0; 126], [0; 4], &mut out);
        assert_eq!(out[..4], [0x82, 0xfe, 0, 126]);
        let mut out = BytesMut::new();
        write_frame(BINARY, &[0; 65_536], [0; 4], &mut out);
        assert_eq!(out[..10], [0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn no_answer_is_ever_taken_for_another() {
        // The example of RFC 6455 section 1.3.
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let yes = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nSec-WebSocket-Accept:  s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
                   Sec-WebSocket-Protocol: mqtt";
        check(yes, "/mqtt", key).unwrap();
        let why = |answer: &str| check(answer, "/mqtt", key).unwrap_err().to_string();
        assert!(why(&yes.replace("s3p", "s3q")).contains("none to what it was asked"));
        assert!(why(&yes.replace("mqtt", "chat")).contains("does not offer MQTT"));
        assert!(why("HTTP/1.1 404 Not Found\r\n").contains("to GET /mqtt it answers \"404 Not Found\"; is the path"));
        assert!(why("SSH-2.0-OpenSSH_9.2").contains("does not speak HTTP"));
    }

    proptest! {
        #[test]
        fn no_bytes_ever_end_in_a_panic(incoming in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut socket = socket(&incoming);
            while let Ok(true) = socket.advance() {
                let count = socket.incoming.len().min(usize::try_from(socket.left).unwrap_or(usize::MAX));
                socket.incoming.advance(count);
                socket.left -= count as u64;
            }
        }
    }
}
