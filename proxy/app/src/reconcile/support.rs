//! A support bundle: what people need to help a store from afar, and no secret.
//!
//! Status, drift, the effective config, the tail of the audit log and the last lines of the
//! process's own log; all of it goes through `clean.rs`, because a policy, a reason or the words of
//! an error are not written by us. Packed, and bounded.

use std::io::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use self::clean::Cleaner;
use crate::admin::status;
use crate::endpoint::drift::Item;
use crate::gateway::Gateway;

mod clean;

/// Packed; a line of 1 Mbit/s has it across in two seconds.
const PACKED_BYTES_MAX: usize = 256 * 1024;

/// Records of the audit log, and their bytes.
const RECORDS: usize = 200;
const RECORDS_BYTES_MAX: usize = 64 * 1024;

/// What is known of this store, packed, in base64.
pub(super) fn bundle(gateway: &Arc<Gateway>, drift: &[Item]) -> Result<Value, String> {
    let running = gateway.running();
    let audit = gateway.endpoint.last_records(RECORDS, RECORDS_BYTES_MAX)?;
    let cleaner = Cleaner::new(&running.effective);
    let document = |lines: Vec<Value>| {
        let found = json!({
            "status": status::of(gateway),
            "drift": drift.iter().map(Item::to_json).collect::<Vec<_>>(),
            "config": running.effective.to_json(),
        });
        let mut document = cleaner.clean(found);
        let audit = String::from_utf8_lossy(&audit);
        document["audit"] = audit.lines().map(|line| cleaner.line(line)).collect();
        document["log"] = lines.into();
        document
    };
    let recent = gateway.endpoint.recent.get().map(|recent| recent.lines()).unwrap_or_default();
    let lines = recent.iter().map(|line| cleaner.line(line)).collect();
    let mut packed = pack(&document(lines))?;
    if packed.len() > PACKED_BYTES_MAX {
        packed = pack(&document(vec!["left out: too long".into()]))?;
    }
    if packed.len() > PACKED_BYTES_MAX {
        return Err(format!("it would be longer than {PACKED_BYTES_MAX} bytes"));
    }
    Ok(json!({
        "encoding": "gzip+base64",
        "sha256": tillgate_config::bundle::hex(&packed),
        "content": STANDARD.encode(&packed),
    }))
}

fn pack(document: &Value) -> Result<Vec<u8>, String> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::default());
    let packed = packer.write_all(document.to_string().as_bytes()).and_then(|()| packer.finish());
    packed.map_err(|error| error.to_string())
}
