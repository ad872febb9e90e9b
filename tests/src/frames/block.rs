//! Blocks of fields, without the coder's tables and without Huffman's code: a test can cut them
//! anywhere, and no block depends on those before it.

/// A field that the coder's tables have nothing to do with.
pub fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        bytes.push(u8::try_from(text.len()).ok().filter(|l| *l < 127).expect("a short text"));
        bytes.extend(text.as_bytes());
    }
    bytes
}

/// Fields.
pub fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

/// The pseudo-fields of a request to `api.example`.
pub fn request(method: &str, path: &str) -> Vec<u8> {
    fields(&[
        (":method", method),
        (":scheme", "http"),
        (":path", path),
        (":authority", "api.example"),
    ])
}

/// The head of a call by gRPC to `rpc.example`, with more fields.
pub fn grpc_request(path: &str, extra: &[(&str, &str)]) -> Vec<u8> {
    let head = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "rpc.example"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    [fields(&head), fields(extra)].concat()
}
