//! Connections that are one of several kinds, or wrap another: what they read and write with.
//!
//! [`delegate_read`] and [`delegate_write`] take a type and, for each of its forms, the stream
//! within. Small pieces that a plain socket is given go out in one ([`gather`](crate::gather)).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

use crate::gather;

/// How a stream takes several pieces at once.
pub(crate) trait WritePieces: AsyncWrite + Unpin {
    /// Writes `pieces`, or the first of them.
    fn poll_pieces(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self).poll_write_vectored(cx, pieces)
    }
}

impl WritePieces for TcpStream {
    fn poll_pieces(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        gather::poll_write(Pin::new(self), cx, pieces)
    }
}

/// Reads from the stream within.
macro_rules! delegate_read {
    ($name:ty { $($form:pat => $stream:ident),+ $(,)? }) => {
        impl tokio::io::AsyncRead for $name {
            fn poll_read(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                buf: &mut tokio::io::ReadBuf<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                use tokio::io::AsyncRead;
                match self.get_mut() {
                    $($form => AsyncRead::poll_read(std::pin::Pin::new($stream), cx, buf),)+
                }
            }
        }
    };
}

/// Writes to the stream within.
macro_rules! delegate_write {
    ($name:ty { $($form:pat => $stream:ident),+ $(,)? }) => {
        impl tokio::io::AsyncWrite for $name {
            fn poll_write(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                buf: &[u8],
            ) -> std::task::Poll<std::io::Result<usize>> {
                use tokio::io::AsyncWrite;
                match self.get_mut() {
                    $($form => AsyncWrite::poll_write(std::pin::Pin::new($stream), cx, buf),)+
                }
            }

            fn poll_write_vectored(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                bufs: &[std::io::IoSlice<'_>],
            ) -> std::task::Poll<std::io::Result<usize>> {
                match self.get_mut() {
                    $($form => $crate::delegate::WritePieces::poll_pieces($stream, cx, bufs),)+
                }
            }

            fn is_write_vectored(&self) -> bool {
                match self {
                    $($form => tokio::io::AsyncWrite::is_write_vectored($stream),)+
                }
            }

            fn poll_flush(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                use tokio::io::AsyncWrite;
                match self.get_mut() {
                    $($form => AsyncWrite::poll_flush(std::pin::Pin::new($stream), cx),)+
                }
            }

            fn poll_shutdown(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                use tokio::io::AsyncWrite;
                match self.get_mut() {
                    $($form => AsyncWrite::poll_shutdown(std::pin::Pin::new($stream), cx),)+
                }
            }
        }
    };
}

pub(crate) use {delegate_read, delegate_write};
