//! Small writes in one piece.
//!
//! An answer's head and its body are two pieces of memory. For the kernel, two pieces cost more
//! to take than a small copy does to make them one: measured on loopback, `send` of 1184 bytes
//! after a copy 8.2 µs with its `recv`, `writev` of the same two pieces 8.4 µs. In go pieces, out
//! comes one call; larger ones are left in their pieces, where the copy would cost more.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Up to here a copy is cheaper than a list of pieces; it is made on the stack.
const COPY_BYTES_MAX: usize = 4096;

/// Writes `pieces` to `stream`, in one piece if they are small.
pub(crate) fn poll_write(
    stream: Pin<&mut TcpStream>,
    cx: &mut Context<'_>,
    pieces: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if let [whole] = pieces {
        return stream.poll_write(cx, whole);
    }
    let length: usize = pieces.iter().map(|piece| piece.len()).sum();
    if length > COPY_BYTES_MAX {
        return stream.poll_write_vectored(cx, pieces);
    }
    let mut space = [MaybeUninit::uninit(); COPY_BYTES_MAX];
    let mut whole = ReadBuf::uninit(&mut space);
    for piece in pieces {
        whole.put_slice(piece);
    }
    stream.poll_write(cx, whole.filled())
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn pieces_arrive_in_order_whatever_their_size() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut theirs, _) = listener.accept().await.unwrap();
        let large = vec![7; COPY_BYTES_MAX];
        let cases: [&[&[u8]]; 5] =
            [&[], &[b"one"], &[b"head", b"", b"body"], &[&large], &[b"head", &large]];
        for pieces in cases {
            let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            let wrote = poll_fn(|cx| poll_write(Pin::new(&mut ours), cx, &slices)).await.unwrap();
            let sent = pieces.concat();
            assert_eq!(wrote, sent.len());
            let mut got = vec![0; wrote];
            theirs.read_exact(&mut got).await.unwrap();
            assert_eq!(got, sent);
        }
    }
}
