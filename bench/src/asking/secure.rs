//! What TLS adds to a question and its answer, in bytes of both directions: where the connection
//! was kept, where a session is taken up again, and where it begins.
//!
//! Both ends are rustls in memory, with the product's provider and one certificate without
//! intermediate ones; a chain of a public authority is two or three kilobytes longer. Two tickets
//! follow each handshake, as web servers send them.

use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection};

use crate::certificate::Certificate;
use crate::origin::Service;

/// Bytes beyond those of HTTP.
pub(super) struct Added {
    pub(super) kept: usize,
    pub(super) resumed: usize,
    pub(super) full: usize,
}

/// Measures all three.
pub(super) fn added(question: &[u8], answer: &[u8]) -> Result<Added> {
    let certificate = Certificate::of_the_lab()?;
    let mut tls = rustls::ServerConfig::clone(&certificate.server);
    tls.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    let (server, client) = (Arc::new(tls), Arc::new(certificate.client.as_ref().clone()));
    let name = ServerName::try_from(Service::ALL.first().context("a service")?.host().to_owned())?;
    let pair = || -> Result<Pair> {
        let client = ClientConnection::new(Arc::clone(&client), name.clone())?;
        Ok(Pair { client, server: ServerConnection::new(Arc::clone(&server))? })
    };
    let plain = question.len() + answer.len();
    let mut first = pair()?;
    let full = first.ask(question, answer)? - plain;
    let kept = first.ask(question, answer)? - plain;
    let resumed = pair()?.ask(question, answer)? - plain;
    Ok(Added { kept, resumed, full })
}

/// Both ends of a connection.
struct Pair {
    client: ClientConnection,
    server: ServerConnection,
}

impl Pair {
    /// One question and its answer, with whatever must come before; bytes that crossed.
    fn ask(&mut self, question: &[u8], answer: &[u8]) -> Result<usize> {
        let mut crossed = self.settle()?;
        std::io::Write::write_all(&mut self.client.writer(), question)?;
        crossed += self.settle()?;
        std::io::Write::write_all(&mut self.server.writer(), answer)?;
        crossed += self.settle()?;
        // What was read must not stay, or the next one does not fit.
        drain(&mut self.server.reader());
        drain(&mut self.client.reader());
        Ok(crossed)
    }

    /// Carries what both have to say.
    fn settle(&mut self) -> Result<usize> {
        let mut crossed = 0;
        while self.client.wants_write() || self.server.wants_write() {
            let mut bytes = Vec::new();
            self.client.write_tls(&mut bytes)?;
            crossed += bytes.len();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                self.server.read_tls(&mut rest)?;
                self.server.process_new_packets()?;
            }
            bytes.clear();
            self.server.write_tls(&mut bytes)?;
            crossed += bytes.len();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                self.client.read_tls(&mut rest)?;
                self.client.process_new_packets()?;
            }
        }
        Ok(crossed)
    }
}

fn drain(reader: &mut impl std::io::Read) {
    let mut piece = [0; 4096];
    while matches!(reader.read(&mut piece), Ok(1..)) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_connection_adds_two_records_and_a_resumed_one_no_certificate() {
        let found = added(&[b'q'; 200], &[b'a'; 100]).unwrap();
        // RFC 8446, 5.2: five bytes of head, one of type, sixteen of tag, in each direction.
        assert_eq!(found.kept, 2 * 22);
        assert!(found.kept < found.resumed && found.resumed < found.full, "{}", found.full);
    }
}
