//! TLS: what a client says first, so far. The one module that will know rustls.

pub mod hello;
