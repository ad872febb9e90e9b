//! HTTP/2 frames that cost a client nothing and us something, counted on their way to hyper.
//!
//! One pass over frame heads alone, a few nanoseconds each; no clock is read and nothing kept of
//! what they carry. h2 itself bounds header blocks (CONTINUATION), small DATA frames that wait for
//! their reader, and streams that are reset before they were taken; what it leaves open is bounded
//! here: resets of streams that were taken (CVE-2023-44487), and frames that move nothing (PING,
//! SETTINGS, PRIORITY, WINDOW_UPDATE, empty DATA, unknown types). The latter have a credit that
//! grows with what is written to the client: who reads much may say much.

use std::time::Instant;

use tillgate_core::listener::RESET_WINDOW;

use crate::clock;

/// What an HTTP/2 client sends before its first frame.
const PREFACE_BYTES: u64 = 24;

const HEAD_BYTES: usize = 9;

/// Frames that move nothing, in [`RESET_WINDOW`], beyond what was written: thirty a second is many
/// times what a client has to say that receives nothing, and a window and a priority for each of a
/// hundred streams at once still pass. Each costs a quarter of a microsecond, and all that have
/// come are handled in one go: what a hundred clients that flood cost a payment beside them grows
/// with this.
const IDLE_FRAMES_MAX: u64 = 300;

/// Bytes written that allow for one more: each DATA frame may be answered by two WINDOW_UPDATE and
/// a PING (gRPC measures its line so), and even an empty message is 14 bytes.
const BYTES_PER_FRAME: u64 = 5;

/// What we write in answer to PING and to SETTINGS, which must not pay for the next ones.
const PING_ANSWER_BYTES: u64 = 17;
const SETTINGS_ANSWER_BYTES: u64 = 9;

/// More CONTINUATION frames than any head may have (h2: a quarter more than its bound has whole
/// frames, at least 5; heads are bounded by 1 MiB and 64 KiB, frames have 16 KiB).
const CALM_FRAMES: usize = 128;

/// Makes h2 say GOAWAY with ENHANCE_YOUR_CALM and close, which hyper cannot be asked to do: a
/// header block that goes on and on.
const CALM: [u8; HEAD_BYTES * CALM_FRAMES] = {
    let mut bytes = [0; HEAD_BYTES * CALM_FRAMES];
    let mut frame = 0;
    while frame < CALM_FRAMES {
        bytes[frame * HEAD_BYTES + 3] = if frame == 0 { HEADERS } else { CONTINUATION };
        bytes[frame * HEAD_BYTES + 8] = 1;
        frame += 1;
    }
    bytes
};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;

/// The same bit is END_STREAM of DATA and ACK of SETTINGS and PING.
const FLAG_LAST: u8 = 1;

/// What a client floods us with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flood {
    /// Streams that it opens and resets.
    Resets,
    /// Frames that move nothing.
    Frames,
}

/// Follows the frames of one client connection.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes until the next head.
    skip: u64,
    /// The first part of a head that came in two.
    head: [u8; HEAD_BYTES],
    have: usize,
    since: Instant,
    resets: u32,
    resets_max: u32,
    idle: u64,
    written: u64,
    flood: Option<Flood>,
    /// How much of [`CALM`] hyper has been given.
    calmed: usize,
}

impl Frames {
    /// At the very beginning of a connection that may reset this many streams in a
    /// [`RESET_WINDOW`].
    pub(super) fn new(resets_max: u32, now: Instant) -> Self {
        Self {
            skip: PREFACE_BYTES,
            head: [0; HEAD_BYTES],
            have: 0,
            since: now,
            resets: 0,
            resets_max,
            idle: 0,
            written: 0,
            flood: None,
            calmed: 0,
        }
    }

    /// So much was written to the client.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.written = self.written.saturating_add(bytes as u64);
    }

    /// Looks at what has come. `Some` = a flood: hyper may have this much of it, which ends with
    /// a whole frame, and then [`Self::calm`].
    pub(super) fn see(&mut self, bytes: &[u8]) -> Option<(usize, Flood)> {
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            let skipped = self.skip.min(rest.len() as u64);
            self.skip -= skipped;
            at += usize::try_from(skipped).unwrap_or(rest.len());
            if self.skip > 0 {
                return None;
            }
            if self.have == 0
                && let Some(flood) = self.flood
            {
                return Some((at, flood));
            }
            let rest = &bytes[at..];
            if self.have == 0
                && let Some(head) = rest.first_chunk()
            {
                at += HEAD_BYTES;
                self.count(*head);
                continue;
            }
            let part = rest.len().min(HEAD_BYTES - self.have);
            self.head[self.have..self.have + part].copy_from_slice(&rest[..part]);
            self.have += part;
            at += part;
            if self.have < HEAD_BYTES {
                return None;
            }
            self.have = 0;
            self.count(self.head);
        }
    }

    fn count(&mut self, head: [u8; HEAD_BYTES]) {
        let [a, b, c, kind, flags, ..] = head;
        self.skip = u64::from(u32::from_be_bytes([0, a, b, c]));
        match kind {
            HEADERS => return,
            DATA if self.skip > 0 || flags & FLAG_LAST != 0 => return,
            RST_STREAM => {
                self.resets += 1;
                if self.resets <= self.resets_max {
                    return;
                }
            }
            _ => {
                let answer = match kind {
                    PING if flags & FLAG_LAST == 0 => PING_ANSWER_BYTES,
                    SETTINGS if flags & FLAG_LAST == 0 => SETTINGS_ANSWER_BYTES,
                    _ => 0,
                };
                self.written = self.written.saturating_sub(answer);
                self.idle += 1;
                if self.idle <= IDLE_FRAMES_MAX + self.written / BYTES_PER_FRAME {
                    return;
                }
            }
        }
        self.judge(clock::now());
    }

    /// Something is used up; if that took long enough, counting begins anew.
    fn judge(&mut self, now: Instant) {
        if now.saturating_duration_since(self.since) >= RESET_WINDOW {
            (self.since, self.resets, self.idle, self.written) = (now, 0, 0, 0);
        } else if self.resets > self.resets_max {
            self.flood = Some(Flood::Resets);
        } else {
            self.flood = Some(Flood::Frames);
        }
    }

    /// Whether hyper is to be given the rest of [`CALM`] and nothing else.
    pub(super) const fn is_flooded(&self) -> bool {
        self.calmed > 0
    }

    /// The next of what ends the connection; empty once all was given.
    pub(super) fn calm(&mut self, room: usize) -> &'static [u8] {
        let rest = CALM.len() - self.calmed.min(CALM.len());
        let from = CALM.len() - rest;
        let bytes = rest.min(room);
        self.calmed += bytes;
        CALM.get(from..from + bytes).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let mut bytes = u32::try_from(length).unwrap().to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags, 0, 0, 0, 1]);
        bytes.resize(HEAD_BYTES + length, 0x41);
        bytes
    }

    fn begun(resets_max: u32) -> Frames {
        let mut frames = Frames::new(resets_max, clock::now());
        assert_eq!(frames.see(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), None);
        frames
    }

    #[test]
    fn resets_are_counted_wherever_the_pieces_begin() {
        let whole: Vec<u8> = [frame(HEADERS, 5, 30), frame(RST_STREAM, 0, 4)].concat().repeat(4);
        let last = whole.len();
        for piece in 1..whole.len() {
            let mut frames = begun(3);
            let mut seen = 0;
            let mut cut = None;
            for part in whole.chunks(piece) {
                cut = frames.see(part).map(|(at, flood)| (seen + at, flood));
                seen += part.len();
                if cut.is_some() {
                    break;
                }
            }
            assert_eq!(cut, Some((last, Flood::Resets)), "in pieces of {piece}");
            let mut frames = begun(4);
            assert!(whole.chunks(piece).all(|part| frames.see(part).is_none()));
        }
    }

    #[test]
    fn what_moves_nothing_is_bounded_and_what_moves_something_is_not() {
        let moving = [frame(HEADERS, 4, 20), frame(DATA, 0, 1), frame(DATA, 1, 0)].concat();
        let mut frames = begun(0);
        assert!((0..10_000).all(|_| frames.see(&moving).is_none()));
        for kind in [DATA, 2, SETTINGS, PING, 7, 8, CONTINUATION, 200] {
            let mut frames = begun(0);
            let idle = frame(kind, 0, if kind == DATA { 0 } else { 8 });
            let passed = (0..5_000).take_while(|_| frames.see(&idle).is_none()).count();
            assert_eq!(passed, 300, "type {kind}");
        }
    }

    #[test]
    fn who_reads_much_may_say_much_but_pings_do_not_pay_for_pings() {
        let (window_update, ping) = (frame(8, 0, 4), frame(PING, 0, 8));
        let mut frames = begun(0);
        for _ in 0..20_000 {
            frames.wrote(15);
            assert_eq!(frames.see(&[window_update.clone(), window_update.clone()].concat()), None);
        }
        let mut frames = begun(0);
        let passed = (0..5_000).take_while(|_| {
            frames.wrote(17);
            frames.see(&ping).is_none()
        });
        assert!(passed.count() <= 310);
    }

    #[test]
    fn counting_begins_anew() {
        let mut frames = begun(2);
        let reset = frame(RST_STREAM, 0, 4);
        assert_eq!(frames.see(&reset.repeat(2)), None);
        frames.since -= RESET_WINDOW;
        assert_eq!(frames.see(&reset.repeat(3)), None, "the third begins a window");
        assert_eq!(frames.see(&reset), Some((reset.len(), Flood::Resets)));
    }

    #[test]
    fn the_last_word_is_given_in_pieces() {
        let mut frames = begun(0);
        assert!(!frames.is_flooded());
        let mut word = Vec::new();
        loop {
            let piece = frames.calm(100);
            if piece.is_empty() {
                break;
            }
            word.extend_from_slice(piece);
        }
        assert!(frames.is_flooded());
        assert_eq!(word, CALM);
        assert_eq!(
            word[..18],
            [0, 0, 0, HEADERS, 0, 0, 0, 0, 1, 0, 0, 0, CONTINUATION, 0, 0, 0, 0, 1]
        );
    }
}
